"""The sure path beside the webhook: every ten minutes what was approved is promoted and what was interrupted is finished."""

from prefect import flow

from contracts.artifacts import PromotionOutcome
from flows.registry_of_form import ModelName, StorageRoot, TrackingUri, registry_of, store_below
from tasks.reconcile import reconcile_registry


@flow(name="reconcile")
def reconcile(model_name: ModelName = "perennial-recommender", storage_root: StorageRoot = ".perennial", tracking_uri: TrackingUri = None) -> PromotionOutcome:
    """Put the aliases right and promote the approved version that waits; running it again changes nothing."""
    return reconcile_registry(registry_of(model_name, tracking_uri), store_below(storage_root, model_name))
