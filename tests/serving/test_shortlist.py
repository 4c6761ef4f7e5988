"""What is left out of a list's scoring could not have been in the list."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.vocabulary import grow_vocabulary
from serving.item_tables import CompactTable, FloatTable, ItemTable, QuantisedTable, compact, quantise
from serving.recommender import Recommender, _best_of_each
from serving.shortlist import BestFirst, Scan
from tests.serving.hand_made import CUTOFF, events, write_networks, write_small_bundle

NUM, WIDTH, STRETCH = 1_000, 12, 128


def tables() -> dict[str, ItemTable]:
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(NUM, WIDTH)) * rng.gamma(1.0, size=(NUM, 1))).astype(np.float32)
    positions = np.arange(NUM)
    return {
        "full": FloatTable(table, positions),
        "int8": CompactTable(*compact(table), positions),
        "pq": QuantisedTable(*quantise(table, bytes_per_item=4), positions),
    }


@pytest.mark.parametrize("form", ["full", "int8", "pq"])
@pytest.mark.parametrize("spread", [0.0, 0.5, 20.0])
def test_the_largest_are_always_among_what_the_scan_leaves_over(form: str, spread: float) -> None:
    """Queries of very different length together, a tenth of the items not on offer, each query asked for another number of items."""
    rng, table = np.random.default_rng(1), tables()[form]
    order = rng.permutation(NUM)[:900]
    scan = Scan(table, order, threads=1, stretch=STRETCH)
    season = (rng.normal(size=NUM) * spread).astype(np.float32)
    members = rng.random(NUM) < 0.9
    queries = (rng.normal(size=(6, WIDTH)) * np.array([[0.01], [0.1], [1], [10], [0], [3]])).astype(np.float32)
    num, least = np.array([1, 7, 30, 10, 5, 2_000]), np.full(6, -np.inf, np.float32)
    rows, positions = scan.best(queries, scan.offer(season, members), num, least)
    assert (np.diff(rows) >= 0).all()
    scores = queries @ table.rows(np.arange(NUM)).T + season
    offered = np.intersect1d(order, np.flatnonzero(members))
    for row in range(6):
        found = positions[rows == row]
        assert len(set(found)) == len(found)
        assert set(found) <= set(offered)
        best = offered[np.argsort(-scores[row, offered], kind="stable")][: num[row]]
        assert set(best) <= set(found)
        alone = scan.best(queries[row : row + 1], scan.offer(season, members), num[row : row + 1], least[:1])[1]
        assert set(best) <= set(alone)


def test_only_few_are_left_over_and_a_stretch_that_cannot_matter_is_not_read() -> None:
    rng, table = np.random.default_rng(2), tables()["full"]
    scan = Scan(table, np.arange(NUM), threads=1, stretch=STRETCH)
    read: list[int] = []

    class Counting:
        def __init__(self, number: int, product: Any) -> None:
            self.number, self.product = number, product

        def run(self, *arguments: Any) -> Any:
            read.append(self.number)
            return self.product.run(*arguments)

    scan._stretches = [replace(stretch, product=Counting(number, stretch.product)) for number, stretch in enumerate(scan._stretches)]  # type: ignore[arg-type]
    everything, anything = np.ones(NUM, bool), np.full(1, -np.inf, np.float32)
    queries = rng.normal(size=(1, WIDTH)).astype(np.float32)
    _, positions = scan.best(queries, scan.offer(np.zeros(NUM, np.float32), everything), np.array([10]), anything)
    assert 10 <= len(positions) < 40
    assert len(read) == 8
    read.clear()
    _, positions = scan.best(queries, scan.offer(np.linspace(900, 0, NUM, dtype=np.float32), everything), np.array([1]), anything)
    assert read == [0]
    read.clear()
    scores = queries[0] @ table.rows(np.arange(NUM)).T
    high = np.sort(scores)[[-3]]
    _, positions = scan.best(queries, scan.offer(np.zeros(NUM, np.float32), everything), np.array([10]), high)
    assert set(np.flatnonzero(scores >= high)) <= set(positions)
    assert len(positions) < 10, "what cannot reach the least is left out too"
    scan.best(queries, scan.offer(np.zeros(NUM, np.float32), everything), np.array([10]), np.array([1e6], np.float32))
    assert len(read) == 8


def test_best_first_is_a_full_sort_with_ties_however_deep_it_is_asked() -> None:
    rng = np.random.default_rng(3)
    scores, members = rng.integers(0, 30, NUM).astype(np.float32), rng.random(NUM) < 0.5
    expected = [position for position in np.argsort(-scores, kind="stable") if members[position]]
    for depth in (1, 20, 5_000):
        found = BestFirst(scores, members, depth=depth)
        for num in (1, 15, 60, 2_000):
            assert found.first(num).tolist() == expected[:num]


def test_the_best_of_each_row_with_ties() -> None:
    rng = np.random.default_rng(0)
    rows, scores = rng.integers(0, 5, 400), rng.integers(0, 40, 400).astype(np.float32)
    positions = rng.permutation(400)
    found_rows, ranks, places = _best_of_each(rows, scores, positions, 12)
    for row in range(5):
        expected = sorted(np.flatnonzero(rows == row), key=lambda place: (-scores[place], positions[place]))[:12]
        assert places[found_rows == row].tolist() == expected
        assert ranks[found_rows == row].tolist() == list(range(12))


@pytest.mark.parametrize("encoder_weight", [0.0, 0.4])
def test_a_short_list_is_the_beginning_of_the_list_of_all_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder_weight: float) -> None:
    """Nothing is left out where all items are asked for. Items inside and outside the pool, newer than the vectors, with habits, excluded, in a category."""
    monkeypatch.setattr("serving.recommender.STRETCH", 64)
    monkeypatch.setattr("serving.shortlist.DEPTH", 5)
    rng = np.random.default_rng(5)
    ids = [f"i{number:03d}" for number in range(300)]
    days = [date.fromordinal(CUTOFF.toordinal() - int(ago)).isoformat() for ago in rng.integers(1, 700, 4_000)]
    bought = zip((f"u{user:02d}" for user in rng.integers(0, 30, 4_000)), (ids[item] for item in (rng.zipf(1.3, 4_000) - 1) % 300), days, strict=True)
    write_networks(
        tmp_path / "networks",
        rng.normal(size=(280, 8)) * 0.5 + np.where(rng.random((280, 1)) < 0.7, 0.8, -0.8),  # the mean of tastes is far from zero, on either side
        season={"season_last_year_lift": (1.0, 0.3), "trend_log_level_52w": (0.3, 0.3)},
        habit={"habit_log_baskets": 0.4, "taste_0": 0.2, "taste_1": 0.1},
        encoder_weight=encoder_weight,
        linear=np.abs(rng.normal(size=(280, 6))) * (rng.random((280, 6)) < 0.3),
        pool=range(3, 60),
        max_history=8,
    )
    vocabulary = grow_vocabulary(None, pl.LazyFrame({"item_id": ids}))
    catalogue = vocabulary.select("item_id", pl.format("c{}", pl.col("item_index") % 3).alias("category"))
    write_small_bundle(tmp_path / "bundle", tmp_path / "networks", events(sorted(bought, key=lambda row: row[2])), vocabulary, catalogue=catalogue)
    model = Recommender.load(tmp_path / "bundle")
    users, day = [*model.users, "nobody"], date(2024, 12, 5)
    exclude = pl.DataFrame({"user_id": ["u03"] * 40 + ["nobody"] * 40, "item_id": ids[:80:2] + ids[:40]})
    for list_name in ("again", "discover"):
        for candidates in (None, model.items_in("c1", day)):
            settings: dict[str, Any] = {"request_date": day, "list_name": list_name, "exclude": exclude, "candidates": candidates}
            everything = model.rank(users, k=300, **settings)
            assert everything.group_by("user_id").len()["len"].min() > 10  # type: ignore[operator]
            assert (everything.group_by("user_id").agg(pl.col("item_id").is_duplicated().any())["item_id"]).any() is False
            if list_name == "again":  # none is left out of this one
                offered = set(model.item_ids.filter(pl.Series(model.items_on(day)))) & set(ids if candidates is None else candidates)
                left = {user: offered - set(exclude.filter(pl.col("user_id") == user)["item_id"]) for user in users}
                assert {user: set(items) for user, items in everything.group_by("user_id").agg("item_id").iter_rows()} == left
            scores = everything["score"].to_numpy()
            same_user = (everything["user_id"] == everything["user_id"].shift(1)).fill_null(value=False).to_numpy()
            assert (np.diff(scores, prepend=np.inf)[same_user] <= 0).all()
            for k in (1, 9):
                assert model.rank(users, k=k, **settings).equals(everything.filter(pl.col("rank") <= k))
            alone = pl.concat([model.rank([user], k=9, **settings) for user in users[::10]])
            assert alone.drop("score", "taste", "habit").equals(
                everything.filter((pl.col("rank") <= 9) & pl.col("user_id").is_in(users[::10])).drop("score", "taste", "habit")
            )
