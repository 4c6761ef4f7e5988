"""Promotion on a real MLflow server: processes killed with SIGKILL and servers killed between two alias moves; what is left is read back from the server."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contracts.artifacts import PromotionOutcome
from contracts.errors import RegistryStateError, TransientError
from tasks import promote as promote_module
from tasks.audit import audit_trail
from tasks.promote import promotion_lock
from tasks.reconcile import reconcile_aliases
from tasks.registry import CHAMPION, PREVIOUS_CHAMPION, version_at
from tasks.review import promote_approved
from tasks.roll_back import roll_back_champion
from tests.flows.made_registry import MODEL, World
from tests.flows.mlflow_server import MlflowServer, client_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MORTAL = """
import os, signal, sys
from pathlib import Path
from tasks.promote import promotion_lock
from tasks.review import promote_approved
from tests.flows.made_registry import MODEL, World
from tests.flows.mlflow_server import client_of

uri, folder, version, last_move = sys.argv[1:]
world = World(client_of(uri), Path(folder))
move = world.client.set_registered_model_alias

def move_and_die(name, alias, number):
    move(name, alias, number)
    if alias == last_move:
        os.kill(os.getpid(), signal.SIGKILL)

world.client.set_registered_model_alias = move_and_die
with promotion_lock(world.store):
    promote_approved(world.client, world.registry, world.store, version, smoke_test=lambda number: None)
"""
Repair = Callable[[World, str], PromotionOutcome]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    found = MlflowServer.over(tmp_path_factory.mktemp("server"))
    yield found
    found.kill()


@pytest.fixture
def world(server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """An empty model on the server."""
    monkeypatch.setattr(promote_module, "emit_event", lambda *given, **named: None)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = client_of(server.uri)
    if any(found.name == MODEL for found in client.search_registered_models()):
        client.delete_registered_model(MODEL)
    client.create_registered_model(MODEL)
    return World(client, tmp_path)


def promote(world: World, version: str) -> PromotionOutcome:
    with promotion_lock(world.store):
        return promote_approved(world.client, world.registry, world.store, version, smoke_test=world.smoke_test)


def reconcile(world: World, version: str = "") -> PromotionOutcome:
    with promotion_lock(world.store):
        return reconcile_aliases(world.client, world.registry, world.store, smoke_test=world.smoke_test)


def approved(world: World) -> str:
    version = world.register()
    world.say(version, "approved")
    return version


def aliases(world: World) -> tuple[str | None, str | None]:
    """Champion and previous champion, as the server says."""
    champion, previous = (version_at(world.client, MODEL, alias) for alias in (CHAMPION, PREVIOUS_CHAMPION))
    return str(champion.version) if champion else None, str(previous.version) if previous else None


def decisions(world: World) -> list[tuple[str, str]]:
    trail = audit_trail(world.audit, MODEL).select("version", "decision").iter_rows()
    return [(version, decision) for version, decision in trail if decision != "challenger"]


@pytest.mark.parametrize("repair", [promote, reconcile])
@pytest.mark.parametrize(("last_move", "left", "recorded"), [(PREVIOUS_CHAMPION, ("1", "1"), "promoted"), (CHAMPION, ("2", "1"), "adopted")])
def test_process_killed_after_an_alias_moved_is_finished_by_the_next(
    world: World, server: MlflowServer, last_move: str, left: tuple[str, str], recorded: str, repair: Repair
) -> None:
    assert promote(world, approved(world)).promoted
    version = approved(world)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", MORTAL, server.uri, str(world.folder), version, last_move]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert aliases(world) == left
    assert decisions(world) == [("1", "promoted")]
    repair(world, version)
    assert aliases(world) == ("2", "1")
    assert decisions(world) == [("1", "promoted"), ("2", recorded)]
    assert reconcile(world).reasons == ()


def test_server_killed_between_two_alias_moves_is_waited_for_and_the_promotion_is_done_once(
    world: World, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert promote(world, approved(world)).promoted
    version = approved(world)
    move = world.client.set_registered_model_alias

    def kill_before_the_champion(name: str, alias: str, number: str) -> None:
        if alias == CHAMPION:
            server.kill()
        move(name, alias, number)

    with monkeypatch.context() as patched:
        patched.setattr(world.client, "set_registered_model_alias", kill_before_the_champion)
        with pytest.raises(TransientError) as failed:
            promote(world, version)
    assert "could not be put back" in " ".join(failed.value.__notes__)
    server.start()
    assert aliases(world) == ("1", "1")
    assert decisions(world) == [("1", "promoted")]
    assert promote(world, version).promoted
    assert aliases(world) == ("2", "1")
    assert decisions(world) == [("1", "promoted"), ("2", "promoted")]


def test_server_killed_in_a_rollback_after_the_withdrawal_is_finished_by_reconcile(world: World, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        assert promote(world, approved(world)).promoted

    def kill_first(name: str, alias: str, number: str) -> None:
        server.kill()
        raise ConnectionError("cut")

    with monkeypatch.context() as patched:
        patched.setattr(world.client, "set_registered_model_alias", kill_first)
        with pytest.raises(ConnectionError):
            roll_back_champion(world.client, world.registry, world.store, "2", by="ada", reason="wrong prices")
    server.start()
    assert aliases(world) == ("2", "1")
    assert decisions(world)[-1] == ("2", "rolled_back")
    reconcile(world)
    assert aliases(world) == ("1", None)
    with pytest.raises(RegistryStateError, match="no earlier champion"):
        roll_back_champion(world.client, world.registry, world.store, "1", by="ada", reason="wrong prices")
    assert not promote(world, "2").promoted
    assert aliases(world) == ("1", None)
