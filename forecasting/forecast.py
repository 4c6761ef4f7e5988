"""Forecasts of demand at any number of cut-offs, each from what was known then: candidates, back-test, choice, intervals, fallbacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import polars as pl

from contracts import columns as c
from contracts.sections.forecast import ForecastConfig
from contracts.tables import FORECASTS, QUANTILES, quantile_column
from forecasting.back_test import BackTest, back_test, origins_before, seasonal_scale
from forecasting.choice import COMBINATION, Choice, choose, pooled_weights
from forecasting.feasts import exposures, take_out_feasts
from forecasting.intervals import error_distribution, quantiles_around, series_size
from forecasting.models import BATCH_MODELS, MODELS, RECENT_PERIODS, SEASONS_NEEDED, SHORTEST_SERIES, forecast_mean, lengths
from forecasting.panel import KEY, Panel, build_panel
from forecasting.reconciliation import reconcile

REFERENCE = "seasonal_naive"
WITHOUT_SEASON = "recent_mean"
CHOSEN = "chosen"
NETWORK_STAND_IN = "season_trend"
FEAST_TRIAL = "season_trend"
FEASTS_MAY_COST = 1.02
FOLLOWS = "own level, course of its category"


@dataclass(frozen=True)
class ForecastResult:
    """What `forecast_demand` gives.

    forecasts  contract `FORECASTS`, rows with model `chosen`
    choices    one row per (cutoff, level, id, region): model used, leading_model (the heaviest in a combination), fallback and notes (null where none)
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
    network_forecasts: pl.DataFrame | None = None,
    item_categories: Mapping[str, str] | None = None,
) -> ForecastResult:
    """Forecast every series at every cut-off with the model, or the weighted mean of models, that its level's rolling back-test prefers.

    `demand`: contract `DEMAND` on a complete grid. A forecast for a cut-off reads only periods that end at or before it, and so does the back-test behind
    its choice. The seasonal naive forecast (last year) is kept unless a candidate beats it there. A series that is too short, constant or all zero
    gets the fallback that `choices` names; it never stops the others. A cut-off with no known period has no rows.

    Parameters
    ----------
    calendar
        Columns date, region and `days_from_<feast>` (signed days to the nearest one): moving feasts to allow for.
    network_forecasts
        Means of further candidates (contract `FORECASTS`, model names of `config.models`) at the dates of `back_test_cutoffs`, each from what was known then.
    item_categories
        Item id -> category path. With it an item too young for a model of its own, or beyond `max_item_series`, follows its category, and items add up to it.

    Raises ValueError for an empty table.
    """
    panel = panel_of(demand, config)
    levels: dict[str, _Level] = {}
    for level in (name for name in (c.TOTAL, c.CATEGORY, c.ITEM) if len(panel.rows_of(name))):
        leaders = _Leaders(levels, item_categories or {}) if level == c.ITEM else None
        levels[level] = _Level(panel, panel.rows_of(level), level, config, calendar, network_forecasts, leaders)
        levels[level].forecast(sorted(set(cutoffs)))
    forecasts = [table for level in levels.values() for table in level.forecasts]
    table = pl.concat(forecasts).sort(FORECASTS.grain) if forecasts else pl.DataFrame(schema=dict(FORECASTS.schema))
    if config.reconcile and len(table):
        table = reconcile(table, panel, item_categories)
    return ForecastResult(
        table,
        pl.concat((rows for level in levels.values() for rows in level.choices), how="vertical_relaxed") if forecasts else pl.DataFrame(),
        pl.concat((rows for level in levels.values() for rows in level.tests), how="vertical_relaxed") if forecasts else pl.DataFrame(),
    )


def panel_of(demand: pl.DataFrame | pl.LazyFrame, config: ForecastConfig) -> Panel:
    """The series of the configured levels."""
    return build_panel(demand.lazy().filter(pl.col(c.LEVEL).is_in(config.levels)), config.frequency, config.season_periods)


def origins_of(panel: Panel, cutoff: date, config: ForecastConfig) -> list[int]:
    """Numbers of known periods at the rolling origins of a cut-off, latest first."""
    every = config.back_test_every_periods or max(1, config.horizon_periods // 4)
    return origins_before(panel.known_periods(cutoff), config.back_test_origins, every, SHORTEST_SERIES)


def back_test_cutoffs(demand: pl.DataFrame | pl.LazyFrame, *, cutoffs: Sequence[date], config: ForecastConfig) -> list[date]:
    """All dates at which a network must forecast to compete at `cutoffs`: the cut-offs themselves and the origins of their back-tests."""
    panel = panel_of(demand, config)
    known = {number for cutoff in cutoffs for number in (panel.known_periods(cutoff), *origins_of(panel, cutoff, config)) if number}
    return [panel.future_dates(number, 1)[0] for number in sorted(known)]


@dataclass
class _Level:
    """One level's series and the forecasts already made at each origin; two cut-offs share most of them."""

    panel: Panel
    rows: np.ndarray
    level: str
    config: ForecastConfig
    calendar: pl.DataFrame | None
    network_forecasts: pl.DataFrame | None
    leaders: "_Leaders | None"
    made: dict[tuple[int, bool, bool], dict[str, np.ndarray]] = field(default_factory=dict)
    means: dict[int, np.ndarray] = field(default_factory=dict)
    forecasts: list[pl.DataFrame] = field(default_factory=list)
    choices: list[pl.DataFrame] = field(default_factory=list)
    tests: list[pl.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = self.panel.values[self.rows]
        self.sample = _spread_sample(len(self.rows), self.config.back_test_series)
        self.networks = _network_means(self.network_forecasts, self.panel, self.rows, self.config.horizon_periods)
        self.models = _candidates(self.config, len(self.rows), {model for model, _ in self.networks})
        self.combine = COMBINATION in self.config.models and len(self.models) > 2
        self.place = {key: row for row, key in enumerate(self.panel.keys[self.rows].select(c.ID, c.REGION).iter_rows())}
        self.exposures = _exposures_by_region(self.calendar, self.panel, self.rows, self.config.horizon_periods)

    def forecast(self, cutoffs: Sequence[date]) -> None:
        """Make forecasts, choices and back-tests of the cut-offs."""
        for cutoff in cutoffs:
            known = self.panel.known_periods(cutoff)
            if known == 0:
                continue
            feasts, test = self._back_test(cutoff, known)
            has_season = known >= max(self.config.season_periods, default=1)
            choice = choose(test, reference=REFERENCE, unmeasured=REFERENCE if has_season else WITHOUT_SEASON, combine=self.combine)
            mean, leading = self._mean(known, choice, feasts=feasts)
            follows = self.leaders.follow(mean, self, known) if self.leaders else np.zeros(len(self.rows), dtype=bool)
            self.means[known] = mean
            quantiles = self._quantiles(mean, known, test, choice)
            alive = np.isfinite(mean[:, 0])
            dates = self.panel.future_dates(known, self.config.horizon_periods)
            self.forecasts.append(_forecast_rows(self.panel.keys[self.rows[alive]], cutoff, dates, mean[alive], quantiles[:, alive]))
            self.choices.append(self._choice_rows(cutoff, known, choice.model, leading, follows))
            self.tests.append(_test_rows(cutoff, self.level, test, choice))

    def _back_test(self, cutoff: date, known: int) -> tuple[bool, BackTest]:
        """Whether to allow for moving feasts on this level, and the back-test of all candidates made that way.

        A back-test of some months may hold no feast at all, so the clear effects of the years before count unless the back-test speaks against them.
        """
        origins = origins_of(self.panel, cutoff, self.config)

        def test(models: Sequence[str], *, feasts: bool) -> BackTest:
            means_at = {origin: self._means(origin, models, sampled=True, feasts=feasts) for origin in origins}
            return back_test(self.values[self.sample], known, means_at, models, self.config.horizon_periods, self.config.season_periods)

        trials = [np.nanmean(scores) if np.isfinite(scores := test([FEAST_TRIAL], feasts=feasts).scaled_errors()).any() else np.inf for feasts in (False, True)]
        feasts = bool(self.exposures) and trials[1] <= trials[0] * FEASTS_MAY_COST
        return feasts, test(self.models, feasts=feasts)

    def _means(self, known: int, models: Sequence[str], *, sampled: bool, feasts: bool) -> Mapping[str, np.ndarray]:
        """Forecasts of models from the first `known` periods, of the sample or of all series; made once."""
        sampled = sampled or len(self.sample) == len(self.rows)
        made = self.made.setdefault((known, sampled, feasts), {})
        rows = self.sample if sampled else np.arange(len(self.rows))
        missing = [model for model in models if model not in made]
        if missing:
            past = self.values[rows, :known]
            adjusted, factors = self._without_feasts(past, rows) if feasts else (past, 1.0)
            for model in missing:
                made[model] = self._model(model, past, rows) if model == REFERENCE or model not in MODELS else self._model(model, adjusted, rows) * factors
        return made

    def _without_feasts(self, past: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        adjusted, factors = past.copy(), np.ones((len(past), self.config.horizon_periods))
        for members, exposure in self.exposures:
            inside = np.flatnonzero(np.isin(rows, members))
            adjusted[inside], factors[inside] = take_out_feasts(past[inside], exposure, self.config.horizon_periods, self.config.season_periods)
        return adjusted, factors

    def _model(self, model: str, past: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if model in MODELS:
            return forecast_mean(model, past, self.config.horizon_periods, self.config.season_periods)
        stand_in = forecast_mean(NETWORK_STAND_IN, past, self.config.horizon_periods, self.config.season_periods)
        given = self.networks.get((model, past.shape[1]))
        return stand_in if given is None else np.where(np.isnan(given[rows]), stand_in, np.maximum(given[rows], 0.0))

    def _mean(self, known: int, choice: Choice, *, feasts: bool) -> tuple[np.ndarray, list[str]]:
        """[S, H] mean of the chosen model, and the leading model of each series."""
        if choice.model != COMBINATION:
            return self._means(known, [choice.model], sampled=False, feasts=feasts)[choice.model], [choice.model] * len(self.rows)
        weights = np.repeat(pooled_weights(choice.weights), len(self.rows), axis=1)
        weights[:, self.sample] = choice.weights
        used = [place for place in range(len(self.models)) if weights[place].any()]
        means = self._means(known, [self.models[place] for place in used], sampled=False, feasts=feasts)
        mean = np.einsum("ms,msh->sh", weights[used], np.stack([means[self.models[place]] for place in used]))
        return mean, [self.models[place] for place in weights.argmax(0)]

    def _quantiles(self, mean: np.ndarray, known: int, test: BackTest, choice: Choice) -> np.ndarray:
        """[Q, S, H] from the back-test errors of the chosen model; a series outside the sample is as uncertain as its scale says."""
        spread = error_distribution(choice.errors, test.scale, QUANTILES)
        size = spread.pooled * np.nan_to_num(seasonal_scale(self.values[:, :known], self.config.season_periods))
        size[self.sample] = series_size(choice.errors, np.nan_to_num(test.scale), spread.growth, spread.pooled)
        return quantiles_around(mean, size, spread)

    def _choice_rows(self, cutoff: date, known: int, model: str, leading: Sequence[str], follows: np.ndarray) -> pl.DataFrame:
        past = self.values[:, :known]
        own = fallbacks(past, self.config.horizon_periods, self.config.season_periods)
        fallback = [FOLLOWS if following else text for text, following in zip(own, follows, strict=True)]
        return (
            self.panel.keys[self.rows]
            .with_columns(
                pl.lit(cutoff).alias(c.CUTOFF),
                pl.lit(model).alias(c.MODEL),
                pl.Series("leading_model", leading, dtype=pl.String),
                pl.Series("fallback", [text or None for text in fallback], dtype=pl.String),
                pl.Series("notes", [text or None for text in self.panel.notes[self.rows]], dtype=pl.String),
            )
            .select(c.CUTOFF, *KEY, c.MODEL, "leading_model", "fallback", "notes")
        )


@dataclass
class _Leaders:
    """The categories (or the total) that items too young or too small for a model of their own follow."""

    levels: dict[str, _Level]
    categories: Mapping[str, str]

    def follow(self, mean: np.ndarray, items: _Level, known: int) -> np.ndarray:
        """Put the followers' means into `mean` [S, H], their own recent level times the course of their leader; [S] who follows.

        Young: fewer than `SHORTEST_SERIES` periods. Small: behind the `max_item_series` that sold most in the last year's worth of periods.
        """
        past = items.values[:, :known]
        year = past[:, -max((1, *items.config.season_periods)) :]
        rank = np.argsort(np.argsort(-np.nansum(year, axis=1), kind="stable"), kind="stable")
        wanted = (lengths(past) > 0) & ((lengths(past) < SHORTEST_SERIES) | (rank >= items.config.max_item_series))
        follows = np.zeros(len(past), dtype=bool)
        leaders = [self._leader(name, region) for name, region in items.panel.keys[items.rows[wanted]].select(c.ID, c.REGION).iter_rows()]
        for row, leader in zip(np.flatnonzero(wanted), leaders, strict=True):
            if leader is None or known not in leader[0].means:
                continue
            level, place = leader
            alive = min(int(lengths(past[row : row + 1])[0]), RECENT_PERIODS)
            usual = level.values[place, known - alive : known].mean()
            if usual > 0:
                mean[row] = past[row, -alive:].mean() * level.means[known][place] / usual
                follows[row] = True
        return follows

    def _leader(self, item: str, region: str) -> tuple[_Level, int] | None:
        path = self.categories.get(item, "")
        while path:
            found = self._place(c.CATEGORY).get((path, region))
            if found is not None:
                return self.levels[c.CATEGORY], found
            path = path.rpartition(c.CATEGORY_SEPARATOR)[0]
        total = [place for (_, of), place in self._place(c.TOTAL).items() if of == region]
        return (self.levels[c.TOTAL], total[0]) if total else None

    def _place(self, level: str) -> dict[tuple[str, str], int]:
        """(id, region) -> row within a level."""
        if level not in self.levels:
            return {}
        return self.levels[level].place


def _exposures_by_region(calendar: pl.DataFrame | None, panel: Panel, rows: np.ndarray, horizon: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row numbers of each region and its exposures to moving feasts; none without a calendar."""
    if calendar is None or calendar.is_empty():
        return []
    regions = panel.keys[rows][c.REGION]
    return [
        (np.flatnonzero((regions == region).to_numpy()), np.stack(list(exposures(calendar, panel, horizon, region).values()))) for region in regions.unique()
    ]


def _candidates(config: ForecastConfig, num_series: int, networks: set[str]) -> list[str]:
    """Models that compete on a level: those configured, the slow ones only where the series are few enough, networks only where they sent forecasts."""
    wanted = [REFERENCE, *(model for model in config.models if model != REFERENCE and (model in MODELS or model in networks))]
    if num_series > config.max_slow_series:
        wanted = [model for model in wanted if model in BATCH_MODELS or model in networks]
    return wanted if WITHOUT_SEASON in wanted else [*wanted, WITHOUT_SEASON]


def _spread_sample(num_series: int, size: int) -> np.ndarray:
    """Rows spread evenly over the sorted ids, all of them where they are few; independent of the values, so nothing later than a cut-off can steer it."""
    return np.arange(num_series) if num_series <= size else np.linspace(0, num_series - 1, size).astype(int)


def _network_means(forecasts: pl.DataFrame | None, panel: Panel, rows: np.ndarray, horizon: int) -> dict[tuple[str, int], np.ndarray]:
    """(model, known periods) -> [S, H] means, NaN where the network sent none."""
    if forecasts is None or forecasts.is_empty():
        return {}
    keys = panel.keys[rows].with_row_index("row")
    table = forecasts.join(keys, on=list(KEY), how="inner")
    means: dict[tuple[str, int], np.ndarray] = {}
    for (model, cutoff), part in table.group_by(c.MODEL, c.CUTOFF):
        known = panel.known_periods(cutoff)
        step_of = {day: step for step, day in enumerate(panel.future_dates(known, horizon))}
        placed = part.with_columns(pl.col(c.DATE).replace_strict(step_of, default=None, return_dtype=pl.Int64).alias("step")).drop_nulls("step")
        mean = np.full((len(rows), horizon), np.nan)
        mean[placed["row"].to_numpy(), placed["step"].to_numpy()] = placed[c.MEAN].to_numpy()
        means[model, known] = mean
    return means


def _forecast_rows(keys: pl.DataFrame, cutoff: date, dates: Sequence[date], mean: np.ndarray, quantiles: np.ndarray) -> pl.DataFrame:
    horizon = len(dates)
    table = keys[np.repeat(np.arange(keys.height), horizon)].with_columns(
        pl.lit(cutoff).alias(c.CUTOFF),
        pl.Series(c.DATE, np.tile(np.array(dates, dtype="datetime64[D]"), keys.height)).cast(pl.Date),
        pl.lit(CHOSEN).alias(c.MODEL),
        pl.Series(c.MEAN, mean.ravel()),
        *(pl.Series(quantile_column(q), quantiles[number].ravel()) for number, q in enumerate(QUANTILES)),
    )
    return table.select(FORECASTS.schema.keys())


def fallbacks(past: np.ndarray, horizon: int, seasons: Sequence[int]) -> list[str]:
    """What stands in for the chosen model, series by series; empty text where it could run in full."""
    held = lengths(past)
    present = np.where(held[:, None] > 0, past, 0.0)
    low, high = np.nanmin(present, axis=1), np.nanmax(present, axis=1)
    season = max(seasons, default=1)
    return [_fallback(int(length), least, most, horizon, season) for length, least, most in zip(held, low, high, strict=True)]


def _fallback(length: int, least: float, most: float, horizon: int, season: int) -> str:
    reasons = {
        "no value yet: no forecast": length == 0,
        "one value: repeated": length == 1,
        "all zero: zero": most == 0,
        "constant: repeated": least == most,
        f"{length} values: too few for a model of its own, level smoothed": length < SHORTEST_SERIES,
        f"{length} values, shorter than the horizon: no season, level and damped trend": length < horizon,
        f"{length} values, fewer than {SEASONS_NEEDED} seasons of {season}: no season of its own": season > 1 and length < SEASONS_NEEDED * season,
    }
    return next((text for text, holds in reasons.items() if holds), "")


def _test_rows(cutoff: date, level: str, test: BackTest, choice: Choice) -> pl.DataFrame:
    num = len(choice.scores)
    return pl.DataFrame(
        {
            c.CUTOFF: [cutoff] * num,
            c.LEVEL: [level] * num,
            c.MODEL: list(choice.scores),
            "mase": list(choice.scores.values()),
            "chosen": [name == choice.model for name in choice.scores],
            "num_series": [len(test.scale)] * num,
            "num_origins": [test.errors.shape[1]] * num,
        },
        schema_overrides={c.CUTOFF: pl.Date, "mase": pl.Float64},
    ).with_columns(pl.col("mase").fill_nan(None))
