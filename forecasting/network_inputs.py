"""Tables a forecasting network is trained on: every series up to the end, and what is known of each period before it happens."""

import numpy as np
import polars as pl

from contracts import columns as c
from forecasting.feasts import WINDOWS, exposures
from forecasting.panel import Panel

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


def _by_feast(exposure: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The days before and on a feast as one input, those after left out: fewer inputs than the linear effects have, since a network is hungrier."""
    joined = {name: row for name, row in exposure.items() if not name.endswith(tuple(f"_{window}" for window in WINDOWS))}
    for name, row in exposure.items():
        if name.endswith("_before"):
            feast = name.removesuffix("_before")
            joined[feast] = row + exposure[f"{feast}_on"]
    return {name: row for name, row in joined.items() if row.any()}
