"""The tiny data set through the whole path, three times over one store: at first, again unchanged, and afresh with two training processes."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow import MlflowClient

from contracts.artifacts import TrainingOutcome
from contracts.config import PipelineConfig

TINY = Path(__file__).parents[2] / "deployments" / "parameters" / "tiny.yaml"
SECONDS_TO_SETTLE = 60


@dataclass(frozen=True)
class FlowRun:
    """One run as Prefect's server knows it. `steps`: name of a task -> names of the final states of its runs."""

    id: str
    name: str
    seconds: float
    steps: dict[str, list[str]]
    artifacts: list[dict[str, Any]]


@dataclass(frozen=True)
class TinyRuns:
    """The three runs over one store; `printed` is what the command line showed of the second."""

    parameters: Path
    config: PipelineConfig
    first: FlowRun
    outcome: TrainingOutcome
    second: FlowRun
    exit_code: int
    printed: str


@pytest.fixture(scope="session", autouse=True)
def settings_of_the_command_line() -> Iterator[None]:
    """The command line sets variables for its process; this process goes on to other tests."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call the command line in this process, on a terminal wide enough for its tables."""
    return _invoke


def _invoke(*words: str) -> Any:
    from typer.testing import CliRunner

    from flows.command_line import app

    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, list(words))


@pytest.fixture(scope="session")
def tiny(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyRuns]:
    """Two runs of the tiny data set: the path itself, then the command line over the same store."""
    from flows.seasonal_training import seasonal_training

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    folder = tmp_path_factory.mktemp("tiny")
    parameters = folder / "tiny.yaml"
    values = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    values["storage_root"] = str(folder / "stores")
    parameters.write_text(yaml.safe_dump(values), encoding="utf-8")
    config = PipelineConfig.from_yaml(parameters)
    started = time.monotonic()
    outcome = seasonal_training(config)
    first = newest_run("seasonal-training", time.monotonic() - started)
    started = time.monotonic()
    shown = _invoke("run", str(parameters))
    second = newest_run("seasonal-training", time.monotonic() - started)
    yield TinyRuns(parameters, config, first, outcome, second, shown.exit_code, shown.output)
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.fixture(scope="session")
def two_processes(tiny: TinyRuns) -> tuple[FlowRun, TrainingOutcome, int]:
    """A third run, afresh, that trains in two processes; and how many flow runs it added."""
    from flows.seasonal_training import seasonal_training

    known = count_runs()
    config = tiny.config.model_copy(update={"compute": tiny.config.compute.model_copy(update={"devices": 2, "strategy": "ddp"})})
    started = time.monotonic()
    outcome = seasonal_training(config, fresh=True)
    return newest_run("seasonal-training", time.monotonic() - started), outcome, count_runs() - known


@pytest.fixture
def registry(tiny: TinyRuns) -> MlflowClient:
    """Client of the registry the tiny runs wrote to."""
    from tasks.registry import connect
    from tasks.store import store_of

    return connect(tiny.config.registry, store_of(tiny.config).storage_root)


def newest_run(flow: str, seconds: float = 0.0) -> FlowRun:
    """The newest run of a flow; the server hears of the ends of tasks a little later than the flow does."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        deadline = time.monotonic() + SECONDS_TO_SETTLE
        while True:
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[found.id])))
            if all(run.state and run.state.is_final() for run in runs) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        artifacts = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[found.id])), limit=200)
    steps: dict[str, list[str]] = {}
    for run in runs:
        steps.setdefault(run.name.rsplit("-", 1)[0], []).append(run.state.name if run.state else "unknown")
    return FlowRun(str(found.id), found.name, seconds, steps, [artifact.model_dump() for artifact in artifacts])


def count_runs() -> int:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return len(client.read_flow_runs(limit=200))
