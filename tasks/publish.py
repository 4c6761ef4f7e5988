"""Step `publish`: rankings of the champion for all users and the coming dates, as one validated table."""

from datetime import date, timedelta

import polars as pl
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from contracts.artifacts import FeatureTables, TableRef
from contracts.sections.evaluation import EvaluationConfig, PublishConfig, RegistryConfig
from contracts.sections.validation import ValidationConfig
from expectations.validation import validate_table
from serving.recommender import Recommender
from tasks.progress import progress_of
from tasks.registry import bundle_of_version, connect
from tasks.reuse import reusable
from tasks.store import SCORER, Store, write_table

CODE = ("features", "expectations", *SCORER)


@task(name="publish", **reusable(*CODE, minutes=240))
def publish(
    champion_version: str | None,
    registry: RegistryConfig,
    config: PublishConfig,
    evaluation: EvaluationConfig,
    validation: ValidationConfig,
    features: FeatureTables,
    store: Store,
) -> TableRef | None:
    """Rank for every user with the champion. Nothing is published where there is no champion or publishing is off."""
    if not config.enabled or champion_version is None:
        get_run_logger().info("nothing published: %s", "publishing is off" if not config.enabled else "there is no champion yet")
        return None
    folder = store.step_folder("publish", champion_version, registry, config, evaluation, features, code=CODE)
    connect(registry, store.storage_root)
    bundle = bundle_of_version(registry, store.storage_root, champion_version)
    recommender = Recommender.load(bundle, version=champion_version)
    first = max(date.fromisoformat(features.end), recommender.cutoff)
    asked = [(first + timedelta(days=days), name) for days in config.days_ahead for name in evaluation.lists]
    with progress_of("publish") as report_progress:
        report_progress(0.1, ", ".join(f"{name} for {day}" for day, name in asked))
        parts = recommender.rank_each([recommender.question(day, list_name=name, k=config.k) for day, name in asked])
        rankings = write_table(pl.concat(parts), folder / "rankings.parquet", "rankings")
        validate_table(rankings, validation, folder=folder / "validation")
    create_table_artifact(
        [{"for": str(day), "list": name, "rows": part.height} for (day, name), part in zip(asked, parts, strict=True)],
        key="published-rankings",
        description=rankings.path,
    )
    get_run_logger().info("%s rows of rankings: %s", f"{rankings.rows:,}", rankings.path)
    return rankings
