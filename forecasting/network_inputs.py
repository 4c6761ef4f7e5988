"""Tables a forecasting network is trained on: every series up to the end, and what is known of each period before it happens."""

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl

from contracts import columns as c
from contracts.errors import DataContractError
from forecasting.feasts import WINDOWS, exposures
from forecasting.panel import KEY, Panel

FOURIER_ORDER = 3
YEAR_DAYS = 365.25


def series_table(panel: Panel) -> pl.DataFrame:
    """One row per series with at least one value: level, id, region, first (number of its first period) and values (list, no gaps)."""
    held = ~np.isnan(panel.values)
    alive = np.flatnonzero(held.any(1))
    first = held[alive].argmax(1)
    values = [panel.values[row, start:].tolist() for row, start in zip(alive, first, strict=True)]
    return panel.keys[alive].with_columns(pl.Series("first", first, dtype=pl.Int64), pl.Series("values", values, dtype=pl.List(pl.Float64)))


def period_table(panel: Panel, horizon: int, calendar: pl.DataFrame | None) -> pl.DataFrame:
    """One row per (region, period), history and horizon: date, three yearly harmonics, exposures to feasts (where there is a calendar)."""
    dates = [*(day.astype(object) for day in panel.dates), *panel.future_dates(panel.num_periods, horizon)]
    turn = 2 * np.pi * np.array([day.toordinal() for day in dates]) / YEAR_DAYS
    waves = {f"year_{name}_{order}": wave(order * turn) for order in range(1, FOURIER_ORDER + 1) for name, wave in (("sin", np.sin), ("cos", np.cos))}
    parts = []
    for region in panel.keys[c.REGION].unique().sort():
        known = dict(waves)
        if calendar is not None and not calendar.is_empty():
            known |= _by_feast(exposures(calendar, panel, horizon, region))
        parts.append(pl.DataFrame({c.REGION: [region] * len(dates), c.DATE: dates, **known}))
    return pl.concat(parts, how="diagonal").with_columns(pl.selectors.float().fill_null(0.0))


def planned_table(panel: Panel, horizon: int, planned: pl.DataFrame) -> pl.DataFrame:
    """What is planned for each series: level, id, region and, for every planned column, a list over history and horizon (promotions, prices).

    `planned` has level, id, date, region (optional: it then holds in every region) and numeric columns known before the period begins. Several rows of
    one period count as their mean, a period without a row keeps the last value before it (a price stays until it is changed), one before the first
    row is at the series' mean. Each column is taken about its series' mean and divided by the column's spread, so 0 means "as usual".

    Raises DataContractError where a key column is missing or nothing numeric is planned.
    """
    columns = [name for name, kind in planned.schema.items() if name not in (*KEY, c.DATE) and (kind.is_numeric() or kind == pl.Boolean)]
    missing = [name for name in (c.LEVEL, c.ID, c.DATE) if name not in planned.columns]
    if missing or not columns:
        raise DataContractError(
            f"forecast.planned_uri: expected level, id, date and at least one numeric column, found {', '.join(planned.columns) or 'no columns'}."
            " Give one row per series and period.",
            table="planned inputs",
            rule="columns",
            num_failed=max(len(missing), 1),
        )
    dates = [*(day.astype(object) for day in panel.dates), *panel.future_dates(panel.num_periods, horizon)]
    grid = panel.keys.join(pl.DataFrame({c.DATE: dates}, schema={c.DATE: pl.Date}), how="cross")
    keys = [name for name in (*KEY, c.DATE) if name in planned.columns]
    in_periods = planned.with_columns(_period_start(dates)).filter(pl.col(c.DATE).is_not_null())
    means = in_periods.group_by(keys).agg(pl.col(columns).cast(pl.Float64).mean())
    rows = grid.join(means, on=keys, how="left").sort(*KEY, c.DATE).with_columns(pl.col(columns).forward_fill().over(KEY))
    about = rows.with_columns(pl.col(columns) - pl.col(columns).mean().over(KEY)).with_columns(pl.col(columns).fill_null(0.0).fill_nan(0.0))
    spread = about.select(pl.col(columns).std(ddof=0)).row(0, named=True)
    scaled = about.with_columns(pl.col(name) / (spread[name] or 1.0) for name in columns)
    return scaled.group_by(KEY, maintain_order=True).agg(pl.col(columns))


def _period_start(dates: Sequence[date]) -> pl.Expr:
    """First day of the period that holds a date, null outside all of them."""
    starts = np.array(dates, dtype="datetime64[D]")
    end = starts[-1] + (starts[-1] - starts[-2]) if len(starts) > 1 else starts[-1] + 1

    def place(days: pl.Series) -> pl.Series:
        values = days.to_numpy().astype("datetime64[D]")
        found = np.searchsorted(starts, values, side="right") - 1
        inside = (found >= 0) & (values < end)
        return pl.Series(np.where(inside, starts[np.maximum(found, 0)], np.datetime64("NaT", "D"))).cast(pl.Date)

    return pl.col(c.DATE).cast(pl.Date).map_batches(place, return_dtype=pl.Date)


def _by_feast(exposure: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The days before and on a feast as one input, those after left out: fewer inputs than the linear effects have, since a network is hungrier."""
    joined = {name: row for name, row in exposure.items() if not name.endswith(tuple(f"_{window}" for window in WINDOWS))}
    for name, row in exposure.items():
        if name.endswith("_before"):
            feast = name.removesuffix("_before")
            joined[feast] = row + exposure[f"{feast}_on"]
    return {name: row for name, row in joined.items() if row.any()}
