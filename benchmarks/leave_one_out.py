"""Leave-one-out on Amazon Beauty 5-core, for comparison with papers only: `python -m benchmarks.leave_one_out [--seeds 3] [--quick]`.

The last event of each user is the target (ties in the order of the source), every other item the user has not had is ranked. The last but one chooses
among the states of the training; neither of the two is learned from. It is the encoder of taste alone (LiGR, the block of eSASRec), pre-trained on the
next item with the sampled softmax of the product; the head, habits and seasons have no part in it. Like other encoders that know time it is asked for
the day of the target, in training too. This protocol knows other users' future: figures on a cut-off in time are in recommender.json.

`perennial:ligr` knows the attributes of items that S3-Rec (arXiv 2008.07873) published with these data, categories and brands, as nodes of
`taste.ItemVectors`; `perennial:ligr, without attributes` knows what SASRec knows and the days. Seeds are averaged per user.

Writes benchmarks/results/leave_one_out.json (`--quick`: two passes, one seed, leave_one_out_quick.json); a cell for each training below
benchmarks/results/cells/leave_one_out/, with the place of each user's target: a digit, 0 first, or - below the ten.
Read from the folder in PERENNIAL_DATA (default ../shared/data).
"""

import argparse
import os
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor

from benchmarks.interactions import vocabulary_of
from benchmarks.machine import RESULTS, ROOT, about_cells, command_of, kept_cell, write_results
from benchmarks.recommender import short
from contracts import columns as c
from contracts.sections.training import ComputeConfig, EncoderConfig, OptimizerConfig
from evaluation.bootstrap import mean_interval
from features.histories import training_events
from lightning_modules.event_log import EventLog, prepare_event_log
from lightning_modules.jobs import PretrainJob
from lightning_modules.pretraining import Pretraining, plan_periods, walk_settings
from lightning_modules.taste import Taste, build_taste
from lightning_modules.time_walk import TimeWalk
from lightning_modules.trainers import build_trainer
from tasks.store import reuse_digest

CELLS = RESULTS / "cells" / "leave_one_out"
DATASET = "amazon_beauty_5core"
EPOCHS, CHECKS, CHECK_USERS = 16.0, 5, 8_000
LENGTH = 50
BATCH_EVENTS = 2_048
TOP = 10
GOAL = 0.0531  # SASRec with sampled softmax, as published for these data
WITH_ATTRIBUTES, WITHOUT = "perennial:ligr", "perennial:ligr, without attributes"
TARGET = "ndcg@10, leave-one-out, seen removed"
EPOCH = date(1970, 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two passes over the events")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each model, seeds 0, 1, ...")
    asked = parser.parse_args()
    folder = Path(os.environ.get("PERENNIAL_DATA", (ROOT / ".." / "shared" / "data").resolve())) / "amazon_beauty_5core_ts"
    if not folder.is_dir():
        sys.exit(f"{folder} is not there; set PERENNIAL_DATA")
    seeds, epochs = (1, 2.0) if asked.quick else (asked.seeds, EPOCHS)
    rows, used = [], list[dict[str, Any]]()
    for model in (WITH_ATTRIBUTES, WITHOUT):
        cells = [measured_cell(folder, model, epochs=epochs, seed=seed) for seed in range(seeds)]
        rows += [row for cell in cells for row in cell["rows"]] + mean_of_seeds(model, [cell["places"] for cell in cells])
        used += cells
    name = "leave_one_out_quick" if asked.quick else "leave_one_out"
    print(write_results(name, command=command_of("leave_one_out"), rows=rows, **about_cells(used)))


def measured_cell(folder: Path, model: str, *, epochs: float, seed: int) -> dict[str, Any]:
    """Rows of one training and the places of the targets; read where it was measured before."""
    job = job_of(1, date(2000, 1, 1), epochs=epochs, seed=seed)
    known = "attributes" if model == WITH_ATTRIBUTES else "events"
    digest = reuse_digest(job, code=("lightning_modules", "features", "benchmarks/leave_one_out.py"))

    def measured() -> dict[str, Any]:
        events = read(folder)
        started = time.process_time()
        scores, best = fitted_scores(events, read_attributes(folder) if model == WITH_ATTRIBUTES else None, epochs=epochs, seed=seed)
        about = {"dataset": DATASET, "model": model, "seed": seed, "n": len(scores["user"])}
        rows = [
            {**about, **against_the_goal(scores["ndcg"])},
            {**about, "metric": "hit@10, leave-one-out, seen removed", "value": float(np.mean(scores["ndcg"] > 0))},
            {**about, "metric": "ndcg@10 of the last but one, by which the state was chosen", "value": best},
            {**about, "metric": "CPU seconds", "value": time.process_time() - started},
        ]
        return {"places": places_of(scores["ndcg"]), "rows": [short(row) for row in rows]}

    return kept_cell(CELLS / f"{DATASET}-{known}-seed{seed}-{digest}.json", measured)


def mean_of_seeds(model: str, places: list[str]) -> list[dict[str, Any]]:
    """One row: each user's NDCG@10 is the mean over the trainings."""
    values = np.mean([ndcg_of(one) for one in places], axis=0)
    return (
        [short({"dataset": DATASET, "model": f"{model}, mean of {len(places)} seeds", "n": len(values), **against_the_goal(values)})] if len(places) > 1 else []
    )


def against_the_goal(values: np.ndarray) -> dict[str, Any]:
    """Mean over users [U] with its interval, and whether it reaches the goal."""
    found = mean_interval(pl.DataFrame({c.USER_ID: np.arange(len(values)), "value": values}))
    return {"metric": TARGET, "value": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high, "goal": GOAL, "reached": found.value >= GOAL}


def places_of(values: np.ndarray) -> str:
    """NDCG@10 of one target each, a character a user: the items before the target, - where there are ten or more."""
    return "".join(str(round(2 ** (1 / value)) - 2) if value else "-" for value in values.tolist())


def ndcg_of(places: str) -> np.ndarray:
    """The way back, [U]."""
    return np.array([0.0 if place == "-" else 1 / np.log2(2 + int(place)) for place in places])


def read(folder: Path) -> pl.DataFrame:
    """user_id, item_id, event_time, event_type; users together, events in the published order."""
    table = pl.read_parquet(folder / "interactions.parquet").sort("user_id", "pos")
    time_ = pl.col("timestamp").cast(pl.Datetime("us", "UTC")).alias(c.EVENT_TIME)
    return table.select(pl.col("user_id").cast(pl.String), pl.col("item_id").cast(pl.String), time_, pl.lit("rating").alias(c.EVENT_TYPE))


def read_attributes(folder: Path) -> pl.DataFrame:
    """item_id, attribute: a row for each category and brand of an item, by number; 13 items have none."""
    table = pl.read_parquet(folder / "items.parquet").select(pl.col("item_id").cast(pl.String), attribute="attrs")
    return table.explode("attribute").drop_nulls()


def attribute_nodes(attributes: pl.DataFrame | None, vocabulary: pl.DataFrame) -> Tensor:
    """Nodes of each item, [I, L]: numbers from 1 in the order of the attributes, 0 where an item has fewer."""
    if attributes is None:
        return torch.zeros(vocabulary.height, 0, dtype=torch.long)
    numbered = attributes.join(vocabulary, on=c.ITEM_ID).with_columns(node=pl.col("attribute").rank("dense").cast(pl.Int64))
    lists = numbered.sort(c.ITEM_INDEX, "node").group_by(c.ITEM_INDEX, maintain_order=True).agg("node")
    nodes = torch.zeros(vocabulary.height, int(lists["node"].list.len().max()), dtype=torch.long)  # type: ignore[arg-type]
    for item, row in lists.iter_rows():
        nodes[item, : len(row)] = torch.tensor(row)
    return nodes


def without_last(events: pl.DataFrame, number: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events without the last `number` of each user, and the first of those taken away: the target. Later in time is later; ties by source order."""
    ordered = events.sort(c.USER_ID, c.EVENT_TIME, maintain_order=True)
    left = pl.int_range(pl.len() - 1, -1, -1).over(c.USER_ID)  # events of the user after this one
    marked = ordered.with_columns(left=left)
    return marked.filter(pl.col("left") >= number).drop("left"), marked.filter(pl.col("left") == number - 1).drop("left")


def job_of(num_items: int, cutoff: date, *, epochs: float, seed: int, batch_events: int = BATCH_EVENTS) -> PretrainJob:
    """The training: one stretch of time, no day held out, every event a target, asked for on its day (a horizon of one day) as in the test.

    The rate falls over the last two fifths of the passes; with 40 passes that is too late, the best state comes after a third.
    """
    return PretrainJob(
        inputs_digest="benchmark",
        seed=seed,
        events="",
        num_items=num_items,
        event_types=("rating",),
        cutoffs=(cutoff,),
        encoder=EncoderConfig(kind="ligr", width=64, num_blocks=2, num_heads=2, dropout=0.5, max_history=LENGTH),
        objective="next_item",
        loss="sampled_softmax_logq",
        epochs=epochs,
        batch_events=batch_events,
        num_negatives=1_024,
        item_rate=1.0,
        category_rate=1.0,
        horizon_days=1,
        held_out_days=0,
        leads_days=(0,),
        optimizer=OptimizerConfig(learning_rate=2e-3),
    )


def fitted_scores(
    events: pl.DataFrame, attributes: pl.DataFrame | None = None, *, epochs: float, seed: int, batch_events: int = BATCH_EVENTS
) -> tuple[dict[str, Any], float]:
    """NDCG@10 of each user's last event, by the state that ranks the last but one best; and how well it did that."""
    vocabulary = vocabulary_of(events)
    known, target = without_last(events, 1)
    learned, check = without_last(events, 2)
    last = events[c.EVENT_TIME].max()
    lightning.seed_everything(seed, verbose=False)
    job = job_of(vocabulary.height, last.date() + timedelta(days=1), epochs=epochs, seed=seed, batch_events=batch_events)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        training_events(learned.lazy(), vocabulary).sink_parquet(folder / "events.parquet", maintain_order=True)
        prepare_event_log(str(folder / "events.parquet"), folder / "log", job.event_type_codes(), job.num_items)
        walk = TimeWalk(EventLog(folder / "log"), plan_periods(job), walk_settings(job), num_items=job.num_items)
        taste = build_taste(job.encoder, attribute_nodes(attributes, vocabulary), num_items=job.num_items, num_event_types=1)
        drawn = check[c.USER_ID].unique().sort().sample(min(CHECK_USERS, check[c.USER_ID].n_unique()), seed=seed)
        chosen = Chosen(histories(learned, check.filter(pl.col(c.USER_ID).is_in(drawn.implode())), vocabulary))
        build_trainer(ComputeConfig(accelerator="cpu", threads=1), folder, [chosen]).fit(Pretraining(taste, job), walk)
    taste.load_state_dict(chosen.best)
    asked = histories(known, target, vocabulary)
    return {"user": asked["user"], "ndcg": ndcg(taste, asked)}, max(chosen.figures)


class Chosen(lightning.Callback):
    """Keep the state that ranks the checked targets best, looked at in even steps."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked, self.figures = asked, list[float]()
        self.best: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at each of the even shares of the way, the end among them."""
        if int(batch.share_done * CHECKS + 1e-9) <= len(self.figures):
            return
        self.figures.append(float(ndcg(pl_module.taste, self.asked).mean()))
        print(f"{batch.share_done:.0%} {self.figures[-1]:.4f}", flush=True)
        if self.figures[-1] == max(self.figures):
            self.best = {name: value.detach().clone() for name, value in pl_module.taste.state_dict().items()}


def histories(known: pl.DataFrame, target: pl.DataFrame, vocabulary: pl.DataFrame) -> dict[str, Any]:
    """What is asked: for each user with a target the known items and days in order, the target's item and day."""
    numbered = [
        table.join(vocabulary, on=c.ITEM_ID, maintain_order="left").with_columns(day=(pl.col(c.EVENT_TIME).dt.date() - EPOCH).dt.total_days())
        for table in (known, target)
    ]
    past = numbered[0].group_by(c.USER_ID, maintain_order=True).agg(items=c.ITEM_INDEX, days="day")
    both = numbered[1].join(past, on=c.USER_ID).sort(c.USER_ID)
    return {
        "user": both[c.USER_ID].to_list(),
        "items": both["items"].to_list(),
        "days": both["days"].to_list(),
        "target": both[c.ITEM_INDEX].to_numpy().astype(np.int64),
        "day": both["day"].to_numpy().astype(np.int64),
    }


@torch.no_grad()
def ndcg(taste: Taste, asked: dict[str, Any], users_at_once: int = 512) -> np.ndarray:
    """NDCG@10 of one target for each user, [U]: 1 / log2(2 + items before it), items the user has had left out."""
    was_training = taste.training
    taste.eval()
    vectors = taste.items.all()
    found = []
    for start in range(0, len(asked["user"]), users_at_once):
        rows = slice(start, start + users_at_once)
        items, days = asked["items"][rows], asked["days"][rows]
        lengths = torch.tensor([min(len(one), LENGTH) for one in items])
        padded = torch.zeros(2, len(items), int(lengths.max()), dtype=torch.long)
        for place, (item, day) in enumerate(zip(items, days, strict=True)):
            padded[0, place, : lengths[place]] = torch.tensor(item[-LENGTH:])
            padded[1, place, : lengths[place]] = torch.tensor(day[-LENGTH:])
        request, target = torch.tensor(asked["day"][rows]), torch.tensor(asked["target"][rows])
        scores = taste(padded[0], padded[1], torch.ones_like(padded[0]), lengths, request, torch.zeros(len(items))) @ vectors.T
        wanted = scores.gather(1, target[:, None])
        for place, item in enumerate(items):
            scores[place, item] = -torch.inf
        before = (scores > wanted).sum(1)
        found.append(torch.where(before < TOP, 1 / torch.log2(before + 2.0), torch.zeros(())).numpy())
    taste.train(was_training)
    return np.concatenate(found)


if __name__ == "__main__":
    main()
