"""Runs and versions in MLflow: written once however often a task is tried, and faults that may pass told from those that do not."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from onnx import TensorProto, helper

from contracts.artifacts import BundleRef, TableRef
from contracts.errors import TransientError
from contracts.sections.evaluation import RegistryConfig
from tasks.registry import (
    CHAMPION,
    ChildRun,
    bundle_of_version,
    connect,
    local_tracking_uri,
    log_child,
    log_data_sets,
    log_encoder,
    log_training_weights,
    registry_faults,
    set_version_tags,
    start_parent,
    training_weights,
    version_at,
)

EXPERIMENT = RegistryConfig().experiment


@pytest.fixture
def parent(client: MlflowClient, request: pytest.FixtureRequest) -> str:
    return start_parent(client, EXPERIMENT, name="a-run", tags={"prefect.flow_run_id": request.node.name, "git_sha": "abc"})


def test_without_an_address_the_store_lies_below_the_storage_root(client: MlflowClient, registry_root: str):
    assert local_tracking_uri(registry_root) == f"sqlite:///{Path(registry_root).resolve()}/mlflow/mlflow.sqlite"
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment.artifact_location == (Path(registry_root).resolve() / "mlflow" / "artifacts").as_uri()
    connect(RegistryConfig(), registry_root)
    assert len([one for one in client.search_experiments() if one.name == EXPERIMENT]) == 1


def test_a_flow_run_has_one_run_however_often_it_asks(client: MlflowClient, parent: str, request: pytest.FixtureRequest):
    assert start_parent(client, EXPERIMENT, name="b", tags={"prefect.flow_run_id": request.node.name}) == parent
    assert start_parent(client, EXPERIMENT, name="b", tags={"prefect.flow_run_id": "another"}) != parent
    assert client.get_run(parent).data.tags["git_sha"] == "abc"


def test_child_keeps_figures_curves_and_files_and_is_not_made_twice(client: MlflowClient, parent: str, tmp_path: Path):
    docs = tmp_path / "data_docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "deep" / "page.html").write_text("x", encoding="utf-8")
    (tmp_path / "evaluation.json").write_text("{}", encoding="utf-8")
    child = ChildRun(
        "evaluation",
        params={"seed": "7", "long": "x" * 9000},
        metrics={"ndcg_at_10": 0.25},
        curves={"loss": [3.0, 2.0, 1.0]},
        tags={"digest": "d1"},
        artifacts=[docs, tmp_path / "evaluation.json"],
    )
    run_id = log_child(client, parent, child)
    assert log_child(client, parent, child) == run_id
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["digest"] == "d1"
    assert run.data.params["seed"] == "7"
    assert run.data.metrics["ndcg_at_10"] == 0.25
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert {artifact.path for artifact in client.list_artifacts(run_id)} == {"data_docs", "evaluation.json"}
    assert [artifact.path for artifact in client.list_artifacts(run_id, "data_docs/deep")] == ["data_docs/deep/page.html"]


def test_long_curves_are_written_whole(client: MlflowClient, parent: str):
    run_id = log_child(client, parent, ChildRun("pre-training", curves={"loss": [float(step) for step in range(1000)]}))
    assert [point.value for point in client.get_metric_history(run_id, "loss")] == list(range(1000))


def test_child_that_was_cut_off_is_finished_not_doubled(client: MlflowClient, parent: str):
    experiment = client.get_run(parent).info.experiment_id
    cut = client.create_run(experiment, run_name="forecast", tags={"mlflow.parentRunId": parent}).info.run_id
    assert log_child(client, parent, ChildRun("forecast", metrics={"mase": 0.5})) == cut
    assert client.get_run(cut).info.status == "FINISHED"


def test_data_sets_are_inputs_with_name_and_digest(client: MlflowClient, parent: str, tmp_path: Path):
    log_data_sets(client, parent, [TableRef(name="demand", path=str(tmp_path / "demand.parquet"), rows=3, columns=("a",), digest="d1")])
    (used,) = client.get_run(parent).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("demand", "d1")
    assert (tmp_path / "demand.parquet").as_uri() in used.dataset.source


def test_alias_that_nobody_set_points_at_nothing(client: MlflowClient):
    client.create_registered_model("aliases")
    assert version_at(client, "aliases", CHAMPION) is None
    assert version_at(client, "no-such-model", CHAMPION) is None
    made = client.create_model_version("aliases", "file:///nowhere")
    client.set_registered_model_alias("aliases", CHAMPION, made.version)
    set_version_tags(client, "aliases", made.version, {"cutoff": "2024-01-01", "n": 3})
    found = version_at(client, "aliases", CHAMPION)
    assert found is not None
    assert (str(found.version), found.tags) == ("1", {"cutoff": "2024-01-01", "n": "3"})


def encoder(folder: Path) -> None:
    inputs = [
        helper.make_tensor_value_info("items", TensorProto.INT64, ["batch", "steps"]),
        helper.make_tensor_value_info("lead_days", TensorProto.FLOAT, ["batch"]),
    ]
    nodes = [
        helper.make_node("Cast", ["items"], ["events"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["events"], ["sum"], keepdims=1),
        helper.make_node("Add", ["sum", "lead_days"], ["query"]),
    ]
    graph = helper.make_graph(nodes, "encoder", inputs, [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["batch", 1])])
    (folder / "networks").mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "networks" / "encoder.onnx")


def test_encoder_is_a_version_with_signature_and_example_and_is_registered_once(client: MlflowClient, parent: str, tmp_path: Path):
    import mlflow

    encoder(tmp_path)
    bundle = BundleRef(path=str(tmp_path), cutoff="2024-01-01", digest="d1")
    number = log_encoder(client, "enc", parent, bundle, description="what it is", tags={"git_sha": "abc"})
    assert log_encoder(client, "enc", parent, bundle, description="of a later run", tags={"git_sha": "def"}) == number
    version = client.get_model_version("enc", str(number))
    assert (version.description, version.tags) == ("what it is", {"git_sha": "abc", "bundle_digest": "d1", "cutoff": "2024-01-01"})
    model = mlflow.pyfunc.load_model(f"models:/enc/{number}")
    signature = model.metadata.signature
    assert [(given.name, given.type, given.shape) for given in signature.inputs] == [
        ("items", np.dtype("int64"), (-1, -1)),
        ("lead_days", np.dtype("float32"), (-1,)),
    ]
    assert signature.outputs.inputs[0].shape == (-1, 1)
    assert model.predict(model.input_example)["query"].tolist() == [[4.0]]


def test_recommender_without_encoder_registers_none(client: MlflowClient, tmp_path: Path):
    assert log_encoder(client, "none", "r", BundleRef(path=str(tmp_path), cutoff="2024-01-01", digest="d"), description="", tags={}) is None


def rest_error(status: int) -> RestException:
    error = RestException({"error_code": "INTERNAL_ERROR", "message": "broken"})
    error.get_http_status_code = lambda: status
    return error


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        requests.Timeout("late"),
        rest_error(503),
        MlflowException("API request to x failed: Max retries exceeded"),
        MlflowException("(sqlite3.OperationalError) database is locked"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_fault_that_may_pass_is_transient(error: Exception):
    with pytest.raises(TransientError, match="tried again"), registry_faults():
        raise error


@pytest.mark.parametrize(
    "error", [rest_error(404), MlflowException("no such version"), ValueError("ours"), KeyError("x")], ids=lambda error: type(error).__name__
)
def test_other_faults_stay_what_they_are(error: Exception):
    with pytest.raises(type(error)), registry_faults():
        raise error


def test_champion_measured_again_stays(client: MlflowClient, store, monkeypatch: pytest.MonkeyPatch):
    """Only the evaluation's settings changed: the new version holds the champion's own model, so no alias moves and nothing fails."""
    from contracts.artifacts import EvaluationRef, PromotionOutcome, RegisteredVersion
    from tasks import promote as step

    client.create_registered_model("again")
    for tags in ({"bundle_digest": "same", "evaluation_digest": "e1"}, {"bundle_digest": "same", "evaluation_digest": "e2"}):
        client.create_model_version("again", "file:///nowhere", tags=tags)
    client.set_registered_model_alias("again", CHAMPION, "1")
    monkeypatch.setattr(step, "connect", lambda *_: client)
    monkeypatch.setattr(step, "get_run_logger", lambda: SimpleNamespace(info=lambda *_: None))
    monkeypatch.setattr(step, "create_markdown_artifact", lambda *_, **__: None)
    table = TableRef(name="rankings", path="p", rows=0, columns=(), digest="d")
    outcome = step.promote.fn(
        RegisteredVersion(name="again", version="2", run_id="r", evaluation_digest="e2", golden_requests="g"),
        PromotionOutcome(challenger=True, promoted=False, reasons=("gates passed",)),
        EvaluationRef(path="p", digest="e2", rankings=table, champion_version=None),
        RegistryConfig(model_name="again", auto_promote=True),
        store,
    )
    assert (outcome.promoted, outcome.champion_version) == (True, "1")
    assert outcome.reasons[-1] == "version 1 is the champion already: version 2 is the same model, measured again"
    assert str(client.get_model_version_by_alias("again", CHAMPION).version) == "1"


def test_flow_that_fetches_a_model_keeps_mlflows_own_patience(client: MlflowClient, registry_root: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MlflowException):
        bundle_of_version(RegistryConfig(model_name="unheard-of"), registry_root, "1")
    assert [name for name in os.environ if name.startswith("MLFLOW_HTTP_REQUEST")] == []


def test_weights_of_a_training_are_kept_with_its_run_and_found_by_version(client: MlflowClient, parent: str, tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    client.create_registered_model("trained")
    number = str(client.create_model_version("trained", "s3://nowhere/made", tags={"run_id": parent}).version)
    assert training_weights(client, "trained", number, tmp_path / "fetched") is None
    log_training_weights(client, parent, tmp_path / "weights.safetensors")
    found = training_weights(client, "trained", number, tmp_path / "fetched")
    assert found is not None
    assert found.read_bytes() == b"weights"
