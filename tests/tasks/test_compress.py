"""Forms of a model are measured on what users really chose; the step itself runs in the tiny run (tests/flows)."""

import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from contracts.artifacts import TableRef, ValidationReport
from contracts.sections.evaluation import EvaluationConfig
from contracts.sections.training import ComputeConfig
from serving.bundle import bundle_ref, read_bundle
from serving.compression import choose_form, forms_for, size_bytes
from serving.recommender import Recommender
from tasks.compress import _in_form, distilled_encoder, has_encoder, measure_form, wanted_items
from tests.serving.small_shop import USERS, write_shop


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop"))


def test_a_forms_quality_is_ndcg_of_its_own_lists(bundle: Path):
    """Whoever wants exactly the first item of his list has an NDCG of 1, whoever wants another user's item gets nothing."""
    shop = Recommender.load(bundle)
    firsts = shop.rank(USERS, request_date=shop.cutoff, k=1).select("user_id", "item_id")
    form = measure_form(
        "full", bundle_ref(read_bundle(bundle)), {("again", 0): firsts, ("discover", 0): firsts.with_columns(pl.lit("never seen").alias("item_id"))}
    )
    assert form.quality == {"again": 1.0, "discover": 0.0}
    assert form.size_bytes == size_bytes(bundle)
    assert form.latency_ms > 0


def test_a_form_is_judged_at_the_longest_lead_too(tmp_path: Path):
    """The encoder says nothing today and much in two months: a form that loses what it says loses only there."""
    whole, dumb = (write_shop(tmp_path / name, encoder_weight=0.0, encoder_slope=slope) for name, slope in (("whole", 8.0), ("dumb", 0.0)))
    shop = Recommender.load(whole)
    days = {lead: shop.cutoff + timedelta(days=lead) for lead in (0, 56)}
    wanted = {("discover", lead): shop.rank(USERS, request_date=day, list_name="discover", k=10).select("user_id", "item_id") for lead, day in days.items()}
    full, form = (measure_form(path.parent.name, bundle_ref(read_bundle(path)), wanted) for path in (whole, dumb))
    assert full.quality == pytest.approx({"discover": 1.0, "discover_56d": 1.0})
    assert form.quality["discover"] == pytest.approx(1.0)
    assert form.quality["discover_56d"] < 0.9
    assert choose_form([full, replace(form, size_bytes=1)], max_loss=0.05) is full


def test_targets_are_of_the_shortest_and_the_longest_lead_that_the_data_hold(tmp_path: Path):
    """A hundred days, an item a day: from the fortieth on a window of 28 days fits at leads of 0 and 28, not of 56."""
    first = datetime(2024, 1, 1, 12, tzinfo=UTC)
    rows = [("ann", f"i{number:03}", first + timedelta(days=number), "purchase") for number in range(100)]
    again = [("ann", f"i{number:03}", first + timedelta(days=20), "purchase") for number in range(40, 100)]
    table = pl.DataFrame(rows + again, schema=["user_id", "item_id", "event_time", "event_type"], orient="row")
    table.write_parquet(tmp_path / "part.parquet")
    stored = TableRef(name="events", path=str(tmp_path / "part.parquet"), rows=table.height, columns=tuple(table.columns), digest="0" * 16)
    validated = ValidationReport(accepted=stored, rows_in=table.height, rows_accepted=table.height, rows_quarantined=0)
    config = EvaluationConfig(leads_days=(0, 28, 56), lists=("again",))
    wanted = wanted_items(validated, (first + timedelta(days=40)).date().isoformat(), config, ("purchase",))
    assert list(wanted) == [("again", 0), ("again", 28)]
    assert [wanted["again", lead]["item_id"].min() for lead in (0, 28)] == ["i040", "i068"]


def test_only_large_catalogues_try_product_quantisation():
    assert forms_for(999_999) == ("int8",)
    assert forms_for(1_000_000) == ("int8", "pq")


@pytest.mark.slow
def test_a_student_is_trained_on_the_bundles_encoder_once_and_goes_into_a_form(bundle: Path, tmp_path: Path):
    """The same call again finds the finished work."""
    ref, lines = bundle_ref(read_bundle(bundle)), list[str]()
    assert has_encoder(ref)
    encoder = distilled_encoder(ref, tmp_path, ComputeConfig(threads=1), 0, lines.append)
    assert any(line.startswith("progress distil 1.0") for line in lines)
    before = encoder.stat().st_mtime_ns
    assert distilled_encoder(ref, tmp_path, ComputeConfig(threads=1), 0, lines.append).stat().st_mtime_ns == before
    form = _in_form(ref, "distilled", tmp_path, student=lambda: encoder)
    user = USERS[3]
    lists = [
        Recommender.load(path).rank([user], request_date=date(2024, 12, 5), list_name="discover", k=5)["item_id"].to_list() for path in (bundle, form.path)
    ]
    assert len(set(lists[0]) & set(lists[1])) >= 3


def test_a_model_without_an_encoder_has_nothing_to_distil(bundle: Path, tmp_path: Path):
    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "networks" / "encoder.onnx").unlink()
    assert not has_encoder(bundle_ref(read_bundle(bundle)).model_copy(update={"path": str(tmp_path / "bundle")}))
