"""Suite of the demand forecasts."""

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from contracts import columns as c
from contracts.tables import FORECASTS, QUANTILES, quantile_column
from expectations.engine import load_great_expectations
from expectations.suites.base import at_least, grain_expectations, is_true

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

# `date` is the first day of a period; a cut-off may lie inside a week.
MAX_PERIOD_DAYS: Final = 7

DERIVED: Final = {
    "are_quantiles_ordered": " AND ".join(f"coalesce({low} <= {high} + 1e-6, TRUE)" for low, high in pairwise(map(quantile_column, QUANTILES))),
    "does_reach_cutoff": f"{c.DATE} + {MAX_PERIOD_DAYS - 1} >= {c.CUTOFF}",
}


def forecasts_suite() -> "ExpectationSuite":
    """A forecast is not about the time before its cut-off, is no negative demand, and its quantiles do not cross."""
    gx = load_great_expectations()
    return gx.ExpectationSuite(
        name=FORECASTS.name,
        expectations=[
            *grain_expectations(FORECASTS.name, FORECASTS.grain, FORECASTS.required),
            is_true("does_reach_cutoff", "forecast_before_cutoff", "A forecast is for a period that reaches its cut-off or lies after it."),
            is_true("are_quantiles_ordered", "quantiles_cross", "A higher quantile is not below a lower one."),
            at_least(c.MEAN, 0, "forecast_negative", "Forecast demand is zero or more."),
        ],
    )
