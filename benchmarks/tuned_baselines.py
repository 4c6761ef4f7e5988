"""Baselines with settings tuned for each data set, beside ours: `python -m benchmarks.tuned_baselines [--data NAME ...]`.

The baselines of every run have fixed settings. Here popularity has four spans, with and without last year's weeks; habit has four half-lives, EASE three
ridges and two floors of its logarithm; these and the neighbourhood model (whose shrinkage stays) stand alone and times trend, season, both, and the root of
both. For each list and lead the best on the tuning windows (they end before the first reported origin) is measured at the protocol's origins, with the fixed
settings' best beside it, chosen alike.

Writes benchmarks/results/tuned_baselines.json: rows `tuning ndcg@10` of everything tried, `ndcg@10` of what was chosen (`chosen` names it), `gain of
ndcg@10` of ours over it on the same users, averaged over the seeds that `benchmarks.recommender` has kept. A finished cell (data set) is kept below
benchmarks/results/cells/tuned_baselines/.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import Any

import polars as pl

from benchmarks.figures_of_users import METRIC, Window, figures, figures_of_users, gains, key_of, windows_of
from benchmarks.machine import RESULTS, ROOT, about_cells, command_of, kept_cell, write_results
from benchmarks.recommender import DATA_SETS, OURS, our_users, parameters_of, short, tables_with_ours
from benchmarks.recommender_peers import accepted, at_origins
from contracts import columns as c
from contracts.config import PipelineConfig
from contracts.sections.evaluation import EvaluationConfig
from evaluation import baselines
from evaluation.origins import leads_that_fit, tuning_origins
from evaluation.ranking_metrics import score_rankings
from tasks.store import reuse_digest

CELLS = RESULTS / "cells" / "tuned_baselines"
FACTORS = ("", "*trend", "*season", "*trend*season", "*(trend*season)^.5")
HALF_LIVES = (45, 90, 180, 365)
SPANS = ("7d", "28d", "90d", "all")
RIDGES = (50.0, 200.0, 800.0)
FLOORS = (0.005, baselines.EASE_LOG_FLOOR)  # of the logarithm, which EASE alone does without
FIXED, TUNED = "best baseline, fixed settings", "best baseline, tuned settings"
K = 10

LeadsAtOrigin = dict[date, tuple[int, ...]]


@dataclass(frozen=True)
class Setting:
    """A baseline's name, and ridge and floor of EASE where it is one."""

    name: str
    ease: tuple[float, float] | None = None

    def __str__(self) -> str:
        return self.name if self.ease is None else f"{self.name}, ridge {self.ease[0]:g}, floor {self.ease[1]:g}"

    @property
    def is_fixed(self) -> bool:
        """Whether every run measures it as one of its baselines."""
        return self.ease in (None, (baselines.EASE_REGULARISATION, baselines.EASE_LOG_FLOOR)) and self.name in EvaluationConfig().baselines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="data sets")
    parser.add_argument("--storage", default=str(ROOT / ".perennial" / "benchmarks"), help="folder of intermediate tables")
    asked = parser.parse_args()
    os.environ.setdefault("PERENNIAL_DATA", str((ROOT / ".." / "shared" / "data").resolve()))
    cells, rows = [], list[dict[str, Any]]()
    for name in asked.data:
        config = parameters_of(name, asked.storage, quick=False)
        events = accepted(config)
        cell = kept_cell(CELLS / f"{name}-{digest_of(config)}.json", lambda config=config, events=events: measured(config, events))
        cells += [cell, *our_users(config).values()]
        rows += cell["rows"] + figures_and_gains(config, events, cell)
    print(write_results("tuned_baselines", command=command_of("tuned_baselines"), rows=[short(row) for row in rows], **about_cells(cells)))


def settings() -> list[Setting]:
    """All that is tried; what every run measures is among it."""
    of_ease = [Setting(f"ease{factor}", (ridge, floor)) for ridge, floor in product(RIDGES, FLOORS) for factor in FACTORS if factor or floor == FLOORS[-1]]
    of_habit = [Setting(f"habit_{days}d{factor}") for days in HALF_LIVES for factor in FACTORS]
    of_knn = [Setting(f"item_knn{factor}") for factor in FACTORS]
    popular = [Setting(f"popular_{span}{last_year}") for span in SPANS for last_year in ("", "+0.3*last_year")]
    return [*popular, Setting("last_year_weeks"), *of_habit, *of_knn, *of_ease]


def digest_of(config: PipelineConfig) -> str:
    """Digest of what is tried and where, and of the code that cleans, ranks and scores."""
    asked = config.evaluation.model_dump_json(include={"origins", "tune_until", "leads_days", "horizon_days", "lists"})
    source = config.source.model_copy(update={"uri": None})  # wherever it lies
    return reuse_digest(
        str([str(one) for one in settings()]), asked, source, str(config.fine_tuning.target_events), code=("sources", "expectations", "evaluation")
    )


def measured(config: PipelineConfig, events: pl.DataFrame) -> dict[str, Any]:
    """Figures of every setting on the tuning windows; of the best two (fixed settings, all) of each list and lead those at the origins, by user."""
    days = events[c.EVENT_TIME].dt.date()
    tuning = tuning_origins(days.min(), config.evaluation)
    tried = tuning_figures(config, events, tuning)
    lists_and_leads = [(list_name, lead) for list_name in config.evaluation.lists for lead in config.evaluation.leads_days]
    chosen = {model: {key: best_of(tried, *key, only_fixed=model == FIXED) for key in lists_and_leads} for model in (FIXED, TUNED)}
    reported = {origin: leads_that_fit(origin, days.max(), config.evaluation) for origin in config.evaluation.origins}
    users: dict[str, dict[str, str]] = {FIXED: {}, TUNED: {}}
    needed = list(dict.fromkeys(one for of_model in chosen.values() for one in of_model.values()))
    windows = list(windows_of(events, config))
    for setting, origin, ranked in rankings_of(config, events, reported, needed):
        found = figures_of_users(ranked, windows)
        for model, of_model in chosen.items():
            keys = {key_of((list_name, origin, lead)) for (list_name, lead), one in of_model.items() if one == setting}
            users[model] |= {key: values for key, values in found.items() if key in keys}
    about = {"dataset": config.name, "metric": f"tuning {METRIC}", "origin": "tuning"}
    rows = [
        {**about, "model": str(setting), "list": list_name, "lead_days": lead, "value": value, "n": number}
        for (setting, list_name, lead), (value, number) in tried.items()
    ]
    names = {model: {f"{list_name} {lead}": str(one) for (list_name, lead), one in of_model.items()} for model, of_model in chosen.items()}
    return {"users": users, "chosen": names, "rows": [short(row) for row in rows]}


def tuning_figures(config: PipelineConfig, events: pl.DataFrame, tuning: LeadsAtOrigin) -> dict[tuple[Setting, str, int], tuple[float, int]]:
    """NDCG@10 of each setting, list and lead over the users of all tuning windows, and their number."""
    wanted = dict(windows_of(events, at_origins(config, tuple(tuning))))
    found: dict[tuple[Setting, str, int], list[pl.Series]] = {}
    for setting, origin, ranked in rankings_of(config, events, tuning, settings()):
        for (list_name, request_day), part in ranked.partition_by(c.LIST, c.REQUEST_DATE, as_dict=True).items():
            window: Window = (list_name, origin, (request_day - origin).days)
            if window in wanted:
                found.setdefault((setting, list_name, window[2]), []).append(score_rankings(part, wanted[window])["ndcg"])
    return {key: (float(pl.concat(parts).mean()), sum(map(len, parts))) for key, parts in found.items()}  # type: ignore[arg-type]


def rankings_of(config: PipelineConfig, events: pl.DataFrame, origins: LeadsAtOrigin, asked: Sequence[Setting]) -> Iterator[tuple[Setting, date, pl.DataFrame]]:
    """Rankings of each setting at each origin; what shares the settings of EASE is ranked together."""
    evaluation = config.evaluation
    wanted: dict[date, list[pl.Series]] = {}
    for (_, origin, _), of_window in windows_of(events, at_origins(config, tuple(origins))):
        wanted.setdefault(origin, []).append(of_window[c.USER_ID])
    groups = {ease: [one for one in asked if one.ease == ease] for ease in dict.fromkeys(one.ease for one in asked)}
    for origin, leads in origins.items():
        for number, (ease, group) in enumerate(groups.items(), start=1):
            with ease_with(ease):
                ranked = baselines.baseline_rankings(
                    events,
                    cutoff=origin,
                    lead_days=leads,
                    horizon_days=evaluation.horizon_days,
                    lists=evaluation.lists,
                    names=[one.name for one in group],
                    users=pl.concat(wanted[origin]).unique(),
                    k=K,
                    target_events=config.fine_tuning.target_events,
                )
            parts = ranked.partition_by(c.MODEL_VERSION, as_dict=True)
            yield from ((one, origin, parts[(one.name,)]) for one in group)
            print(f"{config.name} {origin}: {number} of {len(groups)} groups of settings", file=sys.stderr, flush=True)


@contextmanager
def ease_with(ease: tuple[float, float] | None) -> Iterator[None]:
    """EASE with another ridge and floor than the fixed ones."""
    before = baselines.EASE_REGULARISATION, baselines.EASE_LOG_FLOOR
    baselines.EASE_REGULARISATION, baselines.EASE_LOG_FLOOR = ease or before
    try:
        yield
    finally:
        baselines.EASE_REGULARISATION, baselines.EASE_LOG_FLOOR = before


def best_of(tried: dict[tuple[Setting, str, int], tuple[float, int]], list_name: str, lead: int, *, only_fixed: bool) -> Setting:
    """The setting with the highest figure on the tuning windows of a list and lead."""
    here = {setting: value for (setting, *window), (value, _) in tried.items() if window == [list_name, lead]}
    values = {setting: value for setting, value in here.items() if setting.is_fixed or not only_fixed}
    return max(values, key=values.__getitem__)


def figures_and_gains(config: PipelineConfig, events: pl.DataFrame, cell: dict[str, Any]) -> list[dict[str, Any]]:
    """What was chosen at the origins, ours beside it, and what ours gains over it, at each lead; with intervals."""
    others = {model: {"users": of_model} for model, of_model in cell["users"].items()}
    tables = tables_with_ours(config, windows_of(events, config), others)
    if OURS not in tables:
        print(f"{config.name}: no figures of our users were kept (python -m benchmarks.recommender); baselines stand alone", file=sys.stderr)
    rows = [{**row, "chosen": cell["chosen"].get(row["model"], {}).get(f"{row['list']} {row['lead_days']}")} for row in figures(config, tables)]
    return [row for row in rows + (gains(config, tables, OURS) if OURS in tables else []) if row["lead_days"] is not None]


if __name__ == "__main__":
    main()
