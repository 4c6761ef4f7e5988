"""Dates that are asked for often are made ready in the background, so that requests only read what users share on them.

A model is warm for today from its start on. Tomorrow, and a date an application asks for again and again, would otherwise have their habit inputs computed
request by request.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Final

from serving.recommender import Recommender

ASKED_OFTEN: Final = 20
REST_SECONDS: Final = 30.0
DATES_COUNTED: Final = 256

logger = logging.getLogger("perennial.serving")


class Warming:
    """Counts dates and warms one at a time, at most one in `rest_seconds`: dates in turn must not keep a processor busy."""

    def __init__(self, cache: Path, *, rest_seconds: float = REST_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache, self._rest_seconds, self._clock = cache, rest_seconds, clock
        self._asked: Counter[tuple[str, date]] = Counter()
        self._thread: threading.Thread | None = None
        self._rested_at = float("-inf")

    def asked(self, model: Recommender, day: date) -> threading.Thread | None:
        """Note that a date was asked for; the thread that warms it, where this call starts one."""
        if model.is_warm(day):
            return None
        if len(self._asked) >= DATES_COUNTED:
            self._asked.clear()
        self._asked[model.version, day] += 1
        if self._asked[model.version, day] < ASKED_OFTEN or self._thread is not None or self._clock() < self._rested_at:
            return None
        self._thread = thread = threading.Thread(target=self._warm, args=(model, day), name="warming", daemon=True)
        thread.start()
        return thread

    def _warm(self, model: Recommender, day: date) -> None:
        try:
            model.warm(day, cache=self._cache)
        except Exception:
            logger.exception("%s could not be warmed; its requests are answered one by one", day)
        finally:
            self._asked.clear()
            self._rested_at, self._thread = self._clock() + self._rest_seconds, None
