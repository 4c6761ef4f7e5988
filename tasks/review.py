"""Steps `review` and `promote_reviewed`: a person's decision is written to the registry; an approved version becomes champion after all is checked again."""

import json
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from mlflow import MlflowClient
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import PromotionOutcome
from contracts.errors import BundleError, RegistryStateError, TransientError
from contracts.sections.evaluation import RegistryConfig
from serving.recommender import Recommender
from serving.registry import ModelRegistry
from tasks.audit import audit_trail, record_decision
from tasks.gate import SCORE_TOLERANCE
from tasks.promote import move_champion, promotion_lock, quarantine_reason
from tasks.registry import CHAMPION, PREVIOUS_CHAMPION, connect, local_tracking_uri, registry_faults, set_version_tags, version_at
from tasks.reuse import run_each_time
from tasks.review_tags import (
    APPROVED,
    COMPARED_WITH,
    EVALUATION_DIGEST,
    REVIEW,
    REVIEW_NOTE,
    REVIEW_OF,
    REVIEWED_BY,
    SOMEONE,
    Decision,
    refusals,
    review_subject,
)
from tasks.store import Store, audit_address

GOLDEN_FILE = "golden_requests.json"
SmokeTest = Callable[[str], None]  # version number; raises where the version cannot serve


@task(name="review", **run_each_time(minutes=10))
def review(version: str, decision: Decision, reviewer: str, note: str, registry: RegistryConfig, store: Store) -> str:
    """Write a person's decision on a version; returns what it is bound to. Promotion follows by webhook or by the reconcile schedule."""
    subject = review_version(connect(registry, store.storage_root), registry, store, version, decision=decision, reviewer=reviewer, note=note)
    get_run_logger().info("%s: %s by %s", subject, decision, reviewer)
    return subject


@task(name="promote_reviewed", **run_each_time(minutes=30))
def promote_reviewed_version(version: str, registry: RegistryConfig, store: Store) -> PromotionOutcome:
    """Promote an approved version, or say every reason why not; calling it again changes nothing."""
    client = connect(registry, store.storage_root)
    with promotion_lock(store):
        outcome = promote_approved(client, registry, store, version, smoke_test=smoke_test_of(client, registry, store))
    get_run_logger().info("version %s: %s; champion: version %s", version, "promoted" if outcome.promoted else "not promoted", outcome.champion_version)
    create_markdown_artifact(
        f"## {registry.model_name} version {version}: {'champion' if outcome.promoted else 'not promoted'}\n\n"
        + "\n".join(f"* {reason}" for reason in outcome.reasons)
        + f"\n\nChampion: version {outcome.champion_version}\n",
        key="promotion",
        description="What the promotion found in the registry and did",
    )
    return outcome


def review_version(client: MlflowClient, registry: RegistryConfig, store: Store, version: str, *, decision: Decision, reviewer: str, note: str = "") -> str:
    """Set the review tags of a version and write the audit row; returns what the decision is bound to.

    The tag `review` is set last: it is what a webhook or the reconcile schedule acts on.
    Raises RegistryStateError for an approval of a version the gates have not judged.
    """
    name = registry.model_name
    tags = tags_of(client, name, version)
    subject = review_subject(name, version, tags.get(EVALUATION_DIGEST, "none"))
    if decision == APPROVED and tags.get(REVIEW_OF) != subject:
        raise RegistryStateError(
            f"{name} version {version}: expected the tag review_of={subject}, found {tags.get(REVIEW_OF, 'none')}. "
            "Only a version the gates have judged can be approved; a copy must pass them itself."
        )
    set_version_tags(client, name, version, {REVIEWED_BY: reviewer, REVIEW_NOTE: note, REVIEW: decision})
    record_decision(audit_address(store), model=name, version=version, decision=decision, by=reviewer, reasons=(note,) if note else (), figures={"of": subject})
    return subject


def promote_approved(client: MlflowClient, registry: RegistryConfig, store: Store, version: str, *, smoke_test: SmokeTest) -> PromotionOutcome:
    """Check an approved version against the registry as it is now and move the aliases; the caller holds the promotion lock.

    A refusal is a normal outcome with its reasons, recorded. Where the version is the champion already, nothing moves; a record that an interrupted promotion
    did not come to write is written. Raises BundleError, with both aliases back, where the smoke test fails.
    """
    name = registry.model_name
    tags = tags_of(client, name, version)
    champion = version_at(client, name, CHAMPION)
    current = str(champion.version) if champion else None
    if current == version:
        settle_champion(client, registry, store, version, smoke_test=smoke_test)
        return PromotionOutcome(challenger=True, promoted=True, reasons=(f"version {version} is the champion already",), champion_version=version)
    by = tags.get(REVIEWED_BY) or SOMEONE
    against = refusals(name, version, tags, champion=current, quarantined=quarantine_reason(client, name, version))
    if against:
        record_decision(
            audit_address(store), model=name, version=version, decision="refused", by="promotion", reasons=against, figures={}, previous_champion=current
        )
        return PromotionOutcome(challenger=False, promoted=False, reasons=against, champion_version=current)
    approved = f"approved by {by}" + (f": {tags[REVIEW_NOTE]}" if tags.get(REVIEW_NOTE) else "")
    move_champion(
        client,
        registry,
        store,
        version=version,
        evaluation_digest=tags[EVALUATION_DIGEST],
        compared_with=tags.get(COMPARED_WITH) or None,
        by=by,
        reasons=(approved, "gates passed, evaluation and champion as reviewed, golden requests repeated"),
        figures=gate_figures(store, name, version),
        smoke_test=lambda: smoke_test(version),
    )
    return PromotionOutcome(challenger=True, promoted=True, reasons=(approved,), champion_version=version)


def settle_champion(client: MlflowClient, registry: RegistryConfig, store: Store, version: str, *, smoke_test: SmokeTest) -> bool:
    """Try and record a champion that has no record: a promotion was interrupted after its last alias move, or the alias was moved by hand.

    Returns whether a record was missing. Raises BundleError, and records nothing, where the version cannot serve.
    """
    name = registry.model_name
    trail = audit_trail(audit_address(store), name)
    if trail.filter((pl.col("version") == version) & pl.col("decision").is_in(["promoted", "adopted"])).height:
        return False
    smoke_test(version)
    previous = version_at(client, name, PREVIOUS_CHAMPION)
    record_decision(
        audit_address(store),
        model=name,
        version=version,
        decision="adopted",
        by=tags_of(client, name, version).get("promoted_by", "unknown: the alias was moved outside of the pipeline"),
        reasons=("the alias champion points here and no record said so: a promotion was interrupted, or the alias moved by hand",),
        figures=gate_figures(store, name, version),
        previous_champion=str(previous.version) if previous and str(previous.version) != version else None,
    )
    return True


def tags_of(client: MlflowClient, name: str, version: str) -> dict[str, str]:
    """Tags of a version as the registry holds them now."""
    with registry_faults():
        return dict(client.get_model_version(name, version).tags)


def gate_figures(store: Store, name: str, version: str) -> dict[str, Any]:
    """Figures the gates recorded for a version; empty where they recorded none."""
    trail = audit_trail(audit_address(store), name).filter((pl.col("version") == version) & (pl.col("decision") == "challenger"))
    return dict(json.loads(trail["figures"][-1])) if trail.height else {}


def smoke_test_of(client: MlflowClient, registry: RegistryConfig, store: Store) -> SmokeTest:
    """Smoke test of this registry: the stored version is fetched anew, loaded as the service loads it, and must repeat its golden requests."""

    def try_version(version: str) -> None:
        try:
            run_id = tags_of(client, registry.model_name, version).get("run_id", "")
            with tempfile.TemporaryDirectory() as folder:
                with registry_faults():
                    golden = json.loads(Path(client.download_artifacts(run_id, GOLDEN_FILE, folder)).read_text(encoding="utf-8"))
                models = ModelRegistry(
                    registry.tracking_uri or local_tracking_uri(store.storage_root), registry.model_name, Path(folder) / "models", is_patient=True
                )
                check_golden_requests(models.load(version), golden)
        except (TransientError, BundleError):
            raise
        except Exception as error:
            raise BundleError(f"{registry.model_name} version {version} cannot be loaded from the registry: {error}. Register it again.") from error

    return try_version


def check_golden_requests(recommender: Recommender, golden: list[dict[str, Any]]) -> None:
    """Raise BundleError unless the recommender repeats its recorded answers: same items in the same order, scores within 1e-4."""
    if not golden:
        raise BundleError(f"version {recommender.version}: no golden requests were recorded; register it again.")
    for record in golden:
        asked = record["request"]
        answer = recommender.rank([asked["user_id"]], request_date=date.fromisoformat(asked["date"]), list_name=asked["list"], k=asked["k"])
        if answer[c.ITEM_ID].to_list() != record["items"] or not np.allclose(answer[c.SCORE].to_numpy(), record["scores"], atol=SCORE_TOLERANCE):
            raise BundleError(
                f"version {recommender.version}: golden request {asked} expected {record['items'][:3]}..., found {answer[c.ITEM_ID].to_list()[:3]}.... "
                "The stored model does not answer as it did when it was registered; do not serve it."
            )
