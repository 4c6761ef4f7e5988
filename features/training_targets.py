"""What users with a history really chose in a window: the labels of fine-tuning and of evaluation."""

from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl

from contracts import columns as c
from features.time_splits import before, within


def training_targets(interactions: pl.LazyFrame, cutoff: date, lead_days: int, horizon_days: int, target_events: Sequence[str]) -> pl.LazyFrame:
    """Distinct items chosen in `[cutoff + lead, cutoff + lead + horizon)`.

    Grain: one row per (user_id, item_id), sorted. Columns: user_id, item_id, is_new.
    Only users with an event before the cut-off and items with one (the candidates); `is_new` marks items this user had no event with
    before the cut-off: the targets of the list `discover`. History counts every type of event, targets only `target_events`.
    """
    past = before(interactions, cutoff).select(c.USER_ID, c.ITEM_ID)
    chosen = (
        within(interactions, cutoff + timedelta(days=lead_days), horizon_days)
        .filter(pl.col(c.EVENT_TYPE).is_in(list(target_events)))
        .select(c.USER_ID, c.ITEM_ID)
        .unique()
        .join(past.select(c.USER_ID).unique(), on=c.USER_ID, how="semi")
        .join(past.select(c.ITEM_ID).unique(), on=c.ITEM_ID, how="semi")
    )
    had = past.unique().with_columns(pl.lit(False).alias(c.IS_NEW))
    return chosen.join(had, on=[c.USER_ID, c.ITEM_ID], how="left").with_columns(pl.col(c.IS_NEW).fill_null(True)).sort(c.USER_ID, c.ITEM_ID)
