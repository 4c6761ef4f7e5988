"""Step `build_content`: what is kept from run to run, and what is said where there is nothing to encode."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from contracts.artifacts import FeatureTables
from contracts.sections.content import ContentConfig
from features.content import Encoder
from tasks import build_content as step
from tasks.store import Store, write_table
from tests.tasks.made_features import bare_features

ON = ContentConfig(encoder="minilm")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts the encoder was given, in order."""
    texts: list[str] = []

    def encode(batch: Sequence[str]) -> np.ndarray:
        texts.extend(batch)
        return np.array([[len(text), 1.0] for text in batch], np.float32)

    monkeypatch.setattr(step, "text_encoder", lambda _: Encoder("lengths-1", 2, encode))
    return texts


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(step, "get_run_logger", lambda: SimpleNamespace(info=lambda text, *values: lines.append(text % values)))
    return lines


def features(folder: Path, titles: dict[str, str | None] | None, column: str = "title") -> FeatureTables:
    items = list(titles or {"a": None})
    vocabulary = write_table(pl.DataFrame({"item_id": items, "item_index": range(1, len(items) + 1)}), folder / "vocabulary.parquet", "vocabulary")
    found = bare_features(vocabulary, demand=vocabulary, first_day="2024-01-01", end="2024-03-01")
    if titles is None:
        return found
    table = pl.DataFrame({"item_id": items, column: list(titles.values())}, schema={"item_id": pl.String, column: pl.String})
    return found.model_copy(update={"item_catalogue": write_table(table, folder / "catalogue.parquet", "item_catalogue")})


def test_same_catalogue_encodes_nothing_again_and_a_grown_one_only_what_is_new(store: Store, given: list[str], said: list[str], tmp_path: Path) -> None:
    first = step.build_content.fn(features(tmp_path / "first", {"a": "mug", "b": "hose"}), ON, store)
    assert sorted(given) == ["hose", "mug"]
    given.clear()
    again = step.build_content.fn(features(tmp_path / "again", {"a": "mug", "b": "hose"}), ON, store)
    assert given == []
    assert again.content is not None
    assert first.content is not None
    assert again.content.digest == first.content.digest
    grown = step.build_content.fn(features(tmp_path / "grown", {"n": "lamp", "a": "mug", "b": "hose", "bare": None}), ON, store)
    assert given == ["lamp"]
    assert grown.content is not None
    table = pl.read_parquet(grown.content.path)
    assert table["item_index"].to_list() == [1, 2, 3]
    np.testing.assert_allclose(table["vector"].to_numpy()[0], np.array([4, 1]) / 17**0.5, atol=1e-6)
    assert said[-1] == "text vectors of 3 items by lengths-1; 1 texts encoded, the others were kept"


def test_another_version_of_the_encoder_encodes_anew(store: Store, given: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = features(tmp_path, {"a": "mug"})
    step.build_content.fn(tables, ON, store)
    old = step.text_encoder("minilm")
    monkeypatch.setattr(step, "text_encoder", lambda _: Encoder("lengths-2", 2, old.encode))
    step.build_content.fn(tables, ON, store)
    assert given == ["mug", "mug"]


@pytest.mark.parametrize(
    ("titles", "column", "why"),
    [
        (None, "title", "there is no catalogue of items"),
        ({"a": None, "b": "  "}, "title", "no item of the catalogue has a title or a category"),
        ({"a": "mug"}, "colour", "no item of the catalogue has a title or a category"),
    ],
)
def test_without_words_the_tables_stay_as_they_are_and_the_log_says_why(
    store: Store, given: list[str], said: list[str], tmp_path: Path, titles: dict[str, str | None] | None, column: str, why: str
) -> None:
    tables = features(tmp_path, titles, column)
    assert step.build_content.fn(tables, ON, store) == tables
    assert given == []
    assert why in said[0]


def test_encoder_that_is_off_is_not_looked_for(store: Store, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "text_encoder", lambda _: pytest.fail("looked for"))
    tables = features(tmp_path, {"a": "mug"})
    assert step.build_content.fn(tables, ContentConfig(), store) == tables
