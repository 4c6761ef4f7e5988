"""Every stored row is either accepted or set aside, in its order."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from contracts.artifacts import content_digest
from expectations.quarantine import BROKEN_SCHEMA, broken_rows, split_table
from tests.expectations.made_tables import made_events, store_table


def failures(*rows: tuple[str, int, int, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=BROKEN_SCHEMA, orient="row")


def test_the_first_broken_rule_names_a_row_and_all_are_kept():
    found = broken_rows(failures(("b", 1, 5, "late"), ("a", 7, 3, "third"), ("a", 7, 0, "first"), ("a", 7, 1, "second")))
    assert found.rows() == [("a", 7, "first", "first, second, third"), ("b", 1, "late", "late")]


def test_good_rows_keep_part_and_order_and_bad_rows_keep_their_place(tmp_path: Path):
    events = made_events(9)
    table = store_table(tmp_path / "interactions", "interactions", events[:4], events[4:6], events[6:])
    a, b, _ = map(str, table.parts())
    broken = broken_rows(failures((a, 2, 0, "odd"), (b, 0, 0, "odd"), (b, 1, 1, "even")))

    accepted, quarantined = split_table(table, broken, accepted=tmp_path / "out" / "accepted", quarantined=tmp_path / "out" / "quarantine")

    assert (accepted.rows, quarantined.rows) == (6, 3)
    assert [part.name for part in accepted.parts()] == ["a.parquet", "c.parquet"]  # nothing of b was good
    assert pl.read_parquet(accepted.parts())["event_id"].to_list() == ["e0", "e1", "e3", "e6", "e7", "e8"]
    kept = pl.read_parquet(quarantined.parts())
    assert kept.select("event_id", "rule", "source_file", "source_row").rows() == [
        ("e2", "odd", "a.parquet", 2),
        ("e4", "odd", "b.parquet", 0),
        ("e5", "even", "b.parquet", 1),
    ]
    assert kept.schema["event_time"] == pl.Datetime("us", "UTC")
    assert accepted.digest == content_digest(accepted.parts(), Path(accepted.path))


def test_parts_without_bad_rows_outlive_the_table_they_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for can_link in (True, False):
        folder = tmp_path / str(can_link)
        table = store_table(folder / "interactions", "interactions", made_events(2), made_events(2))
        broken = broken_rows(failures((str(table.parts()[1]), 0, 0, "odd")))
        if not can_link:
            monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError("other device")))
        accepted, _ = split_table(table, broken, accepted=folder / "accepted", quarantined=folder / "quarantine")
        shutil.rmtree(table.path)
        assert pl.read_parquet(accepted.parts()).height == accepted.rows == 3


def test_a_row_that_knows_its_source_keeps_it_in_quarantine(tmp_path: Path):
    events = made_events(3).with_columns(source_file=pl.lit("raw.csv"), source_row=pl.Series([70, 80, 90]))
    table = store_table(tmp_path / "interactions", "interactions", events)
    broken = broken_rows(failures((str(table.parts()[0]), 1, 0, "odd")))
    accepted, quarantined = split_table(table, broken, accepted=tmp_path / "accepted", quarantined=tmp_path / "quarantine")
    assert pl.read_parquet(quarantined.parts()).select("source_file", "source_row", "rule").rows() == [("raw.csv", 80, "odd")]
    assert pl.read_parquet(accepted.parts())["source_row"].to_list() == [70, 90]


def test_a_single_file_of_events_is_cut_by_month(tmp_path: Path):
    events = made_events(20, hours_apart=96)  # January to March
    stored = store_table(tmp_path / "interactions", "interactions", events)
    table = stored.model_copy(update={"path": str(stored.parts()[0])})
    broken = broken_rows(failures((table.path, 0, 0, "odd")))

    accepted, _ = split_table(table, broken, accepted=tmp_path / "accepted", quarantined=tmp_path / "quarantine")

    assert [part.parent.name for part in accepted.parts()] == ["month=2024-01", "month=2024-02", "month=2024-03"]
    assert pl.read_parquet(accepted.parts(), hive_partitioning=False)["event_id"].to_list() == [f"e{number}" for number in range(1, 20)]


def test_an_interrupted_split_leaves_the_earlier_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = store_table(tmp_path / "interactions", "interactions", made_events(4))
    part = str(table.parts()[0])
    places = {"accepted": tmp_path / "accepted", "quarantined": tmp_path / "quarantine"}
    before, _ = split_table(table, broken_rows(failures((part, 0, 0, "odd"))), **places)

    monkeypatch.setattr("expectations.quarantine._bad_rows", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        split_table(table, broken_rows(failures((part, 1, 0, "odd"))), **places)

    assert content_digest(before.parts(), Path(before.path)) == before.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accepted", "interactions", "quarantine"]


def test_a_row_that_is_named_but_not_stored_is_noticed(tmp_path: Path):
    table = store_table(tmp_path / "interactions", "interactions", made_events(4))
    broken = broken_rows(failures((str(table.parts()[0]), 99, 0, "odd")))
    with pytest.raises(AssertionError, match="1 bad rows found, 0 quarantined"):
        split_table(table, broken, accepted=tmp_path / "accepted", quarantined=tmp_path / "quarantine")
