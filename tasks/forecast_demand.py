"""Step `forecast_demand`: items and categories, some periods ahead, with intervals; every cut-off gets its own forecast."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import get_args

import polars as pl
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import FeatureTables, ForecastTables, content_digest
from contracts.sections.forecast import ForecastConfig
from contracts.sections.training import ComputeConfig
from contracts.sections.validation import ValidationConfig
from expectations.validation import validate_table
from forecasting.forecast import back_test_cutoffs, panel_of
from forecasting.forecast import forecast_demand as forecast
from forecasting.network_inputs import period_table, planned_table, series_table
from lightning_modules.forecasting_job import ForecastJob, NetworkName
from tasks.progress import progress_lines, progress_of
from tasks.reuse import is_fresh, reusable
from tasks.store import Store, fresh_folder, read_table, write_table
from tasks.training_process import run_training

CODE = ("forecasting", "lightning_modules", "expectations")


@task(name="forecast_demand", **reusable(*CODE, minutes=240))
def forecast_demand(
    features: FeatureTables,
    config: ForecastConfig,
    store: Store,
    *,
    compute: ComputeConfig,
    validation: ValidationConfig,
    seed: int,
) -> ForecastTables:
    """Forecast each series at each cut-off from what was known then, with the models its back-test prefers, and check the table."""
    folder = store.step_folder("forecast_demand", features.demand, features.calendar, config, ",".join(features.cutoffs), str(seed), code=CODE)
    if is_fresh():
        fresh_folder(folder)
    with progress_of("forecast_demand") as report_progress:
        result = forecast(
            read_table(features.demand),
            cutoffs=[date.fromisoformat(day) for day in features.cutoffs],
            config=config,
            calendar=read_table(features.calendar).collect(),
            network_forecasts=_network_forecasts(features, config, compute, folder, seed, progress_lines(report_progress, get_run_logger().info)),
            item_categories=_item_categories(features),
        )
        tables = ForecastTables(
            forecasts=write_table(result.forecasts, folder / "forecasts.parquet", "forecasts"),
            back_test=write_table(result.back_test, folder / "back_test.parquet", "back_test"),
            choices=write_table(result.choices, folder / "choices.parquet", "choices"),
        )
        validate_table(tables.forecasts, validation, folder=folder / "validation")
    newest = result.back_test.filter(pl.col(c.CUTOFF) == pl.col(c.CUTOFF).max())
    shown = [{name: round(value, 4) if isinstance(value, float) else str(value) for name, value in row.items()} for row in newest.to_dicts()]
    create_table_artifact(shown, key="forecast-back-test", description="Back-test of the newest cut-off (mean absolute scaled error)")
    get_run_logger().info("%s rows of forecasts: %s", f"{tables.forecasts.rows:,}", tables.forecasts.path)
    return tables


def _network_forecasts(
    features: FeatureTables, config: ForecastConfig, compute: ComputeConfig, folder: Path, seed: int, on_line: Callable[[str], None]
) -> pl.DataFrame | None:
    """Means of the configured networks at every cut-off and every origin of its back-test, each network trained in a process of its own."""
    networks = [model for model in config.models if model in get_args(NetworkName)]
    if not networks:
        return None
    demand, calendar = read_table(features.demand), read_table(features.calendar).collect()
    panel = panel_of(demand, config)
    dates = back_test_cutoffs(demand, cutoffs=[date.fromisoformat(day) for day in features.cutoffs], config=config)
    series = write_table(series_table(panel), folder / "series.parquet", "series")
    periods = write_table(period_table(panel, config.horizon_periods, calendar), folder / "periods.parquet", "periods")
    planned = None
    if config.planned_uri:
        planned = write_table(planned_table(panel, config.horizon_periods, pl.read_parquet(config.planned_uri)), folder / "planned.parquet", "planned")
    inputs = [Path(table.path) for table in (series, periods, planned) if table]
    tables = []
    for network in networks:
        job = ForecastJob(
            inputs_digest=content_digest(inputs),
            seed=seed,
            series=series.path,
            periods=periods.path,
            planned=planned.path if planned else None,
            known=tuple(panel.known_periods(day) for day in dates),
            network=network,
            horizon=config.horizon_periods,
            seasons=config.season_periods,
            past=config.network_past_periods,
            first_steps=config.network_first_steps,
            later_steps=config.network_later_steps,
        )
        tables.append(pl.read_parquet(run_training(job, folder / network, compute, on_line).output))
    return pl.concat(tables)


def _item_categories(features: FeatureTables) -> dict[str, str] | None:
    if features.item_catalogue is None:
        return None
    rows = read_table(features.item_catalogue).select(c.ITEM_ID, c.CATEGORY).drop_nulls().unique(c.ITEM_ID, keep="any").collect()
    return dict(rows.iter_rows())
