"""A table made of parts of the users equals the table made at once."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from features.demand import complete_demand, demand, demand_counts
from features.habits import habits, item_repeats, repeat_counts, repeats_of
from features.item_weeks import item_weeks
from features.user_parts import merge_item_weeks, num_parts_for, write_user_parts

CUTOFF = date(2024, 3, 1)
CATALOGUE = pl.LazyFrame({"item_id": ["i0", "i1", "i2"], "category": ["a > x", "a > y", None]})


@pytest.fixture
def log(events) -> pl.LazyFrame:
    return events(
        *(
            (f"u{n % 7}", f"i{(n * n) % 3}", f"2024-0{1 + n % 3}-{1 + (5 * n) % 27:02d} 10:00", float(1 + n % 4), ("north", "south", None)[n % 5 % 3])
            for n in range(90)
        )
    )


@pytest.fixture
def parts(log: pl.LazyFrame, tmp_path: Path) -> list[pl.LazyFrame]:
    return write_user_parts(log, tmp_path, num_parts=3)


def test_parts_hold_every_event_once_and_a_user_in_one_part(log: pl.LazyFrame, parts: list[pl.LazyFrame]) -> None:
    assert len(parts) > 1
    tables = [part.collect() for part in parts]
    assert pl.concat(tables).sort(pl.col("event_id").cast(pl.Int64)).equals(log.collect())
    assert sum(table["user_id"].n_unique() for table in tables) == 7
    assert all(table["event_id"].cast(pl.Int64).is_sorted() for table in tables)  # in the order of the log


def test_item_weeks_add_up(log: pl.LazyFrame, parts: list[pl.LazyFrame]) -> None:
    merged = merge_item_weeks([item_weeks(part, CUTOFF, by_region=True) for part in parts]).collect()
    assert merged.equals(item_weeks(log, CUTOFF, by_region=True).collect())


def test_demand_adds_up(log: pl.LazyFrame, parts: list[pl.LazyFrame]) -> None:
    args = {"frequency": "day", "levels": ("item", "category", "total"), "end": CUTOFF, "by_region": True}
    counts = pl.concat([demand_counts(part, CATALOGUE, **args) for part in parts])
    assert complete_demand(counts, frequency="day", end=CUTOFF).collect().equals(demand(log, CATALOGUE, **args).collect())


def test_habits_are_the_same(log: pl.LazyFrame, parts: list[pl.LazyFrame]) -> None:
    items = repeats_of(pl.concat([repeat_counts(part, CUTOFF) for part in parts]))
    whole_items = item_repeats(log, CUTOFF).collect()
    assert items.collect()["item_interval_days"].to_list() == pytest.approx(whole_items["item_interval_days"].to_list())
    first = log.select(pl.col("event_time").min().dt.date()).collect().item()
    merged = pl.concat([habits(part, CUTOFF, items=items, log_first_day=first).collect() for part in parts]).sort("user_id", "item_id")
    whole = habits(log, CUTOFF).collect()
    floats = pl.col(pl.Float32).round(4)
    assert merged.with_columns(floats).equals(whole.with_columns(floats))


def test_parts_grow_with_the_log() -> None:
    assert [num_parts_for(n, 5) for n in (1, 5, 6, 50)] == [1, 1, 2, 10]
