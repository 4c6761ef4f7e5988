"""Every day between two trainings: new and late files since the watermark, a short training that goes on from the champion, measured and published.

A day that was missed is caught up by the next run: the watermark says what was read, not the calendar.
"""

from prefect import flow

from contracts.artifacts import Bundles, EvaluationRef, PromotionOutcome, Reference, RegisteredVersion, Snapshots, TableRef, ValidationReport
from contracts.config import PipelineConfig
from contracts.errors import RegistryStateError
from contracts.sections.evaluation import EvaluationConfig
from flows.first_steps import checked_data
from tasks.build_content import build_content
from tasks.build_season import build_season
from tasks.compress import compress
from tasks.evaluate import evaluate
from tasks.fine_tune import fine_tune
from tasks.gate import gate
from tasks.pretrain import pretrain
from tasks.promote import promote
from tasks.publish import publish
from tasks.refresh import find_champion_to_refresh, newest_window, refresh, register_refreshed
from tasks.store import Store, store_of
from tasks.update_features import FreshTables, update_features
from tasks.warm_start import WarmInputs, short_stages, warm_start


class UpdateOutcome(Reference):
    """What a daily update left behind."""

    fresh: FreshTables
    version: RegisteredVersion | None
    promotion: PromotionOutcome | None
    published: TableRef | None
    evaluation: EvaluationRef | None = None


@flow(name="daily-update", description=__doc__)
def daily_update(config: PipelineConfig) -> UpdateOutcome:
    """Bring the champion up to today. Raises RegistryStateError where nothing was promoted yet."""
    store = store_of(config)
    _, validated = checked_data(config, store)
    outcome = updated_champion(config, validated, store)
    if outcome is None:
        raise RegistryStateError(f"{config.registry.model_name}: no champion to bring up to date. Train, review and promote one first.")
    return outcome


def updated_champion(config: PipelineConfig, validated: ValidationReport, store: Store) -> UpdateOutcome | None:
    """The champion brought up to the end of the checked data, measured, registered, gated; None where nothing was promoted yet."""
    fresh = update_features(validated, config.features, config.fine_tuning, config.evaluation, store)
    champion = find_champion_to_refresh(config.registry, store)
    if champion is None:
        return None
    if champion.bundle.cutoff == fresh.tables.end:
        return UpdateOutcome(fresh=fresh, version=None, promotion=None, published=None)
    window = newest_window(champion, fresh.tables, config.evaluation)
    if champion.weights:
        bundles = trained_on(warm_start(champion, fresh, validated, config, store), validated, window, config, store)
    else:
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
    return UpdateOutcome(fresh=fresh, version=version, promotion=promotion, published=published, evaluation=evaluation)


def trained_on(warm: WarmInputs, validated: ValidationReport, window: EvaluationConfig, config: PipelineConfig, store: Store) -> Bundles:
    """The champion trained on from where it was measured: the encoder on the events since and some older ones, the head on the windows since."""
    pretraining, fine_tuning = short_stages(config)
    season = build_season(warm.features, warm.forecasts, config.features, config.evaluation, store, validation=config.validation)
    features = build_content(warm.features, config.content, store) if config.content.encoder != "none" else warm.features
    snapshots = Snapshots(folder=None, cutoffs=(), digest="none")
    if warm.has_encoder:
        snapshots = pretrain(
            features,
            pretraining,
            config.compute,
            store,
            leads_days=fine_tuning.leads_days,
            horizon_days=config.evaluation.horizon_days,
            seed=config.seed,
            start=warm.start,
            replay=config.warm_start.replay,
        )
    fitted = fine_tune(
        features,
        season,
        snapshots,
        warm.forecasts,
        fine_tuning,
        config.features,
        config.evaluation,
        config.compute,
        store,
        name=config.name,
        seed=config.seed,
        content=config.content,
        start=warm.start,
        replay=config.warm_start.replay,
    )
    return compress(fitted, validated, window, config.registry.gates, config.fine_tuning.target_events, store, compute=config.compute, seed=config.seed)
