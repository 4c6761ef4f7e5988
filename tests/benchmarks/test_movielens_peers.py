"""Peers on MovieLens-100K: fitted once at a cut, scored by our scorer, compared with ours on the same users."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from benchmarks import further_sets, movielens_peers
from contracts.config import PipelineConfig

ORIGIN = date(1998, 1, 13)


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    table = further_sets.table_config("movielens_100k_60", "events.parquet", None, leads=False)
    return further_sets.with_window(table, str(tmp_path), ORIGIN, 20)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Peers that were fitted; each puts the film first that user a sees next, and last for user b."""
    made: list[str] = []
    seen = [("a", "old", 1), ("b", "old", 2), ("a", "next", 14), ("b", "next", 15)]
    interactions = pl.DataFrame(
        [(user, item, datetime(1998, 1, day, tzinfo=UTC), "rating") for user, item, day in [*seen, ("c", "next", 3)]],
        schema=["user_id", "item_id", "event_time", "event_type"],
        orient="row",
    ).with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))

    def ranked_by(peer: str, *_: object) -> tuple[pl.DataFrame, dict[str, object]]:
        made.append(peer)
        ranked = [("a", "next", 1), ("b", "other", 1)]
        table = pl.DataFrame(ranked, schema=["user_id", "item_id", "rank"], orient="row").with_columns(
            pl.lit(ORIGIN).alias("cutoff"), pl.lit(ORIGIN).alias("request_date"), pl.lit("discover").alias("list"), pl.col("rank").cast(pl.Int32)
        )
        return table, {"epochs": 3, "stopped": "no better validation", "cpu_seconds": 1.0, "validation": [0.1]}

    monkeypatch.setattr(movielens_peers, "accepted", lambda _: interactions)
    monkeypatch.setattr(movielens_peers, "ranked_by", ranked_by)
    monkeypatch.setattr(movielens_peers, "CELLS", tmp_path / "cells")
    return made


def test_a_peer_is_fitted_once_and_scored_on_what_is_new_to_each_user(config: PipelineConfig, fitted: list[str]) -> None:
    for _ in range(2):
        cell = movielens_peers.measured_cell(config, "recbole:sasrec")
    assert fitted == ["recbole:sasrec"]
    assert cell["users"] == {"recbole:sasrec": {"a": 1.0, "b": 0.0}}
    (row,) = cell["rows"]
    assert (row["model"], row["value"], row["n"], row["epochs"], row["stopped"]) == ("recbole:sasrec", 0.5, 2, 3, "no better validation")


def test_ours_is_compared_on_the_same_users_where_its_cell_is_kept(
    config: PipelineConfig, fitted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {config.name: {"recbole:sasrec": movielens_peers.measured_cell(config, "recbole:sasrec")}}
    monkeypatch.setattr(further_sets, "CELLS", tmp_path / "ours")
    assert movielens_peers.beside_ours([config], cells, ["recbole:sasrec"]) == []
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / f"{further_sets.name_of(config)}.json").write_text(json.dumps({"users": {"perennial": {"a": 1.0, "b": 0.5}, "popular_7d": {}}}))
    ours, peer, gain = movielens_peers.beside_ours([config], cells, ["recbole:sasrec"])
    assert (ours["model"], ours["value"], peer["model"], peer["value"]) == ("perennial", 0.75, "recbole:sasrec", 0.5)
    assert (gain["other"], gain["value"]) == ("recbole:sasrec", 0.5)
