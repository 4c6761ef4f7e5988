"""The path with text vectors: a step of its own, reused like the others, and items without history that stand where their words say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from contracts import columns as c
from contracts.artifacts import Bundles, ChampionRef, EvaluationRef
from contracts.config import PipelineConfig
from contracts.sections.source import SyntheticConfig
from features.content import Encoder
from sources.synthetic import catalogue, event_frames
from tests.flows.conftest import newest_run
from tests.flows.micro import MICRO

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]

WIDTH = 64


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An encoder that is quick: titles are alike where they are the same; remembers what it was given."""
    texts: list[str] = []

    def encode(batch: Sequence[str]) -> np.ndarray:
        texts.extend(batch)
        words = [text.partition(".")[0] for text in batch]
        return np.array([np.random.default_rng(list(text.encode())).normal(size=WIDTH) for text in words], np.float32)

    monkeypatch.setattr("tasks.build_content.text_encoder", lambda _: Encoder("words-1", WIDTH, encode))
    return texts


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Events of a year and a catalogue with titles; over the last four weeks a third of what is bought has a successor, nobody had it before."""
    config = SyntheticConfig.model_validate({**MICRO["source"]["synthetic"], "num_events": 6_000, "num_users": 80})
    events = pl.concat(list(event_frames(config)))
    is_late = pl.col(c.EVENT_TIME) >= pl.col(c.EVENT_TIME).max().dt.truncate("1d") - pl.duration(days=27)
    successor = pl.when(is_late & (pl.col("event_id") % 3 == 0)).then("n" + pl.col(c.ITEM_ID)).otherwise(pl.col(c.ITEM_ID))
    events.with_columns(successor.alias(c.ITEM_ID)).write_parquet(tmp_path / "events.parquet")
    known = catalogue(config).select(c.ITEM_ID, c.TITLE, c.CATEGORY)
    pl.concat([known, known.with_columns(("n" + pl.col(c.ITEM_ID)).alias(c.ITEM_ID))]).write_parquet(tmp_path / "items.parquet")
    return tmp_path


def parameters(folder: Path, **content: Any) -> PipelineConfig:
    evaluation = {**MICRO["evaluation"], "slices": True}
    source = {"dataset": "table", "uri": str(folder / "events.parquet"), "catalogue_uri": str(folder / "items.parquet")}
    columns = {"event_id": "event_id", "quantity": "quantity"}
    source |= {"columns": columns, "catalogue_columns": {"item_id": "item_id", "title": "title", "category": ["category"]}}
    return PipelineConfig.model_validate({**MICRO, "storage_root": str(folder / "stores"), "source": source, "evaluation": evaluation, "content": content})


def new_items(config: PipelineConfig) -> dict[str, float]:
    """NDCG@10 of items without history, ranked among themselves in `discover`: by the model and by chance."""
    from flows.partial_runs import train_and_measure
    from tasks.evaluate import read_evaluation

    found = read_evaluation(train_and_measure(config).path)
    return {row.model: row.value for row in found.new_items if row.list == "discover"}


def test_items_without_history_stand_where_their_words_say(encoded: list[str], shop: Path) -> None:
    without = new_items(parameters(shop))
    assert "build_content" not in newest_run("train-and-measure").steps
    assert encoded == []

    config = parameters(shop, encoder="minilm")
    found = new_items(config)
    assert newest_run("train-and-measure").steps["build_content"] == ["Completed"]
    assert len(encoded) == len(set(encoded)) == MICRO["source"]["synthetic"]["num_items"]  # successors have the words of what they follow
    assert found["by chance"] == without["by chance"]
    assert found["perennial"] > 1.2 * without["perennial"]

    again = new_items(config)
    assert again == found
    assert newest_run("train-and-measure").steps["build_content"] == ["Cached"]
    assert len(encoded) == MICRO["source"]["synthetic"]["num_items"]


def test_the_comparison_with_a_champion_that_the_report_shows_has_the_figure_too(encoded: list[str], shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import partial_runs
    from tasks.evaluate import read_evaluation

    evaluate = partial_runs.evaluate

    def beside_itself(bundles: Bundles, champion: None, *others: Any, **settings: Any) -> EvaluationRef:
        first = bundles.evaluated[min(bundles.evaluated)]
        return evaluate(bundles, ChampionRef(version="1", bundle=first, measured=first), *others, **settings)

    monkeypatch.setattr(partial_runs, "evaluate", beside_itself)
    found = partial_runs.train_and_measure(parameters(shop, encoder="minilm"))
    assert found.against_champion is not None
    against = read_evaluation(found.against_champion)
    assert against.champion == "champion (version 1)"
    assert against.new_items == read_evaluation(found.path).new_items
    assert {row.model for row in against.new_items} == {"perennial", "by chance"}
