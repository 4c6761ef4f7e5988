"""Step `register`: every model, data set, metric and figure of a run goes to MLflow, tied to the Prefect run that made them."""

import json
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from contracts import columns as c
from contracts.artifacts import Bundles, EvaluationRef, FeatureTables, ForecastTables, IngestReport, RegisteredVersion, Snapshots, ValidationReport
from contracts.config import PipelineConfig
from evaluation.results import EvaluationResult
from lightning_modules.warm_start import WEIGHTS
from serving.recommender import Recommender
from tasks.evaluate import OURS, read_evaluation
from tasks.model_card import model_card
from tasks.registry import (
    ChildRun,
    connect,
    local_tracking_uri,
    log_child,
    log_data_sets,
    log_encoder,
    log_forecaster,
    log_recommender,
    log_to_run,
    log_training_weights,
    registry_faults,
    start_parent,
)
from tasks.reuse import run_each_time
from tasks.store import CODE_ROOT, Store, read_table, write_text

GOLDEN_USERS = 20


@task(name="register", **run_each_time(minutes=120))
def register(
    config: PipelineConfig,
    store: Store,
    ingested: IngestReport,
    validated: ValidationReport,
    features: FeatureTables,
    forecasts: ForecastTables | None,
    snapshots: Snapshots,
    bundles: Bundles,
    evaluation: EvaluationRef,
) -> RegisteredVersion:
    """One parent run per flow run, a child run per step, models as versions. The version that was measured and the one refitted on all data are linked.

    Run again for the same bundle and evaluation, it returns the version that is there.
    """
    registry = config.registry
    client = connect(registry, store.storage_root)
    result = read_evaluation(evaluation.path)
    commit = git_sha()
    parent = start_parent(
        client,
        registry.experiment,
        name=flow_run.name or config.name,
        tags={
            "prefect.flow_run_id": flow_run.id or "",
            "prefect.flow_run_url": flow_run.ui_url or "",
            "git_sha": commit,
        },
    )
    folder = store.step_folder("register", bundles, evaluation, code=())
    configuration = write_text(config.model_dump_json(indent=1), folder / "config.json")
    headline = {
        f"{name}.{row.list}.lead_{row.lead_days}": row.value
        for row in result.rows
        if row.model == OURS and row.origin == "all" and row.lead_days is not None and (name := row.metric.replace("@", "_at_"))
    }
    log_to_run(
        client, parent, ChildRun("pipeline", params=_flat(config), metrics=headline, tags={"data_digest": validated.accepted.digest}, artifacts=[configuration])
    )
    log_data_sets(client, parent, [table for table in (validated.accepted, features.item_catalogue, features.vocabulary, features.demand) if table])
    for child in _children(config, ingested, validated, features, forecasts, snapshots, bundles, evaluation, result):
        log_child(client, parent, child)

    golden = write_text(json.dumps(golden_requests(Recommender.load(bundles.final.path)), indent=1), folder / "golden_requests.json")
    newest = max(bundles.evaluated)
    tags = {
        "data_digest": validated.accepted.digest,
        "evaluation_digest": evaluation.digest,
        "git_sha": commit,
        "run_id": parent,
        "prefect_flow_run_id": flow_run.id or "",
        "compared_with": evaluation.champion_version or "",
    }
    log_training_weights(client, parent, Path(bundles.fit_folder) / newest / WEIGHTS)
    card = model_card(config, result, validated, features, bundles)
    measured = log_recommender(
        client,
        registry.model_name,
        parent,
        bundles.evaluated[newest],
        kind="measured",
        description=card,
        tags={**tags, "trained_until": newest},
        extra=[golden],
    )
    final = log_recommender(
        client,
        registry.model_name,
        parent,
        bundles.final,
        kind="refitted on all data",
        description=card,
        tags={**tags, "trained_until": features.end, "evaluated_version": measured},
        extra=[golden],
    )
    shared = {key: tags[key] for key in ("data_digest", "git_sha", "run_id", "prefect_flow_run_id")}
    encoder = config.pretraining.encoder
    log_encoder(
        client,
        f"{registry.model_name}-encoder",
        parent,
        bundles.final,
        description=f"{encoder.kind} encoder of {config.name}, width {encoder.width}: a history and a request date -> query vector. "
        f"Trained on {features.training_events.rows:,} events up to {features.end}; part of {registry.model_name} version {final}.",
        tags={**shared, "recommender_version": final},
    )
    if forecasts:
        log_forecaster(
            client,
            f"{registry.model_name}-forecaster",
            parent,
            forecasts,
            description=f"Demand of {config.name} by {config.forecast.frequency}, {config.forecast.horizon_periods} periods from {features.end}: "
            f"mean and quantiles of {', '.join(config.forecast.levels)}, each with the model its back-test chose.",
            tags={**shared, "cutoff": features.end},
        )
    with registry_faults():
        client.set_terminated(parent)
    get_run_logger().info("registered %s version %s (measured as version %s), run %s", registry.model_name, final, measured, parent)
    create_link_artifact(
        registry.tracking_uri or local_tracking_uri(store.storage_root), key="mlflow", link_text=f"MLflow: {registry.model_name} version {final}"
    )
    return RegisteredVersion(
        name=registry.model_name, version=final, run_id=parent, evaluation_digest=evaluation.digest, evaluated_version=measured, golden_requests=str(golden)
    )


def golden_requests(recommender: Recommender, num_users: int = GOLDEN_USERS) -> list[dict[str, object]]:
    """Requests with their answers, recorded when a version is made: users spread over the sorted ids, both lists, two dates."""
    users = recommender.users[:: max(1, len(recommender.users) // num_users)][:num_users]
    asked = []
    for list_name in recommender.lists:
        for days in (0, 182):
            day = recommender.cutoff + timedelta(days=days)
            table = recommender.rank(users, request_date=day, list_name=list_name, k=10)
            for (user,), rows in table.partition_by(c.USER_ID, as_dict=True).items():
                asked.append(
                    {
                        "request": {"date": day.isoformat(), "user_id": user, "k": 10, "list": list_name},
                        "items": rows[c.ITEM_ID].to_list(),
                        "scores": rows[c.SCORE].to_list(),
                    }
                )
    return asked


def _children(
    config: PipelineConfig,
    ingested: IngestReport,
    validated: ValidationReport,
    features: FeatureTables,
    forecasts: ForecastTables | None,
    snapshots: Snapshots,
    bundles: Bundles,
    evaluation: EvaluationRef,
    result: EvaluationResult,
) -> Iterator[ChildRun]:
    docs = [Path(validated.data_docs).parent] if validated.data_docs else []
    counts = {"rows_in": ingested.rows_in, "rows_accepted": validated.rows_accepted, "rows_quarantined": ingested.rows_quarantined + validated.rows_quarantined}
    yield ChildRun(
        "data",
        params={"first_day": features.first_day, "end": features.end, "digest": validated.accepted.digest},
        metrics={**counts, "num_expectations": validated.num_expectations, "num_findings": len(validated.findings), "num_items": features.vocabulary.rows},
        artifacts=docs,
    )
    if forecasts:
        test = read_table(forecasts.back_test).collect()
        newest = test.filter(pl.col(c.CUTOFF) == pl.col(c.CUTOFF).max()) if test.height else test
        yield ChildRun(
            "forecast",
            params=_flat(config.forecast),
            metrics={f"mase.{row[c.LEVEL]}.{row[c.MODEL]}": row["mase"] for row in newest.to_dicts() if row["mase"] is not None},
        )
    if snapshots.folder:
        yield ChildRun(
            "pre-training",
            params=_flat(config.pretraining),
            metrics=dict(snapshots.metrics),
            curves=_losses(Path(snapshots.folder)),
            tags={"job_digest": snapshots.digest},
        )
    yield ChildRun("fine-tuning", params=_flat(config.fine_tuning), metrics=dict(bundles.metrics), curves=_looks(Path(bundles.fit_folder)))
    for name in result.baselines:
        yield ChildRun(f"baseline {name}", params={"baseline": name}, metrics=_figures(result, name))
    yield ChildRun(
        "evaluation",
        params=_flat(config.evaluation),
        metrics=_figures(result, OURS),
        tags={"evaluation_digest": evaluation.digest},
        artifacts=[Path(evaluation.path)],
    )


def _figures(result: EvaluationResult, model: str) -> dict[str, float]:
    rows = [row for row in result.rows if row.model == model and row.value == row.value]
    return {
        f"{row.metric.replace('@', '_at_')}.{row.list}.{'all_leads' if row.lead_days is None else f'lead_{row.lead_days}'}.{row.origin}": row.value
        for row in rows
    }


def _losses(folder: Path) -> dict[str, list[float]]:
    """Losses of the pre-training in `folder`, period by period of its walk through time: one curve per kind."""
    path = folder / "losses.parquet"
    if not path.exists():
        return {}
    return {f"{kind}_loss": rows["loss"].to_list() for (kind,), rows in pl.read_parquet(path).partition_by("kind", as_dict=True).items()}


def _looks(folder: Path) -> dict[str, list[float]]:
    """Figures of held-out users while the heads in `folder` trained, look by look: one curve per head and figure."""
    tables = {path: pl.read_parquet(path) for path in sorted(folder.glob("*/seed_*/looks.parquet"))}
    return {f"{name}.{path.parts[-3]}.{path.parts[-2]}": table[name].to_list() for path, table in tables.items() for name in table.columns}


def _flat(section: object, prefix: str = "") -> dict[str, str]:
    """A section as `a.b.c` -> text, for parameters of a run."""
    values = section.model_dump(mode="json") if hasattr(section, "model_dump") else section
    if not isinstance(values, dict):
        return {prefix: str(values)}
    return {key: text for name, value in values.items() for key, text in _flat(value, f"{prefix}.{name}" if prefix else str(name)).items()}


def git_sha() -> str:
    """Commit of the code, `unknown` outside a checkout."""
    found = subprocess.run(["git", "rev-parse", "--verify", "HEAD"], cwd=CODE_ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
