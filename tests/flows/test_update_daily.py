"""The daily update over the champion of the tiny run: days that were missed, a file for last month that comes late, and a day on which nothing came."""

import json
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from mlflow import MlflowClient
from polars.testing import assert_frame_equal

from contracts import columns as c
from contracts.config import PipelineConfig
from features.habits import habits
from features.histories import histories
from features.item_weeks import item_weeks
from serving.bundle import read_bundle
from sources.synthetic import event_frames
from tests.flows.conftest import TinyRuns, newest_run

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

LATE = date(2023, 1, 12)
GROWN = "i_grown"


@pytest.fixture(scope="module")
def log(tiny: TinyRuns) -> pl.DataFrame:
    """The events of the tiny run, and five weeks more that repeat those of the year before; from 31 January on a new item is sold."""
    known = pl.concat(list(event_frames(tiny.config.source.synthetic)))
    last = known[c.EVENT_TIME].max()
    repeated = known.filter(pl.col(c.EVENT_TIME) > last - timedelta(days=364), pl.col(c.EVENT_TIME) <= last - timedelta(days=329)).with_columns(
        pl.col(c.EVENT_TIME) + timedelta(days=364), pl.col("event_id") + 1_000_000
    )
    is_grown = (pl.col(c.EVENT_TIME).dt.date() >= date(2023, 1, 31)) & (pl.col("event_id") % 7 == 0)
    return pl.concat([known, repeated]).with_columns(pl.when(is_grown).then(pl.lit(GROWN)).otherwise(pl.col(c.ITEM_ID)).alias(c.ITEM_ID))


@pytest.fixture(scope="module")
def files(log: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a shop delivers it: all that was known when the champion was trained, but for one day that is late."""
    folder = tmp_path_factory.mktemp("deliveries")
    day = pl.col(c.EVENT_TIME).dt.date()
    log.filter(day <= date(2023, 1, 30), day != LATE).write_parquet(folder / "until_2023-01-30.parquet")
    return folder


@pytest.fixture(scope="module")
def config(tiny: TinyRuns, files: Path) -> PipelineConfig:
    """The tiny pipeline over those files; a person promotes, so the champion of the other tests stays."""
    mapping = {name: name for name in ("event_id", "user_id", "item_id", "event_time", "event_type", "quantity", "platform", "region")}
    values = tiny.config.model_dump(mode="json")
    source = {"dataset": "table", "uri": str(files / "*.parquet"), "columns": mapping}
    return PipelineConfig.model_validate({**values, "name": "tiny_daily", "source": source, "registry": {**values["registry"], "auto_promote": False}})


@pytest.fixture(scope="module")
def updates(config: PipelineConfig, log: pl.DataFrame, files: Path) -> list:
    """Four runs: as trained, after five days that were missed, after the late file, and once more."""
    from flows.daily_update import daily_update

    day = pl.col(c.EVENT_TIME).dt.date()
    done = [daily_update(config)]
    for number in range(1, 6):
        at = date(2023, 1, 30) + timedelta(days=number)
        log.filter(day == at).write_parquet(files / f"{at}.parquet")
    done.append(daily_update(config))
    log.filter(day == LATE).write_parquet(files / "late.parquet")
    return [*done, daily_update(config), daily_update(config)]


def test_log_that_ends_where_the_champion_does_changes_nothing(updates: list):
    assert updates[0].version is None
    assert len(updates[0].fresh.read_again) == 25


def test_missed_days_are_caught_up_and_only_their_months_are_read(updates: list):
    assert updates[1].fresh.read_again == ("2023-01", "2023-02")
    assert updates[1].fresh.tables.end == "2023-02-05"


def test_late_file_reads_its_month_again_and_no_other(updates: list):
    assert updates[2].fresh.read_again == ("2023-01",)
    assert updates[2].version.version != updates[1].version.version


def test_run_without_anything_new_reads_nothing_and_registers_nothing(updates: list):
    assert newest_run("daily-update").steps["update_features"] == ["Cached"]
    assert updates[3].version.version == updates[2].version.version


@pytest.mark.parametrize("at", ["end", "origin"])
def test_tables_equal_those_of_a_full_rebuild(updates: list, config: PipelineConfig, log: pl.DataFrame, at: str):
    tables = updates[2].fresh.tables
    day = tables.end if at == "end" else tables.origins[-1]
    cutoff = date.fromisoformat(day)
    events = log.filter(pl.col(c.EVENT_TIME).dt.date() < date(2023, 2, 5)).lazy().with_columns(pl.col(c.QUANTITY).cast(pl.Float64))
    wanted = events.filter(pl.col(c.EVENT_TYPE).is_in(config.fine_tuning.target_events))
    assert_frame_equal(pl.read_parquet(tables.habits[day].path), habits(wanted, cutoff, config.features.habit_half_lives_days).collect())
    assert_frame_equal(pl.read_parquet(tables.item_weeks[day].path), item_weeks(wanted, cutoff).collect())
    assert_frame_equal(pl.read_parquet(tables.histories[day].path), histories(events, cutoff, config.features.max_history).collect())


def test_version_was_trained_on_from_the_champion_and_measured_where_it_had_seen_nothing(updates: list, tiny: TinyRuns, registry: MlflowClient):
    name, version = tiny.config.registry.model_name, updates[2].version
    tags = registry.get_model_version(name, version.version).tags
    champion = registry.get_model_version_by_alias(name, "champion")
    assert (tags["kind"], tags["cutoff"], tags["trained_until"], tags["refreshed_from"], tags["compared_with"]) == (
        "warm_started",
        "2023-02-05",
        "2023-02-05",
        str(champion.version),
        str(champion.version),
    )
    measured = registry.get_model_version(name, tags["evaluated_version"]).tags
    assert (measured["cutoff"], measured["trained_until"]) == ("2022-12-11", "2022-12-11")
    assert registry.get_model_version(name, champion.tags["evaluated_version"]).tags["cutoff"] <= measured["cutoff"]
    assert updates[2].promotion.champion_version == str(champion.version)


def test_grown_catalogue_serves_and_old_items_begin_with_their_rows(updates: list, tiny: TinyRuns, registry: MlflowClient):
    from safetensors.torch import load_file

    from tasks.registry import bundle_of_version

    def bundle_at(version: str):
        return read_bundle(bundle_of_version(tiny.config.registry, tiny.config.storage_root, version))

    champion = registry.get_model_version_by_alias(tiny.config.registry.model_name, "champion")
    before, after = bundle_at(champion.tags["evaluated_version"]).table("vocabulary"), bundle_at(updates[2].version.version).table("vocabulary")
    assert GROWN not in before["item_id"].to_list()
    assert GROWN in after["item_id"].to_list()
    job = max((Path(tiny.config.storage_root) / "tiny_daily" / "steps" / "pretrain").glob("*/job.json"), key=lambda path: path.stat().st_mtime)
    request = json.loads(job.read_text(encoding="utf-8"))["job"]
    earlier = load_file(request["start"]["weights"])["taste.items.own.weight"]
    snapshots = sorted(job.parent.glob("snapshots/*.safetensors"))
    rows = {path.stem: load_file(path)["items.own.weight"] for path in snapshots}
    assert min(rows) >= request["start"]["cutoff"]  # nothing of the past is walked again
    both = before.join(after, on="item_id", suffix="_now")  # another store numbered them otherwise
    moved = rows["2023-02-05"][both["item_index_now"].to_list()] - earlier[both["item_index"].to_list()]
    assert 0 < float(moved.abs().max()) < 0.5 * float(earlier.abs().max())


def test_champion_without_weights_keeps_its_networks_over_the_tables_of_today(updates: list, config: PipelineConfig):
    from prefect import flow

    from tasks.refresh import find_champion_to_refresh, refresh
    from tasks.store import store_of

    @flow(name="refresh-alone")
    def refreshed():
        store = store_of(config)
        champion = find_champion_to_refresh(config.registry, store)
        return champion, refresh(champion.model_copy(update={"weights": None}), updates[2].fresh.tables, store)

    champion, bundles = refreshed()
    assert champion.weights is not None
    assert bundles.final.cutoff == "2023-02-05"
    for name in ("encoder.onnx", "vectors.safetensors", "season.onnx", "habit.onnx", "head.json"):
        assert read_bundle(bundles.final.path).network(name).read_bytes() == read_bundle(champion.bundle.path).network(name).read_bytes()


def test_lists_of_the_new_version_know_what_came_since(updates: list, tiny: TinyRuns, registry: MlflowClient, log: pl.DataFrame):
    from tasks.registry import bundle_of_version

    folder = bundle_of_version(tiny.config.registry, tiny.config.storage_root, updates[2].version.version)
    newest = read_bundle(folder).table("histories").select(pl.col("event_day").list.max().max()).item()
    assert newest == (date(2023, 2, 4) - date(1970, 1, 1)).days


def test_training_that_may_go_on_from_the_champion_is_that_of_the_daily_update(updates: list, config: PipelineConfig):
    from flows.seasonal_training import seasonal_training

    warm = config.model_copy(update={"warm_start": config.warm_start.model_copy(update={"enabled": True})})
    outcome = seasonal_training(warm)
    assert outcome.version.version == updates[2].version.version
    assert "build_features" not in newest_run("seasonal-training").steps
