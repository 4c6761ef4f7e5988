"""Step `reconcile`: what the registry says should be so, is made so - the sure path beside the webhook. Running it again changes nothing."""

import polars as pl
from mlflow import MlflowClient
from prefect import task
from prefect.events import emit_event
from prefect.logging import get_run_logger

from contracts.artifacts import PromotionOutcome
from contracts.errors import BundleError
from contracts.sections.evaluation import RegistryConfig
from tasks.audit import audit_trail, record_decision
from tasks.promote import promotion_lock, quarantine_reason
from tasks.registry import CHAMPION, PREVIOUS_CHAMPION, connect, registry_faults, set_version_tags, version_at
from tasks.reuse import run_each_time
from tasks.review import SmokeTest, promote_approved, settle_champion, smoke_test_of
from tasks.review_tags import QUARANTINED, quarantine_of, refusals
from tasks.roll_back import predecessor, roll_back_champion
from tasks.store import Store, audit_address

RECONCILE = "reconcile"


@task(name="reconcile", **run_each_time(minutes=30))
def reconcile_registry(registry: RegistryConfig, store: Store) -> PromotionOutcome:
    """Repair the aliases and promote the approved version that waits, if there is one."""
    client = connect(registry, store.storage_root)
    with promotion_lock(store):
        outcome = reconcile_aliases(client, registry, store, smoke_test=smoke_test_of(client, registry, store))
    for reason in outcome.reasons:
        get_run_logger().info(reason)
    if outcome.reasons:
        emit_event(
            "perennial.registry.reconciled",
            resource={"prefect.resource.id": f"perennial.model.{registry.model_name}", "prefect.resource.name": registry.model_name},
            payload={"done": list(outcome.reasons), "champion": outcome.champion_version},
        )
    return outcome


def reconcile_aliases(client: MlflowClient, registry: RegistryConfig, store: Store, *, smoke_test: SmokeTest) -> PromotionOutcome:
    """Put `champion` right, then promote what was approved; `reasons` says what was done, empty: nothing. The caller holds the promotion lock.

    A lost champion is set again, a withdrawn one rolled back, one without a record tried and recorded (or rolled back where it cannot serve).
    """
    done = _mend_champion(client, registry, store, smoke_test)
    champion = version_at(client, registry.model_name, CHAMPION)
    current = str(champion.version) if champion else None
    waiting = approved_version(client, registry, store, current)
    if waiting is None:
        return PromotionOutcome(challenger=False, promoted=False, reasons=done, champion_version=current)
    try:
        outcome = promote_approved(client, registry, store, waiting, smoke_test=smoke_test)
    except BundleError as error:
        _withdraw(client, registry, store, waiting, f"cannot serve: {error}")
        reasons = (*done, f"version {waiting} withdrawn: {error}")
        return PromotionOutcome(challenger=False, promoted=False, reasons=reasons, champion_version=current)
    return outcome.model_copy(update={"reasons": (*done, f"version {waiting} promoted", *outcome.reasons)})


def approved_version(client: MlflowClient, registry: RegistryConfig, store: Store, champion: str | None) -> str | None:
    """The newest version that may become champion now; None where none waits.

    Versions older than one that was promoted already are passed over: they were superseded, and after a rollback no old approval comes alive by itself.
    """
    name = registry.model_name
    with registry_faults():
        versions = {str(found.version): dict(found.tags) for found in client.search_model_versions(f"name = '{name}'")}
    promoted = audit_trail(audit_address(store), name).filter(pl.col("decision").is_in(["promoted", "adopted"]))["version"].to_list()
    newest = max(map(int, promoted), default=0)
    eligible = [
        int(version)
        for version, tags in versions.items()
        if int(version) > newest and not refusals(name, version, tags, champion=champion, quarantined=quarantine_of(tags, versions.values()))
    ]
    return str(max(eligible)) if eligible else None


def _mend_champion(client: MlflowClient, registry: RegistryConfig, store: Store, smoke_test: SmokeTest) -> tuple[str, ...]:
    """Put a lost, withdrawn or unrecorded champion right; returns what was done."""
    name = registry.model_name
    champion = version_at(client, name, CHAMPION)
    if champion is None:
        return _set_lost_champion(client, registry, store)
    version = str(champion.version)
    withdrawn = quarantine_reason(client, name, version)
    if withdrawn is None:
        try:
            if settle_champion(client, registry, store, version, smoke_test=smoke_test):
                return (f"champion {version} tried and recorded",)
        except BundleError as error:
            withdrawn = f"cannot serve: {error}"
    if withdrawn is None or predecessor(client, registry, store, version) is None:
        return ()
    rolled = roll_back_champion(client, registry, store, version, by=RECONCILE, reason=withdrawn)
    return (f"version {rolled.withdrawn} rolled back, version {rolled.champion} serves",)


def _withdraw(client: MlflowClient, registry: RegistryConfig, store: Store, version: str, reason: str) -> None:
    """Withdraw an approved version that cannot serve, so that it is not tried every ten minutes and does not stand before others."""
    set_version_tags(client, registry.model_name, version, {QUARANTINED: reason})
    record_decision(audit_address(store), model=registry.model_name, version=version, decision="refused", by=RECONCILE, reasons=(reason,), figures={})


def _set_lost_champion(client: MlflowClient, registry: RegistryConfig, store: Store) -> tuple[str, ...]:
    """Set the alias again where it, or the version it named, was removed; nothing where nothing was ever promoted."""
    name = registry.model_name
    trail = audit_trail(audit_address(store), name).filter(pl.col("decision").is_in(["promoted", "adopted", "restored", "rolled_back"]))
    recorded = trail.select(pl.when(pl.col("decision") == "rolled_back").then("previous_champion").otherwise("version"))
    previous = version_at(client, name, PREVIOUS_CHAMPION)
    with registry_faults():
        existing = {str(found.version) for found in client.search_model_versions(f"name = '{name}'")}
    wanted = [*reversed(recorded.to_series().to_list()), *([str(previous.version)] if previous else [])]
    good = next((version for version in wanted if version in existing and quarantine_reason(client, name, version) is None), None)
    if good is None:
        return ()
    with registry_faults():
        client.set_registered_model_alias(name, CHAMPION, good)
    reason = f"the alias champion was gone; version {good} is the latest recorded champion that is left"
    record_decision(audit_address(store), model=name, version=good, decision="restored", by=RECONCILE, reasons=(reason,), figures={})
    return (reason,)
