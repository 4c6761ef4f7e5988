"""What a month of the log adds to the tables at any later cut-off.

A month that did not change is not read again; tables made from parts equal those made from all events.

    purchases = purchase_part(month)          of each month; then habits(pl.concat(parts), cutoff), item_weeks(pl.concat(parts), cutoff)
    newest = history_part(month, 512)         of each month before that of the cut-off; then histories(pl.concat([*parts, that month]), cutoff, 512)
"""

from collections.abc import Sequence

import polars as pl

from contracts import columns as c
from features.histories import kinds_of_events


def purchase_part(interactions: pl.LazyFrame, target_events: Sequence[str]) -> pl.LazyFrame:
    """Days on which a user had an item in a region: all that `habits` and `item_weeks` look at.

    Grain: one row per (user_id, item_id, region, day), sorted. event_time is the start of the day, quantity the sum of the day, one where it is missing.
    """
    day = pl.col(c.EVENT_TIME).dt.truncate("1d")
    return (
        interactions.filter(pl.col(c.EVENT_TYPE).is_in(list(target_events)))
        .group_by(c.USER_ID, c.ITEM_ID, c.REGION, day)
        .agg(pl.col(c.QUANTITY).fill_null(1.0).sum())
        .sort(c.USER_ID, c.ITEM_ID, c.REGION, c.EVENT_TIME)
    )


def history_part(interactions: pl.LazyFrame, max_history: int) -> pl.LazyFrame:
    """The newest `max_history` events of every user in these rows, in order of time (ties in source order). Grain: event."""
    return (
        kinds_of_events(interactions)
        .sort(c.EVENT_TIME, maintain_order=True)
        .group_by(c.USER_ID, maintain_order=True)
        .agg(pl.col(c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE).tail(max_history))
        .explode(c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE)
    )
