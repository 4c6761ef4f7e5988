"""Step `validate`: the contract of every table; bad rows set aside, a critical failure stops the flow."""

from datetime import UTC, datetime
from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.logging import get_run_logger

from contracts.artifacts import TableRef, ValidationReport
from contracts.sections.validation import ValidationConfig
from expectations.validation import validate_interactions, validate_table
from tasks.reuse import reusable
from tasks.store import Store

CODE = ("expectations",)


@task(name="validate", **reusable(*CODE, minutes=120))
def validate(
    interactions: TableRef, item_catalogue: TableRef | None, validation: ValidationConfig, store: Store, *, horizon_days: int, has_users: bool
) -> ValidationReport:
    """Run the Great Expectations suites on the stored events and catalogue, set bad rows of both aside, and build their Data Docs."""
    folder = store.step_folder("validate", interactions, item_catalogue, validation, str(horizon_days), str(has_users), code=CODE)
    report = validate_interactions(
        interactions, item_catalogue, validation, folder=folder, now=datetime.now(UTC), horizon_days=horizon_days, has_users=has_users
    )
    if item_catalogue is not None:
        entries = validate_table(item_catalogue, validation, folder=folder / "item_catalogue")
        report = report.model_copy(update={"item_catalogue": entries.accepted})
    get_run_logger().info(
        "%s rows in, %s accepted, %s quarantined, %s findings: %s",
        f"{report.rows_in:,}",
        f"{report.rows_accepted:,}",
        f"{report.rows_quarantined:,}",
        len(report.findings),
        report.data_docs,
    )
    create_table_artifact(
        [{"table": f.table, "rule": f.rule, "severity": f.severity, "rows": f.num_failed, "message": f.message} for f in report.findings]
        or [{"table": "interactions", "rule": "all", "severity": "none", "rows": 0, "message": f"{report.num_expectations} expectations hold"}],
        key="validation-findings",
        description=f"{report.rows_accepted:,} of {report.rows_in:,} rows accepted",
    )
    if report.data_docs:
        create_link_artifact(Path(report.data_docs).resolve().as_uri(), key="data-docs", link_text="Data Docs")
    return report
