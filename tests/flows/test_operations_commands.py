"""Commands of those who operate: help, faults in words, exit codes. Nothing here starts a server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import RegistryStateError
from flows import local_installation
from flows.local_installation import Installation, Ports, _process_of, free_ports

COMMANDS = ("up", "down", "deploy", "update", "monitor", "review", "promote", "rollback")
Invoke = Callable[..., Any]


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nstorage_root: {tmp_path}/stores\nsource: {{dataset: synthetic}}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_explains_each_of_its_options(invoke: Invoke, command: str):
    shown = invoke(command, "--help")
    assert shown.exit_code == 0
    words = [line.strip("│ ").split() for line in shown.output.splitlines() if line.strip("│ ").startswith("--")]
    assert all(len(line) > 2 for line in words), words


def test_deploy_without_a_server_says_which_setting_is_missing(invoke: Invoke, parameters: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    shown = invoke("deploy", str(parameters))
    assert shown.exit_code == 1
    assert "PREFECT_API_URL is not set" in shown.output


def test_decision_that_is_none_ends_with_2(invoke: Invoke, parameters: Path):
    shown = invoke("review", str(parameters), "--version", "1", "--decision", "maybe", "--by", "ada")
    assert shown.exit_code == 2
    assert "expected approved or rejected, found 'maybe'" in " ".join(shown.output.replace("│", " ").split())


def test_rollback_that_is_refused_ends_with_1_and_the_reason(invoke: Invoke, parameters: Path, monkeypatch: pytest.MonkeyPatch):
    from flows import rollback

    asked: list[tuple[object, ...]] = []

    def refuse(*given: object) -> None:
        asked.append(given)
        raise RegistryStateError("no earlier champion is left")

    monkeypatch.setattr(rollback, "rollback", refuse)
    shown = invoke("rollback", str(parameters), "--by", "ada", "--reason", "wrong prices", "--version", "3")
    assert shown.exit_code == 1
    assert "no earlier champion is left" in shown.output
    assert asked[0][:4] == ("ada", "wrong prices", "3", "perennial-recommender")


def test_up_without_postgresql_says_what_to_install(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local_installation, "POSTGRES_FOLDER", tmp_path / "nothing")
    monkeypatch.setenv("PATH", "")
    shown = invoke("up", "--folder", str(tmp_path / "place"))
    assert shown.exit_code == 1
    assert "apt-get install postgresql" in " ".join(shown.output.split())


def test_secrets_are_made_once_and_kept_from_others(tmp_path: Path):
    first, again = Installation.at(tmp_path / "a"), Installation.at(tmp_path / "a")
    other = Installation.at(tmp_path / "b")
    assert first == again
    names = ("database_password", "mlflow_password", "mlflow_session_key", "webhook_secret", "webhook_encryption_key")
    assert all(len(getattr(first, name)) >= 20 and getattr(first, name) != getattr(other, name) for name in names)
    assert (tmp_path / "a" / "installation.json").stat().st_mode & 0o077 == 0
    ports = free_ports()
    moved = Installation.at(tmp_path / "a", ports)
    assert moved.ports == ports != Ports()
    assert moved.webhook_secret == first.webhook_secret


def test_process_id_that_is_anothers_by_now_is_not_taken_for_ours(tmp_path: Path):
    import json
    import os

    record = tmp_path / "worker.json"
    record.write_text(json.dumps({"pid": os.getpid(), "started": local_installation._started(os.getpid())}), encoding="utf-8")
    assert _process_of(record) == os.getpid()
    record.write_text(json.dumps({"pid": os.getpid(), "started": "1"}), encoding="utf-8")
    assert _process_of(record) is None
