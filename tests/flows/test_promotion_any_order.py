"""Random sequences of what happens to a registry: people, promotions, rollbacks, processes killed and connections cut at any call.

Whatever the order, `champion` resolves to a version that is there, and what is promoted was approved itself, passed its gates and was compared with the
champion it replaces.
"""

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import BundleError, RegistryStateError, TransientError
from tasks import promote as promote_module
from tasks.audit import audit_trail
from tasks.reconcile import reconcile_aliases
from tasks.review import promote_approved
from tasks.review_tags import QUARANTINED
from tasks.roll_back import roll_back_champion
from tests.flows.made_registry import MODEL, Killed, MadeRegistry, World

PEOPLE = ("register", "register_failing", "register_broken", "approve", "approve", "approve", "reject", "copy", "delete")
PROCESSES = ("promote", "promote", "reconcile", "roll_back")
FAULTS = ("none", "none", "killed", "cut")

Event = tuple[str, int, str, int]  # what, which version, fault, at which call


@pytest.fixture(autouse=True)
def no_events(monkeypatch) -> None:
    monkeypatch.setattr(promote_module, "emit_event", lambda *given, **named: None)


def happen(world: World, event: Event) -> None:
    """One event; what a person or process does to the registry, cut short where the fault says so."""
    what, number, fault, calls = event
    versions = world.versions()
    if what.startswith("register"):
        world.register(passed=what != "register_failing", broken=what == "register_broken")
        return
    if not versions:
        return
    version = versions[number % len(versions)]
    if what == "approve":
        world.say(version, "approved")
    elif what == "reject":
        world.say(version, "rejected")
    elif what == "copy":
        world.copy(version)
    elif what == "delete" and version != world.champion():
        world.client.delete_model_version(MODEL, version)
    elif what in PROCESSES:
        _run(world, what, version, fault, calls)


def _run(world: World, what: str, version: str, fault: str, calls: int) -> None:
    champion = world.champion()
    tags = world.tags(version)
    if fault != "none":
        world.fuse.burn_after(calls, for_good=fault == "killed")
    given = (world.fuse, world.registry, world.store)
    try:
        if what == "promote":
            outcome = promote_approved(*given, version, smoke_test=world.smoke_test)
            if outcome.promoted and version != champion:
                _may_be_promoted(world, version, tags, champion)
        elif what == "reconcile":
            reconcile_aliases(*given, smoke_test=world.smoke_test)
        elif champion is not None:
            roll_back_champion(*given, champion, by="ada", reason="bad")
    except (Killed, TransientError, OSError, BundleError, RegistryStateError):
        pass
    finally:
        world.fuse.mend()


def _may_be_promoted(world: World, version: str, tags: dict[str, str], champion: str | None) -> None:
    assert version not in world.copies
    assert version not in world.broken
    assert tags["review"] == "approved"
    assert tags["gate_quality"] == "passed"
    assert tags["compared_with"] == (champion or "")
    assert QUARANTINED not in tags


def check(world: World, events: list[Event]) -> None:
    """Let all happen; the champion resolves after every event once there was one, and after a last reconcile it can serve."""
    had_champion = False
    for event in events:
        happen(world, event)
        champion = world.champion()
        settled = audit_trail(world.audit, MODEL).filter(audit_trail(world.audit, MODEL)["decision"] == "promoted").height > 0
        had_champion = had_champion or settled
        assert champion is not None or not had_champion, event
        assert champion is None or champion in world.versions()
    for _ in range(len(world.versions()) + 2):  # each run withdraws at most one version that cannot serve
        if not reconcile_aliases(world.fuse, world.registry, world.store, smoke_test=world.smoke_test).reasons:
            break
    else:
        pytest.fail("reconcile does not come to rest")
    champion = world.champion()
    assert champion is not None or not had_champion
    if champion is not None and QUARANTINED in world.tags(champion):
        with pytest.raises(RegistryStateError):  # withdrawn, and nobody left to take its place
            roll_back_champion(world.fuse, world.registry, world.store, champion, by="ada", reason="bad")


def random_events(seed: int, num_events: int) -> list[Event]:
    """Events of one seed, processes and people in equal parts."""
    drawn = random.Random(seed)
    return [
        (drawn.choice(drawn.choice((PEOPLE, PROCESSES))), drawn.choice((-1, -1, drawn.randrange(1000))), drawn.choice(FAULTS), drawn.randrange(25))
        for _ in range(num_events)
    ]


EVENTS = st.lists(st.tuples(st.sampled_from([*PEOPLE, *PROCESSES]), st.integers(-3, 3), st.sampled_from(FAULTS), st.integers(0, 24)), min_size=5, max_size=25)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(EVENTS)
def test_champion_resolves_after_any_few_events(events: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(World(MadeRegistry(), Path(folder)), events)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_champion_resolves_after_any_thousand_events(tmp_path: Path, seed: int) -> None:
    check(World(MadeRegistry(), tmp_path), random_events(seed, 1_000))


@pytest.mark.slow
def test_champion_resolves_in_mlflow_itself_and_the_registry_in_memory_agrees_with_it(tmp_path: Path, monkeypatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    (tmp_path / "made").mkdir()
    address = f"sqlite:///{tmp_path / 'mlflow.sqlite'}"
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    client.create_registered_model(MODEL)
    real, made = World(client, tmp_path), World(MadeRegistry(), tmp_path / "made")
    events = random_events(3, 120)
    for event in events:
        happen(real, event)
        happen(made, event)
        assert (real.champion(), real.versions()) == (made.champion(), made.versions()), event
    check(real, [])
