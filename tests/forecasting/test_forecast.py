from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from contracts.sections.forecast import ForecastConfig
from contracts.tables import FORECASTS, QUANTILES, quantile_column
from forecasting.forecast import forecast_demand

MONDAY = date(2022, 1, 3)
CONFIG = ForecastConfig(horizon_periods=8, levels=("item", "category", "total"), season_periods=(13,), models=("seasonal_naive", "recent_mean", "season_trend"))


def demand_of(**series: list[float | None]) -> pl.DataFrame:
    """Weekly demand rows; all series end together."""
    longest = max(len(values) for values in series.values())
    return pl.concat(
        pl.DataFrame(
            {
                "level": "item",
                "id": name,
                "region": "all",
                "date": [MONDAY + timedelta(weeks=longest - len(values) + week) for week in range(len(values))],
                "units": pl.Series(values, dtype=pl.Float64),
                "buyers": pl.Series([1] * len(values), dtype=pl.Int64),
                "is_observed": True,
            }
        )
        for name, values in series.items()
    )


def seasonal(weeks: int, level: float = 100.0, season: int = 13) -> list[float]:
    return [level * (1 + 0.5 * np.sin(2 * np.pi * week / season)) for week in range(weeks)]


def noisy(weeks: int, seed: int, level: float = 50.0) -> list[float]:
    return np.random.default_rng(seed).poisson(level, weeks).astype(float).tolist()


def cutoff_after(weeks: int) -> date:
    return MONDAY + timedelta(weeks=weeks)


def test_a_pure_season_is_forecast_as_it_was():
    result = forecast_demand(demand_of(cards=seasonal(65)), cutoffs=[cutoff_after(65)], config=CONFIG)
    expected = seasonal(73)[65:]
    assert result.forecasts["mean"].to_numpy() == pytest.approx(expected, rel=1e-6)
    assert result.forecasts["date"].to_list() == [cutoff_after(65) + timedelta(weeks=step) for step in range(8)]


def test_the_table_follows_its_contract():
    forecasts = forecast_demand(demand_of(a=noisy(60, 1), b=noisy(60, 2)), cutoffs=[cutoff_after(60), cutoff_after(40)], config=CONFIG).forecasts
    assert dict(forecasts.schema) == dict(FORECASTS.schema)
    assert forecasts.select(FORECASTS.grain).is_unique().all()
    assert forecasts.null_count().sum_horizontal().item() == 0
    columns = [quantile_column(q) for q in QUANTILES]
    assert (np.diff(forecasts.select(columns).to_numpy(), axis=1) >= 0).all()
    assert forecasts.height == 2 * 2 * 8


def test_a_forecast_reads_nothing_at_or_after_its_cutoff():
    known = demand_of(a=noisy(60, 1), b=seasonal(60))
    changed = known.with_columns(pl.when(pl.col("date") >= cutoff_after(40)).then(pl.col("units") * 7 + 3).otherwise("units").alias("units"))
    cutoffs = [cutoff_after(40) - timedelta(days=1), cutoff_after(40)]
    first, second = (forecast_demand(rows, cutoffs=cutoffs, config=CONFIG) for rows in (known, changed))
    assert_frame_equal(first.forecasts, second.forecasts)
    assert_frame_equal(first.back_test, second.back_test)


def test_a_cutoff_inside_a_week_does_not_know_that_week():
    result = forecast_demand(demand_of(a=noisy(60, 1)), cutoffs=[cutoff_after(40) + timedelta(days=6)], config=CONFIG)
    assert result.forecasts["date"].min() == cutoff_after(40)


def test_the_order_of_the_rows_does_not_matter():
    rows = demand_of(a=noisy(60, 1), b=seasonal(60))
    first, second = (
        forecast_demand(table, cutoffs=[cutoff_after(60)], config=CONFIG).forecasts for table in (rows, rows.sample(fraction=1, shuffle=True, seed=3))
    )
    assert_frame_equal(first, second)


def test_last_year_is_kept_where_no_candidate_beats_it():
    spikes = [200.0 if week % 13 == 4 else 0.0 for week in range(65)]
    result = forecast_demand(
        demand_of(spikes=spikes), cutoffs=[cutoff_after(65)], config=CONFIG.model_copy(update={"models": ("seasonal_naive", "recent_mean")})
    )
    assert result.choices["model"].to_list() == ["seasonal_naive"]
    assert result.forecasts["mean"].to_list() == [spikes[65 - 13 + step] for step in range(8)]


@pytest.mark.parametrize(
    ("values", "mean", "fallback"),
    [
        ([7.0], 7.0, "one value"),
        ([0.0] * 60, 0.0, "all zero"),
        ([5.0] * 60, 5.0, "constant"),
        ([4.0, 6.0, 5.0], None, "3 values"),
        ([None] * 60, None, "no value"),
    ],
)
def test_a_series_that_cannot_be_modelled_gets_a_stated_fallback_and_stops_nobody(values, mean, fallback):
    result = forecast_demand(demand_of(bad=values, good=noisy(60, 1)), cutoffs=[cutoff_after(60)], config=CONFIG)
    stated = result.choices.filter(pl.col("id") == "bad")["fallback"].item()
    assert stated.startswith(fallback)
    rows = result.forecasts.filter(pl.col("id") == "bad")
    if fallback == "no value":
        assert rows.is_empty()
    else:
        assert rows.height == 8
        assert rows.select(pl.selectors.numeric().is_finite().all()).to_numpy().all()
    if mean is not None:
        assert rows["mean"].to_list() == [mean] * 8
    assert result.forecasts.filter(pl.col("id") == "good").height == 8


def test_a_bad_series_does_not_change_a_good_one_s_mean():
    alone = forecast_demand(demand_of(good=noisy(60, 1)), cutoffs=[cutoff_after(60)], config=CONFIG).forecasts["mean"]
    beside = forecast_demand(demand_of(bad=[None] * 60, good=noisy(60, 1)), cutoffs=[cutoff_after(60)], config=CONFIG).forecasts["mean"]
    assert alone.to_list() == beside.to_list()


def test_a_horizon_longer_than_the_history_is_answered_and_said():
    result = forecast_demand(demand_of(short=noisy(12, 4)), cutoffs=[cutoff_after(12)], config=CONFIG.model_copy(update={"horizon_periods": 30}))
    assert result.forecasts.height == 30
    assert "shorter than the horizon" in result.choices["fallback"].item()


def duplicated(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([rows, rows[[20]]])


def irregular(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_row_index().with_columns(date=pl.when(pl.col("index") == 20).then(pl.col("date") + timedelta(days=2)).otherwise("date")).drop("index")


def negative(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_row_index().with_columns(units=pl.when(pl.col("index") == 20).then(-4.0).otherwise("units")).drop("index")


@pytest.mark.parametrize(
    ("spoil", "note", "equal_to"),
    [
        (duplicated, "duplicated periods added up", lambda units: [*units[:20], 2 * units[20], *units[21:]]),
        (irregular, "irregular dates moved to their period", lambda units: units),
        (negative, "negative units set to 0", lambda units: [*units[:20], 0.0, *units[21:]]),
    ],
)
def test_bad_rows_are_mended_as_noted_and_stop_nobody(spoil, note, equal_to):
    messy, clean = demand_of(messy=noisy(60, 5)), demand_of(clean=noisy(60, 6))
    result = forecast_demand(pl.concat([spoil(messy), clean]), cutoffs=[cutoff_after(60)], config=CONFIG)
    notes = dict(result.choices.select("id", "notes").iter_rows())
    assert notes == {"clean": None, "messy": note}
    mended = forecast_demand(pl.concat([demand_of(messy=equal_to(noisy(60, 5))), clean]), cutoffs=[cutoff_after(60)], config=CONFIG)
    assert result.forecasts["mean"].to_list() == mended.forecasts["mean"].to_list()


def test_several_faults_of_one_series_are_all_noted():
    result = forecast_demand(duplicated(irregular(negative(demand_of(messy=noisy(60, 5))))), cutoffs=[cutoff_after(60)], config=CONFIG)
    assert result.choices["notes"].item() == "irregular dates moved to their period; negative units set to 0; duplicated periods added up"


def test_an_empty_table_is_refused_with_advice():
    with pytest.raises(ValueError, match="expected at least one row"):
        forecast_demand(demand_of(a=[1.0]).clear(), cutoffs=[cutoff_after(60)], config=CONFIG)


def test_a_cutoff_before_all_history_has_no_rows():
    result = forecast_demand(demand_of(a=noisy(20, 1)), cutoffs=[MONDAY - timedelta(weeks=9), cutoff_after(20)], config=CONFIG)
    assert result.forecasts["cutoff"].unique().to_list() == [cutoff_after(20)]
