"""The Trainer all stages share: devices, precision, resumable checkpoints, progress lines.

A stage runs in a process of its own (`lightning_modules.train`), alone or as one rank of many. A checkpoint stands for whole steps: it is
written after a step, replaced in one move, and taken up again by the next start of the same job.
"""

import ctypes
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from contracts.sections.training import ComputeConfig, OptimizerConfig

LAST = "last.ckpt"
SECONDS_BETWEEN_LINES = 1.0
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of glibc's mallopt
KEPT_BYTES, LARGEST_KEPT_BYTES = 2**30, 2**25


def process_rank() -> int:
    """Rank of this process among those that train together, 0 where it is alone; rank 0 writes shared files."""
    return int(os.environ.get("RANK", "0"))


def say(stage: str, fraction: float, text: str) -> None:
    """Print one progress line, `progress <stage> <fraction> <text>`, for the process that started this one; only rank 0 speaks."""
    if process_rank():
        return
    sys.stdout.write(f"progress {stage} {min(max(fraction, 0.0), 1.0):.4f} {text}\n")
    sys.stdout.flush()


class StreamedCheckpoints(TorchCheckpointIO):
    """Write a checkpoint straight to its file: Lightning's own way holds a second copy of weights and optimiser states in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write to `path`; `Checkpoints` moves it to its place when it is whole."""
        torch.save(checkpoint, path)


class Checkpoints(pl.Callback):
    """Keep `last.ckpt`: every so many steps, at the end, and when the process is told to end."""

    def __init__(self, folder: Path, every_steps: int) -> None:
        self.folder, self.every_steps = folder, every_steps

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save after every `every_steps`-th step."""
        if trainer.global_step and trainer.global_step % self.every_steps == 0:
            self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save on SIGTERM, which Lightning raises between two steps; any other error may have cut a step in half and saves nothing."""
        if isinstance(exception, SIGTERMException):
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f"{LAST}.part"
        try:
            trainer.save_checkpoint(draft)
            if trainer.is_global_zero:
                with draft.open("rb") as stream:
                    os.fsync(stream.fileno())
                draft.replace(self.folder / LAST)
        except BaseException as error:
            free = shutil.disk_usage(self.folder).free
            draft.unlink(missing_ok=True)  # a full disk gets its room back
            error.add_note(f"{draft}: not written whole, removed; the checkpoint before stays. {free:,} bytes were free there. Make room and run again.")
            raise
        trainer.strategy.barrier()


class ProgressLines(pl.Callback):
    """Percent, loss and events per second, at most once a second, from the first process."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._told = self._events_since = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print a line where a second has passed; `pl_module.progress(batch)` says fraction, text and events of the batch."""
        if not trainer.is_global_zero:
            return
        fraction, text, events = pl_module.progress(batch)
        self._events_since += events
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_LINES:
            rate = f", {self._events_since / (now - self._told):,.0f} events/s" if events and self._told else ""
            say(self.stage, fraction, f"{text} loss {float(outputs['loss']):.4f}{rate}")
            self._told, self._events_since = now, 0.0


def build_trainer(
    compute: ComputeConfig,
    folder: Path,
    callbacks: Sequence[pl.Callback],
    *,
    gradient_clip: float | None = None,
    has_wide_layers: bool = False,
    can_shard: bool = False,
) -> pl.Trainer:
    """Trainer for this process: alone, or one rank of those `torch.distributed.run` started. `has_wide_layers`: see `use_bf16`.

    `can_shard`: the module shares its weights out where the strategy is fsdp2; every process holds all of any other.
    """
    quiet()
    keep_freed_memory()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return pl.Trainer(
        accelerator=compute.accelerator,
        devices=compute.devices if world > 1 else 1,
        num_nodes=compute.num_nodes if world > 1 else 1,
        strategy=_strategy(compute, world, can_shard=can_shard),
        precision="bf16-mixed" if use_bf16(compute, has_wide_layers=has_wide_layers) else "32-true",
        max_epochs=1,
        gradient_clip_val=gradient_clip,
        callbacks=list(callbacks),
        plugins=[StreamedCheckpoints()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


def keep_freed_memory() -> None:
    """Let the process keep what a training step frees, up to `KEPT_BYTES`: given back, the next step pays for every page anew, a tenth of its time on a CPU.

    Does nothing where the C library is not glibc.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(MMAP_THRESHOLD, LARGEST_KEPT_BYTES)


def checkpoint_to_resume(folder: Path) -> str | None:
    """Path of `last.ckpt`, where an earlier start of this job left one."""
    path = folder / LAST
    return str(path) if path.exists() else None


def build_optimizer(
    parameters: Sequence[tuple[str, Tensor]], config: OptimizerConfig, *, undecayed: tuple[str, ...] = ("norm", "bias")
) -> torch.optim.Optimizer:
    """Optimiser with weight decay on matrices only; names that hold one of `undecayed`, and vectors, are left alone."""
    decayed, plain = [], []
    for name, parameter in parameters:
        (plain if parameter.ndim < 2 or any(part in name for part in undecayed) else decayed).append(parameter)
    return optimizer_of_groups([{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}], config)


def optimizer_of_groups(groups: Sequence[dict[str, Any]], config: OptimizerConfig, *, fused: bool = False) -> torch.optim.Optimizer:
    """Optimiser of parameter groups that say their own weight decay; empty groups are left out. `fused`: one pass over a table instead of ten."""
    filled = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return torch.optim.SGD(filled, lr=config.learning_rate, momentum=0.9)
    return (torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam)(filled, lr=config.learning_rate, fused=fused)


def quiet() -> None:
    """Leave out what Lightning says about itself; our own lines go to the parent."""
    for name in ("pytorch_lightning", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(pytorch_lightning|lightning_fabric|torch)\..*")


def _strategy(compute: ComputeConfig, world: int, *, can_shard: bool) -> Strategy | str:
    if world == 1:
        return "auto"
    backend = "gloo" if not torch.cuda.is_available() or compute.accelerator == "cpu" else "nccl"
    if compute.strategy == "fsdp2" and can_shard:
        return ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1, process_group_backend=backend, save_distributed_checkpoint=False)
    return DDPStrategy(process_group_backend=backend, find_unused_parameters=False, gradient_as_bucket_view=True, broadcast_buffers=False)


def use_bf16(compute: ComputeConfig, *, has_wide_layers: bool) -> bool:
    """Whether matrices are multiplied in bf16.

    On a CPU `auto` asks for its instructions, and for a network with wide layers: a small one loses more by casting than it gains.
    """
    if compute.precision != "auto":
        return compute.precision == "bf16"
    if compute.accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    known = torch.cpu.get_capabilities()
    return has_wide_layers and bool(known.get("avx512_bf16") or known.get("amx_bf16"))
