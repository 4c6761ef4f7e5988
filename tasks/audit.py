"""The audit trail of promotions: who, when, what, why, with which figures. MLflow keeps no history of alias moves, so this does.

One row per decision in a SQL table (`audit`), SQLite below the storage root or any SQLAlchemy address; rows are only ever added.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl
import sqlalchemy as sa

METADATA = sa.MetaData()
AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("model", sa.String(256), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("decision", sa.String(32), nullable=False),
    sa.Column("by", sa.String(256), nullable=False),
    sa.Column("previous_champion", sa.String(64)),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("figures", sa.Text, nullable=False),
)


def record_decision(
    address: str,
    *,
    model: str,
    version: str,
    decision: str,
    by: str,
    reasons: tuple[str, ...],
    figures: Mapping[str, Any],
    previous_champion: str | None = None,
    at: datetime | None = None,
) -> int:
    """Add one row and return its id. `decision`: challenger, refused, promoted, rolled_back."""
    engine = sa.create_engine(address)
    try:
        METADATA.create_all(engine)
        with engine.begin() as connection:
            inserted = connection.execute(
                AUDIT.insert().values(
                    at=(at or datetime.now(UTC)).isoformat(timespec="seconds"),
                    model=model,
                    version=version,
                    decision=decision,
                    by=by,
                    previous_champion=previous_champion,
                    reasons="\n".join(reasons),
                    figures=json.dumps(dict(figures), sort_keys=True, default=str),
                )
            )
            return int(inserted.inserted_primary_key[0])
    finally:
        engine.dispose()


def audit_trail(address: str, model: str | None = None) -> pl.DataFrame:
    """All decisions, oldest first; one row each. Empty where nothing was decided yet."""
    engine = sa.create_engine(address)
    try:
        METADATA.create_all(engine)
        query = AUDIT.select().order_by(AUDIT.c.id)
        if model:
            query = query.where(AUDIT.c.model == model)
        with engine.connect() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
    finally:
        engine.dispose()
    return pl.DataFrame(rows, schema={column.name: pl.Int64 if column.name == "id" else pl.String for column in AUDIT.columns}, orient="row")
