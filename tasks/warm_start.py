"""Step `warm_start`: what a training that goes on from the champion learns from - the events since it was measured and some older ones, a grown catalogue.

The walk through time goes on where it stood at the newest window the champion was measured at: nothing the new version is measured by has been seen.
"""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
from prefect import task
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import ChampionRef, FeatureTables, ForecastTables, Reference, ValidationReport, content_digest
from contracts.config import PipelineConfig
from contracts.sections.training import FineTuningConfig, OptimizerConfig, PretrainingConfig, WarmStartConfig
from features.cutoffs import pairs_since
from features.habits import habits
from features.histories import training_events
from features.item_weeks import item_weeks
from lightning_modules.jobs import Start
from lightning_modules.warm_start import START_INDEX, read_weights
from serving.bundle import FORECASTS, VOCABULARY, read_bundle
from tasks.build_features import write_sample
from tasks.reuse import reusable
from tasks.store import Store, read_table, write_table
from tasks.update_features import FreshTables

CODE = ("features", "lightning_modules", "serving/bundle.py")
WARM_UP_STEPS = 10


class WarmInputs(Reference):
    """Tables of the samples to learn from, the forecasts that go on to serve, and where the training begins."""

    features: FeatureTables
    forecasts: ForecastTables | None
    start: Start
    has_encoder: bool


@task(name="warm_start", **reusable(*CODE, minutes=120))
def warm_start(champion: ChampionRef, fresh: FreshTables, validated: ValidationReport, config: PipelineConfig, store: Store) -> WarmInputs:
    """Make the tables of the few cut-offs a short training looks at, and map the items of today to the champion's rows."""
    assert champion.weights is not None
    weights = read_weights(champion.weights)
    tables, seen_until = fresh.tables, date.fromisoformat(champion.measured.cutoff)
    folder = store.step_folder(
        "warm_start", champion, tables, config.features, config.fine_tuning, config.evaluation, content_digest([Path(champion.weights)]), code=CODE
    )
    origins = [date.fromisoformat(day) for day in (*tables.origins, tables.end)]
    pairs = pairs_since(
        seen_until,
        origins,
        config.fine_tuning.leads_days,
        horizon_days=config.evaluation.horizon_days,
        every_days=config.features.cutoff_every_days,
        earliest=date.fromisoformat(tables.first_day) + timedelta(days=config.features.first_cutoff_after_days),
        knows_the_past=not weights.has_encoder,
    )
    interactions, bought = read_table(validated.accepted), read_table(fresh.purchases)
    target_events = config.fine_tuning.target_events
    wanted = interactions.filter(pl.col(c.EVENT_TYPE).is_in(target_events))
    vocabulary = pl.read_parquet(tables.vocabulary.path)
    weeks, known = dict(tables.item_weeks), dict(tables.habits)
    targets, samples = {}, {}
    for cutoff, lead in pairs:
        day = cutoff.isoformat()
        if day not in known:
            weeks[day] = write_table(item_weeks(bought, cutoff, by_region=config.features.use_regions), folder / "item_weeks" / f"{day}.parquet", "item_weeks")
            known[day] = write_table(habits(bought, cutoff, config.features.habit_half_lives_days), folder / "habits" / f"{day}.parquet", "habits")
        key = f"{day}/{lead}"
        targets[key], samples[key] = write_sample(wanted, known[day], cutoff, lead, config.features, target_events, config.evaluation, folder)
    rows = _start_rows(champion, vocabulary)
    items = write_table(rows, folder / "items.parquet", "start_items")
    get_run_logger().info(
        "from version %s, measured until %s: %s samples, %s new items",
        champion.version,
        seen_until,
        len(pairs),
        rows[START_INDEX].null_count(),
    )
    return WarmInputs(
        features=tables.model_copy(
            update={
                "cutoffs": tuple(sorted({*(cutoff.isoformat() for cutoff, _ in pairs), *tables.origins, tables.end})),
                "training_events": write_table(training_events(interactions, vocabulary), folder / "training_events.parquet", "training_events"),
                "item_weeks": weeks,
                "habits": known,
                "targets": targets,
                "habit_samples": samples,
            }
        ),
        forecasts=_forecasts(champion, folder),
        start=Start(weights=champion.weights, items=items.path, cutoff=seen_until),
        has_encoder=weights.has_encoder,
    )


def short_stages(config: PipelineConfig) -> tuple[PretrainingConfig, FineTuningConfig]:
    """Both stages with the rates and lengths of a warm start."""
    warm = config.warm_start
    pretraining = config.pretraining.model_copy(
        update={"epochs": warm.epochs / (1 - warm.replay), "optimizer": _slower(config.pretraining.optimizer, warm)},
    )
    fine_tuning = config.fine_tuning.model_copy(
        update={"max_steps": min(warm.max_steps, config.fine_tuning.max_steps), "optimizer": _slower(config.fine_tuning.optimizer, warm)}
    )
    return pretraining, fine_tuning


def _slower(optimizer: OptimizerConfig, warm: WarmStartConfig) -> OptimizerConfig:
    return optimizer.model_copy(update={"learning_rate": optimizer.learning_rate * warm.rate, "warm_up_steps": min(optimizer.warm_up_steps, WARM_UP_STEPS)})


def _start_rows(champion: ChampionRef, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """item_index of today, start_index of the champion's tables (null: new); items are joined by id, whatever their numbers are."""
    earlier = read_bundle(champion.measured.path).table(VOCABULARY).select(c.ITEM_ID, pl.col(c.ITEM_INDEX).alias(START_INDEX))
    return vocabulary.join(earlier, on=c.ITEM_ID, how="left", maintain_order="left").select(c.ITEM_INDEX, START_INDEX)


def _forecasts(champion: ChampionRef, folder: Path) -> ForecastTables | None:
    """Forecasts the champion serves with and was measured with; none is made between two trainings, and so none is tested."""
    bundles = [read_bundle(bundle.path) for bundle in (champion.measured, champion.bundle)]
    found = [bundle.table(FORECASTS) for bundle in bundles if bundle.has_table(FORECASTS)]
    if not found:
        return None
    return ForecastTables(
        forecasts=write_table(pl.concat(found).unique(maintain_order=True), folder / "forecasts.parquet", "forecasts"),
        back_test=write_table(pl.DataFrame(schema={c.CUTOFF: pl.Date}), folder / "back_test.parquet", "back_test"),
    )
