"""Scores worked out by hand, and what must hold of any list."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from contracts.tables import RANKINGS
from features.vocabulary import grow_vocabulary
from serving.answers import Ask, answer_all
from serving.behaviour import StoredBehaviour
from serving.bundle import read_bundle
from serving.recommender import Recommender
from tests.serving.hand_made import CUTOFF, events, write_networks, write_small_bundle

ITEMS = ["apple", "bread", "candle", "date"]
BOUGHT = [
    ("ann", "apple", "2024-05-01"),
    ("ann", "apple", "2024-05-08"),
    ("ann", "candle", "2024-06-01"),
    ("bob", "bread", "2024-06-10"),
    ("cid", "date", "2024-06-20"),
]
JULY = date(2024, 7, 1)
# item_index is not in the order of ids: date 1, candle 2, apple 3, bread 4
VOCABULARY = grow_vocabulary(grow_vocabulary(None, pl.LazyFrame({"item_id": ["date"]})), pl.LazyFrame({"item_id": ["candle"]}))
VOCABULARY = grow_vocabulary(VOCABULARY, pl.LazyFrame({"item_id": ITEMS}))
TASTE = np.array([[0, 0], [3, 0], [1, 1], [1, 0], [0, 1]], float)


def shop_with(
    folder: Path, *, bought: list[tuple[str, str, str]] = BOUGHT, vocabulary: pl.DataFrame = VOCABULARY, catalogue: pl.DataFrame | None = None, **networks: Any
) -> Recommender:
    settings: dict[str, Any] = {"season": {}, "habit": {"habit_log_baskets": 2.0}} | networks
    write_networks(folder / "networks", TASTE, **settings)
    write_small_bundle(folder / "bundle", folder / "networks", events(bought), vocabulary, catalogue=catalogue)
    return Recommender.load(folder / "bundle", version="7")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Four items; taste is the dot product with the newest item's vector, habit is twice the log of the baskets, season is zero."""
    return shop_with(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def linear_shop(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """No encoder weight; one linear term with tables apple (1, 0), bread (1, 1), candle (0, 2), date (0, 0), log floor 0.5."""
    linear = np.array([[0, 0], [0, 0], [0, 2], [1, 0], [1, 1]], float)
    return shop_with(tmp_path_factory.mktemp("linear"), linear=linear, encoder_weight=0.0, habit={})


def taste_of(table: pl.DataFrame, user: str) -> dict[str, float]:
    return dict(table.filter(pl.col("user_id") == user).select("item_id", "taste").iter_rows())


def test_scores_equal_those_worked_out_by_hand(shop: Recommender) -> None:
    """Ann's newest item is candle (1, 1): raw taste apple 1, bread 1, candle 2, date 3; mean 7/4. Habit: 2 log 2 for two baskets of apple, 0 for one."""
    table = shop.rank(["ann"], request_date=JULY, list_name="again", k=4)
    assert table.schema == pl.Schema(RANKINGS.schema)
    assert table["item_id"].to_list() == ["date", "apple", "candle", "bread"]
    np.testing.assert_allclose(table["taste"], [1.25, -0.75, 0.25, -0.75], atol=1e-6)
    np.testing.assert_allclose(table["habit"], [0, 2 * np.log(2), 0, 0], atol=1e-6)
    np.testing.assert_allclose(table["season"], 0, atol=1e-6)
    assert table["rank"].to_list() == [1, 2, 3, 4]
    assert table["model_version"].unique().to_list() == ["7"]


def test_a_running_event_counts_by_its_platform_or_else_by_its_type(shop: Recommender) -> None:
    stored = StoredBehaviour(read_bundle(shop.bundle.folder), {"purchase": 1, "view": 2, "view@app": 2, "view@web": 3})
    kinds = [("view", "web"), ("view", "television"), ("view", None), ("purchase", "app"), ("wave", "app"), (None, "web")]
    running = pl.DataFrame(
        [("new", "apple", datetime(2024, 7, 1, number, tzinfo=UTC), *kind) for number, kind in enumerate(kinds)],
        schema={"user_id": pl.String, "item_id": pl.String, "event_time": pl.Datetime("us", "UTC"), "event_type": pl.String, "platform": pl.String},
        orient="row",
    )
    # the fixture keeps the newest four events of a user
    assert [part.types.tolist() for part in stored.behaviours(["new"], running[:4], JULY)] == [[3, 2, 2, 1]]
    assert [part.types.tolist() for part in stored.behaviours(["new"], running[4:], JULY)] == [[0, 0]]
    assert [part.types.tolist() for part in stored.behaviours(["new"], running[:2].drop("platform"), JULY)] == [[2, 2]]
    lists = running[:3].group_by("user_id").agg(pl.all())
    assert [part.types.tolist() for part in stored.behaviours(["new"], lists, JULY)] == [[3, 2, 2]]


def test_linear_term_leaves_an_item_out_of_its_own_score(linear_shop: Recommender) -> None:
    """Ann has apple (1, 0) and candle (0, 2), sum (1, 2). Raw: apple 1 - 1, bread 3, candle 4 - 4, date 0; log(x + 0.5) of 0, 3, 0, 0."""
    raw = np.log(np.array([0.5, 3.5, 0.5, 0.5]))
    found = taste_of(linear_shop.rank(["ann"], request_date=JULY, k=4), "ann")
    np.testing.assert_allclose([found[item] for item in ITEMS], raw - raw.mean(), atol=1e-6)


def test_linear_term_with_a_half_life_weighs_items_by_age(tmp_path: Path) -> None:
    """Apple's last day is 53 days before the newest day that can be known, candle's 29."""
    linear = np.array([[0, 0], [0, 0], [0, 2], [1, 0], [1, 1]], float)
    shop = shop_with(tmp_path, linear=linear, encoder_weight=0.0, habit={}, half_life_days=10.0)
    bread = 0.5**5.3 * 1 + 0.5**2.9 * 2
    raw = np.log(np.array([0, bread, 0, 0]) + 0.5)
    found = taste_of(shop.rank(["ann"], request_date=JULY, k=4), "ann")
    np.testing.assert_allclose([found[item] for item in ITEMS], raw - raw.mean(), atol=1e-6)


def test_linear_term_is_at_its_floor_outside_the_pool(tmp_path: Path) -> None:
    """Only bread and date are in the pool: bread's 3 counts, candle and apple are at log 0.5 like date."""
    linear = np.array([[0, 0], [0, 0], [0, 2], [1, 0], [1, 1]], float)
    shop = shop_with(tmp_path, linear=linear, pool=[1, 4], encoder_weight=0.0, habit={})
    raw = np.log(np.array([0.5, 3.5, 0.5, 0.5]))
    found = taste_of(shop.rank(["ann"], request_date=JULY, k=4), "ann")
    np.testing.assert_allclose([found[item] for item in ITEMS], raw - raw.mean(), atol=1e-6)


def test_a_wide_linear_term_is_summed_item_by_item_to_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows kept for items of the pool, two of four here, and the rest through the landmarks: the scores of the plain product, alone and among many."""
    linear = np.array([[0, 0, 0], [0.4, 0, 1], [0, 2, 0.3], [1, 0, 0], [1, 1, 0.2]], float)
    bought = [*BOUGHT, ("ann", "bread", "2024-06-03"), ("dan", "apple", "2024-06-04"), ("dan", "date", "2024-06-05")]
    settings: dict[str, Any] = {"linear": linear, "pool": [2, 4], "half_life_days": 30.0, "habit": {"taste_1": 1.0}}
    plain = shop_with(tmp_path / "plain", bought=bought, **settings)
    monkeypatch.setattr("serving.networks.WIDEST_DENSE_QUERY", 2)
    wide = shop_with(tmp_path / "wide", bought=bought, **settings)
    for users in (["ann"], ["ann", "bob", "cid", "dan", "nobody"]):
        expected, found = (shop.rank(users, request_date=JULY, k=4) for shop in (plain, wide))
        assert found["item_id"].to_list() == expected["item_id"].to_list()
        for part in ("score", "taste", "habit"):
            np.testing.assert_allclose(found[part], expected[part], atol=1e-6)
    assert plain.networks.terms[0].all_rows.size == 0
    wide.warm(JULY, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr("serving.networks.PoolTerm.keep", None)  # what is in the cache is not computed again
    read = Recommender.load(wide.bundle.folder, version="7")
    read.warm(JULY, cache=tmp_path / "cache")
    np.testing.assert_array_equal(read.networks.terms[0]._rows, np.load(kept))


def test_habit_sees_the_items_season_and_the_users_taste(tmp_path: Path) -> None:
    """Habit = season_lead + encoder term + linear term, unweighted: with lead 84, Ann's apple has 1 + 1 + log 0.5, candle 1 + 2 + log 0.5."""
    linear = np.array([[0, 0], [0, 0], [0, 2], [1, 0], [1, 1]], float)
    shop = shop_with(tmp_path, linear=linear, encoder_weight=0.25, habit={"season_lead": 1.0, "taste_0": 1.0, "taste_1": 1.0})
    table = shop.rank(["ann", "bob"], request_date=JULY + timedelta(days=84), k=4)
    found = dict(table.filter(pl.col("user_id") == "ann").select("item_id", "habit").iter_rows())
    np.testing.assert_allclose([found[item] for item in ITEMS], [2 + np.log(0.5), 0, 3 + np.log(0.5), 0], atol=1e-6)


def test_discover_leaves_out_what_the_user_had_and_has_no_habit(shop: Recommender) -> None:
    table = shop.rank(request_date=JULY, list_name="discover", k=4)
    assert table.filter(pl.col("user_id") == "ann")["item_id"].to_list() == ["date", "bread"]
    assert table.filter(pl.col("user_id") == "cid")["item_id"].to_list() == ["apple", "candle", "bread"]
    assert (table["habit"] == 0).all()


def test_parts_sum_to_the_score_and_season_is_the_same_for_all(tmp_path: Path) -> None:
    shop = shop_with(tmp_path, season={"trend_log_level_52w": (0.7, 0.3), "season_sin_1": (1.0, 1.0), "trend_lift_4w": (2.0, 1.5)})
    for name in shop.lists:
        table = shop.rank([*shop.users, "nobody"], request_date=JULY + timedelta(days=40), list_name=name, k=4)
        np.testing.assert_allclose(table["score"], table["taste"] + table["habit"] + table["season"], atol=1e-6)
        assert (table.group_by("item_id").agg(pl.col("season").n_unique())["season"] == 1).all()
        assert table["season"].abs().max() > 0.05  # type: ignore[operator]


def test_taste_and_season_are_centred_over_the_candidates(tmp_path: Path) -> None:
    shop = shop_with(tmp_path, season={"trend_log_level_52w": (1.0, 1.0)})
    for candidates in (None, ["apple", "date", "candle"]):
        table = shop.rank(["ann"], request_date=JULY, k=4, candidates=candidates)
        assert table.height == (4 if candidates is None else 3)
        assert abs(table["taste"].mean()) < 1e-6  # type: ignore[arg-type]
        assert abs(table["season"].mean()) < 1e-6  # type: ignore[arg-type]


def test_exclusions_do_not_move_the_scores_of_others(shop: Recommender) -> None:
    before = shop.rank(["ann", "bob"], request_date=JULY, k=4)
    for_all = shop.rank(["ann", "bob"], request_date=JULY, k=4, exclude=["date", "no such item"])
    assert for_all.drop("rank").equals(before.filter(pl.col("item_id") != "date").drop("rank"))
    for_one = shop.rank(["ann", "bob"], request_date=JULY, k=4, exclude=pl.DataFrame({"user_id": ["bob"], "item_id": ["bread"]}))
    assert for_one.filter(pl.col("user_id") == "ann").equals(before.filter(pl.col("user_id") == "ann"))
    assert "bread" not in for_one.filter(pl.col("user_id") == "bob")["item_id"].to_list()


def test_unknown_users_get_the_seasonal_answer(tmp_path: Path) -> None:
    shop = shop_with(tmp_path, season={"trend_log_level_1w": (1.0, 1.0), "trend_log_days_since_sale": (-1.0, -1.0)})
    table = shop.rank(["nobody"], request_date=JULY, k=4)
    assert (table["taste"] == 0).all()
    assert (table["habit"] == 0).all()
    assert table["item_id"][0] == "date", "the item bought last is the most seasonal"
    assert table["season"].is_sorted(descending=True)


def test_ties_fall_to_the_smaller_item_id(shop: Recommender) -> None:
    assert shop.rank(["nobody"], request_date=JULY, k=3)["item_id"].to_list() == ["apple", "bread", "candle"]


def test_request_date_changes_season_and_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = shop_with(tmp_path, season={"season_lead": (1.0, 1.0)})
    calls = []
    original = Recommender._compute_season
    monkeypatch.setattr(Recommender, "_compute_season", lambda self, day, *where: calls.append(day) or original(self, day, *where))
    assert shop.season_of(JULY + timedelta(days=84))[:, 0].tolist() == [1.0] * 4
    assert shop.season_of(JULY)[:, 0].tolist() == [0.0] * 4
    shop.season_of(JULY)
    assert calls == [JULY + timedelta(days=84), JULY]


def test_a_date_before_the_cutoff_is_refused(shop: Recommender) -> None:
    with pytest.raises(ValueError, match=r"expected 2024-07-01 \(the cut-off of this model\) or later, found 2024-06-30"):
        shop.rank(["ann"], request_date=CUTOFF - timedelta(days=1))


def test_unknown_list_and_k_are_refused(shop: Recommender) -> None:
    with pytest.raises(ValueError, match="this model ranks again, discover"):
        shop.rank(["ann"], request_date=JULY, list_name="gain")
    with pytest.raises(ValueError, match="at least 1"):
        shop.rank(["ann"], request_date=JULY, k=0)


def test_items_newer_than_the_vectors_are_ranked_by_season_only(tmp_path: Path) -> None:
    vocabulary = grow_vocabulary(VOCABULARY, pl.LazyFrame({"item_id": ["elder"]}))
    catalogue = vocabulary.select("item_id", pl.lit("x").alias("category"), pl.lit(datetime(2024, 6, 1, tzinfo=UTC)).alias("available_from"))
    shop = shop_with(tmp_path, vocabulary=vocabulary, catalogue=catalogue, season={"trend_log_age": (1.0, 1.0)})
    row = shop.rank(["ann"], request_date=JULY, k=5).filter(pl.col("item_id") == "elder")
    assert row["taste"].to_list() == [0.0]
    assert row["season"].to_list() != [0.0]
    others = shop.rank(["ann"], request_date=JULY, k=5).filter(pl.col("item_id") != "elder")
    assert abs(others["taste"].sum()) < 1e-6


def test_items_without_event_or_offer_are_no_candidates(tmp_path: Path) -> None:
    vocabulary = grow_vocabulary(VOCABULARY, pl.LazyFrame({"item_id": ["elder", "fig"]}))
    catalogue = vocabulary.select(
        "item_id",
        pl.when(pl.col("item_id") == "elder").then(datetime(2024, 8, 1, tzinfo=UTC)).cast(pl.Datetime("us", "UTC")).alias("available_from"),
        pl.when(pl.col("item_id") == "date").then(datetime(2024, 7, 31, tzinfo=UTC)).cast(pl.Datetime("us", "UTC")).alias("available_until"),
    )
    shop = shop_with(tmp_path, vocabulary=vocabulary, catalogue=catalogue)
    assert set(shop.rank(["ann"], request_date=JULY)["item_id"]) == {"apple", "bread", "candle", "date"}
    assert set(shop.rank(["ann"], request_date=date(2024, 8, 1))["item_id"]) == {"apple", "bread", "candle", "elder"}


def test_raw_history_of_an_unknown_user_equals_that_of_a_stored_one(shop: Recommender) -> None:
    """The bundle knows Ann's three events; Zoe brings the same ones with her."""
    raw = events([("zoe", item, day) for user, item, day in BOUGHT if user == "ann"])
    for day in (JULY, JULY + timedelta(days=90)):
        stored, given = (shop.rank([user], request_date=day, k=4, histories=raw).drop("user_id") for user in ("ann", "zoe"))
        assert stored.equals(given)


def test_raw_history_may_come_as_lists_and_without_types(shop: Recommender) -> None:
    raw = events([("zoe", item, day) for user, item, day in BOUGHT if user == "ann"])
    lists = raw.group_by("user_id", maintain_order=True).agg("item_id", pl.col("event_time").dt.replace_time_zone(None))
    assert shop.rank(["zoe"], request_date=JULY, histories=lists).equals(shop.rank(["zoe"], request_date=JULY, histories=raw))


def test_a_running_session_is_heard(shop: Recommender) -> None:
    """Bob buys bread again and a candle on the day of the request: newest item candle, two baskets of bread, one of candle."""
    session = events([("bob", "bread", "2024-07-05"), ("bob", "candle", "2024-07-05"), ("bob", "no such item", "2024-07-05")])
    table = shop.rank(["bob", "ann"], request_date=date(2024, 7, 5), k=4, histories=session)
    bob = table.filter(pl.col("user_id") == "bob")
    np.testing.assert_allclose(bob.sort("item_id")["taste"], [-0.75, -0.75, 0.25, 1.25], atol=1e-6)
    np.testing.assert_allclose(bob.sort("item_id")["habit"], [0, 2 * np.log(2), 0, 0], atol=1e-6)
    assert table.filter(pl.col("user_id") == "ann").equals(shop.rank(["ann"], request_date=date(2024, 7, 5), k=4))
    discover = shop.rank(["bob"], request_date=date(2024, 7, 5), k=4, list_name="discover", histories=session)
    assert discover["item_id"].to_list() == ["date", "apple"]


def test_events_after_the_request_date_are_not_heard(shop: Recommender) -> None:
    late = events([("bob", "candle", "2024-07-09")])
    assert shop.rank(["bob"], request_date=date(2024, 7, 5), histories=late).equals(shop.rank(["bob"], request_date=date(2024, 7, 5)))


def test_history_longer_than_the_encoder_is_cut_to_its_newest_events(tmp_path: Path) -> None:
    """The encoder of these tests takes four events; the fifth-newest must not be the last it sees."""
    many = [("ann", item, f"2024-06-{day:02d}") for day, item in enumerate(["date", "apple", "apple", "apple", "bread", "bread"], start=1)]
    shop = shop_with(tmp_path, bought=[*many, ("bob", "candle", "2024-06-01")], habit={})
    found = taste_of(shop.rank(["ann"], request_date=JULY, k=4), "ann")
    np.testing.assert_allclose([found[item] for item in ITEMS], np.array([0, 1, 1, 0]) - 0.5, atol=1e-6)


def test_several_questions_at_once_are_answered_as_one_by_one(tmp_path: Path) -> None:
    linear = np.array([[0, 0], [0.3, 0], [0, 2], [1, 0], [1, 1]], float)
    shop = shop_with(tmp_path, linear=linear, season={"trend_lift_4w": (1.0, 0.5)})
    raw = events([("ann", "bread", "2024-06-29"), ("zoe", "date", "2024-06-30")])
    asked = [(day, name, k) for day in (JULY, JULY + timedelta(days=40)) for name in ("again", "discover") for k in (2, 4)]
    questions = [shop.question(day, list_name=name, k=k) for day, name, k in asked]
    for users, histories in ((None, None), (["zoe", "ann", "bob"], raw)):
        together = shop.rank_each(questions, users, exclude=["candle"], histories=histories)
        for table, (day, name, k) in zip(together, asked, strict=True):
            assert table.height > 0
            assert table.equals(shop.rank(users, request_date=day, list_name=name, k=k, exclude=["candle"], histories=histories))


def test_asks_of_different_lists_and_days_are_answered_together_as_alone(tmp_path: Path) -> None:
    linear = np.array([[0, 0], [0.3, 0], [0, 2], [1, 0], [1, 1]], float)
    settings: dict[str, Any] = {"linear": linear, "season": {"trend_lift_4w": (1.0, 0.5)}}
    together, alone = (shop_with(tmp_path / name, **settings) for name in ("together", "alone"))
    asks = [Ask(day, user, list_name=name) for day in (JULY, JULY + timedelta(days=40)) for name in ("again", "discover") for user in ("ann", "bob", "zoe")]
    for found, ask in zip(answer_all(together, asks), asks, strict=True):
        (expected,) = answer_all(alone, [ask])
        assert [row["item_id"] for row in found.rows()] == [row["item_id"] for row in expected.rows()]
        np.testing.assert_allclose([row["score"] for row in found.rows()], [row["score"] for row in expected.rows()], atol=1e-5)


def test_a_user_is_ranked_the_same_alone_and_among_many(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    bought = [(f"u{rng.integers(60)}", ITEMS[rng.integers(4)], f"2024-0{rng.integers(1, 7)}-{rng.integers(1, 28):02d}") for _ in range(400)]
    shop = shop_with(tmp_path, bought=bought, season={"trend_lift_4w": (1.0, 0.5)}, linear=np.array([[0, 0], [0.3, 0], [0, 2], [1, 0], [1, 1]], float))
    together = shop.rank(request_date=JULY, k=4)
    assert together["user_id"].n_unique() == 60
    for user in shop.users[:7]:
        alone = shop.rank([user], request_date=JULY, k=4)
        assert alone.drop("score", "taste").equals(together.filter(pl.col("user_id") == user).drop("score", "taste"))
        np.testing.assert_allclose(alone["score"], together.filter(pl.col("user_id") == user)["score"], atol=1e-5)


def test_two_versions_live_in_one_process(shop: Recommender, linear_shop: Recommender) -> None:
    first = shop.rank(["ann"], request_date=JULY, k=4)
    linear_shop.rank(["ann"], request_date=JULY, k=4)
    assert shop.rank(["ann"], request_date=JULY, k=4).equals(first)
    assert shop.ref.digest != linear_shop.ref.digest


def test_different_lists_asked_together_take_one_pass_of_the_encoder_and_are_those_asked_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = shop_with(tmp_path, linear=np.array([[0, 0], [0, 0], [0, 2], [1, 0], [1, 1]], float))
    asks = [
        Ask(JULY, user, list_name=name, k=4) for user, name in (("ann", "again"), ("bob", "discover"), ("cid", "again"), ("cid", "discover"), ("new", "again"))
    ]
    alone = [answer_all(Recommender.load(shop.bundle.folder), [ask])[0] for ask in asks]
    passes = []
    original = shop.networks.encode
    monkeypatch.setattr(shop.networks, "encode", lambda inputs: passes.append(len(inputs["lengths"])) or original(inputs))
    for found, expected in zip(answer_all(shop, asks), alone, strict=True):
        assert found.item_ids == expected.item_ids
        np.testing.assert_allclose(found.score, expected.score, atol=1e-6)
    assert passes == [3]


def test_what_is_remembered_of_a_user_changes_nothing_and_stays_within_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again, on other dates, with a session in between and alone or together, a user's list is that of a model that remembers nothing."""
    linear = np.array([[0, 0], [0, 0], [0, 2], [1, 0], [1, 1]], float)
    shop = shop_with(tmp_path, linear=linear)
    session = events([("bob", "candle", "2024-07-05")])
    days = (JULY, JULY + timedelta(days=30))
    first = [shop.rank(users, request_date=day, k=4, histories=raw) for day in days for users in (["bob"], ["ann", "bob", "nobody"]) for raw in (None, session)]
    again = [shop.rank(users, request_date=day, k=4, histories=raw) for day in days for users in (["bob"], ["ann", "bob", "nobody"]) for raw in (None, session)]
    assert shop._memory_bytes == sum(values.nbytes for values in shop._memory.values()) > 0
    monkeypatch.setattr("serving.recommender.MEMORY_BYTES_KEPT", 0)
    monkeypatch.setattr("serving.recommender.MAX_REMEMBERED_BLOCK", 0)
    fresh = Recommender.load(shop.bundle.folder, version="7")
    expected = [
        fresh.rank(users, request_date=day, k=4, histories=raw) for day in days for users in (["bob"], ["ann", "bob", "nobody"]) for raw in (None, session)
    ]
    for found, repeated, plain in zip(first, again, expected, strict=True):
        assert found.equals(plain)
        assert repeated.equals(plain)
    shop._keep(("x", 1), np.zeros(1000, np.float32))
    assert shop._memory_bytes == 0
    assert not shop._memory
