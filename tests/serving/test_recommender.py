"""Scores worked out by hand, and what must hold of any list."""

from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from tests.serving.hand_made import CUTOFF, events, write_networks, write_small_bundle

from contracts.tables import RANKINGS
from features.vocabulary import grow_vocabulary
from serving.recommender import Recommender

ITEMS = ["apple", "bread", "candle", "date"]
JULY = date(2024, 7, 1)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Four items whose indices are not in the order of their ids; taste is the dot product with the newest item's vector."""
    folder = tmp_path_factory.mktemp("shop")
    vocabulary = grow_vocabulary(grow_vocabulary(None, pl.LazyFrame({"item_id": ["date", "candle"]})), pl.LazyFrame({"item_id": ITEMS}))
    taste = np.zeros((5, 2))
    taste[dict(vocabulary.iter_rows())["apple"]] = [1, 0]
    taste[dict(vocabulary.iter_rows())["bread"]] = [0, 1]
    taste[dict(vocabulary.iter_rows())["candle"]] = [1, 1]
    taste[dict(vocabulary.iter_rows())["date"]] = [3, 0]
    networks = write_networks(folder / "networks", taste, season={"season_lead": (1.0, 0.0), "trend_log_age": (0.0, 1.0)}, habit={"habit_log_baskets": 2.0})
    bought = events([("ann", "apple", "2024-05-01"), ("ann", "apple", "2024-05-08"), ("ann", "candle", "2024-06-01"), ("bob", "bread", "2024-06-10"), ("cid", "date", "2024-06-20")])
    write_small_bundle(folder / "bundle", networks, bought, vocabulary)
    return Recommender.load(folder / "bundle", version="7")


def test_scores_equal_those_worked_out_by_hand(shop: Recommender) -> None:
    """Ann's newest item is candle (1, 1): raw taste apple 1, bread 1, candle 2, date 3; mean 7/4. Habit 2 log 2 for two baskets of apple, 0 for one of candle."""
    table = shop.rank(["ann"], request_date=JULY, list_name="again", k=4)
    assert table.schema == pl.Schema(RANKINGS.schema)
    assert table["item_id"].to_list() == ["date", "apple", "candle", "bread"]
    np.testing.assert_allclose(table["taste"], [1.25, -0.75, 0.25, -0.75], atol=1e-6)
    np.testing.assert_allclose(table["habit"], [0, 2 * np.log(2), 0, 0], atol=1e-6)
    np.testing.assert_allclose(table["season"], 0, atol=1e-6)
    assert table["rank"].to_list() == [1, 2, 3, 4]
    assert table["model_version"].unique().to_list() == ["7"]
