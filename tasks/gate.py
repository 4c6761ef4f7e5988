"""Step `gate`: quality and servability; a version that passes both becomes `challenger`."""

import getpass
import json
import os
import time
from datetime import date
from pathlib import Path

import mlflow
import numpy as np
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from contracts.artifacts import Bundles, EvaluationRef, FeatureTables, ForecastTables, GateResult, PromotionOutcome, RegisteredVersion
from contracts.sections.evaluation import RegistryConfig
from contracts.sections.forecast import ForecastConfig
from evaluation.gates import ForecastFigures, ServabilityFigures, quality_gate, servability_gate
from forecasting.against_last_year import error_against_last_year
from tasks.audit import record_decision
from tasks.evaluate import OURS, read_evaluation
from tasks.registry import CHALLENGER, connect, registry_faults, set_version_tags
from tasks.reuse import run_each_time
from tasks.review_tags import REQUIRED, REVIEW_OF, SECOND_PERSON, TRAINED_BY, review_subject
from tasks.store import Store, audit_address, read_table

NUM_TIMED_REQUESTS = 40
SCORE_TOLERANCE = 1e-4


@task(name="gate", **run_each_time(minutes=60))
def gate(
    version: RegisteredVersion,
    bundles: Bundles,
    evaluation: EvaluationRef,
    features: FeatureTables,
    forecasts: ForecastTables | None,
    forecast: ForecastConfig,
    registry: RegistryConfig,
    store: Store,
) -> PromotionOutcome:
    """Compare with the champion (or the best baseline), try the stored version as the service will, and set the alias if both hold."""
    client = connect(registry, store.storage_root)
    result = read_evaluation(evaluation.against_champion or evaluation.path)
    quality = quality_gate(
        result,
        registry.gates,
        trained_until={OURS: date.fromisoformat(min(bundles.evaluated))},
        forecast=_forecast_figures(features, forecasts, forecast) if forecasts else None,
    )
    servability = servability_gate(_try_stored_version(version, bundles), registry.gates)
    passed = quality.passed and servability.passed
    if passed:
        with registry_faults():
            client.set_registered_model_alias(version.name, CHALLENGER, version.version)
    shut = tuple(f"{result.name}: {reason}" for result in (quality, servability) for reason in result.failures)
    reasons = shut or tuple(f"{result.name}: {reason}" for result in (quality, servability) for reason in result.reasons)
    judged = review_subject(version.name, version.version, evaluation.digest)
    set_version_tags(
        client, version.name, version.version, {"gate_quality": _word(quality), "gate_servability": _word(servability), REVIEW_OF: judged, **_persons(registry)}
    )
    record_decision(
        audit_address(store),
        model=version.name,
        version=version.version,
        decision="challenger" if passed else "refused",
        by="gates",
        reasons=reasons,
        figures={**quality.figures, **servability.figures, "evaluation_digest": evaluation.digest},
        previous_champion=evaluation.champion_version,
    )
    create_markdown_artifact(
        "\n".join(f"* {reason}" for reason in reasons), key="gates", description=f"quality: {_word(quality)}, servability: {_word(servability)}"
    )
    get_run_logger().info("gates of version %s: quality %s, servability %s", version.version, _word(quality), _word(servability))
    return PromotionOutcome(challenger=passed, promoted=False, reasons=reasons, gates=(quality, servability), champion_version=evaluation.champion_version)


def _forecast_figures(features: FeatureTables, forecasts: ForecastTables, config: ForecastConfig) -> ForecastFigures | None:
    """Error of the forecasts at the evaluated cut-offs, of which the actuals are known, beside last year's values on the same periods."""
    error = error_against_last_year(
        read_table(forecasts.forecasts).collect(), read_table(features.demand), cutoffs=[date.fromisoformat(day) for day in features.origins], config=config
    )
    return ForecastFigures(challenger=error.chosen, opponent=error.last_year, by_level=error.by_level) if error else None


def _persons(registry: RegistryConfig) -> dict[str, str]:
    """Whose run this is (PERENNIAL_USER, else the account it runs under), and whether somebody else must approve."""
    trainer = {TRAINED_BY: os.environ.get("PERENNIAL_USER") or getpass.getuser()}
    return {**trainer, SECOND_PERSON: REQUIRED} if registry.second_person else trainer


def _word(result: GateResult) -> str:
    return "passed" if result.passed else "failed"


def _try_stored_version(version: RegisteredVersion, bundles: Bundles) -> ServabilityFigures:
    """Load the registered version with pickle off, repeat the golden requests, and time single ones."""
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
    golden = json.loads(Path(version.golden_requests).read_text(encoding="utf-8"))
    answers = model.predict([record["request"] for record in golden])
    equal = sum(_same(answer, record) for answer, record in zip(answers, golden, strict=True))
    times = []
    for record in golden[:NUM_TIMED_REQUESTS]:
        started = time.perf_counter()
        model.predict([record["request"]])
        times.append((time.perf_counter() - started) * 1000)
    size = sum(path.stat().st_size for path in Path(bundles.final.path).rglob("*") if path.is_file()) / 1e6
    return ServabilityFigures(
        loads_without_pickle=True, num_golden_requests=len(golden), num_golden_equal=equal, latency_p95_ms=float(np.quantile(times, 0.95)), size_mb=size
    )


def _same(answer: object, record: dict[str, list[float]]) -> bool:
    items = answer.items if not isinstance(answer, dict) else answer["items"]
    got = [(row["item_id"], row["score"]) if isinstance(row, dict) else (row.item_id, row.score) for row in items]
    return [item for item, _ in got] == record["items"] and bool(np.allclose([score for _, score in got], record["scores"], atol=SCORE_TOLERANCE))
