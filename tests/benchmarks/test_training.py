"""The benchmark of training: what it counts, and that what is missing is said rather than made up."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from benchmarks.training import TimedWalk, measured_encoder, measured_evaluation, measured_preparation
from benchmarks.training_peers import cost_of

SETTINGS = {"length": 50, "width": 64, "blocks": 2, "heads": 2, "batch": 128, "negatives": 128, "epochs": 1}


@pytest.fixture
def interactions() -> pl.DataFrame:
    start = datetime(2022, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "user_id": [f"u{number // 20}" for number in range(600)],
            "item_id": [f"i{number * 7 % 31}" for number in range(600)],
            "event_time": [start + timedelta(hours=number % 20) for number in range(600)],
            "event_type": ["event"] * 600,
        }
    ).with_columns(pl.col("event_time").dt.cast_time_unit("us"))


def test_every_event_is_a_target_of_each_pass(interactions: pl.DataFrame) -> None:
    cost, loading = measured_encoder("made up", interactions, "gpt", "sampled_softmax", epochs=2)
    assert cost["n"] == pytest.approx(1_200, abs=20)
    assert cost["metric"] == "CPU microseconds per training target"
    assert cost["value"] > 1
    assert 0 < loading["value"] < 1


def test_loading_is_timed_around_the_making_of_a_batch(interactions: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("benchmarks.training.time.process_time", lambda: float(next(clock)))
    seen = {}
    keep = TimedWalk.__iter__

    def watched(self: TimedWalk):
        seen["walk"] = self
        yield from keep(self)

    monkeypatch.setattr(TimedWalk, "__iter__", watched)
    measured_encoder("made up", interactions, "gpt", "sampled_softmax", epochs=1)
    assert seen["walk"].seconds == 1  # one batch is made: one tick


def test_a_peer_that_is_not_there_or_fails_is_a_sentence(interactions: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLAY_PYTHON", "/nowhere/python")
    assert "no environment at /nowhere/python" in cost_of("replay", "full_softmax", interactions, SETTINGS)
    monkeypatch.setenv("RECTOOLS_PYTHON", "/bin/false")
    assert cost_of("rectools", "full_softmax", interactions, SETTINGS) == "it failed: 1"


def test_loading_and_evaluation_are_measured_whole() -> None:
    assert [row["metric"] for row in measured_preparation(5_000)] == ["seconds", "CPU seconds"]
    rows = measured_evaluation(300, 200)
    assert len(rows) == 3
    assert all(row["value"] > 0 for row in rows)
    assert rows[2]["value"] < rows[1]["value"]
