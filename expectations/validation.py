"""Validation of stored tables: what is wrong is set aside or stops the flow, nothing is lost, and the Data Docs show it.

`validate_interactions` and `validate_table` are what the rest of the project calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from contracts import columns as c
from contracts.artifacts import Finding, TableRef, ValidationReport
from contracts.errors import DataContractError, NotEnoughHistoryError
from contracts.sections.validation import ValidationConfig
from expectations import interaction_views as views
from expectations.data_docs import build_data_docs
from expectations.engine import Outcome, Run, open_run
from expectations.quarantine import BROKEN_SCHEMA, broken_rows, split_table
from expectations.schemas import check_schema
from expectations.suites import interactions as suites

STEP: Final = "validate"
ROW_KEY: Final = (c.SOURCE_FILE, c.SOURCE_ROW)


def validate_interactions(
    interactions: TableRef,
    item_catalogue: TableRef | None,
    config: ValidationConfig,
    *,
    folder: Path,
    now: datetime,
    horizon_days: int,
    has_users: bool = True,
) -> ValidationReport:
    """Check the events row by row and as a whole; return the accepted table and what was found.

    Rows that break a rule are written to `folder/quarantine` and the others to `folder/interactions`; without bad rows the accepted table is
    `interactions` itself. The Data Docs are in `folder/data_docs`, also when an error is raised.

    Parameters
    ----------
    now
        Events later than this by more than `config.future_tolerance_hours` are bad.
    horizon_days
        Length of the window to recommend for; the events must span more.
    has_users
        Off for demand-only data, where events carry no user.

    Raises
    ------
    DataContractError
        A missing or wrongly typed column, an unreadable part, no rows, or more bad rows than `config.max_quarantined_share`.
    NotEnoughHistoryError
        Fewer users or items than asked for, or less history than the horizon.
    """
    check_schema(interactions, optional=() if has_users else (c.USER_ID,))
    with open_run(folder) as run:
        views.create_rows_views(run.connection, interactions.parts(), interactions.columns)
        on_rows = run.check(suites.INTERACTIONS_VIEW, suites.interactions_suite(config, now=now, has_users=has_users), key=ROW_KEY)
        split = _set_aside(run, interactions, on_rows)

        views.create_accepted_view(run.connection, split.accepted.parts(), interactions.columns)
        views.create_summary(run.connection, rows_in=interactions.rows, rows_quarantined=split.rows_quarantined)
        on_table = run.check(suites.SUMMARY_VIEW, suites.summary_suite(config, horizon_days=horizon_days, has_users=has_users))
        findings = [_row_finding(outcome, interactions, split) for outcome in on_rows if not outcome.success]
        findings += [_summary_finding(outcome, interactions, run) for outcome in on_table if not outcome.success]
        in_context = _check_context(run, item_catalogue, config) if split.accepted.rows else []
        findings += [_context_finding(outcome, interactions, run) for outcome in in_context if not outcome.success]
        docs = build_data_docs(run)
    report = ValidationReport(
        accepted=split.accepted,
        quarantined=split.quarantined,
        rows_in=interactions.rows,
        rows_accepted=split.accepted.rows,
        rows_quarantined=split.rows_quarantined,
        quarantined_by_rule=split.by_rule,
        findings=tuple(findings),
        num_expectations=len(on_rows) + len(on_table) + len(in_context),
        data_docs=str(docs),
    )
    raise_if_critical(report)
    return report


def raise_if_critical(report: ValidationReport) -> None:
    """Raise the error of the first critical finding: NotEnoughHistoryError for too few data, DataContractError for wrong data; else nothing."""
    critical = [finding for finding in report.findings if finding.severity == "critical"]
    if not critical:
        return
    first = next((finding for finding in critical if finding.rule not in suites.HISTORY_RULES), critical[0])
    where = f" Data Docs: {report.data_docs}"
    if first.rule in suites.HISTORY_RULES:
        raise NotEnoughHistoryError(first.message + where, step=STEP)
    raise DataContractError(first.message + where, table=first.table, rule=first.rule, num_failed=first.num_failed, example_row=first.example_row, step=STEP)


@dataclass(frozen=True)
class _Split:
    """A table's rows after the row rules: `by_rule` counts each bad row at the first rule it broke."""

    accepted: TableRef
    quarantined: TableRef | None
    by_rule: dict[str, int]

    @property
    def rows_quarantined(self) -> int:
        return self.quarantined.rows if self.quarantined else 0


def _set_aside(run: Run, table: TableRef, outcomes: Sequence[Outcome]) -> _Split:
    failures = [
        run.connection.sql(outcome.rows_query).pl().select(c.SOURCE_FILE, c.SOURCE_ROW, pl.lit(order, pl.Int64).alias("rule_order"), pl.lit(outcome.rule).alias(c.RULE))
        for order, outcome in enumerate(outcomes)
        if outcome.rows_query
    ]
    if not failures:
        return _Split(table, None, {})
    broken = broken_rows(pl.concat(failures))
    accepted, quarantined = split_table(table, broken, accepted=run.folder / table.name, quarantined=run.folder / "quarantine")
    by_rule = broken.group_by(c.RULE).len("rows").sort("rows", c.RULE, descending=[True, False])
    return _Split(accepted, quarantined, dict(by_rule.iter_rows()))


def _check_context(run: Run, item_catalogue: TableRef | None, config: ValidationConfig) -> list[Outcome]:
    """Checks against other days and other tables: volume of days, items without a catalogue entry, shares of categories."""
    views.create_days(run.connection)
    outcomes = run.check(suites.DAYS_VIEW, suites.days_suite(config), key=("date", "num_events", "expected"))
    if item_catalogue is None:
        return outcomes
    views.create_coverage(run.connection, item_catalogue.parts())
    outcomes += run.check(suites.COVERAGE_VIEW, suites.coverage_suite(config), key=(c.ITEM_ID, "num_events"))
    if c.CATEGORY in item_catalogue.columns and views.create_category_shares(run.connection, item_catalogue.parts()):
        outcomes += run.check(suites.CATEGORIES_VIEW, suites.categories_suite(config), key=("category", "share", "share_last_year"))
    return outcomes


def _row_finding(outcome: Outcome, table: TableRef, split: _Split) -> Finding:
    example = None if split.quarantined is None else _example_in_quarantine(split.quarantined, outcome.rule)
    share = outcome.num_failed / table.rows
    found = f"{outcome.num_failed:,} of {table.rows:,} rows ({share:.2%}) break `{outcome.rule}`"
    place = f" Set aside in {split.quarantined.path}." if split.quarantined else ""
    return _finding(outcome, table, f"{found}. Expected: {outcome.description}{place}", example)


def _summary_finding(outcome: Outcome, table: TableRef, run: Run) -> Finding:
    summary = _first_row(run, f"FROM {suites.SUMMARY_VIEW}")
    return _finding(outcome, table, f"expected: {outcome.description} Found {outcome.column} = {summary[outcome.column]}.", summary)


def _context_finding(outcome: Outcome, table: TableRef, run: Run) -> Finding:
    example = _first_row(run, outcome.rows_query) if outcome.rows_query else None
    return _finding(outcome, table, f"{outcome.num_failed:,} rows break `{outcome.rule}`. Expected: {outcome.description}", example)


def _finding(outcome: Outcome, table: TableRef, text: str, example: dict[str, str] | None) -> Finding:
    if outcome.error:
        text = f"`{outcome.rule}` could not be checked: {outcome.error}"
    shown = f" Example: {', '.join(f'{column}={value}' for column, value in example.items())}." if example else ""
    return Finding(
        table=table.name, rule=outcome.rule, severity=outcome.severity, num_failed=outcome.num_failed, message=f"{table.name}: {text}{shown} {outcome.advice}".strip(), example_row=example
    )


def _example_in_quarantine(quarantined: TableRef, rule: str) -> dict[str, str]:
    rows = pl.scan_parquet(quarantined.parts()).filter(pl.col(c.BROKEN_RULES).str.split(", ").list.contains(rule))
    return _as_text(rows.head(1).collect().row(0, named=True))


def _first_row(run: Run, query: str) -> dict[str, str]:
    return _as_text(run.connection.sql(query).limit(1).pl().row(0, named=True))


def _as_text(row: dict[str, Any]) -> dict[str, str]:
    return {column: str(value) for column, value in row.items() if value is not None}
