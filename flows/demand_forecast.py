"""The forecasts alone: bring in, check, build the demand, forecast it, register it. The training flow runs the same step inside."""

from contextlib import nullcontext
from datetime import date, timedelta
from pathlib import Path

import polars as pl
from prefect import flow
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contracts import columns as c
from contracts.artifacts import FeatureTables, ForecastTables
from contracts.config import PipelineConfig
from contracts.tables import quantile_column
from flows.first_steps import checked_data, feature_tables
from forecasting.forecast import REFERENCE, panel_of
from forecasting.panel import shift_periods
from forecasting.plot import decompose, fan_chart
from tasks.forecast_demand import forecast_demand
from tasks.register_forecasts import register_forecasts
from tasks.store import read_table, store_of


@flow(name="demand-forecast", description=__doc__)
def demand_forecast(config: PipelineConfig, fresh: bool = False, registered: bool = True) -> tuple[FeatureTables, ForecastTables]:
    """Forecast the demand of every configured level at every cut-off and register the table.

    Parameters
    ----------
    config
        Everything the run needs; `forecast` says levels, horizon and models.
    fresh
        Do every step again, also those whose input, configuration and code did not change.
    registered
        Off: a look at the forecasts only; the registry stays as it is.
    """
    store = store_of(config)
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}) if fresh else nullcontext():
        _, validated = checked_data(config, store)
        features = feature_tables(config, validated, store)
        forecasts = forecast_demand(features, config.forecast, store, compute=config.compute, validation=config.validation, seed=config.seed)
        if registered:
            register_forecasts(config, validated, features, forecasts)
    return features, forecasts


def forecast_of(features: FeatureTables, forecasts: ForecastTables, config: PipelineConfig, *, name: str, weeks: int, plot: Path | None = None) -> pl.DataFrame:
    """Newest forecast of one item, category path or `total`: rows of `FORECASTS` of the periods that begin in the next `weeks`; drawn to `plot` where given.

    An item that has no forecast of its own gets the one of the deepest category on its path that has one, its level told in the column `level`.

    Raises ValueError with near names where nothing was forecast under this name.
    """
    table = read_table(forecasts.forecasts).filter(pl.col(c.CUTOFF) == date.fromisoformat(features.end), pl.col(c.REGION) == c.ALL_REGIONS).collect()
    found = _named(table, features, name)
    of_series = table.filter(pl.col(c.LEVEL) == found[0], pl.col(c.ID) == found[1]).sort(c.DATE)
    rows = of_series.filter(pl.col(c.DATE) < of_series[c.DATE].min() + timedelta(weeks=weeks))
    if plot is not None:
        panel = panel_of(read_table(features.demand), config.forecast)
        series = {key: row for row, key in enumerate(panel.keys.iter_rows())}[*found, c.ALL_REGIONS]
        parts = decompose(panel, series, seasons=config.forecast.season_periods, calendar=read_table(features.calendar).collect())
        title = f"{found[1]}: {rows.height} {config.forecast.frequency}s from {rows[c.DATE][0]}"
        fan_chart(parts.select(c.DATE, c.UNITS), rows, plot, title=title, frequency=config.forecast.frequency, parts=parts)
    return rows


def print_forecast(rows: pl.DataFrame, console: Console, *, weeks: int, frequency: str) -> None:
    """The forecast of one series as a table, one line a period; says where fewer weeks were forecast than asked for."""
    level, name, model = rows.select(c.LEVEL, c.ID, c.MODEL).row(0)
    console.print(f"[bold]{escape(name)}[/bold] ({level}), units by {escape(model)} forecast, known to {rows[c.CUTOFF][0]}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for heading in ("from", "mean", "80 % interval", "95 % interval"):
        table.add_column(heading, justify="right")
    for row in rows.iter_rows(named=True):
        ends = [f"{row[quantile_column(low)]:,.1f} to {row[quantile_column(high)]:,.1f}" for low, high in ((0.1, 0.9), (0.025, 0.975))]
        table.add_row(str(row[c.DATE]), f"{row[c.MEAN]:,.1f}", *ends)
    console.print(table)
    end = shift_periods(rows[c.DATE][-1], 1, frequency)
    if end < rows[c.DATE][0] + timedelta(weeks=weeks):
        console.print(f"the forecast ends on {end}, before {weeks} weeks: `forecast.horizon_periods` sets how far it reaches", style="yellow")


def print_levels(forecasts: ForecastTables, console: Console) -> None:
    """What the back-test of the newest cut-off chose, level by level, beside last year's values."""
    test = read_table(forecasts.back_test).filter(pl.col(c.CUTOFF) == pl.col(c.CUTOFF).max()).collect()
    table = Table(box=None, pad_edge=False)
    for heading in ("level", "chosen", "MASE", "MASE of last year", "series", "origins"):
        table.add_column(heading, justify="left" if heading in {"level", "chosen"} else "right")
    naive = dict(test.filter(pl.col(c.MODEL) == REFERENCE).select(c.LEVEL, "mase").iter_rows())
    for row in test.filter("chosen").sort(c.LEVEL).iter_rows(named=True):
        errors = [f"{error:.3f}" if error is not None else "" for error in (row["mase"], naive.get(row[c.LEVEL]))]
        table.add_row(row[c.LEVEL], row[c.MODEL], *errors, str(row["num_series"]), str(row["num_origins"]))
    console.print(table)
    console.print(f"{forecasts.forecasts.rows:,} rows: {forecasts.forecasts.path}", soft_wrap=True)


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
