"""The search for parameters: two trials, then a third in a later run; a run in MLflow for each; a trial that is behind ends early."""

from collections.abc import Iterator
from datetime import date

import mlflow
import pytest
from mlflow import MlflowClient

from contracts.config import PipelineConfig
from contracts.errors import StudyError
from flows import tuning
from tasks.registry import local_tracking_uri
from tasks.store import store_of
from tasks.tune import PRUNED, STUDY, TRIALS_BEFORE_PRUNING
from tests.flows.conftest import newest_run
from tests.flows.micro import MICRO

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(autouse=True)
def addresses_of_mlflow() -> Iterator[None]:
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    return PipelineConfig.model_validate({**MICRO, "storage_root": str(tmp_path_factory.mktemp("stores"))})


def runs_of_trials(config: PipelineConfig) -> dict[str, tuple[str, dict[str, str], dict[str, float]]]:
    """Name of a trial's run -> its id, parameters and metrics."""
    client = MlflowClient(tracking_uri=local_tracking_uri(store_of(config).storage_root))
    experiment = client.get_experiment_by_name(config.registry.experiment).experiment_id
    (parent,) = client.search_runs([experiment], filter_string=f"tags.`{STUDY}` LIKE '{config.name}-%'")
    children = client.search_runs([experiment], filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    return {run.info.run_name: (run.info.run_id, run.data.params, run.data.metrics) for run in children}


def test_search_goes_on_in_a_later_run_without_repeating_a_trial(config: PipelineConfig):
    two = tuning.tune(config, num_trials=2)
    before = runs_of_trials(config)
    three = tuning.tune(config, num_trials=3)
    assert {trial.number: trial for trial in two}.items() <= {trial.number: trial for trial in three}.items()
    assert [trial.value for trial in three] == sorted((trial.value for trial in three), reverse=True)
    steps = newest_run("tune").steps
    assert (steps["fine_tune"], steps["build_features"]) == (["Completed"], ["Cached"])
    after = runs_of_trials(config)
    assert set(after) == {"trial 0", "trial 1", "trial 2"}
    assert before.items() <= after.items()
    assert {float(params["fine_tuning.learning_rate"]) for _, params, _ in after.values()} == {t.parameters["fine_tuning.learning_rate"] for t in three}
    assert sorted(metrics["value"] for _, _, metrics in after.values()) == sorted(trial.value for trial in three)
    assert 0 < three[-1].value <= three[0].value < 1


def test_trial_behind_the_others_at_its_first_origin_is_fitted_at_no_further_one(config: PipelineConfig, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def figure(config: PipelineConfig, given: object, validated: object, origin: str, store: object) -> float:
        asked.append(origin)
        return 0.5 if len(asked) <= 2 * TRIALS_BEFORE_PRUNING else 0.1

    monkeypatch.setattr(tuning, "_figure", figure)
    evaluation = config.evaluation.model_copy(update={"num_origins": 2})
    trials = tuning.tune(config.model_copy(update={"name": "pruned", "evaluation": evaluation}), num_trials=TRIALS_BEFORE_PRUNING + 1)
    first, second = sorted(set(asked))
    assert asked == [first, second] * TRIALS_BEFORE_PRUNING + [first]
    assert (trials[-1].state, trials[-1].at_origins) == (PRUNED, (0.1,))


def test_search_on_windows_to_report_is_refused_before_anything_is_made(config: PipelineConfig):
    evaluation = config.evaluation.model_copy(update={"tune_until": date(2022, 1, 1)})
    with pytest.raises(StudyError, match=r"expected windows that end by evaluation\.tune_until 2022-01-01, found 1 of 1"):
        tuning.tune(config.model_copy(update={"name": "refused", "evaluation": evaluation}), num_trials=1)
    assert set(newest_run("tune").steps) == {"ingest", "validate"}


def test_fit_that_fails_is_the_next_trial_of_a_later_run(config: PipelineConfig, monkeypatch: pytest.MonkeyPatch):
    chosen: list[PipelineConfig] = []

    def figure(config: PipelineConfig, given: object, validated: object, origin: str, store: object) -> float:
        chosen.append(config)
        if len(chosen) == 1:
            raise KeyError("out of luck")
        return 0.5

    monkeypatch.setattr(tuning, "_figure", figure)
    asked = config.model_copy(update={"name": "cut_off"})
    with pytest.raises(KeyError):
        tuning.tune(asked, num_trials=1)
    (trial,) = tuning.tune(asked, num_trials=1)
    assert chosen[0] == chosen[1]
    assert trial.number == 1
