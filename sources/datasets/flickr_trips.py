"""Tourists' visits to sights of five cities, told from dated photographs; both hemispheres.

Source: Chen, Ong, Xie, "Learning points and routes to recommend trajectories", CIKM 2016. Some cameras had a wrong clock: visits before 2004
(the year the photo service opened) are set aside.
"""

import datetime as dt
from typing import Final

import polars as pl

from contracts import columns as c
from contracts.errors import SourceError
from contracts.sections.source import ColumnMapping, SourceConfig
from sources.datasets.declaration import Declaration, filled

SERVICE_OPENED: Final = dt.date(2004, 1, 1)


def declare(source: SourceConfig) -> Declaration:
    """One event of type `booking` a visit: a place taken. Value is its duration in seconds, region the city, basket the trip."""
    if source.uri is None:
        raise SourceError(
            "source.uri is missing: flickr_trips are not shipped. Set it to the visits, e.g. `${PERENNIAL_DATA}/flickr_poi_trips/visits.parquet`."
        )
    return Declaration(
        filled(
            source,
            columns=ColumnMapping(user_id="user_id", item_id="item_id", event_time="start_time", value="duration_s", basket_id="traj_id", region="city"),
            default_event_type="booking",
        ),
        rules={"before_the_service_opened": pl.col("start_time").cast(pl.String) < str(SERVICE_OPENED)},
        catalogue=_catalogue,
    )


def _catalogue(places: pl.LazyFrame) -> pl.LazyFrame:
    number = pl.col("item_id").str.extract(r"(\d+)$")
    return places.select(
        pl.col("item_id").alias(c.ITEM_ID),
        pl.concat_str("city", "category", separator=c.CATEGORY_SEPARATOR).alias(c.CATEGORY),
        pl.format("{}, {} {}", "city", pl.col("category").str.to_lowercase(), number).alias(c.TITLE),
    )
