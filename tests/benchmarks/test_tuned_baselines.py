"""Baselines tuned per data set: what is tried holds what every run measures, tuning sees no reported window, and ours are paired with what was chosen."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import tuned_baselines as tuned
from benchmarks.recommender import parameters_of
from benchmarks.tuned_baselines import FIXED, TUNED, Setting
from contracts.config import PipelineConfig
from contracts.sections.evaluation import EvaluationConfig
from evaluation import baselines
from evaluation.ranking_metrics import score_rankings

ORIGIN = date(2017, 6, 1)


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    config = parameters_of("complete_journey", str(tmp_path), quick=False)
    return tuned.at_origins(config, [ORIGIN])


@pytest.fixture
def events() -> pl.DataFrame:
    """Thirty users of three items out of forty, which change slowly; eight months."""
    drawn = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{(user + int(day) // 20 + int(drawn.integers(3))) % 40:02}", date(2017, 1, 2) + timedelta(days=int(day)))
        for user in range(30)
        for day in drawn.integers(0, 240, 25)
    ]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "event_time"], orient="row").sort("event_time", maintain_order=True)
    return table.with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")), event_type=pl.lit("purchase"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    found = [Setting("habit_90d"), Setting("habit_45d"), Setting("popular_28d"), Setting("ease", (200.0, 0.02)), Setting("ease", (50.0, 0.005))]
    monkeypatch.setattr(tuned, "settings", lambda: found)
    return found


def test_what_is_tried_holds_every_baseline_with_its_fixed_settings() -> None:
    found = tuned.settings()
    assert len(set(found)) == len(found)
    assert {one.name for one in found if one.is_fixed} == set(EvaluationConfig().baselines)
    for one in found:
        baselines.check_baseline_name(one.name)


def test_tuning_does_not_see_the_reported_windows(config: PipelineConfig, events: pl.DataFrame, few: list[Setting]) -> None:
    tried = tuned.tuning_figures(config, events, {date(2017, 4, 1): (0, 28), date(2017, 5, 4): (0,)})
    assert {setting for setting, _, _ in tried} == set(few)
    before = tuned.measured(config, events)
    later = pl.col("event_time") >= pl.lit(ORIGIN)
    other = events.with_columns(item_id=pl.when(later).then(pl.lit("i00")).otherwise("item_id"))
    after = tuned.measured(config, other)
    assert before["chosen"] == after["chosen"]
    assert before["rows"] == after["rows"]
    assert before["users"] != after["users"]


def test_the_best_of_all_is_no_worse_on_tuning_windows_than_the_best_with_fixed_settings(
    config: PipelineConfig, events: pl.DataFrame, few: list[Setting]
) -> None:
    cell = tuned.measured(config, events)
    values = {(row["model"], row["list"], row["lead_days"]): row["value"] for row in cell["rows"]}
    for list_name, lead in ((name, lead) for name in ("again", "discover") for lead in (0, 28)):
        chosen = {model: cell["chosen"][model][f"{list_name} {lead}"] for model in (FIXED, TUNED)}
        assert values[chosen[TUNED], list_name, lead] == max(values[str(one), list_name, lead] for one in few)
        assert chosen[FIXED] in {"habit_90d", "popular_28d", "ease, ridge 200, floor 0.02"}
        assert len(cell["users"][TUNED][f"{list_name} {ORIGIN} {lead}"].split()) > 5


def test_the_fixed_settings_are_back_after_others_were_tried() -> None:
    before = baselines.EASE_REGULARISATION, baselines.EASE_LOG_FLOOR
    with tuned.ease_with((1.0, 0.5)):
        assert (baselines.EASE_REGULARISATION, baselines.EASE_LOG_FLOOR) == (1.0, 0.5)
    assert before == (baselines.EASE_REGULARISATION, baselines.EASE_LOG_FLOOR)


def test_users_are_those_of_what_was_chosen(config: PipelineConfig, events: pl.DataFrame, few: list[Setting]) -> None:
    """Window by window, ranked again by the chosen one alone and scored."""
    cell = tuned.measured(config, events)
    assert len(set(cell["chosen"][TUNED].values())) > 1
    by_name = {str(one): one for one in few}
    for (list_name, origin, lead), wanted in tuned.windows_of(events, config):
        for model in (FIXED, TUNED):
            chosen = by_name[cell["chosen"][model][f"{list_name} {lead}"]]
            with tuned.ease_with(chosen.ease):
                ranked = baselines.baseline_rankings(events, cutoff=origin, lead_days=lead, horizon_days=28, lists=[list_name], names=[chosen.name])
            expected = score_rankings(ranked, wanted).sort("user_id")["ndcg"].to_list()
            found = [int(value) / 10_000 for value in cell["users"][model][f"{list_name} {origin} {lead}"].split()]
            assert found == pytest.approx(expected, abs=5e-5)


def test_leads_that_leave_the_data_are_not_ranked(config: PipelineConfig, events: pl.DataFrame, few: list[Setting]) -> None:
    short = events.filter(pl.col("event_time") < pl.lit(ORIGIN + timedelta(days=30)))
    cell = tuned.measured(config, short)
    assert {key.rsplit(" ", 1)[1] for key in cell["users"][TUNED]} == {"0"}


def test_ours_are_paired_with_what_was_chosen(config: PipelineConfig, events: pl.DataFrame, few: list[Setting], monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tuned.measured(config, events)
    perfect = {key: " ".join("10000" for _ in values.split()) for key, values in cell["users"][TUNED].items()}
    monkeypatch.setattr("benchmarks.recommender.our_users", lambda config: {"seed 0": {"users": perfect}})
    rows = tuned.figures_and_gains(config, events, cell)
    figures = {(row["model"], row["list"], row["lead_days"]): row for row in rows if row["metric"] == "ndcg@10"}
    gains = {(row["other"], row["list"], row["lead_days"]): row for row in rows if row["metric"] == "gain of ndcg@10"}
    assert set(gains) == {key for key in figures if key[0] != "perennial"}
    for key, gain in gains.items():
        assert gain["relative"] == pytest.approx(1 / figures[key]["value"] - 1, abs=1e-6)
        assert figures[key]["chosen"] == cell["chosen"][key[0]][f"{key[1]} {key[2]}"]
    monkeypatch.setattr("benchmarks.recommender.our_users", lambda config: {})
    assert {row["model"] for row in tuned.figures_and_gains(config, events, cell)} == {FIXED, TUNED}
