from datetime import date

import polars as pl

from contracts.tables import ITEM_WEEKS
from features.item_weeks import item_weeks

CUTOFF = date(2024, 3, 1)


def test_weeks_are_counted_back_from_the_cutoff_and_buyers_are_distinct(events) -> None:
    log = events(
        ("u1", "a", "2024-02-29 23:59:59", 2.0),  # week 0
        ("u1", "a", "2024-02-23 00:00:00", 3.0),  # week 0: exactly seven days before
        ("u2", "a", "2024-02-22 23:59:59", None),  # week 1; a missing quantity is one unit
        ("u1", "a", "2024-02-16", 1.0),  # week 1
        ("u1", "a", "2024-01-01", 5.0),  # week 8
        ("u2", "b", "2024-02-25"),
        ("u3", "a", "2024-03-01"),  # at the cut-off: not known
    )
    table = item_weeks(log, CUTOFF).collect()
    assert dict(table.schema) == dict(ITEM_WEEKS.schema)
    assert table.select("item_id", "region", "weeks_ago", "buyers", "first_buyers", "last_buyers", "units", "users").rows() == [
        ("a", "all", 0, 1, 0, 1, 5.0, 2),
        ("a", "all", 1, 2, 1, 1, 2.0, 2),
        ("a", "all", 8, 1, 1, 0, 5.0, 2),
        ("b", "all", 0, 1, 1, 1, 1.0, 2),
    ]


def test_running_sums_give_exact_distinct_buyers_of_any_trailing_window(events) -> None:
    log = events(*((f"u{n % 5}", "a", f"2024-{1 + n % 2:02d}-{1 + (7 * n) % 28:02d}") for n in range(40)))
    table = item_weeks(log, CUTOFF).collect()
    for weeks in range(1, 9):
        start = pl.lit(CUTOFF).cast(pl.Datetime("us", "UTC")) - pl.duration(days=7 * weeks)
        window = log.filter(pl.col("event_time") >= start, pl.col("event_time") < pl.lit(CUTOFF).cast(pl.Datetime("us", "UTC")))
        distinct = window.select(pl.col("user_id").n_unique()).collect().item()
        assert table.filter(pl.col("weeks_ago") < weeks)["last_buyers"].sum() == distinct
    assert table["first_buyers"].sum() == 5


def test_regions_stand_beside_all_and_events_without_region_count_in_all_only(events) -> None:
    log = events(
        ("u1", "a", "2024-02-28", 1.0, "north"),
        ("u2", "a", "2024-02-28", 1.0, "south"),
        ("u3", "a", "2024-02-28", 1.0, None),
        ("u2", "a", "2024-02-27", 1.0, "south"),
    )
    table = item_weeks(log, CUTOFF, by_region=True).collect()
    assert table.select("region", "buyers", "units", "users").rows() == [("all", 3, 4.0, 3), ("north", 1, 1.0, 1), ("south", 1, 2.0, 1)]
    assert item_weeks(log, CUTOFF).collect()["region"].unique().to_list() == ["all"]
