"""Step `build_season`: what was known at a cut-off about an item on a date - trend, last year's weeks, forecast, calendar."""

from datetime import date, timedelta

import polars as pl
from prefect import task
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import FeatureTables, ForecastTables, SeasonTables
from contracts.sections.evaluation import EvaluationConfig
from contracts.sections.features import FeaturesConfig
from contracts.sections.validation import ValidationConfig
from expectations.validation import validate_tables
from features.season import SEASON_INPUTS, season
from tasks.progress import progress_of
from tasks.reuse import reusable
from tasks.store import Store, read_table, write_table

CODE = ("features", "expectations")


@task(name="build_season", **reusable(*CODE, minutes=240))
def build_season(
    features: FeatureTables,
    forecasts: ForecastTables | None,
    config: FeaturesConfig,
    evaluation: EvaluationConfig,
    store: Store,
    *,
    validation: ValidationConfig,
) -> SeasonTables:
    """Write the season rows of every (cut-off, lead) the head may learn from, and check them together."""
    folder = store.step_folder("build_season", features, forecasts, config, evaluation, code=CODE)
    vocabulary = pl.read_parquet(features.vocabulary.path)
    tables = {}
    with progress_of("build_season") as report_progress:
        for number, key in enumerate(sorted(features.targets)):
            report_progress(number / len(features.targets), key)
            name, lead = key.split("/")
            cutoff = date.fromisoformat(name)
            rows = season(
                read_table(features.item_weeks[name]),
                read_table(features.item_catalogue) if features.item_catalogue else None,
                cutoff=cutoff,
                request_date=cutoff + timedelta(days=int(lead)),
                horizon_days=evaluation.horizon_days,
                vocabulary=vocabulary,
                forecasts=read_table(forecasts.forecasts) if forecasts else None,
                calendar=read_table(features.calendar),
                shrinkage=config.shrinkage_units,
                regions=None if config.use_regions else [c.ALL_REGIONS],
            )
            tables[key] = write_table(rows.select(c.ITEM_ID, c.REGION, *SEASON_INPUTS), folder / f"{name}_{lead}.parquet", "season")
        if tables:
            validate_tables(list(tables.values()), validation, folder=folder / "validation")
    get_run_logger().info("%s tables of season rows: %s", len(tables), folder)
    return SeasonTables(season=tables)
