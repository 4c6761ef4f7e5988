"""Forms of a model are measured on what users really chose; the step itself runs in the tiny run (tests/flows)."""

import shutil
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from contracts.sections.training import ComputeConfig
from serving.bundle import bundle_ref, read_bundle
from serving.compression import forms_for, size_bytes
from serving.recommender import Recommender
from tasks.compress import _in_form, distilled_encoder, has_encoder, measure_form
from tests.serving.small_shop import USERS, write_shop


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop"))


def test_a_forms_quality_is_ndcg_of_its_own_lists(bundle: Path):
    """Whoever wants exactly the first item of his list has an NDCG of 1, whoever wants another user's item gets nothing."""
    shop = Recommender.load(bundle)
    firsts = shop.rank(USERS, request_date=shop.cutoff, k=1).select("user_id", "item_id")
    form = measure_form("full", bundle_ref(read_bundle(bundle)), {"again": firsts, "discover": firsts.with_columns(pl.lit("never seen").alias("item_id"))})
    assert form.quality == {"again": 1.0, "discover": 0.0}
    assert form.size_bytes == size_bytes(bundle)
    assert form.latency_ms > 0


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
