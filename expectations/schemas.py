"""The shape of a stored table, before any row is looked at: parts can be read, columns are there, types are right."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.artifacts import TableRef
from contracts.errors import DataContractError
from contracts.tables import TABLES, PolarsType, TableContract

STEP = "validate"


def check_schema(table: TableRef, *, optional: Collection[str] = ()) -> None:
    """Raise DataContractError unless every part of a table can be read and has the columns and types of its contract.

    Columns of the contract that are not required, and those in `optional`, may be missing; columns beyond the contract are free.
    Tables without a contract in `contracts.tables` need only be readable and hold rows.
    """
    if not table.rows or not table.parts():
        raise _error(table, "table_empty", f"expected rows, found none in {table.path}. Check the source and the filters of the step before.")
    contract = TABLES.get(table.name)
    for part in table.parts():
        schema = _schema(table, part)
        if contract:
            _check_columns(table, part, schema, contract, optional)


def _schema(table: TableRef, part: Path) -> Mapping[str, pl.DataType]:
    try:
        pq.read_metadata(part)  # the footer stands at the end: a truncated file has none
        return pl.read_parquet_schema(part)
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise _error(table, "part_unreadable", f"{part} cannot be read as Parquet ({error}). Run the step that wrote it again.") from error


def _check_columns(table: TableRef, part: Path, schema: Mapping[str, PolarsType], contract: TableContract, optional: Collection[str]) -> None:
    missing = [column for column in contract.required if column not in schema and column not in optional]
    if missing:
        raise _error(table, "column_missing", f"column `{missing[0]}` is missing in {part}; {_have(missing[0], schema)}.", num_failed=len(missing))
    wrong = [column for column, expected in contract.schema.items() if column in schema and schema[column] != expected]
    if wrong:
        column = wrong[0]
        expected, found = contract.schema[column], schema[column]
        hint = " Times must carry UTC and microseconds." if column == c.EVENT_TIME else ""
        raise _error(
            table,
            "column_type_wrong",
            f"column `{column}` is {found} in {part}, expected {expected}.{hint} Cast it in the step that wrote the table.",
            num_failed=len(wrong),
        )


def _have(column: str, schema: Mapping[str, PolarsType]) -> str:
    near = difflib.get_close_matches(column, list(schema), n=1, cutoff=0.5)
    return f"have {len(schema)} columns, nearest `{near[0]}`" if near else f"have {', '.join(schema)}"


def _error(table: TableRef, rule: str, message: str, *, num_failed: int = 1) -> DataContractError:
    return DataContractError(f"{table.name}: {message}", table=table.name, rule=rule, num_failed=num_failed, step=STEP)
