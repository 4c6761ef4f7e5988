"""Rankings for the coming dates with the champion that serves now, on what the log holds today."""

from prefect import flow

from contracts.artifacts import TableRef
from contracts.config import PipelineConfig
from flows.first_steps import checked_data
from tasks.publish import publish
from tasks.roll_back import find_serving
from tasks.store import store_of
from tasks.update_features import update_features


@flow(name="publish-rankings", description=__doc__)
def publish_rankings(config: PipelineConfig) -> TableRef | None:
    """Rank for every user and write the table; unchanged champion and log: the table that is there."""
    store = store_of(config)
    _, validated = checked_data(config, store)
    fresh = update_features(validated, config.features, config.fine_tuning, config.evaluation, store)
    champion = find_serving(config.registry, store)
    return publish(champion, config.registry, config.publish, config.evaluation, config.validation, fresh.tables, store)
