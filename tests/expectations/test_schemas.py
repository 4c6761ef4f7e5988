"""The shape of a table is told before its rows."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from contracts.artifacts import TableRef
from contracts.errors import DataContractError
from expectations.quarantine import table_ref
from expectations.schemas import check_schema
from tests.expectations.made_tables import made_events, store_table


def stored(folder: Path, name: str, frame: pl.DataFrame) -> TableRef:
    folder.mkdir()
    frame.write_parquet(folder / "a.parquet")
    return table_ref(name, folder)


def test_a_good_table_passes_without_its_nullable_columns(tmp_path: Path):
    check_schema(store_table(tmp_path / "t", "interactions", made_events(3).drop("price")))


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path):
    with pytest.raises(DataContractError, match=r"column `user_id` is missing in .*nearest `userid`") as caught:
        check_schema(store_table(tmp_path / "t", "interactions", made_events(3).rename({"user_id": "userid"})))
    assert (caught.value.table, caught.value.rule) == ("interactions", "column_missing")


def test_demand_only_events_need_no_user(tmp_path: Path):
    check_schema(store_table(tmp_path / "t", "interactions", made_events(3).drop("user_id")), optional=("user_id",))


@pytest.mark.parametrize(
    ("column", "wrong", "message"),
    [
        (pl.col("price").cast(pl.String), "price", "column `price` is String in .*expected Float64"),
        (pl.col("event_time").dt.replace_time_zone(None), "event_time", "Times must carry UTC and microseconds"),
        (pl.col("event_time").dt.cast_time_unit("ms"), "event_time", "time_unit='ms'.*expected Datetime"),
    ],
)
def test_a_wrong_type_is_named_with_the_one_expected(tmp_path: Path, column: pl.Expr, wrong: str, message: str):
    with pytest.raises(DataContractError, match=message) as caught:
        check_schema(stored(tmp_path / "t", "interactions", made_events(3).with_columns(column.alias(wrong))))
    assert caught.value.rule == "column_type_wrong"


def test_one_deviating_part_among_good_ones_is_found(tmp_path: Path):
    table = store_table(tmp_path / "t", "interactions", made_events(3), made_events(3))
    made_events(3).with_columns(pl.col("user_id").str.len_chars()).write_parquet(tmp_path / "t" / "c.parquet")
    with pytest.raises(DataContractError, match=r"column `user_id` is UInt32 in .*c\.parquet"):
        check_schema(table)


def test_a_truncated_part_is_an_error_with_its_path(tmp_path: Path):
    table = store_table(tmp_path / "t", "interactions", made_events(3))
    part = table.parts()[0]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DataContractError, match=r"a\.parquet cannot be read as Parquet") as caught:
        check_schema(table)
    assert caught.value.rule == "part_unreadable"


def test_a_table_without_rows_is_an_error(tmp_path: Path):
    with pytest.raises(DataContractError, match="expected rows, found none") as caught:
        check_schema(store_table(tmp_path / "t", "interactions", made_events(3).clear()))
    assert caught.value.rule == "table_empty"


def test_a_table_without_contract_needs_only_rows(tmp_path: Path):
    check_schema(stored(tmp_path / "t", "habits", pl.DataFrame({"user_id": ["u"], "cutoff": [date(2024, 1, 1)]})))
