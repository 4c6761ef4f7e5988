"""The benchmark of training: what it counts, and that what is missing is said rather than made up."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from benchmarks.equal_targets import of_ranking
from benchmarks.training import TimedWalk, measured_encoder, measured_evaluation, measured_preparation, measured_profile, ratio_to_replay
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


def test_the_parts_of_a_step_make_up_the_whole(interactions: pl.DataFrame) -> None:
    shares = {row["metric"]: row["value"] for row in measured_profile("made up", interactions, "gpt", "sampled_softmax")}
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)  # each is rounded to six digits
    for part in ("dense layers and scores", "attention", "activations", "dropout", "norms", "optimiser"):
        assert shares[f"share of a step: {part}"] > 0


def test_the_ratio_is_the_middle_one_of_rounds_in_turn(interactions: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = iter([2.0, 9.0, 4.0]), iter([570 * 8e-6, 570 * 10e-6, 570 * 10e-6])  # 570 targets: ratios .25, .9, .4
    monkeypatch.setattr("benchmarks.training.measured_encoder", lambda *_, **__: [{"value": next(ours)}])
    monkeypatch.setattr("benchmarks.training.cost_of", lambda *_: {"model": "RePlay", "seconds": next(theirs)})
    (found,) = ratio_to_replay("made up", interactions, "full_softmax", epochs=1, rounds=3)
    assert (found["value"], found["lowest"], found["highest"], found["reached"]) == pytest.approx((0.4, 0.25, 0.9, True))


def test_a_target_counts_by_its_rank_and_is_looked_up_for_its_own_user() -> None:
    rankings = pl.DataFrame({"user_id": ["u", "u", "v", "w"], "item_id": ["a", "b", "b", "c"], "rank": [1, 3, 1, 11]})
    target = pl.DataFrame({"user_id": ["u", "v", "w"], "item_id": ["b", "a", "c"]})
    assert of_ranking(rankings, target, ["v", "u", "w"]).tolist() == [0.0, 0.5, 0.0]
