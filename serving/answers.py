"""Many different requests answered together: those that share date, list, region and category are ranked in one call.

Used by the registered model and by the HTTP service, so that both give the same lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

import numpy as np
import polars as pl

from contracts import columns as c
from contracts.tables import TIMESTAMP
from serving.item_tables import Floats, Integers
from serving.recommender import Ranked, Recommender

ANONYMOUS: Final = ""
EVENT_SCHEMA: Final = pl.Schema({c.USER_ID: pl.String(), c.ITEM_ID: pl.String(), c.EVENT_TIME: TIMESTAMP, c.EVENT_TYPE: pl.String(), c.PLATFORM: pl.String()})


@dataclass(frozen=True)
class Event:
    """Something a user did that the bundle does not know yet."""

    item_id: str
    event_time: datetime
    event_type: str | None = None
    platform: str | None = None


@dataclass(frozen=True)
class Ask:
    """One request for a list."""

    request_date: date
    user_id: str | None = None
    events: tuple[Event, ...] = ()
    list_name: str = "again"
    k: int = 10
    exclude: tuple[str, ...] = ()
    region: str = c.ALL_REGIONS
    category: str | None = None

    @property
    def name(self) -> str:
        """User id, or the empty one."""
        return self.user_id if self.user_id is not None else ANONYMOUS

    def history(self) -> pl.DataFrame | None:
        """Its events as `Recommender.rank` takes them."""
        return _events([self])


@dataclass(frozen=True)
class RankedList:
    """The answer to one request, best first."""

    item_ids: tuple[str, ...]
    positions: Integers
    score: Floats
    taste: Floats
    habit: Floats
    season: Floats

    def rows(self) -> list[dict[str, Any]]:
        """One mapping per rank: rank, item_id, score, taste, habit, season."""
        parts = (values.tolist() for values in (self.score, self.taste, self.habit, self.season))
        return [
            {c.RANK: rank, c.ITEM_ID: item_id, c.SCORE: score, c.TASTE: taste, c.HABIT: habit, c.SEASON: season}
            for rank, (item_id, score, taste, habit, season) in enumerate(zip(self.item_ids, *parts, strict=True), start=1)
        ]


@dataclass
class _Round:
    """Asks of one kind in which no user stands twice."""

    asks: dict[str, tuple[int, Ask]] = field(default_factory=dict)


def answer_all(recommender: Recommender, asks: Sequence[Ask]) -> list[RankedList]:
    """The list of each ask, in order.

    Raises ValueError as `Recommender.rank` does.
    """
    answers: list[RankedList] = [_EMPTY] * len(asks)
    kinds = _rounds(asks)
    if len(kinds) > 1:  # taste of all of them in one go, where their lists differ
        for day in {ask.request_date for ask in asks}:
            plain = [ask for ask in asks if ask.request_date == day and not ask.events]
            recommender.remember([ask.name for ask in plain], {ask.list_name for ask in plain}, day)
    for (request_date, list_name, region, category), rounds in kinds.items():
        candidates = None if category is None else recommender.items_in(category, request_date)
        for once in rounds:
            largest = max(ask.k for _, ask in once.asks.values())
            question = recommender.question(request_date, list_name=list_name, k=largest, candidates=candidates, region=region)
            exclude = {user: ask.exclude for user, (_, ask) in once.asks.items() if ask.exclude}
            for ranked in recommender.answer(list(once.asks), question, exclude=exclude, histories=_events([ask for _, ask in once.asks.values()])):
                for user, found in _by_user(recommender, ranked):
                    number, ask = once.asks[user]
                    answers[number] = _first(found, ask.k)
    return answers


def _rounds(asks: Sequence[Ask]) -> dict[tuple[date, str, str, str | None], list[_Round]]:
    """Asks by what `question` wants equal; a user who asks twice goes into a further round."""
    kinds: dict[tuple[date, str, str, str | None], list[_Round]] = {}
    for number, ask in enumerate(asks):
        rounds = kinds.setdefault((ask.request_date, ask.list_name, ask.region, ask.category), [])
        free = next((once for once in rounds if ask.name not in once.asks), None)
        if free is None:
            free = _Round()
            rounds.append(free)
        free.asks[ask.name] = (number, ask)
    return kinds


def _by_user(recommender: Recommender, ranked: Ranked) -> list[tuple[str, RankedList]]:
    bounds = np.searchsorted(ranked.users, np.arange(len(ranked.names) + 1))
    item_ids = [recommender.ids[position] for position in ranked.positions.tolist()]
    found = []
    for user, start, stop in zip(ranked.names, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        of_user = slice(start, stop)
        parts = (values[of_user] for values in (ranked.score, ranked.taste, ranked.habit, ranked.season))
        found.append((user, RankedList(tuple(item_ids[of_user]), ranked.positions[of_user], *parts)))
    return found


def _first(found: RankedList, k: int) -> RankedList:
    return RankedList(found.item_ids[:k], found.positions[:k], found.score[:k], found.taste[:k], found.habit[:k], found.season[:k])


def _events(asks: Sequence[Ask]) -> pl.DataFrame | None:
    rows = [(ask.name, event.item_id, event.event_time, event.event_type, event.platform) for ask in asks for event in ask.events]
    return pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row") if rows else None


_NONE = np.zeros(0, np.float32)
_EMPTY = RankedList((), np.zeros(0, np.int64), _NONE, _NONE, _NONE, _NONE)
