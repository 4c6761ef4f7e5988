"""A bundle small enough to be worked out by hand, written with `onnx.helper`: networks that only add inputs with known weights."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import scipy.sparse as sp
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from contracts.artifacts import BundleRef
from features.habits import HABIT_INPUTS, habits
from features.histories import histories
from features.item_weeks import item_weeks
from features.season import SEASON_INPUTS
from serving.bundle import BundleMetadata, write_bundle

CUTOFF = date(2024, 7, 1)
EVENT_TYPES = {"purchase": 1, "view": 2}


def linear_graph(path: Path, weights: np.ndarray, output: str, *, squeeze: bool) -> None:
    """inputs [N, F] -> inputs @ weights, [N] when squeezed."""
    weights = np.asarray(weights, np.float32)
    nodes = [helper.make_node("MatMul", ["inputs", "weights"], ["product"])]
    initializers = [numpy_helper.from_array(weights, "weights")]
    if squeeze:
        initializers.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
        nodes.append(helper.make_node("Squeeze", ["product", "axes"], [output]))
    else:
        nodes.append(helper.make_node("Identity", ["product"], [output]))
    shape = ["N"] if squeeze else ["N", weights.shape[1]]
    _save(
        path,
        nodes,
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["N", weights.shape[0]])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        initializers,
    )


def encoder_graph(path: Path, vectors: np.ndarray, lead_weight: float) -> None:
    """query = vector of the newest item + lead_weight * lead_days in every place."""
    inputs = [
        *(helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in ("items", "event_days", "event_types")),
        *(helper.make_tensor_value_info(name, TensorProto.INT64, ["B"]) for name in ("lengths", "request_day")),
        helper.make_tensor_value_info("lead_days", TensorProto.FLOAT, ["B"]),
    ]
    initializers = [
        numpy_helper.from_array(np.asarray(vectors, np.float32), "vectors"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array([lead_weight], np.float32), "lead_weight"),
    ]
    nodes = [
        helper.make_node("Sub", ["lengths", "one"], ["last"]),
        helper.make_node("Unsqueeze", ["last", "one"], ["column"]),
        helper.make_node("GatherElements", ["items", "column"], ["newest"], axis=1),
        helper.make_node("Squeeze", ["newest", "one"], ["item"]),
        helper.make_node("Gather", ["vectors", "item"], ["vector"], axis=0),
        helper.make_node("Mul", ["lead_days", "lead_weight"], ["lead"]),
        helper.make_node("Unsqueeze", ["lead", "one"], ["lead_column"]),
        helper.make_node("Add", ["vector", "lead_column"], ["query"]),
    ]
    _save(path, nodes, inputs, [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["B", vectors.shape[1]])], initializers)


def _save(path: Path, nodes: list, inputs: list, outputs: list, initializers: list) -> None:
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_networks(
    folder: Path,
    taste_items: np.ndarray,
    *,
    season: dict[str, tuple[float, float]],
    habit: dict[str, float],
    encoder_weight: float = 1.0,
    linear: np.ndarray | None = None,
    pool: Sequence[int] | None = None,
    half_life_days: float | None = None,
    max_history: int = 4,
) -> Path:
    """Networks folder. `season` and `habit`: weight of each named input; habit may also weigh season inputs and the terms of taste, `taste_0` ....

    linear [I, R]: both tables of one linear term, weight 1, floor 0.5, for the items of `pool` (item indices; default all).
    """
    folder.mkdir(parents=True)
    tables = {"taste_items": np.asarray(taste_items, np.float32)}
    terms = []
    if linear is not None:
        linear = np.asarray(linear, np.float32)
        pool = list(range(len(linear))) if pool is None else sorted(pool)
        sparse = sp.csr_array(linear)
        tables |= {
            "linear_items": np.array(pool, np.int64),
            "linear_0_indptr": sparse.indptr.astype(np.int64),
            "linear_0_indices": sparse.indices.astype(np.int32),
            "linear_0_values": sparse.data,
            "linear_0_out": linear[pool].astype(np.float16),
            "linear_0_self": (linear[pool] ** 2).sum(1),
        }
        terms = [{"half_life_days": half_life_days, "weight": 1.0, "floor": 0.5}]
    save_file(tables, folder / "vectors.safetensors")
    habit_names = [*HABIT_INPUTS, *SEASON_INPUTS, *(f"taste_{number}" for number in range(1 + len(terms)))]
    linear_graph(folder / "season.onnx", np.array([season.get(name, (0.0, 0.0)) for name in SEASON_INPUTS]), "season", squeeze=False)
    linear_graph(folder / "habit.onnx", np.array([[habit.get(name, 0.0)] for name in habit_names]), "habit", squeeze=True)
    encoder_graph(folder / "encoder.onnx", taste_items, lead_weight=0.0)
    head = {
        "format": 2,
        "cutoff": CUTOFF.isoformat(),
        "season_inputs": SEASON_INPUTS,
        "habit_inputs": HABIT_INPUTS,
        "event_types": EVENT_TYPES,
        "max_history": max_history,
        "lists": {name: {"encoder_weight": encoder_weight, "linear": terms} for name in ("again", "discover")},
    }
    (folder / "head.json").write_text(json.dumps(head))
    return folder


def events(rows: Sequence[tuple[str, str, str]]) -> pl.DataFrame:
    """(user, item, ISO day) rows as interactions."""
    return pl.DataFrame(
        {
            "user_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "event_time": [datetime.fromisoformat(row[2]).replace(hour=12, tzinfo=UTC) for row in rows],
            "event_type": ["purchase"] * len(rows),
            "quantity": [1.0] * len(rows),
        },
        schema_overrides={"event_time": pl.Datetime("us", "UTC")},
    )


def write_small_bundle(
    folder: Path,
    networks: Path,
    interactions: pl.DataFrame,
    vocabulary: pl.DataFrame,
    *,
    cutoff: date = CUTOFF,
    catalogue: pl.DataFrame | None = None,
    forecasts: pl.DataFrame | None = None,
) -> BundleRef:
    """Bundle of these events, its tables made by `features`."""
    lazy = interactions.lazy()
    if catalogue is None:
        catalogue = vocabulary.select("item_id", pl.lit("x > y").alias("category"), (pl.lit("Item ") + pl.col("item_id")).alias("title"))
    return write_bundle(
        folder,
        networks=networks,
        vocabulary=vocabulary,
        item_catalogue=catalogue,
        histories=histories(lazy, cutoff, 512).collect(),
        habits=habits(lazy, cutoff).collect(),
        item_weeks=item_weeks(lazy.with_columns(pl.lit(None, dtype=pl.String).alias("region")), cutoff).collect(),
        forecasts=forecasts,
        metadata=BundleMetadata(name="small", cutoff=cutoff, horizon_days=28, created="2024-07-01T00:00:00Z", config_digest="0" * 16),
    )
