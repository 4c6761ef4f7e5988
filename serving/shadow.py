"""The challenger answers the same requests as the champion, out of sight, and how far the two agree is logged. No user sees it, no request waits for it.

    shadow = Shadow(challenger, folder, share=0.1, draw=random.random)
    shadow.offer(ask, champion_items, champion_version)      after an answer; returns at once, drops the ask where the queue is full
    shadow.close()                                           what was scored is written

Parts in `folder`: at, champion, challenger, list, request_date, k, shared (items both name, of k), first_shared (both begin with the same item).
"""

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from serving.answers import Ask, answer_all
from serving.recommender import Recommender

QUEUE_SIZE: Final = 64
ROWS_OF_A_PART: Final = 200
LOOK_SECONDS: Final = 15.0
SCHEMA: Final = pl.Schema(
    {
        "at": pl.Datetime("us", "UTC"),
        "champion": pl.String(),
        "challenger": pl.String(),
        "list": pl.String(),
        "request_date": pl.Date(),
        "k": pl.Int32(),
        "shared": pl.Int32(),
        "first_shared": pl.Boolean(),
    }
)

logger = logging.getLogger("perennial.serving")


class Shadow:
    """One thread that scores a share of the requests with the challenger."""

    def __init__(
        self,
        challenger: Callable[[], Recommender | None],
        folder: Path,
        *,
        share: float,
        draw: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.dropped = 0
        self._found: Recommender | None = None
        self._looked_at: float | None = None
        self._challenger, self._folder, self._share, self._draw, self._now = challenger, folder, share, draw, now
        self._waiting: queue.Queue[tuple[Ask, tuple[str, ...], str] | None] = queue.Queue(QUEUE_SIZE)
        self._rows: list[tuple[Any, ...]] = []
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, ask: Ask, items: tuple[str, ...], champion: str) -> None:
        """Take a request that was answered, if it falls into the share and there is room."""
        if self._draw() >= self._share:
            return
        try:
            self._waiting.put_nowait((ask, items, champion))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Score what waits, write it, end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (given := self._waiting.get()) is not None:
            try:
                self._score(*given)
            except Exception:  # the challenger may fail in any way; the champion's service goes on
                logger.exception("shadow: a request could not be scored by the challenger")
            if len(self._rows) >= ROWS_OF_A_PART:
                self._write()
        self._write()

    def _score(self, ask: Ask, items: tuple[str, ...], champion: str) -> None:
        challenger = self._newest()
        if challenger is None or challenger.version == champion or ask.request_date < challenger.cutoff:
            return
        (found,) = answer_all(challenger, [ask])
        shared = len(set(found.item_ids) & set(items))
        first = bool(items) and found.item_ids[:1] == items[:1]
        self._rows.append((self._now(), champion, challenger.version, ask.list_name, ask.request_date, ask.k, shared, first))

    def _newest(self) -> Recommender | None:
        """The challenger; the registry is asked at most every 15 seconds."""
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at > LOOK_SECONDS:
            self._found, self._looked_at = self._challenger(), now
        return self._found

    def _write(self) -> None:
        if not self._rows:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{self._rows[0][0]:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.parquet"
        aside = self._folder / f".{name}"
        pl.DataFrame(self._rows, schema=SCHEMA, orient="row").write_parquet(aside)
        aside.replace(self._folder / name)
        self._rows = []


def agreement(folder: Path) -> pl.DataFrame:
    """How far champion and challenger agree.

    Grain: one row per (champion, challenger, list): requests, overlap (mean share of the k items both name), same_first (share of equal first items).
    """
    parts = sorted(folder.glob("*.parquet"))
    rows = pl.scan_parquet(parts) if parts else pl.LazyFrame(schema=SCHEMA)
    return (
        rows.group_by("champion", "challenger", "list")
        .agg(
            pl.len().alias("requests"),
            (pl.col("shared") / pl.col("k")).mean().alias("overlap"),
            pl.col("first_shared").mean().alias("same_first"),
        )
        .sort("champion", "challenger", "list")
        .collect()
    )
