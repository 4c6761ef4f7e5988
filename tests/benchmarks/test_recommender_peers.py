"""Peers under the protocol: what they are told ends before the origin, their numbers map back to ids, and a failure or a finished cell is handled."""

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from benchmarks import recommender_peers as peers
from benchmarks.recommender import parameters_of
from contracts.config import PipelineConfig

ORIGIN = date(2017, 11, 1)


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    return parameters_of("complete_journey", str(tmp_path), quick=True)


@pytest.fixture
def interactions() -> pl.DataFrame:
    rows = [
        ("old", "b", datetime(2017, 5, 1, tzinfo=UTC)),
        ("u2", "b", datetime(2017, 10, 1, 8, tzinfo=UTC)),
        ("u2", "a", datetime(2017, 10, 1, 8, tzinfo=UTC)),
        ("u10", "c", datetime(2017, 10, 31, 23, 59, tzinfo=UTC)),
        ("u2", "z", datetime(2017, 11, 1, tzinfo=UTC)),  # the origin itself is not known any more
        ("new", "a", datetime(2017, 11, 2, tzinfo=UTC)),
        ("u10", "a", datetime(2017, 12, 26, 23, tzinfo=UTC)),  # last day of the window at lead 28
        ("old", "a", datetime(2017, 12, 27, tzinfo=UTC)),  # the day after it
        ("u2", "a", datetime(2017, 12, 31, tzinfo=UTC)),
    ]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "event_time"], orient="row")
    return table.with_columns(pl.col("event_time").dt.cast_time_unit("us"), event_type=pl.lit("purchase"))


def test_a_peer_is_told_nothing_of_the_origin_or_later(config: PipelineConfig, interactions: pl.DataFrame) -> None:
    known, users = peers.split(interactions, config, ORIGIN)
    assert known["item_id"].to_list() == ["b", "b", "a", "c"]
    assert users.columns == ["user_id"]
    assert users["user_id"].to_list() == ["u10", "u2"]  # who comes back in a window and is known; nobody else


def test_numbers_map_back_to_ids_and_lists_serve_every_lead(config: PipelineConfig, interactions: pl.DataFrame) -> None:
    known, users = peers.split(interactions, config, ORIGIN)
    codes = {column: known[column].unique().sort() for column in ("user_id", "item_id")}
    told = peers.coded(known, codes)
    assert told["at"].to_list() == sorted(told["at"].to_list())
    assert told.select("user", "item").rows() == [(0, 1), (2, 1), (2, 0), (1, 2)]  # by place in old, u10, u2 and a, b, c
    ranked = pl.DataFrame({"list": ["again"] * 3, "user": [*peers.coded(users, codes)["user"], 2], "item": [2, 1, 0], "rank": [1, 1, 2]})
    found = peers.decoded(ranked, codes, (0, 28), ORIGIN)
    assert found["request_date"].unique().sort().to_list() == [ORIGIN, date(2017, 11, 29)]
    assert found.filter(pl.col("request_date") == ORIGIN).select("user_id", "item_id", "rank").rows() == [("u10", "c", 1), ("u2", "b", 1), ("u2", "a", 2)]


def test_origins_are_evenly_spread_and_end_with_the_last() -> None:
    days = tuple(date(2011, month, 4) for month in range(4, 10))
    assert [day.month for day in peers.evenly_spread(days)] == [5, 7, 9]
    assert peers.evenly_spread(days[:3]) == days[:3]
    assert peers.evenly_spread(days[:1]) == days[:1]


def test_a_peer_that_fails_leaves_a_reason_and_no_cell(
    config: PipelineConfig, interactions: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.machine.RESULTS", tmp_path)
    monkeypatch.setenv("REPLAY_PYTHON", "/bin/false")
    cell = peers.cell_of(config, interactions, "replay:sasrec", ORIGIN, peers.SETTINGS)
    assert (cell["failed"], cell["rows"]) == ("1", [])
    assert not list(tmp_path.rglob("*.json"))


def test_a_cell_is_measured_once_and_its_list_is_scored_as_asked(
    config: PipelineConfig, interactions: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.machine.RESULTS", tmp_path)
    made = []

    def ranked_by(peer: str, *given: object) -> tuple[pl.DataFrame, dict[str, object]]:
        made.append(peer)
        known, _ = peers.split(interactions, config, ORIGIN)
        codes = {column: known[column].unique().sort() for column in ("user_id", "item_id")}
        ranked = pl.DataFrame({"list": ["again", "discover"], "user": [1, 1], "item": [0, 0], "rank": [1, 1]})
        return peers.decoded(ranked, codes, (0, 28), ORIGIN), {"epochs": 1, "stopped": "cap"}

    monkeypatch.setattr(peers, "ranked_by", ranked_by)
    assert peers.cell_of(config, interactions, "replay:sasrec", ORIGIN, peers.SETTINGS, only_stored=True) == {}
    for _ in range(2):
        cell = peers.cell_of(config, interactions, "replay:sasrec", ORIGIN, peers.SETTINGS)
    assert made == ["replay:sasrec"]
    # lead 28: u10 chooses a, which stands first; lead 0: u2 chooses z, no candidate, so nobody is asked
    assert [(row["list"], row["lead_days"], row["value"], row["n"]) for row in cell["rows"]] == [("again", 28, 1.0, 1), ("discover", 28, 1.0, 1)]
    peers.cell_of(config, interactions, "replay:sasrec", ORIGIN, {**peers.SETTINGS, "cpu_seconds": 1})
    assert len(made) == 2  # another cap is another cell


def test_figures_of_a_peer_are_paired_with_ours(config: PipelineConfig, interactions: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """u10 wants a at lead 28: ours had it second, the peer first."""
    monkeypatch.setattr("benchmarks.machine.RESULTS", tmp_path)
    row = {"cutoff": ORIGIN, "request_date": date(2017, 11, 29), "list": "again", "user_id": "u10", "item_id": "a", "rank": 1}
    ranked = pl.DataFrame([row], schema_overrides={"rank": pl.Int32})
    monkeypatch.setattr(peers, "ranked_by", lambda *given: (ranked, {"epochs": 1, "stopped": "cap"}))
    cell = peers.cell_of(config, interactions, "replay:sasrec", ORIGIN, peers.SETTINGS)
    assert cell["users"] == {"again 2017-11-01 28": "10000"}
    monkeypatch.setattr("benchmarks.recommender.our_users", lambda config: {})
    assert {row["model"] for row in peers.pooled(config, interactions, [cell])} == {"replay:sasrec"}
    monkeypatch.setattr("benchmarks.recommender.our_users", lambda config: {"seed 0": {"users": {"again 2017-11-01 28": "6309"}}})
    rows = {(row["model"], row["metric"]): row for row in peers.pooled(config, interactions, [cell]) if row["lead_days"] == 28}
    assert [rows[model, "ndcg@10"]["value"] for model in ("perennial", "replay:sasrec")] == [0.6309, 1.0]
    assert rows["perennial", "gain of ndcg@10"]["relative"] == pytest.approx(-0.3691)


def test_a_peer_counts_over_all_origins_or_not_at_all(config: PipelineConfig, interactions: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.recommender.our_users", lambda config: {})
    later = date(2017, 12, 3)
    cells = [
        {"model": peer, "origin": origin.isoformat(), "users": {f"again {origin} {lead}": value}}
        for peer, origin, lead, value in (("both", ORIGIN, 28, "2000"), ("both", later, 28, "4000"), ("one", ORIGIN, 28, "9000"))
    ]
    rows = [row for row in peers.pooled(config, interactions, cells) if row["lead_days"] == 28]
    assert [(row["model"], row["list"], row["value"], row["n"]) for row in rows] == [("both", "again", pytest.approx(0.3), 2)]
