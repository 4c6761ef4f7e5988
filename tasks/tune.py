"""Step `tune`: the book of a search - what was tried, what to try next, and its page in MLflow. Kept beside the data, so a search that was stopped goes on.

A trial is measured origin by origin, the earliest first; after each the pruner may end it: it is worse than the median of the earlier trials there.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.runtime import flow_run

from contracts.artifacts import Reference, text_digest
from contracts.config import PipelineConfig
from tasks.registry import ChildRun, connect, log_child, log_to_run, registry_faults, start_parent
from tasks.reuse import run_each_time
from tasks.store import Store

if TYPE_CHECKING:
    import optuna

TRIALS_BEFORE_PRUNING = 4
STUDY = "tuning_study"
PRUNED = "pruned"


class Trial(Reference):
    """One set of parameters and the mean of the main figure over lists, leads and the origins it was measured at; `pruned`: not at all of them."""

    number: int
    parameters: dict[str, float | int]
    value: float
    at_origins: tuple[float, ...] = ()
    state: str = "complete"


def open_study(config: PipelineConfig, data_digest: str, store: Store) -> "optuna.Study":
    """The search of this configuration on these data, with all it has tried; one that was cut off in the middle of a trial tries that one first."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    what = config.model_dump_json(exclude={"storage_root", "compute", "registry", "publish"})
    path = Path(store.root) / "tuning.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=f"{config.name}-{text_digest(what, data_digest)}",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path))),
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING, n_warmup_steps=0),
        load_if_exists=True,
    )
    for cut_off in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(cut_off.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(cut_off.params)
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))  # the same seed would draw the same parameters again
    return study


def next_trial(study: "optuna.Study") -> tuple["optuna.Trial", dict[str, Any]]:
    """A new trial and its parameters, by their names in the configuration."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    asked = study.ask(
        {
            "fine_tuning.learning_rate": FloatDistribution(1e-3, 2e-2, log=True),
            "fine_tuning.anchor": FloatDistribution(0.03, 3.0, log=True),
            "fine_tuning.season_width": CategoricalDistribution([16, 32, 64]),
            "fine_tuning.habit_width": CategoricalDistribution([16, 32, 64]),
        }
    )
    return asked, asked.params


def report(study: "optuna.Study", asked: "optuna.Trial", values: Sequence[float], num_origins: int) -> bool:
    """Write down the figures of a trial so far, one an origin; returns whether it is over: measured everywhere, or pruned."""
    import optuna

    asked.report(fmean(values), step=len(values) - 1)
    if len(values) == num_origins:
        study.tell(asked, fmean(values))
        return True
    if asked.should_prune():
        study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        return True
    return False


def finished_trials(study: "optuna.Study") -> list[Trial]:
    """Trials that are over, pruned ones included, in the order they were made."""
    import optuna

    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return [_trial(found) for found in study.get_trials(states=states)]


def _trial(found: "optuna.trial.FrozenTrial") -> Trial:
    means = [found.intermediate_values[step] for step in sorted(found.intermediate_values)]
    at_origins = [mean * (step + 1) - (means[step - 1] * step if step else 0.0) for step, mean in enumerate(means)]
    return Trial(number=found.number, parameters=found.params, value=means[-1], at_origins=tuple(at_origins), state=found.state.name.lower())


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that were measured everywhere, the best first, then the pruned ones: their values are of fewer origins."""
    return sorted(trials, key=lambda trial: (trial.state == PRUNED, -trial.value))


@task(name="log_trials", **run_each_time(minutes=10))
def log_trials(study: str, trials: Sequence[Trial], origins: Sequence[str], config: PipelineConfig, store: Store) -> str:
    """One run for the search, a child run a trial; what is there is not written again. Returns the id of the search's run."""
    client = connect(config.registry, store.storage_root)
    tags = {STUDY: study, "prefect.flow_run_url": flow_run.ui_url or ""}
    run_id = start_parent(client, config.registry.experiment, name=f"tuning of {config.name}", tags=tags, identity=STUDY)
    for trial in trials:
        figures = {f"at.{origin}": value for origin, value in zip(origins, trial.at_origins, strict=False)}  # a pruned trial has fewer
        log_child(
            client,
            run_id,
            ChildRun(
                f"trial {trial.number}",
                params={name: str(value) for name, value in trial.parameters.items()},
                metrics={"value": trial.value, **figures},
                tags={"state": trial.state},
            ),
        )
    best = best_first(trials)[0]
    log_to_run(client, run_id, ChildRun("tuning", metrics={"best_value": best.value}, tags={"best_trial": str(best.number)}))
    with registry_faults():
        client.set_terminated(run_id)
    return run_id
