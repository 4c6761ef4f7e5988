"""Sales of every item in the weeks before a cut-off: all a model must store to compute its season rows for any later date."""

from datetime import date

import polars as pl

from contracts import columns as c
from features.time_splits import before, midnight

WEEK_US = 7 * 86_400_000_000


def item_weeks(interactions: pl.LazyFrame, cutoff: date, *, by_region: bool = False) -> pl.LazyFrame:
    """Buyers and units per item and week, weeks counted back from the cut-off.

    Grain: one row per (item_id, region, weeks_ago) with sales (and the one cutoff); weeks without are absent. Sorted.
    weeks_ago 0 is the seven days that end at the cut-off, exclusive. Region `all` holds everything; `by_region` adds a row set per region,
    events without region count in `all` only.

    buyers          distinct users of the week
    first_buyers    users who had this item in this week for the first time
    last_buyers     users who had it in this week for the last time before the cut-off
    units           sum of quantity, one where it is missing
    users           distinct users of the region before the cut-off, the same in every row

    Sums over weeks: first_buyers over weeks >= w gives all who had it by then, last_buyers over weeks < w the distinct buyers
    of the last w weeks, exactly. buyers adds up to buyer-weeks.
    """
    delta = (pl.lit(midnight(cutoff)) - pl.col(c.EVENT_TIME)).dt.total_microseconds()
    events = before(interactions, cutoff).select(
        c.ITEM_ID,
        c.USER_ID,
        *([c.REGION] if by_region else []),
        ((delta - 1) // WEEK_US).cast(pl.Int32).alias(c.WEEKS_AGO),
        pl.col(c.QUANTITY).fill_null(1.0).alias(c.UNITS),
    )
    if not by_region:
        return _count(events, cutoff, [])
    everywhere = events.with_columns(pl.lit(c.ALL_REGIONS).alias(c.REGION))
    return _count(pl.concat([everywhere, events.filter(pl.col(c.REGION).is_not_null())]), cutoff, [c.REGION])


def _count(rows: pl.LazyFrame, cutoff: date, region: list[str]) -> pl.LazyFrame:
    """Count what `item_weeks` says; without a region in the rows (one key less to group by) all of them are region `all`."""
    item = [c.ITEM_ID, *region]
    week = [*item, c.WEEKS_AGO]
    visits = rows.group_by(*week, c.USER_ID).agg(pl.col(c.UNITS).sum()).cache()  # else every use of it counts anew
    pairs = visits.group_by(*item, c.USER_ID).agg(pl.col(c.WEEKS_AGO).max().alias("first_week"), pl.col(c.WEEKS_AGO).min().alias("last_week"))
    counts = visits.group_by(week).agg(pl.len().alias(c.BUYERS), pl.col(c.UNITS).sum())
    firsts = pairs.group_by(*item, pl.col("first_week").alias(c.WEEKS_AGO)).agg(pl.len().alias(c.FIRST_BUYERS))
    lasts = pairs.group_by(*item, pl.col("last_week").alias(c.WEEKS_AGO)).agg(pl.len().alias(c.LAST_BUYERS))
    users = visits.group_by(*region, c.USER_ID).agg()
    users = users.group_by(region).agg(pl.len().alias(c.USERS)) if region else users.select(pl.len().alias(c.USERS))
    known = counts.join(firsts, on=week, how="left").join(lasts, on=week, how="left")
    known = known.join(users, on=region, how="left") if region else known.join(users, how="cross").with_columns(pl.lit(c.ALL_REGIONS).alias(c.REGION))
    return known.select(
        c.ITEM_ID,
        c.REGION,
        c.WEEKS_AGO,
        pl.col(c.BUYERS).cast(pl.UInt32),
        pl.col(c.FIRST_BUYERS).fill_null(0).cast(pl.UInt32),
        pl.col(c.LAST_BUYERS).fill_null(0).cast(pl.UInt32),
        c.UNITS,
        pl.col(c.USERS).cast(pl.UInt32),
        pl.lit(cutoff).alias(c.CUTOFF),
    ).sort(c.ITEM_ID, c.REGION, c.WEEKS_AGO)
