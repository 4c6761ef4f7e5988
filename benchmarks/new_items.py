"""What words say of items nobody has had: `python -m benchmarks.new_items [--data NAME] [--origins N]`.

The recommender without and with text vectors (`content.encoder`), taste by linear terms, no forecasts: items without history ranked among themselves
beside an order drawn at random, and the figures of the two lists of the protocol, which such items hardly touch. The last origins of the data set's
parameters, lead 0.

Writes benchmarks/results/new_items.json (of another data set new_items_NAME.json).
"""

import argparse
import os
from typing import Any

from benchmarks.machine import ROOT, command_of, write_results
from benchmarks.recommender import DATA_SETS, parameters_of
from contracts.config import PipelineConfig
from flows.local_environment import use_local_stores

METRIC = "ndcg@10"
ONLINE_RETAIL = "online_retail_ii"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA_SETS, default=ONLINE_RETAIL, help="data set")
    parser.add_argument("--origins", type=int, default=1, help="how many of the last origins")
    parser.add_argument("--storage", default=str(ROOT / ".perennial" / "benchmarks"), help="folder of intermediate tables")
    asked = parser.parse_args()
    os.environ.setdefault("PERENNIAL_DATA", str((ROOT / ".." / "shared" / "data").resolve()))
    rows = [
        row for encoder in ("none", "minilm") for row in measured(variant_of(parameters_of(asked.data, asked.storage, quick=False), encoder, asked.origins))
    ]
    name = "new_items" + ("" if asked.data == ONLINE_RETAIL else f"_{asked.data}")
    print(write_results(name, command=command_of("new_items"), rows=rows))


def variant_of(config: PipelineConfig, encoder: str, num_origins: int) -> PipelineConfig:
    """Parameters of a run: linear terms, no forecasts, few cut-offs to learn from, slices for the new items' list."""
    values = config.model_dump()
    values["name"] = f"{config.name}_new_items"
    values["content"]["encoder"] = encoder
    values["pretraining"]["enabled"] = values["forecast"]["enabled"] = False
    values["fine_tuning"]["leads_days"] = [0]
    values["features"]["cutoff_every_days"] = 112
    values["evaluation"] |= {
        "origins": config.evaluation.origins[-num_origins:],
        "leads_days": [0],
        "baselines": (),
        "season_lift": False,
        "slices": True,
        "tune_until": None,
    }
    return PipelineConfig.model_validate(values)


def measured(config: PipelineConfig) -> list[dict[str, Any]]:
    """Rows of one run: the new items' list and, for each list of the protocol, the pooled figure."""
    use_local_stores(config.storage_root)
    from flows.partial_runs import train_and_measure
    from tasks.evaluate import read_evaluation

    found = read_evaluation(train_and_measure(config).path)
    shared = {"dataset": config.name.removesuffix("_new_items"), "content": config.content.encoder}
    rows = []
    for row in found.new_items:
        figures = row.model_dump(include={"list", "value", "ci_low", "ci_high"})
        model = f"{row.model}, content {config.content.encoder}" if row.model == found.model else row.model
        rows.append({**shared, "model": model, "metric": f"{METRIC} of new items among themselves, {row.list}", "n": row.num_users, **figures})
    for list_name in found.lists:
        figure = found.figure(found.model, list_name)
        model = f"{found.model}, content {config.content.encoder}"
        figures = figure.model_dump(include={"list", "value", "ci_low", "ci_high"})
        rows.append({**shared, "model": model, "metric": f"{METRIC} of the list {list_name}", "n": figure.n, **figures})
    return rows


if __name__ == "__main__":
    main()
