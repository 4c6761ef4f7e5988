from datetime import date, timedelta
from math import log

import polars as pl
import pytest

from contracts.tables import DEMAND
from features.calendar import calendar
from features.demand import (
    clip_outliers,
    demand,
    demand_feature_list,
    demand_features,
    frequency_of_items,
    growth,
    lag,
    moving_average,
    normalised,
    same_window_last_year,
    season_index,
    trend,
)

END = date(2024, 3, 1)
CATALOGUE = pl.LazyFrame({"item_id": ["milk", "ice", "soap"], "category": ["food > dairy", "food > frozen", None]})


def series(units: list[float | None], *, last: date = date(2024, 2, 29), period_days: int = 1, level: str = "item", key: str = "a") -> pl.LazyFrame:
    days = [last - timedelta(days=period_days * back) for back in range(len(units))][::-1]
    return pl.LazyFrame({"level": level, "id": key, "region": "all", "date": days, "units": units}, schema_overrides={"units": pl.Float64})


def test_daily_demand_is_complete_from_first_sale_at_every_level(events) -> None:
    log_events = events(
        ("u1", "milk", "2024-02-27", 2.0),
        ("u2", "milk", "2024-02-27", 1.0),
        ("u1", "ice", "2024-02-27", None),
        ("u1", "milk", "2024-02-29 23:59", 4.0),
        ("u3", "soap", "2024-02-29", 1.0),
        ("u1", "milk", "2024-03-01", 50.0),
    )
    table = demand(log_events, CATALOGUE, frequency="day", levels=("item", "category", "total"), end=END).collect()
    assert dict(table.schema) == dict(DEMAND.schema)
    days = [date(2024, 2, 27), date(2024, 2, 28), date(2024, 2, 29)]
    expected = {
        ("category", "food"): ([4.0, 0.0, 4.0], [2, 0, 1]),
        ("category", "food > dairy"): ([3.0, 0.0, 4.0], [2, 0, 1]),
        ("category", "food > frozen"): ([1.0, 0.0, 0.0], [1, 0, 0]),
        ("item", "ice"): ([1.0, 0.0, 0.0], [1, 0, 0]),
        ("item", "milk"): ([3.0, 0.0, 4.0], [2, 0, 1]),
        ("item", "soap"): ([1.0], [1]),
        ("total", "total"): ([4.0, 0.0, 5.0], [2, 0, 2]),
    }
    found = {key: (part["units"].to_list(), part["buyers"].to_list()) for key, part in table.partition_by("level", "id", as_dict=True).items()}
    assert found == expected
    assert table.filter(pl.col("id") == "milk")["date"].to_list() == days
    assert table.filter(pl.col("id") == "milk")["is_observed"].to_list() == [True, False, True]  # nothing at all was logged on the 28th
    assert not table.select("level", "id", "region", "date").is_duplicated().any()


def test_weeks_are_counted_back_from_the_end_so_the_last_one_is_whole(events) -> None:
    log_events = events(
        ("u1", "milk", "2024-02-23", 1.0), ("u1", "milk", "2024-02-22", 2.0), ("u1", "milk", "2024-02-09", 4.0), ("u2", "milk", "2024-02-29", 8.0)
    )
    table = demand(log_events, None, frequency="week", levels=("item",), end=END).collect()
    assert table.select("date", "units", "buyers").rows() == [
        (date(2024, 2, 9), 4.0, 1),
        (date(2024, 2, 16), 2.0, 1),
        (date(2024, 2, 23), 9.0, 2),
    ]


def test_regions_stand_beside_all(events) -> None:
    log_events = events(("u1", "milk", "2024-02-28", 1.0, "north"), ("u2", "milk", "2024-02-29", 2.0, "south"), ("u3", "milk", "2024-02-29", 4.0, None))
    table = demand(log_events, None, frequency="day", levels=("item",), end=END, by_region=True).collect()
    assert table.select("region", "date", "units").rows() == [
        ("all", date(2024, 2, 28), 1.0),
        ("all", date(2024, 2, 29), 6.0),
        ("north", date(2024, 2, 28), 1.0),
        ("north", date(2024, 2, 29), 0.0),
        ("south", date(2024, 2, 29), 2.0),
    ]


def test_a_zero_while_out_of_stock_is_not_observed(events) -> None:
    log_events = events(("u1", "milk", "2024-02-26"), *(("u1", "soap", f"2024-02-{day}") for day in range(26, 30)))
    gone = pl.LazyFrame({"item_id": ["milk", "soap"], "first_day": [date(2024, 2, 27), date(2024, 2, 29)], "last_day": [date(2024, 2, 28), date(2024, 3, 9)]})
    table = demand(log_events, None, frequency="day", levels=("item",), end=END, out_of_stock=gone).collect()
    assert table.filter(pl.col("id") == "milk")["is_observed"].to_list() == [True, False, False, True]
    assert table.filter(pl.col("id") == "soap")["is_observed"].all()  # it sold all the same


def test_outliers_are_clipped_at_the_quantile_of_their_group(events) -> None:
    log_events = events(
        *(("u", "milk", f"2024-02-{day:02d}", float(day)) for day in range(1, 10)),
        ("u", "milk", "2024-02-10", 74_215.0),
        ("u", "ice", "2024-02-10", 500.0),
        ("u", "soap", "2024-02-10", None),
    )
    clipped = clip_outliers(log_events, CATALOGUE, 0.8).collect()
    assert clipped["quantity"].to_list() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0, 500.0, 1.0]
    assert clipped.drop("quantity").equals(log_events.drop("quantity").collect())
    without = clip_outliers(log_events, None, 0.8).collect()
    assert without["quantity"].max() == 9.0
    assert clip_outliers(log_events, CATALOGUE, 1.0).collect()["quantity"].max() == 74_215.0


def test_a_wholesale_order_of_the_future_does_not_move_the_clipping_of_the_past(events) -> None:
    past = [("u", "milk", f"2024-02-{day:02d}", float(day)) for day in range(1, 11)]
    later = [("u", "milk", "2024-03-01", 74_215.0)] * 5
    args = {"frequency": "day", "levels": ("item",), "end": END, "clip_quantile": 0.8}
    assert demand(events(*past, *later), CATALOGUE, **args).collect().equals(demand(events(*past), CATALOGUE, **args).collect())


def test_few_items_are_daily_and_many_are_weekly() -> None:
    assert (frequency_of_items(5_000, weekly_above_items=5_000), frequency_of_items(5_001, weekly_above_items=5_000)) == ("day", "week")


def test_a_lag_of_days_is_not_a_lag_of_rows() -> None:
    gap = series([1.0, 2.0, 3.0, 4.0]).filter(pl.col("date") != date(2024, 2, 28))  # 26, 27, 29 February
    table = gap.select(lag("units", 1), lag("units", 2), moving_average("units", 2)).collect()
    assert table["units_lag_1d"].to_list() == [None, 1.0, None]
    assert table["units_lag_2d"].to_list() == [None, None, None]
    assert table["units_ma_2d"].to_list() == [None, 1.0, 2.0]


def test_lags_do_not_cross_from_one_series_to_the_next() -> None:
    two = pl.concat([series([1.0, 2.0], last=date(2024, 2, 27)), series([3.0, 4.0], key="b")])
    assert two.select(lag("units", 1)).collect()["units_lag_1d"].to_list() == [None, 1.0, None, 3.0]


def test_windows_hold_the_days_before_and_never_the_day_itself() -> None:
    table = series([1.0, 2.0, 4.0, 8.0]).select(moving_average("units", 2), moving_average("units", 28)).collect()
    assert table["units_ma_2d"].to_list() == [None, 1.0, 1.5, 3.0]
    assert table["units_ma_28d"].to_list() == [None, 1.0, 1.5, 7 / 3]


def test_weekly_series_read_days_in_weeks() -> None:
    table = series([1.0, 2.0, 4.0, 8.0], period_days=7).select(lag("units", 14), moving_average("units", 14)).collect()
    assert table["units_lag_14d"].to_list() == [None, None, 1.0, 2.0]
    assert table["units_ma_14d"].to_list() == [None, 1.0, 1.5, 3.0]


def test_growth_needs_both_windows() -> None:
    table = series([1.0, 1.0, 3.0, 5.0, 9.0]).select(growth("units", 2)).collect()
    assert table["units_growth_2d"].to_list() == [None] * 4 + [pytest.approx(log(4.1 / 1.1))]


def test_the_same_window_of_last_year_is_what_then_followed() -> None:
    units = [float(n) for n in range(53)]  # weekly: week n sold n
    table = series(units, period_days=7).select(same_window_last_year("units", 28)).collect()
    # the last row is week 52: a year before it is week 0, and the 28 days from there are weeks 0, 1, 2 and 3
    assert table["units_last_year_28d"].to_list() == [None] * 52 + [1.5]


def test_trend_is_the_slope_of_the_line_through_the_days_before() -> None:
    table = series([2.0, 5.0, 8.0, 11.0, 0.0]).select(trend("units", 91)).collect()
    assert table["units_trend_91d"].to_list() == [None, None, pytest.approx(3.0), pytest.approx(3.0), pytest.approx(3.0)]


def test_normalised_units_are_deviations_from_the_days_before() -> None:
    table = series([1.0, 3.0, 7.0]).select(normalised("units", 28)).collect()
    assert table["units_z_28d"].to_list()[2] == pytest.approx((7 - 2) / (2**0.5 + 0.1))


def test_season_index_pulls_items_to_their_category_and_categories_to_all() -> None:
    # weekly, 53 weeks; the window that followed last year's date (weeks 0..3) holds all of the ice and a quarter share of the rest
    ice, milk = [10.0] * 4 + [0.0] * 49, [1.0] * 53
    total = [a + b for a, b in zip(ice, milk, strict=True)]
    table = pl.concat(
        [
            series(ice, period_days=7, level="category", key="food > frozen"),
            series(ice, period_days=7, key="ice"),
            series(milk, period_days=7, key="milk"),
            series(milk[:10], period_days=7, key="new"),
            series(total, period_days=7, level="total", key="total"),
        ]
    )
    catalogue = pl.LazyFrame({"item_id": ["ice", "new"], "category": ["food > frozen", "food > frozen"]})
    found = season_index(table, catalogue, shrinkage_units=10.0).filter(pl.col("date") == date(2024, 2, 29)).collect()
    index = dict(zip(found["id"], found["units_season_index_28d"], strict=True))
    window, year = 44.0, 92.0  # of the total: 40 + 4 in the window, 40 + 52 in the 52 weeks before the row
    rate, of_total = window / year, window / year * 13
    frozen = (40 + 10) / (rate * 40 + 10)
    assert index["total"] == pytest.approx(of_total)
    assert index["food > frozen"] == pytest.approx(frozen * of_total)
    assert index["ice"] == pytest.approx((40 + 10 * frozen) / (rate * 40 + 10) * of_total)
    assert index["milk"] == pytest.approx((4 + 10) / (rate * 52 + 10) * of_total)
    assert index["new"] == pytest.approx(frozen * of_total)  # was not on sale last year: its category's
    before = season_index(table, catalogue).filter(pl.col("date") < date(2024, 2, 29)).collect()
    assert before["units_season_index_28d"].unique().to_list() == [1.0]  # last year is not known yet


def test_demand_features_keep_the_grain_and_carry_the_calendar(events) -> None:
    log_events = events(*(("u1", "milk", f"2024-02-{day:02d}", float(day), "north") for day in range(1, 30, 3)))
    table = demand(log_events, CATALOGUE, frequency="day", levels=("item", "total"), end=END, by_region=True)
    days = calendar(date(2024, 2, 1), date(2024, 3, 1), regions={"all": "US"}, season_names={"winter": (335, 60)})
    features = demand_features(table, CATALOGUE, calendar=days.lazy()).collect()
    plain = table.collect()
    assert features.select(plain.columns).equals(plain)
    assert [feature.name for feature in demand_feature_list()] == [name for name in features.columns if name.startswith("units_") and "season" not in name]
    presidents_day = features.filter(pl.col("date") == date(2024, 2, 19))
    assert presidents_day["is_holiday"].all()
    assert presidents_day["season"].unique().to_list() == ["winter"]
    assert set(presidents_day["region"]) == {"all", "north"}  # `north` has no calendar of its own: that of `all`
