"""Fields the forms of review, promotion, rollback and reconcile share, and what they stand for."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from contracts.sections.evaluation import RegistryConfig
from tasks.store import Store

ModelName = Annotated[str, Field(title="Model", min_length=1, max_length=256, description="Registered model in MLflow.")]
VersionNumber = Annotated[str, Field(title="Version", pattern=r"^[1-9][0-9]*$", description="Number of the version in MLflow.")]
Person = Annotated[str, Field(title="Your name", min_length=1, max_length=256, description="Who decides; kept in the record.")]
StorageRoot = Annotated[str, Field(title="Storage root", min_length=1, description="Folder of the record of decisions, as in the pipeline's parameters.")]
TrackingUri = Annotated[str | None, Field(title="MLflow address", description="None: the SQLite store below the storage root.")]


def registry_of(model_name: str, tracking_uri: str | None) -> RegistryConfig:
    """The registry the form names."""
    return RegistryConfig(model_name=model_name, tracking_uri=tracking_uri)


def store_below(storage_root: str, model_name: str) -> Store:
    """A store below the storage root: where the record and the promotion lock are."""
    return Store(root=str(Path(storage_root).resolve() / model_name))
