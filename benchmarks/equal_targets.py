"""Quality after the same number of training targets, ours beside SASRec of RePlay: part of `python -m benchmarks.training`.

The last event of each user is the target, what came before is learned from and is the history; every other item the user has not had is ranked.
RePlay learns from the last events of each history, pass after pass; ours from as many targets, drawn from all events. Width, blocks and their inner width,
heads, length, dropout, batch, negatives (drawn evenly) and seeds are the same; each has the learning rate that ranked the last but one event best, of
.001 and .003. Ours is asked for the day of the target, as it always is; RePlay knows no days.
"""

import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytorch_lightning as lightning
import torch

from benchmarks.interactions import log_of, vocabulary_of
from benchmarks.leave_one_out import histories, ndcg, without_last
from benchmarks.training_peers import rankings_of
from contracts import columns as c
from contracts.sections.training import ComputeConfig, EncoderConfig, OptimizerConfig
from evaluation.bootstrap import mean_interval
from lightning_modules.jobs import PretrainJob
from lightning_modules.pretraining import Pretraining, plan_periods, walk_settings
from lightning_modules.taste import Taste, build_taste
from lightning_modules.time_walk import TimeWalk
from lightning_modules.trainers import build_trainer

TOP = 10
OURS, PEER = "perennial:gpt with SASRec's inner width", "RePlay 0.22.0 SASRec"
LEARNING_RATES = {OURS: {"sampled_softmax": 3e-3, "full_softmax": 3e-3}, PEER: {"sampled_softmax": 1e-3, "full_softmax": 3e-3}}
WARM_UP_STEPS = 20
NDCG, DIFFERENCE = "NDCG@10 after equal targets", "difference of NDCG@10 after equal targets, mean over seeds"


def measured_quality(
    dataset: str, interactions: pl.DataFrame, loss: str, settings: dict[str, Any], *, seeds: Sequence[int], num_targets: int
) -> list[dict[str, Any]]:
    """NDCG@10 of both for each seed, and the difference of the users' means over the seeds; empty where RePlay is not there (it says so)."""
    known, target = without_last(interactions, 1)
    of_a_pass = int(known.group_by(c.USER_ID).len().select((pl.col("len") - 1).clip(0, settings["length"])).sum().item())
    passes = max(1, round(num_targets / of_a_pass))
    asked = histories(known, target, vocabulary_of(interactions))
    rows: list[dict[str, Any]] = []
    values: dict[str, list[np.ndarray]] = {OURS: [], PEER: []}
    for seed in seeds:
        theirs = rankings_of("replay", loss, known, {**settings, "epochs": passes, "seed": seed, "top": TOP, "learning_rate": LEARNING_RATES[PEER][loss]})
        if isinstance(theirs, str):
            print(f"{PEER} left out on {dataset}: {theirs}", flush=True)
            return []
        started = time.process_time()
        taste = fitted(known, interactions, loss, settings, num_targets=passes * of_a_pass, seed=seed)
        cost = {OURS: time.process_time() - started, PEER: theirs["seconds"]}
        values[OURS].append(ndcg(taste, asked))
        values[PEER].append(of_ranking(theirs["rankings"], target, asked["user"]))
        for model, found in values.items():
            one = {"model": f"{model}, {loss}", "seed": seed, "value": float(found[-1].mean()), "n": len(asked["user"]), "targets": passes * of_a_pass}
            rows.append({"dataset": dataset, "metric": NDCG, **one, "cpu_seconds": round(cost[model], 1)})
            print(rows[-1], flush=True)
    difference = np.mean(values[OURS], 0) - np.mean(values[PEER], 0)
    found = mean_interval(pl.DataFrame({c.USER_ID: asked["user"], "value": difference}))
    return [
        *rows,
        {"dataset": dataset, "model": f"{OURS}, {loss}", "metric": DIFFERENCE, "value": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high},
    ]


def fitted(known: pl.DataFrame, interactions: pl.DataFrame, loss: str, settings: dict[str, Any], *, num_targets: int, seed: int) -> Taste:
    """Our encoder after `num_targets` targets."""
    vocabulary = vocabulary_of(interactions)
    lightning.seed_everything(seed, verbose=False)
    encoder = {"kind": "gpt", "width": settings["width"], "num_blocks": settings["blocks"], "num_heads": settings["heads"], "feed_forward": settings["inner"]}
    job = PretrainJob(
        inputs_digest="benchmark",
        seed=seed,
        events="",
        num_items=vocabulary.height,
        event_types=("event",),
        cutoffs=(interactions[c.EVENT_TIME].max().date() + timedelta(days=1),),  # type: ignore[union-attr]
        encoder=EncoderConfig.model_validate({**encoder, "dropout": 0.2, "max_history": settings["length"]}),
        objective="next_item",
        loss=loss,  # type: ignore[arg-type]
        epochs=num_targets / known.height,
        batch_events=settings["batch"] * settings["length"],
        num_negatives=settings["negatives"],
        even_share=1.0,
        repeat_weight=1.0,
        item_rate=1.0,
        held_out_days=0,
        leads_days=(0,),
        optimizer=OptimizerConfig(learning_rate=LEARNING_RATES[OURS][loss], warm_up_steps=WARM_UP_STEPS),
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        walk = TimeWalk(log_of(known, vocabulary, job, folder), plan_periods(job), walk_settings(job), num_items=job.num_items)
        taste = build_taste(job.encoder, torch.zeros(job.num_items, 0, dtype=torch.long), num_items=job.num_items, num_event_types=1)
        build_trainer(ComputeConfig(accelerator="cpu", threads=1), folder, [], has_wide_layers=True).fit(Pretraining(taste, job), walk)
    return taste


def of_ranking(rankings: pl.DataFrame, target: pl.DataFrame, users: list[str]) -> np.ndarray:
    """NDCG@10 of one target for each of `users`, [U], from user_id, item_id, rank (from 1); 0 where the target is not among the ranked."""
    hits = rankings.filter(pl.col(c.RANK) <= TOP).join(target.select(c.USER_ID, c.ITEM_ID), on=[c.USER_ID, c.ITEM_ID])
    values = dict(zip(hits[c.USER_ID], 1 / np.log2(1.0 + hits[c.RANK].to_numpy()), strict=True))
    return np.array([values.get(user, 0.0) for user in users])
