"""Going on from the champion against training anew: `python -m benchmarks.warm_start [--taste linear encoder]`.

Complete Journey. A model is trained up to `BEFORE`, four weeks before the newest whole window; what the daily update does from there (a short training on
the events since, with a sample of older ones; items first bought since begin at their category) is measured against training anew on everything and against
its networks left as they are over the newest tables. Forecasts are off in all three. `encoder` keeps the sequence encoder in taste, `linear` leaves it out.

Writes benchmarks/results/warm_start.json: NDCG@10 of each with its interval, the gain of the warm start over the others on the same users (bootstrap over
users), CPU seconds of each step, counts of new events and items. A finished cell is kept below benchmarks/results/cells/warm_start/.
"""

import argparse
import resource
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from benchmarks.machine import RESULTS, ROOT, about_cells, command_of, kept_cell, write_results
from contracts import columns as c
from contracts.config import PipelineConfig
from flows.local_environment import use_local_stores
from tasks.store import read_table, reuse_digest

CELLS = RESULTS / "cells" / "warm_start"
CODE = ("sources", "expectations", "features", "lightning_modules", "serving", "evaluation")
TASTES = ("linear", "encoder")
WARM, ANEW, LEFT = "perennial:warm_start", "perennial:trained_anew", "perennial:left_as_it_was"
BEFORE = timedelta(days=28)
METRIC = "ndcg@10"
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taste", nargs="+", choices=TASTES, default=list(TASTES), help="with the encoder, or linear terms alone")
    parser.add_argument("--storage", default=str(ROOT / ".perennial" / "benchmarks" / "warm_start"), help="folder of intermediate tables; emptied")
    asked = parser.parse_args()
    cells = [measured_cell(parameters_of(taste, asked.storage), taste) for taste in asked.taste]
    rows = [row for cell in cells for row in cell["rows"]]
    print(write_results("warm_start", command=command_of("warm_start"), rows=rows, **about_cells(cells)))


def parameters_of(taste: str, storage: str) -> PipelineConfig:
    """The parameters of the demo without forecasts; the head of a model with encoder keeps it, whatever it adds."""
    config = PipelineConfig.from_yaml(ROOT / "deployments" / "parameters" / "complete_journey.yaml")
    measured = {"origins": (), "tune_until": None, "baselines": (), "season_lift": False, "slices": False}
    return config.model_copy(
        update={
            "storage_root": storage,
            "forecast": config.forecast.model_copy(update={"enabled": False}),
            "pretraining": config.pretraining.model_copy(update={"enabled": taste == "encoder"}),
            "fine_tuning": config.fine_tuning.model_copy(update={"use_encoder": "always"}),
            "evaluation": config.evaluation.model_copy(update=measured),
            "registry": config.registry.model_copy(update={"gates": config.registry.gates.model_copy(update={"max_form_loss": None})}),
        }
    )


def measured_cell(config: PipelineConfig, taste: str) -> dict[str, Any]:
    """Rows of one kind of taste; read from its cell where it was measured before."""

    def rows() -> dict[str, Any]:
        shutil.rmtree(config.storage_root, ignore_errors=True)  # finished steps cost nothing, and so would not be measured
        use_local_stores(config.storage_root)
        from prefect import flow

        about = {"dataset": config.name, "taste": taste, "seed": config.seed}
        return {"rows": [{**about, **row} for row in flow(measured, name="warm-start-benchmark")(config)]}

    return kept_cell(CELLS / f"{config.name}-{taste}-{reuse_digest(config.model_copy(update={'storage_root': ''}), code=CODE)}.json", rows)


def measured(config: PipelineConfig) -> list[dict[str, Any]]:
    """All three models at the newest whole window, and what they cost."""
    from contracts.artifacts import ChampionRef
    from evaluation.evaluation import evaluate as compare
    from flows.daily_update import trained_on
    from flows.first_steps import checked_data, feature_tables
    from lightning_modules.warm_start import WEIGHTS
    from tasks.build_season import build_season
    from tasks.evaluate import evaluate
    from tasks.fine_tune import fine_tune
    from tasks.pretrain import pretrain
    from tasks.refresh import newest_window, refresh
    from tasks.store import store_of
    from tasks.update_features import update_features
    from tasks.warm_start import warm_start

    store, costs = store_of(config), []

    def timed(model: str, step: str, do: Callable[[], T]) -> T:
        before = cpu_seconds()
        result = do()
        costs.append({"model": model, "metric": "CPU seconds", "step": step, "value": round(cpu_seconds() - before, 1)})
        return result

    _, validated = checked_data(config, store)
    last_day = read_table(validated.accepted).select(pl.col(c.EVENT_TIME).max().dt.date()).collect().item()
    origin = last_day + timedelta(days=1) - timedelta(days=max(config.evaluation.leads_days) + config.evaluation.horizon_days)
    earlier = origin - BEFORE
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"origins": (earlier, origin)})})
    horizon = config.evaluation.horizon_days

    def fitted(features: Any, settings: PipelineConfig) -> Any:
        return fine_tune(
            features,
            season,
            snapshots,
            None,
            settings.fine_tuning,
            settings.features,
            settings.evaluation,
            settings.compute,
            store,
            name=settings.name,
            seed=settings.seed,
        )

    features = timed(ANEW, "features", lambda: feature_tables(config, validated, store))
    season = timed(ANEW, "features", lambda: build_season(features, None, config.features, config.evaluation, store, validation=config.validation))
    snapshots = timed(
        ANEW,
        "pre-training",
        lambda: pretrain(features, config.pretraining, config.compute, store, leads_days=config.fine_tuning.leads_days, horizon_days=horizon, seed=config.seed),
    )
    anew = timed(ANEW, "fine-tuning", lambda: fitted(features.model_copy(update={"origins": (origin.isoformat(),)}), config))
    first = fitted(until(features, earlier), config)

    bundle = first.evaluated[earlier.isoformat()]
    champion = ChampionRef(version="1", bundle=bundle, measured=bundle, weights=str(Path(first.fit_folder) / earlier.isoformat() / WEIGHTS))
    fresh = timed(WARM, "features", lambda: update_features(validated, config.features, config.fine_tuning, config.evaluation, store))
    window = newest_window(champion, fresh.tables, config.evaluation)
    warm = timed(WARM, "features", lambda: warm_start(champion, fresh, validated, config, store))
    new_items = forget_unsold(Path(warm.start.items), Path(fresh.tables.vocabulary.path), read_table(validated.accepted), earlier)
    trained = timed(WARM, "training", lambda: trained_on(warm, validated, window, config, store))
    left = timed(LEFT, "tables", lambda: refresh(champion, fresh.tables, store))

    rankings = {}
    for model, bundles in ((WARM, trained), (ANEW, anew), (LEFT, left)):
        found = evaluate(
            bundles,
            None,
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
        rankings[model] = pl.read_parquet(found.rankings.path)
    interactions = read_table(validated.accepted)
    result = compare(rankings, interactions, window, model=WARM, dataset=config.name, target_events=config.fine_tuning.target_events, seed=config.seed)
    new_events = interactions.filter(pl.col(c.EVENT_TIME).dt.date() >= earlier).select(pl.len()).collect().item()
    return [
        *(row.model_dump(exclude={"dataset"}) for row in result.rows if row.metric == METRIC),
        *({**row.model_dump(), "metric": f"gain of {METRIC}", "value": row.relative} for row in result.comparisons if row.metric == METRIC),
        *costs,
        {"metric": "events since the champion", "value": new_events, "of": interactions.select(pl.len()).collect().item()},
        {"metric": "items first bought since", "value": new_items, "of": fresh.tables.vocabulary.rows},
    ]


def until(features: Any, day: date) -> Any:
    """The tables as a training at that day would have had them."""
    known = {key: ref for key, ref in features.targets.items() if date.fromisoformat(key.split("/")[0]) < day}
    samples = {key: features.habit_samples[key] for key in known}
    return features.model_copy(update={"origins": (day.isoformat(),), "end": day.isoformat(), "targets": known, "habit_samples": samples})


def forget_unsold(items: Path, vocabulary: Path, interactions: pl.LazyFrame, day: date) -> int:
    """The catalogue of Complete Journey is given whole: an item that nobody had before a day is made new. Returns how many were sold since."""
    sold = interactions.group_by(c.ITEM_ID).agg(pl.col(c.EVENT_TIME).min().dt.date().alias("first")).collect()
    rows = pl.read_parquet(items).join(pl.read_parquet(vocabulary), on=c.ITEM_INDEX).join(sold, on=c.ITEM_ID, how="left")
    is_known = pl.col("first") < day
    rows.select(c.ITEM_INDEX, pl.when(is_known).then("start_index").alias("start_index")).write_parquet(items)
    return rows.filter(pl.col("first") >= day).height


def cpu_seconds() -> float:
    """Processor time of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
