"""Ready data sets, one file each. `declare` says how the one a configuration names is read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from contracts.sections.source import SourceConfig
from sources.datasets import amazon_reviews, complete_journey, flickr_trips, hotel_bookings, online_retail_ii, synthetic, table
from sources.datasets.declaration import Declaration

DATASETS: Final[Mapping[str, Callable[[SourceConfig], Declaration]]] = MappingProxyType(
    {
        "table": table.declare,
        "complete_journey": complete_journey.declare,
        "online_retail_ii": online_retail_ii.declare,
        "amazon_reviews": amazon_reviews.declare,
        "flickr_trips": flickr_trips.declare,
        "hotel_bookings": hotel_bookings.declare,
    }
)


def declare(source: SourceConfig, folder: Path) -> Declaration:
    """How `source.dataset` is read. Generated behaviour is written below `folder` first, once per configuration."""
    if source.dataset == "synthetic":
        return synthetic.declare(source, folder)
    return DATASETS[source.dataset](source)
