"""Step `look_for_drift`: this pipeline's weeks against last year and the weeks before, published lists against what users did, ages; one page."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import Reference, ValidationReport
from contracts.config import PipelineConfig
from evaluation.ranking_metrics import score_rankings
from evaluation.targets import targets
from features.calendar import is_southern, season_of
from monitoring.drift import MIX_LIMIT, VOLUME_LIMIT, WEEK, drift_of, weekly_counts
from monitoring.page import Chart, Curve, render_page
from monitoring.quality import ERROR, FOR, NDCG, USERS, Freshness, quality_drops, stale
from tasks.registry import CHAMPION, connect, version_at
from tasks.reuse import run_each_time
from tasks.store import Store, read_table, write_table, write_text

ALARM = "perennial.monitoring.alarm"
NEWEST_WEEKS = 2  # an alarm is told while it is one of the newest weeks, then it is history
QUALITY_SCHEMA = {"list": pl.String, FOR: pl.Date, NDCG: pl.Float64, ERROR: pl.Float64, USERS: pl.Int64}


class MonitoringOutcome(Reference):
    """What a look found: alarms in words, those that ask for a training, and the page."""

    alarms: tuple[str, ...]
    retrain: bool
    page: str


@task(name="look_for_drift", **run_each_time(minutes=60))
def look_for_drift(config: PipelineConfig, validated: ValidationReport, store: Store, today: date) -> MonitoringOutcome:
    """Write the page and, where drift or a drop in quality says so, emit the event that starts a training."""
    interactions = read_table(validated.accepted)
    catalogue = read_table(validated.item_catalogue) if validated.item_catalogue else None
    end = interactions.select(pl.col(c.EVENT_TIME).max().dt.date()).collect().item() + timedelta(days=1)
    drift = drift_of(weekly_counts(interactions, catalogue, end))
    quality = quality_drops(_quality(config, interactions, end, store))
    write_table(drift, Path(store.root) / "monitoring" / "drift.parquet", "drift")
    write_table(quality, Path(store.root) / "monitoring" / "quality.parquet", "quality")
    freshness = _freshness(config, store, today, end)
    changed = (*_drift_alarms(drift), *_quality_alarms(quality, end))
    alarms = (*changed, *stale(freshness, max_data_days=3, max_rankings_days=8, max_champion_days=45))
    page = write_text(_page(config, today, alarms, freshness, drift, quality), Path(store.root) / "monitoring.html")
    create_link_artifact(page.resolve().as_uri(), key="monitoring", link_text="Monitoring")
    create_table_artifact([{"alarm": alarm} for alarm in alarms] or [{"alarm": "none"}], key="alarms", description=f"Events up to {end}")
    get_run_logger().info("%s alarms: %s", len(alarms), page)
    if changed:
        emit_event(
            ALARM,
            resource={"prefect.resource.id": f"perennial.pipeline.{config.name}", "prefect.resource.name": config.name},
            payload={"alarms": list(changed), "end": end.isoformat()},
        )
    return MonitoringOutcome(alarms=alarms, retrain=bool(changed), page=str(page))


def _drift_alarms(drift: pl.DataFrame) -> list[str]:
    newest = drift.tail(NEWEST_WEEKS)
    alarms = [
        f"week of {row[WEEK]}: {row['volume']:,.0f} events, expected about {row['volume_expected']:,.0f} from the same weeks last year and the trend"
        for row in newest.filter("is_volume_alarm").iter_rows(named=True)
    ]
    alarms += [
        f"week of {row[WEEK]}: {row['mix_from_last_year']:.1%} of the events lie in other categories than season and trend explain, most of all "
        f"{row['most_changed'] or 'items without a category'}"
        for row in newest.filter("is_mix_alarm").iter_rows(named=True)
    ]
    return alarms


def _quality_alarms(quality: pl.DataFrame, end: date) -> list[str]:
    newest = quality.filter("is_drop", pl.col(FOR) >= end - timedelta(days=120)).group_by("list", maintain_order=True).tail(1)
    return [
        f"list {row['list']} for {row[FOR]}: NDCG@10 {row[NDCG]:.4f} among {row[USERS]:,} users, expected {_mean(row)}" for row in newest.iter_rows(named=True)
    ]


def _mean(row: dict[str, Any]) -> str:
    known = [row[name] for name in ("expected_before", "expected_last_year") if row[name] is not None]
    return f"{min(known):.4f}" if known else "unknown"


def _quality(config: PipelineConfig, interactions: pl.LazyFrame, end: date, store: Store) -> pl.DataFrame:
    """NDCG@10 of every published list whose window has ended; the newest publication for a date counts."""
    files = sorted((Path(store.root) / "steps" / "publish").glob("*/rankings.parquet"), key=lambda path: path.stat().st_mtime)
    found: dict[tuple[str, date], dict[str, object]] = {}
    for path in files:
        for (name, day, cutoff), rankings in pl.read_parquet(path).partition_by("list", FOR, c.CUTOFF, as_dict=True).items():
            if day + timedelta(days=config.evaluation.horizon_days) > end:
                continue
            wanted = targets(
                interactions,
                cutoff,
                lead_days=(day - cutoff).days,
                horizon_days=config.evaluation.horizon_days,
                list_name=name,
                target_events=config.fine_tuning.target_events,
            )
            scores = score_rankings(rankings, wanted)["ndcg"].to_numpy()
            if len(scores):
                error = float(np.std(scores) / np.sqrt(len(scores)))
                found[name, day] = {"list": name, FOR: day, NDCG: float(np.mean(scores)), ERROR: error, USERS: len(scores)}
    return pl.DataFrame(list(found.values()), schema=QUALITY_SCHEMA, orient="row").sort("list", FOR)


def _freshness(config: PipelineConfig, store: Store, today: date, end: date) -> Freshness:
    published = [path.stat().st_mtime for path in (Path(store.root) / "steps" / "publish").glob("*/rankings.parquet")]
    champion = version_at(connect(config.registry, store.storage_root), config.registry.model_name, CHAMPION)
    return Freshness(
        data_days=(today - end).days + 1,
        rankings_days=(today - datetime.fromtimestamp(max(published), UTC).date()).days if published else None,
        champion_days=(today - date.fromisoformat(champion.tags["cutoff"])).days if champion is not None and "cutoff" in champion.tags else None,
    )


def _page(config: PipelineConfig, today: date, alarms: tuple[str, ...], freshness: Freshness, drift: pl.DataFrame, quality: pl.DataFrame) -> str:
    def curve(table: pl.DataFrame, column: str, name: str, *, day: str = WEEK, is_expected: bool = False) -> Curve:
        return Curve(name, list(zip(table[day].to_list(), table[column].to_list(), strict=True)), is_expected=is_expected)

    charts = [
        Chart(
            "Events a week",
            "Dashed: the same week last year, scaled by how the eight weeks before went. A red dot is an alarm.",
            [curve(drift, "volume_expected", "expected", is_expected=True), curve(drift, "volume", "events")],
            alarms=drift.filter("is_volume_alarm")[WEEK].to_list(),
        ),
        Chart(
            "Volume away from season and trend",
            f"Share of what was to be expected; dotted: the limit. The weeks before must disagree too, by half of {VOLUME_LIMIT:.0%}.",
            [curve(drift, "volume_from_last_year", "from last year"), curve(drift, "volume_from_weeks_before", "from the weeks before", is_expected=True)],
            limit=VOLUME_LIMIT,
            as_percent=True,
        ),
        Chart(
            "Mix of categories away from season and trend",
            "Share of the events in other categories than last year's weeks (three either side) and chance allow; dashed: than the weeks before.",
            [curve(drift, "mix_from_last_year", "from last year"), curve(drift, "mix_from_weeks_before", "from the weeks before", is_expected=True)],
            alarms=drift.filter("is_mix_alarm")[WEEK].to_list(),
            limit=MIX_LIMIT,
            as_percent=True,
        ),
        *(
            Chart(
                f"Published lists, {name}",
                "NDCG@10 of each published date against what users then did; dashed: mean of the 90 days before.",
                [curve(rows, "expected_before", "before", day=FOR, is_expected=True), curve(rows, NDCG, "published", day=FOR)],
                alarms=rows.filter("is_drop")[FOR].to_list(),
            )
            for (name,), rows in quality.partition_by("list", as_dict=True, maintain_order=True).items()
        ),
    ]
    ages = [
        ("newest events", f"{freshness.data_days} days old"),
        ("published rankings", "none yet" if freshness.rankings_days is None else f"{freshness.rankings_days} days old"),
        ("data of the champion", "no champion yet" if freshness.champion_days is None else f"{freshness.champion_days} days old"),
    ]
    first, last = drift[WEEK].min(), max(drift[WEEK].max(), quality[FOR].max() or date.min)
    southern = is_southern(config.features.country)
    days = pl.date_range(first, last, "1d", eager=True).to_list()
    named = {day: season_of(day.timetuple().tm_yday, config.features.season_names, southern=southern) for day in days}
    return render_page(
        name=config.name, day=today, alarms=alarms, freshness=ages, charts=charts, seasons={day: name for day, name in named.items() if name is not None}
    )
