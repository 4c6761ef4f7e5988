"""Which rows of the recommender's benchmark are committed."""

import subprocess
import sys

from benchmarks.recommender import digest_of, is_kept, on_threads, parameters_of


def test_a_baseline_is_kept_once_with_its_main_measures_and_ours_whole() -> None:
    rows = [
        {"model": model, "metric": metric, "seed": seed} for model in ("perennial", "ease*trend") for metric in ("ndcg@10", "novelty@10") for seed in (0, 1)
    ]
    gains = [{"model": "perennial", "other": "ease*trend", "metric": "gain of ndcg@10", "seed": seed} for seed in (0, 1)]

    assert [(row["model"], row["metric"], row["seed"]) for row in rows if is_kept(row)] == [
        ("perennial", "ndcg@10", 0),
        ("perennial", "ndcg@10", 1),
        ("perennial", "novelty@10", 0),
        ("perennial", "novelty@10", 1),
        ("ease*trend", "ndcg@10", 0),
    ]
    assert all(map(is_kept, gains))


def test_a_cell_is_found_again_on_another_machine_and_not_with_other_parameters() -> None:
    config = parameters_of("online_retail_ii", "here", quick=True)
    assert digest_of(on_threads(config, 7)) == digest_of(config.model_copy(update={"storage_root": "there"})) == digest_of(config)
    assert digest_of(config.model_copy(update={"seed": 1})) != digest_of(config)
    shorter = config.fine_tuning.model_copy(update={"max_steps": 7})
    assert digest_of(config.model_copy(update={"fine_tuning": shorter})) != digest_of(config)


def test_prefect_is_not_imported_before_its_home_is_set() -> None:
    code = (
        "import sys, benchmarks.recommender, benchmarks.few_labels, benchmarks.negative_control, benchmarks.planted_season; sys.exit('prefect' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
