"""Pre-training of taste: self-supervised, on all events, along time, with a snapshot at every cut-off.

Letters: N events, M targets, K negatives, D width. The network is `taste.Taste`; this file holds its loss, its optimiser and the walk.
"""

import json
import time
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytorch_lightning as lightning
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from contracts.artifacts import JobResult
from contracts.errors import CheckpointMismatchError, NotEnoughHistoryError
from contracts.sections.training import ComputeConfig, EncoderConfig
from lightning_modules import losses
from lightning_modules.content import content_table
from lightning_modules.event_log import EventLog, prepare_event_log
from lightning_modules.jobs import PretrainJob
from lightning_modules.taste import Taste, build_taste, category_names, category_nodes
from lightning_modules.time_walk import Batch, Period, TimeWalk, WalkSettings
from lightning_modules.trainers import Checkpoints, ProgressLines, build_trainer, checkpoint_to_resume, optimizer_of_groups, process_rank, say
from lightning_modules.warm_start import start_taste

SNAPSHOTS = "snapshots"
ENCODER = "encoder.json"
ANNEAL_FROM = 0.6
ANNEAL_TO = 0.1
GBCE_CALIBRATION = 0.75
HIDDEN_SHARE = 0.2
DAYS_FOR_YEAR = 730
TARGETS_IN_A_STEP = 128


class Objective(nn.Module):
    """Mean loss of a batch's targets: one module with one `forward`, so that its weights can be sharded."""

    def __init__(self, taste: Taste, loss: str, contrastive_weight: float = 0.0) -> None:
        super().__init__()
        self.taste, self.loss, self.contrastive_weight = taste, loss, contrastive_weight

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of the batch's targets, and in training the weighted contrastive loss of its histories; float32."""
        loss = self.of_targets(batch)
        if not (self.training and self.contrastive_weight):
            return loss
        return loss + self.contrastive_weight * losses.contrastive(self.view(batch), self.view(batch))

    def view(self, batch: Batch) -> Tensor:
        """State after each history [B, D], some of its items hidden at random: one of its views. Source: item mask of CL4SRec, arXiv 2010.14395."""
        items = self.taste.items(batch.items)
        is_hidden = torch.rand(len(items), 1, device=items.device) < HIDDEN_SHARE
        hidden = torch.zeros_like(items) if self.taste.encoder.is_causal else self.taste.mask.to(items.dtype)
        states = self.taste.states(torch.where(is_hidden, hidden, items), batch.types, batch.gaps, batch.days, batch.steps, batch.layout())
        return states.index_select(0, torch.from_numpy(batch.offsets[1:] - 1).to(states.device))

    def of_targets(self, batch: Batch) -> Tensor:
        """Mean loss of the batch's targets, float32."""
        batch = _filled(batch)
        if self.loss == "full_softmax":
            queries = self.queries(batch, self.taste.items(batch.items))
            return losses.full_cross_entropy(queries, self.taste.items.all(), batch.targets, weights=batch.weights)
        # one look-up for all: each would cost a gradient table of the whole catalogue
        together = self.taste.items(torch.cat([batch.items, batch.targets, batch.negatives]))
        items, targets, negatives = together.split([len(batch.items), len(batch.targets), len(batch.negatives)])
        queries = self.queries(batch, items)
        if self.loss in ("sampled_softmax", "sampled_softmax_logq"):
            logq = batch.negative_logq if self.loss == "sampled_softmax_logq" else None
            return losses.sampled_cross_entropy(queries, targets, negatives, batch.targets, batch.negatives, logq=logq, weights=batch.weights)
        positive = (queries * targets).sum(-1)
        negative = queries @ negatives.T  # [M, K]
        is_target = batch.negatives[None, :] == batch.targets[:, None]
        options = {"is_target": is_target, "weights": batch.weights}
        if self.loss == "bpr":
            return losses.bayesian_personalised_ranking(positive, negative, **options)
        if self.loss == "bce":
            return losses.binary_cross_entropy(positive, negative, **options)
        beta = losses.gbce_beta(len(batch.negatives), self.taste.items.own.num_embeddings, GBCE_CALIBRATION)
        return losses.generalised_binary_cross_entropy(positive, negative, beta=beta, **options)

    def queries(self, batch: Batch, items: Tensor) -> Tensor:
        """Query of each target [M, D]; `items` [N, D] are the vectors of the events' items."""
        if not self.taste.encoder.is_causal:
            items = torch.where(batch.is_masked[:, None], self.taste.mask.to(items.dtype), items)
        states = self.taste.states(items, batch.types, batch.gaps, batch.days, batch.steps, batch.layout())
        before = torch.cat([self.taste.beginning.to(states.dtype), states]).index_select(0, batch.sources)
        return self.taste.request(before, batch.request_days, batch.lead_days, batch.since)


def _filled(batch: Batch) -> Batch:
    """The batch with targets of no weight up to a multiple of `TARGETS_IN_A_STEP`.

    A matrix product of a shape a CPU has not met before takes a multiple of its time.
    """
    number = len(batch.targets)
    missing = -number % TARGETS_IN_A_STEP if number else 0
    rows = torch.arange(number + missing, device=batch.targets.device).clamp(max=number - 1)
    repeated = {name: getattr(batch, name).index_select(0, rows) for name in ("sources", "targets", "request_days", "lead_days", "since")}
    return replace(batch, **repeated, weights=functional.pad(batch.weights, (0, missing)))


class Pretraining(lightning.LightningModule):
    """Optimiser and steps of pre-training."""

    def __init__(self, taste: Taste, job: PretrainJob) -> None:
        super().__init__()
        self.objective, self.job = Objective(taste, job.loss, job.contrastive_weight), job
        self.num_periods = 1

    @property
    def taste(self) -> Taste:
        """The network itself."""
        return self.objective.taste

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of this process's share, weighted so that the mean over processes is the mean over all targets."""
        loss = self.objective(batch)
        if self.trainer.world_size == 1:
            return loss
        count = batch.weights.sum()
        total = self.trainer.strategy.reduce(count.clone(), reduce_op="sum")
        return loss * count * self.trainer.world_size / total.clamp(min=1e-12)  # a batch of nothing but repeats has no target on any process

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by step, so that a resumed run draws the same; set the learning rate."""
        torch.manual_seed(hash((self.job.seed, self.global_step, self.global_rank)) % 2**63)
        rate = learning_rate(self.job.optimizer.learning_rate, self.global_step, self.job.optimizer.warm_up_steps, batch.share_done)
        for group in self.optimizers().param_groups:
            group["lr"] = rate * group["share"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Three groups: rows of items learn slowest, rows of categories slowly, the network at the full rate.

        Under Adam a rare item's few gradients count as much as a popular one's many: at the full rate one purchase is learned by heart.
        Rows are not decayed: rare ones would fade between their events.
        """
        rows = ("items", "events", "positions", "beginning", "norm", "bias")
        named = list(self.named_parameters())
        groups = [
            {"params": [p for name, p in named if "items.own" in name], "share": self.job.item_rate, "weight_decay": 0.0},
            {"params": [p for name, p in named if "items.nodes" in name or "items.of_content" in name], "share": self.job.category_rate, "weight_decay": 0.0},
            {"params": [p for name, p in named if "items." not in name and any(part in name for part in rows)], "share": 1.0, "weight_decay": 0.0},
            {"params": [p for name, p in named if not any(part in name for part in rows)], "share": 1.0, "weight_decay": self.job.optimizer.weight_decay},
        ]
        return optimizer_of_groups(groups, self.job.optimizer, fused=not getattr(self, "_is_sharded", False))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the norm of all gradients, sharded or not."""
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.job.optimizer.gradient_clip)

    def configure_model(self) -> None:
        """Shard block by block where the strategy is FSDP2."""
        mesh = getattr(self, "device_mesh", None)
        if mesh is None or getattr(self, "_is_sharded", False):
            return
        from torch.distributed.fsdp import fully_shard

        for block in getattr(self.taste.encoder, "blocks", []):
            fully_shard(block, mesh=mesh["data_parallel"])
        fully_shard(self.objective, mesh=mesh["data_parallel"])
        self._is_sharded = True

    def progress(self, batch: Batch) -> tuple[float, str, float]:
        """Fraction of the walk, what is done, events of the batch."""
        fraction = (batch.period + batch.share_done) / self.num_periods
        return fraction, f"period {batch.period + 1} of {self.num_periods},", float(len(batch.items) * self.trainer.world_size)


def recompute_blocks(taste: Taste) -> None:
    """Activation checkpointing: a block keeps its inputs only, and is computed once more in the backward pass. Names of weights stay."""
    encoder = taste.encoder
    for block in getattr(encoder, "blocks", None) or encoder.layers:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def learning_rate(peak: float, step: int, warm_up_steps: int, share_done: float) -> float:
    """Linear warm-up, then level; falls to a tenth over the last part of each period, so that snapshots are taken at rest."""
    warm = min((step + 1) / (warm_up_steps + 1), 1.0)
    anneal = 1.0 - (1.0 - ANNEAL_TO) * max(share_done - ANNEAL_FROM, 0.0) / (1.0 - ANNEAL_FROM)
    return peak * warm * anneal


class Snapshots(lightning.Callback):
    """Write the weights of taste at the end of each period that stands for a cut-off."""

    def __init__(self, folder: Path, periods: list[Period]) -> None:
        self.folder, self.periods = folder, periods

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Pretraining, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Save after a period's last batch, and the same weights for following periods without any new event."""
        walk: TimeWalk = trainer.train_dataloader
        if not (batch.ends_period or walk.is_stopped):
            return
        names = [self.periods[batch.period].snapshot]
        for number in range(batch.period + 1, len(self.periods)):
            if not walk.is_empty(number):
                break
            names.append(self.periods[number].snapshot)
        state = full_state(pl_module.taste)
        if trainer.is_global_zero:
            for name in filter(None, names):
                write_snapshot(state, self.folder / f"{name}.safetensors")


class HeldOut(lightning.Callback):
    """During the first period look at days kept out of it; leave it where they stop getting better."""

    def __init__(self, batches: list[Batch], *, checks: int, patience: int) -> None:
        self.batches, self.checks, self.patience = batches, checks, patience
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Pretraining, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Check at even shares of the first period."""
        if batch.period != 0 or not self.batches or int(batch.share_done * self.checks) <= len(self.losses):
            return
        self.losses.append(self._look(trainer, pl_module))
        best = int(np.argmin(self.losses))
        if len(self.losses) - 1 - best >= self.patience and not batch.ends_period:
            trainer.train_dataloader.end_period_early(batch.share_done)

    @torch.no_grad()
    def _look(self, trainer: lightning.Trainer, pl_module: Pretraining) -> float:
        pl_module.eval()
        sums = torch.zeros(2)
        for batch in self.batches:
            loss = pl_module.objective(batch.to(pl_module.device))
            weight = batch.weights.sum()  # 0 where a process has no window of its own
            sums += torch.stack([loss.float().cpu() * weight, weight])
        pl_module.train()
        sums = trainer.strategy.reduce(sums, reduce_op="sum") if trainer.world_size > 1 else sums
        return float(sums[0] / sums[1].clamp(min=1e-12))

    def state_dict(self) -> dict[str, Any]:
        """Losses seen so far."""
        return {"losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.losses = list(state_dict["losses"])


class LossLog(lightning.Callback):
    """Mean training loss of each period, over the targets of all processes."""

    def __init__(self) -> None:
        self.sums: dict[int, list[float]] = {}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Pretraining, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Add the step's loss; the mean of what `training_step` returns on each process is the mean over all targets."""
        total = self.sums.setdefault(batch.period, [0.0, 0.0])
        loss = outputs["loss"]
        total[0] += float(trainer.strategy.reduce(loss.clone(), reduce_op="mean") if trainer.world_size > 1 else loss)
        total[1] += 1.0

    def state_dict(self) -> dict[str, Any]:
        """Sums so far."""
        return {"sums": self.sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.sums = dict(state_dict["sums"])


def pretrain(job: PretrainJob, compute: ComputeConfig, folder: Path) -> JobResult:
    """Run a pre-training job in `folder`, or what is left of it.

    Raises NotEnoughHistoryError where the first cut-off leaves no event to learn from.
    """
    started = time.monotonic()
    lightning.seed_everything(job.seed, verbose=False)
    log = open_log(job.events, folder, job.event_type_codes(), job.num_items)
    periods = plan_periods(job)
    walk = TimeWalk(log, periods, walk_settings(job), num_items=job.num_items)
    if not job.start and (not len(walk) or walk.is_empty(0)):
        raise NotEnoughHistoryError(
            f"training_events: no event before {job.cutoffs[0]}, the first cut-off of pre-training. Start the cut-offs later or give more history."
        )
    categories = category_nodes(job.item_features, job.num_items)
    content = content_table(job.content, job.num_items)
    taste = build_taste(job.encoder, categories, num_items=job.num_items, num_event_types=len(job.event_types), content=content)
    nodes = category_names(job.item_features)
    if job.start:
        start_taste(taste, job.start, nodes=nodes, event_types=job.event_types)
    elif periods[-1].end_day - log.first_day() < DAYS_FOR_YEAR:
        taste.forget_year()
    if not job.request_calendar:
        taste.forget_request()
    if compute.activation_checkpointing:
        recompute_blocks(taste)
    module = Pretraining(taste, job)
    module.num_periods = len(periods)
    held_out = HeldOut([], checks=job.checks, patience=job.patience)
    loss_log = LossLog()
    callbacks = [ProgressLines("pretrain"), loss_log, held_out, Snapshots(folder / SNAPSHOTS, periods), Checkpoints(folder, compute.checkpoint_every_steps)]
    trainer = build_trainer(compute, folder, callbacks, has_wide_layers=True, can_shard=True)
    walk.rank, walk.world_size = trainer.global_rank, trainer.world_size
    if periods and periods[0].snapshot is None:
        held_out.batches = walk.held_out(periods[0].end_day, periods[1].end_day)
    say("pretrain", 0.0, f"{int(log.offsets[-1]):,} events of {log.num_users:,} users, {len(job.cutoffs)} cut-offs")
    if job.start and trainer.is_global_zero:
        for name in _before_any_event(job, walk):
            write_snapshot(full_state(taste), folder / SNAPSHOTS / f"{name}.safetensors")
    if len(walk):
        trainer.fit(module, walk, ckpt_path=checkpoint_to_resume(folder))
    described = {"encoder": job.encoder.model_dump(), "num_items": job.num_items, "event_types": list(job.event_types), "nodes": nodes, "content": job.content}
    (folder / ENCODER).write_text(json.dumps(described))
    metrics = {f"loss_{periods[number].snapshot or 'start'}": total / count for number, (total, count) in loss_log.sums.items()}
    if held_out.losses:
        metrics["held_out_loss"] = min(held_out.losses)
    if trainer.is_global_zero:
        _write_losses(folder / "losses.parquet", periods, loss_log, held_out)
    say("pretrain", 1.0, f"{trainer.global_step:,} steps")
    return JobResult(stage=job.stage, output=str(folder), metrics=metrics, seconds=time.monotonic() - started, world_size=trainer.world_size)


def plan_periods(job: PretrainJob) -> list[Period]:
    """Periods between the cut-offs; the first is split where days are held out. A training that goes on begins where the earlier one ended."""
    if job.start:
        return _periods_since(_day(job.start.cutoff), job)
    days = [_day(cutoff) for cutoff in job.cutoffs]
    names = [cutoff.isoformat() for cutoff in job.cutoffs]
    ends: list[tuple[int, str | None]] = list(zip(days, names, strict=True))
    if job.held_out_days:
        ends = [(days[0] - job.held_out_days, None), *ends]
    starts = [None, *(day for day, _ in ends[:-1])]
    return [Period(start, end, name) for start, (end, name) in zip(starts, ends, strict=True)]


def _periods_since(first: int, job: PretrainJob) -> list[Period]:
    later = [cutoff for cutoff in job.cutoffs if _day(cutoff) > first]
    starts = [first, *(_day(cutoff) for cutoff in later)]
    return [Period(start, _day(cutoff), cutoff.isoformat()) for start, cutoff in zip(starts, later, strict=False)]


def _before_any_event(job: PretrainJob, walk: TimeWalk) -> list[str]:
    """Cut-offs at which a training that goes on has learned nothing yet: the start itself, and those before the first new event."""
    names = [cutoff.isoformat() for cutoff in job.cutoffs if job.start and cutoff == job.start.cutoff]
    for number, period in enumerate(walk.periods):
        if not walk.is_empty(number):
            break
        names.append(str(period.snapshot))
    return names


def _day(cutoff: date) -> int:
    return int((np.datetime64(cutoff) - np.datetime64("1970-01-01")).astype(int))


def walk_settings(job: PretrainJob) -> WalkSettings:
    """The numbers of the walk."""
    return WalkSettings(
        max_history=job.encoder.max_history,
        batch_events=job.batch_events,
        num_negatives=job.num_negatives,
        epochs=job.epochs,
        replay=job.replay,
        objective=job.objective,
        horizon_days=job.horizon_days,
        leads_days=job.leads_days,
        repeat_weight=job.repeat_weight,
        even_share=job.even_share,
        seed=job.seed,
    )


def open_log(events: str, folder: Path, event_types: dict[str, int], num_items: int) -> EventLog:
    """The events as memory-mapped Arrow below `folder`; the first process writes it, the others wait."""
    place = folder / "events"
    if process_rank() == 0:
        prepare_event_log(events, place, event_types, num_items)
    else:
        while not (place / "offsets.npy").exists():
            time.sleep(0.2)
    return EventLog(place)


def full_state(taste: Taste) -> dict[str, Tensor]:
    """Weights of taste, whole, on the CPU, to be written at once; gathered from all processes where they are sharded."""
    return {name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().cpu().contiguous() for name, value in taste.state_dict().items()}


def write_snapshot(state: dict[str, Tensor], path: Path) -> None:
    """Write weights so that a half-written file is never seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    save_file(state, draft)
    draft.replace(path)


def read_snapshot(folder: Path, cutoff: str) -> Taste:
    """Taste as it was at a cut-off, ready to be run (evaluation mode).

    Raises CheckpointMismatchError where there is no such snapshot.
    """
    path = folder / SNAPSHOTS / f"{cutoff}.safetensors"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in (folder / SNAPSHOTS).glob("*.safetensors"))) or "none"
        raise CheckpointMismatchError(
            f"pretraining {folder}: no snapshot at {cutoff}; there are {known}. Add the date to the cut-offs of the pre-training job."
        )
    described = json.loads((folder / ENCODER).read_text())
    state = load_file(path)
    taste = build_taste(
        EncoderConfig.model_validate(described["encoder"]),
        state["items.categories"],
        num_items=described["num_items"],
        num_event_types=len(described["event_types"]),
        content=content_table(described.get("content"), described["num_items"]),
    )
    missing, unexpected = taste.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise CheckpointMismatchError(f"{path}: missing {missing}, unexpected {unexpected}. Train again with this version.")
    return taste.eval()


def _write_losses(path: Path, periods: list[Period], loss_log: LossLog, held_out: HeldOut) -> None:
    rows = [
        {"kind": "training", "period": number, "cutoff": periods[number].snapshot, "loss": total / count}
        for number, (total, count) in sorted(loss_log.sums.items())
    ]
    rows += [{"kind": "held_out", "period": 0, "cutoff": None, "loss": loss} for loss in held_out.losses]
    pl.DataFrame(rows, schema={"kind": pl.String, "period": pl.Int64, "cutoff": pl.String, "loss": pl.Float64}).write_parquet(path)
