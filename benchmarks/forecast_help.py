"""Do forecasts help the recommender? The same recommender with and without them in its season term: `python -m benchmarks.forecast_help`.

Writes benchmarks/results/forecast_help.json: NDCG@10 of both at leads 0, 28, 56 and 84 days, and the gain of the one with forecasts with its paired interval
(bootstrap over users). Both are trained and measured alike, from the same tables; the one without never sees a forecast in training either. Taste is the
linear terms alone (`--encoder` trains the sequence model too), since the encoder does not read forecasts. A finished cell (data set, origins, seed) is kept
below benchmarks/results/cells/. Online Retail II is read from the folder in PERENNIAL_DATA.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from datetime import date

import polars as pl

from benchmarks.machine import RESULTS, ROOT, command_of, write_results
from contracts.config import PipelineConfig
from flows.local_environment import use_local_stores
from tasks.store import read_table, reuse_digest

CELLS = RESULTS / "cells" / "forecast_help"
PARAMETERS = ROOT / "deployments" / "parameters"
CODE = ("sources", "expectations", "features", "forecasting", "lightning_modules", "serving", "evaluation")
LEADS = (0, 28, 56, 84)
ORIGINS = {"complete_journey": (date(2017, 9, 1), date(2017, 8, 4)), "online_retail_ii": (date(2011, 8, 8), date(2011, 6, 27))}  # newest that hold all leads
WITH, WITHOUT = "perennial", "perennial:without_forecasts"
METRIC = "ndcg@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(ORIGINS), default=list(ORIGINS), help="data sets")
    parser.add_argument("--origins", type=int, default=1, choices=(1, 2), help="how many origins of each data set")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each data set")
    parser.add_argument("--encoder", action="store_true", help="with the sequence encoder")
    parser.add_argument("--storage", default=str(ROOT / ".perennial" / "benchmarks"), help="folder of intermediate tables")
    asked = parser.parse_args()
    rows = []
    for name in asked.data:
        if name == "online_retail_ii" and "PERENNIAL_DATA" not in os.environ:
            print("online_retail_ii left out: set PERENNIAL_DATA to the folder it lies in", file=sys.stderr)
            continue
        config = parameters_of(name, asked.storage, origins=ORIGINS[name][: asked.origins], encoder=asked.encoder)
        for seed in range(asked.seeds):
            rows += measured_cell(config.model_copy(update={"seed": seed}))
    write_results("forecast_help", command=command_of("forecast_help"), rows=rows)


def parameters_of(name: str, storage: str, *, origins: tuple[date, ...], encoder: bool) -> PipelineConfig:
    """Parameters of a data set at the four leads and the given origins, with one cheap baseline."""
    config = PipelineConfig.from_yaml(PARAMETERS / f"{name}.yaml")
    measured = {
        "origins": tuple(sorted(origins)),
        "tune_until": None,
        "leads_days": LEADS,
        "baselines": ("popular_28d",),
        "season_lift": False,
        "slices": False,
    }
    return config.model_copy(
        update={
            "storage_root": storage,
            "pretraining": config.pretraining.model_copy(update={"enabled": encoder}),
            "fine_tuning": config.fine_tuning.model_copy(update={"leads_days": LEADS}),
            "forecast": config.forecast.model_copy(update={"horizon_periods": 16}),
            "evaluation": config.evaluation.model_copy(update=measured),
        }
    )


def measured_cell(config: PipelineConfig) -> list[dict[str, object]]:
    """Rows of one data set and seed; read from its cell where it was measured before."""
    cell = CELLS / f"{config.name}-seed{config.seed}-{reuse_digest(config.model_copy(update={'storage_root': ''}), code=CODE)}.json"
    if cell.exists():
        return list(json.loads(cell.read_text(encoding="utf-8")))
    use_local_stores(config.storage_root)
    from flows.partial_runs import train_and_measure, validate_only

    without = config.model_copy(update={"forecast": config.forecast.model_copy(update={"enabled": False})})
    rankings = {name: pl.read_parquet(train_and_measure(one).rankings.path) for name, one in ((WITH, config), (WITHOUT, without))}
    rows = compared(rankings, read_table(validate_only(config)[1].accepted), config)
    cell.parent.mkdir(parents=True, exist_ok=True)
    cell.write_text(json.dumps(rows, indent=0), encoding="utf-8")
    return rows


def compared(rankings: Mapping[str, pl.DataFrame], interactions: pl.LazyFrame, config: PipelineConfig) -> list[dict[str, object]]:
    """Both recommenders on the same users and windows: figures, and the gain of the first over the second."""
    from evaluation.evaluation import evaluate

    result = evaluate(
        rankings, interactions, config.evaluation, model=WITH, dataset=config.name, target_events=config.fine_tuning.target_events, seed=config.seed
    )
    figures = [row.model_dump() for row in result.rows if row.metric == METRIC]
    gains = [row.model_dump() for row in result.comparisons if row.metric == METRIC]
    return [
        *({**row, "seed": config.seed} for row in figures),
        *({**row, "dataset": config.name, "metric": f"gain of {METRIC}", "origin": "all", "n": row["num_users"], "seed": config.seed} for row in gains),
    ]


if __name__ == "__main__":
    main()
