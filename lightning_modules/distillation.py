"""Distillation: a narrow encoder learns to give the queries of the one a bundle serves with.

The teacher is the exported graph, so what is learned is what serves, and no snapshot of the pre-training is needed. Item vectors stay the teacher's: the
student's query is compared with them. Its own, narrow vectors of the items it reads begin at the teacher's main directions.

Letters: N examples, B of a step, T history length, D width of the teacher's queries, W of the student, I items.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import polars as pl
import pytorch_lightning
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from contracts import columns as c
from contracts.artifacts import JobResult
from contracts.sections.training import ComputeConfig
from lightning_modules.distillation_job import DistilJob
from lightning_modules.export import export_encoder
from lightning_modules.taste import Taste, build_encoder
from lightning_modules.trainers import ProgressLines, build_optimizer, build_trainer, say

Examples = dict[str, Tensor]
TEACHER_AT_ONCE = 512
HELD_OUT = 0.1


class Student(Taste):
    """Taste of width W whose query is turned into one of the teacher's width."""

    def __init__(self, job: DistilJob, vectors: np.ndarray, *, num_event_types: int, max_history: int) -> None:
        num_heads = 2 if job.width % 2 == 0 else 1
        encoder = build_encoder("gpt", width=job.width, num_blocks=job.num_blocks, num_heads=num_heads, dropout=0.0, max_history=max_history)
        super().__init__(
            encoder,
            torch.zeros(len(vectors), 0, dtype=torch.long),
            num_items=len(vectors),
            num_event_types=num_event_types,
            width=job.width,
            dropout=0.0,
            max_history=max_history,
        )
        self.to_teacher = nn.Linear(job.width, vectors.shape[1])
        directions = torch.linalg.svd(torch.from_numpy(_sample(vectors, job.seed)), full_matrices=False).Vh[: job.width]  # [W, D]
        with torch.no_grad():
            self.items.own.weight[:, : len(directions)] = torch.from_numpy(vectors) @ directions.T
            self.to_teacher.weight[:, : len(directions)] = directions.T

    def forward(self, items: Tensor, event_days: Tensor, event_types: Tensor, lengths: Tensor, request_day: Tensor, lead_days: Tensor) -> Tensor:
        """Queries [B, D] of right-padded histories, as `Taste.forward` takes them."""
        return self.to_teacher(super().forward(items, event_days, event_types, lengths, request_day, lead_days))


class Distillation(pytorch_lightning.LightningModule):
    """Squared error of the queries over the mean square of the teacher's: 0 is the teacher, 1 is no better than nothing."""

    def __init__(self, student: Student, job: DistilJob, num_steps: int) -> None:
        super().__init__()
        self.student, self._job, self._num_steps = student, job, num_steps

    def training_step(self, batch: Examples, batch_idx: int) -> Tensor:
        """Loss of a step."""
        return relative_error(self.student, batch)

    def progress(self, batch: Examples) -> tuple[float, str, float]:
        """Fraction done, and nothing to say beside the loss."""
        return self.global_step / self._num_steps, f"step {self.global_step} of {self._num_steps}", 0.0

    def configure_optimizers(self) -> Any:
        """The job's optimiser; its rate falls to nothing along a cosine."""
        optimizer = build_optimizer(list(self.student.named_parameters()), self._job.optimizer)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def distil(job: DistilJob, compute: ComputeConfig, folder: Path) -> JobResult:
    """Run a distillation job in `folder`. Raises ValueError where the bundle has no encoder."""
    started = time.monotonic()
    torch.manual_seed(job.seed)
    networks = Path(job.bundle) / "networks"
    if not (networks / "encoder.onnx").is_file():
        raise ValueError(f"{networks}: expected encoder.onnx, there is none. A model without an encoder has nothing to distil.")
    head = json.loads((networks / "head.json").read_text(encoding="utf-8"))
    types, max_history = head["event_types"], head["max_history"]
    vectors = load_file(networks / "vectors.safetensors")["taste_items"].astype(np.float32)
    say("distil", 0.0, "queries of the teacher")
    examples = _examples(job, types, max_history)
    examples["query"] = _teacher(networks / "encoder.onnx", examples)
    held = max(1, int(len(examples["query"]) * HELD_OUT))
    seen, unseen = ({name: values[part] for name, values in examples.items()} for part in (slice(held, None), slice(0, held)))
    num_steps = job.epochs * -(-len(seen["query"]) // job.batch_examples)
    module = Distillation(Student(job, vectors, num_event_types=max(types.values(), default=0), max_history=max_history), job, num_steps)
    trainer = build_trainer(compute, folder, [ProgressLines("distil")], gradient_clip=1.0)
    trainer.fit(module, DataLoader(_Batches(seen, job), batch_size=None))
    student = module.student.cpu().eval()
    export_encoder(student, folder / "encoder.onnx")
    with torch.no_grad():
        found = torch.cat([_queries(student, _part(unseen, slice(at, at + TEACHER_AT_ONCE))) for at in range(0, held, TEACHER_AT_ONCE)])
    metrics = {
        "relative_error": float((found - unseen["query"]).square().sum() / unseen["query"].square().sum()),
        "cosine": float(nn.functional.cosine_similarity(found, unseen["query"]).mean()),
    }
    say("distil", 1.0, f"cosine with the teacher {metrics['cosine']:.3f}")
    return JobResult(stage=job.stage, output=str(folder), metrics=metrics, seconds=time.monotonic() - started)


def relative_error(student: Student, batch: Examples) -> Tensor:
    """Squared error of a batch over the mean square of its targets."""
    return (_queries(student, batch) - batch["query"]).square().mean() / batch["query"].square().mean().clamp(min=1e-12)


class _Batches(torch.utils.data.IterableDataset[Examples]):
    """Examples in random order, epoch after epoch; a batch is as wide as its longest history."""

    def __init__(self, examples: Examples, job: DistilJob) -> None:
        self._examples, self._job = examples, job

    def __iter__(self) -> Iterator[Examples]:
        generator = torch.Generator().manual_seed(self._job.seed)
        for _ in range(self._job.epochs):
            for rows in torch.randperm(len(self._examples["query"]), generator=generator).split(self._job.batch_examples):
                yield _part(self._examples, rows)


def _examples(job: DistilJob, types: dict[str, int], max_history: int) -> Examples:
    """Beginnings of the bundle's histories, each with a request some days after its last event: items, event_days, event_types [N, T], the others [N]."""
    rng = np.random.default_rng(job.seed)
    table = pl.read_parquet(Path(job.bundle) / "histories.parquet").filter(pl.col(c.ITEM_INDEX).list.len() > 0)
    lengths = table[c.ITEM_INDEX].list.len().to_numpy().astype(np.int64)
    ends = np.cumsum(lengths)
    columns = {
        "items": table[c.ITEM_INDEX].explode().to_numpy().astype(np.int64),
        "event_days": table[c.EVENT_DAY].explode().to_numpy().astype(np.int64),
        "event_types": table[c.EVENT_TYPE].explode().replace_strict(types, default=0, return_dtype=pl.Int64).to_numpy()
        if types
        else np.zeros(int(lengths.sum()), np.int64),
    }
    users = rng.integers(0, len(lengths), job.num_examples)
    # every other example is a whole history: that is what is asked for
    kept = np.where(rng.random(job.num_examples) < 0.5, lengths[users], rng.integers(1, lengths[users] + 1))
    stops = ends[users] - lengths[users] + kept
    shown = np.minimum(kept, max_history)
    steps = np.arange(int(shown.max()))
    is_real = steps < shown[:, None]
    at = np.where(is_real, (stops - shown)[:, None] + steps, 0)
    found = {name: torch.from_numpy(np.where(is_real, values[at], 0)) for name, values in columns.items()}
    gaps = rng.integers(0, job.max_gap_days + 1, job.num_examples)
    found["lengths"] = torch.from_numpy(shown)
    found["request_day"] = torch.from_numpy(columns["event_days"][stops - 1] + gaps)
    found["lead_days"] = torch.from_numpy(np.floor(rng.random(job.num_examples) * (gaps + 1)).astype(np.float32))
    return found


def _teacher(path: Path, examples: Examples) -> Tensor:
    """Queries of the exported encoder, [N, D]; histories of similar length run together."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = [node.name for node in session.get_inputs()]
    order = examples["lengths"].argsort()
    queries: Tensor | None = None
    for rows in order.split(TEACHER_AT_ONCE):
        part = _part(examples, rows)
        (found,) = session.run(["query"], {name: part[name].numpy() for name in wanted})
        queries = torch.zeros(len(order), found.shape[1]) if queries is None else queries
        queries[rows] = torch.from_numpy(found)
    assert queries is not None
    return queries


def _part(examples: Examples, rows: Tensor | slice) -> Examples:
    """Some examples, as wide as the longest of them."""
    width = int(examples["lengths"][rows].max())
    return {name: values[rows, :width] if name in ("items", "event_days", "event_types") else values[rows] for name, values in examples.items()}


def _queries(student: Student, part: Examples) -> Tensor:
    found: Tensor = student(**{name: values for name, values in part.items() if name != "query"})
    return found


def _sample(vectors: np.ndarray, seed: int, number: int = 20_000) -> np.ndarray:
    """At most `number` of the item vectors."""
    return vectors if len(vectors) <= number else vectors[np.random.default_rng(seed).choice(len(vectors), number, replace=False)]
