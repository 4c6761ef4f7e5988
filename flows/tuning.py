"""A search of learning rates, sizes and regularisation on windows before those that are reported; nothing is registered."""

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from pydantic import Field

from contracts.artifacts import Reference
from contracts.config import PipelineConfig
from flows.partial_runs import train_and_measure
from tasks.evaluate import OURS, read_evaluation


class Trial(Reference):
    """One set of parameters and the mean of the main figure over lists, leads and origins."""

    number: int
    parameters: dict[str, float | int]
    value: float


@flow(name="tune", description=__doc__)
def tune(
    config: PipelineConfig,
    num_trials: Annotated[int, Field(title="Trials", ge=1, le=200, description="Trainings to spend; each is a whole training.")] = 10,
) -> list[Trial]:
    """Trials, best first. Features and forecasts are made once and reused; a trial that repeats finished work costs nothing.

    Parameters
    ----------
    config
        The pipeline to tune; its evaluated origins are the windows the search looks at, so give origins before those you will report.
    num_trials
        Trainings to spend.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=config.seed))
    trials = []
    for number in range(num_trials):
        asked = study.ask()
        chosen = _choice(asked)
        result = read_evaluation(train_and_measure(_with(config, chosen)).path)
        value = sum(result.figure(OURS, name).value for name in result.lists) / len(result.lists)
        study.tell(asked, value)
        trials.append(Trial(number=number, parameters=chosen, value=value))
    trials.sort(key=lambda trial: -trial.value)
    create_table_artifact([{"trial": t.number, "value": f"{t.value:.4f}", **t.parameters} for t in trials], key="tuning", description="Best first")
    return trials


def _choice(trial: Any) -> dict[str, float | int]:
    return {
        "fine_tuning.learning_rate": trial.suggest_float("fine_tuning.learning_rate", 1e-3, 2e-2, log=True),
        "fine_tuning.anchor": trial.suggest_float("fine_tuning.anchor", 0.03, 3.0, log=True),
        "fine_tuning.season_width": trial.suggest_categorical("fine_tuning.season_width", [16, 32, 64]),
        "fine_tuning.habit_width": trial.suggest_categorical("fine_tuning.habit_width", [16, 32, 64]),
    }


def _with(config: PipelineConfig, chosen: dict[str, float | int]) -> PipelineConfig:
    """The configuration with the chosen values in place, checked again."""
    values = config.model_dump(mode="json")
    for name, value in chosen.items():
        section, key = name.split(".")
        place = values[section]["optimizer"] if key == "learning_rate" else values[section]
        place[key] = value
    return PipelineConfig.model_validate(values)
