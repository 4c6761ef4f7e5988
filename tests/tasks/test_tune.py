"""The book of a search, in SQLite and in PostgreSQL: what is kept over a stop, whose trials are tried again, and which end early."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from contracts import columns as c
from contracts.artifacts import ValidationReport
from contracts.config import PipelineConfig
from contracts.errors import SourceError, StudyError
from flows import local_installation
from flows.local_installation import Installation, free_ports
from tasks import tune
from tasks.store import CODE_ROOT, Store, write_table
from tasks.tune import (
    PRUNED,
    TRIALS_BEFORE_PRUNING,
    best_first,
    finished_trials,
    kept_alive,
    next_trial,
    open_study,
    refuse_windows_to_report,
    report,
)

optuna = pytest.importorskip("optuna")

CONFIG = PipelineConfig.model_validate({"name": "shop", "source": {"dataset": "synthetic"}})
DATA = "0123456789abcdef"
DATABASE = "PERENNIAL_TEST_TUNING"
WORK_ON_A_TRIAL = textwrap.dedent("""
    import json, sys, time
    from contracts.config import PipelineConfig
    from tasks.store import Store
    from tasks.tune import kept_alive, next_trial, open_study

    config = PipelineConfig.model_validate_json(sys.argv[1])
    study = open_study(config, sys.argv[2], Store(root=sys.argv[3]))
    asked, chosen = next_trial(study, config.seed)
    with kept_alive(study, asked):
        print(json.dumps(chosen), flush=True)
        time.sleep(600)
""")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Installation]:
    """A PostgreSQL server of its own, loopback only; pytest's folders are closed to the user it runs as, hence one beside them."""
    pytest.importorskip("psycopg")
    try:
        local_installation._postgres_program("initdb")
    except local_installation.PipelineError as error:
        pytest.skip(str(error))
    folder = Path(tempfile.mkdtemp(prefix="perennial-tuning-"))
    folder.chmod(0o755)
    try:
        installation = Installation.at(folder, free_ports())
        local_installation._start_postgres(installation)
        yield installation
    finally:
        local_installation.stop(folder, lambda _: None)
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineConfig:
    """A configuration whose search is in a file of the store, or in a new database of a server, its address in the environment."""
    if request.param == "sqlite":
        return CONFIG
    import psycopg

    installation = request.getfixturevalue("postgres")
    name = f"t{abs(hash(str(tmp_path)))}"
    with psycopg.connect(installation.database("postgres", "x").replace("+x", ""), autocommit=True) as connection:
        connection.execute(f"create database {name}")  # type: ignore[call-overload]
    monkeypatch.setenv(DATABASE, installation.database(name, "x").replace("+x", ""))
    return kept_at(f"${{{DATABASE}}}")


def kept_at(url: str) -> PipelineConfig:
    return PipelineConfig.model_validate({**CONFIG.model_dump(), "tuning": {"storage_url": url}})


def tried(study: "optuna.Study", *values: float) -> list[bool]:
    """One trial with a figure an origin, of two; whether it was over after each."""
    asked, _ = next_trial(study, CONFIG.seed)
    return [report(study, asked, values[: count + 1], 2) for count in range(len(values))]


@pytest.fixture
def at_work(config: PipelineConfig, store: Store) -> Iterator[Callable[[], tuple[subprocess.Popen[str], dict[str, float]]]]:
    """Start another process that works on a trial; gives it and its parameters."""
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], dict[str, float]]:
        command = [sys.executable, "-c", WORK_ON_A_TRIAL, config.model_dump_json(), DATA, store.root]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(CODE_ROOT)})
        started.append(other)
        assert other.stdout is not None
        return other, json.loads(other.stdout.readline())

    yield start
    for other in started:
        other.kill()
        other.communicate()


def test_search_goes_on_where_it_was(config: PipelineConfig, store: Store):
    for value in (0.2, 0.4):
        assert tried(open_study(config, DATA, store), value, value + 0.2) == [False, True]
    first, second = finished_trials(open_study(config, DATA, store))
    assert (first.value, first.at_origins) == (pytest.approx(0.3), pytest.approx((0.2, 0.4)))
    assert (second.number, second.value) == (1, pytest.approx(0.5))
    assert first.parameters != second.parameters


def test_trial_of_a_process_that_lives_is_left_alone_and_tried_first_once_it_is_killed(config: PipelineConfig, store: Store, at_work: Callable):
    other, chosen = at_work()
    study = open_study(config, DATA, store)
    asked, here = next_trial(study, config.seed)
    assert report(study, asked, [0.3], 1)
    assert here != chosen
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "COMPLETE"]
    other.send_signal(signal.SIGKILL)
    other.wait()
    again = open_study(config, DATA, store)
    assert next_trial(again, config.seed)[1] == chosen
    assert next_trial(again, config.seed)[1] not in (chosen, here)
    assert [trial.state.name for trial in again.trials] == ["FAIL", "COMPLETE", "RUNNING", "RUNNING"]


@pytest.mark.parametrize("machine_tells", [True, False])
def test_trial_of_another_machine_is_taken_over_when_it_has_not_told_for_long(
    config: PipelineConfig, store: Store, monkeypatch: pytest.MonkeyPatch, *, machine_tells: bool
):
    monkeypatch.setattr(tune, "_process", lambda: {"machine": "another", "pid": 1, "started": 0.0})
    monkeypatch.setattr(tune, "GRACE_SECONDS", 2)
    monkeypatch.setattr(tune, "HEARTBEAT_SECONDS", 1)
    study = open_study(config, DATA, store)
    asked, chosen = next_trial(study, config.seed)
    if machine_tells:
        with kept_alive(study, asked):
            time.sleep(4)
            assert next_trial(open_study(config, DATA, store), config.seed)[1] != chosen
    else:
        assert next_trial(open_study(config, DATA, store), config.seed)[1] != chosen
        time.sleep(4)
        assert next_trial(open_study(config, DATA, store), config.seed)[1] == chosen
        assert report(study, asked, [0.3], 2)  # it woke up, and lets go


def test_trial_that_was_cut_off_is_taken_by_one_of_those_who_ask_at_once(config: PipelineConfig, store: Store):
    study = open_study(config, DATA, store)
    asked, chosen = next_trial(study, config.seed)
    with pytest.raises(ZeroDivisionError), kept_alive(study, asked):
        _ = 1 / 0
    studies = [open_study(config, DATA, store) for _ in range(6)]
    with ThreadPoolExecutor(len(studies)) as pool:
        taken = list(pool.map(lambda study: next_trial(study, config.seed)[1], studies))
    assert taken.count(chosen) == 1
    assert len({str(parameters) for parameters in taken}) == len(studies)


def test_trial_that_ends_with_an_error_is_the_next_with_the_same_parameters(config: PipelineConfig, store: Store):
    study = open_study(config, DATA, store)
    asked, chosen = next_trial(study, config.seed)
    report(study, asked, [0.3], 2)
    with pytest.raises(ZeroDivisionError), kept_alive(study, asked):
        _ = 1 / 0
    again = open_study(config, DATA, store)
    assert finished_trials(again) == []
    assert next_trial(again, config.seed)[1] == chosen


@pytest.mark.parametrize("changed", ["data", "configuration", "code"])
def test_other_data_another_configuration_or_other_code_is_another_search(store: Store, changed: str, monkeypatch: pytest.MonkeyPatch):
    tried(open_study(CONFIG, DATA, store), 0.2, 0.2)
    with monkeypatch.context() as other:
        if changed == "code":
            other.setattr(tune, "code_version", lambda _code: "another")
        config = CONFIG.model_copy(update={"seed": 7}) if changed == "configuration" else CONFIG
        assert finished_trials(open_study(config, "fedcba9876543210" if changed == "data" else DATA, store)) == []
    assert len(finished_trials(open_study(CONFIG, DATA, store))) == 1


def test_another_place_of_the_book_has_the_search_of_the_same_name(store: Store, tmp_path: Path):
    beside = open_study(kept_at(f"sqlite:///{tmp_path}/beside.sqlite"), DATA, store)
    assert beside.study_name == open_study(CONFIG, DATA, store).study_name
    assert {path.name for path in (tmp_path / "beside.sqlite", Path(store.root) / "tuning.sqlite") if path.exists()} == {"beside.sqlite", "tuning.sqlite"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("postgresql://ann:hunter2@127.0.0.1:1/tuning", r"found none at postgresql\+psycopg://ann:\*\*\*@127\.0\.0\.1:1/tuning: .*refused"),
        ("mysql://ann:hunter2@127.0.0.1/tuning", r"expected SQLite or PostgreSQL, found mysql in \$\{PERENNIAL_TEST_TUNING\}"),
        ("postgresql://ann:hunter2@host:por/t/x", r"found what is none in \$\{PERENNIAL_TEST_TUNING\}"),
        ("sqlite:////proc/nothing/tuning.sqlite", r"found none at sqlite:////proc/nothing/tuning\.sqlite: .*unable to open"),
    ],
)
def test_database_that_cannot_be_opened_is_said_without_its_password(store: Store, monkeypatch: pytest.MonkeyPatch, value: str, said: str):
    monkeypatch.setenv(DATABASE, value)
    with pytest.raises(StudyError, match=said) as raised:
        open_study(kept_at(f"${{{DATABASE}}}"), DATA, store)
    assert "hunter2" not in f"{raised.value} {raised.value.__cause__}"


def test_file_that_is_no_database_and_a_variable_that_is_not_set_are_said(store: Store, tmp_path: Path):
    (tmp_path / "text.sqlite").write_text("no database, " * 100)
    with pytest.raises(StudyError, match="file is not a database"):
        open_study(kept_at(f"sqlite:///{tmp_path}/text.sqlite"), DATA, store)
    with pytest.raises(SourceError, match="PERENNIAL_NOT_SET"):
        open_study(kept_at("${PERENNIAL_NOT_SET}"), DATA, store)


@pytest.mark.parametrize(
    "url", ["postgresql://ann:hunter2@host/tuning", "postgresql://ann@host/tuning?password=hunter2", "postgresql://ann:x${Y}hunter2@host/t"]
)
def test_password_in_the_parameters_is_refused_and_not_repeated(tmp_path: Path, url: str):
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nsource: {{dataset: synthetic}}\ntuning: {{storage_url: '{url}'}}\n")
    with pytest.raises(ValueError, match=r"tuning\.storage_url: expected the password as") as raised:
        PipelineConfig.from_yaml(path)
    assert not isinstance(raised.value, ValidationError)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["postgresql://host:5432/tuning", "postgresql://ann@host:5432/t", "postgresql://ann:${P}@host/t?password=${P}", "sqlite:////a:b@c"]
)
def test_address_without_a_password_is_taken(url: str):
    assert kept_at(url).tuning.storage_url == url


def test_windows_that_end_after_tune_until_are_refused(store: Store):
    days = [datetime(2024, 1, 1) + timedelta(days=day) for day in range(200)]
    accepted = write_table(pl.DataFrame({c.EVENT_TIME: days}), Path(store.root) / "accepted.parquet", "interactions")
    validated = ValidationReport(accepted=accepted, rows_in=200, rows_accepted=200, rows_quarantined=0)

    def refuse(**values: object) -> None:
        refuse_windows_to_report(validated, CONFIG.evaluation.model_copy(update={"horizon_days": 14, "leads_days": (0, 28), **values}))

    until = date(2024, 5, 1)
    refuse()
    refuse(tune_until=until, origins=(date(2024, 3, 1), date(2024, 3, 20)))  # 2024-03-20 + 28 + 14 days: ends with the last day before
    said = r"2024-05-01, found 1 of 4 that end later, such as origin 2024-03-21 at lead 28, which ends 2024-05-02: .*2024-03-06, 2024-03-20"
    with pytest.raises(StudyError, match=said):
        refuse(tune_until=until, origins=(date(2024, 3, 1), date(2024, 3, 21)))
    with pytest.raises(StudyError, match="found 6 of 6"):
        refuse(tune_until=until, num_origins=3)  # the latest of the data


def test_trial_below_the_median_at_its_first_origin_ends_there_and_ranks_last(config: PipelineConfig, store: Store):
    study = open_study(config, DATA, store)
    for number in range(TRIALS_BEFORE_PRUNING):
        assert tried(study, 0.2 + number / 100, 0.1) == [False, True]
    assert tried(study, 0.19) == [True]
    assert tried(study, 0.9, 0.9) == [False, True]
    trials = best_first(finished_trials(study))
    assert trials[0].value == pytest.approx(0.9)
    assert (trials[-1].state, trials[-1].at_origins) == (PRUNED, (0.19,))
