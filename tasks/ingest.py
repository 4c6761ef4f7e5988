"""Step `ingest`: raw events become monthly Parquet parts; nothing is lost, nothing is stored twice."""

import os
from datetime import UTC, datetime

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from contracts.artifacts import IngestReport
from contracts.sections.source import SourceConfig
from sources.ingest import ingest as ingest_events
from tasks.progress import progress_of
from tasks.reuse import run_each_time
from tasks.store import Store


@task(name="ingest", **run_each_time(minutes=240))
def ingest(source: SourceConfig, store: Store) -> IngestReport:
    """Bring new events into the store. Runs each time: files already seen are known by their content and change nothing."""
    with progress_of("ingest") as report_progress:
        report = ingest_events(
            source, store.ingest_folder(), environment=os.environ, now=datetime.now(UTC), progress=lambda text, done: report_progress(done, text)
        )
    get_run_logger().info(
        "%s rows in, %s stored, %s quarantined: %s",
        f"{report.rows_in:,}",
        f"{report.rows_accepted:,}",
        f"{report.rows_quarantined:,}",
        report.interactions.path,
    )
    create_table_artifact(
        [
            {"rows": "in", "count": report.rows_in},
            {"rows": "accepted", "count": report.rows_accepted},
            {"rows": "known from before", "count": report.rows_known},
            {"rows": "deleted on request", "count": report.rows_deleted},
            *({"rows": f"quarantined: {rule}", "count": count} for rule, count in report.quarantined_by_rule.items()),
        ],
        key="ingest-rows",
        description=f"Events up to {report.watermark}",
    )
    return report
