"""Drawings of docs/benchmarks.md: made from the rows, and found stale when the rows change."""

from pathlib import Path

import pytest

from benchmarks.plots import best_other, digest, drawn, is_fresh


def gain(other: str, value: float, **given: object) -> dict[str, object]:
    about = {"dataset": "complete_journey", "list": "again", "lead_days": 0, "model": "perennial", "origin": "all", "metric": "gain of ndcg@10"}
    return {**about, "other": other, "relative": value, "relative_low": value - 0.01, "relative_high": value + 0.02, "seed": 0, **given}


def measured(model: str, value: float, **given: object) -> dict[str, object]:
    about = {"dataset": "complete_journey", "list": "again", "lead_days": 0, "origin": "all", "metric": "ndcg@10"}
    return {**about, "model": model, "value": value, "ci_low": value - 0.01, "ci_high": value + 0.01, **given}


ROWS = {
    "recommender": [gain("ease", 0.3), gain("habit", 0.05), gain("habit", 0.07, seed=1), gain("ease", 0.31, seed=1)],
    "ablation": [measured("all", 0.4), measured("without season", 0.3), gain("without season", 0.33)],
    "few_labels": [measured(arm, 0.2, label_share=share) for arm in ("without pre-training", "pre-trained") for share in (0.01, 0.1, 1.0)],
    "training": [{"dataset": "movielens_100k", "model": f"{name}, full_softmax", "metric": "CPU microseconds per training target", "value": 9.0}
                 for name in ("perennial:gpt", "replay:sasrec")],
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_drawing_says_from_which_rows_it_was_made(name: str, tmp_path: Path) -> None:
    text = drawn(name, ROWS[name])
    assert text is not None
    assert text == drawn(name, ROWS[name])
    (tmp_path / "it.svg").write_text(text)
    assert is_fresh(tmp_path / "it.svg", ROWS[name])
    assert not is_fresh(tmp_path / "it.svg", ROWS[name][1:])
    assert not is_fresh(tmp_path / "missing.svg", ROWS[name])
    assert digest(ROWS[name]) != digest(ROWS[name][1:])


def test_a_results_file_without_a_drawing_has_none() -> None:
    assert drawn("serving", ROWS["recommender"]) is None


def test_the_best_other_is_the_one_over_which_all_seeds_together_gain_least() -> None:
    found = best_other([gain("ease", 0.01), gain("ease", 0.2, seed=1), gain("habit", 0.05), gain("habit", 0.07, seed=1)])
    assert [(row["other"], row["relative"]) for row in found] == [("habit", 0.05), ("habit", 0.07)]
