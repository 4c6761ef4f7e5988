"""Stage `forecast`: one global network, trained along time; at each cut-off it forecasts every series from what was known then.

B windows, H horizon, Q quantiles (or the mean alone).
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from contracts import columns as c
from contracts.artifacts import JobResult
from contracts.errors import NotEnoughHistoryError
from contracts.sections.training import ComputeConfig
from contracts.tables import FORECASTS, QUANTILES, quantile_column
from lightning_modules.forecasting_job import ForecastJob
from lightning_modules.forecasting_networks import build_network
from lightning_modules.forecasting_windows import MIN_PAST, NUM_OWN_FACTS, SEASONS_BACK, Batch, Series, WalkSettings, WindowWalk
from lightning_modules.trainers import Checkpoints, ProgressLines, build_optimizer, build_trainer, checkpoint_to_resume, say

PARTS = "parts"
SERIES_AT_ONCE = 4_096
ANNEAL_TO = 0.05
LATER_RATE = 0.5


def pinball_loss(forecast: Tensor, target: Tensor, quantiles: Tensor) -> Tensor:
    """Mean pinball loss over the known targets. forecast [B, H, Q], target [B, H] with NaN where unknown, quantiles [Q]."""
    known = ~torch.isnan(target)
    over = torch.where(known, target, 0.0)[..., None] - forecast
    losses = torch.maximum(quantiles * over, (quantiles - 1) * over).mean(2)
    return (losses * known).sum() / known.sum().clamp(min=1)


def squared_loss(forecast: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the known targets. forecast [B, H, 1], target [B, H] with NaN where unknown."""
    known = ~torch.isnan(target)
    misses = (torch.where(known, target, 0.0) - forecast[..., 0]) ** 2
    return (misses * known).sum() / known.sum().clamp(min=1)


class Forecasting(lightning.LightningModule):
    """Loss and optimiser of a forecasting network, or of several that start differently and are averaged."""

    def __init__(self, members: Sequence[nn.Module], job: ForecastJob) -> None:
        super().__init__()
        self.members, self.job = nn.ModuleList(members), job
        self.register_buffer("quantiles", torch.tensor(QUANTILES), persistent=False)

    def scaled(self, batch: Batch) -> Tensor:
        """[B, H, Q] mean of the members, in spreads about the recent level."""
        return torch.stack([_scaled(member, batch) for member in self.members]).mean(0)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of the members on a batch, over its known targets."""
        return torch.stack([self._member_loss(_scaled(member, batch), batch.target) for member in self.members]).mean()

    def _member_loss(self, forecast: Tensor, target: Tensor) -> Tensor:
        return pinball_loss(forecast, target, self.quantiles) if self.job.loss == "quantile" else squared_loss(forecast, target)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of this process's share, weighted by its known targets, so that the mean over processes is the mean over all."""
        loss = self.loss(batch)
        if self.trainer.world_size == 1:
            return loss
        count = (~torch.isnan(batch.target)).sum().float()
        total = self.trainer.strategy.reduce(count.clone(), reduce_op="sum").clamp(min=1)
        return loss * count * self.trainer.world_size / total

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by step, so that a resumed run draws the same; set the learning rate."""
        torch.manual_seed(hash((self.job.seed, self.global_step, self.global_rank)) % 2**63)
        peak = self.job.optimizer.learning_rate * (1.0 if batch.period == 0 else LATER_RATE)
        warm = min((self.global_step + 1) / (self.job.optimizer.warm_up_steps + 1), 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * batch.share_done))
        for group in self.optimizers().param_groups:
            group["lr"] = peak * warm * (ANNEAL_TO + (1 - ANNEAL_TO) * cosine)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, Adam or SGD as configured."""
        return build_optimizer(list(self.named_parameters()), self.job.optimizer, undecayed=("norm", "bias", "steps"))

    def progress(self, batch: Batch) -> tuple[float, str, float]:
        """Fraction of the walk, what is done, windows of the batch."""
        done = self.global_step / max(len(self.trainer.train_dataloader), 1)
        return done, f"{self.job.network}, cut-off {batch.period + 1} of {len(self.job.known)},", float(len(batch.past) * self.trainer.world_size)


def _scaled(member: nn.Module, batch: Batch) -> Tensor:
    correction = member(batch)
    return correction + batch.guess[..., None] if member.uses_guess else correction


class ForecastAtCutoffs(lightning.Callback):
    """When the last step before a cut-off is done, forecast every series there and write it down."""

    def __init__(self, series: Series, job: ForecastJob, folder: Path) -> None:
        self.series, self.job, self.folder = series, job, folder

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Forecasting, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Write at the end of each period, from the first process."""
        if not (batch.ends_period and trainer.is_global_zero):
            return
        last = batch.period
        if not trainer.train_dataloader.later_steps and batch.period == 0:
            last = len(self.job.known) - 1
        for period in range(batch.period, last + 1):
            write_part(forecast_series(pl_module, self.series, self.job, self.job.known[period]), self.folder / f"{self.job.known[period]}.parquet")


@torch.no_grad()
def forecast_series(module: Forecasting, series: Series, job: ForecastJob, known: int) -> pl.DataFrame:
    """Forecasts of all series with 4 known periods or more, contract `FORECASTS`, never negative, quantiles in order."""
    was_training = module.training
    module.eval()
    rows = np.flatnonzero(series.first + MIN_PAST <= known)
    parts = []
    for start in range(0, len(rows), SERIES_AT_ONCE):
        some = rows[start : start + SERIES_AT_ONCE]
        batch = series.windows(some, np.full(len(some), known), past=job.past, seasons=job.seasons, known_to=known).to(module.device)
        parts.append((module.scaled(batch) * batch.spread[:, None, None] + batch.level[:, None, None]).clamp(min=0).float().cpu().numpy())
    module.train(was_training)
    outputs = np.concatenate(parts) if parts else np.zeros((0, job.horizon, 1))
    outputs = np.sort(outputs, axis=2)
    dates = series.dates[known : known + job.horizon]
    middle = outputs.shape[2] // 2
    columns = {quantile_column(q): outputs[:, :, place].ravel() if job.loss == "quantile" else None for place, q in enumerate(QUANTILES)}
    return (
        series.keys[np.repeat(rows, job.horizon)]
        .with_columns(
            pl.lit(dates[0]).alias(c.CUTOFF),
            pl.Series(c.DATE, dates * len(rows), dtype=pl.Date),
            pl.lit(job.network).alias(c.MODEL),
            pl.Series(c.MEAN, outputs[:, :, middle].ravel(), dtype=pl.Float64),
            *(
                pl.Series(name, values, dtype=pl.Float64) if values is not None else pl.lit(None, dtype=pl.Float64).alias(name)
                for name, values in columns.items()
            ),
        )
        .select(FORECASTS.schema.keys())
    )


def write_part(table: pl.DataFrame, path: Path) -> None:
    """Write so that a half-written file is never seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    table.write_parquet(draft)
    draft.replace(path)


def forecast(job: ForecastJob, compute: ComputeConfig, folder: Path) -> JobResult:
    """Run a forecasting job in `folder`, or what is left of it.

    Raises NotEnoughHistoryError where no series has a window before the first cut-off.
    """
    started = time.monotonic()
    lightning.seed_everything(job.seed, verbose=False)
    series = Series(job.series, job.periods, job.horizon, job.planned)
    walk = WindowWalk(series, WalkSettings(job.known, job.past, job.seasons, job.first_steps, job.later_steps, job.max_epochs, job.batch_windows, job.seed))
    if walk.is_empty(job.known[0]):
        raise NotEnoughHistoryError(
            f"forecast: no series has {MIN_PAST + 1} periods before the first cut-off ({job.known[0]} known periods). "
            f"Start the cut-offs later or leave out `{job.network}`."
        )
    module = Forecasting([_build(job, series) for _ in range(job.num_members)], job)
    losses = _LastLoss()
    callbacks = [ProgressLines("forecast"), losses, ForecastAtCutoffs(series, job, folder / PARTS), Checkpoints(folder, compute.checkpoint_every_steps)]
    trainer = build_trainer(compute, folder, callbacks, gradient_clip=job.optimizer.gradient_clip)
    walk.rank, walk.world_size = trainer.global_rank, trainer.world_size
    trainer.fit(module, walk, ckpt_path=checkpoint_to_resume(folder))
    output = folder / "forecasts.parquet"
    if trainer.is_global_zero:
        write_part(pl.concat(pl.read_parquet(folder / PARTS / f"{known}.parquet") for known in job.known), output)
    say("forecast", 1.0, f"{job.network}: {trainer.global_step:,} steps")
    return JobResult(stage=job.stage, output=str(output), metrics={"loss": losses.mean()}, seconds=time.monotonic() - started, world_size=trainer.world_size)


def _build(job: ForecastJob, series: Series) -> nn.Module:
    return build_network(
        job.network,
        past=job.past,
        horizon=job.horizon,
        num_outputs=len(QUANTILES) if job.loss == "quantile" else 1,
        width=job.width,
        dropout=job.dropout,
        num_known=series.num_known,
        num_seasonal=2 * SEASONS_BACK * len(job.seasons),
        num_facts=NUM_OWN_FACTS + series.level.shape[1],
    )


class _LastLoss(lightning.Callback):
    """Mean training loss of the last hundred steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Forecasting, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Keep the newest."""
        self.losses = [*self.losses[-99:], float(outputs["loss"])]

    def mean(self) -> float:
        """Mean of what is kept, 0 before the first step."""
        return float(np.mean(self.losses)) if self.losses else 0.0
