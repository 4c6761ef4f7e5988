"""Settings of a run on one machine."""

import os
from pathlib import Path

import pytest

from flows.local_environment import use_local_stores


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_", "GX_", "OMP_", "DO_NOT"))]:
        monkeypatch.delenv(name)
    # monkeypatch puts back what the code under test sets, too
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_LOCAL_STORAGE_PATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


def test_stores_lie_below_the_storage_root_and_nothing_is_told_to_anyone(tmp_path: Path):
    use_local_stores(str(tmp_path))
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert (tmp_path / "prefect").is_dir()
    assert os.environ["PREFECT_LOCAL_STORAGE_PATH"] == str(tmp_path / "results")
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert int(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"]) >= 60


def test_a_server_or_a_person_decides_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    use_local_stores(str(tmp_path))
    assert "PREFECT_HOME" not in os.environ
    assert not (tmp_path / "prefect").exists()
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(("verbose", "level"), [(False, "CRITICAL"), (True, "INFO")])
def test_log_of_steps_is_shown_when_asked(tmp_path: Path, *, verbose: bool, level: str):
    use_local_stores(str(tmp_path), verbose=verbose)
    assert os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == level
