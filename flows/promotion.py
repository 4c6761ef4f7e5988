"""Review and promotion: a person's decision as a form, and the flow a webhook, a schedule or a person starts to act on it."""

from typing import Annotated, Final

from prefect import flow
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from contracts.artifacts import PromotionOutcome
from flows.registry_of_form import ModelName, Person, StorageRoot, TrackingUri, VersionNumber, registry_of, store_below
from tasks.review import promote_reviewed_version, review
from tasks.review_tags import Decision

DAY_SECONDS: Final = 86_400
LOOK_SECONDS: Final = 5  # how often a paused run looks whether it was answered

TheDecision = Annotated[Decision, Field(title="Decision", description="approved: it may replace the champion; rejected: it never does.")]
Note = Annotated[str, Field(title="Note", max_length=1000, description="Why; kept in the record.")]


class ReviewAnswer(RunInput):
    """What a paused run asks of the reviewer."""

    decision: TheDecision
    reviewer: Person
    note: Note = ""


@flow(name="ask-for-review")
def ask_for_review(
    version: VersionNumber,
    days: Annotated[int, Field(title="Days to answer", ge=1, le=90, description="After that the run fails and nothing is decided.")] = 7,
    model_name: ModelName = "perennial-recommender",
    storage_root: StorageRoot = ".perennial",
    tracking_uri: TrackingUri = None,
) -> str:
    """Pause until a person has answered the form of the paused run (`Resume` on its page); then the decision is written, as by `review-challenger`."""
    question = ReviewAnswer.with_initial_data(description=f"{model_name} version {version}: read its page in MLflow, then decide.")
    answer = pause_flow_run(wait_for_input=question, timeout=days * DAY_SECONDS, poll_interval=LOOK_SECONDS)
    registry, store = registry_of(model_name, tracking_uri), store_below(storage_root, model_name)
    return review(version, answer.decision, answer.reviewer, answer.note, registry, store)


@flow(name="review-challenger")
def review_challenger(
    version: VersionNumber,
    decision: TheDecision,
    reviewer: Person,
    note: Note = "",
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
