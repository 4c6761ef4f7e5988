"""Many different requests answered together: those that share date, list, region and category are ranked in one call.

Used by the registered model and by the HTTP service, so that both give the same lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

import polars as pl

from contracts import columns as c
from contracts.tables import TIMESTAMP
from serving.recommender import Recommender

ANONYMOUS: Final = ""
EVENT_SCHEMA: Final = {c.USER_ID: pl.String, c.ITEM_ID: pl.String, c.EVENT_TIME: TIMESTAMP, c.EVENT_TYPE: pl.String}


@dataclass(frozen=True)
class Event:
    """Something a user did that the bundle does not know yet."""

    item_id: str
    event_time: datetime
    event_type: str | None = None


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


@dataclass
class _Round:
    """Asks of one kind in which no user stands twice."""

    asks: dict[str, tuple[int, Ask]] = field(default_factory=dict)


def answer_all(recommender: Recommender, asks: Sequence[Ask]) -> list[pl.DataFrame]:
    """The rankings of each ask, in order: one row per rank.

    Raises ValueError as `Recommender.rank` does.
    """
    answers: list[pl.DataFrame] = [pl.DataFrame()] * len(asks)
    for kind, rounds in _rounds(asks).items():
        request_date, list_name, region, category = kind
        candidates = None if category is None else recommender.items_in(category, request_date)
        for once in rounds:
            events = _events(once)
            table = recommender.rank(
                list(once.asks),
                request_date=request_date,
                list_name=list_name,
                k=max(ask.k for _, ask in once.asks.values()),
                exclude=_exclusions(once),
                candidates=candidates,
                histories=events if events.height else None,
                region=region,
            )
            tables = {user: rows for (user,), rows in table.partition_by(c.USER_ID, as_dict=True).items()}
            for user, (number, ask) in once.asks.items():
                answers[number] = tables.get(user, table.clear()).head(ask.k)
    return answers


def _rounds(asks: Sequence[Ask]) -> dict[tuple[date, str, str, str | None], list[_Round]]:
    """Asks by what `rank` wants equal; a user who asks twice goes into a further round."""
    kinds: dict[tuple[date, str, str, str | None], list[_Round]] = {}
    for number, ask in enumerate(asks):
        rounds = kinds.setdefault((ask.request_date, ask.list_name, ask.region, ask.category), [])
        user = ask.user_id if ask.user_id is not None else ANONYMOUS
        free = next((once for once in rounds if user not in once.asks), None)
        if free is None:
            free = _Round()
            rounds.append(free)
        free.asks[user] = (number, ask)
    return kinds


def _events(once: _Round) -> pl.DataFrame:
    rows = [(user, event.item_id, event.event_time, event.event_type) for user, (_, ask) in once.asks.items() for event in ask.events]
    return pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row")


def _exclusions(once: _Round) -> pl.DataFrame | None:
    rows = [(user, item) for user, (_, ask) in once.asks.items() for item in ask.exclude]
    return pl.DataFrame(rows, schema={c.USER_ID: pl.String, c.ITEM_ID: pl.String}, orient="row") if rows else None
