"""Smaller forms of a bundle: taste vectors of eight bits a number or product-quantised, linear tables of sixteen, the encoder's item tables of eight.

The compressed bundle is served by the same `Recommender`, so a list from the service, the registered model and the published table stays
the same list; whether the form is good enough is a question for the gate (`list_overlap`, and the protocol's measures).
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import polars as pl
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from contracts import columns as c
from contracts.artifacts import BundleRef
from serving.bundle import FORECASTS, HABITS, HISTORIES, ITEM_CATALOGUE, ITEM_WEEKS, NETWORKS, VOCABULARY, read_bundle, write_bundle
from serving.item_tables import CENTROIDS_SUFFIX, SCALE_SUFFIX, compact, quantise

FORM: Final = "item_tables"
DISTILLED: Final = "distilled"
FORMS: Final = {
    "int8": "taste int8, linear float16, encoder items int8",
    "pq": "taste 16 bytes an item, linear float16, encoder items int8",
    DISTILLED: "taste int8, linear float16, a narrow encoder trained on the full one's queries, its items int8",
}
LARGE_CATALOGUE: Final = 1_000_000
MAX_LOSS: Final = 0.01
LEAST_ROWS: Final = 256


@dataclass(frozen=True)
class Form:
    """A form of a model as the gate compares them: bytes of its bundle, milliseconds of a request, its main metric per list."""

    name: str
    size_bytes: int
    latency_ms: float
    quality: Mapping[str, float]


def forms_for(num_items: int) -> tuple[str, ...]:
    """Forms worth trying for a catalogue: product quantisation only where the item table is what weighs."""
    return ("int8", "pq") if num_items >= LARGE_CATALOGUE else ("int8",)


def choose_form(forms: Sequence[Form], *, max_loss: float = MAX_LOSS) -> Form:
    """The smallest form that loses at most `max_loss`, a share, of any list's metric against the first one, which is the full model."""
    full = forms[0]
    good = [form for form in forms if all(form.quality[name] >= value * (1 - max_loss) for name, value in full.quality.items())]
    return min(good, key=lambda form: form.size_bytes)


def compress_bundle(folder: Path, target: Path, *, form: str = "int8", encoder: Path | None = None) -> BundleRef:
    """Write a copy of a bundle in one of the `FORMS` to `target`; its notes say which. `encoder`: the graph of the distilled form.

    Raises BundleError where `folder` is no bundle, ValueError for an unknown form or a distilled one without its encoder.
    """
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, found {form!r}")
    if (form == DISTILLED) != (encoder is not None):
        raise ValueError(f"encoder: expected the student's graph for the form {DISTILLED} and for no other, found {encoder} for {form}")
    bundle = read_bundle(folder)
    with tempfile.TemporaryDirectory(dir=target.parent) as draft:
        networks = Path(draft) / NETWORKS
        networks.mkdir()
        for path in (bundle.folder / NETWORKS).iterdir():
            if path.name == "encoder.onnx":
                onnx.save(_with_small_tables(onnx.load(encoder or path)), networks / path.name)
            elif path.suffix != ".safetensors":
                (networks / path.name).write_bytes(path.read_bytes())
        save_file(_compacted(load_file(bundle.network("vectors.safetensors")), form), networks / "vectors.safetensors")
        return write_bundle(
            target,
            networks=networks,
            vocabulary=bundle.table(VOCABULARY),
            item_catalogue=bundle.table(ITEM_CATALOGUE),
            histories=bundle.table(HISTORIES),
            habits=bundle.table(HABITS),
            item_weeks=bundle.table(ITEM_WEEKS),
            forecasts=bundle.table(FORECASTS) if bundle.has_table(FORECASTS) else None,
            metadata=bundle.metadata.model_copy(update={"notes": {**bundle.metadata.notes, FORM: FORMS[form]}}),
        )


def list_overlap(one: pl.DataFrame, other: pl.DataFrame) -> float:
    """Mean share of a user's items that two rankings tables have in common: recall of the one's top k in the other's."""
    both = one.join(other, on=[c.USER_ID, c.LIST, c.REQUEST_DATE, c.ITEM_ID], how="semi")
    return both.height / one.height if one.height else 1.0


def size_bytes(folder: Path) -> int:
    """Bytes of all files of a bundle."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _compacted(tables: Mapping[str, NDArray[Any]], form: str) -> dict[str, NDArray[Any]]:
    """Taste vectors in the form asked for, linear tables in half precision; everything else as it was.

    Linear tables do not bear eight bits: near zero their logarithm magnifies the rounding (95 % of a discover list stays on Complete Journey).
    """
    found: dict[str, NDArray[Any]] = {}
    for name, table in tables.items():
        if name == "taste_items":
            suffix, smaller = (CENTROIDS_SUFFIX, quantise) if form == "pq" else (SCALE_SUFFIX, compact)
            found[name], found[name + suffix] = smaller(table.astype(np.float32))
        elif name.startswith("linear_") and name.endswith("_out"):
            found[name] = table.astype(np.float16)
        else:
            found[name] = table
    return found


def _with_small_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every table that rows are looked up in held as int8 and a scale a row; products stay in full precision.

    Activations are left alone: their scale would be that of the whole block, so a user's query would depend on who is asked beside.
    """
    tables = {initial.name: numpy_helper.to_array(initial) for initial in model.graph.initializer}
    users: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    small: dict[str, NDArray[Any]] = {}
    nodes = []
    for node in model.graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if table is None or table.dtype != np.float32 or table.ndim != 2 or len(table) < LEAST_ROWS or axis or users[node.input[0]] > 1:
            nodes.append(node)
            continue
        name, rows, out = node.input[0], node.input[1], node.output[0]
        values, scales = compact(table)
        small |= {name: values, name + SCALE_SUFFIX: scales[:, None]}
        nodes += [
            helper.make_node("Gather", [name, rows], [out + ".int8"]),
            helper.make_node("Cast", [out + ".int8"], [out + ".float"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [name + SCALE_SUFFIX, rows], [out + ".scale"]),
            helper.make_node("Mul", [out + ".float", out + ".scale"], [out]),
        ]
    kept = [initial for initial in model.graph.initializer if initial.name not in small]
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:], found.graph.initializer[:]
    found.graph.node.extend(nodes)
    found.graph.initializer.extend([*kept, *(numpy_helper.from_array(values, name) for name, values in small.items())])
    stale = [info for info in found.graph.value_info if info.name in small]
    for info in stale:
        found.graph.value_info.remove(info)
    return found
