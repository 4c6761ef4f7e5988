"""Great Expectations over DuckDB views: opened, asked, closed. Nothing here knows a table of ours.

A `Run` is one DuckDB file with views on Parquet parts and one ephemeral Great Expectations context on it. Suites are checked one after the
other; the Data Docs show all of them.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import duckdb

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.data_context import AbstractDataContext
    from great_expectations.expectations.expectation import Expectation

SOURCE: Final = "parquet"
# Larger groupings spill to disk below the run's folder.
MEMORY_LIMIT: Final = "2GB"

# Great Expectations keeps the context it made last as the project of the whole process.
_ONE_AT_A_TIME: Final = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """What one expectation found.

    `num_failed` is the number of rows for an expectation on rows, else 1. `rows_query` selects the key of every failing row; it is there only for
    failed expectations on rows of a view whose key was given.
    """

    rule: str
    column: str
    description: str
    advice: str
    severity: str
    success: bool
    num_failed: int
    error: str | None = None
    rows_query: str | None = None


@dataclass(frozen=True)
class Checked:
    """A suite and its outcomes."""

    suite: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Run:
    """One database, one context; `connection` is for views and for reading failing rows. `checked` grows with every suite."""

    connection: duckdb.DuckDBPyConnection
    context: "AbstractDataContext"
    folder: Path
    checked: list[Checked] = field(default_factory=list)

    def check(self, view: str, suite: "ExpectationSuite", *, key: tuple[str, ...] = ()) -> list[Outcome]:
        """Check a suite against a view; outcomes in the suite's order. An exception inside an expectation is a critical failure.

        `key` names the columns by which a failing row is told (`Outcome.rows_query`).
        """
        gx = load_great_expectations()
        from great_expectations.core.run_identifier import RunIdentifier

        rows = self.context.data_sources.get(SOURCE)
        batch = rows.add_table_asset(view, table_name=view).add_batch_definition_whole_table("all")
        stored = self.context.suites.add(suite)
        definition = self.context.validation_definitions.add(gx.ValidationDefinition(name=suite.name, data=batch, suite=stored))
        result = definition.run(result_format={"result_format": "SUMMARY"}, run_id=RunIdentifier(run_name="check"))
        found = {_identity(one.expectation_config): one for one in result.results}
        outcomes = [_outcome(expectation, found[_identity(expectation.configuration)], batch, key) for expectation in stored.expectations]
        self.checked.append(Checked(suite.name, tuple(outcomes)))
        return outcomes


@contextmanager
def open_run(folder: Path) -> Iterator[Run]:
    """A run whose database lives in a temporary folder below `folder` and is removed at the end. Runs of one process wait for each other."""
    gx = load_great_expectations()
    from expectations import duckdb_dialect

    folder.mkdir(parents=True, exist_ok=True)
    with _ONE_AT_A_TIME, tempfile.TemporaryDirectory(dir=folder, prefix=".duckdb-") as scratch:
        database = str(Path(scratch) / "views.duckdb")
        with duckdb.connect(database) as connection:
            connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            connection.execute("SET preserve_insertion_order = false")
            context = gx.get_context(mode="ephemeral")
            context.variables.progress_bars = {"globally": False, "metric_calculations": False}
            source = context.data_sources.add_sql(SOURCE, connection_string=duckdb_dialect.address(database), create_temp_table=False)
            try:
                yield Run(connection, context, folder)
            finally:
                source.get_execution_engine().close()
                source.get_engine().dispose()


def load_great_expectations() -> ModuleType:
    """Import Great Expectations with its analytics off and the dialect registered (the first call takes seconds)."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations

    from expectations import duckdb_dialect

    duckdb_dialect.register()
    return great_expectations


def _identity(configuration: Any) -> str:
    return str(configuration.id)


def _outcome(expectation: "Expectation", result: Any, batch: "BatchDefinition[Any]", key: tuple[str, ...]) -> Outcome:
    meta = expectation.meta or {}
    error = _error(result.exception_info)
    on_rows = "unexpected_count" in result.result
    failed = not result.success
    return Outcome(
        rule=meta.get("rule", expectation.expectation_type),
        column=getattr(expectation, "column", ""),
        description=str(expectation.description or ""),
        advice=meta.get("advice", ""),
        severity="critical" if error else str(expectation.severity.value),
        success=bool(result.success),
        num_failed=(int(result.result["unexpected_count"]) if on_rows else 1) if failed else 0,
        error=error,
        rows_query=_failing_rows_query(expectation, batch, key) if failed and on_rows and key else None,
    )


def _error(exception_info: dict[str, Any]) -> str | None:
    """First exception of an expectation; Great Expectations keeps one, or one per metric."""
    entries = [exception_info] if "raised_exception" in exception_info else list(exception_info.values())
    return next((str(entry["exception_message"]) for entry in entries if entry["raised_exception"]), None)


def _failing_rows_query(expectation: "Expectation", batch: "BatchDefinition[Any]", key: tuple[str, ...]) -> str:
    """SQL that selects the key and the judged value of every failing row, from the very condition that was counted.

    Great Expectations lists at most twenty failing rows of a SQL table, its COMPLETE format reads every failing value into memory, and its own
    `unexpected_index_query` leaves numbered parameters such as $1 unfilled when their value is a digit of the query.
    """
    import sqlalchemy as sa
    from great_expectations.validator.metric_configuration import MetricConfiguration
    from great_expectations.validator.metrics_calculator import MetricsCalculator

    engine = batch.data_asset.datasource.get_execution_engine()
    engine.batch_manager.load_batch_list([batch.get_batch()])
    dependencies = expectation.get_validation_dependencies(execution_engine=engine, runtime_configuration={"result_format": {"result_format": "BASIC"}})
    name = expectation.map_metric  # type: ignore[attr-defined]
    counted = dependencies.metric_configurations[f"{name}.unexpected_count"]
    wanted = MetricConfiguration(f"{name}.condition", metric_domain_kwargs=counted.metric_domain_kwargs, metric_value_kwargs=counted.metric_value_kwargs)
    condition, _, judged = MetricsCalculator(execution_engine=engine, show_progress_bars=False).get_metric(wanted)
    columns = dict.fromkeys((*key, *(judged.get("column_list") or [judged[name] for name in ("column", "column_A", "column_B") if name in judged])))
    query = sa.select(*(sa.column(str(column)) for column in columns)).select_from(sa.table(batch.data_asset.table_name)).where(condition)
    return str(query.compile(dialect=engine.engine.dialect, compile_kwargs={"literal_binds": True}))
