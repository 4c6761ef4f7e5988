"""Forecasts measured by rolling origins on eight public sets, beside last year, single models and own networks; and their speed.

    python -m benchmarks.forecast                         # everything missing -> benchmarks/results/forecast.json
    python -m benchmarks.forecast --quick                 # two small sets, no networks; prints, keeps nothing
    python -m benchmarks.forecast --sets eia_weekly       # some sets only
    python -m benchmarks.forecast --again chosen          # do cells whose name holds this text again
    python -m benchmarks.forecast --again neuralforecast --rival-steps 300   # the rival trained more briefly than by its default; its rows say so
    python -m benchmarks.forecast --rows                  # measure nothing, write the rows of the cells anew

A cell is one contestant on one set; finished cells are kept (benchmarks/results/cells/forecast), so an interrupted run goes on. At each of five origins
everything is chosen and fitted anew from what was known then, the choice by its own earlier back-test. Networks are own ones, trained along time in a
process of their own; N-HiTS of neuralforecast runs where its own environment is found (benchmarks/forecast_neuralforecast.py says how to make it).
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import forecast_neuralforecast
from benchmarks.forecast_rows import (
    CHOSEN,
    FOLDER,
    NAIVE,
    NETWORKS,
    OTHERS_NETWORK,
    SINGLES,
    SPEED,
    Row,
    keep_cell,
    read_cells,
    rows_of_set,
    rows_of_speed,
)
from benchmarks.forecast_sets import SETS, ForecastSet, cutoffs_of
from benchmarks.machine import ROOT, git_sha, write_results
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

WORK = ROOT / ".perennial" / "benchmarks" / "forecast"
SPEED_CELLS = ("monthly_1000", "weekly_1000", "weekly_10000", "weekly_100000")


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
            wanted = (pl.col(c.CUTOFF) == cutoff) & pl.col(c.DATE).is_in(list(dates))  # the rival goes on from the last date of each series
            rows = forecasts.filter(wanted).join(self.panel.keys.with_row_index("row"), on=list(KEY))
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
        "origins": [str(cutoff) for cutoff in arena.cutoffs],
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


def neuralforecast_cell(arena: Arena, folder: Path, steps: int = forecast_neuralforecast.STEPS) -> dict[str, Any]:
    """N-HiTS of neuralforecast; only where its own environment is found."""
    python = forecast_neuralforecast.interpreter()
    if python is None:
        return {"not_run": "neuralforecast is not installed; benchmarks/forecast_neuralforecast.py says how"}
    key = pl.concat_str(KEY, separator="|").alias("unique_id")
    series = arena.demand.select(key, pl.col(c.DATE).alias("ds"), pl.col(c.UNITS).alias("y"))
    history = pl.concat(series.filter(pl.col("ds") < cutoff).select(pl.lit(cutoff).alias(c.CUTOFF), pl.all()) for cutoff in arena.cutoffs)
    table, cost = forecast_neuralforecast.ask(
        folder / str(steps), history, horizon=arena.set.horizon, frequency=arena.set.frequency, python=python, steps=steps
    )
    ours = table.select(
        c.CUTOFF, pl.col("unique_id").str.split("|").list.to_struct(fields=list(KEY)).struct.unnest(), pl.col("ds").alias(c.DATE), pl.col("mean").alias(c.MEAN)
    )
    return {"errors": _kept(arena.scaled_errors(arena.table_means(ours))), **cost}


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


def plan(
    names: Sequence[str], *, networks: Sequence[str], singles: Sequence[str], rival_steps: int
) -> list[tuple[str, str, Callable[[Arena, Path], dict[str, Any]]]]:
    """(set, contestant, work) in the order they are done: cheap ones of every set first, then networks, then what the pipeline chooses with them."""
    cells: list[tuple[str, str, Callable[[Arena, Path], dict[str, Any]]]] = []
    for name in names:
        cells += [(name, model, lambda arena, _, model=model: single_cell(arena, model)) for model in singles]
        cells += [(name, network, lambda arena, folder, network=network: network_cell(arena, network, folder)) for network in networks]
        cells.append((name, CHOSEN, lambda arena, folder: chosen_cell(arena, folder, networks)))
        if networks:
            cells.append((name, OTHERS_NETWORK, lambda arena, folder: neuralforecast_cell(arena, folder, rival_steps)))
    return cells


def run(names: Sequence[str], *, quick: bool, again: str | None, speed: bool, rival_steps: int) -> list[Row]:
    """Do the cells that are missing, keep each, and write the rows of all."""
    networks, singles = ((), SINGLES[:7]) if quick else (NETWORKS, SINGLES)
    folder = WORK / "quick_cells" if quick else FOLDER
    if quick:
        shutil.rmtree(folder, ignore_errors=True)
    kept = read_cells(folder)
    arenas: dict[str, Arena] = {}
    for name, contestant, work in plan(names, networks=networks, singles=singles, rival_steps=rival_steps):
        if _is_done(kept.get(name, {}).get(contestant)) and not (again and again in f"{name}/{contestant}"):
            continue
        print(f"{datetime.now(UTC):%H:%M:%S} {name}/{contestant}", flush=True)
        arena = arenas.setdefault(name, Arena(SETS[name]))
        keep_cell(name, contestant, {**_made(), **work(arena, WORK / name / contestant)}, folder)
    for key in SPEED_CELLS if speed and not quick else ():
        if key not in kept.get(SPEED, {}) or (again and again in f"{SPEED}/{key}"):
            print(f"{datetime.now(UTC):%H:%M:%S} {SPEED}/{key}", flush=True)
            keep_cell(SPEED, key, {**_made(), **speed_cell(key)})
    return all_rows(folder)


def all_rows(folder: Path = FOLDER) -> list[Row]:
    """Rows of every set that has cells, in the order of the sets, then of the speed."""
    cells = read_cells(folder)
    rows = [row for name, one in SETS.items() if name in cells for row in rows_of_set(name, one.frequency, cells[name])]
    return rows + rows_of_speed(cells.get(SPEED, {}))


def _made() -> dict[str, str]:
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", "git_sha": git_sha()}


def _is_done(cell: Mapping[str, Any] | None) -> bool:
    """Whether a cell holds figures; one that could not run is tried again."""
    return cell is not None and "not_run" not in cell


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sets", nargs="*", choices=sorted(SETS), default=None)
    parser.add_argument("--again", default=None)
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--rival-steps", type=int, default=forecast_neuralforecast.STEPS, help="training steps of the N-HiTS of neuralforecast at each origin")
    parser.add_argument("--rows", action="store_true", help="measure nothing: write the rows of the cells that are there")
    parser.add_argument("--speed", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.speed:
        print(json.dumps(measure_speed(given.speed)))
        return
    names = given.sets or (["walmart_weekly", "au_tourism_monthly"] if given.quick else list(SETS))
    rows = all_rows() if given.rows else run(names, quick=given.quick, again=given.again, speed=not given.no_speed, rival_steps=given.rival_steps)
    if not given.quick:
        write_results("forecast", command="python -m benchmarks.forecast", rows=rows)
    shown = [row for row in rows if row["dataset"] in names and row["metric"] == f"ratio to {NAIVE}"]
    for row in sorted(shown, key=lambda row: (names.index(row["dataset"]), row["value"])):
        print(f"{row['dataset']:24} {row['model']:34} {row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]")


if __name__ == "__main__":
    main()
