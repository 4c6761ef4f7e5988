"""The exported networks of a bundle, ready to run: ONNX Runtime for the graphs, numpy for the item tables.

Letters: B users of a block, T history length, D width of taste, R rank of the linear term, I items, S and H inputs of season and habit.
Item tables are stored by item_index and held here by *position*: the order of item ids, so that ties fall to the smaller item_id by
taking the smaller position.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import load_file

from contracts.errors import BundleError

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

HEAD_FORMAT: Final = 1
SEASON_ROWS_AT_ONCE: Final = 65_536


class LinearTerm(BaseModel):
    """One linear item-item term of taste: `weight * log(max(linear, 0) + floor)`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    half_life_days: Annotated[float | None, Field(description="Decay of a history item with its age; null: every distinct item weighs 1.")] = None
    weight: float
    floor: Annotated[float, Field(gt=0)]


class ListHead(BaseModel):
    """How the parts of taste are weighed for one list."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    encoder_weight: float = 0.0
    linear: tuple[LinearTerm, ...] = ()


class Head(BaseModel):
    """Contents of `head.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1]
    season_inputs: tuple[str, ...]
    habit_inputs: tuple[str, ...]
    lists: dict[str, ListHead]
    event_types: dict[str, int] = {}
    max_history: int = 128


class Networks:
    """Runs the exported graphs of one bundle. Stateless between calls; safe to share between threads."""

    def __init__(self, folder: Path, positions: Integers, *, threads: int = 1) -> None:
        self.head = _read_head(folder / "head.json")
        tables = load_file(folder / "vectors.safetensors")
        self.has_vectors, self.taste_items = _by_position(tables.get("taste_items"), positions)
        _, self.linear_in = _by_position(tables.get("linear_in"), positions)
        _, self.linear_out = _by_position(tables.get("linear_out"), positions)
        _, self.linear_self = _by_position(tables.get("linear_self"), positions)
        self._encoder = _session(folder / "encoder.onnx", threads) if (folder / "encoder.onnx").is_file() else None
        self._season = _session(folder / "season.onnx", threads)
        self._habit = _session(folder / "habit.onnx", threads)

    def list_head(self, list_name: str) -> ListHead:
        """Weights of one list; ValueError names the lists there are."""
        if list_name not in self.head.lists:
            raise ValueError(f"list: found {list_name!r}, this model ranks {', '.join(sorted(self.head.lists))}")
        return self.head.lists[list_name]

    def encode(self, inputs: dict[str, NDArray[Any]]) -> Floats | None:
        """Queries [B, D] of a right-padded block of histories; None where the model has no encoder."""
        if self._encoder is None or self.taste_items is None:
            return None
        wanted = {node.name for node in self._encoder.get_inputs()}
        (query,) = self._encoder.run(["query"], {name: value for name, value in inputs.items() if name in wanted})
        return np.asarray(query, dtype=np.float32)

    def season(self, rows: Floats) -> Floats:
        """Season of each row, [N, 2]: columns again, discover."""
        blocks = [self._season.run(None, {"inputs": rows[i : i + SEASON_ROWS_AT_ONCE]})[0] for i in range(0, len(rows), SEASON_ROWS_AT_ONCE)]
        return np.concatenate(blocks) if blocks else np.zeros((0, 2), np.float32)

    def habit(self, rows: Floats) -> Floats:
        """Habit of each row, [N]."""
        if not len(rows):
            return np.zeros(0, np.float32)
        return np.asarray(self._habit.run(None, {"inputs": rows})[0], dtype=np.float32).reshape(-1)


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


def _by_position(table: NDArray[Any] | None, positions: Integers) -> tuple[NDArray[np.bool_], Floats | None]:
    """Rows in order of position; items beyond the table (newer than the vectors) get zeros and are marked."""
    if table is None:
        return np.zeros(len(positions), bool), None
    known = positions < len(table)
    ordered = np.zeros((len(positions), *table.shape[1:]), np.float32)
    ordered[known] = table[positions[known]]
    return known, ordered


def _session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
