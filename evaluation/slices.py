"""Groups for which a metric is reported: of users at a request date, and of items among the targets."""

import datetime as dt
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from contracts import columns as c
from evaluation.targets import Cutoff, Interactions, before, instant

SeasonNames = Mapping[str, tuple[int, int]]

HALF_YEAR_DAYS = 182
TURN_DAYS = 28  # how long before and after its first day a season counts as turning
ACTIVITY_BOUNDS = (5, 20, 100)  # events before the cut-off
ACTIVITY_LABELS = ("1 to 4 events", "5 to 19 events", "20 to 99 events", "100 events or more")
AGE_BOUNDS = (28, 182)  # days since the item's first event
AGE_LABELS = ("younger than 28 days", "28 to 181 days", "182 days or older")
PERIODS_OF_YEAR = 13
MIN_EVENTS_OF_SEASONAL = 10
MIN_SHARE_OF_SEASONAL = 0.6  # of a year's events in the busiest twelve weeks in a row; an even year has 0.23
METEOROLOGICAL_SEASONS: SeasonNames = {"winter": (335, 59), "spring": (60, 151), "summer": (152, 243), "autumn": (244, 334)}


def season_of(day: dt.date, season_names: SeasonNames, *, is_southern: bool = False) -> str:
    """Name the part of the year a day lies in; `outside` where no season covers it. In the south the year is half a year ahead.

    Examples
    --------
    >>> season_of(dt.date(2024, 1, 15), METEOROLOGICAL_SEASONS), season_of(dt.date(2024, 1, 15), METEOROLOGICAL_SEASONS, is_southern=True)
    ('winter', 'summer')
    """
    day_of_year = (day + dt.timedelta(days=HALF_YEAR_DAYS if is_southern else 0)).timetuple().tm_yday
    for name, (first, last) in season_names.items():
        inside = first <= day_of_year <= last if first <= last else day_of_year >= first or day_of_year <= last
        if inside or (day_of_year == 366 and last == 365):
            return name
    return "outside"


def turn_of(start: dt.date, horizon_days: int, season_names: SeasonNames, *, is_southern: bool = False) -> str:
    """Where a window lies in relation to the turn of a season: `in the turn`, `before a turn`, `after a turn`, `mid-season`."""

    def season(day: dt.date) -> str:
        return season_of(day, season_names, is_southern=is_southern)

    last = start + dt.timedelta(days=horizon_days - 1)
    if season(start) != season(last):
        return "in the turn"
    if season(last) != season(last + dt.timedelta(days=TURN_DAYS)):
        return "before a turn"
    return "after a turn" if season(start - dt.timedelta(days=TURN_DAYS)) != season(start) else "mid-season"


def user_slices(
    interactions: Interactions,
    cutoff: Cutoff,
    request_date: dt.date,
    horizon_days: int,
    *,
    season_names: SeasonNames | None = None,
    southern_regions: Sequence[str] = (),
) -> pl.DataFrame:
    """Groups a user belongs to at a request date.

    Grain: one row per (user_id, kind), columns kind and slice; users with history only. Kinds: `season` (of the middle of the window, in
    the hemisphere of the user's latest region), `turn`, `activity`, and `region` and `platform` where the events carry them.
    """
    names = season_names or METEOROLOGICAL_SEASONS
    past = before(interactions, cutoff)
    latest = [column for column in (c.REGION, c.PLATFORM) if column in past.collect_schema().names()]
    users = past.group_by(c.USER_ID).agg(pl.len().alias("events"), *(pl.col(column).sort_by(c.EVENT_TIME).drop_nulls().last() for column in latest)).collect()
    middle = request_date + dt.timedelta(days=horizon_days // 2)
    southern = pl.col(c.REGION).is_in(list(southern_regions)).fill_null(value=False) if c.REGION in latest else pl.lit(value=False)

    def by_hemisphere(north: str, south: str) -> pl.Expr:
        return pl.when(southern).then(pl.lit(south)).otherwise(pl.lit(north))

    wide = users.select(
        c.USER_ID,
        by_hemisphere(season_of(middle, names), season_of(middle, names, is_southern=True)).alias("season"),
        by_hemisphere(turn_of(request_date, horizon_days, names), turn_of(request_date, horizon_days, names, is_southern=True)).alias("turn"),
        _bin("events", ACTIVITY_BOUNDS, ACTIVITY_LABELS).alias("activity"),
        *latest,
    )
    return wide.unpivot(index=c.USER_ID, variable_name="kind", value_name="slice").drop_nulls("slice")


def item_slices(interactions: Interactions, cutoff: Cutoff) -> pl.DataFrame:
    """Groups an item belongs to at a cut-off.

    Grain: one row per (item_id, kind), columns kind and slice; items with an event before the cut-off. Kinds: `item_age` (days since
    the first event) and `item_season` (whether twelve weeks in a row hold most of the item's last year).
    """
    age = (pl.lit(instant(cutoff)) - pl.col(c.EVENT_TIME)).dt.total_days()
    past = before(interactions, cutoff).select(c.ITEM_ID, age=age)
    ages = past.group_by(c.ITEM_ID).agg(pl.col("age").max()).sort(c.ITEM_ID).collect()
    period = (pl.col("age") // 28).cast(pl.Int64)
    year = past.filter(pl.col("age") < PERIODS_OF_YEAR * 28).group_by(c.ITEM_ID, period=period).agg(events=pl.len()).collect()
    item = year.join(ages.with_row_index("row"), on=c.ITEM_ID, how="left")["row"].to_numpy()
    counts = np.zeros((ages.height, PERIODS_OF_YEAR))
    counts[item, year["period"].to_numpy()] = year["events"].to_numpy()
    total = counts.sum(1)
    busiest = np.max([np.roll(counts, shift, axis=1)[:, :3].sum(1) for shift in range(PERIODS_OF_YEAR)], axis=0)
    is_seasonal = busiest >= MIN_SHARE_OF_SEASONAL * total
    labels = np.where(total < MIN_EVENTS_OF_SEASONAL, "fewer than 10 events a year", np.where(is_seasonal, "seasonal", "all year"))
    return (
        ages.with_columns(
            item_age=_bin("age", AGE_BOUNDS, AGE_LABELS),
            item_season=pl.Series(labels, dtype=pl.String),
        )
        .drop("age")
        .unpivot(index=c.ITEM_ID, variable_name="kind", value_name="slice")
    )


def _bin(column: str, bounds: Sequence[int], labels: Sequence[str]) -> pl.Expr:
    """Label of the range a number falls in; a bound belongs to the range it opens."""
    label = pl.lit(labels[0])
    for bound, name in zip(bounds, labels[1:], strict=True):
        label = pl.when(pl.col(column) >= bound).then(pl.lit(name)).otherwise(label)
    return label
