"""The registered forecaster: the newest forecasts only, series by series, days both included."""

from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from serving.forecast_model import ForecastModel, ForecastRequest

CUTOFF = date(2024, 3, 4)


def rows(cutoff: date, name: str, mean: float, region: str = "all") -> pl.DataFrame:
    days = [cutoff + timedelta(weeks=week) for week in range(4)]
    quantiles = {f"q{place:03d}": [mean * share] * 4 for place, share in ((25, 0.2), (100, 0.5), (500, 1.0), (900, 1.5), (975, 1.8))}
    told = {"cutoff": [cutoff] * 4, "level": "category", "id": name, "region": region, "date": days, "model": "chosen"}
    return pl.DataFrame({**told, "mean": [mean + week for week in range(4)], **quantiles})


@pytest.fixture
def model(tmp_path: Path) -> ForecastModel:
    older, region = rows(CUTOFF - timedelta(weeks=4), "ice", 99.0), rows(CUTOFF, "ice", 3.0, region="north")
    pl.concat([older, rows(CUTOFF, "ice", 10.0), rows(CUTOFF, "tea", 5.0), region]).write_parquet(tmp_path / "forecasts.parquet")
    loaded = ForecastModel()
    loaded.load_context(SimpleNamespace(artifacts={"forecasts": str(tmp_path / "forecasts.parquet")}))
    return loaded


def test_each_request_is_answered_in_order_from_the_newest_cutoff(model: ForecastModel):
    tea, ice = model.predict([ForecastRequest(id="tea"), ForecastRequest(id="ice")])
    assert (tea.id, [period.mean for period in tea.periods]) == ("tea", [5.0, 6.0, 7.0, 8.0])
    assert (ice.id, [period.mean for period in ice.periods]) == ("ice", [10.0, 11.0, 12.0, 13.0])
    assert [period.date for period in ice.periods] == ["2024-03-04", "2024-03-11", "2024-03-18", "2024-03-25"]
    assert ice.periods[0].quantiles == {"q025": 2.0, "q100": 5.0, "q500": 10.0, "q900": 15.0, "q975": 18.0}


def test_days_asked_for_are_both_included(model: ForecastModel):
    (answer,) = model.predict([ForecastRequest(id="ice", first_day="2024-03-11", last_day="2024-03-18")])
    assert [period.mean for period in answer.periods] == [11.0, 12.0]


def test_a_region_has_its_own_forecast(model: ForecastModel):
    (answer,) = model.predict([ForecastRequest(id="ice", region="north")])
    assert answer.periods[0].mean == 3.0


def test_an_unknown_series_has_no_periods(model: ForecastModel):
    (answer,) = model.predict([ForecastRequest(level="item", id="ice")])
    assert answer.periods == []
