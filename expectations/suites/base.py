"""Expectations every table of ours shares: its grain is there and occurs once, what is required is there, numbers are finite."""

from collections.abc import Collection, Sequence
from typing import Any

from expectations.engine import load_great_expectations
from expectations.row_views import IS_FINITE, IS_REPEATED
from expectations.suites.rules import rule

REPORT_IT = "The table is the pipeline's own: report this message, it is a fault of the step that wrote it."


def grain_expectations(table: str, grain: Sequence[str], required: Collection[str]) -> list[Any]:
    """Critical expectations on a table the pipeline itself made."""
    gxe = load_great_expectations().expectations
    return [
        is_true(IS_FINITE, "number_not_finite", f"Numbers of {table} are finite or missing."),
        *(
            gxe.ExpectColumnValuesToNotBeNull(column=column, **rule(f"{column}_missing", f"Every row of {table} has {column}.", advice=REPORT_IT))
            for column in dict.fromkeys((*grain, *required))
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column=IS_REPEATED, value_set=[False], **rule("row_repeated", f"A row of {table} is the only one for its {', '.join(grain)}.", advice=REPORT_IT)
        ),
    ]


def is_true(column: str, name: str, description: str, *, advice: str = REPORT_IT) -> Any:
    """A critical expectation that a derived truth column holds in every row."""
    gxe = load_great_expectations().expectations
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True], **rule(name, description, advice=advice))


def at_least(column: str, minimum: float, name: str, description: str, *, maximum: float | None = None) -> Any:
    """A critical expectation on the range of a column; null is allowed."""
    gxe = load_great_expectations().expectations
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=minimum, max_value=maximum, **rule(name, description, advice=REPORT_IT))
