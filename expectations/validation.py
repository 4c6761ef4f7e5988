# ruff: noqa: S608 - table and column names come from contracts, paths are quoted
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
from contracts.errors import DataContractError, FeatureLeakageError, NotEnoughHistoryError
from contracts.sections.validation import ValidationConfig
from contracts.tables import INTERACTIONS
from expectations import interaction_views as views
from expectations.data_docs import build_data_docs
from expectations.engine import Outcome, Run, open_run
from expectations.quarantine import broken_rows, split_table
from expectations.row_views import ROW_KEY, STORED_PART, STORED_ROW, create_rows_view
from expectations.schemas import STEP, check_schema
from expectations.suites import interactions as suites
from expectations.suites import item_catalogue as catalogue_suites
from expectations.suites.feature_tables import LEAKAGE_RULES
from expectations.table_checks import TABLE_CHECKS

MAX_SHOWN: Final = 80  # characters of one value in a message


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
    `interactions` itself. The catalogue is looked at too, but not changed (`validate_table` sets its bad entries aside). The Data Docs are in
    `folder/data_docs`, also when an error about rows is raised.

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
    if item_catalogue is not None:
        check_schema(item_catalogue)
    with open_run(folder) as run:
        create_rows_view(run.connection, interactions.name, interactions.parts(), grain=INTERACTIONS.grain)
        on_rows = run.check(suites.INTERACTIONS_VIEW, suites.interactions_suite(config, now=now, has_users=has_users), key=ROW_KEY)
        split = _set_aside(run, interactions, on_rows)

        views.create_accepted_view(run.connection, split.accepted)
        views.create_summary(run.connection, rows_in=interactions.rows, rows_quarantined=split.rows_quarantined)
        on_table = run.check(suites.SUMMARY_VIEW, suites.summary_suite(config, horizon_days=horizon_days, has_users=has_users))
        in_context = _check_context(run, item_catalogue, config) if split.accepted.rows else []
        findings = [
            *_row_findings(run, interactions, split, on_rows),
            *_summary_findings(run, interactions, split, on_table, suites.SUMMARY_VIEW),
            *_group_findings(run, interactions, in_context),
        ]
        num_expectations = len(on_rows) + len(on_table) + len(in_context)
        if item_catalogue is not None:
            catalogue = _check_table(run, [item_catalogue], config, sets_aside=False)
            findings += catalogue.findings
            num_expectations += catalogue.num_expectations
        docs = build_data_docs(run, title="Checks of the interactions", facts=_facts(interactions, split))
    report = _report(split, interactions, findings, num_expectations=num_expectations, docs=docs)
    raise_if_critical(report)
    return report


def validate_table(table: TableRef, config: ValidationConfig, *, folder: Path) -> ValidationReport:
    """Check one of the other tables; see `validate_tables`."""
    return validate_tables([table], config, folder=folder)[table.name]


def validate_tables(tables: Sequence[TableRef], config: ValidationConfig, *, folder: Path) -> dict[str, ValidationReport]:
    """Check tables chosen by name among `TABLE_CHECKS`, all in one run with one set of Data Docs; table name -> report.

    References of one name (a table per cut-off, say) are parts of one table. Bad rows of the item catalogue are set aside as those of the
    interactions are (`folder/item_catalogue`, `folder/quarantine`). All other tables are the pipeline's own: a bad row is a fault of the step
    that wrote it and stops the flow.

    Raises
    ------
    DataContractError
        A table broke a critical rule.
    FeatureLeakageError
        A feature reads at or after its cut-off.
    ValueError
        No suite is written for a table.
    """
    by_name: dict[str, list[TableRef]] = {}
    for table in tables:
        if table.name not in TABLE_CHECKS:
            raise ValueError(f"no suite for table `{table.name}`; known: {', '.join(TABLE_CHECKS)} here, `interactions` in validate_interactions")
        check_schema(table)
        by_name.setdefault(table.name, []).append(table)
    with open_run(folder) as run:
        checked = {name: _check_table(run, parts, config) for name, parts in by_name.items()}
        docs = build_data_docs(run, title=f"Checks of {', '.join(by_name)}", facts={"rows in": f"{sum(table.rows for table in tables):,}"})
    reports = {name: report.model_copy(update={"data_docs": str(docs)}) for name, report in checked.items()}
    for report in reports.values():
        raise_if_critical(report)
    return reports


def _check_table(run: Run, tables: Sequence[TableRef], config: ValidationConfig, *, sets_aside: bool = True) -> ValidationReport:
    """Run the suites of one table, stored under one or more references."""
    check = TABLE_CHECKS[tables[0].name]
    table = tables[0] if len(tables) == 1 else tables[0].model_copy(update={"rows": sum(part.rows for part in tables)})
    create_rows_view(run.connection, table.name, [part for stored in tables for part in stored.parts()], grain=check.grain, derived=check.derived)
    on_rows = run.check(table.name, check.suite(table.columns), key=ROW_KEY)
    split = _set_aside(run, table, on_rows) if check.sets_aside and sets_aside else _Split(table, None, {})
    findings, num_expectations = _row_findings(run, table, split, on_rows), len(on_rows)
    if table.name == catalogue_suites.ITEM_CATALOGUE_VIEW:
        views.create_catalogue_summary(run.connection, split.accepted, rows_in=table.rows, rows_quarantined=split.rows_quarantined)
        on_table = run.check(catalogue_suites.SUMMARY_VIEW, catalogue_suites.catalogue_summary_suite(config))
        findings += _summary_findings(run, table, split, on_table, catalogue_suites.SUMMARY_VIEW)
        num_expectations += len(on_table)
    for group in check.groups:
        run.connection.execute(f"CREATE TABLE {group.view} AS {group.query}")
        in_groups = run.check(group.view, group.suite(), key=group.key)
        findings += _group_findings(run, table, in_groups)
        num_expectations += len(in_groups)
    return _report(split, table, findings, num_expectations=num_expectations)


def raise_if_critical(report: ValidationReport) -> None:
    """Raise the error a report's first critical finding calls for; nothing where there is none.

    Wrong data come before too few data: bad rows may be why few are left.
    """
    critical = [finding for finding in report.findings if finding.severity == "critical"]
    if not critical:
        return
    first = next((finding for finding in critical if finding.rule not in suites.HISTORY_RULES), critical[0])
    message = f"{first.message} Data Docs: {report.data_docs}"
    if first.rule in suites.HISTORY_RULES:
        raise NotEnoughHistoryError(message, step=STEP)
    if first.rule in LEAKAGE_RULES:
        raise FeatureLeakageError(message, step=STEP)
    raise DataContractError(message, table=first.table, rule=first.rule, num_failed=first.num_failed, example_row=first.example_row, step=STEP)


@dataclass(frozen=True)
class _Split:
    """A table's rows after the row rules: `by_rule` counts each bad row at the first rule it broke, most frequent first."""

    accepted: TableRef
    quarantined: TableRef | None
    by_rule: dict[str, int]

    @property
    def rows_quarantined(self) -> int:
        return self.quarantined.rows if self.quarantined else 0


def _set_aside(run: Run, table: TableRef, outcomes: Sequence[Outcome]) -> _Split:
    failures = [
        run.connection.sql(outcome.rows_query).pl().select(*ROW_KEY, pl.lit(order, pl.Int64).alias("rule_order"), pl.lit(outcome.rule).alias(c.RULE))
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
        outcomes += run.check(suites.CATEGORIES_VIEW, suites.categories_suite(config), key=(c.CATEGORY, "share", "share_last_year"))
    return outcomes


def _row_findings(run: Run, table: TableRef, split: _Split, outcomes: Sequence[Outcome]) -> list[Finding]:
    place = f" Set aside in {split.quarantined.path}." if split.quarantined else ""
    findings = []
    for outcome in outcomes:
        if outcome.success:
            continue
        share = outcome.num_failed / table.rows
        text = f"{outcome.num_failed:,} of {table.rows:,} rows ({share:.2%}) break `{outcome.rule}`. Expected: {outcome.description}{place}"
        findings.append(_finding(outcome, table, text, _stored_row(run, outcome.rows_query) if outcome.rows_query else None))
    return findings


def _summary_findings(run: Run, table: TableRef, split: _Split, outcomes: Sequence[Outcome], view: str) -> list[Finding]:
    failed = [outcome for outcome in outcomes if not outcome.success]
    if not failed:
        return []
    summary = _as_text(run.connection.sql(f"FROM {view}").pl().row(0, named=True))
    rules = ", ".join(f"{rule} {rows:,}" for rule, rows in split.by_rule.items())
    findings = []
    for outcome in failed:
        found = (
            f"{split.rows_quarantined:,} of {table.rows:,} rows by rule: {rules}"
            if outcome.column == "quarantined_share"
            else f"{outcome.column} = {summary.get(outcome.column)}"
        )
        findings.append(_finding(outcome, table, f"expected: {outcome.description} Found {found}.", summary))
    return findings


def _group_findings(run: Run, table: TableRef, outcomes: Sequence[Outcome]) -> list[Finding]:
    findings = []
    for outcome in outcomes:
        if outcome.success:
            continue
        example = _as_text(run.connection.sql(outcome.rows_query).limit(1).pl().row(0, named=True)) if outcome.rows_query else None
        findings.append(_finding(outcome, table, f"{outcome.num_failed:,} times `{outcome.rule}`. Expected: {outcome.description}", example))
    return findings


def _finding(outcome: Outcome, table: TableRef, text: str, example: dict[str, str] | None) -> Finding:
    if outcome.error:
        text = f"`{outcome.rule}` could not be checked: {outcome.error}"
    shown = f" Example: {', '.join(f'{column}={value}' for column, value in example.items())}." if example else ""
    message = f"{table.name}: {text}{shown} {outcome.advice}".strip()
    return Finding(table=table.name, rule=outcome.rule, severity=outcome.severity, num_failed=outcome.num_failed, message=message, example_row=example)


def _stored_row(run: Run, rows_query: str) -> dict[str, str]:
    """The first failing row, as it is stored."""
    place = run.connection.sql(f"SELECT {STORED_PART}, {STORED_ROW} FROM ({rows_query}) ORDER BY ALL LIMIT 1").fetchone()
    if place is None:
        raise AssertionError(f"rows failed, but none is found by {rows_query}")
    return _as_text(pl.scan_parquet(place[0]).slice(place[1], 1).collect().row(0, named=True))


def _as_text(row: dict[str, Any]) -> dict[str, str]:
    return {column: text if len(text := str(value)) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..." for column, value in row.items() if value is not None}


def _facts(table: TableRef, split: _Split) -> dict[str, str]:
    return {"rows in": f"{table.rows:,}", "accepted": f"{split.accepted.rows:,}", "quarantined": f"{split.rows_quarantined:,}"}


def _report(split: _Split, table: TableRef, findings: Sequence[Finding], *, num_expectations: int, docs: Path | None = None) -> ValidationReport:
    return ValidationReport(
        accepted=split.accepted,
        quarantined=split.quarantined,
        rows_in=table.rows,
        rows_accepted=split.accepted.rows,
        rows_quarantined=split.rows_quarantined,
        quarantined_by_rule=split.by_rule,
        findings=tuple(findings),
        num_expectations=num_expectations,
        data_docs=str(docs) if docs else None,
    )
