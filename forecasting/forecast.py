"""Forecasts of demand at any number of cut-offs, each from what was known then: candidates, back-test, choice, intervals, fallbacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from contracts import columns as c
from contracts.sections.forecast import ForecastConfig
from contracts.tables import FORECASTS, QUANTILES, quantile_column
from forecasting.back_test import BackTest, back_test, choose_model, origins_before, seasonal_scale
from forecasting.intervals import error_distribution, quantiles_around, series_size
from forecasting.models import BATCH_MODELS, MODELS, SHORTEST_SERIES, forecast_mean, lengths
from forecasting.panel import KEY, Panel, build_panel

REFERENCE = "seasonal_naive"
COMBINATION = "combination"
CHOSEN = "chosen"
WITHOUT_SEASON = "recent_mean"


@dataclass(frozen=True)
class ForecastResult:
    """What `forecast_demand` gives.

    forecasts  contract `FORECASTS`, rows with model `chosen`
    choices    one row per (cutoff, level, id, region): model used, fallback (null where none), notes on the input (null where none)
    back_test  one row per (cutoff, level, model): mase over the rolling origins known at the cut-off, whether it was chosen, number of series and origins
    """

    forecasts: pl.DataFrame
    choices: pl.DataFrame
    back_test: pl.DataFrame


def forecast_demand(
    demand: pl.DataFrame | pl.LazyFrame,
    *,
    cutoffs: Sequence[date],
    config: ForecastConfig,
    calendar: pl.DataFrame | None = None,
) -> ForecastResult:
    """Forecast every series at every cut-off with the model that its level's rolling back-test prefers.

    `demand`: contract `DEMAND` on a complete grid. A forecast for a cut-off reads only periods that end at or before it, and so does the back-test behind
    its choice. The seasonal naive forecast (last year) is kept unless a candidate beats it there. A series that is too short, constant or all zero
    gets the fallback that `choices` names; it never stops the others. A cut-off with no known period has no rows.

    Raises ValueError for an empty table or a model that is not known here (networks arrive as a table, see `contracts`).
    """
    del calendar
    panel = build_panel(demand.lazy().filter(pl.col(c.LEVEL).is_in(config.levels)), config.frequency, config.season_periods)
    parts = [
        _forecast_level(panel, rows, level, sorted(set(cutoffs)), config)
        for level in panel.keys[c.LEVEL].unique(maintain_order=True)
        if len(rows := panel.rows_of(level))
    ]
    forecasts, choices, tests = ([table for part in parts for table in part[kind]] for kind in range(3))
    return ForecastResult(
        pl.concat(forecasts) if forecasts else pl.DataFrame(schema=dict(FORECASTS.schema)),
        pl.concat(choices, how="vertical_relaxed") if choices else pl.DataFrame(),
        pl.concat(tests, how="vertical_relaxed") if tests else pl.DataFrame(),
    )


def _forecast_level(
    panel: Panel, rows: np.ndarray, level: str, cutoffs: Sequence[date], config: ForecastConfig
) -> tuple[list[pl.DataFrame], list[pl.DataFrame], list[pl.DataFrame]]:
    values = panel.values[rows]
    models = _candidates(config, len(rows))
    sample = _spread_sample(values, config.back_test_series)
    every = config.back_test_every_periods or max(1, config.horizon_periods // 4)
    cache: dict[int, dict[str, np.ndarray]] = {}

    forecasts, choices, tests = [], [], []
    for cutoff in cutoffs:
        known = panel.known_periods(cutoff)
        if known == 0:
            continue
        origins = origins_before(known, config.back_test_origins, every, SHORTEST_SERIES)
        for origin in origins:
            if origin not in cache:
                cache[origin] = _means(values[sample], origin, models, config)
        test = back_test(values[sample], known, {origin: cache[origin] for origin in origins}, models, config.horizon_periods, config.season_periods)
        model, scores = choose_model(test, REFERENCE, unmeasured=REFERENCE if known >= max(config.season_periods, default=1) else WITHOUT_SEASON)
        past = values[:, :known]
        mean = cache[known][model] if known in cache and len(sample) == len(rows) else _mean_of(model, values, known, models, config)
        quantiles = _quantiles(mean, past, test, model, sample, config)
        alive = np.isfinite(mean[:, 0])
        keys = panel.keys[rows[alive]]
        forecasts.append(_forecast_rows(keys, cutoff, panel.future_dates(known, config.horizon_periods), mean[alive], quantiles[:, alive]))
        choices.append(_choice_rows(panel.keys[rows], cutoff, model, past, panel.notes[rows], config))
        tests.append(_test_rows(cutoff, level, test, scores, model))
    return forecasts, choices, tests


def _candidates(config: ForecastConfig, num_series: int) -> list[str]:
    """Models that compete on a level; the slow ones only where the series are few enough."""
    wanted = [REFERENCE, *(model for model in config.models if model in MODELS and model != REFERENCE)]
    if num_series > config.max_slow_series:
        wanted = [model for model in wanted if model in BATCH_MODELS]
    combined = COMBINATION in config.models and len(wanted) > 2
    return [*wanted, COMBINATION] if combined else wanted


def _spread_sample(values: np.ndarray, size: int) -> np.ndarray:
    """Rows spread evenly over the sorted ids, all of them where they are few; independent of the values, so nothing later than a cut-off can steer it."""
    return np.arange(len(values)) if len(values) <= size else np.linspace(0, len(values) - 1, size).astype(int)


def _means(values: np.ndarray, known: int, models: Sequence[str], config: ForecastConfig) -> dict[str, np.ndarray]:
    """Forecasts of all candidates from the first `known` periods."""
    means = {model: forecast_mean(model, values[:, :known], config.horizon_periods, config.season_periods) for model in models if model != COMBINATION}
    if COMBINATION in models:
        means[COMBINATION] = np.mean([mean for model, mean in means.items() if model != REFERENCE], axis=0)
    return means


def _mean_of(model: str, values: np.ndarray, known: int, models: Sequence[str], config: ForecastConfig) -> np.ndarray:
    if model == COMBINATION:
        return _means(values, known, models, config)[COMBINATION]
    return forecast_mean(model, values[:, :known], config.horizon_periods, config.season_periods)


def _quantiles(mean: np.ndarray, past: np.ndarray, test: BackTest, model: str, sample: np.ndarray, config: ForecastConfig) -> np.ndarray:
    """[Q, S, H] from the errors of the chosen model; a series without any step of its own is as uncertain as its level is wide."""
    errors = test.errors[test.models.index(model)]
    spread = error_distribution(errors, test.scale, QUANTILES)
    scale = seasonal_scale(past, config.season_periods)
    scale = np.where(np.isfinite(scale), scale, 0.0)
    size = spread.pooled * scale
    in_sample = series_size(errors, np.nan_to_num(test.scale), spread.growth, spread.pooled)
    size[sample] = in_sample
    return quantiles_around(mean, size, spread)


def _forecast_rows(keys: pl.DataFrame, cutoff: date, dates: Sequence[date], mean: np.ndarray, quantiles: np.ndarray) -> pl.DataFrame:
    horizon = len(dates)
    table = keys[np.repeat(np.arange(keys.height), horizon)].with_columns(
        pl.lit(cutoff).alias(c.CUTOFF),
        pl.Series(c.DATE, list(dates) * keys.height, dtype=pl.Date),
        pl.lit(CHOSEN).alias(c.MODEL),
        pl.Series(c.MEAN, mean.ravel()),
        *(pl.Series(quantile_column(q), quantiles[number].ravel()) for number, q in enumerate(QUANTILES)),
    )
    return table.select(FORECASTS.schema.keys())


def _choice_rows(keys: pl.DataFrame, cutoff: date, model: str, past: np.ndarray, notes: np.ndarray, config: ForecastConfig) -> pl.DataFrame:
    fallback = fallbacks(past, config.horizon_periods, config.season_periods)
    return keys.with_columns(
        pl.lit(cutoff).alias(c.CUTOFF),
        pl.lit(model).alias(c.MODEL),
        pl.Series("fallback", [text or None for text in fallback], dtype=pl.String),
        pl.Series("notes", [text or None for text in notes], dtype=pl.String),
    ).select(c.CUTOFF, *KEY, c.MODEL, "fallback", "notes")


def fallbacks(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> list[str]:
    """What stands in for the chosen model, series by series; empty text where it could run in full."""
    held = lengths(past)
    present = np.where(held[:, None] > 0, past, 0.0)
    low, high = np.nanmin(present, axis=1), np.nanmax(present, axis=1)
    season = max(seasons, default=1)
    texts = []
    for length, least, most in zip(held, low, high, strict=True):
        if length == 0:
            texts.append("no value yet: no forecast")
        elif length == 1:
            texts.append("one value: repeated")
        elif most == 0:
            texts.append("all zero: zero")
        elif least == most:
            texts.append("constant: repeated")
        elif length < SHORTEST_SERIES:
            texts.append(f"{length} values: too few for a model of its own, level smoothed")
        elif length < horizon:
            texts.append(f"{length} values, shorter than the horizon: no season, level and damped trend")
        elif length < 2 * season and season > 1:
            texts.append(f"{length} values, fewer than two seasons of {season}: no season of its own")
        else:
            texts.append("")
    return texts


def _test_rows(cutoff: date, level: str, test: BackTest, scores: np.ndarray, model: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            c.CUTOFF: [cutoff] * len(test.models),
            c.LEVEL: [level] * len(test.models),
            c.MODEL: list(test.models),
            "mase": [float(score) for score in scores],
            "chosen": [name == model for name in test.models],
            "num_series": [len(test.scale)] * len(test.models),
            "num_origins": [test.errors.shape[1]] * len(test.models),
        },
        schema_overrides={c.CUTOFF: pl.Date},
    ).with_columns(pl.col("mase").fill_nan(None))
