"""Series made with a known truth: what was planted must come out of the forecast."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from contracts.sections.forecast import ForecastConfig
from forecasting.feasts import exposures, take_out_feasts
from forecasting.forecast import forecast_demand
from forecasting.models import forecast_mean
from forecasting.panel import build_panel
from forecasting.plot import decompose, fan_chart

MONDAY = date(2018, 1, 1)
EASTERS = [date(2018, 4, 1), date(2019, 4, 21), date(2020, 4, 12), date(2021, 4, 4), date(2022, 4, 17), date(2023, 4, 9)]
BATCH = ("seasonal_naive", "recent_mean", "season_trend", "season_trend_recent", "season_trend_additive", "season_level", "autoregression", "combination")


def rows(name: str, units: np.ndarray, *, first: date = MONDAY, days: int = 7, level: str = "item", observed: np.ndarray | None = None) -> pl.DataFrame:
    dates = [first + timedelta(days=days * step) for step in range(len(units))]
    seen = np.ones(len(units), dtype=bool) if observed is None else observed
    return pl.DataFrame({"level": level, "id": name, "region": "all", "date": dates, "units": units.astype(float), "is_observed": seen})


def feast_calendar(first: date, last: date, feasts: dict[str, list[date]]) -> pl.DataFrame:
    days = pl.date_range(first, last, "1d", eager=True)
    distance = {f"days_from_{name}": [min(((day - mark).days for mark in marks), key=abs) for day in days] for name, marks in feasts.items()}
    return pl.DataFrame({"date": days, "region": "all", **distance})


def weekly(horizon: int = 12, **changes: object) -> ForecastConfig:
    return ForecastConfig(horizon_periods=horizon, levels=("item",), models=BATCH, **changes)


def yearly(weeks: int, peak_week: float, level: float = 100.0, depth: float = 0.5) -> np.ndarray:
    """A yearly wave by the calendar's week, so that it drifts against a row's position as real weeks do."""
    return level * (1 + depth * np.cos(2 * np.pi * (np.arange(weeks) - peak_week) / 52))


def relative_error(forecast: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(forecast - truth).mean() / truth.mean())


def test_weekly_and_yearly_seasons_together():
    day = np.arange(3 * 364 + 28)
    truth = 100 * (1 + 0.3 * np.sin(2 * np.pi * day / 7)) * (1 + 0.5 * np.sin(2 * np.pi * day / 364))
    noisy = truth * np.random.default_rng(0).normal(1, 0.03, len(truth))
    past = noisy[None, : 3 * 364]
    for model in ("season_trend", "season_trend_additive"):
        error = relative_error(forecast_mean(model, past, 28, (7, 364))[0], truth[3 * 364 :])
        assert error < (0.03 if model == "season_trend" else 0.1), model
    assert relative_error(forecast_mean("season_trend", past, 28, (7,))[0], truth[3 * 364 :]) > 0.05


def test_opposite_hemispheres_keep_their_own_seasons():
    north, south = yearly(156 + 12, 26), yearly(156 + 12, 0)
    table = pl.concat([rows("north", north[:156]), rows("south", south[:156])])
    result = forecast_demand(table, cutoffs=[MONDAY + timedelta(weeks=156)], config=weekly()).forecasts
    for name, truth in (("north", north), ("south", south)):
        mean = result.filter(pl.col("id") == name).sort("date")["mean"].to_numpy()
        assert relative_error(mean, truth[156:]) < 0.02
        assert np.sign(mean[-1] - mean[0]) == np.sign(truth[-1] - truth[156])


def test_a_feast_that_moves_lifts_the_week_it_falls_in_and_not_that_of_last_year():
    weeks = 52 * 5
    starts = [MONDAY + timedelta(weeks=week) for week in range(weeks + 20)]
    lift = np.array([3.0 if any(start <= easter < start + timedelta(days=7) for easter in EASTERS) else 1.0 for start in starts])
    random = np.random.default_rng(2)
    table = pl.concat([rows(f"egg {number}", 100 * lift[:weeks] * random.normal(1, 0.05, weeks)) for number in range(4)])
    calendar = feast_calendar(MONDAY, starts[-1], {"easter": EASTERS})
    cutoff = starts[weeks]
    with_calendar, without = (forecast_demand(table, cutoffs=[cutoff], config=weekly(20), calendar=given).forecasts for given in (calendar, None))
    easter_week = next(start for start in starts if start <= EASTERS[-1] < start + timedelta(days=7))
    last_years_week = next(start for start in starts if start <= EASTERS[-2] < start + timedelta(days=7)) + timedelta(weeks=52)

    def mean_of(result: pl.DataFrame, week: date) -> float:
        return result.filter(pl.col("date") == week)["mean"].mean()

    assert mean_of(with_calendar, easter_week) > 240
    assert mean_of(with_calendar, last_years_week) < 140
    assert mean_of(without, easter_week) < 200


@pytest.mark.parametrize("feast", ["chinese_new_year", "ramadan", "thanksgiving"])
def test_moving_feasts_are_estimated_at_their_size(feast):
    marks = {
        "chinese_new_year": [date(2018, 2, 16), date(2019, 2, 5), date(2020, 1, 25), date(2021, 2, 12), date(2022, 2, 1), date(2023, 1, 22)],
        "ramadan": [date(2018, 5, 16), date(2019, 5, 6), date(2020, 4, 24), date(2021, 4, 13), date(2022, 4, 2), date(2023, 3, 23)],
        "thanksgiving": [date(2018, 11, 22), date(2019, 11, 28), date(2020, 11, 26), date(2021, 11, 25), date(2022, 11, 24), date(2023, 11, 23)],
    }[feast]
    days = 364 * 5
    dates = [MONDAY + timedelta(days=day) for day in range(days + 28)]
    before = np.array([any(1 <= (mark - day).days <= 7 for mark in marks) for day in dates])
    truth = 200 * np.where(before, 1.5, 1.0)
    noise = np.random.default_rng(4).normal(1, 0.03, (6, days))
    panel = build_panel(pl.concat([rows(f"i{number}", truth[:days] * noise[number], days=1) for number in range(6)]), "day", (364,))
    exposure = np.stack(list(exposures(feast_calendar(MONDAY, dates[-1], {feast: marks}), panel, 28, "all").values()))
    adjusted, _ = take_out_feasts(panel.values, exposure, 28, (364,))
    taken = (panel.values / adjusted).mean(0)
    moved = before[:days] & ~np.roll(before[:days], 364) if feast == "thanksgiving" else before[:days]
    assert taken[moved].mean() > 1.15
    assert taken[~before[:days]].mean() == pytest.approx(1.0, abs=0.03)


def test_a_level_shift_is_followed_within_weeks():
    units = np.concatenate([np.full(140, 100.0), np.full(16, 40.0)]) * np.random.default_rng(1).normal(1, 0.05, 156)
    result = forecast_demand(rows("shifted", units), cutoffs=[MONDAY + timedelta(weeks=156)], config=weekly())
    assert abs(result.forecasts["mean"].mean() - 40) < (100 - 40) / 5


def test_a_stock_out_is_not_taken_for_missing_demand():
    units = yearly(156, 26)
    observed = np.ones(156, dtype=bool)
    observed[148:] = False
    sold = np.where(observed, units, 0.0)
    cutoff = MONDAY + timedelta(weeks=156)
    told = forecast_demand(rows("a", sold, observed=observed), cutoffs=[cutoff], config=weekly())
    untold = forecast_demand(rows("a", sold), cutoffs=[cutoff], config=weekly())
    truth = yearly(168, 26)[156:]
    assert relative_error(told.forecasts["mean"].to_numpy(), truth) < 0.05
    assert relative_error(untold.forecasts["mean"].to_numpy(), truth) > 0.3
    assert told.choices["notes"].item() == "gaps filled"


def test_a_withdrawn_item_fades_to_nothing():
    units = np.concatenate([np.full(120, 50.0), np.zeros(36)])
    result = forecast_demand(rows("gone", units), cutoffs=[MONDAY + timedelta(weeks=156)], config=weekly())
    assert result.forecasts["mean"].max() < 2.0


def test_a_new_item_takes_the_course_of_its_category():
    category = yearly(156 + 12, 6)
    new = category[152:156] / 10
    table = pl.concat([rows("toys", category[:156], level="category"), rows("kite", new, first=MONDAY + timedelta(weeks=152))])
    config = ForecastConfig(horizon_periods=12, levels=("item", "category"), models=BATCH, reconcile=False)
    result = forecast_demand(table, cutoffs=[MONDAY + timedelta(weeks=156)], config=config, item_categories={"kite": "toys"})
    kite = result.forecasts.filter(pl.col("id") == "kite")["mean"].to_numpy()
    assert relative_error(kite, category[156:] / 10) < 0.05
    assert result.choices.filter(pl.col("id") == "kite")["fallback"].item() == "own level, course of its category"


def test_intervals_cover_what_they_say():
    random = np.random.default_rng(6)
    number, weeks = 60, 156
    units = random.poisson(40, (number, weeks + 8))
    table = pl.concat([rows(f"i{row:02d}", units[row, :weeks]) for row in range(number)])
    result = forecast_demand(table, cutoffs=[MONDAY + timedelta(weeks=weeks)], config=weekly(8)).forecasts
    actual = pl.concat([rows(f"i{row:02d}", units[row]) for row in range(number)]).select("id", "date", actual="units")
    joined = result.join(actual, on=["id", "date"])
    covered = joined.select(
        pl.col("actual").is_between("q100", "q900").mean().alias("c80"), pl.col("actual").is_between("q025", "q975").mean().alias("c95")
    ).row(0)
    assert 0.75 < covered[0] < 0.88
    assert 0.91 < covered[1] < 0.99


def test_never_worse_than_last_year_over_many_kinds_of_series():
    random = np.random.default_rng(9)
    kinds = [
        yearly(168, 26) * random.normal(1, 0.1, 168),
        random.poisson(0.4, 168).astype(float),
        np.cumsum(random.normal(0, 1, 168)) + 60,
        np.where(np.arange(168) % 52 == 50, 500.0, 5.0),
        random.poisson(20 * np.linspace(1, 3, 168)).astype(float),
    ]
    table = pl.concat([rows(f"k{row}", np.maximum(units[:156], 0)) for row, units in enumerate(kinds)])
    mean = forecast_demand(table, cutoffs=[MONDAY + timedelta(weeks=156)], config=weekly()).forecasts.sort("id", "date")["mean"].to_numpy().reshape(5, 12)
    truth, last_year = np.array([units[156:] for units in kinds]), np.array([units[104:116] for units in kinds])
    scale = np.array([np.abs(units[52:156] - units[:104]).mean() or 1.0 for units in kinds])
    ours, theirs = (np.abs(truth - guess).mean(1) / scale for guess in (mean, last_year))
    assert ours.mean() < theirs.mean()


def test_trend_week_year_and_feasts_are_found_apart():
    num_days = 364 * 4
    day = np.arange(num_days)
    planted = {
        "trend": 100 * (1 + 0.5 * day / num_days),
        "season_7": 1 + 0.3 * np.sin(2 * np.pi * day / 7),
        "season_364": 1 + 0.4 * np.sin(2 * np.pi * day / 364),
        "feasts": np.where([any(1 <= (easter - MONDAY).days - number <= 7 for easter in EASTERS) for number in day], 1.5, 1.0),
    }
    units = np.prod(list(planted.values()), axis=0) * np.random.default_rng(11).normal(1, 0.03, num_days)
    days = feast_calendar(MONDAY, MONDAY + timedelta(days=num_days), {"easter": EASTERS})
    parts = decompose(build_panel(rows("a", units, days=1), "day", (7, 364)), 0, seasons=(7, 364), calendar=days)
    inside = slice(182, num_days - 182)  # at the ends the nearest full year stands in for the trend
    for name, truth in planted.items():
        found = parts[name].to_numpy()
        assert relative_error(found[inside], truth[inside]) < 0.05, name
        assert np.corrcoef(found[inside], truth[inside])[0, 1] > 0.85, name


def test_the_parts_of_a_series_multiply_to_it_and_the_picture_is_drawn(tmp_path):
    units = yearly(156, 26) * np.random.default_rng(3).normal(1, 0.05, 156)
    table = rows("a", units)
    parts = decompose(build_panel(table, "week", (52,)), 0, seasons=(52,), calendar=feast_calendar(MONDAY, date(2021, 12, 31), {"easter": EASTERS}))
    product = parts.select(pl.reduce(lambda left, right: left * right, pl.all().exclude("date", "units")))
    assert product.to_series().to_numpy() == pytest.approx(units)
    assert parts["season_52"].arg_max() % 52 in {25, 26, 27}
    forecast = forecast_demand(table, cutoffs=[MONDAY + timedelta(weeks=156)], config=weekly()).forecasts
    path = fan_chart(table, forecast, tmp_path / "fan.png", title="a", frequency="week", parts=parts, feast_dates={"easter": EASTERS})
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match="found 156 and 0"):
        fan_chart(table, forecast.clear(), path, title="a", frequency="week")
