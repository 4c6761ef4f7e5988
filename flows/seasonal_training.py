"""From raw events to a reviewed model: the path of the README's diagram, one call a step."""

from contextlib import nullcontext

from prefect import flow
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from contracts.artifacts import FeatureTables, ForecastTables, IngestReport, TrainingOutcome, ValidationReport
from contracts.config import PipelineConfig
from flows.daily_update import UpdateOutcome, updated_champion
from tasks.build_content import build_content
from tasks.build_features import build_features
from tasks.build_season import build_season
from tasks.compress import compress
from tasks.evaluate import evaluate, find_champion
from tasks.fine_tune import fine_tune
from tasks.forecast_demand import forecast_demand
from tasks.gate import gate
from tasks.ingest import ingest
from tasks.pretrain import pretrain
from tasks.promote import promote
from tasks.publish import publish
from tasks.register import register
from tasks.register_forecasts import register_forecasts
from tasks.store import Store, store_of
from tasks.validate import validate
from tasks.write_report import write_forecast_report, write_report


@flow(name="seasonal-training", description=__doc__)
def seasonal_training(config: PipelineConfig, fresh: bool = False) -> TrainingOutcome:
    """Train, measure, register and (if its gates and the reviewer say so) promote a season-aware recommender.

    Parameters
    ----------
    config
        Everything the run needs: data, features, models, measures, promotion.
    fresh
        Do every step again, also those whose input, configuration and code did not change.
    """
    store = store_of(config)
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}) if fresh else nullcontext():
        ingested = ingest(config.source, store)
        validated = validate(
            ingested.interactions,
            ingested.item_catalogue,
            config.validation,
            store,
            horizon_days=config.evaluation.horizon_days,
            has_users=config.source.has_users,
        )
        if config.warm_start.enabled and (updated := updated_champion(config, validated, store)):
            return _from_the_champion(updated)
        features = build_features(
            validated,
            config.features,
            config.forecast,
            config.evaluation,
            store,
            target_events=config.fine_tuning.target_events,
            leads_days=config.fine_tuning.leads_days,
            has_users=config.source.has_users,
            validation=config.validation,
        )
        forecasts = (
            forecast_demand(features, config.forecast, store, compute=config.compute, validation=config.validation, seed=config.seed)
            if config.forecast.enabled
            else None
        )
        if not config.source.has_users:
            return _forecasts_alone(config, store, ingested, validated, features, forecasts)
        season = build_season(features, forecasts, config.features, config.evaluation, store, validation=config.validation)
        if config.content.encoder != "none":
            features = build_content(features, config.content, store)
        snapshots = pretrain(
            features,
            config.pretraining,
            config.compute,
            store,
            leads_days=config.fine_tuning.leads_days,
            horizon_days=config.evaluation.horizon_days,
            seed=config.seed,
        )
        fitted = fine_tune(
            features,
            season,
            snapshots,
            forecasts,
            config.fine_tuning,
            config.features,
            config.evaluation,
            config.compute,
            store,
            name=config.name,
            seed=config.seed,
            content=config.content,
        )
        bundles = compress(
            fitted, validated, config.evaluation, config.registry.gates, config.fine_tuning.target_events, store, compute=config.compute, seed=config.seed
        )
        champion = find_champion(bundles, config.registry, store)
        evaluation = evaluate(
            bundles,
            champion,
            validated,
            features,
            config.evaluation,
            config.features,
            config.fine_tuning.target_events,
            store,
            validation=config.validation,
            name=config.name,
            seed=config.seed,
        )
        version = register(config, store, ingested, validated, features, forecasts, snapshots, bundles, evaluation)
        challenger = gate(version, bundles, evaluation, features, forecasts, config.forecast, config.registry, store)
        promotion = promote(version, challenger, evaluation, config.registry, store)
        published = publish(promotion.champion_version, config.registry, config.publish, config.evaluation, config.validation, features, store)
        report = write_report(config, store, ingested, validated, features, forecasts, bundles, evaluation, version, promotion)
    return TrainingOutcome(version=version, promotion=promotion, evaluation=evaluation, published=published, report=report, forecasts=forecasts)


def _from_the_champion(updated: UpdateOutcome) -> TrainingOutcome:
    """The end of the path where a training goes on from the champion (`warm_start.enabled`): forecasts and report are those of the last whole training."""
    return TrainingOutcome(
        version=updated.version, promotion=updated.promotion, evaluation=updated.evaluation, published=updated.published, report=None, forecasts=None
    )


def _forecasts_alone(
    config: PipelineConfig, store: Store, ingested: IngestReport, validated: ValidationReport, features: FeatureTables, forecasts: ForecastTables | None
) -> TrainingOutcome:
    """The end of the path for data without users: forecasts are registered and reported, no recommender is trained."""
    report = None
    if forecasts:
        forecaster = register_forecasts(config, validated, features, forecasts)
        report = write_forecast_report(config, store, ingested, validated, features, forecasts, forecaster)
    return TrainingOutcome(version=None, promotion=None, evaluation=None, published=None, report=report, forecasts=forecasts)
