import json
import math
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.ranking_metrics import calibration, category_shares, coverage, item_popularity, novelty, score_rankings


def ranking(user, items, first_rank=1):
    return pl.DataFrame({"user_id": [user] * len(items), "item_id": list(items), "rank": range(first_rank, first_rank + len(items))})


def wanted(**items):
    return pl.DataFrame([(user, item) for user, found in items.items() for item in found], schema=["user_id", "item_id"], orient="row")


def test_figures_worked_by_hand():
    # hits at ranks 2 and 4 of three targets
    scored = score_rankings(ranking("ann", "abcde"), wanted(ann="bdz")).row(0, named=True)
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert scored["ndcg"] == pytest.approx(gain / ideal, abs=1e-12)
    assert (scored["recall"], scored["hit"], scored["mrr"], scored["num_targets"]) == (2 / 3, 1.0, 1 / 2, 3)


def test_ideal_holds_no_more_than_k_items():
    many = [f"i{k:02d}" for k in range(15)]
    scored = score_rankings(ranking("ann", many), wanted(ann=many)).row(0, named=True)
    assert scored["ndcg"] == pytest.approx(1.0, abs=1e-12)
    assert scored["recall"] == 10 / 15
    assert scored["recall_20"] == 1.0


def test_ranks_beyond_k_gain_nothing():
    scored = score_rankings(ranking("ann", "abc"), wanted(ann="c"), k=2).row(0, named=True)
    assert (scored["ndcg"], scored["recall"], scored["mrr"], scored["recall_20"]) == (0.0, 0.0, 0.0, 1.0)


def test_recall_at_20_is_unknown_where_lists_end_at_10():
    assert score_rankings(ranking("ann", "ab"), wanted(ann="b"))["recall_20"].to_list() == [None]


def test_a_user_without_a_ranking_scores_zero_and_a_ranking_without_targets_is_not_counted():
    scored = score_rankings(pl.concat([ranking("ann", "ab"), ranking("zoe", "ab")]), wanted(ann="a", bob="a"))
    assert scored.select("user_id", "ndcg", "hit").rows() == [("ann", 1.0, 1.0), ("bob", 0.0, 0.0)]


def test_models_are_scored_apart():
    tables = pl.concat([ranking("ann", "ab").with_columns(model=pl.lit("first")), ranking("ann", "ba").with_columns(model=pl.lit("second"))])
    scored = score_rankings(tables, wanted(ann="a", bob="a"), by=["model"])
    assert scored.select("model", "user_id", "mrr").rows() == [("first", "ann", 1.0), ("first", "bob", 0.0), ("second", "ann", 0.5), ("second", "bob", 0.0)]


@pytest.mark.parametrize(("items", "ranks"), [("aa", [1, 2]), ("ab", [1, 1])])
def test_an_item_or_a_rank_that_stands_twice_is_refused(items, ranks):
    table = pl.DataFrame({"user_id": ["ann", "ann"], "item_id": list(items), "rank": ranks})
    with pytest.raises(ValueError, match="stands twice for user 'ann'"):
        score_rankings(table, wanted(ann="a"))


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(list("abcdefghijkl")), targets=st.sets(st.sampled_from("abcdefghijklxy"), min_size=1))
def test_metrics_stay_within_zero_and_one_and_a_swap_upwards_never_hurts(order, targets):
    def ndcg(items):
        return score_rankings(ranking("ann", items), wanted(ann=sorted(targets)))["ndcg"].item()

    value = ndcg(order)
    assert 0 <= value <= 1 + 1e-12
    best_first = sorted(order, key=lambda item: item not in targets)
    assert ndcg(best_first) >= value - 1e-12


def test_coverage_counts_items_of_the_first_ranks():
    assert coverage(pl.concat([ranking("ann", "abc"), ranking("bob", "bcd")]), num_candidates=8, k=2) == 3 / 8


def test_novelty_is_the_mean_self_information():
    past = wanted(ann="ab", bob="a", cat="a", dan="a")
    # everyone had a: 0 bits; one of four had b: 2 bits; nobody had z: half of the rarest, 3 bits
    assert novelty(ranking("ann", "abz"), item_popularity(past)) == pytest.approx(5 / 3)


def test_calibration_is_zero_for_the_same_mix_and_grows_with_its_difference():
    categories = pl.DataFrame({"item_id": list("abcd"), "category": ["food", "food", "toys", "toys"]})
    shares = category_shares(wanted(ann="abcd"), categories)
    assert calibration(ranking("ann", "ac"), shares, categories) == pytest.approx(0.0, abs=1e-12)
    only_food = calibration(ranking("ann", "ab"), shares, categories)
    assert only_food == pytest.approx(0.5 * math.log(0.5 / 0.995) + 0.5 * math.log(0.5 / 0.005))


def random_tables(seed, num_users=40, num_items=60):
    generator = np.random.default_rng(seed)
    lists = [ranking(f"u{user:02d}", [f"i{k:02d}" for k in generator.permutation(num_items)[:20]]) for user in range(num_users)]
    chosen = {f"u{user:02d}": [f"i{k:02d}" for k in generator.permutation(num_items)[: generator.integers(1, 25)]] for user in range(num_users)}
    return pl.concat(lists), wanted(**chosen)


@pytest.mark.shared_data
def test_scores_equal_the_reference(protocol):
    ranked, targets = random_tables(0)
    ours, theirs = score_rankings(ranked, targets), protocol.score(ranked, targets)
    assert ours["user_id"].equals(theirs["user_id"])
    for metric in ("ndcg", "recall", "hit"):
        assert (ours[metric] - theirs[metric]).abs().max() < 1e-9


RANX = """
import json, sys
import polars as pl
import ranx

ranked, wanted = (pl.read_parquet(path).partition_by("user_id", as_dict=True) for path in sys.argv[1:])
qrels = ranx.Qrels({user: dict.fromkeys(rows["item_id"], 1) for (user,), rows in wanted.items()})
run = ranx.Run({user: {item: 1.0 / rank for item, rank in rows.select("item_id", "rank").iter_rows()} for (user,), rows in ranked.items()})
print(json.dumps({name: float(value) for name, value in ranx.evaluate(qrels, run, ["ndcg@10", "recall@10", "hit_rate@10", "mrr@10", "recall@20"]).items()}))
"""


@pytest.mark.slow
def test_scores_equal_ranx(tmp_path):
    pytest.importorskip("numba")
    ranked, targets = random_tables(1)
    ranked.write_parquet(tmp_path / "ranked.parquet")
    targets.write_parquet(tmp_path / "wanted.parquet")
    # in a process of its own, where its functions need not be compiled first
    command = [sys.executable, "-W", "ignore", "-c", RANX, str(tmp_path / "ranked.parquet"), str(tmp_path / "wanted.parquet")]
    answer = subprocess.run(command, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=True, timeout=300)
    theirs = json.loads(answer.stdout.splitlines()[-1])
    ours = score_rankings(ranked, targets)
    for name, column in {"ndcg@10": "ndcg", "recall@10": "recall", "hit_rate@10": "hit", "mrr@10": "mrr", "recall@20": "recall_20"}.items():
        assert ours[column].mean() == pytest.approx(theirs[name], abs=1e-9)
