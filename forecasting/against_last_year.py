"""Whether the chosen forecasts beat last year's values once the actuals are known: what the quality gate asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from contracts import columns as c
from contracts.sections.forecast import ForecastConfig
from forecasting.forecast import REFERENCE, panel_of
from forecasting.measures import judged, mase
from forecasting.models import forecast_mean
from forecasting.panel import KEY, Panel


@dataclass(frozen=True)
class ForecastError:
    """Mean absolute scaled errors on the same periods of the same series; `by_level` is level -> (chosen, last year), the other two are their means."""

    chosen: float
    last_year: float
    by_level: dict[str, tuple[float, float]]


def error_against_last_year(forecasts: pl.DataFrame, demand: pl.LazyFrame, *, cutoffs: Sequence[date], config: ForecastConfig) -> ForecastError | None:
    """Judge the forecasts made at `cutoffs` by what came after them, beside the seasonal naive forecast of the same series and periods.

    The back-test that chose the models ends at the cut-off; these periods lie after it, so nothing was chosen on them. Each level counts the
    same, whatever the number of its series. None where no forecast period has come yet.
    """
    wanted = forecasts.filter(pl.col(c.CUTOFF).is_in(list(cutoffs)))
    if wanted.is_empty():
        return None
    panel = panel_of(demand, config)
    rows = judged(wanted, panel, config.season_periods)
    if rows.is_empty():
        return None
    naive = pl.concat([_last_year(panel, cutoff, config) for cutoff in sorted(set(rows[c.CUTOFF]))])
    both = rows.join(naive, on=[c.CUTOFF, *KEY, c.DATE], how="inner")
    chosen, last_year = both.group_by(c.LEVEL).agg(mase()), both.with_columns(pl.col("last_year").alias(c.MEAN)).group_by(c.LEVEL).agg(mase())
    found = chosen.join(last_year, on=c.LEVEL, suffix="_last_year").sort(c.LEVEL)
    return ForecastError(
        chosen=float(found["mase"].mean()),
        last_year=float(found["mase_last_year"].mean()),
        by_level={level: (ours, theirs) for level, ours, theirs in found.iter_rows()},
    )


def _last_year(panel: Panel, cutoff: date, config: ForecastConfig) -> pl.DataFrame:
    """Rows cutoff, level, id, region, date, `last_year`: the seasonal naive mean of every series."""
    known, horizon = panel.known_periods(cutoff), config.horizon_periods
    mean = forecast_mean(REFERENCE, panel.values[:, :known], horizon, config.season_periods)
    dates = np.array(panel.future_dates(known, horizon), dtype="datetime64[D]")
    return panel.keys[np.repeat(np.arange(panel.keys.height), horizon)].select(
        pl.lit(cutoff).alias(c.CUTOFF), *KEY, pl.Series(c.DATE, np.tile(dates, panel.keys.height)).cast(pl.Date), pl.Series("last_year", mean.ravel())
    )
