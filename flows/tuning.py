"""A search of learning rates, sizes and regularisation on windows before those that are reported; nothing is registered."""

from datetime import date
from typing import Annotated

from prefect import flow
from prefect.artifacts import create_table_artifact
from pydantic import Field

from contracts.artifacts import ValidationReport
from contracts.config import PipelineConfig
from flows.first_steps import FineTuningInputs, checked_data, fine_tuning_inputs
from tasks.evaluate import OURS, evaluate, read_evaluation
from tasks.fine_tune import fine_tune
from tasks.store import Store, store_of
from tasks.tune import Trial, best_first, finished_trials, kept_alive, log_trials, next_trial, open_study, refuse_windows_to_report, report


@flow(name="tune", description=__doc__)
def tune(
    config: PipelineConfig,
    num_trials: Annotated[int, Field(title="Trials", ge=1, le=200, description="Trials in all; those an earlier run of the same search made count.")] = 10,
) -> list[Trial]:
    """Trials, best first; MLflow holds a run for each. Features, forecasts and pre-training are made once; a search that was stopped goes on where it was.

    Parameters
    ----------
    config
        The pipeline to tune; its evaluated origins are the windows the search looks at. Where `evaluation.tune_until` is given, all must end by then.
    num_trials
        Trials in all: each fits a head at every origin, unless it is ended early because others were better there.
    """
    store = store_of(config)
    _, validated = checked_data(config, store)
    refuse_windows_to_report(validated, config.evaluation)
    study = open_study(config, validated.accepted.digest, store)
    given = fine_tuning_inputs(config, validated, store)
    origins = given.features.origins
    while len(finished_trials(study)) < num_trials:
        asked, chosen = next_trial(study, config.seed)
        values: list[float] = []
        with kept_alive(study, asked):
            while not values or not report(study, asked, values, len(origins)):
                values.append(_figure(_with(config, chosen), given, validated, origins[len(values)], store))
        log_trials(study.study_name, finished_trials(study), origins, config, store)
    trials = best_first(finished_trials(study))
    rows = [{"trial": t.number, "value": f"{t.value:.4f}", "origins": len(t.at_origins), "state": t.state, **t.parameters} for t in trials]
    create_table_artifact(rows, key="tuning", description="Best first; pruned ones last")
    return trials


def _figure(config: PipelineConfig, given: FineTuningInputs, validated: ValidationReport, origin: str, store: Store) -> float:
    """Main figure at one origin, mean over the lists; no baselines, slices or intervals beside it."""
    at_origin = given.features.model_copy(update={"origins": (origin,), "end": origin})
    evaluation = config.evaluation.model_copy(
        update={
            "origins": (date.fromisoformat(origin),),
            "baselines": config.evaluation.baselines[:1],
            "num_resamples": 100,
            "season_lift": False,
            "slices": False,
        }
    )
    bundles = fine_tune(
        at_origin,
        given.season,
        given.snapshots,
        given.forecasts,
        config.fine_tuning,
        config.features,
        evaluation,
        config.compute,
        store,
        name=config.name,
        seed=config.seed,
        content=config.content,
    )
    measured = evaluate(
        bundles,
        None,
        validated,
        given.features,
        evaluation,
        config.features,
        config.fine_tuning.target_events,
        store,
        validation=config.validation,
        name=config.name,
        seed=config.seed,
    )
    result = read_evaluation(measured.path)
    return sum(result.figure(OURS, name).value for name in result.lists) / len(result.lists)


def _with(config: PipelineConfig, chosen: dict[str, float | int]) -> PipelineConfig:
    """The configuration with the chosen values in place, checked again."""
    values = config.model_dump(mode="json")
    for name, value in chosen.items():
        section, key = name.split(".")
        place = values[section]["optimizer"] if key == "learning_rate" else values[section]
        place[key] = value
    return PipelineConfig.model_validate(values)
