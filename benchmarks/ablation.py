"""What each component of the recommender adds: `python -m benchmarks.ablation [--quick] [--data NAME] [--cells NAME ...]`.

The head is fitted and measured with each component alone (taste, habit, trend, season), with each pair, and with all; without one component at a time;
without the pre-trained encoder, with it in place of the linear terms, with EASE in place of both (the one linear term of the fixed baseline, without
decay), and without the calendar of the request, which the encoder reads. Complete Journey unless `--data` says otherwise, the origins of its parameters;
the steps before fine-tuning are those of any other run over the same storage, and are made once.

Writes benchmarks/results/ablation.json (of another data set ablation_NAME.json; `--quick`: one origin, `_quick` in the name). A finished cell is kept below
benchmarks/results/cells/ablation/, named by the digest of its parameters and of the code, so an interrupted run goes on. Rows `ndcg@10` are the
figures of each cell; rows `gain of ndcg@10` hold the whole recommender against it on the same users, with paired intervals. A cell keeps the figure of
each user, so that gains need no rankings: they may be gone from the storage.
"""

import argparse
import os
from itertools import combinations
from typing import Any, get_args

import polars as pl

from benchmarks.figures_of_users import METRIC, figures_of_users, gains, tables_of, wanted_of
from benchmarks.machine import RESULTS, ROOT, about_cells, command_of, kept_cell, write_results
from benchmarks.recommender import DATA_SETS, add_run_arguments, digest_of, on_threads, parameters_of
from contracts.config import PipelineConfig
from contracts.sections.training import Component, LinearTerm
from evaluation.baselines import EASE_LOG_FLOOR, EASE_REGULARISATION
from flows.local_environment import use_local_stores

CELLS = RESULTS / "cells" / "ablation"
COMPONENTS: tuple[str, ...] = get_args(Component)
WHOLE = "all"
EASE = LinearTerm(ridge=EASE_REGULARISATION, half_life_days=None, floor=EASE_LOG_FLOOR)  # as the baseline has it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the last origin only")
    parser.add_argument("--data", choices=DATA_SETS, default=DATA_SETS[0], help="data set")
    parser.add_argument("--cells", nargs="+", choices=list(variants()), default=list(variants()), help="some cells only; `all` is always among them")
    add_run_arguments(parser)
    asked = parser.parse_args()
    os.environ.setdefault("PERENNIAL_DATA", str((ROOT / ".." / "shared" / "data").resolve()))
    whole = on_threads(parameters_of(asked.data, asked.storage, quick=asked.quick), asked.threads)
    cells = {name: measured_cell(name, variant_of(whole, variants()[name])) for name in dict.fromkeys([WHOLE, *asked.cells])}
    rows = [row for cell in cells.values() for row in cell["rows"]] + gains_over_cells(whole, cells)
    name = "ablation" + ("" if asked.data == DATA_SETS[0] else f"_{asked.data}") + ("_quick" if asked.quick else "")
    print(write_results(name, command=command_of("ablation"), rows=rows, **about_cells(cells.values())))


def variants() -> dict[str, dict[str, Any]]:
    """Name of a cell -> what it changes: components left out, the encoder, the calendar of the request."""
    found: dict[str, dict[str, Any]] = {WHOLE: {}}
    for size in (1, 2):
        for kept in combinations(COMPONENTS, size):
            found[" + ".join(kept)] = {"leave_out": tuple(name for name in COMPONENTS if name not in kept)}
    found |= {f"without {name}": {"leave_out": (name,)} for name in COMPONENTS}
    found["without encoder"] = {"encoder": False}
    found["without linear terms"] = {"linear": ()}
    found["EASE instead of the encoder"] = {"encoder": False, "linear": (EASE,)}
    found["without calendar of the request"] = {"request_calendar": False}
    return found


def variant_of(config: PipelineConfig, change: dict[str, Any]) -> PipelineConfig:
    """Parameters of a cell. Without the encoder taste is its linear terms, without these the encoder; baselines and slices stay out of every cell."""
    pretraining = {"enabled": change.get("encoder", True), "request_calendar": change.get("request_calendar", True)}
    fine_tuning = {name: change[name] for name in ("leave_out", "linear") if name in change}
    return config.model_copy(
        update={
            "pretraining": config.pretraining.model_copy(update=pretraining),
            "fine_tuning": config.fine_tuning.model_copy(update=fine_tuning),
            "evaluation": config.evaluation.model_copy(update={"baselines": (), "season_lift": False, "slices": False, "tune_until": None}),
        }
    )


def measured_cell(name: str, config: PipelineConfig) -> dict[str, Any]:
    """Rows of a cell and the figure of each user; read where it was measured before."""

    def measured() -> dict[str, Any]:
        use_local_stores(config.storage_root)
        from flows.partial_runs import train_and_measure
        from tasks.evaluate import read_evaluation

        reference = train_and_measure(config)
        assert reference.rankings is not None
        rows = [{**row.model_dump(), "model": name, "seed": config.seed} for row in read_evaluation(reference.path).rows if row.metric == METRIC]
        rankings = pl.read_parquet(reference.rankings.path)
        return {"users": figures_of_users(rankings, wanted_of(config)), "rows": rows}

    return kept_cell(CELLS / f"{config.name}-{name.replace(' ', '_').replace(',', '')}-{digest_of(config)}.json", measured)


def gains_over_cells(config: PipelineConfig, cells: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The whole recommender against every other cell."""
    return gains(config, tables_of(wanted_of(config), cells), WHOLE) if len(cells) > 1 else []


if __name__ == "__main__":
    main()
