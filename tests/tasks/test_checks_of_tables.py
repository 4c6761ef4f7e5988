"""Every step that writes a table of its own has it checked before it hands it on; the catalogue's bad entries stay behind."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from contracts.artifacts import BundleRef, Bundles, FeatureTables, SeasonTables, TableRef, ValidationReport
from contracts.errors import DataContractError, FeatureLeakageError
from contracts.sections.evaluation import EvaluationConfig
from contracts.sections.features import FeaturesConfig
from contracts.sections.forecast import ForecastConfig
from contracts.sections.validation import ValidationConfig
from contracts.tables import INTERACTIONS, ITEM_CATALOGUE, RANKINGS
from tasks import build_features, build_season, evaluate, validate
from tasks.store import Store, write_table

pytestmark = pytest.mark.slow

START = datetime(2023, 1, 2, tzinfo=UTC)
FEATURES = FeaturesConfig(max_history=8, cutoff_every_days=56)
EVALUATION = EvaluationConfig(origins=(date(2023, 11, 6),), leads_days=(0,), baselines=("popular_28d",), num_resamples=100, season_lift=False)


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (validate, build_features, build_season, evaluate):
        monkeypatch.setattr(module, "get_run_logger", lambda: SimpleNamespace(info=lambda *_: None))
        for name in ("create_table_artifact", "create_link_artifact"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_, **__: None)


def typed(table: pl.DataFrame, contract: Any) -> pl.DataFrame:
    return table.cast({name: kind for name, kind in contract.schema.items() if name in table.columns})


@pytest.fixture
def interactions(tmp_path: Path) -> TableRef:
    """A purchase every six hours for a year, by users and of items in turn."""
    size = 4 * 365
    events = pl.DataFrame(
        {
            "event_id": [f"e{number}" for number in range(size)],
            "user_id": [f"u{number % 7}" for number in range(size)],
            "item_id": [f"i{number % 10}" for number in range(size)],
            "event_time": [START + timedelta(hours=6 * number) for number in range(size)],
            "event_type": ["purchase"] * size,
            "quantity": [1.0] * size,
        }
    )
    return write_table(typed(events, INTERACTIONS), tmp_path / "events.parquet", "interactions")


@pytest.fixture
def catalogue(tmp_path: Path) -> TableRef:
    """Item i3 stands in it twice."""
    items = [f"i{number}" for number in range(10)]
    table = pl.DataFrame({"item_id": [*items, "i3"], "category": [*["tea"] * 10, "coffee"]})
    return write_table(typed(table, ITEM_CATALOGUE), tmp_path / "catalogue.parquet", "item_catalogue")


def validated(interactions: TableRef, catalogue: TableRef | None, store: Store, *, has_users: bool = True, **limits: Any) -> ValidationReport:
    return validate.validate.fn(interactions, catalogue, ValidationConfig(**limits), store, horizon_days=28, has_users=has_users)


def featured(report: ValidationReport, store: Store, *, has_users: bool = True) -> FeatureTables:
    forecast = ForecastConfig(horizon_periods=9, levels=("total",))
    labels = {"target_events": ("purchase",), "leads_days": (0,)}
    return build_features.build_features.fn(report, FEATURES, forecast, EVALUATION, store, **labels, has_users=has_users, validation=ValidationConfig())


def seasoned(features: FeatureTables, store: Store) -> SeasonTables:
    return build_season.build_season.fn(features, None, FEATURES, EVALUATION, store, validation=ValidationConfig())


def test_bad_catalogue_entries_are_set_aside_and_features_see_the_others(interactions: TableRef, catalogue: TableRef, store: Store):
    report = validated(interactions, catalogue, store, max_quarantined_share=0.1)
    assert report.item_catalogue is not None
    assert report.item_catalogue.rows == 10
    assert [finding.rule for finding in report.findings if finding.table == "item_catalogue"] == ["item_id_repeated"]
    (quarantined,) = Path(store.root).rglob("item_catalogue/quarantine/*.parquet")
    assert pl.read_parquet(quarantined).select("item_id", "category", "rule").rows() == [("i3", "coffee", "item_id_repeated")]
    tables = featured(report, store)
    assert tables.item_catalogue == report.item_catalogue


def test_a_catalogue_that_is_mostly_bad_stops(interactions: TableRef, catalogue: TableRef, store: Store):
    with pytest.raises(DataContractError, match=r"item_catalogue: .*item_id_repeated 1"):
        validated(interactions, catalogue, store, max_quarantined_share=0.05)


def test_events_without_users_pass_where_the_source_has_none(interactions: TableRef, store: Store, tmp_path: Path):
    nobody = write_table(pl.scan_parquet(interactions.path).with_columns(pl.lit(None, pl.String).alias("user_id")), tmp_path / "nobody.parquet", "interactions")
    report = validated(nobody, None, store, has_users=False)
    assert report.rows_accepted == interactions.rows
    assert featured(report, store, has_users=False).training_events is None
    with pytest.raises(DataContractError, match="user_id_missing"):
        validated(nobody, None, store, has_users=True)


def late(table: pl.LazyFrame) -> pl.LazyFrame:
    """Histories whose last event lies at the cut-off."""
    at_cutoff = pl.col("cutoff").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return table.with_columns(pl.concat_list(at_cutoff).alias("event_time"), pl.col("item_id").list.head(1), pl.col("event_type").list.head(1))


FAULTS: dict[str, tuple[str, Callable[[pl.LazyFrame], pl.LazyFrame], type[Exception], str]] = {
    "histories that reach the cut-off": ("histories", late, FeatureLeakageError, "history_reaches_cutoff"),
    "habits twice": ("habits", lambda table: pl.concat([table, table]), DataContractError, "habits"),
    "item weeks below zero": ("item_weeks", lambda table: table.with_columns(pl.col("weeks_ago") - 9), FeatureLeakageError, "demand_reaches_cutoff"),
    "demand below zero": ("demand", lambda table: table.with_columns(pl.col("units") - 1e6), DataContractError, "demand"),
    "an index for two items": ("grow_vocabulary", lambda table: table.with_columns(pl.lit(1, pl.Int32).alias("item_index")), DataContractError, "vocabulary"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_feature_table_stops_the_step_that_made_it(interactions: TableRef, store: Store, monkeypatch: pytest.MonkeyPatch, fault: str):
    made_by, spoil, error, said = FAULTS[fault]
    make = getattr(build_features, made_by)
    monkeypatch.setattr(build_features, made_by, lambda *given, **options: spoil(make(*given, **options)))
    with pytest.raises(error, match=said):
        featured(validated(interactions, None, store), store)


def test_a_faulty_season_table_stops(interactions: TableRef, store: Store, monkeypatch: pytest.MonkeyPatch):
    tables = featured(validated(interactions, None, store), store)
    assert len(seasoned(tables, store).season) == len(tables.targets)
    make = build_season.season
    monkeypatch.setattr(build_season, "season", lambda *given, **options: pl.concat([make(*given, **options)] * 2))
    with pytest.raises(DataContractError, match="season"):
        seasoned(tables, store)


def test_faulty_rankings_of_the_evaluation_stop_before_anything_is_measured(interactions: TableRef, store: Store, monkeypatch: pytest.MonkeyPatch):
    report = validated(interactions, None, store)
    tables = featured(report, store)

    def question(request_date: date, **asked: Any) -> dict[str, Any]:
        return {"request_date": request_date, "list": asked["list_name"]}

    def rank(asked: dict[str, Any]) -> pl.DataFrame:
        rows = {"cutoff": date(2023, 11, 6), **asked, "model_version": "perennial", "user_id": "u1"}
        parts = {"score": 1.0, "taste": 3.0, "habit": 0.0, "season": 0.0}  # do not add up
        return typed(pl.DataFrame([{**rows, "rank": 1, "item_id": "i1", **parts}]), RANKINGS)

    faulty = SimpleNamespace(question=question, rank_each=lambda asked: [rank(one) for one in asked])
    monkeypatch.setattr(evaluate.Recommender, "load", staticmethod(lambda *_, **__: faulty))
    bundle = BundleRef(path="p", cutoff="2023-11-06", digest="d")
    bundles = Bundles(evaluated={"2023-11-06": bundle}, final=bundle)
    with pytest.raises(DataContractError, match=r"rankings: .*`parts_do_not_add_up`"):
        evaluate.evaluate.fn(bundles, None, report, tables, EVALUATION, FEATURES, ("purchase",), store, validation=ValidationConfig(), name="shop", seed=0)
