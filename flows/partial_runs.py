"""Parts of the path that can be run alone. Each reuses what an earlier run stored."""

from prefect import flow

from contracts.artifacts import Bundles, EvaluationRef, FeatureTables, IngestReport, ValidationReport
from contracts.config import PipelineConfig
from evaluation.results import EvaluationResult
from flows.first_steps import checked_data, feature_tables, fine_tuning_inputs
from tasks.compress import compress
from tasks.evaluate import average_over_seeds, evaluate, evaluate_registered
from tasks.fine_tune import fine_tune
from tasks.negative_control import keep_negative_control, without_seasons
from tasks.store import Store, store_of


@flow(name="validate-only")
def validate_only(config: PipelineConfig) -> tuple[IngestReport, ValidationReport]:
    """Bring in new events and check them; both set rows aside."""
    return checked_data(config, store_of(config))


@flow(name="features-only")
def features_only(config: PipelineConfig) -> FeatureTables:
    """Bring in, check, and build the feature tables."""
    store = store_of(config)
    return feature_tables(config, checked_data(config, store)[1], store)


@flow(name="evaluate-version")
def evaluate_version(config: PipelineConfig, version: str) -> EvaluationRef:
    """Evaluate a registered version (number or alias) on the newest windows later than its cut-off."""
    store = store_of(config)
    _, validated = checked_data(config, store)
    features = feature_tables(config, validated, store)
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


@flow(name="train-only")
def train_only(config: PipelineConfig) -> Bundles:
    """The path up to the fitted model, without evaluation and registry."""
    store = store_of(config)
    return _fitted(config, checked_data(config, store)[1], store)[0]


@flow(name="train-and-measure")
def train_and_measure(config: PipelineConfig, head_seed: int | None = None) -> EvaluationRef:
    """The path up to the evaluation, without registry: for benchmarks and experiments. `head_seed`: another seed for the head than for what comes before it."""
    store = store_of(config)
    return _measured(config, checked_data(config, store)[1], store, head_seed)


@flow(name="average-over-seeds")
def averaged_over_seeds(config: PipelineConfig, evaluations: list[EvaluationRef]) -> EvaluationResult:
    """Several seeds of `train-and-measure` as one result: for benchmarks."""
    _, validated = checked_data(config, store_of(config))
    return average_over_seeds(evaluations, validated, config.evaluation, config.fine_tuning.target_events, name=config.name, seed=config.seed)


@flow(name="negative-control")
def negative_control(config: PipelineConfig) -> EvaluationRef:
    """Train and measure on the same behaviour with its seasons destroyed: a season found there would be leakage. The next report shows it."""
    store = store_of(config)
    apart = Store(root=f"{store.root}/negative_control")
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"season_lift": True})})
    control = without_seasons(checked_data(config, store)[1], apart, seed=config.seed)
    evaluation = _measured(config, control, apart)
    keep_negative_control(evaluation, store)
    return evaluation


@flow(name="train-and-compress")
def train_and_compress(config: PipelineConfig) -> tuple[Bundles, Bundles, ValidationReport]:
    """The path up to the smaller forms: the fitted model, the form that would go on (with the figures of all), and the data they were measured on."""
    store = store_of(config)
    _, validated = checked_data(config, store)
    fitted, _ = _fitted(config, validated, store)
    targets = config.fine_tuning.target_events
    chosen = compress(fitted, validated, config.evaluation, config.registry.gates, targets, store, compute=config.compute, seed=config.seed)
    return fitted, chosen, validated


def _fitted(config: PipelineConfig, validated: ValidationReport, store: Store, head_seed: int | None = None) -> tuple[Bundles, FeatureTables]:
    features, forecasts, season, snapshots = fine_tuning_inputs(config, validated, store)
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
        seed=config.seed if head_seed is None else head_seed,
        content=config.content,
    )
    return bundles, features


def _measured(config: PipelineConfig, validated: ValidationReport, store: Store, head_seed: int | None = None) -> EvaluationRef:
    bundles, features = _fitted(config, validated, store, head_seed)
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
