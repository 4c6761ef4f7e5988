"""Every day between two trainings: new and late files since the watermark, today's tables under the champion's networks, measured and published.

A day that was missed is caught up by the next run: the watermark says what was read, not the calendar.
"""

from prefect import flow

from contracts.artifacts import PromotionOutcome, Reference, RegisteredVersion, TableRef
from contracts.config import PipelineConfig
from contracts.errors import RegistryStateError
from flows.first_steps import checked_data
from tasks.evaluate import evaluate
from tasks.gate import gate
from tasks.promote import promote
from tasks.publish import publish
from tasks.refresh import find_champion_to_refresh, newest_window, refresh, register_refreshed
from tasks.store import store_of
from tasks.update_features import FreshTables, update_features


class UpdateOutcome(Reference):
    """What a daily update left behind."""

    fresh: FreshTables
    version: RegisteredVersion | None
    promotion: PromotionOutcome | None
    published: TableRef | None


@flow(name="daily-update", description=__doc__)
def daily_update(config: PipelineConfig) -> UpdateOutcome:
    """Bring the champion up to today. Raises RegistryStateError where nothing was promoted yet."""
    store = store_of(config)
    _, validated = checked_data(config, store)
    fresh = update_features(validated, config.features, config.fine_tuning, config.evaluation, store)
    champion = find_champion_to_refresh(config.registry, store)
    if champion is None:
        raise RegistryStateError(f"{config.registry.model_name}: no champion to bring up to date. Train, review and promote one first.")
    if champion.bundle.cutoff == fresh.tables.end:
        return UpdateOutcome(fresh=fresh, version=None, promotion=None, published=None)
    window = newest_window(champion, fresh.tables, config.evaluation)
    bundles = refresh(champion, fresh.tables, store)
    evaluation = evaluate(
        bundles,
        champion,
        validated,
        fresh.tables,
        window,
        config.features,
        config.fine_tuning.target_events,
        store,
        validation=config.validation,
        name=config.name,
        seed=config.seed,
    )
    version = register_refreshed(config, champion, validated, fresh.tables, bundles, evaluation, store)
    challenger = gate(version, bundles, evaluation, fresh.tables, None, config.forecast, config.registry, store)
    promotion = promote(version, challenger, evaluation, config.registry, store)
    published = publish(promotion.champion_version, config.registry, config.publish, config.evaluation, config.validation, fresh.tables, store)
    return UpdateOutcome(fresh=fresh, version=version, promotion=promotion, published=published)
