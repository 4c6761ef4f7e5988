from datetime import UTC, date, datetime

import polars as pl

from contracts.tables import HISTORIES
from features.histories import histories, training_events
from features.monthly_parts import history_part
from features.training_targets import training_targets
from features.vocabulary import grow_vocabulary


def test_training_events_are_sorted_by_user_and_time_with_ties_in_source_order(events) -> None:
    log = events(
        ("u2", "x", "2024-01-02"),
        ("u1", "z", "2024-01-03"),
        ("u1", "b", "2024-01-01"),
        ("u1", "a", "2024-01-01"),
        ("u1", "unknown", "2024-01-04"),
    )
    vocabulary = grow_vocabulary(None, pl.LazyFrame({"item_id": ["a", "b", "x", "z"]}))
    table = training_events(log, vocabulary).collect()
    assert table.select("user_id", "item_id", "item_index").rows() == [("u1", "b", 2), ("u1", "a", 1), ("u1", "z", 4), ("u2", "x", 3)]
    assert table["event_day"].to_list() == [19723, 19723, 19725, 19724]
    assert (table.schema["item_index"], table.schema["event_day"]) == (pl.Int32, pl.Int32)


def test_histories_keep_the_newest_events_before_the_cutoff_newest_last(events) -> None:
    log = events(
        ("u1", "a", "2024-01-01"),
        ("u1", "b", "2024-01-03"),
        ("u1", "c", "2024-01-02"),
        ("u1", "later", "2024-01-10"),
        ("u2", "d", "2024-01-09 23:59:59.999999"),
        ("u3", "e", "2024-01-10"),
    )
    table = histories(log, date(2024, 1, 10), max_history=2).collect()
    assert table.select("user_id", "item_id").rows() == [("u1", ["c", "b"]), ("u2", ["d"])]
    assert table["event_time"].to_list()[0] == [datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC)]
    assert dict(table.schema) == dict(HISTORIES.schema)
    assert table["cutoff"].unique().to_list() == [date(2024, 1, 10)]


def test_an_event_says_its_platform_behind_its_type(events) -> None:
    log = events(("u", "a", "2024-01-01"), ("u", "b", "2024-01-02", 1.0, None, "view"), ("u", "a", "2024-01-03"))
    told = log.with_columns(platform=pl.Series([None, "app", "web"], dtype=pl.String))
    wanted = ["purchase", "view@app", "purchase@web"]
    vocabulary = grow_vocabulary(None, pl.LazyFrame({"item_id": ["a", "b"]}))
    assert training_events(told, vocabulary).collect()["event_type"].to_list() == wanted
    assert histories(told, date(2024, 1, 10), max_history=3).collect()["event_type"].to_list() == [wanted]
    part = history_part(told, 3)
    assert histories(part, date(2024, 1, 10), max_history=3).collect()["event_type"].to_list() == [wanted]  # said once, by whoever reads the log first


def test_targets_are_of_the_window_for_known_users_and_candidates(events) -> None:
    log = events(
        ("u1", "a", "2024-01-01"),
        ("u1", "b", "2024-01-05", 1.0, None, "view"),
        ("u2", "c", "2024-01-01"),
        # cut-off 10 January, lead 7, horizon 7: [17, 24)
        ("u1", "a", "2024-01-16 23:59:59"),
        ("u1", "a", "2024-01-17"),
        ("u1", "a", "2024-01-18"),
        ("u1", "b", "2024-01-20"),
        ("u1", "c", "2024-01-23 23:59:59"),
        ("u1", "unborn", "2024-01-20"),
        ("u2", "a", "2024-01-20", 1.0, None, "view"),
        ("u2", "a", "2024-01-24"),
        ("stranger", "a", "2024-01-20"),
    )
    table = training_targets(log, date(2024, 1, 10), 7, 7, ("purchase",)).collect()
    assert table.rows() == [("u1", "a", False), ("u1", "b", False), ("u1", "c", True)]
