# ruff: noqa: S608 - table and column names come from contracts, paths are quoted
"""DuckDB views of stored rows that suites look at, as SQL. Nothing is copied: DuckDB reads the Parquet parts.

Every row carries its place (`stored_part`, `stored_row` from 0), `is_finite` and `is_repeated`; lists are left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb
import polars as pl

from contracts.tables import TABLES

STORED_PART: Final = "stored_part"
STORED_ROW: Final = "stored_row"
ROW_KEY: Final = (STORED_PART, STORED_ROW)
IS_FINITE: Final = "is_finite"
IS_REPEATED: Final = "is_repeated"

_SQL_TYPES: Final = {
    pl.String: "VARCHAR",
    pl.Float64: "DOUBLE",
    pl.Float32: "FLOAT",
    pl.Datetime: "TIMESTAMP",
    pl.Date: "DATE",
    pl.Int32: "INTEGER",
    pl.Int64: "BIGINT",
}


def create_rows_view(
    connection: duckdb.DuckDBPyConnection, name: str, parts: Sequence[Path], *, grain: Sequence[str], derived: Mapping[str, str] | None = None
) -> None:
    """View `name` over the parts of a table. Grain: stored row.

    `is_repeated` is true where the row's grain stands in an earlier row. `derived` adds columns: name -> SQL over the stored columns.
    """
    stored, repeated = f"{name}_stored", f"{name}_repeated"
    connection.execute(f"CREATE VIEW {stored} AS {rows_query(connection, parts, name, derived=derived or {})}")
    num_repeated = _find_repeated(connection, stored, repeated, grain)
    is_repeated = f"EXISTS (FROM {repeated} AS r WHERE r.stored_part = stored.stored_part AND r.stored_row = stored.stored_row)" if num_repeated else "FALSE"
    connection.execute(f"CREATE VIEW {name} AS SELECT *, {is_repeated} AS {IS_REPEATED} FROM {stored} AS stored")


def rows_query(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path], name: str, *, derived: Mapping[str, str] | None = None) -> str:
    """Every row of the parts, cleaned for comparisons, and its place.

    Times become UTC without a zone: DuckDB needs an extension to compute with zones. Numbers that are not finite become null and `is_finite`
    false: Parquet statistics leave NaN out, so DuckDB would decide a comparison with NaN by the part's minimum and maximum. Nullable columns
    of the contract that are not stored are null.
    """
    types = stored_types(connection, parts)
    floats = [column for column, kind in types.items() if kind in {"DOUBLE", "FLOAT"}]
    selected = [_cleaned(column, kind) for column, kind in types.items() if not kind.endswith("]")]
    contract = TABLES.get(name)
    if contract:
        selected += [f'NULL::{_sql_type(kind)} AS "{column}"' for column, kind in contract.schema.items() if column not in types]
    selected += [f"{expression} AS {column}" for column, expression in (derived or {}).items()]
    finite = " AND ".join(f'coalesce(isfinite("{column}"), TRUE)' for column in floats) or "TRUE"
    return (
        f"SELECT {', '.join(selected)}, {finite} AS {IS_FINITE}, filename AS {STORED_PART}, file_row_number AS {STORED_ROW} "
        f"FROM {parquet(parts, filename=True, file_row_number=True)}"
    )


def stored_types(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path]) -> dict[str, str]:
    """DuckDB type of every stored column."""
    described = connection.execute(f"DESCRIBE SELECT * FROM {parquet(parts)}").fetchall()
    return {str(name): str(kind) for name, kind, *_ in described}


def parquet(parts: Sequence[Path], **options: bool) -> str:
    """`read_parquet` over part files, columns joined by name, folder names not read as columns."""
    listed = ", ".join("'" + str(part).replace("'", "''") + "'" for part in parts)
    given = "".join(f", {name} = {str(value).lower()}" for name, value in options.items())
    return f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false{given})"


def _find_repeated(connection: duckdb.DuckDBPyConnection, stored: str, repeated: str, grain: Sequence[str]) -> int:
    """Store the place of every row whose grain stands in an earlier row; return how many. Rows with a null in the grain are left to other rules.

    The grain is grouped by a 64-bit hash first, which keeps twenty million ids in memory; only rows whose hash occurs twice are compared.
    """
    keys = ", ".join(f'"{column}"' for column in grain)
    known = " AND ".join(f'"{column}" IS NOT NULL' for column in grain)
    connection.execute(
        f"CREATE TEMPORARY TABLE {repeated}_suspects AS "
        f"SELECT digest FROM (SELECT hash({keys}) AS digest FROM {stored} WHERE {known}) GROUP BY digest HAVING count(*) > 1"
    )
    connection.execute(
        f"CREATE TABLE {repeated} AS SELECT stored_part, stored_row FROM {stored} WHERE {known} AND hash({keys}) IN (FROM {repeated}_suspects) "
        f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY stored_part, stored_row) > 1"
    )
    row = connection.execute(f"SELECT count(*) FROM {repeated}").fetchone()
    return int(row[0]) if row else 0


def _cleaned(column: str, kind: str) -> str:
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f'make_timestamp(epoch_us("{column}")) AS "{column}"'
    if kind in {"DOUBLE", "FLOAT"}:
        return f'CASE WHEN isfinite("{column}") THEN "{column}" END AS "{column}"'
    return f'"{column}"'


def _sql_type(kind: pl.DataType | type[pl.DataType]) -> str:
    return _SQL_TYPES.get(kind if isinstance(kind, type) else type(kind), "VARCHAR")
