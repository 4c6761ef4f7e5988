"""How a flow begins: bring in what is new, check it and, where it needs them, make the feature tables.

`seasonal_training` says the same steps itself, since its calls are the diagram of the README.
"""

from typing import NamedTuple

from contracts.artifacts import FeatureTables, ForecastTables, IngestReport, SeasonTables, Snapshots, ValidationReport
from contracts.config import PipelineConfig
from tasks.build_content import build_content
from tasks.build_features import build_features
from tasks.build_season import build_season
from tasks.forecast_demand import forecast_demand
from tasks.ingest import ingest
from tasks.pretrain import pretrain
from tasks.store import Store
from tasks.validate import validate


def checked_data(config: PipelineConfig, store: Store) -> tuple[IngestReport, ValidationReport]:
    """The events and the catalogue of a pipeline, brought up to date and checked. Raises DataQualityError where a critical rule is broken."""
    ingested = ingest(config.source, store)
    validated = validate(
        ingested.interactions,
        ingested.item_catalogue,
        config.validation,
        store,
        horizon_days=config.evaluation.horizon_days,
        has_users=config.source.has_users,
    )
    return ingested, validated


def feature_tables(config: PipelineConfig, validated: ValidationReport, store: Store) -> FeatureTables:
    """Every table of features that the configuration asks for."""
    return build_features(
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


class FineTuningInputs(NamedTuple):
    """What the head is fitted on."""

    features: FeatureTables
    forecasts: ForecastTables | None
    season: SeasonTables
    snapshots: Snapshots


def fine_tuning_inputs(config: PipelineConfig, validated: ValidationReport, store: Store) -> FineTuningInputs:
    """Features, forecasts, season and snapshots of the encoder: the path up to fine-tuning."""
    features = feature_tables(config, validated, store)
    forecasts = (
        forecast_demand(features, config.forecast, store, compute=config.compute, validation=config.validation, seed=config.seed)
        if config.forecast.enabled
        else None
    )
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
    return FineTuningInputs(features, forecasts, season, snapshots)
