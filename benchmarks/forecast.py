"""Forecasts measured by rolling origins on eight public sets, beside last year, single models and own networks; and their speed.

    python -m benchmarks.forecast                         # everything missing -> benchmarks/results/forecast.json
    python -m benchmarks.forecast --quick                 # two small sets, no networks; prints, keeps nothing
    python -m benchmarks.forecast --sets eia_weekly       # some sets only
    python -m benchmarks.forecast --again chosen          # do cells whose name holds this text again

A cell is one contestant on one set; finished cells are kept, so an interrupted run goes on. At each of five origins everything is chosen and fitted anew
from what was known then, the choice by its own earlier back-test. `ratio` is the pooled MASE over that of SeasonalNaive (last year) at the same origins,
its interval a bootstrap over series. Networks are own ones, trained along time in a process of their own; neuralforecast's N-HiTS runs where installed.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.forecast_sets import SETS, ForecastSet, cutoffs_of
from contracts import columns as c
from contracts.artifacts import content_digest
from contracts.sections.forecast import ForecastConfig
from contracts.sections.training import ComputeConfig
from contracts.tables import QUANTILES, quantile_column
from forecasting.back_test import seasonal_scale
from forecasting.forecast import ForecastResult, back_test_cutoffs, forecast_demand, panel_of
from forecasting.measures import judged, measure
from forecasting.models import forecast_mean
from forecasting.network_inputs import period_table, series_table
from forecasting.panel import KEY
from lightning_modules.forecasting_job import ForecastJob
from lightning_modules.jobs import TrainingRequest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "forecast.json"
WORK = ROOT / ".perennial" / "benchmarks" / "forecast"
SINGLES = (
    "seasonal_naive",
    "recent_mean",
    "season_trend",
    "season_trend_recent",
    "season_trend_additive",
    "season_level",
    "autoregression",
    "theta",
    "mstl",
    "auto_ets",
)
NETWORKS = ("gru", "nhits", "rnn")
GOALS = {"walmart_weekly": 0.75, "eia_weekly": 0.45}
RESAMPLES = 2_000
NEURALFORECAST_STEPS = 300  # of 1,024 windows: about twice what one of the own networks sees
SPEED_CELLS = ("monthly_1000", "weekly_1000", "weekly_10000", "weekly_100000")
SPEED_GOALS = {"monthly_1000": {"forecast_cpu_seconds": 15.0, "choice_cpu_seconds": 90.0}, "weekly_100000": {"wall_seconds": 600.0, "peak_gib": 4.0}}


# ---- one set -------------------------------------------------------------------------------------------------------------


class Arena:
    """One set's demand, panel, calendar, origins and configuration."""

    def __init__(self, one: ForecastSet) -> None:
        from features.calendar import calendar

        self.set = one
        self.demand = one.load()
        self.cutoffs = cutoffs_of(one, self.demand)
        self.config = ForecastConfig(
            frequency=one.frequency,
            horizon_periods=one.horizon,
            season_periods=one.seasons,
            levels=("item", "category", "total"),
            models=(*ForecastConfig().models, *NETWORKS),
            back_test_every_periods=max(1, one.horizon // 2),
        )
        self.panel = panel_of(self.demand, self.config)
        first, last = self.demand[c.DATE].min().year - 1, self.demand[c.DATE].max().year + 1
        self.calendar = calendar(date(first, 1, 1), date(last, 12, 31), regions={c.ALL_REGIONS: one.holidays}) if one.holidays else None

    def scaled_errors(self, mean_at: Callable[[date, int], np.ndarray]) -> np.ndarray:
        """[O, S] mean absolute scaled error of means [S, H] at each origin; NaN for series that cannot be judged there."""
        rows = []
        for cutoff in self.cutoffs:
            known = self.panel.known_periods(cutoff)
            actual = np.where(self.panel.filled, np.nan, self.panel.values)[:, known : known + self.set.horizon]
            misses = np.abs(actual - mean_at(cutoff, known)[:, : actual.shape[1]])
            count = (~np.isnan(misses)).sum(1)
            error = np.divide(np.nansum(misses, axis=1), count, out=np.full(len(misses), np.nan), where=count > 0)
            rows.append(error / seasonal_scale(self.panel.values[:, :known], self.set.seasons))
        return np.stack(rows)

    def table_means(self, forecasts: pl.DataFrame) -> Callable[[date, int], np.ndarray]:
        """Means of a forecasts table as [S, H] at an origin."""

        def mean_at(cutoff: date, known: int) -> np.ndarray:
            dates = {day: step for step, day in enumerate(self.panel.future_dates(known, self.set.horizon))}
            rows = forecasts.filter(pl.col(c.CUTOFF) == cutoff).join(self.panel.keys.with_row_index("row"), on=list(KEY))
            mean = np.full((self.panel.keys.height, self.set.horizon), np.nan)
            mean[rows["row"].to_numpy(), [dates[day] for day in rows[c.DATE]]] = rows[c.MEAN].to_numpy()
            return mean

        return mean_at


def single_cell(arena: Arena, model: str) -> dict[str, Any]:
    """One model on its own, without choice, allowance for feasts or intervals."""
    started = time.process_time()
    errors = arena.scaled_errors(lambda _, known: forecast_mean(model, arena.panel.values[:, :known], arena.set.horizon, arena.set.seasons))
    return {"errors": _kept(errors), "cpu_seconds": round(time.process_time() - started, 1)}


def network_cell(arena: Arena, name: str, folder: Path) -> dict[str, Any]:
    """An own network, trained along time by the shared runner, with its own intervals."""
    forecasts, seconds = run_network(arena, name, folder)
    at_origins = forecasts.filter(pl.col(c.CUTOFF).is_in(arena.cutoffs))
    measured = measure(judged(at_origins, arena.panel, arena.set.seasons)).to_dicts()[0]
    return {"errors": _kept(arena.scaled_errors(arena.table_means(at_origins))), "cpu_seconds": seconds, "measures": measured}


def run_network(arena: Arena, name: str, folder: Path) -> tuple[pl.DataFrame, float]:
    """Forecasts of a network at every origin and every origin of their back-tests, and the CPU seconds it took."""
    shutil.rmtree(folder, ignore_errors=True)  # a checkpoint of an earlier job must not be taken up
    folder.mkdir(parents=True)
    series_table(arena.panel).write_parquet(folder / "series.parquet")
    period_table(arena.panel, arena.set.horizon, arena.calendar).write_parquet(folder / "periods.parquet")
    dates = back_test_cutoffs(arena.demand, cutoffs=arena.cutoffs, config=arena.config)
    job = ForecastJob(
        inputs_digest=content_digest([folder / "series.parquet", folder / "periods.parquet"]),
        series=str(folder / "series.parquet"),
        periods=str(folder / "periods.parquet"),
        known=tuple(arena.panel.known_periods(day) for day in dates),
        network=name,
        horizon=arena.set.horizon,
        seasons=arena.set.seasons,
        past=max(28, min(52, 2 * arena.set.horizon)) if arena.set.frequency != "month" else 24,
        first_steps=800,
        later_steps=40,
        batch_windows=192,
    )
    (folder / "job.json").write_text(TrainingRequest(job=job, compute=ComputeConfig(threads=1)).model_dump_json())
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "lightning_modules.train", str(folder / "job.json")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return pl.read_parquet(folder / "forecasts.parquet"), round(seconds, 1)


def chosen_cell(arena: Arena, folder: Path, networks: Sequence[str]) -> dict[str, Any]:
    """What the pipeline gives: choice and weights by back-test, feasts, intervals; with the networks that have run."""
    tables = [pl.read_parquet(path) for name in networks if (path := folder.parent / name / "forecasts.parquet").exists()]
    started = time.process_time()
    result = forecast_demand(
        arena.demand, cutoffs=arena.cutoffs, config=arena.config, calendar=arena.calendar, network_forecasts=pl.concat(tables) if tables else None
    )
    seconds = time.process_time() - started
    rows = judged(result.forecasts, arena.panel, arena.set.seasons)
    return {
        "errors": _kept(arena.scaled_errors(arena.table_means(result.forecasts))),
        "cpu_seconds": round(seconds, 1),
        "measures": measure(rows).to_dicts()[0],
        "by_step": measure(rows, by=("step",)).select("step", "mase", "coverage_80", "coverage_95").to_dicts(),
        "by_level": measure(rows, by=(c.LEVEL,)).to_dicts(),
        "by_season": by_season(rows),
        "chosen": _chosen(result),
        "pinball": {quantile_column(q): float(_pinball(rows, q)) for q in QUANTILES},
    }


def by_season(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Measures by quarter of the forecast date."""
    quarters = rows.with_columns((pl.lit("Q") + pl.col(c.DATE).dt.quarter().cast(pl.String)).alias(c.SEASON))
    return measure(quarters, by=(c.SEASON,)).select(c.SEASON, "mase", "wape", "coverage_80").to_dicts()


def _pinball(rows: pl.DataFrame, quantile: float) -> float:
    from forecasting.measures import pinball

    return rows.select(pinball(quantile)).item()


def _chosen(result: ForecastResult) -> dict[str, int]:
    used = result.back_test.filter("chosen")
    return {f"{level}: {model}": count for level, model, count in used.group_by(c.LEVEL, c.MODEL).len().sort(c.LEVEL, c.MODEL).iter_rows()}


def neuralforecast_cell(arena: Arena) -> dict[str, Any]:
    """N-HiTS of neuralforecast, default settings but for steps, a past of four horizons; only where the package is installed."""
    try:
        from neuralforecast import NeuralForecast
        from neuralforecast.models import NHITS
    except ImportError:
        return {"not_run": "neuralforecast is not installed (an optional extra; it needs ray)"}
    frequency = {"day": "1d", "week": "1w", "month": "1mo"}[arena.set.frequency]
    key = pl.concat_str(KEY, separator="|").alias("unique_id")
    parts = []
    started = time.process_time()
    for cutoff in arena.cutoffs:
        history = arena.demand.filter(pl.col(c.DATE) < cutoff).select(key, pl.col(c.DATE).alias("ds"), pl.col(c.UNITS).alias("y"))
        model = NHITS(
            h=arena.set.horizon,
            input_size=4 * arena.set.horizon,
            max_steps=NEURALFORECAST_STEPS,
            start_padding_enabled=True,
            accelerator="cpu",
            enable_progress_bar=False,
        )
        learner = NeuralForecast(models=[model], freq=frequency)
        learner.fit(history, verbose=False)
        ahead = learner.predict(verbose=False)
        parts.append(
            ahead.select(
                pl.col("unique_id").str.split("|").list.to_struct(fields=list(KEY)).struct.unnest(),
                pl.col("ds").cast(pl.Date).alias(c.DATE),
                pl.col("NHITS").alias(c.MEAN),
                pl.lit(cutoff).alias(c.CUTOFF),
            )
        )
    return {"errors": _kept(arena.scaled_errors(arena.table_means(pl.concat(parts)))), "cpu_seconds": round(time.process_time() - started, 1)}


def _kept(errors: np.ndarray) -> list[list[float | None]]:
    return [[None if not np.isfinite(value) else round(float(value), 6) for value in row] for row in errors]


# ---- speed ---------------------------------------------------------------------------------------------------------------


def speed_cell(name: str) -> dict[str, Any]:
    """Run one speed measurement in a process of its own and read what it printed."""
    printed = subprocess.run([sys.executable, "-m", "benchmarks.forecast", "--speed", name], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.strip().splitlines()[-1])


def measure_speed(name: str) -> dict[str, Any]:
    """`monthly_<n>` or `weekly_<n>`: seconds of choosing and of forecasting n series at one cut-off, peak memory of the process."""
    frequency, number = name.split("_")
    demand, config, cutoff = synthetic_demand(frequency, int(number))
    from forecasting import forecast as module

    spent = {"choice": 0.0}
    choosing = module._Level._back_test

    def timed(self: Any, *given: Any) -> Any:
        started = time.process_time()
        outcome = choosing(self, *given)
        spent["choice"] += time.process_time() - started
        return outcome

    module._Level._back_test = timed  # type: ignore[method-assign]
    forecast_mean("theta", np.arange(24.0)[None] % 5, 3, ())  # imports are not counted
    started, wall = time.process_time(), time.perf_counter()
    result = forecast_demand(demand, cutoffs=[cutoff], config=config)
    total = time.process_time() - started
    return {
        "series": int(number),
        "choice_cpu_seconds": round(spent["choice"], 1),
        "forecast_cpu_seconds": round(total - spent["choice"], 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "rows": result.forecasts.height,
        "chosen": _chosen(result),
    }


def synthetic_demand(frequency: str, number: int) -> tuple[pl.LazyFrame, ForecastConfig, date]:
    """Poisson demand with a yearly wave and a trend: 72 months or 104 weeks a series; written to Parquet and scanned, as the pipeline does."""
    periods, season = (72, 12) if frequency == "monthly" else (104, 52)
    config = ForecastConfig(frequency="month" if frequency == "monthly" else "week", horizon_periods=12, season_periods=(season,), levels=("item",))
    first = date(2020, 1, 6) if frequency == "weekly" else date(2020, 1, 1)
    dates = pl.date_range(first, date(2030, 1, 1), "1w" if frequency == "weekly" else "1mo", eager=True)
    random = np.random.default_rng(0)
    path = WORK / f"{frequency}_{number}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        parts = []
        for start in range(0, number, 10_000):
            count = min(10_000, number - start)
            level = random.lognormal(2.5, 1, (count, 1))
            wave = 1 + 0.4 * np.sin(2 * np.pi * (np.arange(periods) / season + random.random((count, 1))))
            units = random.poisson(level * wave * (1 + random.normal(0, 0.003, (count, 1)) * np.arange(periods)).clip(0.2)).astype(float)
            ids = np.repeat([f"i{start + row:07d}" for row in range(count)], periods)
            parts.append(
                pl.DataFrame({c.LEVEL: "item", c.ID: ids, c.REGION: "all", c.DATE: np.tile(dates[:periods].to_numpy(), count), c.UNITS: units.ravel()})
            )
        pl.concat(parts).with_columns(pl.col(c.DATE).cast(pl.Date)).write_parquet(path)
    return pl.scan_parquet(path), config, dates[periods]


# ---- results -------------------------------------------------------------------------------------------------------------


def summary(cells: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Rows of one set: contestant, MASE, ratio to SeasonalNaive with its interval, coverage, seconds."""
    naive = _errors(cells.get(f"{name}/seasonal_naive"))
    rows = []
    for key, cell in cells.items():
        errors = _errors(cell) if key.startswith(f"{name}/") else None
        if naive is None or errors is None:
            continue
        ratio, low, high = ratio_interval(errors, naive)
        measured = cell.get("measures", {})
        rows.append(
            {
                "contestant": key.split("/")[1],
                "mase": round(float(np.nanmean(errors)), 4),
                "ratio": round(ratio, 4),
                "ratio_low": round(low, 4),
                "ratio_high": round(high, 4),
                "coverage_80": measured.get("coverage_80"),
                "coverage_95": measured.get("coverage_95"),
                "cpu_seconds": cell.get("cpu_seconds"),
            }
        )
    return sorted(rows, key=lambda row: row["ratio"])


def ratio_interval(errors: np.ndarray, naive: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the pooled scaled errors [O, S], and the 2.5 and 97.5 % points of a bootstrap over series."""
    usable = np.isfinite(errors) & np.isfinite(naive)
    ours, theirs = np.where(usable, errors, 0.0).sum(0), np.where(usable, naive, 0.0).sum(0)
    random = np.random.default_rng(0)
    drawn = random.integers(len(ours), size=(RESAMPLES, len(ours)))
    ratios = ours[drawn].sum(1) / np.maximum(theirs[drawn].sum(1), 1e-12)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(ours.sum() / theirs.sum()), float(low), float(high)


def _errors(cell: dict[str, Any] | None) -> np.ndarray | None:
    return np.array(cell["errors"], dtype=float) if cell and "errors" in cell else None


def verdict(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether the chosen forecast reaches its goal on a set, and how it stands beside the best single model in hindsight."""
    chosen = next((row for row in rows if row["contestant"] == "chosen"), None)
    singles = [row for row in rows if row["contestant"] in SINGLES]
    networks = [row for row in rows if row["contestant"] in NETWORKS]
    if chosen is None or not singles:
        return {}
    goal = GOALS.get(name)
    reached = chosen["ratio"] <= goal if goal else chosen["ratio"] <= 1.0 and chosen["ratio_high"] <= 1.02
    return {
        "goal": f"ratio at most {goal}" if goal else "ratio at most 1.00, upper end at most 1.02",
        "reached": bool(reached),
        "ratio": chosen["ratio"],
        "best_single_in_hindsight": singles[0]["contestant"],
        "ratio_to_best_single": round(chosen["mase"] / singles[0]["mase"], 4),
        "best_own_network": networks[0]["contestant"] if networks else None,
        "coverage_80": chosen["coverage_80"],
        "coverage_80_reached": chosen["coverage_80"] is not None and 0.75 <= chosen["coverage_80"] <= 0.85,
    }


def plan(names: Sequence[str], *, networks: Sequence[str], singles: Sequence[str]) -> list[tuple[str, Callable[[Arena, Path], dict[str, Any]]]]:
    """Cells in the order they are done: cheap ones of every set first, then networks, then what the pipeline chooses with them."""
    cells: list[tuple[str, Callable[[Arena, Path], dict[str, Any]]]] = []
    for name in names:
        cells += [(f"{name}/{model}", lambda arena, _, model=model: single_cell(arena, model)) for model in singles]
        cells += [(f"{name}/{network}", lambda arena, folder, network=network: network_cell(arena, network, folder)) for network in networks]
        cells.append((f"{name}/chosen", lambda arena, folder: chosen_cell(arena, folder, networks)))
        if networks:
            cells.append((f"{name}/neuralforecast_nhits", lambda arena, _: neuralforecast_cell(arena)))
    return cells


def run(names: Sequence[str], *, quick: bool, again: str | None, speed: bool) -> dict[str, Any]:
    """Do the cells that are missing and write the results after each."""
    networks, singles = ((), SINGLES[:7]) if quick else (NETWORKS, SINGLES)
    arenas: dict[str, Arena] = {}
    mine: dict[str, Any] = {}
    kept = {} if quick else _kept_cells()
    for key, work in plan(names, networks=networks, singles=singles):
        if _is_done(kept.get(key)) and not (again and again in key):
            continue
        name, contestant = key.split("/")
        print(f"{datetime.now(UTC):%H:%M:%S} {key}", flush=True)
        arena = arenas.setdefault(name, Arena(SETS[name]))
        mine[key] = work(arena, WORK / name / contestant)
        _write(mine, quick=quick)
    for key in SPEED_CELLS if speed and not quick else ():
        if f"speed/{key}" not in kept or (again and again in f"speed/{key}"):
            print(f"{datetime.now(UTC):%H:%M:%S} speed/{key}", flush=True)
            mine[f"speed/{key}"] = speed_cell(key)
            _write(mine, quick=quick)
    return _write(mine, quick=quick)


def _kept_cells() -> dict[str, Any]:
    """Cells of the results file, in the order of the plan."""
    return json.loads(RESULTS.read_text())["cells"] if RESULTS.exists() else {}


def _is_done(cell: dict[str, Any] | None) -> bool:
    """Whether a cell holds figures; one that could not run is tried again."""
    return cell is not None and "not_run" not in cell


def _write(mine: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    """The results with this process's cells in place of older ones; cells another process has written meanwhile stay."""
    cells = mine if quick else {**_kept_cells(), **mine}
    tables = {name: rows for name in SETS if (rows := summary(cells, name))}
    document = {
        "what": "Rolling-origin forecasts; MASE pooled over series and five origins, ratio to SeasonalNaive (last year).",
        "made": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "note": "CPU seconds of one thread; other work ran beside it"},
        "schemes": {
            one.name: {"frequency": one.frequency, "horizon": one.horizon, "origins": one.num_origins, "every": one.every, "seasons": one.seasons}
            for one in SETS.values()
        },
        "tables": tables,
        "verdicts": {name: verdict(name, rows) for name, rows in tables.items()},
        "speed": {key.split("/")[1]: cell for key, cell in cells.items() if key.startswith("speed/")},
        "speed_goals": SPEED_GOALS,
        "cells": cells,
    }
    if not quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        draft = RESULTS.with_suffix(".part")
        draft.write_text(json.dumps(document, indent=1, default=str))
        draft.replace(RESULTS)
    return document


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sets", nargs="*", choices=sorted(SETS), default=None)
    parser.add_argument("--again", default=None)
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--speed", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.speed:
        print(json.dumps(measure_speed(given.speed)))
        return
    names = given.sets or (["walmart_weekly", "au_tourism_monthly"] if given.quick else list(SETS))
    document = run(names, quick=given.quick, again=given.again, speed=not given.no_speed)
    with pl.Config(tbl_rows=100, tbl_width_chars=160, tbl_formatting="ASCII_MARKDOWN", tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        for name in names:
            print(f"\n{name}: {json.dumps(document['verdicts'].get(name, {}))}")
            print(pl.DataFrame(document["tables"].get(name, [])))


if __name__ == "__main__":
    main()
