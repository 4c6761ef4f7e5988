"""The report's main drawings as pictures (PNG), for places that show images and no pages: MLflow's artifact view."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.report_panels import ForecastPanel, HeatMap
from evaluation.results import POOLED, EvaluationResult

INK, SOFT, GRID, MODEL, RIVAL, OTHER = "#1a2130", "#566073", "#ebe8e0", "#0a5c9e", "#b4540a", "#b3b6bd"
HEAT_LIMIT = 1.6  # binary orders of magnitude from the average at which the colour is full
DOTS_PER_INCH = 130


def draw_figures(result: EvaluationResult, heat_maps: Sequence[HeatMap], forecasts: Sequence[ForecastPanel], folder: Path) -> list[Path]:
    """Draw the curves over leads of each list, the heat maps and the forecasts into `folder`; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [_save(_lead_curves(result, name), folder / f"leads_{name}.png") for name in result.lists]
    files += [_save(_heat_map(panel), folder / f"heat_map_{_file_name(panel.title)}.png") for panel in heat_maps if panel.rows]
    files += [_save(_fan(panel), folder / f"forecast_{_file_name(panel.title)}.png") for panel in forecasts]
    return files


def _lead_curves(result: EvaluationResult, list_name: str) -> Any:
    """Main metric by lead: the model with its interval, what is to be beaten, the others grey."""
    figure, axes = _frame(8.0, 4.2, f"{list_name.capitalize()}: {result.main_metric.upper()} by lead")
    opponent = result.champion or (result.best_baseline(list_name).name if result.baselines else None)
    for model in (*result.baselines, *([result.champion] if result.champion else []), result.model):
        rows = sorted(
            (row for row in result.rows if (row.model, row.list, row.metric, row.origin) == (model, list_name, result.main_metric, POOLED)),
            key=lambda row: row.lead_days or 0,
        )
        rows = [row for row in rows if row.lead_days is not None]
        leads, values = [row.lead_days for row in rows], [row.value for row in rows]
        colour, width = (MODEL, 2.4) if model == result.model else (RIVAL, 1.8) if model == opponent else (OTHER, 1.0)
        label = model if colour != OTHER else None
        axes.plot(leads, values, color=colour, linewidth=width, marker="o", markersize=2 + 2 * (colour != OTHER), label=label, zorder=3 if label else 2)
        bounds = [(row.ci_low, row.ci_high) for row in rows if row.ci_low is not None and row.ci_high is not None]
        if model == result.model and len(bounds) == len(rows):
            axes.fill_between(leads, [low for low, _ in bounds], [high for _, high in bounds], color=MODEL, alpha=0.15, linewidth=0)
    axes.set_xlabel("lead, days")
    axes.set_xticks(list(result.leads))
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def _heat_map(panel: HeatMap) -> Any:
    """Level of each category and week on a logarithmic scale, blue below and orange above its average; white where nothing is known."""
    from matplotlib.colors import LinearSegmentedColormap

    figure, axes = _frame(10.0, 1.6 + 0.3 * len(panel.rows), panel.title)
    values = np.array([[np.nan if value is None else value for value in row] for row in panel.values], dtype=float)
    orders = np.log2(np.maximum(values, 2.0**-HEAT_LIMIT))
    colours = LinearSegmentedColormap.from_list("level", ["#1f5fa8", "#8fbade", "#f0eee8", "#f4b27a", "#ad4a0c"])
    image = axes.imshow(orders, aspect="auto", cmap=colours, vmin=-HEAT_LIMIT, vmax=HEAT_LIMIT, interpolation="nearest")
    axes.set_yticks(range(len(panel.rows)), panel.rows)
    months = [place for place, day in enumerate(panel.columns) if place == 0 or day.month != panel.columns[place - 1].month][1:]
    axes.set_xticks(months, [f"{panel.columns[place]:%b}" for place in months])
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, pad=0.01, ticks=[-HEAT_LIMIT, 0, HEAT_LIMIT])
    bar.ax.set_yticklabels(["1/3", "average", "3 times"])
    bar.outline.set_visible(False)
    return figure


def _fan(panel: ForecastPanel) -> Any:
    """What came, what was forecast, and the 80 and 95 % intervals."""
    figure, axes = _frame(8.0, 4.2, f"{panel.title}: forecast against actual")
    ahead = [period for period in panel.periods if period.mean is not None]
    dates = [period.date for period in ahead]
    for low, high, strength in (("low_95", "high_95", 0.14), ("low_80", "high_80", 0.22)):
        bounds = [(getattr(period, low), getattr(period, high)) for period in ahead]
        if all(end is not None for pair in bounds for end in pair):
            axes.fill_between(dates, [pair[0] for pair in bounds], [pair[1] for pair in bounds], color=MODEL, alpha=strength, linewidth=0)
    axes.plot(dates, [period.mean for period in ahead], color=MODEL, linewidth=2.0, label=f"forecast by {panel.model}" if panel.model else "forecast")
    came = [period for period in panel.periods if period.actual is not None]
    axes.plot([period.date for period in came], [period.actual for period in came], color=INK, linewidth=1.4, label="actual")
    axes.axvline(panel.cutoff, color=SOFT, linestyle=":", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(panel.unit)
    axes.legend(frameon=False, labelcolor=INK, loc="lower left")
    return figure


def _frame(width: float, height: float, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    return path


def _file_name(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:60] or "untitled"
