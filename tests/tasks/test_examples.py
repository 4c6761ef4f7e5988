"""Dates, user and names of the example lists."""

from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.examples import example_dates, example_user, item_titles


@pytest.mark.parametrize(
    ("end", "country", "july", "winter", "occasion"),
    [
        (date(2018, 1, 1), "US", date(2018, 7, 2), date(2018, 11, 19), "the week of Thanksgiving"),
        (date(2017, 11, 21), "US-NY", date(2018, 7, 2), date(2018, 11, 19), "the week of Thanksgiving"),
        (date(2011, 12, 10), "GB", date(2012, 7, 2), date(2012, 12, 3), "the first week of December"),
        (date(2024, 7, 1), "GB", date(2024, 7, 1), date(2024, 12, 2), "the first week of December"),
        (date(2024, 7, 2), "GB", date(2025, 7, 7), date(2024, 12, 2), "the first week of December"),
    ],
)
def test_example_dates_are_the_coming_july_and_the_coming_feast(end: date, country: str, july: date, winter: date, occasion: str):
    assert example_dates(end, country) == {"a week in July": july, occasion: winter}


@pytest.mark.parametrize("country", ["US", "FR"])
def test_example_dates_are_mondays_within_a_year_whatever_the_day(country: str):
    for days in range(0, 366 * 4, 5):
        end = date(2023, 1, 1) + timedelta(days=days)
        for day in example_dates(end, country).values():
            assert day.weekday() == 0
            assert end <= day < end + timedelta(days=372)


def stand_in(lengths: list[int], users: list[str], catalogue: dict[str, list[str | None]]) -> Any:
    behaviour = SimpleNamespace(lengths=lambda: np.array(lengths))
    return SimpleNamespace(stored=SimpleNamespace(behaviour=behaviour), users=users, item_catalogue=pl.DataFrame(catalogue))


def test_example_user_is_at_the_upper_quartile_of_history():
    assert example_user(stand_in([9, 1, 5, 7], ["a", "b", "c", "d"], {})) == "a"
    assert example_user(stand_in([9, 1, 5, 7, 2], ["a", "b", "c", "d", "e"], {})) == "d"
    assert example_user(stand_in([3], ["only"], {})) == "only"


def test_title_falls_back_to_the_end_of_the_category_and_to_the_id():
    catalogue = {"item_id": ["1", "2", "3"], "title": ["Tea", None, None], "category": ["drinks > tea", "drinks > coffee", None]}
    assert item_titles(stand_in([], [], catalogue)) == {"1": "Tea", "2": "coffee", "3": "3"}
    assert item_titles(stand_in([], [], {"item_id": ["1"]})) == {"1": "1"}
