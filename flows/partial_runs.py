"""Parts of the path that can be run alone. Each reuses what an earlier run stored."""

from prefect import flow

from contracts.artifacts import EvaluationRef, FeatureTables, IngestReport, ValidationReport
from contracts.config import PipelineConfig
from tasks.build_features import build_features
from tasks.build_season import build_season
from tasks.evaluate import evaluate, evaluate_registered
from tasks.fine_tune import fine_tune
from tasks.forecast_demand import forecast_demand
from tasks.ingest import ingest
from tasks.negative_control import keep_negative_control, without_seasons
from tasks.pretrain import pretrain
from tasks.store import Store, store_of
from tasks.validate import validate


@flow(name="validate-only")
def validate_only(config: PipelineConfig) -> tuple[IngestReport, ValidationReport]:
    """Bring in new events and check them; both set rows aside."""
    return _validated(config, store_of(config))


@flow(name="features-only")
def features_only(config: PipelineConfig) -> FeatureTables:
    """Bring in, check, and build the feature tables."""
    return _features(config, store_of(config))[1]


@flow(name="evaluate-version")
def evaluate_version(config: PipelineConfig, version: str) -> EvaluationRef:
    """Evaluate a registered version (number or alias) on the newest windows later than its cut-off."""
    store = store_of(config)
    validated, features = _features(config, store)
    targets = config.fine_tuning.target_events
    return evaluate_registered(
        version,
        validated,
        features,
        config.evaluation,
        config.features,
        config.registry,
        targets,
        store,
        validation=config.validation,
        name=config.name,
        seed=config.seed,
    )


def _validated(config: PipelineConfig, store: Store) -> tuple[IngestReport, ValidationReport]:
    ingested = ingest(config.source, store)
    return ingested, validate(
        ingested.interactions,
        ingested.item_catalogue,
        config.validation,
        store,
        horizon_days=config.evaluation.horizon_days,
        has_users=config.source.has_users,
    )


def _features(config: PipelineConfig, store: Store) -> tuple[ValidationReport, FeatureTables]:
    _, validated = _validated(config, store)
    return validated, _tables(config, validated, store)


def _tables(config: PipelineConfig, validated: ValidationReport, store: Store) -> FeatureTables:
    return build_features(
        validated,
        config.features,
        config.forecast,
        config.fine_tuning,
        config.evaluation,
        store,
        has_users=config.source.has_users,
        validation=config.validation,
    )


@flow(name="train-and-measure")
def train_and_measure(config: PipelineConfig) -> EvaluationRef:
    """The path up to the evaluation, without registry: for benchmarks and experiments."""
    store = store_of(config)
    return _measured(config, _validated(config, store)[1], store)


@flow(name="negative-control")
def negative_control(config: PipelineConfig) -> EvaluationRef:
    """Train and measure on the same behaviour with its seasons destroyed: a season found there would be leakage. The next report shows it."""
    store = store_of(config)
    apart = Store(root=f"{store.root}/negative_control")
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"season_lift": True})})
    control = without_seasons(_validated(config, store)[1], apart, seed=config.seed)
    evaluation = _measured(config, control, apart)
    keep_negative_control(evaluation, store)
    return evaluation


def _measured(config: PipelineConfig, validated: ValidationReport, store: Store) -> EvaluationRef:
    features = _tables(config, validated, store)
    forecasts = (
        forecast_demand(features, config.forecast, store, compute=config.compute, validation=config.validation, seed=config.seed)
        if config.forecast.enabled
        else None
    )
    season = build_season(features, forecasts, config.features, config.evaluation, store, validation=config.validation)
    snapshots = pretrain(features, config.pretraining, config.fine_tuning, config.compute, store, horizon_days=config.evaluation.horizon_days, seed=config.seed)
    bundles = fine_tune(
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
    )
    targets = config.fine_tuning.target_events
    return evaluate(
        bundles,
        None,
        validated,
        features,
        config.evaluation,
        config.features,
        targets,
        store,
        validation=config.validation,
        name=config.name,
        seed=config.seed,
    )
