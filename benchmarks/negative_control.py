"""A season found where there is none would be leakage: `python -m benchmarks.negative_control [--data NAME ...]`.

Each user's whole history is moved by a random number of days, wrapped round the span of the data; the recommender is trained on that and measured at one
origin that holds every lead. Its season lift should lie within noise of zero. Writes benchmarks/results/negative_control.json: rows `season lift of
ndcg@10` of list and lead, with intervals, and whether the interval holds zero. A finished cell (data set, draw) is kept below
benchmarks/results/cells/negative_control/, named by the digest of its parameters and of the code.
"""

import argparse
import os

from benchmarks.machine import RESULTS, ROOT, about_cells, command_of, write_results
from benchmarks.recommender import DATA_SETS, add_run_arguments, digest_of, kept, lift_rows, on_threads, parameters_of, stored_cells
from contracts.config import PipelineConfig
from flows.local_environment import use_local_stores

CELLS = RESULTS / "cells" / "negative_control"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=["online_retail_ii"], help="data sets")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the days that histories are moved by, and of the model")
    add_run_arguments(parser)
    asked = parser.parse_args()
    os.environ.setdefault("PERENNIAL_DATA", str((ROOT / ".." / "shared" / "data").resolve()))
    once = [on_threads(parameters_of(name, asked.storage, quick=True), asked.threads) for name in asked.data]
    configs = [config.model_copy(update={"seed": seed}) for config in once for seed in range(asked.seeds)]
    rows = [row for config in configs for row in measured_cell(config)]
    about = about_cells(stored_cells([name_of(config) for config in configs], CELLS))
    print(write_results("negative_control", command=command_of("negative_control"), rows=rows, **about))


def measured_cell(config: PipelineConfig) -> list[dict[str, object]]:
    """Rows of a data set, measured where no run has kept them yet."""
    return kept(name_of(config), lambda: measured(config), folder=CELLS)


def name_of(config: PipelineConfig) -> str:
    """Name of the cell of a data set and a draw."""
    return f"{config.name}-seed{config.seed}-{digest_of(config)}"


def measured(config: PipelineConfig) -> list[dict[str, object]]:
    """Season lifts of a data set whose seasons are destroyed."""
    use_local_stores(config.storage_root)  # before Prefect is imported
    from flows.partial_runs import negative_control
    from tasks.evaluate import read_evaluation

    result = read_evaluation(negative_control(config).path)
    rows = [row | {"holds_zero": row["ci_low"] <= 0 <= row["ci_high"]} for row in lift_rows(result, config)]  # type: ignore[operator]
    return [{**row, "model": "perennial, seasons destroyed", "origin": str(config.evaluation.origins[0])} for row in rows]


if __name__ == "__main__":
    main()
