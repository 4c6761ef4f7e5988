"""The exported networks of a bundle, ready to run: ONNX Runtime for the graphs, item tables for vectors (docs/architecture.md).

Letters: B users of a block, T history length, D width of taste, I items, P items of the pool that linear terms score, R numbers of a
linear query, K terms of taste, S and H inputs of season and habit.
Item tables are stored by item_index and held here by *position*: the order of item ids, so that ties fall to the smaller item_id by
taking the smaller position.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import onnxruntime as ort
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import load_file

from contracts.errors import BundleError
from serving.item_tables import Floats, Integers, ItemTable, item_table

HEAD_FORMAT: Final = 2
SEASON_ROWS_AT_ONCE: Final = 65_536
WIDEST_DENSE_QUERY: Final = 1_024
ROWS_AT_ONCE: Final = 256
ROWS_SUMMED_AT_ONCE: Final = 64
DENSE_FROM: Final = 0.04


class LinearTerm(BaseModel):
    """One linear item-item term of taste: `weight * log(max(linear, 0) + floor)`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    half_life_days: Annotated[float | None, Field(description="Decay of a history item with its age; null: every distinct item weighs 1.")] = None
    weight: float
    floor: Annotated[float, Field(gt=0)]


class ListHead(BaseModel):
    """How the terms of taste are weighed for one list."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    encoder_weight: float = 0.0
    linear: tuple[LinearTerm, ...] = ()


class Head(BaseModel):
    """Contents of `head.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[2]
    season_inputs: tuple[str, ...]
    habit_inputs: tuple[str, ...]
    lists: dict[str, ListHead]
    event_types: dict[str, int] = {}
    max_history: int = 128


class PoolTerm:
    """Tables of one linear item-item term; it is zero for items outside the pool.

    linear_in  [I, R] sparse, by position
    out        [P, R] by place in the pool
    own        [P]    what an item of the history says for itself, taken off again

    A history reaches R numbers through `linear_in` and the pool through `out`. Where R is large (landmark users), that product reads all of `out` for
    each user; so what an item of the pool says for the whole pool is kept as a row once it was asked for, and a history is a sum of such rows.
    Only its items outside the pool, which few landmarks had, go through `out`. Each user's sum is taken by itself: it does not depend on who is scored beside.
    """

    def __init__(self, linear_in: sp.csr_array, out: ItemTable, own: Floats, pool: Integers) -> None:
        self.linear_in, self.own = linear_in, own
        self._of_pool = linear_in[pool]
        self._lengths = np.diff(linear_in.indptr)
        self._out = np.ascontiguousarray(out.rows(np.arange(len(pool))).T)  # [R, P]
        self._is_narrow = out.width <= WIDEST_DENSE_QUERY
        self._rows = np.zeros((0, 0) if self._is_narrow else (len(pool), len(pool)), np.float32)
        self._is_kept = np.full(len(pool), self._is_narrow)

    def of(self, histories: sp.csr_array, place: Integers) -> Floats:
        """The term of each user for the pool, an item's word for itself included: weights of the histories' items [B, I] -> [B, P].

        Wide terms go without SciPy's products: what these check and copy cost a request of one user more than the sums.
        """
        if self._is_narrow:
            return np.asarray((histories @ self.linear_in) @ self._out, np.float32)
        places = place[histories.indices]
        inside = places >= 0
        self.keep(np.unique(places[inside]))
        found = np.zeros((histories.shape[0], len(self.own)), np.float32)
        for row, (start, stop) in enumerate(itertools.pairwise(histories.indptr.tolist())):
            here, weights = inside[start:stop], histories.data[start:stop]
            _add_rows(found[row], weights[here], self._rows, places[start:stop][here])
            if not here.all():
                query = self._query(histories.indices[start:stop][~here], weights[~here])
                landmarks = np.flatnonzero(query)
                _add_rows(found[row], query[landmarks], self._out, landmarks)
        return found

    def _query(self, positions: Integers, weights: Floats) -> Floats:
        """Weighted sum of some items' sparse rows, [R]."""
        starts, lengths = self.linear_in.indptr[positions], self._lengths[positions]
        ends = np.cumsum(lengths)
        at = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
        numbers = np.bincount(self.linear_in.indices[at], self.linear_in.data[at] * np.repeat(weights, lengths), minlength=self.linear_in.shape[1])
        return np.asarray(numbers, np.float32)

    def at(self, histories: sp.csr_array, places: Integers) -> Floats:
        """As `of`, for some items of the pool only: [B, I] -> [B, N]."""
        return np.asarray((histories @ self.linear_in) @ np.ascontiguousarray(self._out[:, places]), np.float32)

    @property
    def all_rows(self) -> Floats:
        """The kept rows of the whole pool, [P, P]; [0, 0] for a narrow term, which needs none."""
        self.keep(np.arange(len(self._is_kept)))
        return self._rows

    @property
    def has_all_rows(self) -> bool:
        """Whether no row is left to be computed."""
        return bool(self._is_kept.all())

    def take_rows(self, rows: Floats) -> None:
        """Rows of the whole pool as `all_rows` gave them before."""
        self._rows, self._is_kept = rows, np.ones(len(rows), bool)

    def keep(self, places: Integers) -> None:
        """Compute the rows of some items of the pool, ascending, that are not there yet."""
        missing = places[~self._is_kept[places]]
        for start in range(0, len(missing), ROWS_AT_ONCE):
            some = missing[start : start + ROWS_AT_ONCE]
            rows = self._of_pool[some]
            self._rows[some] = (rows if rows.nnz < DENSE_FROM * rows.shape[0] * rows.shape[1] else rows.toarray()) @ self._out
            self._is_kept[some] = True  # after the row: another thread may look


class Networks:
    """Runs the exported graphs of one bundle. Stateless between calls; safe to share between threads.

    pool   [P]  positions of the items the linear terms score
    place  [I]  place of each item in the pool, -1 outside
    pool_vectors  [P, D]
    """

    def __init__(self, folder: Path, positions: Integers, *, threads: int = 1) -> None:
        self.head = _read_head(folder / "head.json")
        tables = load_file(folder / "vectors.safetensors")
        self.taste_items = item_table(tables, "taste_items", positions)
        self.has_vectors = np.ones(len(positions), bool) if self.taste_items is None else self.taste_items.has_row
        self.pool, kept = _pool(tables.get("linear_items", np.zeros(0, np.int64)), positions)
        self.place = np.full(len(positions), -1, np.int64)
        self.place[self.pool] = np.arange(len(self.pool))
        self.pool_vectors = np.zeros((len(self.pool), 0), np.float32) if self.taste_items is None else self.taste_items.rows(self.pool)
        self.pool_has_vectors = self.has_vectors[self.pool]
        num_terms = max((len(head.linear) for head in self.head.lists.values()), default=0)
        self.terms = [_pool_term(tables, number, positions, self.pool, kept) for number in range(num_terms)]
        self._encoder = _session(folder / "encoder.onnx", threads) if (folder / "encoder.onnx").is_file() else None
        self._season = _session(folder / "season.onnx", threads)
        self._habit = _session(folder / "habit.onnx", threads)

    def list_head(self, list_name: str) -> ListHead:
        """Weights of one list; ValueError names the lists there are."""
        if list_name not in self.head.lists:
            raise ValueError(f"list: found {list_name!r}, this model ranks {', '.join(sorted(self.head.lists))}")
        return self.head.lists[list_name]

    @property
    def width(self) -> int:
        """Width of taste's vectors, D."""
        return 0 if self.taste_items is None else self.taste_items.width

    @property
    def has_encoder(self) -> bool:
        """Whether taste has a sequence encoder."""
        return self._encoder is not None and self.taste_items is not None

    def encode(self, inputs: dict[str, NDArray[Any]]) -> Floats:
        """Queries [B, D] of a right-padded block of histories, for a model with an encoder."""
        assert self._encoder is not None
        wanted = {node.name for node in self._encoder.get_inputs()}
        (query,) = self._encoder.run(["query"], {name: value for name, value in inputs.items() if name in wanted})
        return np.asarray(query, dtype=np.float32)

    def season(self, rows: Floats) -> Floats:
        """Season of each row, [N, 2]: columns again, discover."""
        blocks = [self._season.run(None, {"inputs": rows[i : i + SEASON_ROWS_AT_ONCE]})[0] for i in range(0, len(rows), SEASON_ROWS_AT_ONCE)]
        return np.concatenate(blocks) if blocks else np.zeros((0, 2), np.float32)

    def habit(self, rows: Floats) -> Floats:
        """Habit of each row [N, H + S + K], [N]."""
        if not len(rows):
            return np.zeros(0, np.float32)
        return np.asarray(self._habit.run(None, {"inputs": rows})[0], dtype=np.float32).reshape(-1)


def _add_rows(total: Floats, weights: Floats, table: Floats, rows: Integers) -> None:
    """Add weights . table[rows], a few rows at a time, so that what is copied stays near the processor."""
    for start in range(0, len(rows), ROWS_SUMMED_AT_ONCE):
        some = slice(start, start + ROWS_SUMMED_AT_ONCE)
        total += weights[some] @ table[rows[some]]


def _read_head(path: Path) -> Head:
    text = path.read_text(encoding="utf-8")
    try:
        return Head.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise BundleError(
            f"{path}: `{where}` {fault['msg']}, found {fault.get('input')!r}; this code reads head format {HEAD_FORMAT}. Export the networks again."
        ) from error


def _pool(linear_items: NDArray[Any], positions: Integers) -> tuple[Integers, Integers]:
    """Positions of the pool's items, rising, and the rows of their tables; items the vocabulary does not hold are left out."""
    order = np.argsort(positions, kind="stable")
    at = np.minimum(np.searchsorted(positions[order], linear_items), len(positions) - 1)
    known = positions[order][at] == linear_items
    pool = order[at[known]]
    rising = np.argsort(pool)
    return pool[rising].astype(np.int64), np.flatnonzero(known)[rising].astype(np.int64)


def _pool_term(tables: Mapping[str, NDArray[Any]], number: int, positions: Integers, pool: Integers, kept: Integers) -> PoolTerm:
    name = f"linear_{number}"
    try:
        values, indices, indptr = (tables[f"{name}_{part}"] for part in ("values", "indices", "indptr"))
        out = item_table(tables, f"{name}_out", kept)
        own = tables[f"{name}_self"][kept].astype(np.float32)
    except KeyError as error:
        raise BundleError(
            f"vectors.safetensors: table {error} of linear term {number} is missing; found {', '.join(sorted(tables))}. Export the networks again."
        ) from error
    if out is None:
        raise BundleError(f"vectors.safetensors: table {name}_out is missing; found {', '.join(sorted(tables))}. Export the networks again.")
    by_index = sp.csr_array((values.astype(np.float32), indices, indptr), shape=(len(indptr) - 1, out.width))
    by_index.resize((max(len(indptr) - 1, int(positions.max(initial=0)) + 1), out.width))
    return PoolTerm(by_index[positions], out, own, pool)


def _session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
