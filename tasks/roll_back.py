"""Step `roll_back`: the previous champion serves again, the bad version is withdrawn for good, and the record says who and why."""

import polars as pl
from mlflow import MlflowClient
from prefect import task
from prefect.events import emit_event
from prefect.logging import get_run_logger

from contracts.artifacts import Reference
from contracts.errors import RegistryStateError
from contracts.sections.evaluation import RegistryConfig
from tasks.audit import audit_trail, record_decision
from tasks.promote import promotion_lock, quarantine_reason, set_or_delete_alias
from tasks.registry import CHALLENGER, CHAMPION, PREVIOUS_CHAMPION, connect, registry_faults, set_version_tags, version_at
from tasks.reuse import run_each_time
from tasks.review_tags import QUARANTINED
from tasks.store import Store, audit_address


class Rollback(Reference):
    """What a rollback left: the version that was withdrawn, and the one that serves."""

    withdrawn: str
    champion: str
    changed: bool


@task(name="find_serving", **run_each_time(minutes=10))
def find_serving(registry: RegistryConfig, store: Store) -> str:
    """Number of the version that serves; read once, so that a rollback that is tried again withdraws no second one."""
    champion = version_at(connect(registry, store.storage_root), registry.model_name, CHAMPION)
    if champion is None:
        raise RegistryStateError(f"{registry.model_name}: no champion serves, so there is nothing to roll back. The flow `reconcile` restores a lost alias.")
    return str(champion.version)


@task(name="roll_back", **run_each_time(minutes=10))
def roll_back(version: str, registry: RegistryConfig, store: Store, *, by: str, reason: str) -> Rollback:
    """Withdraw a champion and let its predecessor serve; a version that was withdrawn already is left alone."""
    client = connect(registry, store.storage_root)
    with promotion_lock(store):
        done = roll_back_champion(client, registry, store, version, by=by, reason=reason)
    get_run_logger().info("version %s withdrawn, version %s serves", done.withdrawn, done.champion)
    if done.changed:
        emit_event(
            "perennial.champion.moved",
            resource={"prefect.resource.id": f"perennial.model.{registry.model_name}.{done.champion}", "prefect.resource.name": registry.model_name},
            payload={"version": done.champion, "withdrawn": done.withdrawn, "by": by},
        )
    return done


def roll_back_champion(client: MlflowClient, registry: RegistryConfig, store: Store, version: str, *, by: str, reason: str) -> Rollback:
    """Withdraw the champion `version` and let its predecessor serve; the caller holds the promotion lock.

    Quarantine and record come first: a process killed afterwards leaves a withdrawn champion, which the reconcile schedule finishes rolling back.
    Raises RegistryStateError where there is no predecessor that may serve, or `version` is not the champion.
    """
    name = registry.model_name
    champion = version_at(client, name, CHAMPION)
    serving = str(champion.version) if champion else None
    if serving is None or serving != version:
        if serving and quarantine_reason(client, name, version):
            _tidy(client, registry, store, version, serving)
            return Rollback(withdrawn=version, champion=serving, changed=False)
        raise RegistryStateError(f"{name}: asked to roll back version {version}, but version {serving or 'none'} serves. Look at `perennial audit`.")
    good = predecessor(client, registry, store, version)
    if good is None:
        raise RegistryStateError(
            f"{name}: version {version} serves and no earlier champion is left that was not withdrawn. It goes on serving; promote another version."
        )
    set_version_tags(client, name, version, {QUARANTINED: reason})
    record_decision(
        audit_address(store),
        model=name,
        version=version,
        decision="rolled_back",
        by=by,
        reasons=(reason, f"version {good} serves again"),
        figures={},
        previous_champion=good,
    )
    with registry_faults():
        client.set_registered_model_alias(name, CHAMPION, good)
    _tidy(client, registry, store, version, good)
    return Rollback(withdrawn=version, champion=good, changed=True)


def _tidy(client: MlflowClient, registry: RegistryConfig, store: Store, withdrawn: str, champion: str) -> None:
    """Let `previous_champion` name the predecessor of the champion, and take `challenger` off the version that was withdrawn."""
    name = registry.model_name
    set_or_delete_alias(client, name, PREVIOUS_CHAMPION, predecessor(client, registry, store, champion))
    challenger = version_at(client, name, CHALLENGER)
    if challenger is not None and str(challenger.version) == withdrawn:
        set_or_delete_alias(client, name, CHALLENGER, None)


def predecessor(client: MlflowClient, registry: RegistryConfig, store: Store, version: str) -> str | None:
    """The champion before a version that still exists and was not withdrawn: by the alias where the version serves now, then back through the record."""
    name = registry.model_name
    before = dict(
        audit_trail(audit_address(store), name).filter(pl.col("decision").is_in(["promoted", "adopted"])).select("version", "previous_champion").iter_rows()
    )
    champion, previous = version_at(client, name, CHAMPION), version_at(client, name, PREVIOUS_CHAMPION)
    if previous is not None and champion is not None and str(champion.version) == version != str(previous.version):
        before[version] = str(previous.version)
    with registry_faults():
        existing = {str(found.version) for found in client.search_model_versions(f"name = '{name}'")}
    seen = {version}
    while (earlier := before.get(version)) and earlier not in seen:
        if earlier in existing and quarantine_reason(client, name, earlier) is None:
            return earlier
        seen.add(earlier)
        version = earlier
    return None
