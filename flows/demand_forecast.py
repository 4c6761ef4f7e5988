"""The forecasts alone: bring in, check, build the demand, forecast it, register it. The training flow runs the same step inside."""

from contextlib import nullcontext
from datetime import date
from pathlib import Path

import polars as pl
from prefect import flow
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from contracts import columns as c
from contracts.artifacts import FeatureTables, ForecastTables
from contracts.config import PipelineConfig
from forecasting.forecast import panel_of
from forecasting.plot import decompose, fan_chart
from tasks.build_features import build_features
from tasks.forecast_demand import forecast_demand
from tasks.ingest import ingest
from tasks.register_forecasts import register_forecasts
from tasks.store import read_table, store_of
from tasks.validate import validate


@flow(name="demand-forecast", description=__doc__)
def demand_forecast(config: PipelineConfig, fresh: bool = False) -> tuple[FeatureTables, ForecastTables]:
    """Forecast the demand of every configured level at every cut-off and register the table.

    Parameters
    ----------
    config
        Everything the run needs; `forecast` says levels, horizon and models.
    fresh
        Do every step again, also those whose input, configuration and code did not change.
    """
    store = store_of(config)
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}) if fresh else nullcontext():
        ingested = ingest(config.source, store)
        validated = validate(
            ingested.interactions,
            ingested.item_catalogue,
            config.validation,
            store,
            horizon_days=config.evaluation.horizon_days,
            has_users=config.source.has_users,
        )
        features = build_features(
            validated,
            config.features,
            config.forecast,
            config.fine_tuning,
            config.evaluation,
            store,
            has_users=config.source.has_users,
            validation=config.validation,
        )
        forecasts = forecast_demand(features, config.forecast, store, compute=config.compute, validation=config.validation, seed=config.seed)
        register_forecasts(config, validated, features, forecasts)
    return features, forecasts


def forecast_of(
    features: FeatureTables, forecasts: ForecastTables, config: PipelineConfig, *, name: str, periods: int, plot: Path | None = None
) -> pl.DataFrame:
    """Newest forecast of one item, category path or `total`: date, mean, quantiles of the next `periods`; drawn to `plot` where given.

    An item that has no forecast of its own gets the one of the deepest category on its path that has one, its level told in the column `level`.

    Raises ValueError with near names where nothing was forecast under this name.
    """
    table = read_table(forecasts.forecasts).filter(pl.col(c.CUTOFF) == date.fromisoformat(features.end), pl.col(c.REGION) == c.ALL_REGIONS).collect()
    found = _named(table, features, name)
    rows = table.filter(pl.col(c.LEVEL) == found[0], pl.col(c.ID) == found[1]).sort(c.DATE).head(periods)
    if plot is not None:
        panel = panel_of(read_table(features.demand), config.forecast)
        series = {key: row for row, key in enumerate(panel.keys.iter_rows())}[*found, c.ALL_REGIONS]
        parts = decompose(panel, series, seasons=config.forecast.season_periods, calendar=read_table(features.calendar).collect())
        title = f"{found[1]}: {rows.height} {config.forecast.frequency}s from {features.end}"
        fan_chart(parts.select(c.DATE, c.UNITS), rows, plot, title=title, frequency=config.forecast.frequency, parts=parts)
    return rows


def _named(table: pl.DataFrame, features: FeatureTables, name: str) -> tuple[str, str]:
    """(level, id) of the series a person means by `name`."""
    known = set(table.select(c.LEVEL, c.ID).unique().iter_rows())
    for level in (c.ITEM, c.CATEGORY, c.TOTAL):
        if (level, name) in known:
            return level, name
    path = _category_of(features, name)
    while path:
        if (c.CATEGORY, path) in known:
            return c.CATEGORY, path
        path = path.rpartition(c.CATEGORY_SEPARATOR)[0]
    near = sorted(series for _, series in known if name.lower() in series.lower())[:5] or sorted(series for _, series in known)[:5]
    raise ValueError(f"forecast: nothing was forecast under {name!r}. Known, for instance: {', '.join(near)}. Levels are set in `forecast.levels`.")


def _category_of(features: FeatureTables, item: str) -> str:
    if features.item_catalogue is None:
        return ""
    found = read_table(features.item_catalogue).filter(pl.col(c.ITEM_ID) == item).select(c.CATEGORY).drop_nulls().head(1).collect()
    return str(found.item()) if found.height else ""
