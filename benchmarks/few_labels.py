"""What pre-training is worth with few labels: `python -m benchmarks.few_labels [--seeds N]`.

The head learns from the targets of 1, 10 and 100 % of the users, once with the pre-trained encoder always in taste and once without it; all events
stay known in both, so that the linear terms, the habits and the seasons are the same. Complete Journey, its last origin. The encoder is pre-trained
once; each seed draws other users. Seeds are averaged per user, intervals and gains are paired over users.

Writes benchmarks/results/few_labels.json. A finished cell (arm, share, seed) is kept below benchmarks/results/cells/few_labels/, named by the digest
of its parameters and of the code; its rankings stay in the storage.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.machine import RESULTS, results_text, write_results
from benchmarks.recommender import CODE, PARAMETERS, add_run_arguments, on_threads, short
from contracts.config import PipelineConfig
from evaluation.evaluation import evaluate
from flows.local_environment import use_local_stores
from tasks.store import reuse_digest

CELLS = RESULTS / "cells" / "few_labels"
DATASET = "complete_journey"
SHARES = (0.01, 0.1, 1.0)
PRETRAINED, WITHOUT = "pre-trained", "without pre-training"
METRIC = "ndcg@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="draws of the users with labels; all labels are drawn once")
    add_run_arguments(parser)
    asked = parser.parse_args()
    configs = {(arm, share): on_threads(config_of(asked.storage, arm, share), asked.threads) for share in SHARES for arm in (PRETRAINED, WITHOUT)}
    cells = {key: [measured_cell(*key, config, seed) for seed in range(asked.seeds if key[1] < 1 else 1)] for key, config in configs.items()}
    rows = [row for share in SHARES for row in compared(configs[PRETRAINED, share], share, {arm: cells[arm, share] for arm in (PRETRAINED, WITHOUT)})]
    print(write_results("few_labels", command="python -m benchmarks.few_labels", rows=rows))


def config_of(storage: str, arm: str, share: float) -> PipelineConfig:
    """Parameters of an arm: its encoder, its labels, the last origin."""
    config = PipelineConfig.from_yaml(PARAMETERS / f"{DATASET}.yaml")
    values = config.model_dump()
    values["storage_root"] = storage
    values["pretraining"]["enabled"] = arm == PRETRAINED
    values["fine_tuning"] |= {"use_encoder": "always" if arm == PRETRAINED else "if_it_adds", "label_share": share}
    values["evaluation"] |= {"origins": config.evaluation.origins[-1:], "baselines": (), "season_lift": False, "slices": False, "tune_until": None}
    return PipelineConfig.model_validate(values)


def measured_cell(arm: str, share: float, config: PipelineConfig, seed: int) -> dict[str, Any]:
    """Where the rankings of an arm, a share and a seed lie; read where they were made before and are still there."""
    digest = reuse_digest(config.model_copy(update={"storage_root": ""}), str(seed), code=CODE)
    cell = CELLS / f"{arm.replace(' ', '_')}-{share:g}-seed{seed}-{digest}.json"
    if cell.exists():
        found = dict(json.loads(cell.read_text(encoding="utf-8")))
        if (Path(config.storage_root) / found["rankings"]).exists():
            return found
    use_local_stores(config.storage_root)  # before Prefect is imported
    from flows.partial_runs import train_and_measure
    from tasks.evaluate import read_evaluation

    reference = train_and_measure(config, head_seed=seed)  # the seed is of the head and its labels: what comes before it is made once
    assert reference.rankings is not None
    rows = [short({**row.model_dump(), "model": f"{arm}, {share:.0%} of labels", "seed": seed}) for row in read_evaluation(reference.path).rows]
    text = results_text([row for row in rows if row["metric"] == METRIC])
    rankings = str(Path(reference.rankings.path).resolve().relative_to(Path(config.storage_root).resolve()))
    cell.parent.mkdir(parents=True, exist_ok=True)
    cell.write_text(text.replace('"rows": [', f'"rankings": {json.dumps(rankings)}, "rows": [', 1), encoding="utf-8")
    return dict(json.loads(cell.read_text(encoding="utf-8")))


def compared(config: PipelineConfig, share: float, cells: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Both arms at one share of the labels, seeds averaged per user, and the paired gain of pre-training."""
    use_local_stores(config.storage_root)
    from flows.partial_runs import validate_only

    _, validated = validate_only(config)
    result = evaluate(
        {arm: [pl.read_parquet(Path(config.storage_root) / cell["rankings"]) for cell in found] for arm, found in cells.items()},
        pl.scan_parquet(validated.accepted.parts()),
        config.evaluation,
        model=PRETRAINED,
        dataset=config.name,
        target_events=config.fine_tuning.target_events,
        seed=config.seed,
    )
    about = {"label_share": share, "seeds": len(cells[PRETRAINED])}
    rows = [{**row.model_dump(), **about} for row in result.rows if row.metric == METRIC and row.origin == "all"]
    rows += [
        {**one.model_dump(), "dataset": config.name, "origin": "all", "metric": f"gain of {METRIC}", "value": one.relative, **about}
        for one in result.comparisons
        if one.metric == METRIC
    ]
    return [short(row) for row in rows]


if __name__ == "__main__":
    main()
