"""The season of all items through the 53 weeks after the cut-off: what a year looks like, computed once per model.

Takes a minute for a large catalogue, so it runs in a thread of its own after start and is kept in the cache folder by the bundle's digest.
"""

import threading
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from serving.item_tables import Floats
from serving.recommender import SEASON_COLUMN, Recommender

WEEKS: Final = 53


class Year:
    """Season scores [weeks, I, 2], centred over each date's candidates; `is_ready` once all weeks are there."""

    def __init__(self, recommender: Recommender, cache: Path | None = None) -> None:
        self.dates = tuple(recommender.cutoff + timedelta(days=7 * week) for week in range(WEEKS))
        self.weeks_done = 0
        self._recommender = recommender
        self._path = None if cache is None else cache / f"year-{recommender.bundle.digest}.npy"
        self._scores: Floats | None = None
        self._is_stopped = False

    @property
    def is_ready(self) -> bool:
        """Whether `of_item` can be asked."""
        return self._scores is not None

    def start(self) -> threading.Thread:
        """Compute in the background."""
        thread = threading.Thread(target=self.compute, name="year", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Give up before it is done."""
        self._is_stopped = True

    def compute(self) -> None:
        """Read the year from the cache, or compute it week by week and keep it."""
        if self._path is not None and self._path.is_file():
            self._scores, self.weeks_done = np.load(self._path, mmap_mode="r"), WEEKS
            return
        weeks = []
        for day in self.dates:
            if self._is_stopped:
                return
            weeks.append(_centred(self._recommender, day))
            self.weeks_done += 1
        scores = np.stack(weeks)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft = self._path.with_suffix(".tmp.npy")
            np.save(draft, scores)
            draft.replace(self._path)
        self._scores = scores

    def of_item(self, position: int) -> list[tuple[date, float, float]]:
        """Date, season for `again`, season for `discover` of one item, week by week."""
        assert self._scores is not None
        values = np.asarray(self._scores[:, position, :], np.float64)
        return [(day, float(again), float(discover)) for day, (again, discover) in zip(self.dates, values.tolist(), strict=True)]


def _centred(recommender: Recommender, day: date) -> Floats:
    scores = recommender.season_scores_uncached(day)
    offered = recommender.items_on(day)
    centre = scores[offered].mean(axis=0) if offered.any() else np.zeros(len(SEASON_COLUMN), np.float32)
    return (scores - centre).astype(np.float32)
