"""The page a reviewer reads, and the figures that go with it."""

from datetime import date
from itertools import product
from pathlib import Path

import polars as pl
import pytest

from contracts.artifacts import BundleRef, Bundles, FeatureTables, Finding, TableRef, ValidationReport
from contracts.config import PipelineConfig
from evaluation.results import BestBaseline, Comparison, EvaluationResult, MetricRow, SliceRow
from tasks.evaluate import table_of
from tasks.model_card import model_card
from tasks.register import _figures, _flat, _looks, _losses

VALUES = {"perennial": {0: 0.30, 28: 0.28, None: 0.29}, "ease*trend": {0: 0.25, 28: 0.20, None: 0.225}, "popular_28d": {0: 0.10, 28: 0.40, None: 0.25}}
TABLE = TableRef(name="t", path="p", rows=150, columns=(), digest="d")


@pytest.fixture
def result() -> EvaluationResult:
    rows = [
        MetricRow(
            dataset="shop",
            model=model,
            list="again",
            lead_days=lead,
            origin="all",
            metric="ndcg@10",
            value=value,
            ci_low=value - 0.01,
            ci_high=value + 0.01,
            n=9,
        )
        for model, lead in product(VALUES, (0, 28, None))
        if (value := VALUES[model][lead])
    ]
    nothing = MetricRow(dataset="shop", model="perennial", list="again", lead_days=None, origin="all", metric="recall@10", value=float("nan"), n=0)
    comparisons = [
        Comparison(
            list="again",
            lead_days=None,
            metric="ndcg@10",
            model="perennial",
            other=other,
            value=0.29,
            other_value=0.2,
            difference=0.09,
            ci_low=0.01,
            ci_high=0.1,
            relative=0.45,
            relative_low=0.05,
            relative_high=0.5,
            num_users=9,
            num_rows=9,
        )
        for other in ("ease*trend", "popular_28d")
    ]
    return EvaluationResult(
        dataset="shop",
        model="perennial",
        champion=None,
        baselines=("ease*trend", "popular_28d"),
        horizon_days=28,
        origins=(date(2024, 6, 1),),
        rows=(*rows, nothing),
        comparisons=tuple(comparisons),
        best_baselines=(BestBaseline(list="again", lead_days=None, on_tuning=None, with_hindsight="popular_28d"),),
        slices=tuple(
            SliceRow(kind="season", slice="winter", list="again", model=model, metric="ndcg@10", value=value, ci_low=0, ci_high=1, num_users=1234, num_rows=9)
            for model, value in (("perennial", 0.31), ("popular_28d", 0.7777))
        ),
        digest="e1",
    )


def card(result: EvaluationResult, findings: tuple[Finding, ...] = ()) -> str:
    return model_card(
        PipelineConfig.model_validate({"name": "mine", "source": {"dataset": "synthetic"}, "seed": 7}),
        result,
        ValidationReport(accepted=TABLE, rows_in=1_100, rows_accepted=1_000, rows_quarantined=100, findings=findings),
        FeatureTables(
            first_day="2022-01-01",
            end="2024-09-01",
            cutoffs=("2024-09-01",),
            origins=(),
            vocabulary=TABLE,
            item_catalogue=None,
            training_events=None,
            calendar=TABLE,
            demand=TABLE,
        ),
        Bundles(evaluated={}, final=BundleRef(path="p", cutoff="2024-09-01", digest="b")),
    )


def test_card_shows_each_model_best_first_with_interval_and_gain(result: EvaluationResult):
    text = card(result)
    table = [line for line in text.splitlines() if line.startswith("| ") and "[" in line]
    assert [line.split(" | ")[0] for line in table] == ["| perennial", "| popular_28d", "| ease*trend"]
    assert "| perennial | 0.3000 [0.2900, 0.3100] | 0.2800 [0.2700, 0.2900] |  |" in table
    assert table[1].endswith("| +45.0% [+5.0%, +50.0%] |")


def test_card_says_when_it_was_measured_on_what_and_with_which_settings(result: EvaluationResult):
    text = card(result)
    assert "Measured at cut-offs 2024-06-01, windows of 28 days; then refitted on all data up to 2024-09-01." in text
    assert "1,000 of 1,100 events accepted, 2022-01-01 to 2024-09-01, 150 items." in text
    assert "* all expectations hold" in text
    assert "gpt encoder, width 64, 2 blocks; seed 7" in text


def test_card_shows_the_recommender_s_slices_only_and_what_was_found_in_the_data(result: EvaluationResult):
    text = card(result, (Finding(table="interactions", rule="volume", severity="warning", num_failed=1, message="a quiet day"),))
    assert "| season | winter | again | 1,234 | 0.3100 |" in text
    assert "0.7777" not in text
    assert "* warning: a quiet day" in text
    assert "No slices were asked for." in card(result.model_copy(update={"slices": ()}))


def test_table_of_an_evaluation_has_a_column_per_lead_best_first(result: EvaluationResult):
    assert [row["model"] for row in table_of(result)] == ["perennial", "popular_28d", "ease*trend"]
    assert table_of(result)[1] == {"list": "again", "model": "popular_28d", "lead 0": "0.100 [0.090, 0.110]", "lead 28": "0.400 [0.390, 0.410]"}


def test_figures_carry_list_lead_and_origin_and_leave_out_what_has_none(result: EvaluationResult):
    assert _figures(result, "perennial") == {"ndcg_at_10.again.lead_0.all": 0.30, "ndcg_at_10.again.lead_28.all": 0.28, "ndcg_at_10.again.all_leads.all": 0.29}


def test_parameters_of_a_run_are_the_configuration_flattened():
    flat = _flat(PipelineConfig.model_validate({"name": "mine", "source": {"dataset": "synthetic"}}))
    assert flat["pretraining.encoder.width"] == "64"
    assert flat["evaluation.leads_days"] == "[0, 28]"
    assert flat["features.season_names.winter"] == "[335, 59]"


def test_curves_come_apart_by_kind_head_and_seed(tmp_path: Path):
    assert _losses(tmp_path) == {}
    assert _looks(tmp_path) == {}
    pl.DataFrame({"kind": ["training", "training", "held_out"], "period": [0, 1, 0], "loss": [3.0, 2.0, 2.5]}).write_parquet(tmp_path / "losses.parquet")
    assert _losses(tmp_path) == {"training_loss": [3.0, 2.0], "held_out_loss": [2.5]}
    for seed in (0, 1):
        (tmp_path / "2024-06-01" / f"seed_{seed}").mkdir(parents=True)
        pl.DataFrame({"held_out_ndcg_again": [0.1, 0.2 + seed]}).write_parquet(tmp_path / "2024-06-01" / f"seed_{seed}" / "looks.parquet")
    assert _looks(tmp_path) == {"held_out_ndcg_again.2024-06-01.seed_0": [0.1, 0.2], "held_out_ndcg_again.2024-06-01.seed_1": [0.1, 1.2]}
