"""What a training target costs, where the time goes, and what loading and evaluation take: `python -m benchmarks.training [--quick]`.

Writes benchmarks/results/training.json; with `--data online_retail_ii` alone training_online_retail_ii.json, with `--quick` training_quick.json: the
default encoder and two losses on MovieLens-100K. One thread, width 64, 2 blocks, 2 heads, histories of 50, batches of 6,400 events (128 sequences of 50
for the peers), 128 negatives; matrices in bf16 where the CPU has it, and once more in single precision. Beside RePlay stands our causal encoder with
blocks of the same inner width as SASRec's (1; those of GPT have 4): as many weights, as many products. Seconds are CPU seconds of one process unless a
row says otherwise: what else the machine does then counts little, though it is not without effect. Quality is that after equal targets, three seeds,
batches of 32 sequences (benchmarks/equal_targets.py).

MovieLens-100K is read from the wheel of recbole (fetched by pip, not installed), Online Retail II from the folder in PERENNIAL_DATA (default
../shared/data); what is not there is left out and said so. RePlay and RecTools run in environments of their own (benchmarks/training_peers.py);
without them they are left out and said so.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.equal_targets import measured_quality
from benchmarks.interactions import at_seconds, log_of, read, vocabulary_of
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
from lightning_modules.taste import Taste, build_taste
from lightning_modules.time_walk import Batch, TimeWalk
from lightning_modules.trainers import build_trainer, use_bf16

KINDS = ("gpt", "bert", "transformer_xl", "hstu", "ligr", "gru", "rnn")
LOSSES = ("sampled_softmax", "full_softmax")
GPT_INNER, SASREC_INNER = 4, 1  # inner width of a block's network, in widths
LENGTH, WIDTH, BLOCKS, HEADS, NEGATIVES = 50, 64, 2, 2, 128
BATCH_SEQUENCES = 128
SETTINGS = {"length": LENGTH, "width": WIDTH, "blocks": BLOCKS, "heads": HEADS, "batch": BATCH_SEQUENCES, "negatives": NEGATIVES}
TARGETS = 400_000  # of a timed training
TARGETS_OF_QUALITY, BATCH_OF_QUALITY, SEEDS = 500_000, 32, (0, 1, 2)
STEPS_OF_PROFILE, EPOCHS_OF_PEERS, ROUNDS = 16, 3, 3
DATA_SETS = ("movielens_100k", "online_retail_ii")
MICROSECONDS = "CPU microseconds per training target"
RATIO, LOADING = "microseconds, ratio to RePlay measured in turn", "share of loading in a step"
PREPARATION, EVALUATION = "1,000,000 events into histories", "20,000 users x 20,000 items ranked and scored"
FULL = "full softmax, 1,000,000 items x 4,096 targets"
GOALS = {  # (metric, model or None for every one) -> at most
    (RATIO, None): 0.4,
    (LOADING, None): 0.10,
    ("seconds", PREPARATION): 2.0,
    ("seconds", EVALUATION): 10.0,
    ("GiB beyond queries and items", FULL): 1.5,
}

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
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="data sets")
    parser.add_argument("--encoders", nargs="+", choices=KINDS, default=list(KINDS), help="encoders whose cost is measured")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    command = shlex.join(["python", "-m", "benchmarks.training", *sys.argv[1:]])
    sets = DATA_SETS[:1] if asked.quick else asked.data
    name = "training" + (f"_{sets[0]}" if tuple(sets) == DATA_SETS[1:] else "") + ("_quick" if asked.quick else "")
    rows: list[dict[str, object]] = [*measured_preparation(), *measured_evaluation(), *measured_full_softmax()]
    for dataset in sets:
        interactions = read(dataset)
        if interactions is None:
            continue
        epochs = 1.0 if asked.quick else min(4.0, TARGETS / interactions.height)
        for loss in LOSSES:
            for kind in KINDS[:1] if asked.quick else asked.encoders:
                rows += measured_encoder(dataset, interactions, kind, loss, epochs=epochs)
            rows += measured_encoder(dataset, interactions, KINDS[0], loss, epochs=epochs, precision="32")
            rows += measured_encoder(dataset, interactions, KINDS[0], loss, epochs=epochs, inner=SASREC_INNER)
            rows += measured_profile(dataset, interactions, KINDS[0], loss)
        rows += measured_peers(dataset, interactions, epochs=EPOCHS_OF_PEERS)
        for loss in LOSSES:
            rows += ratio_to_replay(dataset, interactions, loss, epochs=epochs / 2, rounds=1 if asked.quick else ROUNDS)
        if not asked.quick:
            settings = {**SETTINGS, "batch": BATCH_OF_QUALITY, "inner": SASREC_INNER}
            for loss in LOSSES:
                rows += measured_quality(dataset, interactions, loss, settings, seeds=SEEDS, num_targets=TARGETS_OF_QUALITY)
        print(write_results(name, command=command, rows=rows))  # after each data set: an interrupted run leaves what it has


def row(dataset: str, model: str, metric: str, value: float, **others: object) -> dict[str, object]:
    print(f"{dataset:18} {model:32} {metric:48} {value:.4g}", flush=True)
    return {"dataset": dataset, "model": model, "metric": metric, "value": round(value, 6), **others}


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


def measured_encoder(
    dataset: str, interactions: pl.DataFrame, kind: str, loss: str, *, epochs: float, precision: str = "auto", inner: int = GPT_INNER
) -> list[dict[str, object]]:
    """Microseconds of a target over whole steps of the trainer, and the share of loading in them."""
    job = job_of(interactions, kind, loss, epochs=epochs, inner=inner)
    compute = ComputeConfig(accelerator="cpu", threads=1, precision=precision)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        log = log_of(interactions, vocabulary_of(interactions), job, folder)
        _fit(job.model_copy(update={"epochs": 0.1}), compute, log, folder)  # what is loaded and compiled once
        seconds, walk, steps = _fit(job, compute, log, folder)
    model = f"{named(kind, inner)}, {loss}" + (", single precision" if precision == "32" else "")
    settings = {"n": walk.num_targets, "steps": steps, "threads": 1, "batch_events": job.batch_events, "num_items": job.num_items}
    return [
        row(dataset, model, MICROSECONDS, 1e6 * seconds / walk.num_targets, **settings),
        row(dataset, model, LOADING, walk.seconds / seconds, **settings),
    ]


def named(kind: str, inner: int) -> str:
    """Name of our encoder; one with the blocks of SASRec says so."""
    return f"perennial:{kind}" + (" with SASRec's inner width" if inner == SASREC_INNER else "")


def job_of(interactions: pl.DataFrame, kind: str, loss: str, *, epochs: float, inner: int) -> PretrainJob:
    """Every event a target; no day held out."""
    last = interactions[c.EVENT_TIME].max()
    return PretrainJob(
        inputs_digest="benchmark",
        events="",
        num_items=interactions[c.ITEM_ID].n_unique(),
        event_types=("event",),
        cutoffs=(last.date() + timedelta(days=1),),  # type: ignore[union-attr]
        encoder=EncoderConfig(
            kind=kind,  # type: ignore[arg-type]
            width=WIDTH,
            num_blocks=BLOCKS,
            num_heads=HEADS,
            dropout=0.2,
            max_history=LENGTH,
            feed_forward=inner,
        ),
        objective="masked_item" if kind == "bert" else "next_item",
        loss=loss,  # type: ignore[arg-type]
        epochs=epochs,
        batch_events=BATCH_SEQUENCES * LENGTH,
        num_negatives=NEGATIVES,
        repeat_weight=1.0,
        held_out_days=0,
    )


def _fit(job: PretrainJob, compute: ComputeConfig, log: EventLog, folder: Path) -> tuple[float, TimedWalk, int]:
    walk = TimedWalk(log, plan_periods(job), walk_settings(job), num_items=job.num_items)
    module = Pretraining(_taste(job), job)
    trainer = build_trainer(compute, folder, [], has_wide_layers=True)
    started = time.process_time()
    trainer.fit(module, walk)
    return time.process_time() - started, walk, trainer.global_step


def _taste(job: PretrainJob) -> Taste:
    return build_taste(job.encoder, torch.zeros(job.num_items, 0, dtype=torch.long), num_items=job.num_items, num_event_types=1)


PARTS = {
    "dense layers and scores": ("aten::mm", "aten::addmm"),
    "attention": ("scaled_dot_product", "aten::bmm", "aten::tril", "_softmax_backward_data"),
    "activations": ("aten::gelu", "aten::silu", "aten::sigmoid"),
    "softmax": ("aten::exp", "aten::log", "softmax", "aten::masked_fill", "aten::amax", "aten::gather"),
    "dropout": ("aten::random_", "aten::ge", "aten::bitwise_and", "dropout", "bernoulli"),
    "norms": ("layer_norm",),
    "rows of tables": ("embedding", "aten::index", "aten::cat", "index_add", "aten::scatter"),  # an `index_add` is carried out as a scatter
    "casts and copies": ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::fill_", "aten::zero_"),
    "optimiser": ("adam", "_foreach", "Optimizer"),
}


def measured_profile(dataset: str, interactions: pl.DataFrame, kind: str, loss: str) -> list[dict[str, object]]:
    """Where a step's CPU time goes: shares of the profiler's own time of each operation, by kind; batches are made beforehand."""
    job = job_of(interactions, kind, loss, epochs=1.0, inner=SASREC_INNER)
    with tempfile.TemporaryDirectory() as place:
        log = log_of(interactions, vocabulary_of(interactions), job, Path(place))
        walk = iter(TimeWalk(log, plan_periods(job), walk_settings(job), num_items=job.num_items))
        batches = [batch for batch, _ in zip(walk, range(STEPS_OF_PROFILE), strict=False)]
        module = Pretraining(_taste(job), job)
        optimizer = module.configure_optimizers()
        is_half = use_bf16(ComputeConfig(accelerator="cpu"), has_wide_layers=True)

        def steps() -> None:
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                    found = module.objective(batch)
                optimizer.zero_grad()
                found.backward()
                module.on_before_optimizer_step(optimizer)
                optimizer.step()

        steps()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            steps()
    times = {event.key: float(event.self_cpu_time_total) for event in seen.key_averages()}
    shares = {part: sum(spent for name, spent in times.items() if _part(name) == part) / sum(times.values()) for part in (*PARTS, "everything else")}
    return [row(dataset, f"{named(kind, SASREC_INNER)}, {loss}", f"share of a step: {part}", share) for part, share in shares.items()]


def _part(operation: str) -> str:
    return next((part for part, names in PARTS.items() if any(name in operation for name in names)), "everything else")


# ---- peers -------------------------------------------------------------------------------------------------------------------


def measured_peers(dataset: str, interactions: pl.DataFrame, *, epochs: int) -> list[dict[str, object]]:
    rows = []
    for name, losses in PEERS.items():
        for loss in losses:
            cost = cost_of(name, loss, interactions, {**SETTINGS, "epochs": epochs})
            if isinstance(cost, str):
                print(f"{name} left out on {dataset}: {cost}", file=sys.stderr)
                break
            targets = targets_of_an_epoch(interactions)
            rows.append(row(dataset, f"{cost['model']}, {loss}", MICROSECONDS, 1e6 * cost["seconds"] / targets, n=targets, threads=1))
    return rows


def ratio_to_replay(dataset: str, interactions: pl.DataFrame, loss: str, *, epochs: float, rounds: int) -> list[dict[str, object]]:
    """Microseconds of our causal encoder, with SASRec's inner width, to those of RePlay: the middle ratio of some rounds in turn, beside its goal."""
    ratios = []
    for _ in range(rounds):
        ours = float(str(measured_encoder(dataset, interactions, KINDS[0], loss, epochs=epochs, inner=SASREC_INNER)[0]["value"]))
        cost = cost_of("replay", loss, interactions, {**SETTINGS, "epochs": EPOCHS_OF_PEERS})
        if isinstance(cost, str):
            print(f"RePlay left out on {dataset}: {cost}", file=sys.stderr)
            return []
        ratios.append(ours / (1e6 * cost["seconds"] / targets_of_an_epoch(interactions)))
    middle = sorted(ratios)[rounds // 2]
    model = f"{named(KINDS[0], SASREC_INNER)}, {loss}"
    goal = GOALS[RATIO, None]
    return [row(dataset, model, RATIO, middle, lowest=min(ratios), highest=max(ratios), rounds=rounds, goal=goal, reached=middle <= goal)]


def targets_of_an_epoch(interactions: pl.DataFrame) -> int:
    """Targets of a peer's pass: it learns from one sequence of a user's last events, all of them but the first."""
    return int(interactions.group_by(c.USER_ID).len().select((pl.col("len") - 1).clip(0, LENGTH)).sum().item())


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
        at_seconds("at"),
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
    return [row("made up", PREPARATION, "seconds", wall, n=num_events), row("made up", PREPARATION, "CPU seconds", cpu, n=num_events)]


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
    return [
        row("made up", EVALUATION, "seconds", wall, n=num_users),
        row("made up", EVALUATION, "CPU seconds", cpu, n=num_users),
        row("made up", EVALUATION, "CPU seconds of the ranking alone", ranked, n=num_users),
    ]


def measured_full_softmax() -> list[dict[str, object]]:
    """Memory and time of the full softmax, forth and back, at 1,000,000 items and 4,096 targets of width 64."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FULL_SOFTMAX], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return [row("made up", FULL, "GiB beyond queries and items", found["gib"]), row("made up", FULL, "CPU seconds forth and back", found["seconds"])]


if __name__ == "__main__":
    main()
