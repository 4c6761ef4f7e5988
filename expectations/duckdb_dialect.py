"""DuckDB for Great Expectations: the SQLAlchemy dialect with every result set read at once.

Great Expectations returns its connection to the pool before it fetches. DuckDB drops an open result when its connection is rolled back, the
fetch then finds no row, and every expectation fails with `list index out of range`. Results of expectations are small (counts and at most twenty
example values), so they are read when the statement ends. To be deleted when Great Expectations has an engine for DuckDB.
"""

from typing import Any, Final

import duckdb
from duckdb_sqlalchemy import ConnectionWrapper, Dialect
from sqlalchemy.dialects import registry
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy

DIALECT: Final = "duckdb.buffered"


class _BufferedContext(Dialect.execution_ctx_cls):  # type: ignore[misc, valid-type]
    def post_exec(self) -> None:
        super().post_exec()
        if self.cursor is not None and self.cursor.description:
            self.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(self.cursor, self.cursor.description, self.cursor.fetchall())


class BufferedDialect(Dialect):
    """duckdb_sqlalchemy's dialect; the rows of a statement are in memory when it returns."""

    execution_ctx_cls = _BufferedContext
    supports_statement_cache = True

    def connect(self, *_: Any, database: str, **__: Any) -> ConnectionWrapper:
        """Connect without configuration of its own: DuckDB refuses a second connection to a file that is open with other settings."""
        return ConnectionWrapper(duckdb.connect(database))


def register() -> None:
    """Make `duckdb+buffered:///path` known to SQLAlchemy; a second call changes nothing."""
    registry.register(DIALECT, __name__, BufferedDialect.__name__)


def address(database: str) -> str:
    """SQLAlchemy address of a DuckDB file."""
    return f"duckdb+buffered:///{database}"
