"""Small tables and where they are stored."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from contracts.artifacts import TableRef
from contracts.tables import TABLES
from expectations.quarantine import table_ref


def store_table(folder: Path, name: str, *parts: pl.DataFrame) -> TableRef:
    """Store frames as parts a, b, ... of a table, in the types of its contract."""
    folder.mkdir(parents=True)
    contract = TABLES.get(name)
    for letter, part in zip("abcdefgh", parts, strict=False):
        typed = part.cast({column: kind for column, kind in contract.schema.items() if column in part.columns}) if contract else part
        typed.write_parquet(folder / f"{letter}.parquet")
    return table_ref(name, folder)


def made_events(
    num_events: int = 600, *, num_users: int = 20, num_items: int = 15, hours_apart: float = 3.0, start: datetime = datetime(2024, 1, 1, tzinfo=UTC)
) -> pl.DataFrame:
    """Good events in order of time: users and items in turn."""
    return pl.DataFrame(
        {
            "event_id": [f"e{number}" for number in range(num_events)],
            "user_id": [f"u{number % num_users}" for number in range(num_events)],
            "item_id": [f"i{number % num_items}" for number in range(num_events)],
            "event_time": [start + timedelta(hours=hours_apart * number) for number in range(num_events)],
            "event_type": ["purchase"] * num_events,
            "quantity": [1.0] * num_events,
            "price": [2.5] * num_events,
        }
    )
