"""Behaviour with its seasons destroyed and everything else kept: whoever still finds a season there is leaking or over-fitting."""

import math

import numpy as np
import polars as pl

from contracts import columns as c
from evaluation.targets import Interactions

MAX_SHIFT_DAYS = 363


def rotate_histories(interactions: Interactions, seed: int) -> pl.DataFrame:
    """Move each user's whole history by a random number of days, wrapped round the span of the data.

    Grain: one row per event, as many as came in, ordered by time with ties in their old order. A user's shift is drawn from 0..363 by the rank
    of the user's id, so every model sees the same control. Time of day and the distances within a history stay, but for the one wrap.
    """
    events = interactions.lazy().collect()
    users = events[c.USER_ID].unique().sort()
    shifts = np.random.default_rng(seed).integers(0, MAX_SHIFT_DAYS + 1, len(users))
    first = events.select(pl.col(c.EVENT_TIME).min().dt.truncate("1d")).item()
    last = events.select(pl.col(c.EVENT_TIME).max()).item()
    span_days = math.floor((last - first).total_seconds() / 86_400) + 1
    moved = pl.DataFrame({c.USER_ID: users, "shift": shifts})
    day = (pl.col(c.EVENT_TIME) - first).dt.total_days()
    wrapped = (day + pl.col("shift")) % span_days
    return (
        events.join(moved, on=c.USER_ID, how="left", maintain_order="left")
        .with_columns(pl.col(c.EVENT_TIME) + pl.duration(days=wrapped - day))
        .drop("shift")
        .sort(c.EVENT_TIME, maintain_order=True)
    )
