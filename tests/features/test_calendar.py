"""Dates against the calendars on the wall, 2015 to 2030."""

from datetime import date

import numpy as np
import polars as pl
import pytest

from features.calendar import CALENDAR_VECTOR_SIZE, FEASTS, calendar, calendar_vector, country_holidays, feast_dates, is_southern, season_of

SEASONS = {"winter": (335, 59), "spring": (60, 151), "summer": (152, 243), "autumn": (244, 334)}

# Looked up one by one: almanacs for the church feasts, the Hong Kong observatory for the lunar year, Umm al-Qura for the Islamic months,
# Indian government gazettes for Diwali, the fourth Thursday on a wall calendar for Thanksgiving.
CHECKED = {
    "easter": (
        "2015-04-05 2016-03-27 2017-04-16 2018-04-01 2019-04-21 2020-04-12 2021-04-04 2022-04-17 "
        "2023-04-09 2024-03-31 2025-04-20 2026-04-05 2027-03-28 2028-04-16 2029-04-01 2030-04-21"
    ),
    "orthodox_easter": "2015-04-12 2016-05-01 2017-04-16 2018-04-08 2019-04-28 2020-04-19 2021-05-02 2022-04-24 2023-04-16 2024-05-05 2025-04-20 2026-04-12",
    "chinese_new_year": (
        "2015-02-19 2016-02-08 2017-01-28 2018-02-16 2019-02-05 2020-01-25 2021-02-12 2022-02-01 "
        "2023-01-22 2024-02-10 2025-01-29 2026-02-17 2027-02-06 2028-01-26 2029-02-13 2030-02-03"
    ),
    "ramadan": "2015-06-18 2016-06-06 2017-05-27 2019-05-06 2020-04-24 2021-04-13 2022-04-02 2023-03-23 2024-03-11 2025-03-01 2026-02-18",
    "eid_al_fitr": "2015-07-17 2016-07-06 2017-06-25 2018-06-15 2019-06-04 2020-05-24 2021-05-13 2022-05-02 2023-04-21 2024-04-10 2025-03-30 2026-03-20",
    "eid_al_adha": "2019-08-11 2020-07-31 2021-07-20 2022-07-09 2023-06-28 2024-06-16 2025-06-06",
    "diwali": "2015-11-11 2016-10-30 2017-10-19 2018-11-07 2019-10-27 2020-11-14 2021-11-04 2022-10-24 2023-11-12 2024-10-31 2025-10-20 2026-11-08",
    "thanksgiving": (
        "2015-11-26 2016-11-24 2017-11-23 2018-11-22 2019-11-28 2020-11-26 2021-11-25 2022-11-24 "
        "2023-11-23 2024-11-28 2025-11-27 2026-11-26 2027-11-25 2028-11-23 2029-11-22 2030-11-28"
    ),
    "black_friday": "2017-11-24 2024-11-29",
    "mothers_day": "2017-05-14 2024-05-12 2026-05-10",
    "mothers_day_uk": "2023-03-19 2024-03-10 2026-03-15",
}


@pytest.mark.parametrize(("feast", "day"), [(feast, date.fromisoformat(day)) for feast, days in CHECKED.items() for day in days.split()])
def test_feast_falls_on_the_day_of_the_almanac(feast: str, day: date) -> None:
    assert feast_dates(day.year)[feast] == [day]


def test_a_short_lunar_year_begins_ramadan_twice_in_2030() -> None:
    assert feast_dates(2030)["ramadan"] == [date(2030, 1, 5), date(2030, 12, 26)]


@pytest.mark.parametrize(
    ("country", "day", "name"),
    [
        ("US", date(2017, 7, 4), "Independence Day"),
        ("US", date(2022, 6, 20), "Juneteenth National Independence Day (observed)"),
        ("GB", date(2022, 9, 19), "State Funeral of Queen Elizabeth II"),
        ("GB-SCT", date(2024, 1, 2), "New Year Holiday"),
        ("DE-BY", date(2024, 5, 30), "Corpus Christi"),
        ("AU-NSW", date(2024, 1, 26), "Australia Day"),
        ("JP", date(2019, 5, 1), None),
    ],
)
def test_public_holidays_follow_country_and_subdivision(country: str, day: date, name: str | None) -> None:
    found = country_holidays(country, day, day)
    assert day in found
    if name:
        assert found[day] == name


def test_unknown_country_says_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"expected an ISO country code .* found 'XX'"):
        country_holidays("XX", date(2024, 1, 1), date(2024, 12, 31))


@pytest.fixture(scope="module")
def two_regions() -> pl.DataFrame:
    pay = pl.DataFrame({"date": [date(2024, 1, 25), date(2024, 1, 31)], "region": ["north", "south"]})
    terms = pl.DataFrame({"first_day": [date(2024, 1, 8)], "last_day": [date(2024, 3, 28)]})
    return calendar(
        date(2023, 12, 20), date(2024, 3, 31), regions={"north": "US", "south": "AU"}, fourier_order=2, season_names=SEASONS, pay_days=pay, school_terms=terms
    )


def row(table: pl.DataFrame, region: str, day: date) -> dict:
    return table.row(by_predicate=(pl.col("region") == region) & (pl.col("date") == day), named=True)


def test_calendar_has_one_row_per_region_and_date(two_regions: pl.DataFrame) -> None:
    assert two_regions.height == 2 * 103
    assert not two_regions.select("region", "date").is_duplicated().any()
    assert two_regions["date"].is_between(date(2023, 12, 20), date(2024, 3, 31)).all()


def test_calendar_row_of_a_leap_day(two_regions: pl.DataFrame) -> None:
    leap = row(two_regions, "north", date(2024, 2, 29))
    assert (leap["weekday"], leap["day_of_month"], leap["day_of_year"], leap["iso_week"], leap["month"]) == (4, 29, 60, 9, 2)


def test_holiday_distances_look_both_ways_past_the_ends_of_the_table(two_regions: pl.DataFrame) -> None:
    christmas = row(two_regions, "north", date(2023, 12, 25))
    assert (christmas["holiday"], christmas["days_to_holiday"], christmas["days_since_holiday"], christmas["feast"]) == ("Christmas Day", 0, 0, "christmas")
    between = row(two_regions, "north", date(2023, 12, 28))
    assert (between["holiday"], between["days_to_holiday"], between["days_since_holiday"]) == (None, 4, 3)
    first = row(two_regions, "north", date(2023, 12, 20))
    assert first["days_since_holiday"] == 27  # Thanksgiving, 23 November, before the table begins
    last = row(two_regions, "north", date(2024, 3, 31))
    assert last["days_to_holiday"] == 57  # Memorial Day, 27 May, after it ends


def test_feast_distance_is_negative_before_and_positive_after(two_regions: pl.DataFrame) -> None:
    assert row(two_regions, "north", date(2024, 3, 28))["days_from_easter"] == -3
    assert row(two_regions, "north", date(2023, 12, 27))["days_from_christmas"] == 2


def test_the_south_has_summer_when_the_north_has_winter(two_regions: pl.DataFrame) -> None:
    assert row(two_regions, "north", date(2024, 1, 15))["season"] == "winter"
    assert row(two_regions, "south", date(2024, 1, 15))["season"] == "summer"
    assert is_southern("AU-NSW")
    assert not is_southern("IN")


def test_pay_days_are_the_regions_own_and_terms_without_region_are_for_all(two_regions: pl.DataFrame) -> None:
    assert row(two_regions, "north", date(2024, 1, 25))["is_pay_day"]
    assert not row(two_regions, "south", date(2024, 1, 25))["is_pay_day"]
    assert row(two_regions, "south", date(2024, 1, 24))["days_to_pay_day"] == 7
    assert row(two_regions, "north", date(2024, 1, 8))["is_school_term"]
    assert not row(two_regions, "south", date(2024, 3, 29))["is_school_term"]


def test_without_optional_tables_their_columns_are_null() -> None:
    table = calendar(date(2024, 1, 1), date(2024, 1, 2), regions={"all": "US"})
    assert table.select("is_pay_day", "days_to_pay_day", "is_school_term", "season").null_count().row(0) == (2, 2, 2, 2)


def test_phases_belong_to_the_date_not_to_the_row() -> None:
    long = calendar(date(2020, 1, 1), date(2024, 12, 31), regions={"all": "US"})
    short = calendar(date(2024, 6, 1), date(2024, 6, 3), regions={"all": "US"})
    assert long.join(short.select("date"), on="date", how="semi").equals(short)
    day = (date(2024, 6, 1) - date(1970, 1, 1)).days
    assert short["year_sin_1"][0] == pytest.approx(np.sin(2 * np.pi * day / 365.25), abs=1e-6)


@pytest.mark.parametrize(("day", "name"), [(59, "winter"), (60, "spring"), (335, "winter"), (334, "autumn"), (366, "winter")])
def test_season_parts_include_their_ends_and_wrap_over_new_year(day: int, name: str) -> None:
    assert season_of(day, SEASONS) == name


def test_calendar_refuses_a_span_that_ends_before_it_begins() -> None:
    with pytest.raises(ValueError, match="expected last >= first"):
        calendar(date(2024, 1, 2), date(2024, 1, 1), regions={"all": "US"})


def test_calendar_vector_is_fixed_in_size_and_depends_on_the_date_alone() -> None:
    days = [date(2024, 12, 25), date(1999, 1, 1), date(2024, 12, 18)]
    vectors = calendar_vector(days)
    assert vectors.shape == (3, CALENDAR_VECTOR_SIZE)
    assert vectors.dtype == np.float32
    assert np.abs(vectors).max() <= 1
    assert np.array_equal(calendar_vector(days[::-1])[::-1], vectors)
    assert np.array_equal(calendar_vector(pl.Series(days)), vectors)
    to_christmas = 10 + 2 * FEASTS.index("christmas") + 1
    assert vectors[0, to_christmas] == 1
    assert vectors[2, to_christmas] == pytest.approx(np.exp(-0.5), abs=1e-6)
    assert calendar_vector([]).shape == (0, CALENDAR_VECTOR_SIZE)
