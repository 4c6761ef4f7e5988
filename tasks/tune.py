"""Step `tune`: the book of a search - what was tried, what to try next, and its page in MLflow. Kept in a database, so a search that was stopped goes on.

A trial is measured origin by origin, the earliest first; after each the pruner may end it: it is worse than the median of the earlier trials there.
Several processes may search together: a trial whose process lives is left alone, one whose process is gone is tried again first.
"""

import os
import platform
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import polars as pl
import psutil
from prefect import task
from prefect.runtime import flow_run
from pydantic import BaseModel

from contracts import columns as c
from contracts.artifacts import Reference, ValidationReport, text_digest
from contracts.config import PipelineConfig
from contracts.errors import StudyError
from contracts.sections.evaluation import EvaluationConfig
from evaluation.origins import evaluation_origins, is_tuning_window, tuning_origins, window_end
from sources.readers import expand
from tasks.registry import ChildRun, connect, log_child, log_to_run, registry_faults, start_parent
from tasks.reuse import run_each_time
from tasks.store import SCORER, Store, code_version, model_text, read_table

if TYPE_CHECKING:
    import optuna
    from sqlalchemy import URL

TRIALS_BEFORE_PRUNING = 4
STUDY = "tuning_study"
PRUNED = "pruned"
PROCESS = "process"
CODE = ("evaluation", "expectations", "features", "flows/tuning.py", "forecasting", "lightning_modules", "tasks", *SCORER)  # all a figure comes from
NOT_SEARCHED = {"storage_root", "compute", "registry", "publish", "tuning"}
HEARTBEAT_SECONDS = 30
GRACE_SECONDS = 180  # several beats: a database that restarts, a machine that is short of memory
EXAMPLES = "Give sqlite:////FOLDER/tuning.sqlite or postgresql://USER:${PASSWORD}@HOST/DATABASE"


class Trial(Reference):
    """One set of parameters and the mean of the main figure over lists, leads and the origins it was measured at; `pruned`: not at all of them."""

    number: int
    parameters: dict[str, float | int]
    value: float
    at_origins: tuple[float, ...] = ()
    state: str = "complete"


def refuse_windows_to_report(validated: ValidationReport, config: EvaluationConfig) -> None:
    """Raise StudyError where `tune_until` is given and a window the search would look at ends later."""
    if config.tune_until is None:
        return
    times = read_table(validated.accepted).select(pl.col(c.EVENT_TIME).min().dt.date().alias("first"), pl.col(c.EVENT_TIME).max().dt.date().alias("last"))
    first_day, last_day = times.collect().row(0)
    windows = [(origin, lead) for origin, leads in evaluation_origins(first_day, last_day, config).items() for lead in leads]
    late = [(origin, lead) for origin, lead in windows if not is_tuning_window(origin, lead, config)]
    if not late:
        return
    origin, lead = late[-1]
    longest = max(config.leads_days)
    fitting = [str(origin) for origin in tuning_origins(first_day, config) if is_tuning_window(origin, longest, config)]
    raise StudyError(
        f"evaluation.origins: expected windows that end by evaluation.tune_until {config.tune_until}, found {len(late)} of {len(windows)} that end later,"
        f" such as origin {origin} at lead {lead}, which ends {window_end(origin, lead, config.horizon_days)}: a search would choose by figures you report."
        f" Give the search earlier origins{': ' + ', '.join(fitting) if fitting else ''}, or leave tune_until out.",
        step="tune",
    )


def open_study(config: PipelineConfig, data_digest: str, store: Store) -> "optuna.Study":
    """The search of this configuration on these data with this code, with all it has tried.

    Raises StudyError where its database cannot be opened, SourceError where the address names a variable that is not set.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    what = [model_text(value) if isinstance(value, BaseModel) else str(value) for name, value in config if name not in NOT_SEARCHED]
    url = _study_address(config.tuning.storage_url, store)
    try:
        return optuna.create_study(
            study_name=f"{config.name}-{text_digest(*what, data_digest, code_version(CODE))}",
            storage=_storage(url),
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING, n_warmup_steps=0),
            load_if_exists=True,
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError, RuntimeError, OSError) as error:
        raise StudyError(
            f"tuning.storage_url: expected a database the search can be kept in, found none at {url.render_as_string(hide_password=True)}:"
            f" {(str(error).strip() or type(error).__name__).splitlines()[0]} {EXAMPLES}; it must run, be writable and of this version of Optuna.",
            step="tune",
        ) from error


def _study_address(asked: str | None, store: Store) -> "URL":
    """Address of the book: a file in the store where the configuration names none. An error never shows it: there may be a password in it."""
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    if asked is None:
        path = Path(store.root) / "tuning.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        return URL.create("sqlite", database=str(path))
    try:
        url = make_url(expand(asked, os.environ))
    except (ArgumentError, ValueError):
        raise StudyError(f"tuning.storage_url: expected the address of a database, found what is none in {asked}. {EXAMPLES}.", step="tune") from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")  # the driver of our extra `operations`
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise StudyError(f"tuning.storage_url: expected SQLite or PostgreSQL, found {url.drivername} in {asked}. {EXAMPLES}.", step="tune")
    return url


def _storage(url: "URL") -> "optuna.storages.RDBStorage":
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import RDBStorage
    from sqlalchemy import event
    from sqlalchemy.pool import NullPool

    patience = {"timeout": 60} if url.drivername == "sqlite" else {"connect_timeout": 10}  # seconds: another process writes; no server there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the heartbeat is one since 2021
        storage = RDBStorage(
            url.render_as_string(hide_password=False),
            engine_kwargs={"poolclass": NullPool, "connect_args": patience},  # few requests an hour: a connection kept would not outlive a restart
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=_enqueue_again,
        )
    if url.drivername == "sqlite":  # SQLite has no `select for update`: of two processes that take the same waiting trial, one must wait for the other
        event.listen(storage.engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def next_trial(study: "optuna.Study", seed: int) -> tuple["optuna.Trial", dict[str, Any]]:
    """A new trial and its parameters, by their names in the configuration; first those of trials that were cut off."""
    import optuna

    _take_back_cut_off(study)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Heartbeat of storage")  # `kept_alive` sends it
        asked = study.ask()
    _beat(study, asked)
    asked.set_user_attr(PROCESS, _process())
    study.sampler = optuna.samplers.TPESampler(seed=seed + asked.number)  # the same seed would draw the same parameters again, here or in another process
    asked.suggest_float("fine_tuning.learning_rate", 1e-3, 2e-2, log=True)
    asked.suggest_float("fine_tuning.anchor", 0.03, 3.0, log=True)
    asked.suggest_categorical("fine_tuning.season_width", [16, 32, 64])
    asked.suggest_categorical("fine_tuning.habit_width", [16, 32, 64])
    return asked, asked.params


@contextmanager
def kept_alive(study: "optuna.Study", asked: "optuna.Trial") -> Iterator[None]:
    """Tell the other processes that the trial is being worked on; where the work ends with an error, its parameters are the next to be tried."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    database_down = (SQLAlchemyError, StorageInternalError)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            with suppress(*database_down):  # the next beat tells; GRACE_SECONDS is several
                _beat(study, asked)

    thread = threading.Thread(target=beat, name="heartbeat of a trial", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        with suppress(*database_down):  # it is found by its process then, once that is gone
            _fail(study, asked.number)
        raise
    finally:
        done.set()
        thread.join()


def _beat(study: "optuna.Study", asked: "optuna.Trial") -> None:
    study._storage.record_heartbeat(asked._trial_id)  # type: ignore[attr-defined]  # Optuna itself sends it from `optimize` only


def _take_back_cut_off(study: "optuna.Study") -> None:
    """End the running trials whose process is gone from this machine, or did not tell for long that it lives, and enqueue their parameters."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import fail_stale_trials
    from optuna.trial import TrialState

    for running in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        process = running.user_attrs.get(PROCESS)
        never_told = process is None and running.datetime_start is not None and datetime.now() - running.datetime_start > timedelta(seconds=GRACE_SECONDS)  # noqa: DTZ005
        if never_told or (process is not None and _is_gone(process)):
            _fail(study, running.number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)


def _fail(study: "optuna.Study", number: int) -> None:
    """End a trial and enqueue its parameters, once: of two processes that see it cut off, one does."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    trial = study.get_trials(deepcopy=False)[number]
    with suppress(UpdateFinishedTrialError):
        if study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):  # `tell` checks first and then sets: not safe for two
            _enqueue_again(study, trial)


def _enqueue_again(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> None:
    study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params})  # a trial may be cut off before its parameters are drawn


def _process() -> dict[str, Any]:
    """Who works on a trial: a process id is given again after a while, hence the start; `machine` also keeps containers apart."""
    return {"machine": _machine(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _is_gone(process: dict[str, Any]) -> bool:
    """Whether it ran here and does no more; of other machines nothing is known but their heartbeat."""
    if process["machine"] != _machine():
        return False
    try:
        found = psutil.Process(process["pid"])
        return abs(found.create_time() - process["started"]) > 1 or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _machine() -> str:
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return " ".join([platform.node(), *([boot.read_text().strip(), str(space.readlink())] if boot.exists() and space.is_symlink() else [])])


def report(study: "optuna.Study", asked: "optuna.Trial", values: Sequence[float], num_origins: int) -> bool:
    """Write down the figures of a trial so far, one an origin; returns whether it is over: measured everywhere, pruned, or taken over by another process."""
    import optuna

    try:
        asked.report(fmean(values), step=len(values) - 1)
        if len(values) == num_origins:
            study.tell(asked, fmean(values))
            return True
        if asked.should_prune():
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            return True
    except optuna.exceptions.UpdateFinishedTrialError:  # this machine slept longer than GRACE_SECONDS
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
