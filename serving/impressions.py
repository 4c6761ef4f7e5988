"""What was shown to whom, and what came of it: Parquet parts a learner can read.

impressions   request_id x position: user_id, item_id, shown_at, list, model_version, policy, propensity
feedback      request_id x item: reward, at

Rows are kept in memory for a moment and written by a thread of their own, so no request waits for a disk; closing writes the rest.
"""

import threading
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from contracts import columns as c
from contracts.tables import TIMESTAMP

ROWS_AT_ONCE: Final = 500
PAUSE_SECONDS: Final = 0.002
IMPRESSIONS: Final = "impressions"
FEEDBACK: Final = "feedback"
IMPRESSION_SCHEMA: Final = {
    "request_id": pl.String,
    "position": pl.Int32,
    c.USER_ID: pl.String,
    c.ITEM_ID: pl.String,
    "shown_at": TIMESTAMP,
    c.LIST: pl.String,
    c.MODEL_VERSION: pl.String,
    "policy": pl.String,
    "propensity": pl.Float64,
}
FEEDBACK_SCHEMA: Final = {"request_id": pl.String, c.ITEM_ID: pl.String, "reward": pl.Float64, "at": TIMESTAMP}


class Impression(NamedTuple):
    """One place of a list that was shown. `propensity`: how likely the policy was to show this item at this place."""

    request_id: str
    position: int
    user_id: str | None
    item_id: str
    shown_at: datetime
    list_name: str
    model_version: str
    policy: str
    propensity: float


class Feedback(NamedTuple):
    """What came of one shown item."""

    request_id: str
    item_id: str
    reward: float
    at: datetime


class ImpressionLog:
    """Writes both tables below a folder, a part a day at least every `flush_seconds` while there is something to write."""

    def __init__(self, folder: Path, *, flush_seconds: float = 10.0, max_rows: int = 50_000) -> None:
        self._folder, self._flush_seconds, self._max_rows = folder, flush_seconds, max_rows
        self._impressions: list[Impression] = []
        self._feedback: list[Feedback] = []
        self._lock, self._wake, self._closed = threading.Lock(), threading.Event(), False
        self._writer = threading.Thread(target=self._run, name="impression-log", daemon=True)
        self._writer.start()

    def show(self, rows: Sequence[Impression]) -> None:
        """Note what was shown."""
        with self._lock:
            self._impressions.extend(rows)
            is_full = len(self._impressions) >= self._max_rows
        if is_full:
            self._wake.set()

    def reward(self, rows: Sequence[Feedback]) -> None:
        """Note what came of it."""
        with self._lock:
            self._feedback.extend(rows)

    def flush(self) -> None:
        """Write what is noted now."""
        with self._lock:
            impressions, self._impressions = self._impressions, []
            feedback, self._feedback = self._feedback, []
        self._write(IMPRESSIONS, impressions, IMPRESSION_SCHEMA, "shown_at")
        self._write(FEEDBACK, feedback, FEEDBACK_SCHEMA, "at")

    def close(self) -> None:
        """Write the rest and stop the writer."""
        self._closed = True
        self._wake.set()
        self._writer.join()
        self.flush()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            self.flush()

    def _write(self, table: str, rows: Sequence[tuple[object, ...]], schema: dict[str, Any], time_column: str) -> None:
        if not rows:
            return
        frame = _frame(rows, schema)
        for (day,), part in frame.with_columns(pl.col(time_column).dt.date().alias("day")).partition_by("day", as_dict=True, include_key=False).items():
            folder = self._folder / table / f"date={day}"
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f".{uuid.uuid4().hex}.tmp"
            part.write_parquet(draft, compression="zstd")
            draft.rename(folder / f"{uuid.uuid4().hex}.parquet")


def _frame(rows: Sequence[tuple[object, ...]], schema: dict[str, Any]) -> pl.DataFrame:
    """Rows as a table, a few at a time with a pause: made in one go, ten seconds of impressions kept the interpreter from requests for 100 ms."""
    parts = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        columns = zip(*rows[start : start + ROWS_AT_ONCE], strict=True)
        parts.append(pl.DataFrame([pl.Series(name, column, dtype=dtype) for (name, dtype), column in zip(schema.items(), columns, strict=True)]))
        time.sleep(PAUSE_SECONDS)
    return pl.concat(parts)
