"""Rollback in one call: the previous champion serves again, the bad version is withdrawn."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.registry_of_form import ModelName, Person, StorageRoot, TrackingUri, VersionNumber, registry_of, store_below
from tasks.roll_back import Rollback, find_serving, roll_back


@flow(name="rollback")
def rollback(
    by: Person,
    reason: Annotated[str, Field(title="Reason", min_length=1, max_length=1000, description="What is wrong with the version that serves; kept in the record.")],
    version: Annotated[
        VersionNumber | None, Field(title="Version", description="Expected champion; another one: nothing happens. None: whichever serves.")
    ] = None,
    model_name: ModelName = "perennial-recommender",
    storage_root: StorageRoot = ".perennial",
    tracking_uri: TrackingUri = None,
) -> Rollback:
    """Restore the previous champion and withdraw the version that serves; it is never promoted again, under this number or another."""
    registry, store = registry_of(model_name, tracking_uri), store_below(storage_root, model_name)
    return roll_back(version or find_serving(registry, store), registry, store, by=by, reason=reason)
