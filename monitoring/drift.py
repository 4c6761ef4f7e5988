"""Drift of volume and of the mix of categories, week by week, against the same season last year and against the weeks before.

A week is suspicious only where **both** disagree with it: December is unlike November but like last December, a slow trend is unlike last year but like the
weeks before, and neither is an alarm. Last year's weeks are scaled by how the eight weeks before went against their own last year, so that growth is no drift.
Feasts move, so last year is a range over three weeks either side.

    weeks = weekly_counts(interactions, item_catalogue, end)     week, category, events
    drift_of(weeks)                                              one row per week: distances and whether it is an alarm
"""

from datetime import date
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contracts import columns as c

WEEK: Final = "week"
EVENTS: Final = "events"
YEAR_WEEKS: Final = 52
LAST_YEAR_REACH: Final = 3  # weeks either side: Easter moves by up to five weeks, most of it within three
TREND_WEEKS: Final = 8
RECENT: Final = (2, 6)  # the week just before is left out: it may be the first one of the drift
VOLUME_LIMIT: Final = 0.12  # share of the expected volume
MIX_LIMIT: Final = 0.03  # share of events in other categories than the range and chance allow
ERRORS_ALLOWED: Final = 2.0  # standard errors of a share that count as chance

Floats = NDArray[np.float64]


def weekly_counts(interactions: pl.LazyFrame, item_catalogue: pl.LazyFrame | None, end: date) -> pl.DataFrame:
    """Events by week and coarsest category; weeks of seven days are counted back from `end` (exclusive), an unfinished first one is left out.

    Grain: one row per (week, category), complete: absent pairs count 0. `week` is the first day. Items without a category are one category of their own.
    """
    day = pl.col(c.EVENT_TIME).dt.date()
    first = interactions.select(day.min()).collect().item()
    num_weeks = max((end - first).days // 7, 0)
    ago = ((pl.lit(end) - day).dt.total_days() - 1) // 7
    named = interactions.select(c.ITEM_ID, ago.alias("ago")).filter(pl.col("ago").is_between(0, num_weeks - 1))
    if item_catalogue is None:
        named = named.with_columns(pl.lit("").alias(c.CATEGORY))
    else:
        coarse = pl.col(c.CATEGORY).str.split(c.CATEGORY_SEPARATOR).list.first().fill_null("")
        named = named.join(item_catalogue.select(c.ITEM_ID, coarse), on=c.ITEM_ID, how="left").with_columns(pl.col(c.CATEGORY).fill_null(""))
    counts = named.group_by("ago", c.CATEGORY).agg(pl.len().cast(pl.Int64).alias(EVENTS)).collect()
    grid = pl.DataFrame({"ago": pl.int_range(num_weeks, eager=True)}).join(counts.select(c.CATEGORY).unique(), how="cross")
    return (
        grid.join(counts.with_columns(pl.col("ago").cast(pl.Int64)), on=["ago", c.CATEGORY], how="left")
        .select((pl.lit(end) - pl.duration(days=(pl.col("ago") + 1) * 7)).cast(pl.Date).alias(WEEK), c.CATEGORY, pl.col(EVENTS).fill_null(0))
        .sort(WEEK, c.CATEGORY)
    )


def drift_of(weeks: pl.DataFrame) -> pl.DataFrame:
    """Distance of every week from what was to be expected.

    Grain: one row per week, oldest first; distances are null in the first year and for weeks without events.

    volume, volume_expected                     events, and last year's scaled by the trend
    volume_from_last_year, volume_from_weeks_before    distance outside the range, as a share of its nearest end
    mix_from_last_year, mix_from_weeks_before          share of events in other categories than the range and chance allow
    is_volume_alarm, is_mix_alarm               the one from last year beyond its limit, the one from the weeks before beyond half of it
    most_changed                                category with the largest distance from last year
    """
    wide = weeks.pivot(on=c.CATEGORY, index=WEEK, values=EVENTS, sort_columns=True).sort(WEEK).fill_null(0)
    names = [name for name in wide.columns if name != WEEK]
    counts = wide.select(names).to_numpy().astype(np.float64)  # [weeks, categories]
    rows = [_week(counts, row, names) for row in range(len(counts))]
    table = pl.DataFrame(rows, schema=_SCHEMA, orient="row", infer_schema_length=None)
    return pl.concat([wide.select(WEEK), table], how="horizontal")


_SCHEMA: Final = {
    "volume": pl.Float64,
    "volume_expected": pl.Float64,
    "volume_from_last_year": pl.Float64,
    "volume_from_weeks_before": pl.Float64,
    "mix_from_last_year": pl.Float64,
    "mix_from_weeks_before": pl.Float64,
    "is_volume_alarm": pl.Boolean,
    "is_mix_alarm": pl.Boolean,
    "most_changed": pl.String,
}


def _week(counts: Floats, row: int, names: list[str]) -> tuple[object, ...]:
    volume = float(counts[row].sum())
    first = row - YEAR_WEEKS - LAST_YEAR_REACH
    if first < 0 or row < TREND_WEEKS + YEAR_WEEKS or volume == 0:
        return (volume, None, None, None, None, None, False, False, None)
    last_year = counts[first : row - YEAR_WEEKS + LAST_YEAR_REACH + 1]
    recent = counts[row - RECENT[1] : row - RECENT[0] + 1]
    trend_now, trend_then = counts[row - TREND_WEEKS : row], counts[row - TREND_WEEKS - YEAR_WEEKS : row - YEAR_WEEKS]
    scale = trend_now.sum() / max(trend_then.sum(), 1.0)
    expected = counts[row - YEAR_WEEKS].sum() * scale
    near = counts[row - YEAR_WEEKS - 1 : row - YEAR_WEEKS + 2].sum(axis=1) * scale
    volumes = _outside(np.array([volume]), near[:, None]), _outside(np.array([volume]), recent.sum(axis=1)[:, None])
    shares = counts[row] / volume
    allowed = ERRORS_ALLOWED * np.sqrt(np.maximum(shares * (1 - shares), 1e-4) / volume)
    by_category = _share_trend(trend_now, trend_then)
    then = _shares(last_year * by_category)
    away = _moved(shares, then, allowed)
    mixes = _size(away), _size(_moved(shares, _shares(recent), allowed))
    return (
        volume,
        float(expected),
        volumes[0],
        volumes[1],
        mixes[0],
        mixes[1],
        bool(volumes[0] > VOLUME_LIMIT and volumes[1] > VOLUME_LIMIT / 2),
        bool(mixes[0] > MIX_LIMIT and mixes[1] > MIX_LIMIT / 2),
        names[int(np.abs(away).argmax())] if away.any() else None,
    )


def _shares(counts: Floats) -> Floats:
    """Rows [weeks, categories] as shares of their week."""
    shares: Floats = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    return shares


def _share_trend(now: Floats, then: Floats) -> Floats:
    """How each category's share of the last weeks stands to its share in the same weeks a year before, pulled to 1 by one event in a hundred."""
    total_now, total_then = now.sum(), then.sum()
    pseudo = 0.01
    ratio: Floats = (now.sum(axis=0) / max(total_now, 1.0) + pseudo) / (then.sum(axis=0) / max(total_then, 1.0) + pseudo)
    return ratio


def _distance(values: Floats, ranges: Floats) -> Floats:
    """How far each value lies outside the range of its column; 0 inside."""
    distance: Floats = np.maximum(np.maximum(ranges.min(axis=0) - values, values - ranges.max(axis=0)), 0.0)
    return distance


def _moved(shares: Floats, ranges: Floats, allowed: Floats) -> Floats:
    """Signed distance of each share beyond its range and what chance allows."""
    above, below = shares - ranges.max(axis=0) - allowed, ranges.min(axis=0) - shares - allowed
    moved: Floats = np.maximum(above, 0.0) - np.maximum(below, 0.0)
    return moved


def _size(moved: Floats) -> float:
    """Share that came to some categories or left others, whichever shows more: the other side may lie inside its ranges."""
    return float(max(moved.clip(min=0).sum(), -moved.clip(max=0).sum()))


def _outside(value: Floats, ranges: Floats) -> float:
    """Distance of a value from a range, as a share of its nearest end."""
    distance = float(_distance(value, ranges)[0])
    if distance == 0:
        return 0.0
    low, high = float(ranges.min()), float(ranges.max())
    return distance / max(low if value[0] < low else high, 1.0)
