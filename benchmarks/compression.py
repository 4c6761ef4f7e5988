"""Smaller forms of a trained model beside the full one: `python -m benchmarks.compression`.

Complete Journey, its newest origin, the encoder always in taste; the step `compress` makes int8 and distilled forms and measures them, as in any other
run; the product-quantised one, which the step tries from a million items on, is made and measured here alike. Writes benchmarks/results/compression.json:
size, median time of a request, NDCG@10 of each list, and what each form loses against the full model.
The steps before are those of any other run over the same storage, and are made once.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.machine import ROOT, write_results
from benchmarks.recommender import parameters_of
from contracts.artifacts import Bundles, ValidationReport
from contracts.config import PipelineConfig
from flows.local_environment import use_local_stores
from serving.compression import compress_bundle

DATASET = "complete_journey"
NAMES = {"size_mb": "size MB", "latency_ms": "ms a request"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", default=str(ROOT / ".perennial" / "benchmarks"), help="folder of intermediate tables")
    config = with_every_form(parameters_of(DATASET, parser.parse_args().storage, quick=True))
    print(write_results("compression", command="python -m benchmarks.compression", rows=rows_of(figures_of_forms(config), config)))


def with_every_form(config: PipelineConfig) -> PipelineConfig:
    """Parameters with the encoder kept in taste and a distilled form beside the others."""
    gates = config.registry.gates.model_copy(update={"distil": True})
    return config.model_copy(
        update={
            "fine_tuning": config.fine_tuning.model_copy(update={"use_encoder": "always"}),
            "evaluation": config.evaluation.model_copy(update={"baselines": (), "season_lift": False, "slices": False, "tune_until": None}),
            "registry": config.registry.model_copy(update={"gates": gates}),
        }
    )


def figures_of_forms(config: PipelineConfig) -> dict[str, float]:
    """The path up to step `compress`: its figures, and those of the product-quantised form, named form.FORM.FIGURE."""
    use_local_stores(config.storage_root)
    from flows.partial_runs import train_and_compress

    fitted, chosen, validated = train_and_compress(config)
    return {**chosen.metrics, **quantised(fitted, validated, config)}


def quantised(fitted: Bundles, validated: ValidationReport, config: PipelineConfig) -> dict[str, float]:
    """Figures of the product-quantised form, on the users the other forms were measured on."""
    from tasks.compress import figures, measure_form, wanted_items

    origin = min(fitted.evaluated)
    of_list = wanted_items(validated, origin, config.evaluation, config.fine_tuning.target_events)
    with tempfile.TemporaryDirectory() as folder:
        bundle = compress_bundle(Path(fitted.evaluated[origin].path), Path(folder) / "pq", form="pq")
        return {f"form.pq.{name}": value for name, value in figures(measure_form("pq", bundle, of_list)).items()}


def rows_of(metrics: dict[str, float], config: PipelineConfig) -> list[dict[str, object]]:
    """A row per form and figure, and per form and list what it loses against the full model, as a share of the full model's NDCG@10."""
    from tasks.compress import FULL, NUM_USERS

    forms: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if name.startswith("form."):
            _, form, figure = name.split(".", 2)
            forms.setdefault(form, {})[figure] = value
    common = {"dataset": DATASET, "lead_days": 0, "origin": str(min(config.evaluation.origins)), "seed": config.seed}
    rows: list[dict[str, object]] = []
    for form, of_form in forms.items():
        model = f"perennial:{form}"
        for figure, value in of_form.items():
            if figure in NAMES:
                rows.append({**common, "model": model, "list": None, "metric": NAMES[figure], "value": round(value, 3), "n": NUM_USERS})
                continue
            ranked = figure.removesuffix(".ndcg_at_10")
            of_list = {**common, "model": model, "list": ranked, "n": NUM_USERS}
            rows.append({**of_list, "metric": "ndcg@10", "value": round(value, 5)})
            if form != FULL:
                rows.append({**of_list, "metric": "loss of ndcg@10", "value": round(1 - value / forms[FULL][figure], 5)})
    return rows


if __name__ == "__main__":
    main()
