"""Candidate models behind one signature: past values [S, T] in, mean of the next H periods [S, H] out.

S series, T periods, H horizon. Past values are NaN before a series begins and complete after. The models of `statsforecast` run series by series;
`seasonal_naive`, `recent_mean` and `season_trend` run on all series at once and carry the large panels.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

BATCH_MODELS = ("seasonal_naive", "recent_mean", "season_trend")
SHORTEST_SERIES = 8
RECENT_PERIODS = 8
SMOOTHING_GRID = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.95)
TREND_DAMPING = 0.9


def forecast_mean(model: str, past: np.ndarray, horizon: int, season_periods: Sequence[int]) -> np.ndarray:
    """Mean of the next `horizon` periods.

    past     [S, T] units, NaN before a series begins
    returns  [S, H], never negative; NaN only where a series holds no value

    A series too short for the model (or one its library refuses) gets the nearest simpler one: season_trend without season, at the end the last value.
    Raises ValueError for an unknown model.
    """
    if model not in MODELS:
        raise ValueError(f"forecast.models: unknown model `{model}`; known: {', '.join(sorted(MODELS))}")
    seasons = tuple(sorted(season_periods))
    return np.maximum(MODELS[model](past, horizon, seasons), 0.0)


def seasonal_naive(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> np.ndarray:
    """The value one season (the longest the series holds) earlier; the last value where it holds none."""
    result = np.repeat(last_value(past)[:, None], horizon, axis=1)
    for season in seasons:
        if season > past.shape[1]:
            continue
        last_season = past[:, past.shape[1] - season :]
        repeated = last_season[:, np.arange(horizon) % season]
        holds_season = ~np.isnan(last_season[:, 0])
        result[holds_season] = repeated[holds_season]
    return result


def recent_mean(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> np.ndarray:
    """Mean of the last 8 periods, flat."""
    del seasons
    recent = past[:, -RECENT_PERIODS:]
    count = (~np.isnan(recent)).sum(1)
    mean = np.divide(np.nansum(recent, axis=1), count, out=np.full(len(past), np.nan), where=count > 0)
    return np.repeat(mean[:, None], horizon, axis=1)


def season_trend(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> np.ndarray:
    """Seasonal index times (simple exponential smoothing with half the linear drift): the theta method on all series at once.

    The smoothing weight of each series is the one of `SMOOTHING_GRID` with the smallest one-step error. The season is taken out where a
    series holds two of them. Source: Assimakopoulos and Nikolopoulos 2000, in the form of Hyndman and Billah 2003.
    """
    adjusted, future_season = _take_out_season(past, horizon, seasons)
    level, drift = _smooth_with_drift(adjusted)
    damped = np.cumsum(TREND_DAMPING ** np.arange(1, horizon + 1))
    return (level[:, None] + drift[:, None] * damped) * future_season


def last_value(past: np.ndarray) -> np.ndarray:
    """[S] value of the last period, NaN for a series without values."""
    return past[:, -1] if past.shape[1] else np.full(len(past), np.nan)


def lengths(past: np.ndarray) -> np.ndarray:
    """[S] number of periods each series holds."""
    return (~np.isnan(past)).sum(1)


def _take_out_season(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Values divided by their seasonal index, and the index of the next `horizon` periods; index 1 where a series holds fewer than two seasons."""
    adjusted, future = past.copy(), np.ones((len(past), horizon))
    for season in seasons:
        rows = np.flatnonzero(lengths(past) >= 2 * season)
        if len(rows) == 0:
            continue
        index = seasonal_index(adjusted[rows], season)
        phase = (np.arange(past.shape[1]) - past.shape[1]) % season
        adjusted[rows] = adjusted[rows] / np.maximum(index[:, phase], 0.05)
        future[rows] = future[rows] * index[:, np.arange(horizon) % season]
    return adjusted, future


def seasonal_index(values: np.ndarray, season: int) -> np.ndarray:
    """Ratio of each phase of the season to the level around it, mean 1.

    values   [S, T], T at least two seasons
    returns  [S, season]; phase 0 is the first period after the last value

    Ratios to the centred moving average, pooled over the seasons as a ratio of sums (a phase of zeros gives 0, a level of zeros gives 1).
    """
    num_periods = values.shape[1]
    level = _centred_mean(values, season)
    phase = (np.arange(num_periods) - num_periods) % season
    usable = ~np.isnan(values) & ~np.isnan(level)
    total = np.zeros((len(values), season))
    expected = np.zeros((len(values), season))
    for column in range(num_periods):
        take = usable[:, column]
        total[take, phase[column]] += values[take, column]
        expected[take, phase[column]] += level[take, column]
    index = np.divide(total, expected, out=np.ones_like(total), where=expected > 0)
    mean = index.mean(1, keepdims=True)
    return np.divide(index, mean, out=np.ones_like(index), where=mean > 0)


def _centred_mean(values: np.ndarray, season: int) -> np.ndarray:
    """Mean over one season around each period (shorter at the ends of the series, where the nearest full window stands in)."""
    num_periods = values.shape[1]
    known = ~np.isnan(values)
    sums = np.cumsum(np.pad(np.where(known, values, 0.0), ((0, 0), (1, 0))), axis=1)
    counts = np.cumsum(np.pad(known.astype(float), ((0, 0), (1, 0))), axis=1)
    start = np.clip(np.arange(num_periods) - season // 2, 0, num_periods - season)
    window_sum = sums[:, start + season] - sums[:, start]
    window_count = counts[:, start + season] - counts[:, start]
    return np.divide(window_sum, window_count, out=np.full_like(window_sum, np.nan), where=window_count == season)


def _smooth_with_drift(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Level at the end and half the slope per period of each series."""
    num_series, num_periods = values.shape
    best_level = last_value(values)
    best_error = np.full(num_series, np.inf)
    for weight in SMOOTHING_GRID:
        level = np.full(num_series, np.nan)
        error = np.zeros(num_series)
        for column in range(num_periods):
            value = values[:, column]
            started = ~np.isnan(level)
            miss = np.where(started, value - level, 0.0)
            error += np.nan_to_num(miss) ** 2
            level = np.where(started, level + weight * miss, value)
        better = error < best_error
        best_level, best_error = np.where(better, level, best_level), np.where(better, error, best_error)
    return best_level, 0.5 * _slope(values)


def _slope(values: np.ndarray) -> np.ndarray:
    """Least-squares slope per period; 0 for a series shorter than 8 periods."""
    known = ~np.isnan(values)
    count = known.sum(1)
    steps = np.where(known, np.arange(values.shape[1]), 0.0)
    filled = np.where(known, values, 0.0)
    n = np.maximum(count, 1)
    spread = (steps**2).sum(1) - steps.sum(1) ** 2 / n
    shared = (steps * filled).sum(1) - steps.sum(1) * filled.sum(1) / n
    return np.divide(shared, spread, out=np.zeros(len(values)), where=(count >= SHORTEST_SERIES) & (spread > 0))


def _by_series(build: Callable[[int, Sequence[int]], object | None]) -> Callable[[np.ndarray, int, Sequence[int]], np.ndarray]:
    """A model of statsforecast, fitted series by series; `build(length, seasons)` gives None where the series is too short for it."""

    def forecast(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> np.ndarray:
        result = season_trend(past, horizon, seasons)
        for row, length in enumerate(lengths(past)):
            if length < SHORTEST_SERIES:
                continue
            values = past[row, past.shape[1] - length :]
            if values.max() == values.min():
                continue
            mean = _fit_one(build, values, horizon, seasons)
            if mean is not None and np.isfinite(mean).all():
                result[row] = mean
        return result

    return forecast


def _fit_one(build: Callable[[int, Sequence[int]], object | None], values: np.ndarray, horizon: int, seasons: Sequence[int]) -> np.ndarray | None:
    held = [season for season in seasons if len(values) >= 2 * season]
    model = build(len(values), held)
    if model is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(model.forecast(y=np.ascontiguousarray(values), h=horizon)["mean"], dtype=float)  # type: ignore[attr-defined]
        except Exception:  # one series that a library refuses must not stop the others: it keeps the simpler forecast
            return None


def _mstl(length: int, seasons: Sequence[int]) -> object | None:
    del length
    from statsforecast.models import MSTL, AutoETS

    return MSTL(season_length=list(seasons), trend_forecaster=AutoETS(model="ZZN")) if seasons else None


def _auto_ets(length: int, seasons: Sequence[int]) -> object:
    del length
    from statsforecast.models import AutoETS

    usable = [season for season in seasons if season <= 24]
    return AutoETS(season_length=max(usable, default=1))


def _theta(length: int, seasons: Sequence[int]) -> object:
    del length
    from statsforecast.models import Theta

    return Theta(season_length=max(seasons, default=1))


def _croston(length: int, seasons: Sequence[int]) -> object:
    del length, seasons
    from statsforecast.models import CrostonSBA

    return CrostonSBA()


def _tsb(length: int, seasons: Sequence[int]) -> object:
    del length, seasons
    from statsforecast.models import TSB

    return TSB(alpha_d=0.1, alpha_p=0.1)


MODELS: dict[str, Callable[[np.ndarray, int, Sequence[int]], np.ndarray]] = {
    "seasonal_naive": seasonal_naive,
    "recent_mean": recent_mean,
    "season_trend": season_trend,
    "mstl": _by_series(_mstl),
    "auto_ets": _by_series(_auto_ets),
    "theta": _by_series(_theta),
    "croston": _by_series(_croston),
    "tsb": _by_series(_tsb),
}
