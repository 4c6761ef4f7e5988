"""Moving feasts: what a feast adds to a period beyond what the season already says, taken out of the past and put into the future.

Easter falls into another week each year, so a seasonal index smears it. The exposure of a period to a feast (the share of the feast's days that lie in
it) minus the mean exposure of the same phase in the years seen is what the season cannot know; a feast that does not move has none.

S series, T past periods, H horizon, X exposures.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from contracts import columns as c
from forecasting.models import lengths, seasonal_level
from forecasting.panel import Panel, shift_periods

DISTANCE = "days_from_"
WINDOWS = {"before": (-7, -1), "on": (0, 0), "after": (1, 3)}
SEASONS_NEEDED = 2.0
CLEAR = 3.0  # standard errors of the pooled effect; weaker ones are noise of many feasts
POOLED_RIDGE = 0.1
OWN_RIDGE = 2.0
LARGEST_EFFECT = 3.0
SMALLEST_SURPRISE = 0.3  # sum of squares over the history; less is a feast that hardly moves between periods


def exposures(calendar: pl.DataFrame, panel: Panel, horizon: int, region: str) -> dict[str, np.ndarray]:
    """Name -> [T + H] share of a feast's days before, on and after it that lie in each period of the panel and of the horizon behind it.

    `calendar`: columns date, region and `days_from_<feast>` (signed days to the nearest one), one row per day of the region (the first region stands in
    for one it does not hold). Monthly panels also get the number of each weekday in the month. Periods the calendar does not reach get 0.
    """
    regions = calendar[c.REGION].unique(maintain_order=True).to_list()
    days = calendar.filter(pl.col(c.REGION) == (region if region in regions else regions[0])).sort(c.DATE)
    shares = [
        (pl.col(name).is_between(first, last).cast(pl.Float64) / (last - first + 1)).alias(f"{name.removeprefix(DISTANCE)}_{window}")
        for name in days.columns
        if name.startswith(DISTANCE)
        for window, (first, last) in WINDOWS.items()
    ]
    if panel.frequency == "month":
        shares += [((pl.col(c.DATE).dt.weekday() == weekday).cast(pl.Float64) / 4).alias(f"weekday_{weekday}") for weekday in range(1, 8)]
    starts = np.array([*panel.dates, *panel.future_dates(panel.num_periods, horizon)], dtype="datetime64[D]")
    end = np.datetime64(shift_periods(starts[-1].astype(object), 1, panel.frequency))
    values = days.select(shares)
    result = np.zeros((len(shares), len(starts)))
    day = days[c.DATE].to_numpy().astype("datetime64[D]")
    inside = (day >= starts[0]) & (day < end)
    np.add.at(result.T, np.searchsorted(starts, day[inside], side="right") - 1, values.to_numpy()[inside])
    return dict(zip(values.columns, result, strict=True))


def take_out_feasts(past: np.ndarray, exposure: np.ndarray, horizon: int, seasons: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Values without their moving feasts [S, T], and the factors of the next periods [S, H].

    exposure   [X, >= T + H] aligned with the columns of `past`

    An effect is a relative change, estimated over all series and then, drawn to that, for each; only exposures whose pooled effect is clear
    are used. Nothing changes where fewer than two of the longest season are held.
    """
    num_series, num_periods = past.shape
    season = max(seasons, default=1)
    rows = np.flatnonzero(lengths(past) >= SEASONS_NEEDED * season)
    adjusted, factors = past.copy(), np.ones((num_series, horizon))
    if season == 1 or len(rows) == 0:
        return adjusted, factors
    fullest = np.maximum(exposure.max(1, keepdims=True), 1e-9)  # a feast's effect is that on the period it fills most
    surprise = _surprise(exposure[:, : num_periods + horizon] / fullest, num_periods, season)
    residual = _residual(past[rows], seasons)
    effects = _effects(residual, surprise[:, :num_periods])
    change = np.clip(1 + effects @ surprise, 1 / LARGEST_EFFECT, LARGEST_EFFECT)
    adjusted[rows] = past[rows] / change[:, :num_periods]
    factors[rows] = change[:, num_periods:]
    return adjusted, factors


def _surprise(exposure: np.ndarray, num_past: int, season: int) -> np.ndarray:
    """Exposure minus the mean of the same phase over the past."""
    phase = np.arange(exposure.shape[1]) % season
    usual = np.zeros((len(exposure), season))
    for place in range(season):
        usual[:, place] = exposure[:, :num_past][:, phase[:num_past] == place].mean(1)
    return exposure - usual[:, phase]


def _residual(past: np.ndarray, seasons: Sequence[int]) -> np.ndarray:
    """[S, T] value over what level and season say, minus 1; 0 before a series begins."""
    expected = seasonal_level(past, seasons)
    return np.nan_to_num(np.divide(past, expected, out=np.ones_like(past), where=expected > 0) - 1)


def _effects(residual: np.ndarray, surprise: np.ndarray) -> np.ndarray:
    """[S, X] relative change per unit of exposure."""
    num_series = len(residual)
    spread = np.sqrt((residual**2).mean(1, keepdims=True))
    usual = np.median(spread) if np.median(spread) > 0 else 1.0
    typical = np.clip(residual, -3 * spread, 3 * spread) * np.minimum(usual / np.maximum(spread, 1e-9), 1.0)
    pooled_residual = typical.mean(0)
    energy = (surprise**2).sum(1)
    alone = surprise @ pooled_residual / np.maximum(energy, 1e-9)
    noise = np.sqrt(np.maximum(pooled_residual.var(), 1e-12) / np.maximum(energy, 1e-9))
    kept = np.flatnonzero((energy > SMALLEST_SURPRISE) & (np.abs(alone) > CLEAR * noise))
    effects = np.zeros((num_series, len(surprise)))
    if len(kept) == 0:
        return effects
    clear = surprise[kept]
    squares = clear @ clear.T
    pooled = np.linalg.solve(squares + POOLED_RIDGE * np.eye(len(kept)), clear @ pooled_residual)
    rest = residual - pooled @ clear
    own = np.linalg.solve(squares + OWN_RIDGE * np.eye(len(kept)), clear @ rest.T).T
    effects[:, kept] = pooled + own
    return effects
