"""Candidate models behind one signature: past values [S, T] in, mean of the next H periods [S, H] out.

S series, T periods, H horizon. Past values are NaN before a series begins and complete after. The models of `statsforecast` run series by series;
those of `BATCH_MODELS` run on all series at once and carry the large panels.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

BATCH_MODELS = ("seasonal_naive", "recent_mean", "season_trend", "season_trend_recent", "season_trend_additive", "season_level", "autoregression")
SHORTEST_SERIES = 8
RECENT_PERIODS = 8
SEASONS_NEEDED = 1.5
SEASON_MEMORY = 0.7
SMALLEST_RATIO = 0.05
LARGEST_CHANGE = 5.0
SHORTEST_REGRESSION = 60
LONGEST_ORDER = 52
RIDGE = 0.01
FULL_REGRESSION = 400  # windows; with fewer the ridge weighs more
WINDOW_CELLS = 20_000_000  # cells of windows held at once
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
    series holds one and a half of them. Source: Assimakopoulos and Nikolopoulos 2000, in the form of Hyndman and Billah 2003.
    """
    adjusted, future_season = remove_season(past, horizon, seasons, additive=False)
    return level_and_drift(adjusted, horizon) * future_season


def season_trend_recent(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> np.ndarray:
    """`season_trend` whose seasonal index forgets: each season back counts 0.7 times the one after it."""
    adjusted, future_season = remove_season(past, horizon, seasons, additive=False, memory=SEASON_MEMORY)
    return level_and_drift(adjusted, horizon) * future_season


def season_trend_additive(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> np.ndarray:
    """`season_trend` with seasonal differences in units instead of ratios."""
    adjusted, future_season = remove_season(past, horizon, seasons, additive=True)
    return level_and_drift(adjusted, horizon) + future_season


def season_level(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> np.ndarray:
    """The same periods of last season times the change of the last 8 periods against theirs; level and drift where a series holds no season and a half of 8."""
    result = level_and_drift(past, horizon)
    for season in seasons:
        if past.shape[1] < season + RECENT_PERIODS:
            continue
        now, then = past[:, -RECENT_PERIODS:].sum(1), past[:, -season - RECENT_PERIODS : -season].sum(1)
        rows = np.flatnonzero(np.isfinite(then) & (then > 0))
        change = np.clip(now[rows] / then[rows], 1 / LARGEST_CHANGE, LARGEST_CHANGE)
        result[rows] = seasonal_naive(past[rows], horizon, (season,)) * change[:, None]
    return result


def autoregression(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> np.ndarray:
    """One linear model per step ahead on the last values of the seasonally adjusted series, ridge, fitted series by series.

    The order is a quarter of the length, at most 52; below `SHORTEST_REGRESSION` periods `season_trend_additive` stands in.
    """
    result = season_trend_additive(past, horizon, seasons)
    adjusted, future_season = remove_season(past, horizon, seasons, additive=True)
    held = lengths(past)
    for length in np.unique(held[held >= SHORTEST_REGRESSION]):
        order = min(LONGEST_ORDER, (int(length) - horizon) // 4)
        if order < 2:
            continue
        rows = np.flatnonzero(held == length)
        for block in np.array_split(rows, -(-len(rows) * int(length) * (order + horizon) // WINDOW_CELLS)):
            result[block] = _regress_directly(adjusted[block, past.shape[1] - int(length) :], order, horizon) + future_season[block]
    return result


def _regress_directly(values: np.ndarray, order: int, horizon: int) -> np.ndarray:
    """Values [S, L] -> [S, H]; each window is taken about its own mean, so the level is free."""
    windows = np.lib.stride_tricks.sliding_window_view(values, order + horizon, axis=1)  # [S, N, order + H]
    mean = windows[:, :, :order].mean(2, keepdims=True)
    inputs, targets = windows[:, :, :order] - mean, windows[:, :, order:] - mean
    squares = inputs.transpose(0, 2, 1) @ inputs
    energy = np.trace(squares, axis1=1, axis2=2) / order
    weight = RIDGE * max(1.0, FULL_REGRESSION / windows.shape[1])
    penalty = np.where(energy > 0, energy * weight, 1.0)[:, None, None] * np.eye(order)
    coefficients = np.linalg.solve(squares + penalty, inputs.transpose(0, 2, 1) @ targets)  # [S, order, H]
    last = values[:, -order:]
    level = last.mean(1, keepdims=True)
    return level + np.einsum("sp,sph->sh", last - level, coefficients)


def last_value(past: np.ndarray) -> np.ndarray:
    """[S] value of the last period, NaN for a series without values."""
    return past[:, -1] if past.shape[1] else np.full(len(past), np.nan)


def lengths(past: np.ndarray) -> np.ndarray:
    """[S] number of periods each series holds."""
    return (~np.isnan(past)).sum(1)


def remove_season(past: np.ndarray, horizon: int, seasons: Sequence[int], *, additive: bool, memory: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Values without their seasons [S, T], and the seasons of the next periods [S, H] to put back (ratios, or units where `additive`).

    Ratio 1 or difference 0 where a series holds fewer than one and a half seasons.
    """
    neutral = 0.0 if additive else 1.0
    adjusted, future = past.copy(), np.full((len(past), horizon), neutral)
    for season in seasons:
        rows = np.flatnonzero(lengths(past) >= SEASONS_NEEDED * season)
        if len(rows) == 0:
            continue
        index = seasonal_index(adjusted[rows], season, additive=additive, memory=memory)
        behind, ahead = index[:, (np.arange(past.shape[1]) - past.shape[1]) % season], index[:, np.arange(horizon) % season]
        adjusted[rows] = adjusted[rows] - behind if additive else adjusted[rows] / np.maximum(behind, SMALLEST_RATIO)
        future[rows] = future[rows] + ahead if additive else future[rows] * ahead
    return adjusted, future


def seasonal_index(values: np.ndarray, season: int, *, additive: bool = False, memory: float = 1.0) -> np.ndarray:
    """Ratio (or difference) of each phase of the season to the level around it, mean 1 (or 0).

    values   [S, T], NaN before a series begins
    returns  [S, season]; phase 0 is the first period after the last value

    Against the centred moving average, pooled over the seasons; `memory` is the weight of a season relative to the one after it.
    A ratio is one of sums, so single zeros do no harm; a phase never seen gets 1 (or 0).
    """
    num_series, num_periods = values.shape
    level = smooth_level(values, season)
    usable = ~np.isnan(values) & ~np.isnan(level)
    weight = np.where(usable, memory ** ((num_periods - 1 - np.arange(num_periods)) // season), 0.0)
    short = -num_periods % season

    def by_phase(table: np.ndarray) -> np.ndarray:
        """[S, season] sums over the seasons."""
        return np.pad(table, ((0, 0), (short, 0))).reshape(num_series, -1, season).sum(1)

    seen, expected = np.where(usable, values, 0.0), np.where(usable, level, 0.0)
    if additive:
        total, count = by_phase(weight * (seen - expected)), by_phase(weight)
        index = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        return index - index.mean(1, keepdims=True)
    total, count = by_phase(weight * seen), by_phase(weight * expected)
    index = np.divide(total, count, out=np.ones_like(total), where=count > 0)
    mean = index.mean(1, keepdims=True)
    return np.divide(index, mean, out=np.ones_like(index), where=mean > 0)


def seasonal_level(past: np.ndarray, seasons: Sequence[int]) -> np.ndarray:
    """[S, T] the moving level times the seasonal indices: what a period would have been without noise; NaN where the level is unknown."""
    season = max(seasons)
    adjusted, index = past, np.ones_like(past)
    for cycle in seasons:
        ratio = seasonal_index(adjusted, cycle)[:, (np.arange(past.shape[1]) - past.shape[1]) % cycle]
        index = index * ratio
        adjusted = adjusted / np.maximum(ratio, SMALLEST_RATIO)
    return smooth_level(adjusted, season) * index


def smooth_level(values: np.ndarray, season: int) -> np.ndarray:
    """Mean over one season around each period (shorter at the ends of the series, where the nearest full window stands in)."""
    num_periods = values.shape[1]
    known = ~np.isnan(values)
    sums = np.cumsum(np.pad(np.where(known, values, 0.0), ((0, 0), (1, 0))), axis=1)
    counts = np.cumsum(np.pad(known.astype(float), ((0, 0), (1, 0))), axis=1)
    start = np.clip(np.arange(num_periods) - season // 2, 0, num_periods - season)
    window_sum = sums[:, start + season] - sums[:, start]
    window_count = counts[:, start + season] - counts[:, start]
    return np.divide(window_sum, window_count, out=np.full_like(window_sum, np.nan), where=window_count == season)


def level_and_drift(values: np.ndarray, horizon: int) -> np.ndarray:
    """[S, H] smoothed level, going on with half the linear drift, damped."""
    level, drift = _smooth_with_drift(values)
    return level[:, None] + drift[:, None] * np.cumsum(TREND_DAMPING ** np.arange(1, horizon + 1))


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
    held = [season for season in seasons if len(values) >= SEASONS_NEEDED * season]
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
    "season_trend_recent": season_trend_recent,
    "season_trend_additive": season_trend_additive,
    "season_level": season_level,
    "autoregression": autoregression,
    "mstl": _by_series(_mstl),
    "auto_ets": _by_series(_auto_ets),
    "theta": _by_series(_theta),
    "croston": _by_series(_croston),
    "tsb": _by_series(_tsb),
}
