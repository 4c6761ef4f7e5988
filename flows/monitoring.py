"""A look at what changed while the champion serves: data against its season, published lists against what users did, ages of everything."""

from datetime import UTC, datetime

from prefect import flow

from contracts.config import PipelineConfig
from tasks.ingest import ingest
from tasks.look_for_drift import MonitoringOutcome, look_for_drift
from tasks.store import store_of
from tasks.validate import validate


@flow(name="monitor", description=__doc__)
def monitor(config: PipelineConfig) -> MonitoringOutcome:
    """Look for drift, drops in quality and stale data; an alarm of the first two emits the event that starts a training."""
    store = store_of(config)
    ingested = ingest(config.source, store)
    validated = validate(
        ingested.interactions,
        ingested.item_catalogue,
        config.validation,
        store,
        horizon_days=config.evaluation.horizon_days,
        has_users=config.source.has_users,
    )
    return look_for_drift(config, validated, store, datetime.now(UTC).date())
