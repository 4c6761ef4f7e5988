"""What learning without labels is worth with few labels: `python -m benchmarks.few_labels [--data NAME] [--seeds N]`.

The head learns from the targets of 1, 10 and 100 % of the users. Four arms differ in what taste has learned from all events, without a label:
nothing (taste is left out), the pre-trained encoder alone, the linear terms alone, both. All events stay known in every arm, so that habits and seasons
are the same. Online Retail II at the newest origin that holds every lead (or Complete Journey at its last). The encoder is pre-trained once; each seed
draws other users. Seeds are averaged per user, intervals and gains are paired over users.

Writes benchmarks/results/few_labels.json (Complete Journey: few_labels_complete_journey.json). A finished cell (arm, share, seed) is kept below
benchmarks/results/cells/few_labels/, named by the digest of its parameters and of the code, with the figure of each user.
"""

import argparse
import os
from typing import Any

import polars as pl

from benchmarks.figures_of_users import METRIC, figures, figures_of_users, gains, tables_of, wanted_of
from benchmarks.machine import RESULTS, ROOT, about_cells, command_of, kept_cell, write_results
from benchmarks.recommender import DATA_SETS, add_run_arguments, digest_of, on_threads, parameters_of, short
from contracts.config import PipelineConfig
from evaluation.bootstrap import average_seeds
from flows.local_environment import use_local_stores

CELLS = RESULTS / "cells" / "few_labels"
SHARES = (0.01, 0.1, 1.0)
WITHOUT = "perennial:labels alone"
ARMS: dict[str, dict[str, Any]] = {  # what taste is made of
    WITHOUT: {"leave_out": ("taste",)},
    "perennial:pre-trained encoder": {"use_encoder": "always", "linear": ()},
    "perennial:linear terms": {},
    "perennial:pre-trained encoder and linear terms": {"use_encoder": "always"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA_SETS, default="online_retail_ii", help="data set")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the users with labels; all labels are drawn once")
    add_run_arguments(parser)
    asked = parser.parse_args()
    os.environ.setdefault("PERENNIAL_DATA", str((ROOT / ".." / "shared" / "data").resolve()))
    configs = {(arm, share): on_threads(config_of(asked.data, asked.storage, arm, share), asked.threads) for share in SHARES for arm in ARMS}
    cells = {key: [measured_cell(*key, config, seed) for seed in range(asked.seeds if key[1] < 1 else 1)] for key, config in configs.items()}
    rows = [row for share in SHARES for row in compared(configs[WITHOUT, share], share, {arm: cells[arm, share] for arm in ARMS})]
    name = "few_labels" + ("" if asked.data == "online_retail_ii" else f"_{asked.data}")
    about = about_cells(cell for found in cells.values() for cell in found)
    print(write_results(name, command=command_of("few_labels"), rows=rows, **about))


def config_of(data: str, storage: str, arm: str, share: float) -> PipelineConfig:
    """Parameters of an arm: what its taste is made of, its labels, one origin."""
    values = parameters_of(data, storage, quick=True).model_dump()
    values["pretraining"]["enabled"] = "use_encoder" in ARMS[arm]
    values["fine_tuning"] |= {**ARMS[arm], "label_share": share}
    values["evaluation"] |= {"baselines": (), "season_lift": False, "slices": False, "tune_until": None}
    return PipelineConfig.model_validate(values)


def measured_cell(arm: str, share: float, config: PipelineConfig, seed: int) -> dict[str, Any]:
    """Rows of an arm, a share and a seed, and the figure of each user; read where they were measured before."""

    def measured() -> dict[str, Any]:
        use_local_stores(config.storage_root)  # before Prefect is imported
        from flows.partial_runs import train_and_measure
        from tasks.evaluate import read_evaluation

        reference = train_and_measure(config, head_seed=seed)  # the seed is of the head and its labels: what comes before it is made once
        assert reference.rankings is not None
        rows = [short({**row.model_dump(), "model": f"{arm}, {share:.0%} of labels", "seed": seed}) for row in read_evaluation(reference.path).rows]
        users = figures_of_users(pl.read_parquet(reference.rankings.path), wanted_of(config))
        return {"users": users, "rows": [row for row in rows if row["metric"] == METRIC]}

    cell = CELLS / f"{config.name}-{arm.removeprefix('perennial:').replace(' ', '_')}-{share:g}-seed{seed}-{digest_of(config, str(seed))}.json"
    return kept_cell(cell, measured)


def compared(config: PipelineConfig, share: float, cells: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """All arms at one share of the labels, seeds averaged per user, and what each gains over labels alone, paired."""
    tables = tables_of(wanted_of(config), {f"{arm}, {seed}": cell for arm, found in cells.items() for seed, cell in enumerate(found)})
    averaged = {arm: average_seeds([tables[f"{arm}, {seed}"] for seed in range(len(found))]) for arm, found in cells.items()}
    rows = figures(config, averaged)
    for arm in (arm for arm in averaged if arm != WITHOUT):
        rows += gains(config, {arm: averaged[arm], WITHOUT: averaged[WITHOUT]}, arm)
    return [short({**row, "label_share": share, "seeds": len(cells[WITHOUT])}) for row in rows]


if __name__ == "__main__":
    main()
