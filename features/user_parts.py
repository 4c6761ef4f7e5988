"""Tables of logs that do not fit in memory: one part of the users after the other, then added up.

Counts are additive over users (buyers are distinct users), so a table made of parts equals the table made at once, and what grows with the log is only the
table itself. `write_user_parts` reads the log once. Outliers are clipped before (`clip_outliers`): a quantile does not add up.

    parts = write_user_parts(interactions, folder, num_parts=num_parts_for(num_events))
    weeks = merge_item_weeks([item_weeks(part, cutoff).collect().lazy() for part in parts])
    demand = complete_demand(pl.concat([demand_counts(part, ...).collect().lazy() for part in parts]), ...)
    items = repeats_of(pl.concat([repeat_counts(part, cutoff).collect().lazy() for part in parts])).collect()
    for part in parts: habits(part, cutoff, items=items.lazy(), log_first_day=first_day)
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import polars as pl

from contracts import columns as c

EVENTS_PER_PART = 2_000_000


def num_parts_for(num_events: int, events_per_part: int = EVENTS_PER_PART) -> int:
    """Parts of about `events_per_part` events each."""
    return max(1, ceil(num_events / events_per_part))


def write_user_parts(interactions: pl.LazyFrame, folder: Path, *, num_parts: int) -> list[pl.LazyFrame]:
    """The log split by user into Parquet folders below `folder`, in one streaming pass; returns a lazy frame of each part.

    All events of a user are in one part, in the order of the log. A part that no user fell into is left out.
    """
    number = (pl.col(c.USER_ID).hash(seed=0) % num_parts).alias("part")
    interactions.sink_parquet(pl.PartitionBy(folder, key=number, include_key=False), mkdir=True)
    return [pl.scan_parquet(part / "*.parquet", hive_partitioning=False) for part in sorted(folder.glob("part=*"))]


def merge_item_weeks(parts: Sequence[pl.LazyFrame]) -> pl.LazyFrame:
    """`item_weeks` of all users from those of each part. Grain: one row per (item_id, region, weeks_ago, cutoff), sorted."""
    rows = pl.concat(parts)
    # a part's number of users stands in each of its rows: taken once per part and region
    users = pl.concat([part.group_by(c.REGION).agg(pl.col(c.USERS).max()) for part in parts]).group_by(c.REGION).agg(pl.col(c.USERS).sum())
    key = [c.ITEM_ID, c.REGION, c.WEEKS_AGO, c.CUTOFF]
    return (
        rows.group_by(key)
        .agg(pl.col(c.BUYERS, c.FIRST_BUYERS, c.LAST_BUYERS, c.UNITS).sum())
        .join(users, on=c.REGION)
        .select(c.ITEM_ID, c.REGION, c.WEEKS_AGO, c.BUYERS, c.FIRST_BUYERS, c.LAST_BUYERS, c.UNITS, c.USERS, c.CUTOFF)
        .sort(key)
    )
