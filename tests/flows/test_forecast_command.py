"""`perennial forecast`: one series as a table and as a picture, from stored tables; the flow behind it is replaced."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from contracts import columns as c
from contracts.artifacts import FeatureTables, ForecastTables
from contracts.sections.forecast import ForecastConfig
from features.calendar import calendar
from flows import demand_forecast
from forecasting.forecast import forecast_demand
from tasks.store import write_table

Invoke = Callable[..., Any]
FIRST, WEEKS, HORIZON = date(2020, 1, 6), 130, 10
END = FIRST + timedelta(weeks=WEEKS)
CONFIG = ForecastConfig(horizon_periods=HORIZON, levels=("category", "total"), models=("seasonal_naive", "season_trend"))


def weekly(level: str, name: str, size: float) -> pl.DataFrame:
    days = [FIRST + timedelta(weeks=week) for week in range(WEEKS)]
    units = size * (1 + 0.5 * np.cos(2 * np.pi * (np.arange(WEEKS) - 26) / 52))
    return pl.DataFrame({"level": level, "id": name, "region": "all", "date": days, "units": units})


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureTables, ForecastTables]:
    folder = tmp_path_factory.mktemp("forecast")
    demand = pl.concat([weekly("category", "ice", 100.0), weekly("total", "total", 100.0)])
    days = calendar(FIRST, END + timedelta(weeks=HORIZON), regions={"all": "GB"})
    result = forecast_demand(demand, cutoffs=[END - timedelta(weeks=20), END], config=CONFIG, calendar=days)
    catalogue = pl.DataFrame({c.ITEM_ID: ["cone"], c.CATEGORY: ["ice > cones"]})
    features = FeatureTables(
        first_day=str(FIRST),
        end=str(END),
        cutoffs=(str(END),),
        origins=(),
        vocabulary=write_table(catalogue, folder / "vocabulary.parquet", "vocabulary"),
        item_catalogue=write_table(catalogue, folder / "catalogue.parquet", "item_catalogue"),
        training_events=None,
        calendar=write_table(days, folder / "calendar.parquet", "calendar"),
        demand=write_table(demand, folder / "demand.parquet", "demand"),
    )
    return features, ForecastTables(
        forecasts=write_table(result.forecasts, folder / "forecasts.parquet", "forecasts"),
        back_test=write_table(result.back_test, folder / "back_test.parquet", "back_test"),
        choices=write_table(result.choices, folder / "choices.parquet", "choices"),
    )


@pytest.fixture
def asked(tables: tuple[FeatureTables, ForecastTables], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> Callable[..., Any]:
    parameters = tmp_path / "mine.yaml"
    parameters.write_text(
        f"name: mine\nstorage_root: {tmp_path}/stores\nsource: {{dataset: synthetic}}\nforecast: {CONFIG.model_dump_json()}\n", encoding="utf-8"
    )
    registered: list[bool] = []

    def flow(_config: object, *, fresh: bool, registered: bool, to: list[bool] = registered) -> tuple[FeatureTables, ForecastTables]:
        assert not fresh
        to.append(registered)
        return tables

    monkeypatch.setattr(demand_forecast, "demand_forecast", flow)

    def ask(*words: str) -> Any:
        shown = invoke("forecast", str(parameters), *words)
        shown.registered = registered
        return shown

    return ask


def test_an_item_shows_its_weeks_and_is_drawn_and_registers_nothing(asked, tables, tmp_path):
    shown = asked("--item", "ice", "--weeks", "4", "--plot", str(tmp_path / "pictures" / "out.png"))
    assert shown.exit_code == 0, shown.output
    newest = pl.read_parquet(tables[1].forecasts.path).filter(pl.col("id") == "ice", pl.col("cutoff") == END).sort("date")
    lines = [line.split() for line in shown.output.splitlines() if line[:4].isdigit()]
    assert [line[:2] for line in lines] == [[str(day), f"{mean:,.1f}"] for day, mean in newest.head(4).select("date", "mean").iter_rows()]
    assert (tmp_path / "pictures" / "out.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert shown.registered == [False]


def test_more_weeks_than_were_forecast_are_said(asked):
    shown = asked("--item", "total", "--weeks", "30")
    assert len([line for line in shown.output.splitlines() if line[:4].isdigit()]) == HORIZON
    assert f"the forecast ends on {END + timedelta(weeks=HORIZON)}, before 30 weeks" in shown.output


def test_an_item_without_a_forecast_of_its_own_shows_its_category(asked):
    assert "ice (category)" in asked("--item", "cone").output


def test_unknown_item_is_said_with_names_that_are_known(asked):
    shown = asked("--item", "snow")
    assert shown.exit_code == 2
    assert "nothing was forecast under 'snow'. Known, for instance: ice, total" in " ".join(shown.output.replace("│", "").split())


def test_a_picture_of_nothing_is_refused(asked, tmp_path):
    shown = asked("--plot", str(tmp_path / "x.png"))
    assert shown.exit_code == 2
    assert "name the series to draw with --item" in " ".join(shown.output.replace("│", "").split())
    assert shown.registered == []


def test_without_an_item_the_choice_of_each_level_is_shown_and_registered(asked, tables):
    shown = asked()
    assert shown.registered == [True]
    test = pl.read_parquet(tables[1].back_test.path).filter(pl.col("cutoff") == END, pl.col("chosen"))
    for level, model in test.select("level", "model").iter_rows():
        assert any(line.split()[:2] == [level, model] for line in shown.output.splitlines())
