# ruff: noqa: S608 - table and column names come from contracts, paths are quoted
"""What the suites of the interactions compare beyond single rows, as SQL over the accepted rows.

`interactions_summary` (one row), `interactions_by_day` (day), `catalogue_coverage` (item), `category_shares` (coarsest category).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import duckdb

from contracts import columns as c
from contracts.artifacts import TableRef
from expectations.row_views import parquet, rows_query
from expectations.suites.interactions import CATEGORIES_VIEW, COVERAGE_VIEW, DAYS_VIEW, INTERACTIONS_VIEW, SUMMARY_VIEW
from expectations.suites.item_catalogue import SUMMARY_VIEW as CATALOGUE_SUMMARY_VIEW

ACCEPTED_VIEW: Final = "accepted"

CONTENT: Final = (c.USER_ID, c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE, c.QUANTITY, c.PRICE, c.VALUE, c.BASKET_ID, c.PLATFORM, c.REGION)

# Above so many events, repeats are counted in one of so many classes.
COUNT_ALL_BELOW: Final = 1_000_000
DIGEST_CLASSES: Final = 16

# A median below this many events a day says nothing about an unusual day.
MIN_EXPECTED_EVENTS: Final = 30
WEEKS_BEFORE: Final = (7, 14, 21, 28)
SEASON_WINDOW_DAYS: Final = 28
YEAR_DAYS: Final = 364  # whole weeks, so that weekdays agree


def create_accepted_view(connection: duckdb.DuckDBPyConnection, accepted: TableRef) -> None:
    """`accepted`: the rows that broke no rule; none where every row did."""
    rows = rows_query(connection, accepted.parts(), accepted.name) if accepted.rows else f"FROM {INTERACTIONS_VIEW} LIMIT 0"
    connection.execute(f"CREATE VIEW {ACCEPTED_VIEW} AS {rows}")


def create_summary(connection: duckdb.DuckDBPyConnection, *, rows_in: int, rows_quarantined: int) -> None:
    """One row about the accepted events.

    `span_days` counts the days from the first to the last event, both included; 0 without events. `repeated_share` is the share of events
    that equal an earlier one in all but their id; of many events, it is taken from those whose digest falls into one class of
    `DIGEST_CLASSES`, which holds all copies of an event or none.
    """
    classes = DIGEST_CLASSES if rows_in > COUNT_ALL_BELOW else 1
    connection.execute(
        f"""
        CREATE TABLE {SUMMARY_VIEW} AS SELECT
            {rows_quarantined} / greatest({rows_in}, 1) AS quarantined_share,
            count(*) AS num_events,
            count(DISTINCT {c.USER_ID}) AS num_users,
            count(DISTINCT {c.ITEM_ID}) AS num_items,
            min({c.EVENT_TIME}) AS first_event,
            max({c.EVENT_TIME}) AS last_event,
            coalesce(date_diff('day', min({c.EVENT_TIME}), max({c.EVENT_TIME})) + 1, 0) AS span_days,
            coalesce(1 - count(DISTINCT digest) FILTER (digest % {classes} = 0) / nullif(count(*) FILTER (digest % {classes} = 0), 0), 0) AS repeated_share
        FROM (SELECT {c.USER_ID}, {c.ITEM_ID}, {c.EVENT_TIME}, hash({", ".join(CONTENT)}) AS digest FROM {ACCEPTED_VIEW})
        """
    )


def create_days(connection: duckdb.DuckDBPyConnection) -> None:
    """Grain: one row per day from the first event to the last, days without events included.

    `expected` is the median of the same weekday one to four weeks before, null until two of them are inside the data; `ratio` is
    events / expected, null where too few are expected to tell (`MIN_EXPECTED_EVENTS`).
    """
    before = ", ".join(f"lag(num_events, {days}) OVER (ORDER BY date)" for days in WEEKS_BEFORE)
    connection.execute(
        f"""
        CREATE TABLE {DAYS_VIEW} AS
        WITH counted AS (SELECT {c.EVENT_TIME}::DATE AS date, count(*) AS num_events FROM {ACCEPTED_VIEW} GROUP BY 1),
        days AS (
            SELECT date, coalesce(num_events, 0) AS num_events
            FROM (SELECT unnest(range(min(date), max(date) + INTERVAL 1 DAY, INTERVAL 1 DAY))::DATE AS date FROM counted) LEFT JOIN counted USING (date)
        ),
        compared AS (SELECT *, list_filter([{before}], lambda n: n IS NOT NULL) AS earlier FROM days)
        SELECT date, num_events, CASE WHEN len(earlier) >= 2 THEN list_median(earlier) END AS expected,
            CASE WHEN expected >= {MIN_EXPECTED_EVENTS} THEN num_events / expected END AS ratio
        FROM compared ORDER BY date
        """
    )


def create_coverage(connection: duckdb.DuckDBPyConnection, catalogue_parts: Sequence[Path]) -> None:
    """Grain: one row per item of the accepted events. Adds num_events and `has_entry`."""
    connection.execute(
        f"""
        CREATE TABLE {COVERAGE_VIEW} AS
        WITH items AS (SELECT {c.ITEM_ID}, count(*) AS num_events FROM {ACCEPTED_VIEW} GROUP BY 1)
        SELECT items.*, {c.ITEM_ID} IN (SELECT {c.ITEM_ID} FROM {parquet(catalogue_parts)} WHERE {c.ITEM_ID} IS NOT NULL) AS has_entry
        FROM items ORDER BY num_events DESC, {c.ITEM_ID}
        """
    )


def create_category_shares(connection: duckdb.DuckDBPyConnection, catalogue_parts: Sequence[Path]) -> bool:
    """Grain: one row per coarsest category. False, and no table, where the events do not reach back a year.

    `share` of the events of the last four weeks, `share_last_year` of the same weeks 364 days before, `change` the difference.
    """
    first, last = connection.execute(f"SELECT first_event::DATE, last_event::DATE FROM {SUMMARY_VIEW}").fetchone() or (None, None)
    if first is None or (last - first).days < YEAR_DAYS + SEASON_WINDOW_DAYS - 1:
        return False
    connection.execute(
        f"""
        CREATE TABLE {CATEGORIES_VIEW} AS
        WITH catalogue AS (
            SELECT {c.ITEM_ID}, any_value(split_part({c.CATEGORY}, '{c.CATEGORY_SEPARATOR}', 1)) AS category
            FROM {parquet(catalogue_parts)} GROUP BY 1
        ),
        in_window AS (
            SELECT {c.ITEM_ID}, DATE '{last}' - {c.EVENT_TIME}::DATE AS days_ago FROM {ACCEPTED_VIEW}
            WHERE days_ago < {SEASON_WINDOW_DAYS} OR (days_ago >= {YEAR_DAYS} AND days_ago < {YEAR_DAYS + SEASON_WINDOW_DAYS})
        ),
        events AS (SELECT coalesce(nullif(category, ''), '(none)') AS category, days_ago FROM in_window LEFT JOIN catalogue USING ({c.ITEM_ID})),
        counted AS (
            SELECT category,
                count(*) FILTER (days_ago < {SEASON_WINDOW_DAYS}) AS num_events,
                count(*) FILTER (days_ago >= {YEAR_DAYS}) AS num_events_last_year
            FROM events GROUP BY 1
        )
        SELECT category, num_events, num_events_last_year,
            num_events / sum(num_events) OVER () AS share,
            num_events_last_year / nullif(sum(num_events_last_year) OVER (), 0) AS share_last_year,
            share - share_last_year AS change
        FROM counted ORDER BY category
        """
    )
    return True


def create_catalogue_summary(connection: duckdb.DuckDBPyConnection, accepted: TableRef, *, rows_in: int, rows_quarantined: int) -> None:
    """One row about the accepted catalogue entries."""
    rows = rows_query(connection, accepted.parts(), accepted.name) if accepted.rows else f"FROM {accepted.name} LIMIT 0"
    connection.execute(
        f"CREATE TABLE {CATALOGUE_SUMMARY_VIEW} AS SELECT {rows_quarantined} / greatest({rows_in}, 1) AS quarantined_share, count(*) AS num_items, "
        f"coalesce(count(*) FILTER (coalesce({c.CATEGORY}, '') = '') / nullif(count(*), 0), 0) AS share_without_category FROM ({rows})"
    )
