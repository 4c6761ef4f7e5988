"""A small shop with a year and a half of purchases, and the folder of the reference protocol."""

import datetime as dt
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
TIME = pl.Datetime("us", "UTC")


@pytest.fixture(scope="session")
def make_events() -> Callable[[Sequence[tuple[str, str, str]]], pl.DataFrame]:
    """Rows of (user, item, ISO date) -> interactions; all are purchases."""

    def make(rows: Sequence[tuple[str, str, str]]) -> pl.DataFrame:
        table = pl.DataFrame(rows, schema=["user_id", "item_id", "date"], orient="row")
        time = pl.col("date").str.to_datetime("%Y-%m-%d", time_zone="UTC", time_unit="us")
        return table.select("user_id", "item_id", time.alias("event_time"), pl.lit("purchase").alias("event_type"))

    return make


@pytest.fixture(scope="session")
def shop() -> pl.DataFrame:
    """6,000 purchases of 60 users and 90 items over 540 days; items have seasons and users have favourites."""
    generator = np.random.default_rng(5)
    size = 6_000
    user = generator.integers(0, 60, size)
    day = generator.integers(0, 540, size)
    favourite = (user * 7 + generator.integers(0, 6, size)) % 90
    seasonal = (day % 364 // 28 * 7 + generator.integers(0, 7, size)) % 90
    any_item = generator.integers(0, 90, size)
    item = np.select([generator.random(size) < 0.4, generator.random(size) < 0.5], [favourite, seasonal], any_item)
    table = pl.DataFrame({"user_id": [f"u{k:02d}" for k in user], "item_id": [f"i{k:02d}" for k in item], "day": day})
    time = pl.lit(START).cast(TIME) + pl.duration(days=pl.col("day"), minutes=pl.int_range(pl.len()) % 1_440)
    region = pl.when(pl.col("user_id") < "u20").then(pl.lit("AU")).otherwise(pl.lit("GB"))
    return table.select("user_id", "item_id", time.alias("event_time"), pl.lit("purchase").alias("event_type"), region.alias("region")).sort(
        "event_time", maintain_order=True
    )


@pytest.fixture(scope="session")
def protocol() -> ModuleType:
    """The reference of the protocol; skipped where it is not beside the repository."""
    path = SHARED / "protocol" / "protocol.py"
    if not path.exists():
        pytest.skip(f"no reference protocol at {path}")
    spec = importlib.util.spec_from_file_location("reference_protocol", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def online_retail(protocol: ModuleType) -> pl.DataFrame:
    """Online Retail II as the protocol cleans it; skipped where it is not beside the repository."""
    if not (SHARED / "data" / "online_retail_ii").exists():
        pytest.skip(f"no Online Retail II below {SHARED / 'data'}")
    events = protocol.events("online_retail_ii", SHARED / "data")
    return events.select("user_id", "item_id", event_time=pl.col("time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
