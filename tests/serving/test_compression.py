"""A compressed bundle is smaller, gives nearly the same lists, and stays one and the same for every way of asking."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from serving.answers import Ask, answer_all
from serving.bundle import read_bundle
from serving.compression import compress_bundle, list_overlap
from serving.recommender import Recommender
from tests.serving.small_shop import USERS

DAY = date(2024, 12, 5)


@pytest.fixture(scope="module")
def compressed(shop_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("compressed")
    compress_bundle(shop_bundle, folder / "bundle")
    return Recommender.load(folder / "bundle")


def test_lists_are_nearly_those_of_full_precision(shop: Recommender, compressed: Recommender) -> None:
    for list_name in ("again", "discover"):
        exact, found = (one.rank(request_date=DAY, list_name=list_name) for one in (shop, compressed))
        assert list_overlap(exact, found) >= 0.97
        both = exact.join(found, on=["user_id", "item_id"])
        np.testing.assert_allclose(both["score"], both["score_right"], atol=0.05)
        assert not exact.equals(found)


def test_a_user_is_ranked_the_same_alone_and_among_many(compressed: Recommender) -> None:
    together = {user: answer.item_ids for user, answer in zip(USERS, answer_all(compressed, [Ask(DAY, user) for user in USERS]), strict=True)}
    for user in USERS[:10]:
        assert answer_all(compressed, [Ask(DAY, user)])[0].item_ids == together[user]


def test_the_compressed_bundle_says_what_it_is(shop_bundle: Path, compressed: Recommender) -> None:
    metadata = compressed.bundle.metadata
    assert "int8" in metadata.notes["item_tables"]
    assert metadata.model_copy(update={"notes": {}}) == read_bundle(shop_bundle).metadata.model_copy(update={"notes": {}})
    assert compressed.ref.digest != read_bundle(shop_bundle).digest
