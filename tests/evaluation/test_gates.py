import datetime as dt

import pytest

from contracts.sections.evaluation import GateConfig
from evaluation.gates import ForecastFigures, ServabilityFigures, decide, quality_gate, servability_gate
from evaluation.results import BestBaseline, Comparison, EvaluationResult, MetricRow, SliceRow

ORIGIN = dt.date(2021, 3, 1)
CONFIG = GateConfig()
SERVABLE = ServabilityFigures(loads_without_pickle=True, num_golden_requests=3, num_golden_equal=3, latency_p95_ms=20, size_mb=40)


def comparison(other="ease", low=0.01, list_name="again"):
    return Comparison(
        list=list_name, lead_days=None, metric="ndcg@10", model="ours", other=other, value=0.33, other_value=0.30,
        difference=0.03, ci_low=low * 0.3, ci_high=0.05, relative=0.1, relative_low=low, relative_high=0.17, num_users=900, num_rows=1_800,
    )  # fmt: skip


def season(name, relative, num_users=400, other="ease"):
    return SliceRow(
        kind="season", slice=name, list="again", model=other, metric="ndcg@10", value=0.3, ci_low=0.29, ci_high=0.31,
        num_users=num_users, num_rows=num_users, relative=relative, relative_low=relative - 0.02, relative_high=relative + 0.02,
    )  # fmt: skip


BETTER = comparison()


def result(*, comparisons=(BETTER,), slices=(), champion=None, coverage=0.2):
    return EvaluationResult(
        dataset="shop",
        model="ours",
        champion=champion,
        baselines=("ease",),
        horizon_days=28,
        origins=(ORIGIN,),
        rows=(MetricRow(dataset="shop", model="ours", list="again", lead_days=0, origin="2021-03-01", metric="coverage@10", value=coverage, n=900),),
        comparisons=comparisons,
        best_baselines=(BestBaseline(list="again", lead_days=None, on_tuning="ease", with_hindsight="popular_all"),),
        slices=slices,
        digest="0" * 16,
    )


def test_a_better_challenger_passes_and_says_against_whom():
    gate = quality_gate(result(), CONFIG)
    assert gate.passed
    assert gate.failures == ()
    assert "again: +10.0% against ease" in gate.reasons[0]
    assert gate.figures["again_relative_gain_low"] == 0.01


@pytest.mark.parametrize(("low", "passed"), [(-0.0099, True), (-0.0101, False)])
def test_the_lower_end_of_the_interval_decides(low, passed):
    gate = quality_gate(result(comparisons=(comparison(low=low),)), CONFIG)
    assert gate.passed is passed
    assert len(gate.failures) == (not passed)


def test_the_first_champion_is_compared_with_the_baseline_fixed_on_tuning_windows():
    both = (comparison(other="ease", low=-0.5), comparison(other="popular_all", low=0.3))
    assert not quality_gate(result(comparisons=both), CONFIG).passed


def test_a_later_challenger_is_compared_with_the_champion():
    both = (comparison(other="ease", low=-0.5), comparison(other="version 1", low=0.0))
    assert quality_gate(result(comparisons=both, champion="version 1"), CONFIG).passed


@pytest.mark.parametrize(("relative", "num_users", "passed"), [(-0.029, 400, True), (-0.031, 400, False), (-0.5, 12, True)])
def test_no_season_may_lose_more_than_allowed_unless_it_is_tiny(relative, num_users, passed):
    gate = quality_gate(result(slices=(season("spring", 0.2), season("autumn", relative, num_users))), CONFIG)
    assert gate.passed is passed
    if not passed:
        assert gate.failures == ("again: worst season autumn -3.1% against ease; no season may be below -3.0%",)


def test_narrow_lists_are_refused():
    assert quality_gate(result(coverage=0.009), CONFIG).failures == ("again: 0.9% of the candidates are recommended to anyone; at least 1.0% is asked",)


@pytest.mark.parametrize(("end", "passed"), [(ORIGIN, True), (ORIGIN + dt.timedelta(days=1), False)])
def test_who_has_seen_the_window_is_refused(end, passed):
    for name in ("ours", "version 1"):
        compared = result(champion="version 1", comparisons=(comparison(other="version 1"),))
        gate = quality_gate(compared, CONFIG, trained_until={name: end})
        assert gate.passed is passed
        if not passed:
            assert f"{name} has seen data after the first cut-off 2021-03-01" in gate.failures[0]


@pytest.mark.parametrize(("challenger", "opponent", "passed"), [(0.80, 0.80, True), (0.807, 0.80, True), (0.81, 0.80, False), (9.9, None, True)])
def test_forecasts_may_not_get_worse(challenger, opponent, passed):
    assert quality_gate(result(), CONFIG, forecast=ForecastFigures(challenger=challenger, opponent=opponent)).passed is passed


def test_a_worse_forecast_is_told_level_by_level_with_its_figures():
    gate = quality_gate(result(), CONFIG, forecast=ForecastFigures(challenger=0.9, opponent=0.8, by_level={"category": (0.8, 0.7), "total": (1.0, 0.9)}))
    said = "forecast: MASE 0.900 against 0.800 of last year's values (category 0.800 against 0.700, total 1.000 against 0.900); at most 0.808 is allowed"
    assert gate.failures == (said,)
    assert (gate.figures["forecast_mase"], gate.figures["forecast_mase_opponent"]) == (0.9, 0.8)


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({"loads_without_pickle": False}, "does not load with pickle forbidden"),
        ({"num_golden_equal": 2}, "2 of 3 golden requests answered as recorded"),
        ({"num_golden_requests": 0, "num_golden_equal": 0}, "no golden request was recorded; at least one is needed"),
        ({"latency_p95_ms": 251.0}, "latency p95 251.0 ms; at most 250.0 ms is allowed"),
        ({"size_mb": 2_001.0}, "size 2,001.0 MB; at most 2,000.0 MB is allowed"),
    ],
)
def test_each_condition_of_serving_can_fail(change, failure):
    assert servability_gate(SERVABLE, CONFIG).passed
    gate = servability_gate(SERVABLE.model_copy(update=change), CONFIG)
    assert gate.failures == (failure,)


def test_a_decision_needs_open_gates_and_an_agreement():
    opened = [quality_gate(result(), CONFIG), servability_gate(SERVABLE, CONFIG)]
    assert decide(opened, auto_promote=True).promoted
    assert decide(opened, auto_promote=False, is_approved=True).promoted
    waiting = decide(opened, auto_promote=False)
    assert not waiting.promoted
    assert "waits for a person's review" in waiting.reasons[0]


def test_a_shut_gate_overrules_an_approval_and_gives_its_reasons():
    shut = [quality_gate(result(comparisons=(comparison(low=-0.2),)), CONFIG), servability_gate(SERVABLE.model_copy(update={"size_mb": 1e6}), CONFIG)]
    decision = decide(shut, auto_promote=True, is_approved=True)
    assert not decision.promoted
    assert [reason.split(":")[0] for reason in decision.reasons] == ["quality gate", "servability gate"]
