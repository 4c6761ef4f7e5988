"""A look at what changed while the champion serves: data against its season, published lists against what users did, ages of everything."""

from datetime import UTC, datetime

from prefect import flow

from contracts.config import PipelineConfig
from flows.first_steps import checked_data
from tasks.look_for_drift import MonitoringOutcome, look_for_drift
from tasks.store import store_of


@flow(name="monitor", description=__doc__)
def monitor(config: PipelineConfig) -> MonitoringOutcome:
    """Look for drift, drops in quality and stale data; an alarm of the first two emits the event that starts a training."""
    store = store_of(config)
    _, validated = checked_data(config, store)
    return look_for_drift(config, validated, store, datetime.now(UTC).date())
