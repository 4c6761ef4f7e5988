"""Writes the folder `networks/` that serving reads (docs/architecture.md): ONNX graphs, item tables, head.json. No torch is needed to run it."""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from safetensors.numpy import save_file
from torch import Tensor, nn

from lightning_modules.content import with_new_items
from lightning_modules.head import CLAMP, LONGEST_LEAD, Head, PriorNetwork
from lightning_modules.jobs import FineTuneJob
from lightning_modules.samples import Known
from lightning_modules.taste import ItemVectors, Taste

HEAD_FORMAT = 2
ROW_OPSET = 18
ROW_IR = 10
MAX_BATCH = 1_000_000


def export_networks(job: FineTuneJob, known: Known, heads: Sequence[Head], folder: Path) -> None:
    """Export the mean of `heads`, with taste as known at the cut-off, to `folder`; items without history get their linear taste here."""
    folder.mkdir(parents=True, exist_ok=True)
    known = with_new_items(job, known)
    tables = item_tables(known)
    if known.taste is not None and known.item_vectors is not None:
        export_encoder(known.taste, folder / "encoder.onnx")
    save_file(tables, folder / "vectors.safetensors")
    export_rows([head.season for head in heads], folder / "season.onnx", output="season")
    export_rows([head.habit for head in heads], folder / "habit.onnx", output="habit")
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
    """Export `taste.forward` with free batch and length; items' content goes into their own rows, so the graph needs no text vectors."""
    if any(isinstance(part, ItemVectors) and part.of_content is not None for part in taste.modules()):
        taste = copy.deepcopy(taste)
        for part in taste.modules():
            if isinstance(part, ItemVectors):
                part.fold_content()
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


def export_rows(networks: Sequence[PriorNetwork], path: Path, *, output: str) -> None:
    """Export the mean of networks of rows: inputs [N, inputs] -> [N, outputs], or [N] where there is one output.

    The graph is written node by node: it is small, and tracing it would cost seconds for each head.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
        return name

    def constant_index(name: str, value: int) -> str:
        constants.append(numpy_helper.from_array(np.array([value], np.int64), name))
        return name

    def add(operation: str, result: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operation, list(inputs), [result], **attributes))
        return result

    results = []
    for number, network in enumerate(networks):
        weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}
        for name in ("linear.weight", "linear.bias", "outer.weight", "outer.bias"):
            weights[name] = weights["gain"] * weights[name]
        at = f"network_{number}/"
        used = add("Mul", at + "used_inputs", "inputs", constant(at + "used", weights["used"]))
        plain = add(
            "Gemm", at + "plain", used, constant(at + "linear_weight", weights["linear.weight"]), constant(at + "linear_bias", weights["linear.bias"]), transB=1
        )
        if network.lead_input is not None:
            lead = add("Gather", at + "lead", "inputs", constant_index(at + "lead_input", network.lead_input), axis=1)
            bounded = add("Min", at + "bounded_lead", lead, constant(at + "longest_lead", np.array(LONGEST_LEAD)))
            slope = constant(at + "slope", weights["gain"] * weights["slope"])
            changed = add("Mul", at + "changed", bounded, add("Gemm", at + "by_slope", used, slope, transB=1))
            plain = add("Add", at + "plain_at_lead", plain, changed)
        centred = add("Sub", at + "centred", "inputs", constant(at + "mean", weights["mean"]))
        scaled = add("Mul", at + "scaled", centred, constant(at + "scale", weights["scale"]))
        standard = add("Clip", at + "standard", scaled, constant(at + "low", np.array(-CLAMP)), constant(at + "high", np.array(CLAMP)))
        inner = add(
            "Gemm", at + "inner", standard, constant(at + "inner_weight", weights["inner.weight"]), constant(at + "inner_bias", weights["inner.bias"]), transB=1
        )
        active = add("Mul", at + "active", inner, add("Sigmoid", at + "gate", inner))
        outer = add(
            "Gemm", at + "outer", active, constant(at + "outer_weight", weights["outer.weight"]), constant(at + "outer_bias", weights["outer.bias"]), transB=1
        )
        results.append(add("Add", at + "result", plain, outer))
    num_inputs, num_outputs = networks[0].linear.in_features, networks[0].linear.out_features
    mean = add("Mean", "mean", *results)
    if num_outputs == 1:
        axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
        constants.append(axes)
        add("Squeeze", output, mean, "axes")
    else:
        add("Identity", output, mean)
    graph = helper.make_graph(
        nodes,
        output,
        [helper.make_tensor_value_info("inputs", onnx.TensorProto.FLOAT, ["rows", num_inputs])],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["rows"] if num_outputs == 1 else ["rows", num_outputs])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", ROW_OPSET)], ir_version=ROW_IR)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


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
