"""A compressed bundle is smaller, gives nearly the same lists, and stays one and the same for every way of asking."""

from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from serving.answers import Ask, answer_all
from serving.bundle import read_bundle
from serving.compression import Form, _with_small_tables, choose_form, compress_bundle, list_overlap
from serving.item_tables import QuantisedTable, quantise
from serving.recommender import Recommender
from tests.serving.hand_made import encoder_graph
from tests.serving.small_shop import NUM_ITEMS, USERS

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


def test_an_unknown_form_is_refused(shop_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="form: expected one of int8, pq, distilled, found 'int2'"):
        compress_bundle(shop_bundle, tmp_path / "bundle", form="int2")


def test_a_distilled_form_has_the_students_encoder_with_small_tables(shop: Recommender, shop_bundle: Path, tmp_path: Path) -> None:
    vectors = np.zeros((NUM_ITEMS + 1, 6), np.float32)
    encoder_graph(tmp_path / "student.onnx", vectors, lead_weight=0.0)  # a student that says nothing: without its taste other lists
    compress_bundle(shop_bundle, tmp_path / "bundle", form="distilled", encoder=tmp_path / "student.onnx")
    found = Recommender.load(tmp_path / "bundle")
    assert "narrow encoder" in found.bundle.metadata.notes["item_tables"]
    ask = Ask(DAY, "u03", list_name="discover", k=5)
    assert answer_all(found, [ask])[0].item_ids != answer_all(shop, [ask])[0].item_ids
    for form, encoder in (("distilled", None), ("int8", tmp_path / "student.onnx")):
        with pytest.raises(ValueError, match="expected the student's graph for the form distilled and for no other"):
            compress_bundle(shop_bundle, tmp_path / "other", form=form, encoder=encoder)


def test_product_quantised_vectors_of_a_small_shop_are_exact(shop: Recommender, shop_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty items have fewer parts than there are centroids: nothing is lost but the sixteen bits of the linear table."""
    monkeypatch.setattr("serving.compression.quantise", partial(quantise, bytes_per_item=3))
    compress_bundle(shop_bundle, tmp_path / "bundle", form="pq")
    found = Recommender.load(tmp_path / "bundle")
    assert isinstance(found.networks.taste_items, QuantisedTable)
    for list_name in shop.lists:
        exact, table = (one.rank(request_date=DAY, list_name=list_name) for one in (shop, found))
        assert table["item_id"].to_list() == exact["item_id"].to_list()
        np.testing.assert_allclose(table["score"], exact["score"], atol=1e-3)


def test_tables_an_encoder_looks_up_are_int8_and_the_query_is_nearly_the_same(tmp_path: Path) -> None:
    vectors = np.random.default_rng(4).normal(size=(300, 8)).astype(np.float32)
    encoder_graph(tmp_path / "encoder.onnx", vectors, lead_weight=0.5)
    small = _with_small_tables(onnx.load(tmp_path / "encoder.onnx"))
    assert small.ByteSize() < 0.5 * (tmp_path / "encoder.onnx").stat().st_size
    onnx.save(small, tmp_path / "small.onnx")
    inputs = {name: np.array([[5, 7], [9, 0]]) for name in ("items", "event_days", "event_types")}
    inputs |= {"lengths": np.array([2, 1]), "request_day": np.array([0, 0]), "lead_days": np.array([2, 0], np.float32)}
    (exact,), (found,) = (ort.InferenceSession(tmp_path / name).run(["query"], inputs) for name in ("encoder.onnx", "small.onnx"))
    np.testing.assert_allclose(found, exact, atol=np.abs(vectors).max() / 127)
    assert not np.array_equal(found, exact)


def test_the_smallest_form_that_loses_at_most_one_per_cent_of_any_list_is_taken() -> None:
    full = Form("full", 100, 5.0, {"again": 0.4, "discover": 0.05})
    small = Form("int8", 50, 4.0, {"again": 0.3961, "discover": 0.0496})
    smaller = Form("pq", 20, 3.0, {"again": 0.41, "discover": 0.0494})
    assert choose_form([full, small, smaller]) is small
    assert choose_form([full, smaller]) is full
    assert choose_form([full, small, smaller], max_loss=0.02) is smaller
