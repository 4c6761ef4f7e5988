"""Do forecasts help: the two arms differ in nothing but forecasts, one never sees any, and gains are those of the arm with them."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from benchmarks import forecast_help
from benchmarks.forecast_help import LEADS, ORIGINS, WITH, WITHOUT, compared, parameters_of
from contracts.config import PipelineConfig
from flows import first_steps, partial_runs

ORIGIN = date(2017, 9, 1)
FORECASTS = "a table of forecasts"


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    return parameters_of("complete_journey", str(tmp_path), origins=(ORIGIN,), encoder=False)


def at(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def behaviour(config: PipelineConfig) -> pl.LazyFrame:
    """Every user buys "a" in each window; "a", "b" and "c" were sold before to another one, so that all are candidates."""
    rows = [("u99", item, at(date(2017, 3, 1))) for item in "abc"] + [(f"u{user}", "z", at(date(2017, 3, 1))) for user in range(20)]
    rows += [(f"u{user}", "a", at(ORIGIN + timedelta(days=lead + 2))) for user in range(20) for lead in LEADS]
    rows.append(("u98", "c", at(ORIGIN + timedelta(days=max(LEADS) + config.evaluation.horizon_days + 1))))
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "event_time"], orient="row").with_columns(event_type=pl.lit("purchase"))
    return events.with_columns(pl.col("event_time").dt.cast_time_unit("us")).lazy()


def rankings_of(items: str) -> pl.DataFrame:
    """The same list for every user, lead and list."""
    return pl.DataFrame(
        [
            {"cutoff": ORIGIN, "request_date": ORIGIN + timedelta(days=lead), "list": name, "user_id": f"u{user}", "item_id": item, "rank": rank}
            for lead in LEADS
            for name in ("again", "discover")
            for user in range(20)
            for rank, item in enumerate(items, start=1)
        ],
        schema_overrides={"rank": pl.Int32},
    )


def gains(rows: list[dict[str, Any]]) -> dict[int | None, dict[str, Any]]:
    return {row["lead_days"]: row for row in rows if row["list"] == "discover" and row["metric"].startswith("gain")}


def test_the_arm_without_forecasts_never_sees_one(config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms: list[PipelineConfig] = []
    seen: list[list[Any]] = []

    def measured(asked: PipelineConfig) -> Any:
        arms.append(asked)
        seen.append([])
        first_steps.fine_tuning_inputs(asked, SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
        path = tmp_path / f"{len(arms)}.parquet"
        rankings_of("abc" if asked.forecast.enabled else "bac").write_parquet(path)
        return SimpleNamespace(rankings=SimpleNamespace(path=str(path)))

    def season(features: Any, forecasts: Any, *given: Any, **more: Any) -> Any:
        seen[-1].append(forecasts)

    monkeypatch.setattr(forecast_help, "CELLS", tmp_path / "cells")
    monkeypatch.setattr(forecast_help, "use_local_stores", lambda *given: None)
    monkeypatch.setattr(forecast_help, "read_table", lambda table: table)
    monkeypatch.setattr(partial_runs, "train_and_measure", measured)
    monkeypatch.setattr(partial_runs, "validate_only", lambda asked: (None, SimpleNamespace(accepted=behaviour(config))))
    monkeypatch.setattr(first_steps, "feature_tables", lambda *given: None)
    monkeypatch.setattr(first_steps, "forecast_demand", lambda *given, **more: FORECASTS)
    monkeypatch.setattr(first_steps, "build_season", season)
    monkeypatch.setattr(first_steps, "pretrain", lambda *given, **more: None)

    rows = forecast_help.measured_cell(config)
    assert seen == [[FORECASTS], [None]]
    assert gains(rows)[0]["value"] > 0  # the first arm is the one with forecasts
    alike = [arm.model_copy(update={"forecast": config.forecast}) for arm in arms]
    assert alike[0] == alike[1]  # and nothing else sets them apart
    assert forecast_help.measured_cell(config) == rows
    assert len(arms) == 2  # the second time the cell is read


@pytest.mark.parametrize(("with_them", "without", "gain"), [("abc", "bac", 1 / 0.63093 - 1), ("bac", "abc", 0.63093 - 1), ("abc", "acb", 0.0)])
def test_a_gain_is_positive_where_the_list_with_forecasts_is_better(config: PipelineConfig, with_them: str, without: str, gain: float) -> None:
    rows = compared({WITH: rankings_of(with_them), WITHOUT: rankings_of(without)}, behaviour(config), config)
    found = gains(rows)
    assert set(LEADS) <= set(found)
    for lead in LEADS:
        assert found[lead]["other"] == WITHOUT
        assert found[lead]["relative"] == pytest.approx(gain, abs=1e-4)  # bought: second place is worth 1 / log2(3)
        assert found[lead]["relative_low"] == pytest.approx(gain, abs=1e-4)  # all users alike: no width


@pytest.mark.parametrize("name", list(ORIGINS))
def test_forecasts_reach_the_end_of_the_farthest_window(name: str, tmp_path: Path) -> None:
    config = parameters_of(name, str(tmp_path), origins=ORIGINS[name], encoder=False)
    days = {"day": 1, "week": 7, "month": 28}[config.forecast.frequency]
    assert config.forecast.enabled
    assert config.forecast.horizon_periods * days >= max(LEADS) + config.evaluation.horizon_days
    assert config.evaluation.leads_days == config.fine_tuning.leads_days == LEADS
