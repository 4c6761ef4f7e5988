"""Step `fine_tune`: the taste + habit + season head, for every evaluated origin and for the end of the data; each becomes a bundle that serves."""

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
from prefect import task
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import BundleRef, Bundles, FeatureTables, ForecastTables, SeasonTables, Snapshots, text_digest
from contracts.sections.content import ContentConfig
from contracts.sections.evaluation import EvaluationConfig
from contracts.sections.features import FeaturesConfig
from contracts.sections.training import ComputeConfig, FineTuningConfig
from features.habits import habit_input_names
from features.season import SEASON_INPUTS
from lightning_modules.jobs import FineTuneJob, Sample, Start
from serving.bundle import BundleMetadata, write_bundle
from tasks.pretrain import event_types, num_items
from tasks.progress import progress_lines, progress_of
from tasks.reuse import is_fresh, reusable
from tasks.store import Store, code_version, fresh_folder, read_table
from tasks.training_process import run_training

CODE = ("lightning_modules", "features", "serving/bundle.py")
OF_NEW_ITEMS = ("neighbours", "neighbour_weight", "least_cosine", "max_new_items")


@task(name="fine_tune", **reusable(*CODE, minutes=24 * 60))
def fine_tune(
    features: FeatureTables,
    season: SeasonTables,
    snapshots: Snapshots,
    forecasts: ForecastTables | None,
    config: FineTuningConfig,
    features_config: FeaturesConfig,
    evaluation: EvaluationConfig,
    compute: ComputeConfig,
    store: Store,
    *,
    name: str,
    seed: int,
    content: ContentConfig | None = None,
    start: Start | None = None,
    replay: float = 0.25,
) -> Bundles:
    """Fit the head, from `start` on where an earlier training goes on, and pack each origin's networks with the tables they need."""
    folder = store.step_folder("fine_tune", features, season, snapshots, config, evaluation, compute, str(seed), content, start, code=CODE)
    if is_fresh():
        fresh_folder(folder)
    origins = tuple(date.fromisoformat(day) for day in dict.fromkeys([*features.origins, features.end]))
    job = FineTuneJob.from_config(
        config,
        inputs_digest=text_digest(
            features.vocabulary.digest,
            snapshots.digest,
            features.content.digest if features.content else "",
            *(ref.digest for group in (season.season, features.habit_samples, features.targets) for ref in group.values()),
        ),
        seed=seed,
        events=features.training_events.path,
        num_items=num_items(features),
        event_types=event_types(features),
        horizon_days=evaluation.horizon_days,
        origins=origins,
        samples=tuple(
            Sample(
                cutoff=date.fromisoformat(key.split("/")[0]),
                lead_days=int(key.split("/")[1]),
                season=season.season[key].path,
                habits=features.habit_samples[key].path,
                targets=features.targets[key].path,
            )
            for key in sorted(features.targets)
        ),
        pretraining=snapshots.folder,
        vocabulary=features.vocabulary.path,
        season_inputs=SEASON_INPUTS,
        habit_inputs=habit_input_names(features_config.habit_half_lives_days),
        lists=evaluation.lists,
        content=features.content.path if features.content else None,
        **(content or ContentConfig()).model_dump(include=set(OF_NEW_ITEMS)),
        start=start,
        replay=replay,
    )
    with progress_of("fine_tune") as report_progress:
        result = run_training(job, folder, compute, progress_lines(report_progress, get_run_logger().info))
        metadata = {
            "name": name,
            "horizon_days": evaluation.horizon_days,
            "target_events": config.target_events,
            "config_digest": job.digest(),
            "features": features_config,
        }
        bundles = {origin.isoformat(): _bundle(folder, Path(result.output), origin, features, forecasts, metadata) for origin in origins}
    get_run_logger().info("%s bundles in %.0f s: %s", len(bundles), result.seconds, folder)
    return Bundles(evaluated={day: bundles[day] for day in features.origins}, final=bundles[features.end], metrics=result.metrics, fit_folder=str(folder))


def _bundle(folder: Path, networks: Path, origin: date, features: FeatureTables, forecasts: ForecastTables | None, metadata: dict[str, object]) -> BundleRef:
    day = origin.isoformat()
    known = None
    if forecasts is not None:
        table = read_table(forecasts.forecasts).filter(pl.col(c.CUTOFF) <= origin)
        known = table.filter(pl.col(c.CUTOFF) == pl.col(c.CUTOFF).max()).collect()
    catalogue = read_table(features.item_catalogue).collect() if features.item_catalogue else read_table(features.vocabulary).select(c.ITEM_ID).collect()
    return write_bundle(
        folder / "bundles" / day,
        networks=networks / day / "networks",
        vocabulary=read_table(features.vocabulary).collect(),
        item_catalogue=catalogue,
        histories=read_table(features.histories[day]).collect(),
        habits=read_table(features.habits[day]).collect(),
        item_weeks=read_table(features.item_weeks[day]).collect(),
        forecasts=known,
        metadata=BundleMetadata(cutoff=origin, created=datetime.now(UTC).isoformat(timespec="seconds"), notes={"code": code_version(CODE)}, **metadata),
    )
