"""Bringing the champion up to date: which version that is, its networks over today's tables where nothing more is known of its training, registration.

A version whose run kept its weights is trained on (warm_start.py); one that has none gets the tables of today (step `refresh`): items it was not trained
on wait for the next training, everything users did since, habits, sales by week and new users count at once.
"""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
from prefect import task
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from contracts.artifacts import BundleRef, Bundles, ChampionRef, EvaluationRef, FeatureTables, RegisteredVersion, ValidationReport
from contracts.config import PipelineConfig
from contracts.errors import NotEnoughHistoryError
from contracts.sections.evaluation import EvaluationConfig, RegistryConfig
from lightning_modules.warm_start import WEIGHTS
from serving.bundle import FORECASTS, ITEM_CATALOGUE, NETWORKS, VOCABULARY, bundle_ref, read_bundle, write_bundle
from serving.recommender import Recommender
from tasks.evaluate import OURS, read_evaluation
from tasks.register import git_sha, golden_requests
from tasks.registry import (
    CHAMPION,
    ChildRun,
    bundle_of_version,
    connect,
    log_data_sets,
    log_recommender,
    log_to_run,
    log_training_weights,
    registry_faults,
    start_parent,
    training_weights,
    version_at,
)
from tasks.reuse import run_each_time
from tasks.store import Store, read_table, write_text

REFRESHED, WARM_STARTED = "refreshed", "warm_started"


@task(name="find_champion", **run_each_time(minutes=30))
def find_champion_to_refresh(registry: RegistryConfig, store: Store) -> ChampionRef | None:
    """The version that serves now and the one it was measured by; None where there is none yet."""
    client = connect(registry, store.storage_root)
    serving = version_at(client, registry.model_name, CHAMPION)
    if serving is None:
        return None
    numbers = (str(serving.version), serving.tags.get("evaluated_version", str(serving.version)))
    bundle, measured = (bundle_ref(read_bundle(bundle_of_version(registry, store.storage_root, number))) for number in numbers)
    weights = training_weights(client, registry.model_name, numbers[1], Path(store.root) / "warm_starts" / measured.digest)
    return ChampionRef(version=numbers[0], bundle=bundle, measured=measured, weights=str(weights) if weights else None)


def newest_window(champion: ChampionRef, tables: FeatureTables, config: EvaluationConfig) -> EvaluationConfig:
    """The evaluation at the newest origin: no lead's window leaves the data, and the networks measured there have not seen it.

    Raises NotEnoughHistoryError where no whole window lies after what they have seen.
    """
    origin = date.fromisoformat(tables.origins[-1]) if tables.origins else date.min
    seen = date.fromisoformat(champion.measured.cutoff)
    if origin < seen:
        raise NotEnoughHistoryError(
            f"daily update: the newest whole window begins on {origin}, before {seen}, up to which the champion's measured networks have seen the data. "
            "Wait for newer events, or train."
        )
    return config.model_copy(update={"origins": (origin,), "tune_until": None})


@task(name="refresh", **run_each_time(minutes=60))
def refresh(champion: ChampionRef, tables: FeatureTables, store: Store) -> Bundles:
    """Two bundles: for today, and for the newest window with the networks that have not seen it."""
    folder = store.step_folder("refresh", champion, tables, code=("serving",))
    origin = tables.origins[-1]
    bundles = Bundles(
        evaluated={origin: _with_tables(champion.measured, tables, date.fromisoformat(origin), folder)},
        final=_with_tables(champion.bundle, tables, date.fromisoformat(tables.end), folder),
    )
    get_run_logger().info("networks of version %s over tables of %s and %s", champion.version, origin, tables.end)
    return bundles


def _with_tables(source: BundleRef, tables: FeatureTables, cutoff: date, folder: Path) -> BundleRef:
    bundle, day = read_bundle(source.path), cutoff.isoformat()
    vocabulary = bundle.table(VOCABULARY)
    known = vocabulary.lazy().select("item_id")

    def of_known_items(table: pl.LazyFrame) -> pl.DataFrame:
        return table.join(known, on="item_id", how="semi", maintain_order="left").collect()

    return write_bundle(
        folder / "bundles" / day,
        networks=bundle.folder / NETWORKS,
        vocabulary=vocabulary,
        item_catalogue=of_known_items(read_table(tables.item_catalogue)) if tables.item_catalogue else bundle.table(ITEM_CATALOGUE),
        histories=read_table(tables.histories[day]).collect(),
        habits=of_known_items(read_table(tables.habits[day])),
        item_weeks=of_known_items(read_table(tables.item_weeks[day])),
        forecasts=bundle.table(FORECASTS) if bundle.has_table(FORECASTS) else None,
        metadata=bundle.metadata.model_copy(update={"cutoff": cutoff, "created": datetime.now(UTC).isoformat(timespec="seconds")}),
    )


@task(name="register", **run_each_time(minutes=60))
def register_refreshed(
    config: PipelineConfig, champion: ChampionRef, validated: ValidationReport, tables: FeatureTables, bundles: Bundles, evaluation: EvaluationRef, store: Store
) -> RegisteredVersion:
    """Both bundles as versions of the recommender; the same bundle and evaluation are not registered twice."""
    registry = config.registry
    client = connect(registry, store.storage_root)
    weights = Path(bundles.fit_folder) / tables.origins[-1] / WEIGHTS if bundles.fit_folder else None
    kind = WARM_STARTED if weights else REFRESHED
    with registry_faults():
        trained_until = (
            tables.end if weights else client.get_model_version(registry.model_name, champion.version).tags.get("trained_until", champion.bundle.cutoff)
        )
    run_id = start_parent(
        client,
        registry.experiment,
        name=flow_run.name or config.name,
        tags={"prefect.flow_run_id": flow_run.id or "", "prefect.flow_run_url": flow_run.ui_url or "", "refreshed_from": champion.version},
    )
    result = read_evaluation(evaluation.path)
    figures = {
        f"{row.metric.replace('@', '_at_')}.{row.list}.lead_{row.lead_days}": row.value
        for row in result.rows
        if row.model == OURS and row.origin == "all" and row.lead_days is not None and row.value == row.value
    }
    figures |= dict(bundles.metrics)
    log_to_run(client, run_id, ChildRun(kind, params={"end": tables.end, "origin": tables.origins[-1]}, metrics=figures, artifacts=[Path(evaluation.path)]))
    if weights:
        log_training_weights(client, run_id, weights)
    log_data_sets(client, run_id, [validated.accepted])
    folder = store.step_folder("register", bundles, evaluation, code=())
    golden = write_text(json.dumps(golden_requests(Recommender.load(bundles.final.path)), indent=1), folder / "golden_requests.json")
    shared = {
        "data_digest": validated.accepted.digest,
        "evaluation_digest": evaluation.digest,
        "git_sha": git_sha(),
        "run_id": run_id,
        "prefect_flow_run_id": flow_run.id or "",
        "compared_with": evaluation.champion_version or "",
        "refreshed_from": champion.version,
        "trained_until": trained_until,
    }
    last_day = date.fromisoformat(tables.end) - timedelta(days=1)
    how = (
        f"version {champion.version} trained on to {last_day}\n\nBegun from its weights as measured at {champion.measured.cutoff}; "
        f"learned from the events since, with {config.warm_start.replay:.0%} older ones. "
        if weights
        else f"version {champion.version} over the tables of {last_day}\n\nNetworks trained until {trained_until}. "
    )
    card = (
        f"# {config.name}: {how}Histories, habits and sales up to {tables.end} (exclusive). "
        f"Measured at {tables.origins[-1]}, with networks that had not seen its windows."
    )
    measured = log_recommender(
        client,
        registry.model_name,
        run_id,
        bundles.evaluated[tables.origins[-1]],
        kind=f"{kind} measured",
        description=card,
        tags={**shared, "trained_until": tables.origins[-1]} if weights else shared,
        extra=[golden],
    )
    final = log_recommender(
        client, registry.model_name, run_id, bundles.final, kind=kind, description=card, tags={**shared, "evaluated_version": measured}, extra=[golden]
    )
    with registry_faults():
        client.set_terminated(run_id)
    return RegisteredVersion(
        name=registry.model_name, version=final, run_id=run_id, evaluation_digest=evaluation.digest, evaluated_version=measured, golden_requests=str(golden)
    )
