"""Which items can be among the best of a user: exact, without a score for every item.

Items outside the pool of the linear terms differ by season alone, or, where taste has an encoder, by season and one product. Without an encoder their order is
the same for all users and is kept per question (`BestFirst`). With one, `Scan` goes through an eight-bit copy of the vectors and bounds its own rounding: what
the bound leaves over is scored in full by the recommender, so the list is that of a pass over all items. The copy is laid out by what sells, in stretches, and
a stretch whose best item could not enter is not read.

Letters: B users, I items by position, R numbers of a vector, S stretches, N items of a stretch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving.item_tables import CompactTable, Floats, Integers, ItemTable, compact

STRETCH: Final = 16_384
GROUP: Final = 64
LEVELS: Final = 63
ZERO: Final = 64  # queries are 1..127: signed ones are 40 times slower on AVX2, and larger ones overflow its 16-bit sums
DEPTH: Final = 2_048
ROUNDING: Final = 1e-5


class BestFirst:
    """Some items by falling score, ties by position; the first few thousand are sorted, the others when asked for."""

    def __init__(self, scores: Floats, members: NDArray[np.bool_], *, depth: int = DEPTH) -> None:
        positions = np.flatnonzero(members)
        self._scores, self._members, self.is_whole = scores, members, len(positions) <= depth
        if not self.is_whole:
            of_members = scores[positions]
            positions = positions[of_members >= np.partition(of_members, len(positions) - depth)[len(positions) - depth]]
        self._sorted = positions[np.argsort(-scores[positions], kind="stable")]

    def first(self, num: int) -> Integers:
        """The best `num` positions, or all there are."""
        if num > len(self._sorted) and not self.is_whole:
            self._sorted, self.is_whole = BestFirst(self._scores, self._members, depth=len(self._scores))._sorted, True
        return self._sorted[:num]


@dataclass(frozen=True)
class Offer:
    """What a question adds to the products of the scan.

    bias  [S x N]  season of each item in the order of the scan, minus infinity where it is not on offer
    best  [S]      largest of each stretch
    """

    bias: list[Floats]
    best: Floats


@dataclass(frozen=True)
class _Stretch:
    """Items that are scanned together: their product, their positions, the length of the longest vector and of the longest one's rounding."""

    product: ort.InferenceSession
    positions: Integers
    norm: float
    residue: float


class Scan:
    """Eight-bit vectors of all items. Safe to share between threads."""

    def __init__(self, table: ItemTable, order: Integers, *, threads: int, stretch: int = STRETCH) -> None:
        """`order`: positions of the items that have a vector, those that sell most first."""
        self._stretches = [_stretch(table, order[start : start + stretch], threads) for start in range(0, len(order), stretch)]
        self._norms = np.array([one.norm for one in self._stretches], np.float32)

    def offer(self, season: Floats, members: NDArray[np.bool_]) -> Offer:
        """Season of the items that are members, [I] both, in the order of the scan."""
        bias = []
        for stretch in self._stretches:
            padded = np.full(_padded(len(stretch.positions)), -np.inf, np.float32)
            padded[: len(stretch.positions)] = np.where(members[stretch.positions], season[stretch.positions], np.float32(-np.inf))
            bias.append(padded)
        return Offer(bias, np.array([values.max(initial=-np.inf) for values in bias], np.float32))

    def best(self, queries: Floats, offer: Offer, num: Integers, least: Floats) -> tuple[Integers, Integers]:
        """Rows and positions, rows ascending, that hold the `num[b]` largest of query . vector + season of each query [B, R] that reach `least[b]`.

        What the rounding of query and vector can change is bounded by their lengths (Cauchy-Schwarz).
        """
        num_rows = len(queries)
        step = max(float(np.abs(queries).max(initial=0)), 1e-30) / LEVELS
        whole = np.rint(queries / np.float32(step))
        norms, rounding = _lengths(queries), _lengths(queries - whole * np.float32(step))
        given = {"queries": (whole + ZERO).astype(np.uint8), "step": np.array([step], np.float32)}
        highest = self._norms[:, None] * norms + offer.best[:, None]  # [S, B]
        bounds = least.astype(np.float32)  # nothing below can be among the best
        largest = np.full((num_rows, int(num.max(initial=1))), -np.inf, np.float32)
        read: list[tuple[_Stretch, Floats, Floats, Floats]] = []
        for at in np.argsort(-highest.max(axis=1, initial=-np.inf), kind="stable").tolist():
            if offer.best[at] == -np.inf or not (highest[at] + ROUNDING >= bounds).any():
                continue
            stretch = self._stretches[at]
            scores, maxima = stretch.product.run(None, {**given, "bias": offer.bias[at]})
            errors = norms * np.float32(stretch.residue) + rounding * np.float32(stretch.norm + stretch.residue) + np.float32(ROUNDING)
            read.append((stretch, scores, maxima, errors))
            lower = maxima - errors[:, None]
            if (lower.max(axis=1) > bounds).any():
                both = np.concatenate([largest, lower], axis=1)
                both.partition(both.shape[1] - largest.shape[1], axis=1)
                largest = both[:, both.shape[1] - largest.shape[1] :]
                bounds = np.maximum(bounds, _kth_largest(largest, num))
        rows, positions = [], []
        for stretch, scores, maxima, errors in read:
            lowest = (bounds - errors)[:, None]
            at_rows, groups = np.nonzero((maxima >= lowest) & (maxima > -np.inf))
            inside = scores.reshape(num_rows, -1, GROUP)[at_rows, groups]
            pairs, columns = np.nonzero((inside >= lowest[at_rows]) & (inside > -np.inf))
            rows.append(at_rows[pairs])
            positions.append(stretch.positions[groups[pairs] * GROUP + columns])
        if not rows:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        together = np.concatenate(rows)
        in_order = np.argsort(together, kind="stable")
        return together[in_order], np.concatenate(positions)[in_order]


def _kth_largest(values: Floats, num: Integers) -> Floats:
    """The num[b]-th largest of each row; all of a row where there are fewer."""
    ordered = np.sort(values, axis=1)
    return np.asarray(ordered[np.arange(len(values)), values.shape[1] - np.clip(num, 1, values.shape[1])], np.float32)


def _lengths(vectors: Floats) -> Floats:
    return np.asarray(np.sqrt(np.square(vectors).sum(axis=1)), np.float32)


def _padded(length: int) -> int:
    return -(-length // GROUP) * GROUP


def _stretch(table: ItemTable, positions: Integers, threads: int) -> _Stretch:
    exact = table.rows(positions)
    values, scales = table.whole_rows(positions) if isinstance(table, CompactTable) else compact(exact)
    missing = _padded(len(positions)) - len(positions)
    return _Stretch(
        product=_product(np.pad(values, ((0, missing), (0, 0))), np.pad(scales, (0, missing)), threads),
        positions=positions,
        norm=float(_lengths(exact).max(initial=0)),
        residue=float(_lengths(exact - values * scales[:, None]).max(initial=0)),
    )


def _product(table: NDArray[np.int8], scales: Floats, threads: int) -> ort.InferenceSession:
    """Graph: queries [B, R] uint8, step [1], bias [N] -> (query . item) * step * scale + bias [B, N] and the largest of each group of 64, [B, N / 64].

    One fused node: the same from single ones took nine times as long for eight users, over arrays that no longer fit near the processor.
    """
    num_items, width = table.shape
    nodes = [
        helper.make_node("MatMulIntegerToFloat", ["queries", "table", "step", "scales", "zero", "", "bias"], ["scores"], domain="com.microsoft"),
        helper.make_node("Reshape", ["scores", "groups"], ["grouped"]),
        helper.make_node("ReduceMax", ["grouped", "axes"], ["maxima"], keepdims=0),
    ]
    constants: dict[str, NDArray[Any]] = {
        "table": np.ascontiguousarray(table.T),
        "scales": scales.astype(np.float32),
        "zero": np.array(ZERO, np.uint8),
        "groups": np.array([-1, num_items // GROUP, GROUP], np.int64),
        "axes": np.array([2], np.int64),
    }
    value: Callable[..., Any] = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "products",
        [value("queries", TensorProto.UINT8, ["B", width]), value("step", TensorProto.FLOAT, [1]), value("bias", TensorProto.FLOAT, [num_items])],
        [value("scores", TensorProto.FLOAT, ["B", num_items]), value("maxima", TensorProto.FLOAT, ["B", num_items // GROUP])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
