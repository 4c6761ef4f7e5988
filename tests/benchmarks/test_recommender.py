"""Which rows of the recommender's benchmark are committed, and that a cell is measured once."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from benchmarks import recommender
from benchmarks.recommender import digest_of, is_kept, kept, on_threads, parameters_of


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


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recommender, "CELLS", tmp_path / "cells")
    return tmp_path / "cells"


def counted(times: list[int]) -> Callable[[], list[dict[str, object]]]:
    return lambda: (times.append(1), [{"model": "perennial", "metric": "ndcg@10", "value": 0.123456789, "ci_low": None, "lead_days": None}])[1]


def test_a_cell_is_measured_once_and_then_read(cells: Path) -> None:
    times: list[int] = []
    first = kept("shop-seed0", counted(times), only_stored=False)
    assert first == [{"model": "perennial", "metric": "ndcg@10", "value": 0.123457, "lead_days": None}]
    assert [path.name for path in cells.iterdir()] == ["shop-seed0.json"]
    for only_stored in (False, True):
        assert kept("shop-seed0", counted(times), only_stored=only_stored) == first
    assert len(times) == 1
    kept("shop-seed1", counted(times), only_stored=False)
    assert len(times) == 2


def test_what_is_not_stored_gives_no_rows_where_only_stored_ones_are_asked_for(cells: Path) -> None:
    times: list[int] = []
    assert kept("shop-seed0", counted(times), only_stored=True) == []
    assert not times
    assert not cells.exists()


def test_prefect_is_not_imported_before_its_home_is_set() -> None:
    code = (
        "import sys, benchmarks.recommender, benchmarks.few_labels, benchmarks.negative_control, benchmarks.planted_season; sys.exit('prefect' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figures_of_our_users_are_averaged_over_the_seeds_that_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommender, "USERS", tmp_path / "users")
    config = parameters_of("complete_journey", str(tmp_path), quick=True)
    (origin,) = config.evaluation.origins
    wanted = pl.DataFrame({"user_id": ["u2", "u1"], "item_id": ["a", "a"]})
    windows = [(("again", origin, 0), wanted)]
    other = {"other": {"users": {f"again {origin} 0": "0 1000"}}}
    assert set(recommender.tables_with_ours(config, iter(windows), other)) == {"other"}
    monkeypatch.setattr(recommender, "wanted_of", lambda config: iter(windows))
    for seed, rows in ((0, [("u1", "a", 1), ("u2", "b", 1)]), (1, [("u1", "b", 1), ("u1", "a", 2), ("u2", "a", 1)])):
        about = {"cutoff": origin, "request_date": origin, "list": "again"}
        table = [{**about, "user_id": user, "item_id": item, "rank": rank} for user, item, rank in rows]
        pl.DataFrame(table, schema_overrides={"rank": pl.Int32}).write_parquet(tmp_path / "rankings.parquet")
        recommender.keep_users(config.model_copy(update={"seed": seed}), tmp_path / "rankings.parquet")
    tables = recommender.tables_with_ours(config, iter(windows), other)
    found = dict(tables["perennial"].select("user_id", "value").iter_rows())
    assert found == {"u1": pytest.approx((1 + 0.6309) / 2), "u2": pytest.approx(0.5)}
    assert tables["other"].sort("user_id")["value"].to_list() == [0.0, 0.1]
    shorter = config.fine_tuning.model_copy(update={"max_steps": 7})
    assert recommender.our_users(config.model_copy(update={"fine_tuning": shorter})) == {}
