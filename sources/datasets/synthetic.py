"""Generated behaviour as a data set: written once below the ingest's folder, then read like any other log."""

from pathlib import Path

from contracts.sections.source import CatalogueMapping, ColumnMapping, SourceConfig
from sources.datasets.declaration import Declaration, filled
from sources.synthetic import CATALOGUE_FILE, EVENTS_FOLDER, write_synthetic


def declare(source: SourceConfig, folder: Path) -> Declaration:
    """Events and catalogue of `source.synthetic`; an address in `source.uri` is where they are written instead."""
    written = write_synthetic(source.synthetic, Path(source.uri) if source.uri else folder / "synthetic")
    return Declaration(
        filled(
            source.model_copy(update={"uri": str(written / EVENTS_FOLDER), "catalogue_uri": str(written / CATALOGUE_FILE)}),
            columns=ColumnMapping(
                event_id="event_id",
                event_type="event_type",
                quantity="quantity",
                price="price",
                basket_id="basket_id",
                platform="platform",
                region="region",
            ),
            catalogue_columns=CatalogueMapping(
                category=("department", "category"), title="title", text="text", available_from="available_from", available_until="available_until"
            ),
        ),
        is_regenerated=True,
    )
