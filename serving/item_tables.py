"""Vectors of all items, and the products every list needs: full precision by numpy, eight bits by ONNX Runtime's integer kernel, or product-quantised.

Letters: B users, I items by position, R numbers of a vector, M parts of a vector, C centroids of a part.

Eight bits: a row is stored as int8 with one scale. A query is taken apart into two planes of seven bits (14 bits together), so its own rounding does not
matter; the sums are integers, so a user's scores are the same to the last bit alone and among many.

Product quantisation: a vector is cut into M parts and each is stored as the number of the nearest of 256 centroids, M bytes an item. A query's product with
every centroid is a small table, an item's score the sum of M of its entries (as RecJPQ, Petrov and Macdonald 2024, arXiv 2312.06165, whose codes are
learned with the model; these are fitted afterwards).
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

SCALE_SUFFIX: Final = ".scale"
CENTROIDS_SUFFIX: Final = ".centroids"
ITEMS_AT_ONCE: Final = 32_768
CENTROIDS: Final = 256
FITTED_ON: Final = 20_000
LEVELS: Final = 127
PLANE: Final = 128
ZERO: Final = 64  # planes are 0..128: signed ones are 40 times slower on AVX2, and larger ones overflow its 16-bit sums
QUERY_LEVELS: Final = (ZERO - 1) * PLANE


class ItemTable(Protocol):
    """Vectors of all items by position."""

    @property
    def has_row(self) -> NDArray[np.bool_]:
        """Items that have a vector, [I]; the others' is zero."""
        ...

    @property
    def width(self) -> int:
        """Numbers of a vector, R."""
        ...

    def products(self, queries: Floats) -> Floats:
        """Each query with each item, [B, R] -> [B, I]."""
        ...

    def rows(self, positions: Integers) -> Floats:
        """Vectors of some items, [N] -> [N, R]."""
        ...


class FloatTable:
    """Full precision, one numpy array."""

    def __init__(self, table: NDArray[Any], positions: Integers) -> None:
        self.has_row, self._table = _by_position(np.asarray(table, np.float32), positions)
        self.width = self._table.shape[-1]

    def products(self, queries: Floats) -> Floats:
        """Each query with each item, [B, R] -> [B, I]; the other way round, a few queries took four times as long at a million items."""
        return np.ascontiguousarray((self._table @ np.ascontiguousarray(queries.T)).T)

    def rows(self, positions: Integers) -> Floats:
        """Vectors of some items, [N] -> [N, R]."""
        return np.asarray(self._table[positions], np.float32)


class CompactTable:
    """Eight bits a number, one scale an item."""

    def __init__(self, table: NDArray[np.int8], scales: Floats, positions: Integers, *, threads: int) -> None:
        self.has_row, self._table = _by_position(table, positions)
        self.width = self._table.shape[-1]
        _, self._scales = _by_position(scales, positions)
        self._product = _integer_product(self._table, self._scales, threads)

    def products(self, queries: Floats) -> Floats:
        """Each query with each item, [B, R] -> [B, I]."""
        largest = np.abs(queries).max(axis=1, initial=0)
        steps = np.where(largest > 0, largest / QUERY_LEVELS, 1).astype(np.float32)
        whole = np.rint(queries / steps[:, None])
        high = np.rint(whole / PLANE)
        planes = (np.stack([high, whole - high * PLANE], axis=1) + ZERO).astype(np.uint8)  # [B, 2, R]
        return np.asarray(self._product.run(None, {"planes": planes, "steps": steps[:, None]})[0], np.float32)

    def rows(self, positions: Integers) -> Floats:
        """Vectors of some items, [N] -> [N, R]."""
        return np.asarray(self._table[positions] * self._scales[positions, None], np.float32)


class QuantisedTable:
    """M bytes an item: the numbers of its parts' centroids."""

    def __init__(self, codes: NDArray[np.uint8], centroids: Floats, positions: Integers) -> None:
        self.has_row, by_item = _by_position(codes, positions)
        self._codes = np.ascontiguousarray(by_item.T)  # [M, I]
        self._centroids = centroids  # [M, C, R / M]
        self.width = centroids.shape[0] * centroids.shape[2]

    def products(self, queries: Floats) -> Floats:
        """Each query with each item, [B, R] -> [B, I]; a stretch of items at a time, so that its sums stay near the processor."""
        num_parts, _, width = self._centroids.shape
        entries = np.einsum("bmr,mcr->bmc", queries.reshape(len(queries), num_parts, width), self._centroids)  # [B, M, C]
        scores = np.zeros((len(queries), self._codes.shape[1]), np.float32)
        for start in range(0, scores.shape[1], ITEMS_AT_ONCE):
            stretch = slice(start, start + ITEMS_AT_ONCE)
            for part in range(num_parts):
                codes = self._codes[part, stretch].astype(np.intp)
                for row in range(len(queries)):
                    scores[row, stretch] += entries[row, part].take(codes)
        scores[:, ~self.has_row] = 0
        return scores

    def rows(self, positions: Integers) -> Floats:
        """Vectors of some items, [N] -> [N, R]."""
        parts = [centroids[codes[positions]] for codes, centroids in zip(self._codes, self._centroids, strict=True)]
        return np.where(self.has_row[positions, None], np.concatenate(parts, axis=1), 0).astype(np.float32)


def item_table(tables: Mapping[str, NDArray[Any]], name: str, positions: Integers, *, threads: int) -> ItemTable | None:
    """The named table of `vectors.safetensors` in order of position; None where the model has none."""
    if name not in tables:
        return None
    if name + CENTROIDS_SUFFIX in tables:
        return QuantisedTable(tables[name], tables[name + CENTROIDS_SUFFIX].astype(np.float32), positions)
    if name + SCALE_SUFFIX in tables:
        return CompactTable(tables[name], tables[name + SCALE_SUFFIX], positions, threads=threads)
    return FloatTable(tables[name], positions)


def compact(table: NDArray[Any]) -> tuple[NDArray[np.int8], Floats]:
    """Rows as int8 and their scales: `table` is about `values * scales[:, None]`, off by at most half a scale."""
    largest = np.abs(table).max(axis=1, initial=0)
    scales = np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)
    return np.rint(table / scales[:, None]).astype(np.int8), scales


def quantise(table: Floats, *, bytes_per_item: int = 16, seed: int = 0) -> tuple[NDArray[np.uint8], Floats]:
    """Codes [I, M] and centroids [M, C, R / M] of a table [I, R]: k-means of each part, fitted on at most 20,000 rows.

    Raises ValueError where the width is no multiple of `bytes_per_item`.
    """
    from sklearn.cluster import KMeans

    num_items, width = table.shape
    if width % bytes_per_item:
        raise ValueError(f"bytes_per_item: expected a divisor of the width {width} of the item vectors, found {bytes_per_item}")
    sample = np.random.default_rng(seed).permutation(num_items)[:FITTED_ON]
    codes, centroids = [], []
    for part in np.split(table.astype(np.float32), bytes_per_item, axis=1):
        fitted = KMeans(min(CENTROIDS, len(np.unique(part[sample], axis=0))), n_init=1, max_iter=20, random_state=seed).fit(part[sample])
        codes.append(fitted.predict(part).astype(np.uint8))
        centroids.append(np.zeros((CENTROIDS, part.shape[1]), np.float32))
        centroids[-1][: fitted.n_clusters] = fitted.cluster_centers_
    return np.stack(codes, axis=1), np.stack(centroids)


def _by_position(table: NDArray[Any], positions: Integers) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Rows in order of position; items beyond the table (newer than the vectors) get zeros and are marked."""
    known = positions < len(table)
    ordered = np.zeros((len(positions), *table.shape[1:]), table.dtype)
    ordered[known] = table[positions[known]]
    return known, ordered


def _integer_product(table: NDArray[np.int8], scales: Floats, threads: int) -> ort.InferenceSession:
    """Graph: planes [B, 2, R] uint8, steps [B, 1] -> (128 high + low) . item * step * scale, [B, I]."""
    num_items, width = table.shape
    nodes = [
        helper.make_node("Reshape", ["planes", "rows"], ["flat"]),
        helper.make_node("MatMulInteger", ["flat", "table", "zero"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "pairs"], ["parts"]),
        helper.make_node("Split", ["parts"], ["high", "low"], axis=1, num_outputs=2),
        helper.make_node("Mul", ["high", "plane"], ["shifted"]),
        helper.make_node("Add", ["shifted", "low"], ["sum"]),
        helper.make_node("Reshape", ["sum", "users"], ["product"]),
        helper.make_node("Mul", ["product", "steps"], ["stepped"]),
        helper.make_node("Mul", ["stepped", "scales"], ["scores"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        "table": np.ascontiguousarray(table.T),
        "scales": scales,
        "zero": np.array(ZERO, np.uint8),
        "plane": np.array([PLANE], np.float32),
        "rows": np.array([-1, width], np.int64),
        "pairs": np.array([-1, 2, num_items], np.int64),
        "users": np.array([-1, num_items], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("planes", TensorProto.UINT8, ["B", 2, width]), helper.make_tensor_value_info("steps", TensorProto.FLOAT, ["B", 1])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", num_items])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
