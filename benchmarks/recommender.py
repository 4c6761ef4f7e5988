"""The recommender under the protocol, beside its baselines: `python -m benchmarks.recommender [--quick] [--data NAME ...]`.

Writes benchmarks/results/recommender.json. A finished cell (data set, seed; it holds every origin) is kept below benchmarks/results/cells/, named by the
digest of its parameters and of the code that made it, so an interrupted run goes on and nothing is measured twice. Where several seeds are measured a
further cell holds them averaged per user, as the protocol counts: its rows say `seeds`, and are made from the rankings the storage still has.
The figure of each user is kept below cells/users, so that others (peers, tuned baselines) can be compared on the same users later.
The whole is to take ten hours at most, `--quick` 20 minutes; the results say what it took.
Online Retail II is read from the folder in PERENNIAL_DATA (default ../shared/data); without it that data set is left out and said so.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.figures_of_users import Window, figures_of_users, tables_of, wanted_of
from benchmarks.machine import RESULTS, ROOT, about_cells, command_of, kept_cell, write_results
from contracts.config import PipelineConfig
from contracts.sections.training import ComputeConfig
from evaluation.bootstrap import average_seeds
from evaluation.results import EvaluationResult
from flows.local_environment import use_local_stores
from tasks.store import SCORER, reuse_digest

CELLS = RESULTS / "cells" / "recommender"
USERS = RESULTS / "cells" / "users"
PARAMETERS = ROOT / "deployments" / "parameters"
CODE = ("sources", "expectations", "features", "forecasting", "lightning_modules", *SCORER, "evaluation")
MOST_SEEDS = 10  # that are looked for
OURS = "perennial"
OF_OTHERS = ("ndcg@10", "recall@10", "coverage@10")
DATA_SETS = ("complete_journey", "online_retail_ii")
MOST_SECONDS = {False: 36_000, True: 1_200}  # of the whole command, and of --quick
GOALS = {  # (data set, list, lead) -> gain over the best other that was set out for
    **{("online_retail_ii", "again", lead): gain for lead, gain in ((0, 0.04), (28, 0.04), (56, 0.06), (84, 0.06))},
    **{("online_retail_ii", "discover", lead): gain for lead, gain in ((0, 0.10), (28, 0.15), (56, 0.20), (84, 0.20))},
    **{("complete_journey", "again", lead): 0.04 for lead in (0, 28)},
    **{("complete_journey", "discover", lead): 0.15 for lead in (0, 28)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the last origin and one seed of each data set")
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="data sets")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each data set")
    parser.add_argument("--stored", action="store_true", help="write what an interrupted run has finished; nothing is trained")
    add_run_arguments(parser)
    asked = parser.parse_args()
    os.environ.setdefault("PERENNIAL_DATA", str((ROOT / ".." / "shared" / "data").resolve()))
    rows, names = [], list[str]()
    for name in asked.data:
        if name == "online_retail_ii" and not Path(os.environ["PERENNIAL_DATA"]).is_dir():
            print("online_retail_ii left out: no folder; set PERENNIAL_DATA", file=sys.stderr)
            continue
        config = on_threads(parameters_of(name, asked.storage, quick=asked.quick), asked.threads)
        configs = [config.model_copy(update={"seed": seed}) for seed in range(1 if asked.quick else asked.seeds)]
        for one in configs:
            rows += measured_cell(one, only_stored=asked.stored)
            names.append(name_of(one))
        if len(configs) > 1:
            rows += averaged_cell(configs, only_stored=asked.stored)
            names.append(name_of_average(configs))
    about = about_cells(stored_cells(names)) | {"most_seconds": MOST_SECONDS[asked.quick]}
    write_results("recommender_quick" if asked.quick else "recommender", command=command_of("recommender"), rows=rows, **about)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a benchmark of the whole path keeps its tables, and on how many threads it trains."""
    parser.add_argument("--threads", type=int, default=2, help="threads of a training process; one where another benchmark runs beside it")
    parser.add_argument("--storage", default=str(ROOT / ".perennial" / "benchmarks"), help="folder of intermediate tables")


def on_threads(config: PipelineConfig, threads: int) -> PipelineConfig:
    """The same parameters, training on so many threads."""
    return config.model_copy(update={"compute": config.compute.model_copy(update={"threads": threads})})


def parameters_of(name: str, storage: str, *, quick: bool) -> PipelineConfig:
    """Parameters of a data set, with its own storage; `quick` keeps the newest origin that holds every lead."""
    config = PipelineConfig.from_yaml(PARAMETERS / f"{name}.yaml").model_copy(update={"storage_root": storage})
    if not quick:
        return config
    return config.model_copy(
        update={
            "evaluation": config.evaluation.model_copy(update={"origins": (config.evaluation.origins[-1 if len(config.evaluation.leads_days) < 3 else 3],)})
        }
    )


def measured_cell(config: PipelineConfig, *, only_stored: bool = False) -> list[dict[str, object]]:
    """Rows of one data set and seed; none where it was not measured before and `only_stored`."""

    def rows() -> list[dict[str, object]]:
        use_local_stores(config.storage_root)
        from flows.partial_runs import train_and_measure
        from tasks.evaluate import read_evaluation

        reference = train_and_measure(config)
        assert reference.rankings is not None
        keep_users(config, Path(reference.rankings.path))
        result = read_evaluation(reference.path)
        found = [{**row.model_dump(), "seed": config.seed} for row in result.rows]
        found += [*gain_rows(result, config, seed=config.seed), *lift_rows(result, config)]
        return [row for row in found if is_kept(row)]

    return kept(name_of(config), rows, only_stored=only_stored)


def averaged_cell(configs: Sequence[PipelineConfig], *, only_stored: bool = False) -> list[dict[str, object]]:
    """Figures and gains of all seeds of a data set, averaged per user before anything else; baselines draw no lots."""
    config = configs[0]

    def rows() -> list[dict[str, object]]:
        use_local_stores(config.storage_root)
        from flows.partial_runs import averaged_over_seeds, train_and_measure

        result = averaged_over_seeds(config, [train_and_measure(one) for one in configs])  # each finds what its cell was made from
        about = {"seed": None, "seeds": len(configs)}
        ours = [{**row.model_dump(), **about} for row in result.rows if row.model == OURS and row.metric in OF_OTHERS]
        return ours + gain_rows(result, config, **about)

    return kept(name_of_average(configs), rows, only_stored=only_stored)


def name_of(config: PipelineConfig) -> str:
    """Name of the cell of one data set and seed."""
    return f"{config.name}-seed{config.seed}-{digest_of(config)}"


def name_of_average(configs: Sequence[PipelineConfig]) -> str:
    """Name of the cell of all seeds of a data set."""
    return f"{configs[0].name}-{len(configs)}-seeds-{digest_of(configs[0], str([one.seed for one in configs]))}"


def digest_of(config: PipelineConfig, *more: str) -> str:
    """Digest of the parameters, whatever the storage and the machine, and of the code."""
    return reuse_digest(config.model_copy(update={"storage_root": "", "compute": ComputeConfig()}), *more, code=CODE)


def kept(name: str, measure: Callable[[], list[dict[str, object]]], *, only_stored: bool = False, folder: Path | None = None) -> list[dict[str, object]]:
    """Rows of a cell below `folder` (the recommender's), measured where no run has kept them yet; empty instead where `only_stored`."""
    cell = (folder or CELLS) / f"{name}.json"
    if only_stored and not cell.exists():
        return []
    return list(kept_cell(cell, lambda: {"rows": [short(row) for row in measure()]})["rows"])


def keep_users(config: PipelineConfig, rankings: Path) -> None:
    """Keep NDCG@10 of each user below cells/users, by the name of the recommender's cell, for comparison with what is measured elsewhere."""
    kept_cell(USERS / f"{name_of(config)}.json", lambda: {"users": figures_of_users(pl.read_parquet(rankings), wanted_of(config)), "rows": []})


def our_users(config: PipelineConfig) -> dict[str, dict[str, Any]]:
    """Kept figures of our users by seed, of all seeds that were measured with these parameters and this code; empty where none was."""
    paths = {f"seed {seed}": USERS / f"{name_of(config.model_copy(update={'seed': seed}))}.json" for seed in range(MOST_SEEDS)}
    return {seed: dict(json.loads(path.read_text(encoding="utf-8"))) for seed, path in paths.items() if path.exists()}


def tables_with_ours(
    config: PipelineConfig, windows: Iterable[tuple[Window, pl.DataFrame]], others: Mapping[str, Mapping[str, Any]]
) -> dict[str, pl.DataFrame]:
    """Figures of users (figures_of_users.tables_of) of other cells, after our own averaged over the kept seeds; ours are missing where no seed was kept."""
    ours = our_users(config)
    tables = tables_of(windows, {**ours, **others})
    averaged = {OURS: average_seeds([tables[seed] for seed in ours])} if ours else {}
    return {**averaged, **{name: tables[name] for name in others}}


def stored_cells(names: Sequence[str], folder: Path | None = None) -> list[dict[str, Any]]:
    """Cells by their names, as far as they were kept: their heads say by what commit and how long they were measured."""
    paths = [(folder or CELLS) / f"{name}.json" for name in names]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def gain_rows(result: EvaluationResult, config: PipelineConfig, **about: object) -> list[dict[str, object]]:
    """What the model gains over each other one in the main metric, pooled over origins."""
    return [
        {**one.model_dump(), "dataset": config.name, "metric": f"gain of {one.metric}", "origin": "all", **about}
        for one in result.comparisons
        if one.metric == result.main_metric
    ]


def lift_rows(result: EvaluationResult, config: PipelineConfig) -> list[dict[str, object]]:
    """Season lift of each list and lead, relative, with its interval."""
    return [
        {
            **lift.model_dump(),
            "dataset": config.name,
            "metric": f"season lift of {lift.metric}",
            "value": lift.relative,
            "ci_low": lift.relative_low,
            "ci_high": lift.relative_high,
            "n": lift.num_users,
            "seed": config.seed,
            "origin": "all",
        }
        for lift in result.season_lifts
    ]


def is_kept(row: dict[str, object]) -> bool:
    """Whether a row is committed: all of ours; of the baselines, which draw no lots, the first seed's main measures."""
    is_ours = row["model"] == OURS or " of " in str(row["metric"])
    return is_ours or (row["seed"] == 0 and row["metric"] in OF_OTHERS)


def short(row: dict[str, object]) -> dict[str, object]:
    """A row without what it has not (all leads stay null), numbers to six digits: cells are committed."""
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items() if value is not None or name == "lead_days"}


if __name__ == "__main__":
    main()
