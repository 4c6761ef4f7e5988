"""Cells of the forecast benchmark as rows: figures by hand, names, goals, and nothing lost between two processes."""

import json

import numpy as np
import pytest

from benchmarks.document import forecasts
from benchmarks.forecast_rows import keep_cell, ratio_interval, read_cells, rows_of_set, rows_of_speed

GRAMMAR = {"dataset", "model", "list", "lead_days", "origin", "metric", "value", "ci_low", "ci_high", "n", "seed"}
MEASURED = {"wape": 0.2, "smape": 0.3, "rmse": 4.0, "scaled_pinball": 0.1, "coverage_80": 0.9, "coverage_95": 0.97, "num_rows": 24, "mase": 0.5}
PART = {**MEASURED, "level": "item"}
CELLS = {
    "seasonal_naive": {"errors": [[1.0, 2.0, None], [1.0, 4.0, 2.0]], "cpu_seconds": 0.1},
    "theta": {"errors": [[0.5, 2.0, None], [0.5, 2.0, 2.0]], "cpu_seconds": 0.2},
    "recent_mean": {"errors": [[3.0, 2.0, None], [3.0, 4.0, 2.0]], "cpu_seconds": 0.2},
    "gru": {"errors": [[1.0, 1.0, None], [1.0, 1.0, 1.0]], "cpu_seconds": 9.0, "measures": MEASURED},
    "nhits": {"errors": [[2.0, 2.0, None], [2.0, 2.0, 2.0]], "cpu_seconds": 9.0, "measures": MEASURED},
    "neuralforecast_nhits": {"errors": [[1.0, 0.5, None], [1.0, 0.5, 1.0]], "cpu_seconds": 30.0, "steps": 1_000, "windows": 256},
    "chosen": {
        "git_sha": "abc",
        "date": "2026-01-02",
        "errors": [[0.4, 1.0, None], [0.6, 2.0, 1.0]],
        "origins": ["2020-01-06", "2020-03-02"],
        "cpu_seconds": 5.0,
        "measures": MEASURED,
        "by_step": [{"step": 3, "mase": 0.5, "coverage_80": 0.7, "coverage_95": 0.9}],
        "by_level": [PART],
        "by_season": [{"season": "Q1", "mase": 0.5, "wape": 0.2, "coverage_80": 0.8}],
        "chosen": {"item: gru": 2},
        "pinball": {"q900": 1.5},
    },
}


def row(rows: list[dict], model: str, metric: str, **wanted: object) -> dict:
    found = [
        one
        for one in rows
        if (one["model"], one["metric"]) == (model, metric) and all(one.get(key) == value for key, value in {"origin": "all", "list": None, **wanted}.items())
    ]
    assert len(found) == 1, (model, metric, wanted, found)
    return found[0]


@pytest.fixture
def rows() -> list[dict]:
    return rows_of_set("eia_weekly", "week", CELLS)


def test_every_row_keeps_to_the_grammar(rows):
    assert all(set(one) >= GRAMMAR for one in rows)
    assert {one["dataset"] for one in rows} == {"eia_weekly"}
    assert {one["model"] for one in rows} == {"perennial", "perennial:gru", "perennial:nhits", "neuralforecast:nhits", "seasonal_naive", "theta", "recent_mean"}


def test_errors_and_ratios_by_hand(rows):
    assert row(rows, "theta", "mase", lead_days=None)["value"] == pytest.approx(7 / 5)
    assert row(rows, "theta", "mase", lead_days=None)["n"] == 5
    assert row(rows, "perennial", "ratio to seasonal_naive")["value"] == pytest.approx(5 / 10)
    assert row(rows, "perennial", "mase", origin="2020-03-02")["value"] == pytest.approx(3.6 / 3)
    assert row(rows, "perennial", "coverage_80", lead_days=14, step=3)["value"] == 0.7
    assert row(rows, "perennial", "times chosen", list="item")["other"] == "perennial:gru"
    assert row(rows, "perennial", "ratio to seasonal_naive")["git_sha"] == "abc"


def test_the_pipeline_stands_beside_the_best_single_model_and_the_best_own_network_beside_neuralforecast(rows):
    beside = row(rows, "perennial", "ratio to best single model in hindsight")
    assert (beside["other"], beside["value"]) == ("theta", pytest.approx(5 / 7, rel=1e-4))
    network = row(rows, "perennial:gru", "ratio to neuralforecast:nhits")
    assert (network["note"], network["value"]) == ("best own network", pytest.approx(5 / 4))


def test_the_rows_of_the_rival_say_how_long_it_was_trained(rows):
    told = [row(rows, "neuralforecast:nhits", metric, lead_days=None) for metric in ("mase", "ratio to seasonal_naive")]
    assert [(one["steps"], one["windows"]) for one in told] == [(1_000, 256)] * 2


def test_goals_are_judged_by_what_was_found(rows):
    goals = {one["metric"]: (one["goal"], one["reached"]) for one in rows if "goal" in one}
    assert goals == {
        "goal: ratio to seasonal_naive": ("at most 0.45", False),
        "goal: coverage_80": ("0.75 to 0.85", False),
        "goal: ratio to neuralforecast:nhits": ("at most 1.05", False),
    }
    elsewhere = {one["metric"]: one["reached"] for one in rows_of_set("tourism_monthly", "month", CELLS) if "goal" in one}
    assert elsewhere["goal: ratio to seasonal_naive"]


def test_interval_is_a_bootstrap_over_series():
    ours, theirs = np.array([[1.0, 1.0, 9.0]]), np.array([[1.0, 1.0, 1.0]])
    ratio, low, high = ratio_interval(ours, theirs)
    assert (ratio, low, high) == (pytest.approx(11 / 3), 1.0, 9.0)
    assert ratio_interval(theirs * 2, theirs) == (2.0, 2.0, 2.0)


def test_a_set_without_last_year_has_no_rows():
    assert rows_of_set("eia_weekly", "week", {"theta": CELLS["theta"]}) == []


def test_cost_of_many_series_stands_beside_its_goal():
    cell = {"series": 100_000, "choice_cpu_seconds": 1.0, "forecast_cpu_seconds": 19.0, "wall_seconds": 601.0, "peak_gib": 2.0}
    found = {one["metric"]: one.get("reached") for one in rows_of_speed({"weekly_100000": cell})}
    assert found == {"choice_cpu_seconds": None, "forecast_cpu_seconds": None, "wall_seconds": False, "peak_gib": True}


def test_a_cell_is_kept_beside_those_of_another_process(tmp_path):
    keep_cell("eia_weekly", "theta", {"cpu_seconds": 1.0}, tmp_path)
    keep_cell("eia_weekly", "mstl", {"cpu_seconds": 2.0}, tmp_path)
    keep_cell("eia_weekly", "theta", {"cpu_seconds": 3.0}, tmp_path)
    assert read_cells(tmp_path) == {"eia_weekly": {"theta": {"cpu_seconds": 3.0}, "mstl": {"cpu_seconds": 2.0}}}
    assert len((tmp_path / "eia_weekly.json").read_text().splitlines()) == 4


def test_the_document_says_what_was_not_reached(rows):
    text = forecasts({"rows": json.loads(json.dumps(rows))})
    assert "| eia_weekly | perennial | 1.000 [" in text
    assert "| eia_weekly | neuralforecast:nhits (1,000 steps) | 0.800 [" in text
    assert "| 90.0% | 97.0% |" in text
    assert "* eia_weekly: perennial, ratio to seasonal naive 0.5, asked at most 0.45: **not reached**" in text
    assert "* eia_weekly: perennial to theta (best single model in hindsight): 0.714" in text
