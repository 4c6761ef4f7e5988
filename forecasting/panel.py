"""Demand as one matrix: rows are series, columns are periods, gaps filled and marked before any model sees them.

S series, T periods; `values` [S, T] is NaN before a series' first period and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from contracts import columns as c

KEY = (c.LEVEL, c.ID, c.REGION)
EPOCH = date(1970, 1, 1)
FREQUENCY_DAYS = {"day": 1, "week": 7}


@dataclass(frozen=True)
class Panel:
    """Series of one frequency that end together.

    keys       [S] rows of (level, id, region), sorted
    dates      [T] first day of each period
    values     [S, T] units, NaN before the first period
    filled     [S, T] True where a missing or unobserved value was filled
    notes      [S] what was done to a series, empty text if nothing
    frequency  `day`, `week` or `month`
    """

    keys: pl.DataFrame
    dates: np.ndarray
    values: np.ndarray
    filled: np.ndarray
    notes: np.ndarray
    frequency: str

    @property
    def num_periods(self) -> int:
        """T."""
        return len(self.dates)

    def rows_of(self, level: str) -> np.ndarray:
        """Row numbers of one level."""
        return np.flatnonzero((self.keys[c.LEVEL] == level).to_numpy())

    def known_periods(self, cutoff: date) -> int:
        """Number of periods that end at or before a cut-off."""
        ends = [shift_periods(d, 1, self.frequency) for d in (self.dates[0].astype(object), self.dates[-1].astype(object))]
        if cutoff >= ends[1]:
            return self.num_periods
        if cutoff < ends[0]:
            return 0
        next_starts = np.append(self.dates[1:], np.datetime64(ends[1]))
        return int(np.searchsorted(next_starts, np.datetime64(cutoff), side="right"))

    def future_dates(self, known: int, horizon: int) -> list[date]:
        """First days of the `horizon` periods after the first `known` ones."""
        start = shift_periods(self.dates[0].astype(object), known, self.frequency)
        return [shift_periods(start, step, self.frequency) for step in range(horizon)]


def shift_periods(day: date, periods: int, frequency: str) -> date:
    """First day of the period that lies `periods` after the one beginning on `day`."""
    if frequency == "month":
        months = day.year * 12 + day.month - 1 + periods
        return date(months // 12, months % 12 + 1, 1)
    return day + timedelta(days=periods * FREQUENCY_DAYS[frequency])


def build_panel(demand: pl.DataFrame | pl.LazyFrame, frequency: str, season_periods: Sequence[int] = ()) -> Panel:
    """Demand rows as a panel on a complete grid.

    `demand`: one row per (level, id, region, date), contract `DEMAND`; a zero that is not `is_observed` (nothing could be sold or seen) counts as missing.
    Duplicated periods are added up, dates inside a period are moved to its first day, negative units become 0, missing and
    unobserved periods are filled (the same period a season earlier where known, else the last value seen); each is noted on its series.
    Series that hold no value at all stay with NaN only.

    Raises ValueError for an empty table.
    """
    keys = demand.lazy().select(KEY[0], KEY[1], pl.col(c.REGION).fill_null(c.ALL_REGIONS)).unique().sort(KEY).with_row_index("row").collect()
    if keys.is_empty():
        raise ValueError(
            "demand: expected at least one row per (level, id, region, date), found none. Check the features step or the event types that count as demand."
        )
    rows = _on_grid(_numbered(demand.lazy(), keys), frequency)
    first, last = rows[c.DATE].min(), rows[c.DATE].max()
    num_periods = _period_number(last, frequency) - _period_number(first, frequency) + 1
    dates = np.array([shift_periods(first, step, frequency) for step in range(num_periods)], dtype="datetime64[D]")

    row, column = rows["row"].to_numpy(), np.searchsorted(dates, rows[c.DATE].to_numpy())
    values = np.full((keys.height, num_periods), np.nan)
    values[row, column] = rows[c.UNITS].to_numpy()
    notes = _input_notes(rows, keys.height)

    has_value = ~np.isnan(values)
    born = np.where(has_value.any(1), has_value.argmax(1), num_periods)
    alive = np.arange(num_periods)[None, :] >= born[:, None]
    filled = alive & ~has_value
    values = _fill(values, filled, max(season_periods, default=0))
    notes = _add_note(notes, filled.any(1), "gaps filled")
    return Panel(keys.drop("row"), dates, values, filled, notes, frequency)


def _period_number(day: date, frequency: str) -> int:
    return day.year * 12 + day.month if frequency == "month" else (day - EPOCH).days // FREQUENCY_DAYS[frequency]


def _numbered(demand: pl.LazyFrame, keys: pl.DataFrame) -> pl.DataFrame:
    """Rows by number of series instead of its three names: row, date, units (null where nothing could be sold or seen), is_negative."""
    observed = pl.col(c.IS_OBSERVED).fill_null(value=True) if c.IS_OBSERVED in demand.collect_schema() else pl.lit(value=True)
    units = pl.col(c.UNITS).cast(pl.Float64).fill_nan(None)
    return (
        demand.with_columns(pl.col(c.REGION).fill_null(c.ALL_REGIONS))
        .join(keys.lazy(), on=list(KEY), how="inner")
        .select(
            "row",
            c.DATE,
            pl.when(observed | (units != 0)).then(units.clip(lower_bound=0)).alias(c.UNITS),
            (units < 0).fill_null(value=False).alias("is_negative"),
        )
        .collect(engine="streaming")
    )


def _on_grid(rows: pl.DataFrame, frequency: str) -> pl.DataFrame:
    """One row per series and period; marks of what had to be moved, added up or cut."""
    start = pl.col(c.DATE)
    if frequency == "month":
        start = start.dt.truncate("1mo")
    elif frequency == "week":
        start = start - pl.duration(days=(start.dt.weekday() - _most_common_weekday(rows)) % 7)
    marked = rows.with_columns(start.alias("start"), (start != pl.col(c.DATE)).alias("is_moved"))
    return (
        marked.lazy()
        .group_by("row", "start")
        .agg(
            pl.when(pl.col(c.UNITS).is_not_null().any()).then(pl.col(c.UNITS).sum()).alias(c.UNITS),
            pl.col("is_moved", "is_negative").any(),
            (pl.len() > 1).alias("is_duplicated"),
        )
        .rename({"start": c.DATE})
        .collect()
    )


def _most_common_weekday(rows: pl.DataFrame) -> int:
    return int(rows.select(pl.col(c.DATE).dt.weekday().mode().min()).item())


def _input_notes(rows: pl.DataFrame, num_series: int) -> np.ndarray:
    notes = np.full(num_series, "", dtype=object)
    flags = rows.group_by("row").agg(pl.col("is_moved", "is_negative", "is_duplicated").any())
    for column, text in (
        ("is_moved", "irregular dates moved to their period"),
        ("is_negative", "negative units set to 0"),
        ("is_duplicated", "duplicated periods added up"),
    ):
        hit = np.zeros(num_series, dtype=bool)
        hit[flags.filter(pl.col(column))["row"].to_numpy()] = True
        notes = _add_note(notes, hit, text)
    return notes


def _add_note(notes: np.ndarray, where: np.ndarray, text: str) -> np.ndarray:
    joined = notes.copy()
    joined[where] = [f"{note}; {text}" if note else text for note in notes[where]]
    return joined


def _fill(values: np.ndarray, filled: np.ndarray, season: int) -> np.ndarray:
    """Fill marked cells with the value one season earlier where seen, else the last one seen: from the past only, a line to the next value would leak it."""
    steps = np.arange(values.shape[1])
    seen = ~np.isnan(values)
    last_seen = np.maximum.accumulate(np.where(seen, steps, -1), axis=1)
    rows, holes = np.nonzero(filled)
    source = last_seen[rows, holes]
    if season:
        earlier = holes - season
        source = np.where((earlier >= 0) & seen[rows, np.maximum(earlier, 0)], earlier, source)
    result = values.copy()
    result[rows, holes] = values[rows, source]
    return result
