"""Published lists against what users did: a drop is worse than season and chance explain; ages in words."""

from datetime import date, timedelta

import polars as pl
import pytest

from monitoring.quality import ERROR, FOR, NDCG, USERS, Freshness, quality_drops, stale

START = date(2023, 1, 2)


def published(values: list[float], *, every_days: int = 7, error: float = 0.002) -> pl.DataFrame:
    days = [START + timedelta(days=every_days * number) for number in range(len(values))]
    return pl.DataFrame({"list": ["again"] * len(values), FOR: days, NDCG: values, ERROR: [error] * len(values), USERS: [500] * len(values)})


def test_drop_below_the_weeks_before_is_found():
    found = quality_drops(published([0.30, 0.31, 0.30, 0.29, 0.22]))
    assert found["is_drop"].to_list() == [False, False, False, False, True]
    assert found["expected_before"][4] == pytest.approx(0.30)


@pytest.mark.parametrize(("last", "error"), [(0.28, 0.002), (0.22, 0.04)])
def test_small_drop_and_drop_within_chance_are_none(last: float, error: float):
    assert not quality_drops(published([0.30, 0.31, 0.30, 0.29, last], error=error))["is_drop"].any()


def test_season_that_was_as_low_last_year_is_no_drop():
    year = [0.30] * 43 + [0.22] * 9
    assert not quality_drops(published([*year, *[0.30] * 46, 0.22]))["is_drop"].to_list()[-1]
    assert quality_drops(published([*[0.30] * 98, 0.22]))["is_drop"].to_list()[-1]


def test_lists_are_judged_apart():
    other = published([0.10, 0.10, 0.10]).with_columns(pl.lit("discover").alias("list"))
    assert not quality_drops(pl.concat([published([0.30, 0.30, 0.30]), other]))["is_drop"].any()


def test_what_is_too_old_is_told_with_what_to_do():
    told = stale(Freshness(5, 2, 60), max_data_days=3, max_rankings_days=8, max_champion_days=45)
    assert len(told) == 2
    assert told[0].startswith("data: 5 days old, at most 3 are allowed")
    assert "train" in told[1]
    assert stale(Freshness(0, None, None), max_data_days=3, max_rankings_days=8, max_champion_days=45) == ()
