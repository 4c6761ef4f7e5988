# ruff: noqa: S608 - table and column names come from contracts, paths are quoted
"""Suites of the feature tables: vocabulary, demand, habits, season, histories, item weeks. All rules are critical: these tables are our own.

Beside each suite stand the columns its view derives: name -> SQL over the stored columns.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from contracts import columns as c
from contracts.tables import DEMAND, HISTORIES, ITEM_WEEKS, VOCABULARY
from expectations.engine import load_great_expectations
from expectations.suites.base import REPORT_IT, at_least, grain_expectations, is_true
from expectations.suites.rules import rule

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

HABITS_GRAIN: Final = (c.USER_ID, c.ITEM_ID, c.CUTOFF)
SEASON_GRAIN: Final = (c.ITEM_ID, c.REGION)

# Rules whose failure means that a feature knows the future.
LEAKAGE_RULES: Final = frozenset({"history_reaches_cutoff", "habit_reaches_cutoff", "demand_reaches_cutoff"})

VOCABULARY_INDICES_VIEW: Final = "vocabulary_indices"
VOCABULARY_INDICES_QUERY: Final = f"SELECT {c.ITEM_INDEX}, count(*) AS num_items FROM vocabulary GROUP BY 1 ORDER BY 1"

DEMAND_SERIES_VIEW: Final = "demand_series"
DEMAND_SERIES_QUERY: Final = f"""
    WITH steps AS (
        SELECT *, {c.DATE} - lag({c.DATE}) OVER (PARTITION BY {c.LEVEL}, {c.ID}, {c.REGION} ORDER BY {c.DATE}) AS step FROM demand
    ),
    periods AS (SELECT {c.LEVEL}, coalesce(mode(step), 1) AS period_days FROM steps GROUP BY {c.LEVEL})
    SELECT {c.LEVEL}, {c.ID}, {c.REGION}, any_value(period_days) AS period_days, min({c.DATE}) AS first_date, max({c.DATE}) AS last_date,
        (max({c.DATE}) - min({c.DATE})) / any_value(period_days) + 1 - count(*) AS num_missing
    FROM demand JOIN periods USING ({c.LEVEL}) GROUP BY ALL ORDER BY {c.LEVEL}, {c.ID}, {c.REGION}
"""

HABITS_DERIVED: Final = {
    "is_before_cutoff": f"{c.LAST_DAY} < ({c.CUTOFF} - DATE '1970-01-01') AND {c.USER_LAST_DAY} < ({c.CUTOFF} - DATE '1970-01-01')",
    "is_first_before_last": f"{c.FIRST_DAY} <= {c.LAST_DAY}",
}

HISTORIES_DERIVED: Final = {
    "num_items": f"len({c.ITEM_ID})",
    "are_lengths_equal": f"len({c.ITEM_ID}) = len({c.EVENT_TIME}) AND len({c.ITEM_ID}) = len({c.EVENT_TYPE})",
    "is_oldest_first": f"coalesce({c.EVENT_TIME} = list_sort({c.EVENT_TIME}), TRUE)",
    "is_before_cutoff": f"coalesce(epoch_us(list_max({c.EVENT_TIME})) < epoch_us({c.CUTOFF}::TIMESTAMP), TRUE)",
}


def vocabulary_suite() -> "ExpectationSuite":
    """Every item has one index."""
    gx = load_great_expectations()
    return gx.ExpectationSuite(
        name=VOCABULARY.name,
        expectations=[
            *grain_expectations(VOCABULARY.name, VOCABULARY.grain, VOCABULARY.required),
            at_least(c.ITEM_INDEX, 1, "item_index_not_positive", "Indices start at 1; 0 is padding."),
        ],
    )


def vocabulary_indices_suite() -> "ExpectationSuite":
    """An index stands for one item."""
    gx = load_great_expectations()
    advice = "Remove the stored vocabulary and run again; models trained with it cannot be trusted."
    return gx.ExpectationSuite(
        name=VOCABULARY_INDICES_VIEW,
        expectations=[
            gx.expectations.ExpectColumnValuesToBeBetween(
                column="num_items", max_value=1, **rule("item_index_repeated", "An index stands for one item.", advice=advice)
            )
        ],
    )


def demand_suite() -> "ExpectationSuite":
    """Demand is counted, at known levels."""
    gx = load_great_expectations()
    return gx.ExpectationSuite(
        name=DEMAND.name,
        expectations=[
            *grain_expectations(DEMAND.name, DEMAND.grain, DEMAND.required),
            gx.expectations.ExpectColumnValuesToBeInSet(
                column=c.LEVEL, value_set=[c.ITEM, c.CATEGORY, c.TOTAL], **rule("level_unknown", "The level is item, category or total.", advice=REPORT_IT)
            ),
            at_least(c.UNITS, 0, "units_negative", "Units are zero or more."),
            at_least(c.BUYERS, 0, "buyers_negative", "Buyers are zero or more."),
        ],
    )


def demand_series_suite() -> "ExpectationSuite":
    """The grid of every series is complete: a row lag is a lag in time."""
    gx = load_great_expectations()
    return gx.ExpectationSuite(
        name=DEMAND_SERIES_VIEW,
        expectations=[
            at_least("num_missing", 0, "period_missing", "No series lacks a period between its first and its last, or holds one between periods.", maximum=0)
        ],
    )


def habits_suite(columns: Sequence[str]) -> "ExpectationSuite":
    """What a user had of an item lies before the cut-off and is counted."""
    gx = load_great_expectations()
    required = [column for column in (c.BASKETS, c.FIRST_DAY, c.LAST_DAY, c.USER_LAST_DAY, c.USER_TRIPS) if column in columns]
    return gx.ExpectationSuite(
        name="habits",
        expectations=[
            *grain_expectations("habits", HABITS_GRAIN, required),
            is_true("is_before_cutoff", "habit_reaches_cutoff", "The last day of a habit is before its cut-off."),
            is_true("is_first_before_last", "first_day_after_last", "The first day of a habit is not after its last."),
            at_least(c.BASKETS, 1, "baskets_not_positive", "A habit has at least one basket."),
            *(at_least(column, 0, f"{column}_negative", "Decayed counts are zero or more.") for column in columns if column.startswith("decayed_")),
        ],
    )


def season_suite(columns: Sequence[str]) -> "ExpectationSuite":
    """Every input of the season network is there and finite."""
    gx = load_great_expectations()
    return gx.ExpectationSuite(
        name="season", expectations=grain_expectations("season", SEASON_GRAIN, [column for column in columns if column not in SEASON_GRAIN])
    )


def histories_suite() -> "ExpectationSuite":
    """A history is in order and ends before its cut-off."""
    gx = load_great_expectations()
    return gx.ExpectationSuite(
        name=HISTORIES.name,
        expectations=[
            *grain_expectations(HISTORIES.name, HISTORIES.grain, ()),
            at_least("num_items", 1, "history_empty", "A history holds at least one event."),
            is_true("are_lengths_equal", "history_lengths_differ", "Items, times and types of a history are equally many."),
            is_true("is_oldest_first", "history_unordered", "Events of a history are ordered by time, newest last."),
            is_true("is_before_cutoff", "history_reaches_cutoff", "Every event of a history is before its cut-off."),
        ],
    )


def item_weeks_suite() -> "ExpectationSuite":
    """Weeks lie before the cut-off; buyers fit together."""
    gx = load_great_expectations()
    return gx.ExpectationSuite(
        name=ITEM_WEEKS.name,
        expectations=[
            *grain_expectations(ITEM_WEEKS.name, ITEM_WEEKS.grain, ITEM_WEEKS.required),
            at_least(c.WEEKS_AGO, 0, "demand_reaches_cutoff", "Weeks are counted back from the cut-off."),
            at_least(c.BUYERS, 1, "buyers_not_positive", "A week that is stored has a buyer."),
            is_true(
                "are_buyers_consistent", "more_first_buyers_than_buyers", "First and last buyers of a week are among its buyers, and these among all users."
            ),
        ],
    )


ITEM_WEEKS_DERIVED: Final = {"are_buyers_consistent": f"greatest({c.FIRST_BUYERS}, {c.LAST_BUYERS}) <= {c.BUYERS} AND {c.BUYERS} <= {c.USERS}"}
