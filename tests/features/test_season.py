from datetime import date, timedelta
from math import cos, log, log1p, pi, sin

import polars as pl
import pytest

from contracts.errors import FeatureLeakageError
from features.calendar import calendar
from features.item_weeks import item_weeks
from features.season import SEASON_INPUTS, SEASON_PROPER_INPUTS, TREND_INPUTS, season
from features.time_splits import last_year_window
from features.vocabulary import grow_vocabulary

CUTOFF = date(2024, 3, 1)
ITEM_WEEKS_SCHEMA = {"buyers": pl.UInt32, "first_buyers": pl.UInt32, "last_buyers": pl.UInt32, "weeks_ago": pl.Int32, "users": pl.UInt32}


def weeks(*rows: tuple[str, int, int], users: int = 100, region: str = "all") -> pl.LazyFrame:
    """(item, weeks_ago, buyers) rows, every buyer a new one who never came back."""
    return pl.LazyFrame(
        [
            {
                "item_id": item,
                "region": region,
                "weeks_ago": ago,
                "buyers": n,
                "first_buyers": n,
                "last_buyers": n,
                "units": 2.0 * n,
                "users": users,
                "cutoff": CUTOFF,
            }
            for item, ago, n in rows
        ],
        schema_overrides=ITEM_WEEKS_SCHEMA,
    )


def lift(part: float, parts: float, year: float, years: float, num: int, k: float = 10.0) -> float:
    share = (year + 0.5) / (years + 0.5 * num)
    return log((part + k * num * share) / (parts + k * num)) - log(share)


CATALOGUE = pl.LazyFrame({"item_id": ["ice", "cone", "soup"], "category": ["food > cold", "food > cold", "food > hot"]})
# 60 weeks of log; ice sells in last summer's weeks (30..38 weeks ago), soup in winter, cone is new
TWO_SEASONS = weeks(("ice", 33, 8), ("ice", 34, 12), ("ice", 59, 1), ("soup", 0, 10), ("soup", 2, 6), ("soup", 33, 2), ("soup", 55, 4), ("cone", 1, 5))


def of(table: pl.DataFrame, item: str) -> dict:
    return table.row(by_predicate=pl.col("item_id") == item, named=True)


def test_trend_inputs_worked_by_hand() -> None:
    table = season(TWO_SEASONS, CATALOGUE, cutoff=CUTOFF, request_date=CUTOFF).collect()
    soup = of(table, "soup")
    # distinct buyers: 1 week 10, 4 weeks 16, year 18; all items: 10, 21, 43
    expected = {
        "trend_lift_1w": lift(10, 10, 18, 43, 3),
        "trend_lift_4w": lift(16, 21, 18, 43, 3),
        "trend_lift_13w": lift(16, 21, 18, 43, 3),
        "trend_log_level_1w": log(10.3 / 100) + 5,
        "trend_log_level_52w": log(18.3 / 100) + 5,
        "trend_log_new_buyers_4w": log(16.3 / 100) + 5,
        "trend_log_new_hazard_4w": log(16.3 / 78) + 5,  # 22 of 100 users ever had it
        "trend_lift_4w_over_8w": lift(16, 21, 16, 21, 3, k=5),
        "trend_log_age": log1p(7 * 55) - 4,
        "trend_log_days_since_sale": log1p(0) - 2,
        "trend_category_lift_4w": lift(16, 21, 18, 43, 2),
        "trend_parent_category_lift_4w": 0.0,  # one parent holds everything
    }
    assert {name: soup[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)
    cone = of(table, "cone")
    assert cone["trend_category_lift_4w"] == pytest.approx(lift(5, 21, 25, 43, 2), rel=1e-5)
    assert of(table, "ice")["trend_log_days_since_sale"] == pytest.approx(log1p(7 * 33) - 2, rel=1e-5)


def test_trailing_levels_count_a_user_who_came_back_once(events) -> None:
    log_events = events(*(("u1", "soup", f"2024-02-{day:02d}") for day in (3, 10, 17, 24)), ("u2", "soup", "2024-02-24"), ("u3", "ice", "2023-12-01"))
    soup = of(season(item_weeks(log_events, CUTOFF), cutoff=CUTOFF, request_date=CUTOFF).collect(), "soup")
    assert soup["trend_log_level_4w"] == pytest.approx(log(2.3 / 3) + 5, rel=1e-5)
    assert soup["trend_log_new_buyers_4w"] == pytest.approx(log(2.3 / 3) + 5, rel=1e-5)
    assert soup["trend_log_level_1w"] == pytest.approx(log(2.3 / 3) + 5, rel=1e-5)
    assert soup["trend_lift_4w_over_8w"] == pytest.approx(lift(5, 5, 5, 5, 2, k=5), rel=1e-5)  # buyer-weeks: u1 four times, u2 once


def test_season_proper_inputs_worked_by_hand() -> None:
    # lead 133: last year's window is 231 to 203 days ago (weeks 29..32), with margins 245 to 189 (weeks 27..34)
    assert last_year_window(133, 28, 14) == (245, 189)
    request = CUTOFF + timedelta(days=133)
    table = season(TWO_SEASONS, CATALOGUE, cutoff=CUTOFF, request_date=request).collect()
    ice, soup, cone = of(table, "ice"), of(table, "soup"), of(table, "cone")
    # buyer-weeks: window ice 20, soup 2; year (weeks 0..51) ice 20, soup 18, cone 5
    assert ice["season_last_year_lift"] == pytest.approx(lift(20, 22, 20, 43, 3), rel=1e-5)
    assert cone["season_last_year_lift"] == pytest.approx(lift(0, 22, 5, 43, 3), rel=1e-5)
    # four weeks before last year's cut-off (weeks 52..55): soup 4
    assert soup["season_last_year_change"] == pytest.approx(lift(2, 22, 6, 26, 3, k=5), rel=1e-5)
    assert ice["season_last_year_log_level"] == pytest.approx(log(20.3 / 100) + 5, rel=1e-5)
    rate = 22 / 43
    parent = (22 + 10) / (rate * 43 + 10)
    cold = (20 + 10 * parent) / (rate * 25 + 10)
    assert ice["season_index"] == pytest.approx(log((20 + 10 * cold) / (rate * 20 + 10)), rel=1e-5)
    assert cone["season_index"] == pytest.approx(log(cold), rel=1e-5)  # did not exist: its category's
    assert (ice["season_last_year_known"], ice["season_existed_last_year"], cone["season_existed_last_year"]) == (1.0, 1.0, 0.0)
    assert cone["season_category_last_year_lift"] == pytest.approx(lift(20, 22, 25, 43, 2), rel=1e-5)
    assert ice["season_lead"] == pytest.approx(133 / 84)


def test_calendar_inputs_wait_for_two_years_of_log() -> None:
    request = date(2024, 5, 1)
    angle = 2 * pi * (request + timedelta(days=14)).timetuple().tm_yday / 365.25
    days = calendar(date(2024, 3, 1), date(2024, 9, 1), regions={"all": "US"}).lazy()
    short, long = (of(season(weeks(("ice", ago, 1)), cutoff=CUTOFF, request_date=request, calendar=days).collect(), "ice") for ago in (102, 103))
    names = [f"season_{wave}" for wave in ("sin_1", "cos_1", "sin_2", "cos_2")] + ["season_log_days_to_holiday", "season_holidays_in_window"]
    assert [short[name] for name in names] == [0.0] * 6
    ice = long
    assert [long[name] for name in names[4:]] == pytest.approx([log1p(26) - 3, 1.0])  # Memorial Day, 27 May
    assert [ice[f"season_{wave}"] for wave in ("sin_1", "cos_1", "sin_2", "cos_2")] == pytest.approx(
        [sin(angle), cos(angle), sin(2 * angle), cos(2 * angle)], rel=1e-5, abs=1e-6
    )


def test_weeks_are_cut_in_proportion_when_the_lead_is_no_multiple_of_seven() -> None:
    log_level = {}
    for lead in (133, 136, 140):
        table = season(weeks(("ice", 34, 7), ("soup", 59, 1)), cutoff=CUTOFF, request_date=CUTOFF + timedelta(days=lead)).collect()
        log_level[lead] = of(table, "ice")["season_last_year_log_level"]
    # week 34 is 238 to 245 days ago; the windows begin 245, 242 and 238 days ago
    assert [log_level[lead] for lead in (133, 136, 140)] == pytest.approx([log(n / 100) + 5 for n in (7.3, 4.3, 0.3)], rel=1e-5)


def test_last_year_inputs_are_zero_where_the_log_does_not_reach_back() -> None:
    table = season(weeks(("ice", 40, 9), ("soup", 0, 5)), CATALOGUE, cutoff=CUTOFF, request_date=CUTOFF).collect()
    looked_up = [name for name in SEASON_PROPER_INPUTS if "last_year" in name or name == "season_index"]
    assert table.select(looked_up).sum_horizontal().to_list() == [0.0, 0.0]


def test_a_request_more_than_a_year_ahead_reads_the_newest_year_that_is_known() -> None:
    assert last_year_window(400, 28) == (328, 300)
    assert last_year_window(336, 28) == (28, 0)
    assert last_year_window(336, 28, 14) == (42, 0)  # never past the cut-off


def test_every_item_of_the_vocabulary_has_a_row_in_every_region_in_order() -> None:
    vocabulary = grow_vocabulary(None, pl.LazyFrame({"item_id": ["soup", "ice", "never_sold"]}))
    both = pl.concat([TWO_SEASONS, weeks(("soup", 3, 2), region="north", users=7)])
    table = season(both, CATALOGUE, cutoff=CUTOFF, request_date=CUTOFF, vocabulary=vocabulary).collect()
    assert table.select("region", "item_id", "item_index").rows() == [
        ("all", "ice", 1),
        ("all", "never_sold", 2),
        ("all", "soup", 3),
        ("north", "ice", 1),
        ("north", "never_sold", 2),
        ("north", "soup", 3),
    ]
    assert tuple(table.columns) == ("item_id", "region", "item_index", *SEASON_INPUTS)
    assert SEASON_INPUTS == TREND_INPUTS + SEASON_PROPER_INPUTS
    assert set(table.select(SEASON_INPUTS).dtypes) == {pl.Float32}
    assert table.select(pl.any_horizontal(pl.col(SEASON_INPUTS).is_null() | ~pl.col(SEASON_INPUTS).is_finite()).any()).item() is False
    only = season(both, CATALOGUE, cutoff=CUTOFF, request_date=CUTOFF, vocabulary=vocabulary, regions=["north"]).collect()
    assert only.equals(table.filter(pl.col("region") == "north"))


def test_trend_does_not_move_with_the_request_date_and_season_proper_does() -> None:
    at = [season(TWO_SEASONS, CATALOGUE, cutoff=CUTOFF, request_date=CUTOFF + timedelta(days=lead)).collect() for lead in (0, 182)]
    assert at[0].select(TREND_INPUTS).equals(at[1].select(TREND_INPUTS))
    assert not at[0].select(SEASON_PROPER_INPUTS).equals(at[1].select(SEASON_PROPER_INPUTS))


def forecasts(*rows: tuple[str, str, date, float], cutoff: date = CUTOFF) -> pl.LazyFrame:
    return pl.LazyFrame(
        [{"cutoff": cutoff, "level": level, "id": key, "region": "all", "date": day, "model": "chosen", "mean": mean} for level, key, day, mean in rows]
    )


def test_forecast_lift_compares_the_window_with_the_last_52_weeks() -> None:
    later = [CUTOFF + timedelta(days=7 * n) for n in range(8)]
    table = season(
        TWO_SEASONS,
        CATALOGUE,
        cutoff=CUTOFF,
        request_date=CUTOFF + timedelta(days=10),
        forecasts=forecasts(
            *(("item", "soup", day, 7.0 * n) for n, day in enumerate(later)),
            *(("category", "food > cold", day, 3.0) for day in later),
            *(("category", "food", day, 9.0) for day in later),
        ),
    ).collect()
    # window is days 10 to 38: 4 of 7 days of week 1, weeks 2, 3 and 4, 3 of 7 of week 5
    forecast = 7 * 4 / 7 + 14 + 21 + 28 + 35 * 3 / 7
    soup, ice, cone = of(table, "soup"), of(table, "ice"), of(table, "cone")
    assert soup["season_forecast_lift"] == pytest.approx(log((forecast + 10) / (36 / 52 * 4 + 10)), rel=1e-5)
    assert (soup["season_forecast_known"], ice["season_forecast_known"], ice["season_forecast_lift"]) == (1.0, 0.0, 0.0)
    assert cone["season_category_forecast_lift"] == ice["season_category_forecast_lift"] == pytest.approx(log((12 + 10) / (50 / 52 * 4 + 10)), rel=1e-5)
    assert soup["season_category_forecast_lift"] == pytest.approx(log((36 + 10) / (86 / 52 * 4 + 10)), rel=1e-5)  # `food > hot` has none: its parent's


def test_only_the_newest_forecast_made_by_the_cutoff_is_read() -> None:
    days = [CUTOFF + timedelta(days=7 * n) for n in range(5)]
    known = forecasts(*(("item", "soup", day, 5.0) for day in days), cutoff=CUTOFF - timedelta(days=7))
    older = forecasts(*(("item", "soup", day, 99.0) for day in days), cutoff=CUTOFF - timedelta(days=14))
    future = forecasts(*(("item", "soup", day, 77.0) for day in days), cutoff=CUTOFF + timedelta(days=7))
    args = {"cutoff": CUTOFF, "request_date": CUTOFF}
    alone = season(TWO_SEASONS, CATALOGUE, forecasts=known, **args).collect()
    assert season(TWO_SEASONS, CATALOGUE, forecasts=pl.concat([older, known, future]), **args).collect().equals(alone)
    assert of(alone, "soup")["season_forecast_known"] == 1.0


def test_a_forecast_that_ends_before_the_window_is_no_forecast() -> None:
    table = season(
        TWO_SEASONS,
        CATALOGUE,
        cutoff=CUTOFF,
        request_date=CUTOFF + timedelta(days=60),
        forecasts=forecasts(("item", "soup", CUTOFF, 5.0), ("item", "soup", CUTOFF + timedelta(7), 5.0)),
    )
    assert table.select(pl.col("season_forecast_known").sum()).collect().item() == 0


def test_holiday_distance_of_the_request_by_region() -> None:
    days = calendar(date(2024, 3, 1), date(2024, 9, 1), regions={"all": "US", "north": "GB"})
    both = pl.concat([weeks(("soup", 103, 2)), weeks(("soup", 103, 2), region="north")])
    table = season(both, CATALOGUE, cutoff=CUTOFF, request_date=date(2024, 3, 20), calendar=days.lazy()).collect()
    by_region = table.group_by("region").agg(pl.col("season_log_days_to_holiday", "season_holidays_in_window").first()).sort("region")
    # from 20 March: US Memorial Day 27 May is beyond 60 days; GB Good Friday 29 March is 9 days away and alone in 28 days
    assert by_region["season_log_days_to_holiday"].to_list() == pytest.approx([log1p(60) - 3, log1p(9) - 3], rel=1e-5)
    assert by_region["season_holidays_in_window"].to_list() == [0.0, 1.0]


def test_a_request_before_the_cutoff_is_leakage() -> None:
    with pytest.raises(FeatureLeakageError, match="found 2024-02-29"):
        season(TWO_SEASONS, cutoff=CUTOFF, request_date=date(2024, 2, 29))


def test_item_weeks_made_later_than_the_cutoff_are_leakage(events) -> None:
    later = item_weeks(events(("u", "a", "2024-03-02")), date(2024, 3, 8))
    with pytest.raises(FeatureLeakageError, match="item_weeks: expected rows made at or before"):
        season(later, cutoff=CUTOFF, request_date=CUTOFF).collect()
