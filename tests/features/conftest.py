"""Small interaction tables, written as rows."""

from collections.abc import Callable
from datetime import UTC, datetime

import polars as pl
import pytest

from contracts.tables import INTERACTIONS

Events = Callable[..., pl.LazyFrame]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def events() -> Events:
    """Build interactions from (user, item, time[, quantity[, region[, type]]]) rows."""

    def build(*rows: tuple) -> pl.LazyFrame:
        records = []
        for number, row in enumerate(rows):
            user, item, time, quantity, region, kind = (*row, *(1.0, None, "purchase")[len(row) - 3 :])
            records.append(
                {
                    "event_id": str(number),
                    "user_id": user,
                    "item_id": item,
                    "event_time": _time(time),
                    "event_type": kind,
                    "quantity": quantity,
                    "price": None,
                    "value": None,
                    "basket_id": None,
                    "platform": None,
                    "region": region,
                }
            )
        return pl.LazyFrame(records, schema=dict(INTERACTIONS.schema))

    return build
