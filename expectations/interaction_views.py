"""DuckDB views the suites of the interactions look at, as SQL. Nothing is copied: DuckDB reads the Parquet parts.

`interactions` (event), `interactions_summary` (one row), `interactions_by_day` (day), `catalogue_coverage` (item), `category_shares` (category).
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import duckdb

from contracts import columns as c
from contracts.tables import INTERACTIONS
from expectations.suites.interactions import CATEGORIES_VIEW, COVERAGE_VIEW, DAYS_VIEW, INTERACTIONS_VIEW, SUMMARY_VIEW

ACCEPTED_VIEW: Final = "accepted"
REPEATED_TABLE: Final = "repeated_events"

NUMBERS: Final = (c.QUANTITY, c.PRICE, c.VALUE)
CONTENT: Final = (c.USER_ID, c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE, *NUMBERS, c.BASKET_ID, c.PLATFORM, c.REGION)

# A median below this many events a day says nothing about an unusual day.
MIN_EXPECTED_EVENTS: Final = 30
WEEKS_BEFORE: Final = (7, 14, 21, 28)
SEASON_WINDOW_DAYS: Final = 28
YEAR_DAYS: Final = 364  # whole weeks, so that weekdays agree


def create_rows_views(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path], columns: Collection[str]) -> None:
    """`interactions`: one row per stored row, with its place (`source_file`, `source_row`), `is_finite` and `is_repeated`."""
    connection.execute(f"CREATE VIEW stored AS {rows_query(parts, columns)}")
    connection.execute(f"CREATE TABLE {REPEATED_TABLE} (source_file VARCHAR, source_row BIGINT)")
    repeated = "FALSE"
    if find_repeated_events(connection):
        repeated = f"EXISTS (FROM {REPEATED_TABLE} AS r WHERE r.source_file = stored.source_file AND r.source_row = stored.source_row)"
    connection.execute(f"CREATE VIEW {INTERACTIONS_VIEW} AS SELECT *, {repeated} AS is_repeated FROM stored")


def rows_query(parts: Sequence[Path], columns: Collection[str]) -> str:
    """Every stored row, columns of the contract, and its place.

    Times become UTC without a zone (DuckDB needs an extension to compute with zones). Numbers that are not finite become null and
    `is_finite` false: Parquet statistics leave NaN out, so that DuckDB decides comparisons with NaN by the part's minimum and maximum.
    Columns that are not stored are null.
    """
    selected = [_cleaned(column) if column in columns else f"NULL::{_TYPES[column]} AS {column}" for column in INTERACTIONS.schema]
    finite = " AND ".join(f"coalesce(isfinite({column}), TRUE)" for column in NUMBERS if column in columns) or "TRUE"
    return (
        f"SELECT {', '.join(selected)}, {finite} AS is_finite, filename AS source_file, file_row_number AS source_row "
        f"FROM {parquet(parts, filename=True, file_row_number=True)}"
    )


def find_repeated_events(connection: duckdb.DuckDBPyConnection) -> int:
    """Fill `repeated_events` with every row whose event id stands in an earlier row; return their number.

    Ids are grouped by their 64-bit hash first, which keeps twenty million of them in memory; only ids whose hash occurs twice are compared.
    """
    connection.execute(
        f"CREATE TEMPORARY TABLE suspects AS SELECT digest FROM (SELECT hash({c.EVENT_ID}) AS digest FROM stored WHERE {c.EVENT_ID} IS NOT NULL) "
        "GROUP BY digest HAVING count(*) > 1"
    )
    connection.execute(
        f"INSERT INTO {REPEATED_TABLE} SELECT source_file, source_row FROM stored "
        f"WHERE {c.EVENT_ID} IS NOT NULL AND hash({c.EVENT_ID}) IN (FROM suspects) "
        f"QUALIFY row_number() OVER (PARTITION BY {c.EVENT_ID} ORDER BY source_file, source_row) > 1"
    )
    return _one(connection, f"SELECT count(*) FROM {REPEATED_TABLE}")


def create_accepted_view(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path], columns: Collection[str]) -> None:
    """`accepted`: the rows that broke no rule."""
    connection.execute(f"CREATE VIEW {ACCEPTED_VIEW} AS {rows_query(parts, columns)}")


def create_summary(connection: duckdb.DuckDBPyConnection, *, rows_in: int, rows_quarantined: int) -> None:
    """One row about the accepted events.

    `span_days` counts the days from the first to the last event, both included; 0 without events. `repeated_share` is the share of events
    that equal an earlier one in all but their id.
    """
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
            coalesce(1 - count(DISTINCT hash({", ".join(CONTENT)})) / nullif(count(*), 0), 0) AS repeated_share
        FROM {ACCEPTED_VIEW}
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
    reaches_back = _one(
        connection,
        f"SELECT coalesce(last_event::DATE - first_event::DATE >= {YEAR_DAYS + SEASON_WINDOW_DAYS - 1}, FALSE) FROM {SUMMARY_VIEW}",
    )
    if not reaches_back:
        return False
    connection.execute(
        f"""
        CREATE TABLE {CATEGORIES_VIEW} AS
        WITH catalogue AS (
            SELECT {c.ITEM_ID}, any_value(split_part({c.CATEGORY}, '{c.CATEGORY_SEPARATOR}', 1)) AS category
            FROM {parquet(catalogue_parts)} GROUP BY 1
        ),
        events AS (
            SELECT coalesce(nullif(category, ''), '(none)') AS category, date_diff('day', {c.EVENT_TIME}::DATE, last_event::DATE) AS days_ago
            FROM {ACCEPTED_VIEW} CROSS JOIN (SELECT last_event FROM {SUMMARY_VIEW}) LEFT JOIN catalogue USING ({c.ITEM_ID})
        ),
        counted AS (
            SELECT category,
                count(*) FILTER (days_ago < {SEASON_WINDOW_DAYS}) AS num_events,
                count(*) FILTER (days_ago >= {YEAR_DAYS} AND days_ago < {YEAR_DAYS + SEASON_WINDOW_DAYS}) AS num_events_last_year
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


def parquet(parts: Sequence[Path], **options: bool) -> str:
    """`read_parquet` over part files, columns joined by name, folder names not read as columns."""
    listed = ", ".join("'" + str(part).replace("'", "''") + "'" for part in parts)
    given = "".join(f", {name} = {str(value).lower()}" for name, value in options.items())
    return f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false{given})"


_TYPES: Final = {column: "DOUBLE" if column in NUMBERS else "TIMESTAMP" if column == c.EVENT_TIME else "VARCHAR" for column in INTERACTIONS.schema}


def _cleaned(column: str) -> str:
    if column == c.EVENT_TIME:
        return f"make_timestamp(epoch_us({column})) AS {column}"
    if column in NUMBERS:
        return f"CASE WHEN isfinite({column}) THEN {column} END AS {column}"
    return column


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
