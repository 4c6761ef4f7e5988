"""Step `pretrain`: self-supervised on all behaviour, in its own process, 1..n devices; one walk through time leaves a snapshot at each cut-off."""

from datetime import date
from pathlib import Path

import polars as pl
from prefect import task
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import FeatureTables, Snapshots, TableRef, text_digest
from contracts.sections.training import ComputeConfig, PretrainingConfig
from lightning_modules.jobs import MOST_TYPES, PretrainJob, Start
from tasks.progress import progress_lines, progress_of
from tasks.reuse import is_fresh, reusable
from tasks.store import Store, fresh_folder, read_table, write_table
from tasks.training_process import run_training

CODE = ("lightning_modules",)


@task(name="pretrain", **reusable(*CODE, minutes=24 * 60))
def pretrain(
    features: FeatureTables,
    config: PretrainingConfig,
    compute: ComputeConfig,
    store: Store,
    *,
    leads_days: tuple[int, ...],
    horizon_days: int,
    seed: int,
    start: Start | None = None,
    replay: float = 0.25,
) -> Snapshots:
    """Train the encoder along time, from `start` on where an earlier training goes on. An interrupted training goes on from its last checkpoint.

    Of fine-tuning only the leads are asked for: an encoder is not trained again for another head.
    """
    if not config.enabled or features.training_events is None:
        return Snapshots(folder=None, cutoffs=(), digest="none")
    folder = store.step_folder(
        "pretrain", features.training_events, features.content, config, str(leads_days), compute, ",".join(features.cutoffs), str(seed), start, code=CODE
    )
    if is_fresh():
        fresh_folder(folder)
    item_features = _item_features(features, folder)
    job = PretrainJob.from_config(
        config,
        inputs_digest=text_digest(
            features.training_events.digest,
            features.vocabulary.digest,
            item_features.digest if item_features else "",
            features.content.digest if features.content else "",
        ),
        seed=seed,
        events=features.training_events.path,
        num_items=num_items(features),
        event_types=event_types(features),
        item_features=item_features.path if item_features else None,
        content=features.content.path if features.content else None,
        cutoffs=tuple(date.fromisoformat(day) for day in features.cutoffs),
        leads_days=leads_days,
        horizon_days=horizon_days,
        start=start,
        replay=replay,
    )
    with progress_of("pretrain") as report_progress:
        result = run_training(job, folder, compute, progress_lines(report_progress, get_run_logger().info))
    get_run_logger().info("%s snapshots in %.0f s: %s", len(features.cutoffs), result.seconds, result.metrics)
    return Snapshots(folder=result.output, cutoffs=features.cutoffs, digest=job.digest(), metrics=result.metrics)


def num_items(features: FeatureTables) -> int:
    """Rows of the item table: the largest index and one, padding included."""
    return int(pl.read_parquet(features.vocabulary.path)[c.ITEM_INDEX].max()) + 1


def event_types(features: FeatureTables) -> tuple[str, ...]:
    """Event types that occur, sorted; of more than a byte can number (types times platforms) the most frequent."""
    counted = read_table(features.training_events).group_by(pl.col(c.EVENT_TYPE).cast(pl.String)).len().collect()
    return tuple(counted.sort("len", c.EVENT_TYPE, descending=[True, False])[c.EVENT_TYPE].head(MOST_TYPES).sort())


def _item_features(features: FeatureTables, folder: Path) -> TableRef | None:
    if features.item_catalogue is None:
        return None
    catalogue = read_table(features.item_catalogue).select(c.ITEM_ID, c.CATEGORY)
    rows = read_table(features.vocabulary).join(catalogue, on=c.ITEM_ID, how="left", maintain_order="left").select(c.ITEM_INDEX, c.CATEGORY)
    return write_table(rows, folder / "item_features.parquet", "item_features")
