"""A small shop with a year and a half of purchases, and the folder of the reference protocol."""

import datetime as dt
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from contracts.artifacts import Finding
from contracts.sections.evaluation import EvaluationConfig, GateConfig
from evaluation.baselines import baseline_rankings
from evaluation.evaluation import evaluate
from evaluation.gates import ForecastFigures, ServabilityFigures, decide, quality_gate, servability_gate
from evaluation.report import DataQuality, ReportData
from evaluation.report_panels import Example, ExampleItem, ForecastPanel, ForecastPeriod, HeatMap, LevelError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
TIME = pl.Datetime("us", "UTC")


@pytest.fixture(scope="session")
def make_events() -> Callable[[Sequence[tuple[str, str, str]]], pl.DataFrame]:
    """Rows of (user, item, ISO date) -> interactions; all are purchases."""

    def make(rows: Sequence[tuple[str, str, str]]) -> pl.DataFrame:
        table = pl.DataFrame(rows, schema=["user_id", "item_id", "date"], orient="row")
        time = pl.col("date").str.to_datetime("%Y-%m-%d", time_zone="UTC", time_unit="us")
        return table.select("user_id", "item_id", time.alias("event_time"), pl.lit("purchase").alias("event_type"))

    return make


@pytest.fixture(scope="session")
def shop() -> pl.DataFrame:
    """6,000 purchases of 60 users and 90 items over 540 days; items have seasons and users have favourites."""
    generator = np.random.default_rng(5)
    size = 6_000
    user = generator.integers(0, 60, size)
    day = generator.integers(0, 540, size)
    favourite = (user * 7 + generator.integers(0, 6, size)) % 90
    seasonal = (day % 364 // 28 * 7 + generator.integers(0, 7, size)) % 90
    any_item = generator.integers(0, 90, size)
    item = np.select([generator.random(size) < 0.4, generator.random(size) < 0.5], [favourite, seasonal], any_item)
    table = pl.DataFrame({"user_id": [f"u{k:02d}" for k in user], "item_id": [f"i{k:02d}" for k in item], "day": day})
    time = pl.lit(START).cast(TIME) + pl.duration(days=pl.col("day"), minutes=pl.int_range(pl.len()) % 1_440)
    region = pl.when(pl.col("user_id") < "u20").then(pl.lit("AU")).otherwise(pl.lit("GB"))
    return table.select("user_id", "item_id", time.alias("event_time"), pl.lit("purchase").alias("event_type"), region.alias("region")).sort(
        "event_time", maintain_order=True
    )


@pytest.fixture(scope="session")
def protocol() -> ModuleType:
    """The reference of the protocol; skipped where it is not beside the repository."""
    path = SHARED / "protocol" / "protocol.py"
    if not path.exists():
        pytest.skip(f"no reference protocol at {path}")
    spec = importlib.util.spec_from_file_location("reference_protocol", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def online_retail(protocol: ModuleType) -> pl.DataFrame:
    """Online Retail II as the protocol cleans it; skipped where it is not beside the repository."""
    if not (SHARED / "data" / "online_retail_ii").exists():
        pytest.skip(f"no Online Retail II below {SHARED / 'data'}")
    events = protocol.events("online_retail_ii", SHARED / "data")
    return events.select("user_id", "item_id", event_time=pl.col("time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))


@pytest.fixture(scope="session")
def report_data(shop: pl.DataFrame) -> ReportData:
    """Report with every panel filled: an evaluation of the small shop, hand-made panels beside it."""
    origins = (dt.date(2021, 3, 1), dt.date(2021, 4, 5))
    names, lists = ("ease*season", "popular_all", "popular_7d", "habit_90d"), ("again", "discover")

    def rank(names: Sequence[str], shift_days: int = 0) -> pl.DataFrame:
        return pl.concat(
            baseline_rankings(shop, cutoff=cutoff, lead_days=[0, 28], horizon_days=28, lists=lists, names=names, lookup_shift_days=shift_days)
            for cutoff in origins
        )

    config = EvaluationConfig(origins=origins, leads_days=(0, 28), num_resamples=100)
    tables = {name: table for (name,), table in rank(names).partition_by("model_version", as_dict=True, maintain_order=True).items()}
    result = evaluate(tables, shop, config, model="ease*season", dataset="shop", shifted={"ease*season": rank(["ease*season"], 182)}, southern_regions=["AU"])
    gates = [
        quality_gate(result, GateConfig(), forecast=ForecastFigures(challenger=0.9)),
        servability_gate(ServabilityFigures(loads_without_pickle=True, num_golden_requests=5, num_golden_equal=5, latency_p95_ms=12, size_mb=3), GateConfig()),
    ]
    weeks = tuple(dt.date(2020, 6, 1) + dt.timedelta(days=7 * week) for week in range(52))
    categories = ("Ice cream and frozen desserts of every kind", "Turkey", "Candles")
    levels = tuple(tuple(None if week < 3 else 0.2 + (week * (row + 2)) % 17 / 5 for week in range(52)) for row in range(3))
    before = [ForecastPeriod(date=day, actual=100.0 + 7 * place) for place, day in enumerate(weeks[:12])]
    after = [
        ForecastPeriod(
            date=day, actual=190.0 - 9 * place if place < 4 else None, mean=180.0, low_80=160.0 - place, high_80=200.0 + place, low_95=140.0, high_95=220.0
        )
        for place, day in enumerate(weeks[12:18])
    ]

    def example(title: str, day: dt.date, first: int) -> Example:
        items = (
            ExampleItem(rank=rank, item_id=f"i{first + rank}", title=f"Item {first + rank} with a name of some length", category="frozen",
                        taste=1.5 - rank / 5, habit=2.0 * (rank % 2), season=rank / 4 - 1)
            for rank in range(1, 11)
        )  # fmt: skip
        return Example(title=title, user="u01", list="again", request_date=day, items=tuple(items))

    finding = Finding(
        table="interactions", rule="volume_by_weekday", severity="warning", num_failed=2, message="2 of 540 days lie below half of their weekday."
    )
    return ReportData(
        title="A small shop",
        evaluation=result,
        decision=decide(gates, auto_promote=True),
        created="1 July 2021",
        quality=DataQuality(
            rows_in=6_010, rows_accepted=6_000, rows_quarantined=10, quarantined_by_rule={"price_positive": 10}, num_expectations=12, findings=(finding,)
        ),
        heat_maps=(HeatMap(title="Demand by category and week", rows=categories, columns=weeks, values=levels),),
        forecasts=(ForecastPanel(title="All items", cutoff=weeks[12], model="mstl", periods=(*before, *after)),),
        forecast_errors=(
            LevelError(level="total", num_series=1, chosen=0.71, last_year=0.93, models="the theta method"),
            LevelError(level="category", num_series=40, chosen=0.88, last_year=1.02, models="a weighted mean of models"),
        ),
        negative_control=tuple(lift.model_copy(update={"relative": 0.004, "relative_low": -0.012, "relative_high": 0.02}) for lift in result.season_lifts),
        examples=(example("A week in July", dt.date(2021, 7, 5), 10), example("The week of Thanksgiving", dt.date(2021, 11, 22), 14)),
        facts={"commit": "0123abc"},
        links={"MLflow run": "http://127.0.0.1:5000/"},
    )
