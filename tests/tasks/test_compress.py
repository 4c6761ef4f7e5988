"""Forms of a model are measured on what users really chose; the step itself runs in the tiny run (tests/flows)."""

from pathlib import Path

import polars as pl
import pytest

from serving.bundle import bundle_ref, read_bundle
from serving.compression import forms_for, size_bytes
from serving.recommender import Recommender
from tasks.compress import measure_form
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
