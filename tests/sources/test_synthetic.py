"""Generated behaviour shows what was planted, the same for the same seed, however much is written at a time."""

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contracts.errors import SourceError
from contracts.sections.source import SourceConfig, SyntheticConfig
from sources.ingest import ingest
from sources.synthetic import easter_sunday, event_frames, ground_truth, occasion_date, write_synthetic
from tests.sources.conftest import NOW, stored

CONFIG = SyntheticConfig(num_events=80_000, num_users=600, num_items=400, days=800, seed=3)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    frame = pl.concat(event_frames(CONFIG))
    return frame.join(ground_truth(CONFIG).items, on="item_id").with_columns(date=pl.col("event_time").dt.date())


@pytest.mark.parametrize("num_events", [1_000, 20_000])
def test_as_many_events_as_asked_in_order_of_time_with_ids_of_their_own(num_events: int):
    frame = pl.concat(event_frames(CONFIG.model_copy(update={"num_events": num_events, "days": 60})))
    assert frame.height == num_events
    assert frame["event_time"].is_sorted()
    assert frame["event_id"].to_list() == list(range(num_events))
    assert frame["event_type"].unique().sort().to_list() == ["cart", "click", "purchase", "view"]


def test_same_seed_same_events_however_many_are_written_at_a_time():
    short = CONFIG.model_copy(update={"num_events": 5_000, "days": 60})
    whole, pieces = pl.concat(event_frames(short)), pl.concat(event_frames(short, rows_per_frame=200))
    assert whole.equals(pieces)
    other = pl.concat(event_frames(short.model_copy(update={"seed": 4})))
    assert not whole["item_id"].equals(other["item_id"])


def test_items_sell_only_while_they_live(events: pl.DataFrame):
    assert events.filter((pl.col("date") < pl.col("first_date")) | (pl.col("date") > pl.col("last_date"))).is_empty()
    items = ground_truth(CONFIG).items
    assert 0.1 < (items["first_date"] > items["first_date"].min()).mean() < 0.3
    assert 0.08 < (items["last_date"] < items["last_date"].max()).mean() < 0.22


def test_yearly_season_is_planted_and_half_a_year_apart_in_the_south(events: pl.DataFrame):
    """The mean direction of a seasonal category's events round the year lies at its planted peak."""
    seasonal = events.filter((pl.col("strength") > 1.5) & (pl.col("last_date") - pl.col("first_date") > dt.timedelta(days=790)))
    for region, shift in (("GB", 0.0), ("AU", 365.25 / 2)):
        ours = seasonal.filter(pl.col("region") == region)
        angle = 2 * np.pi * (ours["date"].dt.ordinal_day().to_numpy() - shift - ours["peak_day"].to_numpy()) / 365.25
        direction = np.exp(1j * angle).mean()
        assert abs(direction) > 0.3
        assert abs(np.angle(direction)) * 365.25 / (2 * np.pi) < 15
    flat = events.filter((pl.col("strength") == 0) & (pl.col("occasion") == "none"))
    assert abs(np.exp(2j * np.pi * flat["date"].dt.ordinal_day().to_numpy() / 365.25).mean()) < 0.1


def test_moving_occasion_is_followed_from_year_to_year(events: pl.DataFrame):
    """Easter fell on 4 April 2021 and 17 April 2022."""
    daily = events.filter(pl.col("occasion") == "easter").group_by("date").len()
    before, after = (
        sum(
            daily.filter(pl.col("date").is_between(occasion_date("easter", year) + dt.timedelta(low), occasion_date("easter", year) + dt.timedelta(high)))[
                "len"
            ].sum()
            for year in (2021, 2022)
        )
        for low, high in ((-10, 0), (1, 11))
    )
    assert before > 3 * after  # staples are bought after the feast as well


def test_occasions_fall_where_the_calendar_has_them():
    assert [easter_sunday(year).isoformat() for year in (1961, 2000, 2024, 2038)] == ["1961-04-02", "2000-04-23", "2024-03-31", "2038-04-25"]
    assert [occasion_date("black_friday", year).isoformat() for year in (2018, 2019, 2023)] == ["2018-11-23", "2019-11-29", "2023-11-24"]


def test_weekends_are_busier(events: pl.DataFrame):
    weekend = events.filter(pl.col("date").dt.weekday() >= 6).height / events.height
    assert weekend > 2 / 7 * 1.1


def test_taste_and_habit_are_planted(events: pl.DataFrame):
    users = ground_truth(CONFIG).users.select("user_id", "favourites", "staples")
    joined = events.join(users, on="user_id")
    in_favourites = joined.filter(pl.col("category").is_in(pl.col("favourites"))).height / joined.height
    bought = joined.filter(pl.col("event_type") == "purchase")
    of_staples = bought.filter(pl.col("item_id").is_in(pl.col("staples"))).height / bought.height
    assert in_favourites > 0.5  # three of twenty categories
    assert of_staples > 0.5  # five of four hundred items


def test_item_shares_are_the_expectation_of_what_is_drawn(events: pl.DataFrame):
    """Popularity x season explains the days' events of a month far better than popularity alone."""
    truth = ground_truth(CONFIG)
    day = dt.date(2022, 7, 15)
    shares = truth.item_shares(day, "GB")
    assert shares["share"].sum() == pytest.approx(1.0)
    drawn = events.filter((pl.col("region") == "GB") & pl.col("date").is_between(dt.date(2022, 7, 1), dt.date(2022, 7, 31))).group_by("item_id").len()
    table = truth.items.select("item_id", "popularity").join(shares, on="item_id").join(drawn, on="item_id", how="left").fill_null(0)
    with_season, without = (np.corrcoef(table[name].to_numpy(), table["len"].to_numpy())[0, 1] for name in ("share", "popularity"))
    assert with_season > 0.7
    assert with_season > without + 0.1


def test_truth_counts_the_events_of_each_day(events: pl.DataFrame):
    days = ground_truth(CONFIG).days
    assert days["expected_events"].sum() == CONFIG.num_events
    drawn = events.group_by("date").len().sort("date")
    assert drawn["len"].to_list() == days.filter(pl.col("expected_events") > 0)["expected_events"].to_list()


@pytest.mark.parametrize("size", [{"num_users": 1, "num_items": 1}, {"num_users": 2, "num_items": 30}, {"days": 14}])
def test_smallest_worlds_do_not_break(size: dict[str, int]):
    frame = pl.concat(event_frames(SyntheticConfig.model_validate({"num_events": 300, "num_users": 20, "num_items": 50, "days": 30, **size})))
    assert frame.height == 300
    assert frame.null_count().sum_horizontal().item() == 0


def test_written_once_and_never_over_someone_elses_files(tmp_path: Path):
    config = SyntheticConfig(num_events=500, num_users=10, num_items=20, days=30)
    folder = write_synthetic(config, tmp_path / "a")
    stamp = next((folder / "events").iterdir()).stat().st_mtime_ns
    assert next((write_synthetic(config, folder) / "events").iterdir()).stat().st_mtime_ns == stamp
    write_synthetic(config.model_copy(update={"num_events": 600}), folder)
    assert pl.scan_parquet(folder / "events").select(pl.len()).collect().item() == 600
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(SourceError, match="expected an empty folder"):
        write_synthetic(config, tmp_path / "mine")


def test_ingested_like_any_other_log_and_anew_for_another_configuration(tmp_path: Path):
    small = SyntheticConfig(num_events=500, num_users=10, num_items=20, days=60)
    report = ingest(SourceConfig(dataset="synthetic", synthetic=small), tmp_path, environment={}, now=NOW)
    assert (report.rows_in, report.rows_accepted, report.quarantined) == (500, 500, None)
    assert report.item_catalogue is not None
    assert pl.read_parquet(report.item_catalogue.path).filter(pl.col("category").str.contains(" > ")).height == 20
    again = ingest(SourceConfig(dataset="synthetic", synthetic=small), tmp_path, environment={}, now=NOW)
    assert (again.rows_known, again.changed_months) == (500, ())
    other = ingest(SourceConfig(dataset="synthetic", synthetic=small.model_copy(update={"num_events": 400})), tmp_path, environment={}, now=NOW)
    assert (other.rows_accepted, stored(other).height) == (400, 400)


_TEN_MILLION = """
import json, sys, time
from pathlib import Path
from contracts.sections.source import SyntheticConfig
from sources.synthetic import write_synthetic
write_synthetic(SyntheticConfig(num_events=10_000_000, num_users=200_000, num_items=5_000), Path(sys.argv[1]))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))  # ru_maxrss holds the parent's size too
print(json.dumps(int(peak.split()[1]) * 1024))
"""


@pytest.mark.slow
def test_ten_million_events_are_written_within_a_gibibyte(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", _TEN_MILLION, str(tmp_path / "big")], check=True, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert json.loads(done.stdout) < 2**30
    assert pl.scan_parquet(tmp_path / "big" / "events").select(pl.len()).collect().item() == 10_000_000
