"""Step `promote`: the challenger becomes champion after a review, or at once where the parameters say so; both aliases move or none."""

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger

from contracts.artifacts import EvaluationRef, PromotionOutcome, RegisteredVersion
from contracts.errors import TransientError
from contracts.sections.evaluation import RegistryConfig
from tasks.audit import record_decision
from tasks.registry import CHAMPION, PREVIOUS_CHAMPION, connect, registry_faults, version_at
from tasks.reuse import run_each_time
from tasks.review_tags import quarantine_of
from tasks.store import Store, audit_address

LOCK_WAIT_SECONDS = 300.0
AUTOMATIC = "automatic (registry.auto_promote)"


@task(name="promote", **run_each_time(minutes=30))
def promote(version: RegisteredVersion, challenger: PromotionOutcome, evaluation: EvaluationRef, registry: RegistryConfig, store: Store) -> PromotionOutcome:
    """Promote without a person where `registry.auto_promote` is set; else leave the challenger to its reviewer."""
    client = connect(registry, store.storage_root)
    champion = version_at(client, registry.model_name, CHAMPION)
    current = str(champion.version) if champion else None
    is_serving = champion is not None and champion.tags.get("bundle_digest") == _tags(client, version).get("bundle_digest")
    if not challenger.challenger:
        outcome = challenger.model_copy(update={"champion_version": current})
    elif is_serving:
        same = "" if current == version.version else f": version {version.version} is the same model, measured again"
        outcome = challenger.model_copy(
            update={"promoted": True, "champion_version": current, "reasons": (*challenger.reasons, f"version {current} is the champion already{same}")}
        )
    elif not registry.auto_promote:
        waiting = f"version {version.version} waits for a review: set the tag review=approved on it in MLflow"
        outcome = challenger.model_copy(update={"champion_version": current, "reasons": (*challenger.reasons, waiting)})
    elif withdrawn := quarantine_reason(client, registry.model_name, version.version):
        outcome = challenger.model_copy(update={"champion_version": current, "reasons": (*challenger.reasons, f"quarantined: {withdrawn}")})
    else:
        with promotion_lock(store):
            move_champion(
                client,
                registry,
                store,
                version=version.version,
                evaluation_digest=evaluation.digest,
                compared_with=evaluation.champion_version,
                by=AUTOMATIC,
                reasons=challenger.reasons,
            )
        outcome = challenger.model_copy(update={"promoted": True, "champion_version": version.version})
    get_run_logger().info("champion: version %s", outcome.champion_version)
    create_markdown_artifact(decision_text(outcome, version), key="promotion", description="What the gates and the promotion decided")
    return outcome


def _tags(client: MlflowClient, version: RegisteredVersion) -> dict[str, str]:
    with registry_faults():
        return dict(client.get_model_version(version.name, version.version).tags)


def move_champion(
    client: MlflowClient,
    registry: RegistryConfig,
    store: Store,
    *,
    version: str,
    evaluation_digest: str,
    compared_with: str | None,
    by: str,
    reasons: tuple[str, ...],
    figures: Mapping[str, Any] | None = None,
    smoke_test: Callable[[], None] | None = None,
) -> None:
    """Move `previous_champion`, then `champion`, then try the new one; a failure puts both back. Writes the audit row and emits an event.

    Raises ValueError where the version carries another evaluation, or the champion is no longer the one it was compared with.
    """
    name = registry.model_name
    with registry_faults():
        tags = client.get_model_version(name, version).tags
    champion, previous = version_at(client, name, CHAMPION), version_at(client, name, PREVIOUS_CHAMPION)
    if tags.get("evaluation_digest") != evaluation_digest:
        raise ValueError(
            f"{name} version {version}: expected evaluation {evaluation_digest}, its tag says {tags.get('evaluation_digest')}. "
            "Evaluate this version again before promoting it."
        )
    if (str(champion.version) if champion else None) != compared_with:
        raise ValueError(
            f"{name} version {version} was compared with champion {compared_with}, the champion now is {str(champion.version) if champion else None}. "
            "Evaluate it against that one."
        )
    before = {CHAMPION: str(champion.version) if champion else None, PREVIOUS_CHAMPION: str(previous.version) if previous else None}
    with _both_or_none(client, name, before), registry_faults():
        if champion:
            client.set_registered_model_alias(name, PREVIOUS_CHAMPION, champion.version)
        client.set_registered_model_alias(name, CHAMPION, version)
        client.set_model_version_tag(name, version, "promoted_by", by)
        if smoke_test:
            smoke_test()
    record_decision(
        audit_address(store),
        model=name,
        version=version,
        decision="promoted",
        by=by,
        reasons=reasons,
        figures={**(figures or {}), "evaluation_digest": evaluation_digest},
        previous_champion=compared_with,
    )
    emit_event(
        "perennial.champion.moved",
        resource={"prefect.resource.id": f"perennial.model.{name}.{version}", "prefect.resource.name": name},
        payload={"version": version, "by": by},
    )


@contextmanager
def _both_or_none(client: MlflowClient, name: str, before: dict[str, str | None]) -> Iterator[None]:
    """Put the aliases back where they were if what follows fails. A process killed in between leaves a champion that resolves: it moves last."""
    try:
        yield
    except BaseException as error:
        try:
            for alias, version in before.items():
                set_or_delete_alias(client, name, alias, version)
        except Exception as fault:
            error.add_note(f"The aliases could not be put back ({fault}); the flow `reconcile` does it when MLflow answers again.")
        raise


def set_or_delete_alias(client: MlflowClient, name: str, alias: str, version: str | None) -> None:
    """Point an alias at a version; None removes it."""
    with registry_faults():
        if version is not None:
            client.set_registered_model_alias(name, alias, version)
        elif version_at(client, name, alias):
            client.delete_registered_model_alias(name, alias)


def quarantine_reason(client: MlflowClient, name: str, version: str) -> str | None:
    """Why a version, or another one with the same bundle, was withdrawn by a rollback; None where it was not."""
    with registry_faults():
        return quarantine_of(client.get_model_version(name, version).tags, [other.tags for other in client.search_model_versions(f"name = '{name}'")])


@contextmanager
def promotion_lock(store: Store) -> Iterator[None]:
    """One promotion, rollback or reconcile at a time per storage root: MLflow has no compare-and-swap of aliases.

    A file lock: the kernel frees it when its process ends, however it ends. Raises TransientError after five minutes of waiting.
    """
    path = Path(store.storage_root).resolve() / "promotion.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    with path.open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise TransientError(
                        f"{path}: another promotion or rollback has held this lock for {LOCK_WAIT_SECONDS:.0f} s. It is tried again."
                    ) from error
                time.sleep(0.1)
        yield


def decision_text(outcome: PromotionOutcome, version: RegisteredVersion) -> str:
    """The decision in Markdown."""
    verdict = "promoted to champion" if outcome.promoted else ("challenger, waits for a review" if outcome.challenger else "refused")
    return (
        f"## {version.name} version {version.version}: {verdict}\n\n"
        + "\n".join(f"* {reason}" for reason in outcome.reasons)
        + f"\n\nChampion: version {outcome.champion_version}\n"
    )
