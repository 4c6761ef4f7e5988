"""Repeat behaviour: what a user had of an item before a cut-off, and what that says on the day of a request.

`habits` looks back once per cut-off; `habit_inputs` is arithmetic on its rows, the same for training and for a request.
"""

from collections.abc import Sequence
from datetime import date

import polars as pl

from contracts import columns as c
from features.feature import Feature, float32, names
from features.time_splits import before, last_year_window, lead_days, made_by

HALF_LIVES_DAYS = (14, 45, 90, 180, 365)
REMEMBERED_DAYS = 820  # two years of 52 weeks, a window of four weeks and its margins: enough for leads of up to a year and a half
LAST_YEAR_PAD_DAYS = 14
_PAIR = [c.USER_ID, c.ITEM_ID]


def decayed_column(half_life_days: int) -> str:
    """Column of a decayed count: 90 -> `decayed_90d`."""
    return f"decayed_{half_life_days}d"


def _day(cutoff: date) -> int:
    return (cutoff - date(1970, 1, 1)).days


def purchase_days(interactions: pl.LazyFrame, cutoff: date) -> pl.LazyFrame:
    """Days on which a user had an item, strictly before the cut-off.

    Grain: one row per (user_id, item_id, day). `day` Int32 since 1970-01-01 UTC; units is the sum of quantity, one where it is missing.
    Several events of one day are one basket: lines of an invoice and double clicks say nothing about habit.
    """
    return (
        before(interactions, cutoff)
        .select(*_PAIR, pl.col(c.EVENT_TIME).dt.date().cast(pl.Int32).alias("day"), pl.col(c.QUANTITY).fill_null(1.0).alias(c.UNITS))
        .group_by(*_PAIR, "day")
        .agg(pl.col(c.UNITS).sum())
    )


def item_repeats(interactions: pl.LazyFrame, cutoff: date) -> pl.LazyFrame:
    """How items are bought again: share of buyers who came back and typical interval.

    Grain: one row per item_id with an event before the cut-off, sorted.
    item_repeat_share is pulled to the share over all pairs by 10 pseudo-buyers, item_interval_days to the mean interval by 5.
    """
    return repeats_of(repeat_counts(interactions, cutoff))


def repeat_counts(interactions: pl.LazyFrame, cutoff: date) -> pl.LazyFrame:
    """Buyers, buyers who came back and the sum of their mean intervals, strictly before the cut-off. Grain: one row per item_id; adds up over users."""
    return _counts_of_pairs(_counts(purchase_days(interactions, cutoff)))


def repeats_of(counts: pl.LazyFrame) -> pl.LazyFrame:
    """`item_repeats` from `repeat_counts`; rows of an item (from several parts of the users) are added up. Grain: one row per item_id, sorted."""
    items = counts.group_by(c.ITEM_ID).agg(pl.col(c.BUYERS, "repeaters", "intervals").sum())
    share = pl.col("repeaters").sum() / pl.col(c.BUYERS).sum()
    interval = pl.col("intervals").sum() / pl.max_horizontal(pl.col("repeaters").sum(), 1)
    return items.select(
        c.ITEM_ID,
        ((pl.col("repeaters") + 10 * share) / (pl.col(c.BUYERS) + 10)).alias(c.ITEM_REPEAT_SHARE),
        ((pl.col("intervals") + 5 * interval) / (pl.col("repeaters") + 5)).alias(c.ITEM_INTERVAL_DAYS),
    ).sort(c.ITEM_ID)


def _counts_of_pairs(pairs: pl.LazyFrame) -> pl.LazyFrame:
    again = pl.col(c.BASKETS) > 1
    return pairs.group_by(c.ITEM_ID).agg(pl.len().alias(c.BUYERS), again.sum().alias("repeaters"), pl.col(c.INTERVAL_DAYS).sum().alias("intervals"))


def _counts(days: pl.LazyFrame) -> pl.LazyFrame:
    """Baskets and own interval of each pair. Grain: one row per (user_id, item_id)."""
    pairs = days.group_by(_PAIR).agg(pl.len().alias(c.BASKETS), pl.col("day").min().alias(c.FIRST_DAY), pl.col("day").max().alias(c.LAST_DAY))
    return pairs.with_columns(_interval())


def _interval() -> pl.Expr:
    interval = (pl.col(c.LAST_DAY) - pl.col(c.FIRST_DAY)) / (pl.col(c.BASKETS) - 1)
    return pl.when(pl.col(c.BASKETS) > 1).then(interval).alias(c.INTERVAL_DAYS)


def _pairs(days: pl.LazyFrame, cutoff: date, half_lives_days: Sequence[int]) -> pl.LazyFrame:
    """All of a pair's own past. Grain: one row per (user_id, item_id), sorted.

    Sorted once and cut into runs: the lists of days come in order, and no group looks its key up.
    """
    age = _day(cutoff) - 1 - pl.col("day")  # 0 is the day before the cut-off
    run = pl.any_horizontal(pl.col(key) != pl.col(key).shift() for key in _PAIR).fill_null(False).cum_sum()
    pairs = (
        days.sort(*_PAIR, "day")
        .group_by(run.alias("run"), maintain_order=True)
        .agg(
            pl.col(_PAIR).first(),
            pl.len().alias(c.BASKETS),
            pl.col(c.UNITS).sum(),
            pl.col("day").first().alias(c.FIRST_DAY),
            pl.col("day").last().alias(c.LAST_DAY),
            *((0.5 ** (age / half_life)).sum().cast(pl.Float32).alias(decayed_column(half_life)) for half_life in half_lives_days),
            pl.col("day").filter(age < REMEMBERED_DAYS).alias(c.DAYS),
        )
    )
    return pairs.with_columns(_interval())


def habits(
    interactions: pl.LazyFrame,
    cutoff: date,
    half_lives_days: Sequence[int] = HALF_LIVES_DAYS,
    *,
    items: pl.LazyFrame | None = None,
    log_first_day: date | None = None,
) -> pl.LazyFrame:
    """What every user had of every item strictly before the cut-off.

    Grain: one row per (user_id, item_id) (and the one cutoff), sorted.

    decayed_{n}d          baskets, each halved in weight every n days of age; the day before the cut-off counts 1
    baskets, units        days with an event; sum of quantity
    first_day, last_day   Int32, days since 1970-01-01
    interval_days         mean days between baskets, null for one basket
    days                  list of the baskets' days of the last 820 days, oldest first: last year's weeks for any request date
    item_repeat_share, item_interval_days   of the item over all users, see `item_repeats`
    user_trips, user_trips_45d, user_last_day   days on which the user had anything: number, decayed number, latest
    log_first_day         first day of the log: where nothing could be known

    Parameters
    ----------
    items
        `item_repeats` of all users, where `interactions` holds a few users only (a request); computed from `interactions` otherwise.
    log_first_day
        First day of the whole log, for the same case.
    """
    days = purchase_days(interactions, cutoff).cache()  # else every use of it counts anew
    pairs = _pairs(days, cutoff, half_lives_days).cache()
    age = _day(cutoff) - 1 - pl.col("day")
    users = (
        days.group_by(c.USER_ID, "day")
        .agg()
        .group_by(c.USER_ID)
        .agg(pl.len().alias(c.USER_TRIPS), (0.5 ** (age / 45)).sum().alias(c.USER_TRIPS_45D), pl.col("day").max().alias(c.USER_LAST_DAY))
    )
    first_day = pl.lit(_day(log_first_day)) if log_first_day else pl.col(c.FIRST_DAY).min()
    decayed = [decayed_column(half_life) for half_life in half_lives_days]
    return (
        pairs.join(items if items is not None else repeats_of(_counts_of_pairs(pairs)), on=c.ITEM_ID, how="left", maintain_order="left")
        .join(users, on=c.USER_ID, how="left", maintain_order="left")
        .select(
            *_PAIR,
            pl.lit(cutoff).alias(c.CUTOFF),
            *decayed,
            pl.col(c.BASKETS).cast(pl.Int32),
            pl.col(c.UNITS).cast(pl.Float32),
            c.FIRST_DAY,
            c.LAST_DAY,
            pl.col(c.INTERVAL_DAYS).cast(pl.Float32),
            c.DAYS,
            pl.col(c.ITEM_REPEAT_SHARE).cast(pl.Float32),
            pl.col(c.ITEM_INTERVAL_DAYS).cast(pl.Float32),
            pl.col(c.USER_TRIPS).cast(pl.Int32),
            pl.col(c.USER_TRIPS_45D).cast(pl.Float32),
            c.USER_LAST_DAY,
            first_day.cast(pl.Int32).alias(c.LOG_FIRST_DAY),
        )
    )


def habit_features(cutoff: date, request_date: date, *, horizon_days: int = 28, half_lives_days: Sequence[int] = HALF_LIVES_DAYS) -> list[Feature]:
    """Network inputs of a habits row at a request date. Constants only shift the input's usual range to around zero.

    Raises FeatureLeakageError for a request date before the cut-off.
    """
    lead, today = lead_days(cutoff, request_date), _day(request_date)
    since = today - pl.col(c.LAST_DAY)
    # one interval of the item beside the user's own: a single basket has none, and two say little
    interval = (pl.col(c.INTERVAL_DAYS).fill_null(0) * (pl.col(c.BASKETS) - 1) + pl.col(c.ITEM_INTERVAL_DAYS)) / pl.col(c.BASKETS)
    overdue = ((since + 1) / (interval + 1)).log()
    half_life = min(half_lives_days, key=lambda days: abs(days - 90))
    first, last = last_year_window(lead, horizon_days, LAST_YEAR_PAD_DAYS)
    unpadded, _ = last_year_window(lead, horizon_days)
    in_window = pl.col(c.DAYS).list.eval(pl.element().is_between(_day(cutoff) - first, _day(cutoff) - last, closed="left")).list.sum()
    known = pl.col(c.LOG_FIRST_DAY) <= _day(cutoff) - unpadded
    own, of_item, of_user = "own baskets", "all users' baskets of the item", "the user's days with anything"
    return [
        *(
            Feature(f"habit_log_decayed_{days}d", (pl.col(decayed_column(days)) + 0.01).log(), f"log of (baskets with a half-life of {days} days + 0.01)", own)
            for days in half_lives_days
        ),
        Feature("habit_log_baskets", pl.col(c.BASKETS).log(), "log of the number of baskets", own),
        Feature(
            "habit_log_units_per_basket", (pl.col(c.UNITS) / pl.col(c.BASKETS)).clip(0.01, 1000).log(), "log of units per basket, clipped to 0.01..1000", own
        ),
        Feature("habit_log_days_since", since.log1p() - 4, "log of (days from the last basket to the request + 1) - 4", own),
        Feature(
            "habit_log_interval", interval.log1p() - 3, "log of (own mean interval, one interval of the item added to the user's + 1) - 3", f"{own}; {of_item}"
        ),
        Feature("habit_log_since_over_interval", overdue, "log of (days since last + 1) / (interval + 1); 0 when due", f"{own}; {of_item}"),
        Feature("habit_due", overdue.tanh() ** 2, "tanh of the former, squared: 0 when due, 1 far from it on either side", f"{own}; {of_item}"),
        Feature("habit_log_user_trips", pl.col(c.USER_TRIPS).log1p() - 3, "log of (the user's active days + 1) - 3", of_user),
        Feature("habit_log_user_trips_45d", pl.col(c.USER_TRIPS_45D).log1p() - 2, "log of (active days with a half-life of 45 days + 1) - 2", of_user),
        Feature(
            "habit_log_share_of_trips",
            ((pl.col(decayed_column(half_life)) + 0.1) / (pl.col(c.USER_TRIPS_45D) + 1)).log(),
            f"log of (baskets, half-life {half_life} days, + 0.1) / (active days, half-life 45 days, + 1)",
            f"{own}; {of_user}",
        ),
        Feature(
            "habit_log_user_days_since",
            (today - pl.col(c.USER_LAST_DAY)).log1p() - 3,
            "log of (days from the user's last active day to the request + 1) - 3",
            of_user,
        ),
        Feature(
            "habit_logit_item_repeat",
            (pl.col(c.ITEM_REPEAT_SHARE).clip(0.001, 0.999) / (1 - pl.col(c.ITEM_REPEAT_SHARE).clip(0.001, 0.999))).log(),
            "logit of the share of the item's buyers who came back",
            of_item,
        ),
        Feature(
            "habit_log_last_year_weeks",
            pl.when(known).then(in_window.fill_null(0)).otherwise(0).log1p(),
            f"log of (baskets in the request window 52 weeks before, {LAST_YEAR_PAD_DAYS} days either side, + 1); 0 where the log does not reach back",
            "own baskets of last year",
        ),
        Feature("habit_last_year_known", known.cast(pl.Float32), "1 where the log reaches back to that window", "first day of the log"),
        Feature("habit_lead", pl.lit(lead / 84), "days from cut-off to request, over 84", "-"),
    ]


def habit_input_names(half_lives_days: Sequence[int] = HALF_LIVES_DAYS) -> tuple[str, ...]:
    """Names and order of the network inputs for these half-lives."""
    return names(habit_features(date(1970, 1, 1), date(1970, 1, 1), half_lives_days=half_lives_days))


HABIT_INPUTS = habit_input_names()


def habit_inputs(
    habits: pl.LazyFrame, request_date: date, *, cutoff: date, horizon_days: int = 28, half_lives_days: Sequence[int] = HALF_LIVES_DAYS
) -> pl.LazyFrame:
    """The habits table with the network inputs `habit_input_names(half_lives_days)` (Float32, never null) beside it.

    Grain and order: unchanged. `cutoff` is the one the table was made at.
    Raises FeatureLeakageError for a request date before the cut-off, or (at collect) for habits made at a later one.
    """
    features = habit_features(cutoff, request_date, horizon_days=horizon_days, half_lives_days=half_lives_days)
    return made_by(habits, cutoff, name="habits").with_columns(float32(features))
