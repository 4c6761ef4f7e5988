"""Amazon reviews in the shapes they are published in: rating files without a header, JSON lines of 2014 to 2023, CSV of 2023, Parquet copies.

A review counts as an event of type `rating` at the time it was written. Times before 2023 are whole days; reviews of one day keep the order of the file.
"""

from collections.abc import Mapping
from typing import Final

import polars as pl

from contracts import columns as c
from contracts.errors import SourceError
from contracts.sections.source import ColumnMapping, SourceConfig
from sources.datasets.declaration import Declaration, filled, rename_known
from sources.mapping import category_path
from sources.readers import ROW, TABLE

_NAMES: Final[Mapping[str, str]] = {
    "reviewerID": "user_id",
    "asin": "item_id",
    "parent_asin": "item_id",
    "overall": "rating",
    "unixReviewTime": "timestamp",
    "ts": "timestamp",
}
_SECONDS_BELOW: Final = 100_000_000_000  # seconds until the year 5138; milliseconds since 1973


def declare(source: SourceConfig) -> Declaration:
    """One event a review; times of the 2023 release are milliseconds, of the others seconds or dates."""
    if source.uri is None:
        raise SourceError("source.uri is missing: amazon_reviews are not shipped. Set it to a ratings file, e.g. `${PERENNIAL_DATA}/Beauty.jsonl.gz`.")
    return Declaration(
        filled(
            source,
            columns=ColumnMapping(user_id="user_id", item_id="item_id", event_time="review_time", value="rating"),
            default_event_type="rating",
            time_unit="s",
        ),
        prepare=_prepare,
        catalogue=_catalogue,
    )


def _prepare(raw: pl.LazyFrame) -> pl.LazyFrame:
    names = _own_columns(raw)
    if len(names) == 4 and not {"user_id", "reviewerID"} & set(names):
        raise SourceError(f"the ratings have no header line, found `{','.join(names)}`. Set `source.csv_columns: [user_id, item_id, rating, timestamp]`.")
    renamed = rename_known(raw, {name: ours for name, ours in _NAMES.items() if not (name == "asin" and "parent_asin" in names)})
    schema = renamed.collect_schema()
    added = [] if "rating" in schema else [pl.lit(None, pl.Float64).alias("rating")]
    time = pl.col("timestamp") if "timestamp" in schema else pl.lit(None, pl.Int64)
    if "timestamp" not in schema or not schema["timestamp"].is_temporal():
        number = time.cast(pl.Int64, strict=False)
        time = pl.when(number.abs() < _SECONDS_BELOW).then(number).otherwise(number // 1000)
    return renamed.with_columns(*added, review_time=time)


def _own_columns(raw: pl.LazyFrame) -> list[str]:
    return [name for name in raw.collect_schema().names() if name not in {ROW, TABLE}]


def _catalogue(items: pl.LazyFrame) -> pl.LazyFrame:
    names = _own_columns(items)
    renamed = rename_known(items, {"parent_asin": "item_id"} if "parent_asin" in names else {"asin": "item_id"})
    schema = renamed.collect_schema()
    title = pl.col("title").cast(pl.String) if "title" in schema else pl.lit(None, pl.String)
    levels = next((pl.col(name) for name in ("categories", "category") if schema.get(name) == pl.List(pl.String)), None)
    category = (
        levels.list.join(c.CATEGORY_SEPARATOR) if levels is not None else category_path(*([pl.col("main_category")] if "main_category" in schema else []))
    )
    return renamed.select(pl.col("item_id").cast(pl.String).alias(c.ITEM_ID), category.alias(c.CATEGORY), title.alias(c.TITLE))
