"""Review and promotion: a person's decision as a form, and the flow a webhook, a schedule or a person starts to act on it."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from contracts.artifacts import PromotionOutcome
from flows.registry_of_form import ModelName, Person, StorageRoot, TrackingUri, VersionNumber, registry_of, store_below
from tasks.review import promote_reviewed_version, review
from tasks.review_tags import Decision


@flow(name="review-challenger")
def review_challenger(
    version: VersionNumber,
    decision: Annotated[Decision, Field(title="Decision", description="approved: it may replace the champion; rejected: it never does.")],
    reviewer: Person,
    note: Annotated[str, Field(title="Note", max_length=1000, description="Why; kept in the record.")] = "",
    model_name: ModelName = "perennial-recommender",
    storage_root: StorageRoot = ".perennial",
    tracking_uri: TrackingUri = None,
) -> str:
    """Decide about a version after reading its page in MLflow. Promotion follows by itself: at once by webhook, within ten minutes by schedule."""
    return review(version, decision, reviewer, note, registry_of(model_name, tracking_uri), store_below(storage_root, model_name))


@flow(name="promote-reviewed")
def promote_reviewed(
    version: VersionNumber,
    model_name: ModelName = "perennial-recommender",
    storage_root: StorageRoot = ".perennial",
    tracking_uri: TrackingUri = None,
) -> PromotionOutcome:
    """Make an approved version champion after reading the registry again: review, gates, evaluation and champion must be those that were reviewed."""
    return promote_reviewed_version(version, registry_of(model_name, tracking_uri), store_below(storage_root, model_name))
