"""DuckDB's rows survive the return of their connection."""

from pathlib import Path

import duckdb
from sqlalchemy import create_engine, text

from expectations.duckdb_dialect import address, register


def fetch_after_the_connection_went_back(url: str) -> list[tuple[int, ...]]:
    engine = create_engine(url)
    with engine.connect() as connection:
        result = connection.execute(text("SELECT * FROM range(3)"))
    rows = [tuple(row) for row in result.fetchall()]
    engine.dispose()
    return rows


def test_rows_are_there_after_the_connection_went_back_to_its_pool(tmp_path: Path):
    register()
    assert fetch_after_the_connection_went_back(address(str(tmp_path / "x.duckdb"))) == [(0,), (1,), (2,)]


def test_the_plain_dialect_still_loses_them(tmp_path: Path):
    """When this fails, duckdb_sqlalchemy keeps its rows: `expectations.duckdb_dialect` has no reason left."""
    assert fetch_after_the_connection_went_back(f"duckdb:///{tmp_path / 'x.duckdb'}") == []


def test_a_file_that_is_open_already_can_be_opened_again(tmp_path: Path):
    register()
    with duckdb.connect(str(tmp_path / "x.duckdb")) as opened:
        opened.execute("CREATE VIEW three AS SELECT * FROM range(3)")
        engine = create_engine(address(str(tmp_path / "x.duckdb")))
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM three")).scalar() == 3
        engine.dispose()
