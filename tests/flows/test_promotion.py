"""Review, promotion, rollback and reconcile on a registry in memory: what may be promoted, and what is left when something fails in the middle."""

import threading
import time

import pytest

from contracts.errors import BundleError, RegistryStateError, TransientError
from tasks import promote as promote_module
from tasks.audit import audit_trail
from tasks.promote import promotion_lock
from tasks.reconcile import approved_version, reconcile_aliases
from tasks.review import promote_approved, review_version
from tasks.review_tags import QUARANTINED, quarantine_of, refusals, review_subject
from tasks.roll_back import roll_back_champion
from tests.flows.made_registry import MODEL, Killed, MadeRegistry, World

GOOD = {"review": "approved", "review_of": "shop/3:e1", "evaluation_digest": "e1", "gate_quality": "passed", "gate_servability": "passed", "compared_with": "2"}


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    monkeypatch.setattr(promote_module, "emit_event", lambda *given, **named: None)
    return World(MadeRegistry(), tmp_path)


def promote(world: World, version: str):
    return promote_approved(world.fuse, world.registry, world.store, version, smoke_test=world.smoke_test)


def reconcile(world: World):
    return reconcile_aliases(world.fuse, world.registry, world.store, smoke_test=world.smoke_test)


def roll_back(world: World, version: str):
    return roll_back_champion(world.fuse, world.registry, world.store, version, by="ada", reason="wrong prices")


def promoted(world: World, **what) -> str:
    version = world.register(**what)
    world.say(version, "approved")
    assert promote(world, version).promoted
    return version


def decisions(world: World) -> list[tuple[str, str]]:
    return list(audit_trail(world.audit, MODEL).select("version", "decision").iter_rows())


def test_approved_version_that_was_judged_as_it_is_may_be_promoted() -> None:
    assert refusals("shop", "3", GOOD, champion="2", quarantined=None) == ()


@pytest.mark.parametrize(
    ("change", "champion", "quarantined", "says"),
    [
        ({"review": "rejected"}, "2", None, "review=approved"),
        ({"review": "Approved "}, "2", None, "review=approved"),
        ({"review_of": "shop/1:e1"}, "2", None, "A copy"),
        ({"review_of": "other/3:e1"}, "2", None, "A copy"),
        ({"evaluation_digest": "e2"}, "2", None, "evaluated again"),
        ({"gate_quality": "failed"}, "2", None, "gate_quality"),
        ({"gate_servability": "failed"}, "2", None, "gate_servability"),
        ({}, "4", None, "the champion now is 4"),
        ({}, None, None, "the champion now is none"),
        ({"compared_with": ""}, "2", None, "compared with champion none"),
        ({}, "2", "wrong prices", "quarantined: wrong prices"),
    ],
)
def test_each_thing_that_is_not_as_reviewed_is_a_reason_against(change, champion, quarantined, says) -> None:
    found = refusals("shop", "3", {**GOOD, **change}, champion=champion, quarantined=quarantined)
    assert len(found) == 1
    assert says in found[0]


@pytest.mark.parametrize(("reviewer", "refused"), [("grace", False), ("Ada ", True), ("", True), (None, True)])
def test_approver_may_have_to_be_another_person_than_the_trainer(reviewer, refused) -> None:
    tags = {**GOOD, "second_person": "required", "trained_by": "ada"} | ({} if reviewer is None else {"reviewed_by": reviewer})
    found = refusals("shop", "3", tags, champion="2", quarantined=None)
    assert bool(found) == refused
    assert all("somebody other than ada" in reason for reason in found)
    assert refusals("shop", "3", {**tags, "second_person": ""}, champion="2", quarantined=None) == ()


def test_tags_that_are_missing_are_all_named() -> None:
    assert len(refusals("shop", "3", {}, champion="2", quarantined=None)) == 5


def test_same_bundle_under_another_number_stays_quarantined() -> None:
    bad = {"bundle_digest": "b1", QUARANTINED: "wrong prices"}
    assert quarantine_of({"bundle_digest": "b1"}, [bad, {"bundle_digest": "b2"}]) == "wrong prices"
    assert quarantine_of({"bundle_digest": "b2"}, [bad]) is None
    assert quarantine_of({}, [{QUARANTINED: "no digest"}]) is None


def test_promotion_moves_both_aliases_and_is_recorded_with_figures(world: World) -> None:
    first = promoted(world)
    second = world.register()
    review_version(world.client, world.registry, world.store, second, decision="approved", reviewer="grace", note="better in autumn")
    outcome = promote(world, second)
    assert outcome.promoted
    assert world.client.aliases == {"champion": second, "previous_champion": first, "challenger": second}
    last = audit_trail(world.audit, MODEL).row(-1, named=True)
    assert (last["decision"], last["by"], last["previous_champion"]) == ("promoted", "grace", first)
    assert "better in autumn" in last["reasons"]
    assert '"ndcg_at_10": 0.3' in last["figures"]


def test_second_promotion_of_the_champion_changes_nothing(world: World) -> None:
    version = promoted(world)
    before = (dict(world.client.aliases), decisions(world))
    assert promote(world, version).promoted
    assert (dict(world.client.aliases), decisions(world)) == before


def test_copy_that_carries_the_approval_is_refused_and_the_refusal_recorded(world: World) -> None:
    first = promoted(world)
    second = world.register()
    world.say(second, "approved")
    copy = world.copy(second)
    outcome = promote(world, copy)
    assert not outcome.promoted
    assert "A copy" in outcome.reasons[0]
    assert world.champion() == first
    assert decisions(world)[-1] == (copy, "refused")


def test_copy_cannot_be_approved_by_form_either(world: World) -> None:
    copy = world.copy(world.register())
    with pytest.raises(RegistryStateError, match="must pass them itself"):
        review_version(world.client, world.registry, world.store, copy, decision="approved", reviewer="grace")


def test_version_evaluated_against_an_older_champion_is_refused(world: World) -> None:
    promoted(world)
    late = world.register()
    newer = promoted(world)
    world.say(late, "approved")
    outcome = promote(world, late)
    assert not outcome.promoted
    assert f"the champion now is {newer}" in outcome.reasons[0]


def test_failed_smoke_test_puts_both_aliases_back(world: World) -> None:
    promoted(world)
    promoted(world)
    before = dict(world.client.aliases)
    bad = world.register(broken=True)
    world.say(bad, "approved")
    with pytest.raises(BundleError, match="golden"):
        promote(world, bad)
    assert {**world.client.aliases, "challenger": ""} == {**before, "challenger": ""}
    assert (bad, "promoted") not in decisions(world)


def test_first_champion_that_fails_its_smoke_test_leaves_no_champion(world: World) -> None:
    bad = world.register(broken=True)
    world.say(bad, "approved")
    with pytest.raises(BundleError):
        promote(world, bad)
    assert world.champion() is None


@pytest.mark.parametrize("calls", range(14))
def test_process_killed_anywhere_in_a_promotion_leaves_a_champion_and_reconcile_finishes_it(world: World, calls: int) -> None:
    first = promoted(world)
    second = world.register()
    world.say(second, "approved")
    world.fuse.burn_after(calls, for_good=True)
    try:
        promote(world, second)
    except Killed:
        assert world.champion() in {first, second}
    world.fuse.mend()
    reconcile(world)
    assert world.client.aliases["champion"] == second
    assert world.client.aliases["previous_champion"] == first
    assert [version for version, decision in decisions(world) if decision in {"promoted", "adopted"}] == [first, second]


@pytest.mark.parametrize("calls", range(12))
def test_connection_cut_anywhere_in_a_promotion_leaves_all_or_nothing(world: World, calls: int) -> None:
    first = promoted(world)
    second = world.register()
    world.say(second, "approved")
    world.fuse.burn_after(calls, for_good=False)
    try:
        promote(world, second)
    except (TransientError, OSError):
        assert world.champion() == first
        world.fuse.mend()
        promote(world, second)
    assert (world.client.aliases["champion"], world.client.aliases["previous_champion"]) == (second, first)


@pytest.mark.parametrize("calls", range(14))
def test_process_killed_anywhere_in_a_rollback_leaves_a_champion_and_reconcile_finishes_it(world: World, calls: int) -> None:
    first, second = promoted(world), promoted(world)
    world.fuse.burn_after(calls, for_good=True)
    killed = False
    try:
        roll_back(world, second)
    except Killed:
        killed = True
        assert world.champion() in {first, second}
    world.fuse.mend()
    reconcile(world)
    if QUARANTINED in world.tags(second):
        assert world.champion() == first
    else:
        assert killed
        assert world.champion() == second


def test_rollback_restores_withdraws_and_records(world: World) -> None:
    first, second, third = promoted(world), promoted(world), promoted(world)
    done = roll_back(world, third)
    assert (done.withdrawn, done.champion, done.changed) == (third, second, True)
    assert world.client.aliases == {"champion": second, "previous_champion": first}
    assert world.tags(third)[QUARANTINED] == "wrong prices"
    last = audit_trail(world.audit, MODEL).row(-1, named=True)
    assert (last["version"], last["decision"], last["by"], last["previous_champion"]) == (third, "rolled_back", "ada", second)


def test_rollback_called_twice_for_the_same_version_withdraws_one(world: World) -> None:
    promoted(world)
    second, third = promoted(world), promoted(world)
    roll_back(world, third)
    assert not roll_back(world, third).changed
    assert world.champion() == second


def test_rollback_of_the_only_champion_is_refused_and_it_goes_on(world: World) -> None:
    only = promoted(world)
    with pytest.raises(RegistryStateError, match="goes on serving"):
        roll_back(world, only)
    assert world.champion() == only
    assert QUARANTINED not in world.tags(only)


def test_reconcile_never_brings_back_what_was_withdrawn(world: World) -> None:
    first, second = promoted(world), promoted(world)
    roll_back(world, second)
    copy = world.copy(second)
    world.client.set_model_version_tag(MODEL, copy, "review_of", review_subject(MODEL, copy, world.tags(copy)["evaluation_digest"]))
    world.client.versions[copy].tags.pop(QUARANTINED)
    assert reconcile(world).reasons == ()
    assert world.champion() == first


def test_reconcile_promotes_the_newest_approved_version_once(world: World) -> None:
    promoted(world)
    older, newer, refused = world.register(), world.register(), world.register(passed=False)
    for version in (older, newer, refused):
        world.say(version, "approved")
    assert approved_version(world.client, world.registry, world.store, world.champion()) == newer
    assert reconcile(world).promoted
    trail = decisions(world)
    assert reconcile(world).reasons == ()
    assert (world.champion(), decisions(world)) == (newer, trail)


def test_old_approval_does_not_come_alive_after_a_rollback(world: World) -> None:
    first = promoted(world)
    older, newer = world.register(), world.register()
    world.say(older, "approved")
    world.say(newer, "approved")
    reconcile(world)
    roll_back(world, newer)
    assert reconcile(world).reasons == ()
    assert world.champion() == first


def test_reconcile_sets_a_champion_again_whose_alias_was_removed(world: World) -> None:
    promoted(world)
    second = promoted(world)
    world.client.delete_registered_model_alias(MODEL, "champion")
    assert "was gone" in reconcile(world).reasons[0]
    assert world.champion() == second
    world.client.delete_model_version(MODEL, second)
    reconcile(world)
    assert world.champion() == "1"


def test_alias_moved_by_hand_to_a_version_that_cannot_serve_is_rolled_back(world: World) -> None:
    first = promoted(world)
    second = promoted(world)
    bad = world.register(broken=True)
    world.client.set_registered_model_alias(MODEL, "champion", bad)
    reconcile(world)
    assert world.champion() in {first, second}
    assert "golden" in world.tags(bad)[QUARANTINED]


def test_two_promotions_at_once_one_after_the_other(world: World) -> None:
    promoted(world)
    versions = [world.register(), world.register()]
    for version in versions:
        world.say(version, "approved")
    outcomes = {}

    def run(version: str) -> None:
        with promotion_lock(world.store):
            time.sleep(0.05)
            outcomes[version] = promote(world, version)

    threads = [threading.Thread(target=run, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.promoted for outcome in outcomes.values()) == [False, True]
    winner = next(version for version, outcome in outcomes.items() if outcome.promoted)
    assert (world.champion(), world.client.aliases["previous_champion"]) == (winner, "1")


def test_lock_that_is_held_is_a_fault_that_may_pass(world: World, monkeypatch) -> None:
    monkeypatch.setattr(promote_module, "LOCK_WAIT_SECONDS", 0.0)
    with promotion_lock(world.store), pytest.raises(TransientError, match="has held this lock"), promotion_lock(world.store):
        pass
