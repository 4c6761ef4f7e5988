"""What knowing the date is worth: the metric at the request date against the metric with look-ups by date made half a year off.

Only the look-ups by date (calendar, last year's weeks, forecast) move; history, cut-off, lead and trend stay, so the lift is of season and
of nothing else. On rotated histories (evaluation/negative_control.py) it must lie within noise of zero.
"""

import datetime as dt
from typing import Final

import polars as pl

from evaluation.bootstrap import PairedDifference, paired_bootstrap

SHIFT_DAYS: Final = 182  # whole weeks, so that weekdays match


def shifted_date(request_date: dt.date) -> dt.date:
    """Date for which look-ups are made in place of the request date."""
    return request_date + dt.timedelta(days=SHIFT_DAYS)


def season_lift(at_the_date: pl.DataFrame, shifted: pl.DataFrame, num_resamples: int = 2_000, seed: int = 0) -> PairedDifference:
    """Gain of the right date over the shifted one; `relative` is the season lift.

    Rows of both: user_id, value and further keys (origin, lead), of the same model on the same targets.
    """
    return paired_bootstrap(at_the_date, shifted, num_resamples, seed)
