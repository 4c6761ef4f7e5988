"""Pictures of a forecast: a fan over the last two years, and the series taken apart into trend, seasons, feasts and rest."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from contracts import columns as c
from contracts.tables import quantile_column
from forecasting.feasts import exposures, take_out_feasts
from forecasting.models import SEASONS_NEEDED, lengths, seasonal_index, smooth_level
from forecasting.panel import Panel

YEARS_SHOWN = 2
SEASON_NAMES = {("day", 7): "weekly", ("day", 364): "yearly", ("day", 365): "yearly", ("week", 52): "yearly", ("month", 12): "yearly"}
PERIODS_A_YEAR = {"day": 365, "week": 52, "month": 12}
INK, BLUE, PALE, GREY, AMBER = "#1f2937", "#2563eb", "#93c5fd", "#6b7280", "#b45309"


def decompose(panel: Panel, row: int, *, seasons: Sequence[int], calendar: pl.DataFrame | None = None) -> pl.DataFrame:
    """One series as parts that multiply to it: units = trend x season_<n> x ... x feasts x rest.

    Grain: one row per period from the first on. trend in units, the others ratios (1 is usual); a season the history holds less than one and a half times is 1.
    """
    first = panel.num_periods - int(lengths(panel.values[row : row + 1])[0])
    units = panel.values[row : row + 1, first:]
    parts: dict[str, np.ndarray] = {}
    rest = units.copy()
    feasts = np.ones_like(units)
    if calendar is not None and not calendar.is_empty():
        given = exposures(calendar, panel, 1, panel.keys[c.REGION][row])
        without, _ = take_out_feasts(units, np.stack(list(given.values()))[:, first:], 1, seasons)
        feasts = np.divide(units, without, out=np.ones_like(units), where=without > 0)
        rest = without
    for season in sorted(seasons):
        ratio = np.ones_like(units)
        if units.shape[1] >= SEASONS_NEEDED * season:
            ratio = seasonal_index(rest, season)[:, (np.arange(units.shape[1]) - units.shape[1]) % season]
        parts[f"season_{season}"] = ratio[0]
        rest = rest / np.maximum(ratio, 1e-9)
    trend = smooth_level(rest, max(3, min(max(seasons, default=8), units.shape[1])))
    left = np.divide(rest, trend, out=np.ones_like(rest), where=trend > 0)
    dates = panel.dates[first:]
    return pl.DataFrame({c.DATE: dates, c.UNITS: units[0], "trend": trend[0], **parts, "feasts": feasts[0], "rest": left[0]})


def fan_chart(
    history: pl.DataFrame,
    forecast: pl.DataFrame,
    path: Path,
    *,
    title: str,
    frequency: str,
    parts: pl.DataFrame | None = None,
    feast_dates: Mapping[str, Sequence[date]] | None = None,
) -> Path:
    """Draw the last two years, the forecast's mean and its 80 and 95 % bands, and below, where given, the parts of `decompose`.

    history    columns date, units; any order
    forecast   rows of one series, cut-off and model of contract `FORECASTS`
    returns    `path`, a PNG

    Raises ValueError where either table is empty.
    """
    if history.is_empty() or forecast.is_empty():
        raise ValueError(
            f"fan chart of {title}: expected history and forecast rows, found {history.height} and {forecast.height}. Is the id one that was forecast?"
        )
    from matplotlib.figure import Figure

    shown = history.sort(c.DATE).tail(YEARS_SHOWN * PERIODS_A_YEAR[frequency])
    ahead = forecast.sort(c.DATE)
    names = [] if parts is None else [name for name in parts.columns if name not in {c.DATE, c.UNITS}]
    figure = Figure(figsize=(10, 4.2 + 1.25 * len(names)), dpi=130, layout="constrained")
    axes: Any = figure.subplots(1 + len(names), 1, squeeze=False, gridspec_kw={"height_ratios": [3.4] + [1.0] * len(names)})[:, 0]
    _draw_fan(axes[0], shown, ahead, title)
    for name, days in (feast_dates or {}).items():
        _mark_feast(axes[0], name, days, shown[c.DATE][0], ahead[c.DATE][-1])
    for axis, name in zip(axes[1:], names, strict=True):
        part = parts.filter(pl.col(c.DATE) >= shown[c.DATE][0]) if parts is not None else shown
        axis.plot(part[c.DATE], part[name], color=GREY if name == "rest" else BLUE, linewidth=1.2)
        if name != "trend":
            axis.axhline(1.0, color=GREY, linewidth=0.6, linestyle=":")
        axis.set_xlim(axes[0].get_xlim())
        axis.set_ylabel(part_name(name, frequency), rotation=0, ha="right", va="center", fontsize=9)
        _plain(axis)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def part_name(part: str, frequency: str) -> str:
    """Name of a part on the page: seasons by the length people know, the effect of moving feasts as holidays."""
    kind, _, length = part.partition("_")
    if kind == "season":
        return SEASON_NAMES.get((frequency, int(length)), f"season of {length} {frequency}s")
    return "holidays" if part == "feasts" else part


def _draw_fan(axis: Any, shown: pl.DataFrame, ahead: pl.DataFrame, title: str) -> None:
    bands = ((0.025, 0.975, 0.35, "95 %"), (0.1, 0.9, 0.65, "80 %"))
    for low, high, alpha, label in bands:
        axis.fill_between(ahead[c.DATE], ahead[quantile_column(low)], ahead[quantile_column(high)], color=PALE, alpha=alpha, linewidth=0, label=label)
    axis.plot(shown[c.DATE], shown[c.UNITS], color=INK, linewidth=1.3, label="units")
    joined = [shown[c.DATE][-1], *ahead[c.DATE]]
    axis.plot(joined, [shown[c.UNITS][-1], *ahead[c.MEAN]], color=BLUE, linewidth=1.8, label="forecast")
    axis.axvline(ahead[c.CUTOFF][0], color=GREY, linewidth=0.8, linestyle="--")
    axis.set_ylim(bottom=0)
    axis.set_title(title, loc="left", fontsize=11, color=INK)
    axis.legend(loc="upper left", ncols=4, frameon=False, fontsize=9)
    _plain(axis)


def _mark_feast(axis: Any, name: str, days: Sequence[date], first: date, last: date) -> None:
    inside = [day for day in days if first <= day <= last]
    for day in inside:
        axis.axvline(day, color=AMBER, linewidth=0.7, alpha=0.5)
    if inside:
        axis.annotate(
            name, (inside[-1], 1.0), xycoords=("data", "axes fraction"), xytext=(2, -3), textcoords="offset points", fontsize=8, color=AMBER, va="top"
        )


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, colors=INK)
    axis.margins(x=0.01)
