"""The SQL the suites look at: small tables in, small tables out."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from contracts.artifacts import TableRef
from contracts.tables import INTERACTIONS
from expectations import interaction_views as views
from expectations.row_views import create_rows_view
from tests.expectations.made_tables import made_events, store_table


@pytest.fixture
def connection():
    with duckdb.connect() as opened:
        yield opened


def accepted(connection: duckdb.DuckDBPyConnection, table: TableRef) -> None:
    create_rows_view(connection, table.name, table.parts(), grain=INTERACTIONS.grain)
    views.create_accepted_view(connection, table)


def events_on(days: dict[date, int], item_of=lambda _: "i") -> pl.DataFrame:
    times = [datetime(day.year, day.month, day.day, 12, tzinfo=UTC) for day, count in days.items() for _ in range(count)]
    return made_events(len(times)).with_columns(pl.Series("event_time", times), pl.Series("item_id", [item_of(time.date()) for time in times]))


def test_of_events_with_one_id_all_but_the_first_stored_are_repeats(connection, tmp_path: Path):
    ids = ["x", "y", "x", None, None]
    table = store_table(
        tmp_path / "t", "interactions", made_events(5).with_columns(pl.Series("event_id", ids)), made_events(1).with_columns(event_id=pl.lit("y"))
    )
    create_rows_view(connection, table.name, table.parts(), grain=INTERACTIONS.grain)
    rows = connection.sql("SELECT event_id, is_repeated FROM interactions ORDER BY stored_part, stored_row").fetchall()
    assert rows == [("x", False), ("y", False), ("x", True), (None, False), (None, False), ("y", True)]


def test_numbers_that_are_not_finite_are_seen_although_parquet_statistics_hide_them(connection, tmp_path: Path):
    prices = pl.Series("price", [1.0, float("nan"), float("inf"), None])
    table = store_table(tmp_path / "t", "interactions", made_events(4).with_columns(prices))
    create_rows_view(connection, table.name, table.parts(), grain=INTERACTIONS.grain)
    assert connection.sql("SELECT price, is_finite FROM interactions ORDER BY stored_row").fetchall() == [
        (1.0, True),
        (None, False),
        (None, False),
        (None, True),
    ]
    assert connection.sql("SELECT sum(CASE WHEN NOT is_finite THEN 1 ELSE 0 END) FROM interactions").fetchone() == (2,)


def test_times_are_compared_in_utc_and_missing_columns_are_null(connection, tmp_path: Path):
    table = store_table(tmp_path / "t", "interactions", made_events(1).drop("price"))
    create_rows_view(connection, table.name, table.parts(), grain=INTERACTIONS.grain)
    assert connection.sql("SELECT event_time, price, region FROM interactions").fetchall() == [(datetime(2024, 1, 1), None, None)]


def test_part_names_with_quotes_and_month_folders_are_read(connection, tmp_path: Path):
    table = store_table(tmp_path / "it's" / "month=2024-01", "interactions", made_events(2))
    create_rows_view(connection, table.name, table.parts(), grain=INTERACTIONS.grain)
    assert "month" not in connection.sql("FROM interactions").columns


def test_the_summary_counts_users_items_days_and_repeats(connection, tmp_path: Path):
    events = pl.concat([made_events(49, num_users=7, num_items=5, hours_apart=24), made_events(1).with_columns(event_id=pl.lit("again"))])
    accepted(connection, store_table(tmp_path / "t", "interactions", events))
    views.create_summary(connection, rows_in=200, rows_quarantined=150)
    found = connection.sql("FROM interactions_summary").pl().row(0, named=True)
    assert (found["num_events"], found["num_users"], found["num_items"], found["span_days"]) == (50, 7, 5, 49)
    assert found["quarantined_share"] == 150 / 200
    assert found["repeated_share"] == pytest.approx(1 / 50)


def test_a_day_is_compared_with_the_median_of_its_weekday_in_the_four_weeks_before(connection, tmp_path: Path):
    first = date(2024, 1, 1)
    counts = {first + timedelta(days=day): 40 for day in range(35)}
    counts |= {date(2024, 1, 8): 60, date(2024, 1, 15): 50, date(2024, 1, 29): 200, date(2024, 1, 30): 0}
    accepted(connection, store_table(tmp_path / "t", "interactions", events_on({day: count for day, count in counts.items() if count})))
    views.create_days(connection)
    days = {row[0]: row[1:] for row in connection.sql("SELECT date, num_events, expected, ratio FROM interactions_by_day").fetchall()}
    assert len(days) == 35
    assert days[date(2024, 1, 8)] == (60, None, None)  # one week before is too few to tell
    assert days[date(2024, 1, 15)] == (50, 50.0, 1.0)  # of 60 and 40
    assert days[date(2024, 1, 29)] == (200, 45.0, 200 / 45)  # of 40, 50, 60 and 40
    assert days[date(2024, 1, 30)] == (0, 40.0, 0.0)  # a day without events is in the table


def test_few_events_a_day_are_no_measure(connection, tmp_path: Path):
    counts = {date(2024, 1, 1) + timedelta(days=day): 5 for day in range(30)}
    accepted(connection, store_table(tmp_path / "t", "interactions", events_on(counts)))
    views.create_days(connection)
    assert connection.sql("SELECT max(expected), count(ratio) FROM interactions_by_day").fetchone() == (5.0, 0)


def test_items_without_catalogue_entry_are_listed_best_sellers_first(connection, tmp_path: Path):
    items = pl.Series("item_id", ["a", "b", "b", "c"])
    accepted(connection, store_table(tmp_path / "t", "interactions", made_events(4).with_columns(items)))
    catalogue = store_table(tmp_path / "c", "item_catalogue", pl.DataFrame({"item_id": ["a", None], "category": ["x", "y"]}))
    views.create_coverage(connection, catalogue.parts())
    assert connection.sql("FROM catalogue_coverage").fetchall() == [("b", 2, False), ("a", 1, True), ("c", 1, False)]


def test_category_shares_are_compared_with_the_same_weeks_of_last_year(connection, tmp_path: Path):
    last = date(2024, 12, 31)
    days = {last - timedelta(days=ago): 3 for ago in (391, 364, 300, 27, 0)}  # 391 and 364 days ago are last year's window
    item_of = {391: "a", 364: "b", 300: "c", 27: "a", 0: "a"}
    accepted(connection, store_table(tmp_path / "t", "interactions", events_on(days, lambda day: item_of[(last - day).days])))
    views.create_summary(connection, rows_in=15, rows_quarantined=0)
    catalogue = store_table(tmp_path / "c", "item_catalogue", pl.DataFrame({"item_id": ["a", "b"], "category": ["food > bread", None]}))
    assert views.create_category_shares(connection, catalogue.parts())
    found = connection.sql("SELECT category, share, share_last_year, change FROM category_shares").fetchall()
    assert found == [("(none)", 0.0, 0.5, -0.5), ("food", 1.0, 0.5, 0.5)]


def test_categories_are_not_compared_without_a_whole_year(connection, tmp_path: Path):
    accepted(connection, store_table(tmp_path / "t", "interactions", made_events(10, hours_apart=24 * 43)))  # 388 days, one window short by 3
    views.create_summary(connection, rows_in=10, rows_quarantined=0)
    catalogue = store_table(tmp_path / "c", "item_catalogue", pl.DataFrame({"item_id": ["i1"], "category": ["food"]}))
    assert not views.create_category_shares(connection, catalogue.parts())


def test_the_share_of_repeats_of_many_events_comes_from_whole_groups_of_copies(connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every event stands four times, copies far apart: any class of digests holds groups of four."""
    monkeypatch.setattr(views, "COUNT_ALL_BELOW", 1_000)
    events = made_events(3_000, num_users=211)
    copies = pl.concat([events.with_columns(pl.format(f"{number}-{{}}", "event_id").alias("event_id")) for number in range(4)])
    accepted(connection, store_table(tmp_path / "t", "interactions", copies))
    views.create_summary(connection, rows_in=12_000, rows_quarantined=0)
    assert connection.sql("SELECT repeated_share, num_events FROM interactions_summary").fetchone() == (0.75, 12_000)
