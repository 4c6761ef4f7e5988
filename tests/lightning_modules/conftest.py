"""A small log of events with a season, and jobs on it: made once a session, in seconds on one thread."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from contracts.sections.training import ComputeConfig, EncoderConfig, OptimizerConfig
from lightning_modules.jobs import FineTuneJob, PretrainJob, Sample

FIRST = date(2022, 1, 3)
NUM_USERS, NUM_ITEMS, NUM_DAYS = 60, 40, 360
SEASON_INPUTS = ("trend_lift_4w", "trend_log_level_4w", "season_last_year_lift", "season_sin_1")
HABIT_INPUTS = ("habit_log_decayed_90d", "habit_log_days_since")
EPOCH = date(1970, 1, 1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def events() -> pl.DataFrame:
    """Events of 60 users over 40 items: each user keeps to a group of items, each month prefers some."""
    generator = np.random.default_rng(7)
    number = 4_000
    user = generator.integers(0, NUM_USERS, number)
    day = generator.integers(0, NUM_DAYS, number)
    favourite = (user % 5) * 8 + generator.integers(0, 3, number)
    seasonal = (day // 30 * 3 + generator.integers(0, 2, number)) % NUM_ITEMS
    item = np.where(generator.random(number) < 0.6, favourite, seasonal)
    start = (FIRST - EPOCH).days
    table = pl.DataFrame(
        {
            "user_id": [f"u{x:03d}" for x in user],
            "item_id": [f"i{x:03d}" for x in item],
            "item_index": item.astype(np.int32),
            "event_day": (start + day).astype(np.int32),
            "event_type": np.where(generator.random(number) < 0.8, "purchase", "view"),
        }
    )
    return table.sort("user_id", "event_day", maintain_order=True)


@pytest.fixture(scope="session")
def tables(events: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with events, vocabulary, item features and the tables of two leads at three cut-offs."""
    folder = tmp_path_factory.mktemp("tables")
    events.write_parquet(folder / "events.parquet")
    vocabulary = pl.DataFrame({"item_id": [f"i{x:03d}" for x in range(NUM_ITEMS)], "item_index": np.arange(NUM_ITEMS, dtype=np.int32)})
    vocabulary.write_parquet(folder / "vocabulary.parquet")
    features = vocabulary.with_columns(category=pl.format("group {} > kind {}", pl.col("item_index") // 8, pl.col("item_index") % 2))
    features.select("item_index", "category").write_parquet(folder / "items.parquet")
    for cutoff in cutoffs()[:3]:
        for lead in (0, 28):
            _write_sample(events, vocabulary, folder, cutoff, lead)
    return folder


def cutoffs() -> tuple[date, ...]:
    """Three cut-offs to learn from, and the origin."""
    return tuple(FIRST + timedelta(days=days) for days in (150, 200, 250, 340))


def _write_sample(events: pl.DataFrame, vocabulary: pl.DataFrame, folder: Path, cutoff: date, lead: int) -> None:
    day = (cutoff - EPOCH).days
    past = events.filter(pl.col("event_day") < day)
    window = events.filter(pl.col("event_day").is_between(day + lead, day + lead + 27))
    counts = past.group_by("item_id").agg(year=pl.len(), recent=(pl.col("event_day") >= day - 28).sum())
    season = vocabulary.join(counts, on="item_id", how="left").fill_null(0)
    angle = 2 * np.pi * (day + lead) / 365.25
    season.select(
        "item_id",
        ((pl.col("recent") + 1) / (pl.col("year") / 6 + 1)).log().cast(pl.Float32).alias("trend_lift_4w"),
        (pl.col("recent") + 0.3).log().cast(pl.Float32).alias("trend_log_level_4w"),
        pl.lit(0.0, pl.Float32).alias("season_last_year_lift"),
        pl.lit(float(np.sin(angle)), pl.Float32).alias("season_sin_1"),
    ).write_parquet(folder / f"season_{cutoff}_{lead}.parquet")
    pairs = past.group_by("user_id", "item_id").agg(
        ((0.5 ** ((day - 1 - pl.col("event_day")) / 90)).sum() + 0.01).log().alias("decayed"), pl.col("event_day").max().alias("last")
    )
    pairs.sort("user_id", "item_id").select(
        "user_id",
        "item_id",
        pl.col("decayed").cast(pl.Float32).alias("habit_log_decayed_90d"),
        (((day + lead - pl.col("last")) + 1).log() - 4).cast(pl.Float32).alias("habit_log_days_since"),
    ).write_parquet(folder / f"habits_{cutoff}_{lead}.parquet")
    bought = window.filter(pl.col("event_type") == "purchase").select("user_id", "item_id").unique()
    had = past.select("user_id", "item_id").unique().with_columns(is_new=pl.lit(value=False))
    bought.join(had, on=["user_id", "item_id"], how="left").with_columns(pl.col("is_new").fill_null(value=True)).sort("user_id", "item_id").write_parquet(
        folder / f"targets_{cutoff}_{lead}.parquet"
    )


@pytest.fixture
def pretrain_job(tables: Path) -> PretrainJob:
    """A pre-training job of some seconds."""
    return PretrainJob(
        inputs_digest="0123456789abcdef",
        events=str(tables / "events.parquet"),
        item_features=str(tables / "items.parquet"),
        num_items=NUM_ITEMS,
        event_types=("purchase", "view"),
        cutoffs=cutoffs(),
        encoder=EncoderConfig(width=16, num_blocks=1, num_heads=2, max_history=16, dropout=0.1),
        batch_events=512,
        num_negatives=32,
        objective="next_item",
        repeat_weight=1.0,
        item_rate=1.0,
        category_rate=1.0,
        epochs=2.0,
        optimizer=OptimizerConfig(learning_rate=5e-3, warm_up_steps=5),
    )


@pytest.fixture
def fine_tune_job(tables: Path) -> FineTuneJob:
    """A fine-tuning job of some seconds, without an encoder."""
    return FineTuneJob(
        use_encoder="always",
        inputs_digest="0123456789abcdef",
        events=str(tables / "events.parquet"),
        vocabulary=str(tables / "vocabulary.parquet"),
        num_items=NUM_ITEMS,
        event_types=("purchase", "view"),
        origins=(cutoffs()[-1],),
        samples=tuple(
            Sample(
                cutoff=cutoff,
                lead_days=lead,
                season=str(tables / f"season_{cutoff}_{lead}.parquet"),
                habits=str(tables / f"habits_{cutoff}_{lead}.parquet"),
                targets=str(tables / f"targets_{cutoff}_{lead}.parquet"),
            )
            for cutoff in cutoffs()[:3]
            for lead in (0, 28)
        ),
        season_inputs=SEASON_INPUTS,
        habit_inputs=HABIT_INPUTS,
        num_candidates=24,
        num_drawn=8,
        batch_users=32,
        epochs=2,
        num_seeds=1,
    )


@pytest.fixture
def compute() -> ComputeConfig:
    """One process on the CPU."""
    return ComputeConfig(accelerator="cpu", threads=1, checkpoint_every_steps=3)
