"""Items without history, ranked among themselves: who is a candidate, what is a target, and what chance alone would get."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from contracts.sections.evaluation import EvaluationConfig
from evaluation.evaluation import evaluate
from evaluation.new_items import BY_CHANCE, items_without_history, ndcg_by_chance, new_item_targets

CUTOFF = dt.date(2024, 3, 1)
ROWS = [
    ("ann", "tea", "2024-01-05"),
    ("bob", "tea", "2024-02-05"),
    ("bob", "drill", "2024-02-06"),
    ("ann", "new mug", "2024-03-02"),
    ("ann", "tea", "2024-03-03"),
    ("bob", "new saw", "2024-03-04"),
    ("bob", "not in the catalogue", "2024-03-04"),
    ("cat", "new mug", "2024-03-05"),  # has no history
    ("ann", "late mug", "2024-05-01"),  # after the window
]
CATALOGUE = pl.DataFrame({"item_id": ["tea", "drill", "new mug", "new saw", "late mug", "tea"], "category": ["a"] * 6})


def ranking(user: str, items: list[str], list_name: str = "again") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "cutoff": [CUTOFF] * len(items),
            "request_date": [CUTOFF] * len(items),
            "list": [list_name] * len(items),
            "user_id": [user] * len(items),
            "item_id": items,
            "rank": range(1, len(items) + 1),
        }
    )


def test_candidates_are_the_items_of_the_catalogue_without_an_event_before_the_cutoff(make_events) -> None:
    assert items_without_history(make_events(ROWS), CUTOFF, CATALOGUE)["item_id"].to_list() == ["late mug", "new mug", "new saw"]


def test_targets_are_what_users_with_history_chose_of_them(make_events) -> None:
    events = make_events(ROWS)
    offered = items_without_history(events, CUTOFF, CATALOGUE)
    for list_name in ("again", "discover"):
        assert new_item_targets(events, CUTOFF, 0, 28, list_name, offered).rows() == [("ann", "new mug"), ("bob", "new saw")]


def test_chance_is_the_mean_over_all_orders() -> None:
    orders = np.array([np.random.default_rng(seed).permutation(7) for seed in range(20_000)])
    for targets in (1, 3):
        gain = ((orders[:, :5] < targets) / np.log2(np.arange(2, 7))).sum(1) / (1 / np.log2(np.arange(2, 2 + targets))).sum()
        assert ndcg_by_chance(np.array([targets]), 7, k=5)[0] == pytest.approx(gain.mean(), abs=0.01)
    assert ndcg_by_chance(np.array([2, 3]), 3).tolist() == pytest.approx([2 / 3 * 2.1309 / 1.6309, 1.0], abs=1e-3)


def test_figures_stand_beside_chance_and_leave_the_lists_alone(make_events) -> None:
    events = make_events(ROWS)
    config = EvaluationConfig(origins=(CUTOFF,), leads_days=(0,), horizon_days=28, lists=("again",), num_resamples=100, season_lift=False, tune_until=None)
    lists = {"ours": pl.concat([ranking("ann", ["tea", "drill"]), ranking("bob", ["tea", "drill"])])}
    of_new = pl.concat([ranking("ann", ["new mug", "late mug", "new saw"]), ranking("bob", ["late mug", "new saw", "new mug"])])
    found = evaluate(lists, events, config, model="ours", item_catalogue=CATALOGUE, new_items=of_new)
    figures = {row.model: row for row in found.new_items}
    assert list(figures) == ["ours", BY_CHANCE]
    assert figures["ours"].value == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert figures[BY_CHANCE].value == pytest.approx(ndcg_by_chance(np.array([1]), 3)[0])
    assert (figures["ours"].num_users, figures["ours"].list) == (2, "again")
    plain = evaluate(lists, events, config, model="ours", item_catalogue=CATALOGUE)
    assert plain.new_items == ()
    assert plain.rows == found.rows
    assert plain.slices == found.slices
    assert any(row.slice == "items without history" for row in found.slices)  # the protocol's own slice, among all candidates
