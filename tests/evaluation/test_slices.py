import datetime as dt

import polars as pl
import pytest

from evaluation.slices import METEOROLOGICAL_SEASONS, item_slices, season_of, turn_of, user_slices


def day(text):
    return dt.date.fromisoformat(text)


@pytest.mark.parametrize(
    ("date", "north", "south"),
    [
        ("2024-01-15", "winter", "summer"),
        ("2024-12-31", "winter", "summer"),
        ("2023-12-01", "winter", "summer"),
        ("2024-04-10", "spring", "autumn"),
        ("2024-07-01", "summer", "winter"),
        ("2024-10-20", "autumn", "spring"),
    ],
)
def test_seasons_wrap_over_new_year_and_turn_round_in_the_south(date, north, south):
    assert season_of(day(date), METEOROLOGICAL_SEASONS) == north
    assert season_of(day(date), METEOROLOGICAL_SEASONS, is_southern=True) == south


def test_every_day_of_two_years_has_a_season():
    days = [day("2023-01-01") + dt.timedelta(days=k) for k in range(731)]
    assert {season_of(one, METEOROLOGICAL_SEASONS) for one in days} == set(METEOROLOGICAL_SEASONS)
    assert season_of(day("2024-05-01"), {"holidays": (349, 6)}) == "outside"


@pytest.mark.parametrize(
    ("start", "found"), [("2023-05-20", "in the turn"), ("2023-04-20", "before a turn"), ("2023-06-02", "after a turn"), ("2023-07-01", "mid-season")]
)
def test_windows_lie_before_in_or_after_a_turn(start, found):
    assert turn_of(day(start), 28, METEOROLOGICAL_SEASONS) == found


def test_users_are_grouped_by_what_was_known(make_events):
    events = make_events([("ann", "tea", "2023-01-01")] + [("bob", f"i{k}", "2023-01-02") for k in range(5)] + [("ann", "jam", "2023-02-02")] * 9)
    regions = events.with_columns(region=pl.when(pl.col("user_id") == "ann").then(pl.lit("AU")).otherwise(pl.lit("GB")), platform=pl.lit(None, pl.String))
    table = user_slices(regions, day("2023-02-01"), day("2023-02-01"), 28, southern_regions=["AU"])
    groups = {(user, kind): name for user, kind, name in table.rows()}
    assert groups["ann", "activity"] == "1 to 4 events"
    assert groups["bob", "activity"] == "5 to 19 events"
    assert (groups["ann", "season"], groups["bob", "season"]) == ("summer", "winter")
    assert (groups["ann", "region"], groups["bob", "region"]) == ("AU", "GB")
    assert not any(kind == "platform" for _, kind in groups)  # nothing is known of it


def test_items_are_grouped_by_age_and_by_how_seasonal_they_are(make_events):
    cutoff = day("2023-12-30")
    monthly = [("ann", "soap", f"2023-{month:02d}-15") for month in range(1, 13)]
    christmas = [("ann", "star", "2023-12-10")] * 8 + [("ann", "star", "2023-01-10")] * 4
    rows = [*monthly, *christmas, ("ann", "rare", "2023-05-01"), ("ann", "late", "2023-12-20")]
    table = item_slices(make_events(rows), cutoff)
    groups = {(item, kind): name for item, kind, name in table.rows()}
    assert groups["soap", "item_season"] == "all year"
    assert groups["star", "item_season"] == "seasonal"  # the weeks wrap over New Year
    assert groups["rare", "item_season"] == "fewer than 10 events a year"
    assert (groups["late", "item_age"], groups["soap", "item_age"], groups["rare", "item_age"]) == (
        "younger than 28 days",
        "182 days or older",
        "182 days or older",
    )


def test_slices_do_not_look_into_the_future(shop):
    cutoff = day("2021-01-10")
    past = shop.filter(pl.col("event_time") < dt.datetime(2021, 1, 10, tzinfo=dt.UTC))
    assert item_slices(past, cutoff).equals(item_slices(shop, cutoff))
    keys = ["user_id", "kind"]
    assert user_slices(past, cutoff, cutoff, 28).sort(keys).equals(user_slices(shop, cutoff, cutoff, 28).sort(keys))
