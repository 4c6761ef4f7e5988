"""Cells of the forecast benchmark as rows in the grammar of all results.

A cell is what was measured of one contestant on one set: `errors` [origins, series] (mean absolute scaled error, null where a series cannot be judged),
CPU seconds, and, where it has intervals, `measures`; the pipeline's own forecast (contestant `chosen`) also by step, level and quarter. Cells are kept in
benchmarks/results/cells/forecast/, one file a set, one line a contestant, so rows can be made anew without measuring anything.

Models: `perennial` is what the pipeline gives; `perennial:<variant>` one of its own candidates alone; other names are those of a library or a rule.
`ratio to X` is the pooled MASE over that of X at the same origins and series, its interval a bootstrap over series.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import RESULTS

Cell = Mapping[str, Any]
Row = dict[str, Any]

FOLDER = RESULTS / "cells" / "forecast"
CHOSEN, NAIVE, OTHERS_NETWORK = "chosen", "seasonal_naive", "neuralforecast_nhits"
NETWORKS = ("gru", "nhits", "rnn")
OWN = ("season_trend", "season_trend_recent", "season_trend_additive", "season_level", "autoregression", *NETWORKS)
SINGLES = (NAIVE, "recent_mean", "season_trend", "season_trend_recent", "season_trend_additive", "season_level", "autoregression", "theta", "mstl", "auto_ets")
NAMES = {CHOSEN: "perennial", OTHERS_NETWORK: "neuralforecast:nhits", **{name: f"perennial:{name}" for name in OWN}}
BEST_SINGLE, BEST_NETWORK = "best single model in hindsight", "best own network"
GOALS = {"walmart_weekly": 0.75, "eia_weekly": 0.45}
SPEED = "speed"
SPEED_GOALS = {"monthly_1000": {"forecast_cpu_seconds": 15.0, "choice_cpu_seconds": 90.0}, "weekly_100000": {"wall_seconds": 600.0, "peak_gib": 4.0}}
RESAMPLES = 2_000
PERIOD_DAYS = {"day": 1.0, "week": 7.0, "month": 30.44}
MEASURES = ("wape", "smape", "rmse", "scaled_pinball", "coverage_80", "coverage_95")


# ---- cells ---------------------------------------------------------------------------------------------------------------


def read_cells(folder: Path = FOLDER) -> dict[str, dict[str, Cell]]:
    """Set -> contestant -> cell; `speed` is a set of its own."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def keep_cell(name: str, contestant: str, cell: Cell, folder: Path = FOLDER) -> None:
    """Put one cell beside those that its set has; another process may have written some meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    cells = {**(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}), contestant: cell}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, default=str)}" for key, value in cells.items())
    aside = path.with_suffix(".part")
    aside.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    aside.replace(path)


# ---- rows ----------------------------------------------------------------------------------------------------------------


def rows_of_set(name: str, frequency: str, cells: Mapping[str, Cell]) -> list[Row]:
    """All figures of one set: contestants, the pipeline's by origin, step, level and quarter, comparisons, goals."""
    errors = {contestant: np.array(cell["errors"], dtype=float) for contestant, cell in cells.items() if "errors" in cell}
    if NAIVE not in errors:
        return []
    rows: list[Row] = []
    for contestant, cell in cells.items():
        if contestant in errors:
            rows += _of_contestant(name, contestant, cell, errors)
        elif "not_run" in cell:
            rows.append(_row(name, contestant, "not_run", cell["not_run"], 0, cell))
    if CHOSEN in errors:
        rows += _of_chosen(name, frequency, cells[CHOSEN], errors[CHOSEN])
    return [*rows, *_comparisons(name, errors), *_goals(name, cells, errors)]


def _of_contestant(name: str, contestant: str, cell: Cell, errors: Mapping[str, np.ndarray]) -> list[Row]:
    own = errors[contestant]
    count = int(np.isfinite(own).sum())
    trained = {key: cell[key] for key in ("steps", "windows") if key in cell}
    rows = [
        _row(name, contestant, "mase", float(np.nanmean(own)), count, cell, ends=mean_interval(own), **trained),
        {**_ratio_row(name, contestant, NAIVE, errors, cell), **trained},
        _row(name, contestant, "cpu_seconds", cell["cpu_seconds"], count, cell),
    ]
    measured = cell.get("measures", {})
    return rows + [_row(name, contestant, metric, measured[metric], measured["num_rows"], cell) for metric in MEASURES if measured.get(metric) is not None]


def _of_chosen(name: str, frequency: str, cell: Cell, errors: np.ndarray) -> list[Row]:
    rows = [
        _row(name, CHOSEN, "mase", float(np.nanmean(of_origin)), int(np.isfinite(of_origin).sum()), cell, origin=origin)
        for origin, of_origin in zip(cell.get("origins", range(len(errors))), errors, strict=True)
    ]
    for step in cell["by_step"]:
        lead = round(PERIOD_DAYS[frequency] * (step["step"] - 1))
        rows += [_row(name, CHOSEN, metric, step[metric], None, cell, lead=lead, step=step["step"]) for metric in ("mase", "coverage_80", "coverage_95")]
    for level in cell["by_level"]:
        rows += [_row(name, CHOSEN, metric, level[metric], level["num_rows"], cell, level=level["level"]) for metric in ("mase", *MEASURES)]
    for part in cell["by_season"]:
        rows += [_row(name, CHOSEN, metric, part[metric], None, cell, season=part["season"]) for metric in ("mase", "wape", "coverage_80")]
    for used, count in cell["chosen"].items():
        level, _, model = used.partition(": ")
        rows.append(_row(name, CHOSEN, "times chosen", count, None, cell, level=level, other=NAMES.get(model, model)))
    return rows + [_row(name, CHOSEN, f"pinball_{quantile}", value, None, cell) for quantile, value in cell["pinball"].items()]


def _comparisons(name: str, errors: Mapping[str, np.ndarray]) -> list[Row]:
    """The pipeline beside the best single model in hindsight, the best own network beside N-HiTS of neuralforecast."""
    rows = []
    single, network = best_of(errors, SINGLES), best_of(errors, NETWORKS)
    if single and CHOSEN in errors:
        rows.append({**_ratio_row(name, CHOSEN, single, errors), "metric": f"ratio to {BEST_SINGLE}"})
    if network and OTHERS_NETWORK in errors:
        rows.append({**_ratio_row(name, network, OTHERS_NETWORK, errors), "note": BEST_NETWORK})
    return rows


def _goals(name: str, cells: Mapping[str, Cell], errors: Mapping[str, np.ndarray]) -> list[Row]:
    """Whether what was asked is reached: `value` found, `goal` asked, `reached`."""
    rows = []
    if CHOSEN in errors:
        ratio, _, high = ratio_interval(errors[CHOSEN], errors[NAIVE])
        goal = GOALS.get(name)
        told, reached = (f"at most {goal}", ratio <= goal) if goal else ("at most 1.00, upper end at most 1.02", ratio <= 1.0 and high <= 1.02)
        rows.append({**_row(name, CHOSEN, f"goal: ratio to {NAIVE}", ratio, None), "goal": told, "reached": bool(reached)})
        covered = cells[CHOSEN]["measures"]["coverage_80"]
        rows.append({**_row(name, CHOSEN, "goal: coverage_80", covered, None), "goal": "0.75 to 0.85", "reached": bool(0.75 <= covered <= 0.85)})
    network = best_of(errors, NETWORKS)
    if network and OTHERS_NETWORK in errors:
        ratio, _, _ = ratio_interval(errors[network], errors[OTHERS_NETWORK])
        rows.append({**_row(name, network, f"goal: ratio to {NAMES[OTHERS_NETWORK]}", ratio, None), "goal": "at most 1.05", "reached": bool(ratio <= 1.05)})
    return rows


def rows_of_speed(cells: Mapping[str, Cell]) -> list[Row]:
    """Cost of choosing and forecasting n series, goals beside them."""
    rows = []
    for name, cell in cells.items():
        for metric in ("choice_cpu_seconds", "forecast_cpu_seconds", "wall_seconds", "peak_gib"):
            goal = SPEED_GOALS.get(name, {}).get(metric)
            asked = {} if goal is None else {"goal": f"at most {goal:g}", "reached": bool(cell[metric] <= goal)}
            rows.append({**_row(f"synthetic {name}", CHOSEN, metric, cell[metric], cell["series"], cell), **asked})
    return rows


def best_of(errors: Mapping[str, np.ndarray], names: Sequence[str]) -> str | None:
    """The contestant with the smallest pooled error among `names`, None where none ran."""
    return min((name for name in names if name in errors), key=lambda name: float(np.nanmean(errors[name])), default=None)


def ratio_interval(errors: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the pooled scaled errors [O, S], and the 2.5 and 97.5 % points of a bootstrap over series."""
    usable = np.isfinite(errors) & np.isfinite(others)
    ours, theirs = np.where(usable, errors, 0.0).sum(0), np.where(usable, others, 0.0).sum(0)
    drawn = _drawn(len(ours))
    ratios = ours[drawn].sum(1) / np.maximum(theirs[drawn].sum(1), 1e-12)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(ours.sum() / theirs.sum()), float(low), float(high)


def mean_interval(errors: np.ndarray) -> tuple[float, float]:
    """2.5 and 97.5 % points of the mean over series and origins, by a bootstrap over series."""
    known = np.isfinite(errors)
    total, count = np.where(known, errors, 0.0).sum(0), known.sum(0)
    drawn = _drawn(errors.shape[1])
    low, high = np.quantile(total[drawn].sum(1) / np.maximum(count[drawn].sum(1), 1), [0.025, 0.975])
    return float(low), float(high)


def _drawn(num_series: int) -> np.ndarray:
    return np.random.default_rng(0).integers(num_series, size=(RESAMPLES, num_series))


def _ratio_row(name: str, contestant: str, other: str, errors: Mapping[str, np.ndarray], cell: Cell | None = None) -> Row:
    ratio, low, high = ratio_interval(errors[contestant], errors[other])
    count = int((np.isfinite(errors[contestant]) & np.isfinite(errors[other])).sum())
    shown = NAMES.get(other, other)
    return _row(name, contestant, f"ratio to {shown}", ratio, count, cell, ends=(low, high), other=shown)


def _row(
    name: str,
    contestant: str,
    metric: str,
    value: object,
    count: int | None,
    cell: Cell | None = None,
    *,
    origin: object = "all",
    level: str | None = None,
    lead: int | None = None,
    ends: tuple[float, float] | None = None,
    **more: object,
) -> Row:
    """`n` counts series times origins, or forecast periods for measures of intervals; `list` is the level where one is meant."""
    low, high = ends or (None, None)
    told = {"dataset": name, "model": NAMES.get(contestant, contestant), "list": level, "lead_days": lead, "origin": str(origin), "metric": metric}
    measured = {"measured": cell["date"], "git_sha": cell["git_sha"]} if cell and "git_sha" in cell else {}
    return {**told, "value": _rounded(value), "ci_low": _rounded(low), "ci_high": _rounded(high), "n": count, "seed": 0, **more, **measured}


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
