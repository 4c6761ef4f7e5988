"""MLflow's server killed under a run, three times: the steps that need it are tried again, and the registry holds every thing once and whole."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from contracts.config import PipelineConfig
from flows import partial_runs, seasonal_training
from tasks.audit import audit_trail
from tasks.store import audit_address, store_of
from tests.flows.micro import MICRO
from tests.flows.mlflow_server import MlflowServer

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]

SECONDS_TO_HAPPEN = 120.0


class Saboteur(threading.Thread):
    """Kills the server when something has come to pass, and starts it again when a step waits for its next try; each pair once, in order."""

    def __init__(self, server: MlflowServer, plan: list[tuple[Callable[[], bool], str]]) -> None:
        super().__init__(daemon=True)
        self.server, self.plan = server, plan
        self.done: list[str] = []

    def run(self) -> None:
        for happened, step in self.plan:
            before = waiting(step)
            if not passes(happened):
                return
            self.server.kill()
            if not passes(lambda step=step, before=before: waiting(step) > before, every=0.5):
                return
            self.server.start()
            self.done.append(step)


def passes(happened: Callable[[], bool], *, every: float = 0.05) -> bool:
    deadline = time.monotonic() + SECONDS_TO_HAPPEN
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def waiting(step: str) -> int:
    """How often runs of this step have been put off for another try, as Prefect's server knows it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName

    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(task_run_filter=TaskRunFilter(name=TaskRunFilterName(like_=f"{step}-")))
        return sum(state.name == "AwaitingRetry" for run in runs for state in client.read_task_run_states(run.id))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    found = MlflowServer.over(tmp_path_factory.mktemp("server"))
    yield found
    found.kill()
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.fixture(scope="module")
def config(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    values = {**MICRO, "storage_root": str(tmp_path_factory.mktemp("stores")), "registry": {**MICRO["registry"], "tracking_uri": server.uri}}
    return PipelineConfig.model_validate(values)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another faster than in production."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    for module, step in ((seasonal_training, "find_champion"), (seasonal_training, "register"), (partial_runs, "evaluate_registered")):
        monkeypatch.setattr(getattr(module, step), "retry_delay_seconds", [6, 6, 6])


def versions(server: MlflowServer, config: PipelineConfig) -> list[str]:
    client = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    return [str(found.version) for found in client.search_model_versions(f"name = '{config.registry.model_name}'")]


def test_server_killed_during_training_and_in_the_middle_of_registering(server: MlflowServer, config: PipelineConfig, soon: None) -> None:
    steps = Path(store_of(config).root) / "steps"
    saboteur = Saboteur(
        server,
        [
            (lambda: any((steps / "fine_tune").glob("*/job.json")), "find_champion"),
            (lambda: bool(versions(server, config)), "register"),
        ],
    )
    saboteur.start()
    outcome = seasonal_training.seasonal_training(config)
    saboteur.join(10)
    assert saboteur.done == ["find_champion", "register"]

    client = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    name = config.registry.model_name
    assert outcome.version is not None
    found = {str(one.version): one for one in client.search_model_versions(f"name = '{name}'")}
    assert sorted(one.tags.get("kind", "unfinished") for one in found.values()) == ["measured", "refitted on all data"]
    assert {outcome.version.version, outcome.version.evaluated_version} == set(found)
    assert all(one.tags["bundle_digest"] and one.description and one.status == "READY" for one in found.values())
    experiment = client.get_experiment_by_name(config.registry.experiment).experiment_id
    runs = client.search_runs([experiment])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags] == [outcome.version.run_id]
    names = [run.info.run_name for run in runs]
    assert len(names) == len(set(names))
    assert str(client.get_model_version_by_alias(name, "challenger").version) == outcome.version.version
    trail = audit_trail(audit_address(store_of(config)), name)
    assert list(trail.select("version", "decision").iter_rows()) == [(outcome.version.version, "challenger")]


def test_server_killed_before_an_evaluation_is_waited_for(server: MlflowServer, config: PipelineConfig, soon: None) -> None:
    if not versions(server, config):
        seasonal_training.seasonal_training(config)
    (measured,) = [
        str(one.version)
        for one in MlflowClient(tracking_uri=server.uri, registry_uri=server.uri).search_model_versions(f"name = '{config.registry.model_name}'")
        if one.tags["kind"] == "measured"
    ]
    saboteur = Saboteur(server, [(lambda: True, "evaluate")])
    saboteur.start()
    evaluation = partial_runs.evaluate_version(config, measured)
    saboteur.join(10)
    assert saboteur.done == ["evaluate"]
    assert Path(evaluation.path).exists()
    assert len(versions(server, config)) == 2
