# ruff: noqa: S608 - table and column names come from contracts, paths are quoted
"""Suites of the rankings: single rows, then whole lists."""

from typing import TYPE_CHECKING, Final

from contracts import columns as c
from contracts.tables import RANKINGS
from expectations.engine import load_great_expectations
from expectations.suites.base import at_least, grain_expectations, is_true
from expectations.suites.rules import rule

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

# Scores are float32 sums of three parts.
SCORE_TOLERANCE: Final = 1e-3

DERIVED: Final = {
    "is_after_cutoff": f"{c.REQUEST_DATE} >= {c.CUTOFF}",
    "do_parts_add_up": f"coalesce(abs({c.SCORE} - ({c.TASTE} + {c.HABIT} + {c.SEASON})) <= {SCORE_TOLERANCE} * greatest(1, abs({c.SCORE})), TRUE)",
}

_LIST: Final = ", ".join(RANKINGS.grain[:-1])
LISTS_VIEW: Final = "rankings_lists"
LISTS_QUERY: Final = f"""
    WITH rows AS (SELECT *, lag({c.SCORE}) OVER (PARTITION BY {_LIST} ORDER BY {c.RANK}) AS score_before FROM rankings)
    SELECT {_LIST}, count(*) AS num_ranked, count(*) - count(DISTINCT {c.ITEM_ID}) AS num_items_again,
        min({c.RANK}) = 1 AND max({c.RANK}) = count(*) AS are_ranks_whole,
        coalesce(max({c.SCORE} - score_before) <= {SCORE_TOLERANCE}, TRUE) AS is_best_first
    FROM rows GROUP BY ALL ORDER BY ALL
"""


def rankings_suite() -> "ExpectationSuite":
    """Every recommended row names an item, is asked for from the cut-off on, and is explained by its parts."""
    gx = load_great_expectations()
    return gx.ExpectationSuite(
        name=RANKINGS.name,
        expectations=[
            *grain_expectations(RANKINGS.name, RANKINGS.grain, RANKINGS.required),
            at_least(c.RANK, 1, "rank_not_positive", "Ranks start at 1."),
            gx.expectations.ExpectColumnValuesToBeInSet(
                column=c.LIST, value_set=["again", "discover"], **rule("list_unknown", "The list is again or discover.", advice="Check evaluation.lists.")
            ),
            is_true("is_after_cutoff", "request_before_cutoff", "A list is asked for a date at or after the cut-off."),
            is_true("do_parts_add_up", "parts_do_not_add_up", "A score is the sum of taste, habit and season."),
        ],
    )


def lists_suite() -> "ExpectationSuite":
    """A list has ranks without gaps, best first, and no item twice."""
    gx = load_great_expectations()
    return gx.ExpectationSuite(
        name=LISTS_VIEW,
        expectations=[
            is_true("are_ranks_whole", "ranks_have_gaps", "Ranks of a list run from 1 without gaps."),
            is_true("is_best_first", "list_not_best_first", "Scores of a list fall with the rank."),
            at_least("num_items_again", 0, "item_twice_in_list", "No item stands twice in a list.", maximum=0),
        ],
    )
