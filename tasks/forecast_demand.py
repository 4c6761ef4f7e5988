"""Step `forecast_demand`: items and categories, some periods ahead, with intervals; every cut-off gets its own forecast."""

from datetime import date

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from contracts.artifacts import FeatureTables, ForecastTables
from contracts.sections.forecast import ForecastConfig
from forecasting.forecast import forecast_demand as forecast
from tasks.progress import progress_of
from tasks.reuse import reusable
from tasks.store import Store, read_table, write_table

CODE = ("forecasting",)


@task(name="forecast_demand", **reusable(*CODE, minutes=240))
def forecast_demand(features: FeatureTables, config: ForecastConfig, store: Store) -> ForecastTables:
    """Forecast each series at each cut-off from what was known then, with the model its back-test prefers."""
    folder = store.step_folder("forecast_demand", features.demand, config, ",".join(features.cutoffs), code=CODE)
    with progress_of("forecast_demand"):
        result = forecast(
            read_table(features.demand),
            cutoffs=[date.fromisoformat(day) for day in features.cutoffs],
            config=config,
            calendar=read_table(features.calendar).collect(),
        )
        tables = ForecastTables(
            forecasts=write_table(result.forecasts, folder / "forecasts.parquet", "forecasts"),
            back_test=write_table(result.back_test, folder / "back_test.parquet", "back_test"),
        )
    latest = result.back_test.filter(result.back_test["cutoff"] == result.back_test["cutoff"].max()) if result.back_test.height else result.back_test
    shown = [{name: round(value, 4) if isinstance(value, float) else str(value) for name, value in row.items()} for row in latest.to_dicts()]
    create_table_artifact(shown, key="forecast-back-test", description="Back-test of the newest cut-off (mean absolute scaled error)")
    get_run_logger().info("%s rows of forecasts: %s", f"{tables.forecasts.rows:,}", tables.forecasts.path)
    return tables
