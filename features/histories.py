"""What each user did, in order: every event for pre-training, the newest ones before a cut-off for a request."""

from datetime import date

import polars as pl

from contracts import columns as c
from features.time_splits import before


def kinds_of_events(interactions: pl.LazyFrame) -> pl.LazyFrame:
    """What happened, and where: the same rows with user_id, item_id, event_time and event_type.

    An event that names its platform says so behind its type, `view@app`: a type on each platform is a kind of its own for the sequence encoder.
    """
    kind = event_kind() if c.PLATFORM in interactions.collect_schema() else pl.col(c.EVENT_TYPE)
    return interactions.select(c.USER_ID, c.ITEM_ID, c.EVENT_TIME, kind)


def event_kind() -> pl.Expr:
    """`event_type` with the platform behind it where there is one."""
    named = pl.concat_str(c.EVENT_TYPE, pl.lit(c.PLATFORM_SEPARATOR), c.PLATFORM)
    return pl.when(pl.col(c.PLATFORM).is_null()).then(pl.col(c.EVENT_TYPE).cast(pl.String)).otherwise(named).alias(c.EVENT_TYPE)


def training_events(interactions: pl.LazyFrame, vocabulary: pl.DataFrame) -> pl.LazyFrame:
    """All events of known items as a sequence encoder reads them.

    Grain: event; sorted by user, then time, then order in the source (the sort is stable).
    Columns: user_id, item_id, item_index (Int32), event_time, event_day (Int32, days since 1970-01-01 UTC), event_type (`kinds_of_events`).
    Not cut: pre-training walks through time and stops at each cut-off by itself.
    """
    return (
        kinds_of_events(interactions)
        .join(vocabulary.lazy().select(c.ITEM_ID, c.ITEM_INDEX), on=c.ITEM_ID, how="inner", maintain_order="left")
        .sort(c.USER_ID, c.EVENT_TIME, maintain_order=True)
        .select(c.USER_ID, c.ITEM_ID, c.ITEM_INDEX, c.EVENT_TIME, pl.col(c.EVENT_TIME).dt.date().cast(pl.Int32).alias(c.EVENT_DAY), c.EVENT_TYPE)
    )


def histories(interactions: pl.LazyFrame, cutoff: date, max_history: int) -> pl.LazyFrame:
    """The newest `max_history` events of every user strictly before the cut-off.

    Grain: one row per user_id (and the one cutoff), sorted by user_id.
    Columns: user_id, cutoff, item_id, event_time, event_type (lists of equal length, newest last; ties in source order); of types see `kinds_of_events`.
    """
    return (
        kinds_of_events(before(interactions, cutoff))
        .sort(c.EVENT_TIME, maintain_order=True)
        .group_by(c.USER_ID, maintain_order=True)
        .agg(pl.col(c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE).tail(max_history))
        .select(c.USER_ID, pl.lit(cutoff).alias(c.CUTOFF), c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE)
        .sort(c.USER_ID)
    )
