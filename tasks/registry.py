"""The one place of the tasks that speaks to MLflow: runs, registered versions, aliases.

Connection faults become TransientError, so that the task around a call is tried again; everything else is an error of ours.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import requests
from mlflow import MlflowClient
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from sqlalchemy.exc import OperationalError

from contracts.artifacts import BundleRef, ForecastTables, TableRef
from contracts.errors import TransientError
from contracts.sections.evaluation import RegistryConfig
from serving.registered_model import BUNDLE, CODE_PATHS, INPUT_EXAMPLE, PIP_REQUIREMENTS, PYFUNC_FILE
from serving.registry import ModelRegistry

CHAMPION, CHALLENGER, PREVIOUS_CHAMPION = "champion", "challenger", "previous_champion"
MAX_BATCH = 900
TRAINING = "training"
FORECAST_FILE = PYFUNC_FILE.replace("pyfunc_model.py", "forecast_model.py")


@dataclass(frozen=True)
class ChildRun:
    """One step's run below the parent: what MLflow shows of it. `curves` are metrics per epoch, oldest first."""

    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Sequence[Path] = ()


@contextmanager
def registry_faults() -> Iterator[None]:
    """Turn faults that may pass by themselves (no connection, server error, locked database) into TransientError."""
    try:
        yield
    except (requests.ConnectionError, requests.Timeout, OperationalError) as error:
        raise TransientError(f"MLflow does not answer: {error}. It is tried again; check the server if this repeats.") from error
    except RestException as error:
        if error.get_http_status_code() >= 500:
            raise TransientError(f"MLflow failed: {error}. It is tried again.") from error
        raise
    except MlflowException as error:
        if "Max retries exceeded" in str(error) or "API request" in str(error) or "database is locked" in str(error):
            raise TransientError(f"MLflow does not answer: {error}. It is tried again; check the server if this repeats.") from error
        raise


def connect(registry: RegistryConfig, storage_root: str) -> MlflowClient:
    """Client of the configured registry; without an address, a SQLite store below the storage root. Pickle stays off."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    uri = registry.tracking_uri or local_tracking_uri(storage_root)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    with registry_faults():
        client = MlflowClient()
        if client.get_experiment_by_name(registry.experiment) is None:
            location = None if registry.tracking_uri else (mlflow_folder(storage_root) / "artifacts").as_uri()
            try:
                client.create_experiment(registry.experiment, artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run made it in between
                    raise
    return client


def mlflow_folder(storage_root: str) -> Path:
    """Folder of the local MLflow store."""
    folder = Path(storage_root).resolve() / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def local_tracking_uri(storage_root: str) -> str:
    """Address of the local SQLite store."""
    return f"sqlite:///{mlflow_folder(storage_root) / 'mlflow.sqlite'}"


def start_parent(client: MlflowClient, experiment: str, *, name: str, tags: Mapping[str, str], identity: str = "prefect.flow_run_id") -> str:
    """Create the run of this flow run and return its id; who comes with the same tag `identity`, the same Prefect flow run, gets the same MLflow run again."""
    with registry_faults():
        experiment_id = client.get_experiment_by_name(experiment).experiment_id
        if tags.get(identity):
            found = client.search_runs([experiment_id], filter_string=f"tags.`{identity}` = '{tags[identity]}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
        return str(client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id)


def log_to_run(client: MlflowClient, run_id: str, child: ChildRun) -> None:
    """Write parameters, metrics, curves, tags and files to a run."""
    points = [Metric(name, value, 0, 0) for name, value in child.metrics.items()]
    points += [Metric(name, value, step, step) for name, curve in child.curves.items() for step, value in enumerate(curve)]
    with registry_faults():
        for start in range(0, max(len(points), 1), MAX_BATCH):
            client.log_batch(
                run_id,
                metrics=points[start : start + MAX_BATCH],
                params=[Param(key, str(value)[:6000]) for key, value in child.params.items()] if start == 0 else [],
                tags=[RunTag(key, str(value)) for key, value in child.tags.items()] if start == 0 else [],
            )
        for artifact in child.artifacts:
            if artifact.is_dir():
                client.log_artifacts(run_id, str(artifact), artifact_path=artifact.name)
            else:
                client.log_artifact(run_id, str(artifact))


def log_child(client: MlflowClient, parent_id: str, child: ChildRun) -> str:
    """Create a finished child run; a child of the same name is not made twice."""
    with registry_faults():
        experiment_id = client.get_run(parent_id).info.experiment_id
        found = client.search_runs(
            [experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent_id}' and tags.`mlflow.runName` = '{child.name}'", max_results=1
        )
        if found and found[0].info.status == "FINISHED":
            return str(found[0].info.run_id)
        run_id = found[0].info.run_id if found else client.create_run(experiment_id, run_name=child.name, tags={"mlflow.parentRunId": parent_id}).info.run_id
    log_to_run(client, run_id, child)
    with registry_faults():
        client.set_terminated(run_id)
    return str(run_id)


def child_of(client: MlflowClient, parent_id: str, name: str) -> str | None:
    """Id of the parent's child run of this name, if there is one."""
    with registry_faults():
        experiment_id = client.get_run(parent_id).info.experiment_id
        query = f"tags.`mlflow.parentRunId` = '{parent_id}' and tags.`mlflow.runName` = '{name}'"
        found = client.search_runs([experiment_id], filter_string=query, max_results=1)
    return str(found[0].info.run_id) if found else None


def log_data_sets(client: MlflowClient, run_id: str, tables: Sequence[TableRef]) -> None:
    """Tie stored tables, by name and digest, to a run as its inputs."""
    from mlflow.entities import DatasetInput

    with registry_faults():
        inputs = []
        for table in tables:
            source = HTTPDatasetSource(url=Path(table.path).resolve().as_uri())
            inputs.append(DatasetInput(MetaDataset(source, name=table.name, digest=table.digest)._to_mlflow_entity(), []))
        client.log_inputs(run_id, inputs)


@contextmanager
def active_run(run_id: str) -> Iterator[None]:
    """Make a run the active one for MLflow's fluent calls, and close it again."""
    with registry_faults(), mlflow.start_run(run_id=run_id):
        yield


def set_version_tags(client: MlflowClient, name: str, version: str, tags: Mapping[str, Any]) -> None:
    """Write tags to a registered version."""
    with registry_faults():
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, str(value))


def log_recommender(
    client: MlflowClient, name: str, run_id: str, bundle: BundleRef, *, kind: str, description: str, tags: Mapping[str, str], extra: Sequence[Path] = ()
) -> str:
    """Register a bundle as a version of the recommender and return its number; a bundle that is registered already is not registered again."""
    found = _version_of(client, name, bundle.digest, tags["evaluation_digest"])
    if found is not None:
        return found
    _remove_unfinished(client, name, run_id)
    with active_run(run_id):
        logged = mlflow.pyfunc.log_model(
            name=f"recommender-{kind.split(maxsplit=1)[0]}",
            python_model=PYFUNC_FILE,
            artifacts={BUNDLE: bundle.path},
            code_paths=CODE_PATHS,
            input_example=[{**INPUT_EXAMPLE[0], "date": bundle.cutoff}],
            pip_requirements=PIP_REQUIREMENTS,
            registered_model_name=name,
        )
        for path in extra:
            client.log_artifact(run_id, str(path))
    number = str(logged.registered_model_version)
    _describe(client, name, number, description, {**tags, "kind": kind, "cutoff": bundle.cutoff, "bundle_digest": bundle.digest})
    return number


def log_encoder(client: MlflowClient, name: str, run_id: str, bundle: BundleRef, *, description: str, tags: Mapping[str, str]) -> str | None:
    """Register the exported encoder (ONNX) of a bundle; None where the recommender has none."""
    path = Path(bundle.path) / "networks" / "encoder.onnx"
    if not path.exists():
        return None
    found = _version_of(client, name, bundle.digest)
    if found is not None:
        return found
    import onnx

    network = onnx.load(str(path))
    with active_run(run_id):
        logged = mlflow.onnx.log_model(
            network,
            name="encoder",
            signature=_signature(network),
            onnx_execution_providers=["CPUExecutionProvider"],
            input_example={given.name: np.ones((1, 3)[: _rank(given)], dtype=_kind(given)) for given in network.graph.input},
            pip_requirements=[f"onnxruntime=={version('onnxruntime')}"],
            registered_model_name=name,
        )
    number = str(logged.registered_model_version)
    _describe(client, name, number, description, {**tags, "cutoff": bundle.cutoff, "bundle_digest": bundle.digest})
    return number


def _signature(network: Any) -> ModelSignature:
    """Names, types and shapes of an ONNX graph's inputs and outputs; -1 for a size that is free."""

    def schema(values: Any) -> Schema:
        return Schema([TensorSpec(_kind(value), tuple(size.dim_value or -1 for size in value.type.tensor_type.shape.dim), value.name) for value in values])

    return ModelSignature(schema(network.graph.input), schema(network.graph.output))


def _kind(value: Any) -> np.dtype:
    from onnx.helper import tensor_dtype_to_np_dtype

    return tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def _rank(value: Any) -> int:
    return len(value.type.tensor_type.shape.dim)


def log_forecaster(client: MlflowClient, name: str, run_id: str, forecasts: ForecastTables, *, description: str, tags: Mapping[str, str]) -> str:
    """Register the newest forecasts as a model that answers level, id and dates."""
    found = _version_of(client, name, forecasts.forecasts.digest)
    if found is not None:
        return found
    with active_run(run_id):
        logged = mlflow.pyfunc.log_model(
            name="forecaster",
            python_model=FORECAST_FILE,
            artifacts={"forecasts": forecasts.forecasts.path},
            code_paths=CODE_PATHS,
            input_example=[{"level": "total", "id": "total"}],
            pip_requirements=[f"{package}=={version(package)}" for package in ("mlflow", "polars", "pydantic")],
            registered_model_name=name,
        )
    number = str(logged.registered_model_version)
    _describe(client, name, number, description, {**tags, "bundle_digest": forecasts.forecasts.digest})
    return number


def _describe(client: MlflowClient, name: str, number: str, description: str, tags: Mapping[str, Any]) -> None:
    """Complete a new version. `bundle_digest` comes last: a version that carries it is complete and is not touched again."""
    with registry_faults():
        client.update_model_version(name, number, description=description)
    set_version_tags(client, name, number, tags)


def _remove_unfinished(client: MlflowClient, name: str, run_id: str) -> None:
    """Remove what an interrupted try of this run left: versions without their last tag, of which nobody can tell what they are."""
    with registry_faults():
        for found in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
            if "bundle_digest" not in found.tags:
                client.delete_model_version(name, found.version)


def _version_of(client: MlflowClient, name: str, digest: str, evaluation_digest: str | None = None) -> str | None:
    """Number of the version that holds this content (and carries this evaluation), if there is one."""
    with registry_faults():
        for found in client.search_model_versions(f"name = '{name}'"):
            tags = found.tags
            if tags.get("bundle_digest") == digest and evaluation_digest in (None, tags.get("evaluation_digest")):
                return str(found.version)
    return None


def version_at(client: MlflowClient, name: str, alias: str) -> Any | None:
    """The version an alias points at, or None."""
    with registry_faults():
        try:
            return client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
                return None
            raise


def run_of_version(client: MlflowClient, name: str, number: str) -> str:
    """Id of the run that made a version."""
    with registry_faults():
        return str(client.get_model_version(name, number).tags["run_id"])


def log_training_weights(client: MlflowClient, run_id: str, weights: Path) -> None:
    """Keep with a run what a later training goes on from."""
    with registry_faults():
        client.log_artifact(run_id, str(weights), artifact_path=TRAINING)


def training_weights(client: MlflowClient, name: str, number: str, folder: Path) -> Path | None:
    """What a version's training left for a later one, fetched to `folder`; None where its run has none."""
    run_id = run_of_version(client, name, number)
    with registry_faults():
        found = [file.path for file in client.list_artifacts(run_id, TRAINING)]
        if not found:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        return Path(client.download_artifacts(run_id, found[0], str(folder)))


def bundle_of_version(registry: RegistryConfig, storage_root: str, number: str) -> Path:
    """Bundle folder of a registered version, fetched once and checked."""
    models = ModelRegistry(mlflow.get_tracking_uri(), registry.model_name, Path(storage_root).resolve() / "champions", is_patient=True)
    return models.bundle_folder(number)
