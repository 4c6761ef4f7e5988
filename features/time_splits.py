"""The one rule about the future, used by every table here.

Raw events are *cut*: a function with a `cutoff` reads only events strictly before it, whatever it is given.
Tables that carry the cut-off they were made at are *checked*: a later one raises FeatureLeakageError when the plan runs.
"""

from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from contracts import columns as c
from contracts.errors import FeatureLeakageError


def midnight(day: date) -> datetime:
    """Start of a day, UTC: the instant a cut-off stands for."""
    return datetime.combine(day, time(), UTC)


def before(interactions: pl.LazyFrame, cutoff: date) -> pl.LazyFrame:
    """Events strictly before the cut-off, 00:00 UTC."""
    return interactions.filter(pl.col(c.EVENT_TIME) < midnight(cutoff))


def within(interactions: pl.LazyFrame, first: date, num_days: int) -> pl.LazyFrame:
    """Events of `[first, first + num_days)`."""
    return interactions.filter((pl.col(c.EVENT_TIME) >= midnight(first)) & (pl.col(c.EVENT_TIME) < midnight(first + timedelta(days=num_days))))


def made_by(table: pl.LazyFrame, cutoff: date, *, name: str) -> pl.LazyFrame:
    """The table, refused when it runs if any of its rows was made at a later cut-off.

    Raises FeatureLeakageError (at collect).
    """

    def _check(frame: pl.DataFrame) -> pl.DataFrame:
        latest = frame[c.CUTOFF].max()
        if isinstance(latest, date) and latest > cutoff:
            raise FeatureLeakageError(
                f"{name}: expected rows made at or before the cut-off {cutoff}, found rows made at {latest}. "
                f"Build {name} with cutoff={cutoff}, or ask for a later cut-off.",
                step="build_season",
            )
        return frame

    return table.map_batches(_check, predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False, validate_output_schema=False)


def lead_days(cutoff: date, request_date: date) -> int:
    """Days from the cut-off to the request date.

    Raises FeatureLeakageError for a request date before the cut-off: the answer would know its own future.
    """
    lead = (request_date - cutoff).days
    if lead < 0:
        raise FeatureLeakageError(
            f"request date: expected {cutoff} (the cut-off) or later, found {request_date}. "
            f"Ask for a later date, or use tables made at a cut-off of {request_date} or before."
        )
    return lead


def last_year_window(lead: int, horizon_days: int, pad_days: int = 0) -> tuple[int, int]:
    """The request window moved back by whole years of 52 weeks, as days before the cut-off: (first, last), first > last >= 0.

    As few years as let the unpadded window end by the cut-off; the padded end is clipped at the cut-off.
    364 days keep the weekday. A lead of 28 and a horizon of 28 gives (336, 308).

    Examples
    --------
    >>> last_year_window(28, 28)
    (336, 308)
    >>> last_year_window(28, 28, pad_days=14)
    (350, 294)
    >>> last_year_window(350, 28)
    (378, 350)
    """
    years = 1
    while lead + horizon_days > 364 * years:
        years += 1
    first = 364 * years - lead + pad_days
    last = 364 * years - lead - horizon_days - pad_days
    return first, max(last, 0)
