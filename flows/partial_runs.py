"""Parts of the path that can be run alone. Each reuses what an earlier run stored."""

from prefect import flow

from contracts.artifacts import EvaluationRef, FeatureTables, IngestReport, ValidationReport
from contracts.config import PipelineConfig
from tasks.build_features import build_features
from tasks.evaluate import evaluate_registered
from tasks.ingest import ingest
from tasks.store import Store, store_of
from tasks.validate import validate


@flow(name="validate-only")
def validate_only(config: PipelineConfig) -> ValidationReport:
    """Bring in new events and check them."""
    return _validated(config, store_of(config))[1]


@flow(name="features-only")
def features_only(config: PipelineConfig) -> FeatureTables:
    """Bring in, check, and build the feature tables."""
    return _features(config, store_of(config))[1]


@flow(name="evaluate-version")
def evaluate_version(config: PipelineConfig, version: str) -> EvaluationRef:
    """Evaluate a registered version (number or alias) on the newest windows later than its cut-off."""
    store = store_of(config)
    validated, features = _features(config, store)
    return evaluate_registered(version, validated, features, config.evaluation, config.registry, store, seed=config.seed)


def _validated(config: PipelineConfig, store: Store) -> tuple[IngestReport, ValidationReport]:
    ingested = ingest(config.source, store)
    return ingested, validate(ingested, config.validation, store, horizon_days=config.evaluation.horizon_days)


def _features(config: PipelineConfig, store: Store) -> tuple[ValidationReport, FeatureTables]:
    ingested, validated = _validated(config, store)
    tables = build_features(
        validated, ingested.item_catalogue, config.features, config.forecast, config.fine_tuning, config.evaluation, store, has_users=config.source.has_users
    )
    return validated, tables
