"""The command `perennial`: help, faults in words, exit codes. Nothing here starts a server."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import BundleError, DataContractError, NotEnoughHistoryError, SourceError, TrainingFailedError, TransientError

ROOT = Path(__file__).parents[2]
COMMANDS = ("demo", "run", "validate", "features", "negative-control", "plan", "forecast", "evaluate", "recommend", "report", "audit", "ui", "serve")
Invoke = Callable[..., Any]


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nstorage_root: {tmp_path}/stores\nsource: {{dataset: synthetic}}\n", encoding="utf-8")
    return path


def test_help_lists_every_command_and_says_where_to_start(invoke: Invoke):
    shown = invoke("--help")
    assert shown.exit_code == 0
    assert "Start with perennial demo" in " ".join(shown.output.split())
    assert [command for command in COMMANDS if f" {command} " not in shown.output] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_explains_each_of_its_options(invoke: Invoke, command: str):
    shown = invoke(command, "--help")
    assert shown.exit_code == 0
    words = [line.strip("│ ").split() for line in shown.output.splitlines() if line.strip("│ ").startswith("--")]
    assert all(len(line) > 2 for line in words), words


def test_call_without_a_command_shows_help(invoke: Invoke):
    assert "Usage: " in invoke().output


@pytest.mark.parametrize("call", [("runn",), ("run",), ("run", "x", "--frehs"), ("recommend", "tiny", "--user", "1")])
def test_wrong_call_ends_with_2(invoke: Invoke, call: tuple[str, ...]):
    assert invoke(*call).exit_code == 2


@pytest.mark.parametrize("command", ["run", "validate", "features", "forecast", "evaluate", "report", "audit", "ui", "serve"])
def test_parameter_file_that_is_not_there_ends_with_2_and_lists_the_ready_ones(invoke: Invoke, command: str):
    shown = invoke(command, "no_such_file")
    assert shown.exit_code == 2
    assert "no parameter file no_such_file; ready ones: amazon_reviews, complete_journey" in shown.output


@pytest.mark.parametrize("command", ["run", "validate", "features", "evaluate"])
def test_misspelt_key_ends_with_2_and_names_the_nearest(invoke: Invoke, tmp_path: Path, command: str):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nsource: {dataset: synthetic}\nevaluation: {horizon_day: 28}\n", encoding="utf-8")
    shown = invoke(command, str(path))
    assert shown.exit_code == 2
    assert "evaluation.horizon_day: unknown key; did you mean `horizon_days`?" in " ".join(shown.output.split())
    assert not (tmp_path / ".perennial").exists()


def test_storage_root_with_a_variable_that_is_not_set_ends_with_2(invoke: Invoke, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nstorage_root: ${NOT_SET_IN_TESTS}/x\nsource: {dataset: synthetic}\n", encoding="utf-8")
    shown = invoke("run", str(path))
    assert shown.exit_code == 2
    assert "NOT_SET_IN_TESTS" in shown.output


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (SourceError("no such file: a.csv"), 2),
        (DataContractError("interactions: 3 rows [bad]", table="interactions", rule="r", num_failed=3), 3),
        (NotEnoughHistoryError("one user only"), 3),
        (TrainingFailedError("exit code 9", exit_code=9), 1),
        (TransientError("MLflow does not answer"), 1),
        (BundleError("no champion yet"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
@pytest.mark.parametrize("command", ["run", "validate"])
def test_error_of_ours_is_a_message_and_an_exit_code(
    invoke: Invoke, parameters: Path, monkeypatch: pytest.MonkeyPatch, command: str, error: BaseException, exit_code: int
):
    from flows import partial_runs, seasonal_training

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(seasonal_training, "seasonal_training", fail)
    monkeypatch.setattr(partial_runs, "validate_only", fail)
    shown = invoke(command, str(parameters))
    assert shown.exit_code == exit_code
    assert str(error) in shown.output
    assert "Traceback" not in shown.output


@pytest.mark.parametrize(("words", "fresh"), [((), False), (("--fresh",), True)])
def test_fresh_reaches_the_flow(invoke: Invoke, parameters: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], *, fresh: bool):
    from contracts.artifacts import TrainingOutcome
    from flows import seasonal_training

    asked: list[tuple[str, bool]] = []

    def flow(config: Any, *, fresh: bool) -> TrainingOutcome:
        asked.append((config.name, fresh))
        return TrainingOutcome(version=None, promotion=None, evaluation=None, published=None, report=None, forecasts=None)

    monkeypatch.setattr(seasonal_training, "seasonal_training", flow)
    assert invoke("run", str(parameters), *words).exit_code == 0
    assert asked == [("mine", fresh)]


def test_report_that_was_not_made_ends_with_1_and_says_how_to_make_it(invoke: Invoke, parameters: Path, tmp_path: Path):
    shown = invoke("report", str(parameters))
    assert shown.exit_code == 1
    assert f"run `perennial run {parameters}` first" in " ".join(shown.output.split())
    page = tmp_path / "stores" / "mine" / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("<html>", encoding="utf-8")
    shown = invoke("report", str(parameters))
    assert (shown.exit_code, shown.output.strip()) == (0, page.as_uri())


def test_serving_before_anything_was_registered_ends_with_1_and_says_what_to_run(invoke: Invoke, parameters: Path):
    shown = invoke("serve", str(parameters))
    assert shown.exit_code == 1
    assert "perennial-recommender: nothing is registered yet. Run the pipeline first" in " ".join(shown.output.split())


def test_day_that_is_none_ends_with_2(invoke: Invoke, parameters: Path):
    shown = invoke("recommend", str(parameters), "--user", "1", "--date", "next week")
    assert shown.exit_code == 2
    assert "expected a day such as 2018-07-02, found 'next week'" in " ".join(shown.output.replace("│", " ").split())


def test_help_needs_no_heavy_library():
    code = "import sys; import flows.command_line; print(sorted({'prefect', 'mlflow', 'torch', 'great_expectations'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
