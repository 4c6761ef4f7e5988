"""How good forecasts were: scaled and relative errors, pinball loss, coverage of intervals, by any columns (horizon step, season, level).

Expressions are named after what they measure and read `units` (what happened), the forecast's columns and `scale`; a zero denominator gives null, not infinity.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from contracts import columns as c
from contracts.tables import QUANTILES, quantile_column
from forecasting.back_test import seasonal_scale
from forecasting.panel import KEY, Panel

SCALE = "scale"
STEP = "step"
_ERROR = pl.col(c.UNITS) - pl.col(c.MEAN)


def mase() -> pl.Expr:
    """Mean absolute error in units of the series' seasonal naive step inside its history. Source: Hyndman and Koehler 2006."""
    return (_ERROR.abs() / pl.col(SCALE)).mean().alias("mase")


def wape() -> pl.Expr:
    """Sum of absolute errors over the sum of absolute values; null where nothing happened."""
    total = pl.col(c.UNITS).abs().sum()
    return pl.when(total > 0).then(_ERROR.abs().sum() / total).alias("wape")


def smape() -> pl.Expr:
    """Mean of |error| / ((|actual| + |forecast|) / 2), from 0 to 2; a row where both are 0 counts 0."""
    size = (pl.col(c.UNITS).abs() + pl.col(c.MEAN).abs()) / 2
    return pl.when(size > 0).then(_ERROR.abs() / size).otherwise(0.0).mean().alias("smape")


def rmse() -> pl.Expr:
    """Root of the mean squared error, in units."""
    return (_ERROR**2).mean().sqrt().alias("rmse")


def pinball(quantile: float) -> pl.Expr:
    """Mean pinball loss of one quantile, in units."""
    over = pl.col(c.UNITS) - pl.col(quantile_column(quantile))
    return pl.max_horizontal(quantile * over, (quantile - 1) * over).mean().alias(f"pinball_{quantile_column(quantile)}")


def mean_pinball() -> pl.Expr:
    """Mean of the pinball losses of all stored quantiles, each in units of `scale`."""
    losses = []
    for quantile in QUANTILES:
        over = (pl.col(c.UNITS) - pl.col(quantile_column(quantile))) / pl.col(SCALE)
        losses.append(pl.max_horizontal(quantile * over, (quantile - 1) * over))
    return pl.mean_horizontal(losses).mean().alias("scaled_pinball")


def coverage(percent: int) -> pl.Expr:
    """Share of actuals inside the central interval, ends included; 80 reads q100 and q900, 95 reads q025 and q975."""
    tail = (100 - percent) / 200
    return pl.col(c.UNITS).is_between(pl.col(quantile_column(tail)), pl.col(quantile_column(1 - tail))).mean().alias(f"coverage_{percent}")


def measures() -> list[pl.Expr]:
    """All of them, for one `agg`."""
    return [mase(), wape(), smape(), rmse(), mean_pinball(), coverage(80), coverage(95), pl.len().alias("num_rows")]


def judged(forecasts: pl.DataFrame, panel: Panel, seasons: Sequence[int]) -> pl.DataFrame:
    """Forecast rows beside what happened.

    Adds `units`, `scale` (of the history before the row's cut-off) and `step` (1 = the first period after it). Rows whose period is not in the
    panel, was filled, or whose series has no scale are dropped: there is nothing to judge by.
    """
    parts = [_judged_at(part, panel, seasons) for _, part in forecasts.group_by(c.CUTOFF, maintain_order=True)]
    return pl.concat(parts) if parts else forecasts.with_columns(units=0.0, scale=0.0, step=0).clear()


def _judged_at(part: pl.DataFrame, panel: Panel, seasons: Sequence[int]) -> pl.DataFrame:
    known = panel.known_periods(part[c.CUTOFF][0])
    rows = panel.keys.with_row_index("row").with_columns(pl.Series(SCALE, seasonal_scale(panel.values[:, :known], seasons)).fill_nan(None))
    joined = part.join(rows, on=list(KEY), how="inner", maintain_order="left")
    column = np.searchsorted(panel.dates, joined[c.DATE].to_numpy())
    inside = column < panel.num_periods
    row, column = joined["row"].to_numpy(), np.minimum(column, panel.num_periods - 1)
    units = np.where(inside & ~panel.filled[row, column], panel.values[row, column], np.nan)
    return (
        joined.with_columns(pl.Series(c.UNITS, units).fill_nan(None), pl.Series(STEP, column - known + 1))
        .filter(pl.col(c.UNITS).is_not_null() & pl.col(SCALE).is_not_null())
        .drop("row")
    )


def measure(judged_rows: pl.DataFrame, by: Sequence[str] = (c.MODEL,)) -> pl.DataFrame:
    """One row per group with every measure; groups may be any columns of the rows (`step`, a season's name joined by date, `level`, ...)."""
    return judged_rows.group_by(list(by), maintain_order=True).agg(measures()).sort(list(by))
