"""Writes the folder `networks/` that serving reads (docs/architecture.md): ONNX graphs, item tables, head.json. No torch is needed to run it."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from lightning_modules.head import Head, Mean
from lightning_modules.jobs import FineTuneJob
from lightning_modules.samples import Known
from lightning_modules.taste import Taste

HEAD_FORMAT = 2
MAX_BATCH = 1_000_000


class Column(nn.Module):
    """First output of a network, [N, 1] -> [N]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [N, inputs] -> [N]."""
        return self.network(inputs)[:, 0]


def export_networks(job: FineTuneJob, known: Known, heads: Sequence[Head], folder: Path) -> None:
    """Export the mean of `heads`, with taste as known at the cut-off, to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = item_tables(known)
    if known.taste is not None and known.item_vectors is not None:
        export_encoder(known.taste, folder / "encoder.onnx")
    save_file(tables, folder / "vectors.safetensors")
    export_rows(Mean([head.season for head in heads]), len(job.season_inputs), folder / "season.onnx", output="season")
    num_habit_inputs = heads[0].habit.linear.in_features
    export_rows(Column(Mean([head.habit for head in heads])), num_habit_inputs, folder / "habit.onnx", output="habit")
    (folder / "head.json").write_text(json.dumps(head_description(job, known, heads), indent=1), encoding="utf-8")


def item_tables(known: Known) -> dict[str, np.ndarray]:
    """Contents of vectors.safetensors."""
    tables: dict[str, np.ndarray] = {"linear_items": known.pool.astype(np.int64)}
    for number, linear in enumerate(known.linear):
        tables |= {
            f"linear_{number}_indptr": linear.linear_in.indptr.astype(np.int64),
            f"linear_{number}_indices": linear.linear_in.indices.astype(np.int32),
            f"linear_{number}_values": linear.linear_in.data.astype(np.float32),
            f"linear_{number}_out": linear.out.astype(np.float32),
            f"linear_{number}_self": linear.own.astype(np.float32),
        }
    if known.item_vectors is not None:
        tables["taste_items"] = known.item_vectors.detach().float().numpy()
    return {name: np.ascontiguousarray(table) for name, table in tables.items()}


def head_description(job: FineTuneJob, known: Known, heads: Sequence[Head]) -> dict[str, Any]:
    """Contents of head.json."""
    weights = torch.stack([head.taste_weights().detach() for head in heads]).mean(0)
    has_encoder = known.taste is not None
    lists = {}
    for name in job.lists:
        row = weights[0 if name == "again" else 1].tolist()
        terms = [
            {"half_life_days": term.half_life_days, "weight": weight, "floor": term.floor}
            for term, weight in zip(job.linear, row[1 if has_encoder else 0 :], strict=True)
        ]
        lists[name] = {"encoder_weight": row[0] if has_encoder else 0.0, "linear": terms}
    described: dict[str, Any] = {
        "format": HEAD_FORMAT,
        "cutoff": known.cutoff.isoformat(),
        "season_inputs": list(job.season_inputs),
        "habit_inputs": list(job.habit_inputs),
        "lists": lists,
        "event_types": job.event_type_codes(),
    }
    if known.taste is not None:
        described["max_history"] = known.taste.max_history
    return described


def export_encoder(taste: Taste, path: Path) -> None:
    """Export `taste.forward` with free batch and length."""
    inputs = {
        "items": torch.zeros(2, 5, dtype=torch.long),
        "event_days": torch.arange(10).reshape(2, 5),
        "event_types": torch.zeros(2, 5, dtype=torch.long),
        "lengths": torch.tensor([5, 3]),
        "request_day": torch.tensor([30, 31]),
        "lead_days": torch.tensor([0.0, 7.0]),
    }
    batch, steps = torch.export.Dim("batch", min=1, max=MAX_BATCH), torch.export.Dim("steps", min=1, max=taste.max_history)
    shapes = {name: {0: batch, 1: steps} if tensor.ndim == 2 else {0: batch} for name, tensor in inputs.items()}
    _export(taste.eval(), inputs, shapes, path, "query")


def export_rows(network: nn.Module, num_inputs: int, path: Path, *, output: str) -> None:
    """Export a network of rows, inputs [N, num_inputs], with free N."""
    _export(network.eval(), {"inputs": torch.zeros(3, num_inputs)}, {"inputs": {0: torch.export.Dim("rows", min=1, max=2**31 - 1)}}, path, output)


def _export(network: nn.Module, inputs: dict[str, Tensor], shapes: dict[str, Any], path: Path, output: str) -> None:
    with _quietly(), torch.no_grad():
        torch.onnx.export(
            network,
            kwargs=inputs,
            f=str(path),
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter reports its progress to stdout, which here carries progress lines."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)
