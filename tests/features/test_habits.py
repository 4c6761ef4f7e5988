from datetime import date
from math import log, log1p, tanh

import polars as pl
import pytest

from contracts.errors import FeatureLeakageError
from features.habits import HABIT_INPUTS, habit_input_names, habit_inputs, habits, item_repeats

CUTOFF = date(2024, 3, 1)
DAY = (CUTOFF - date(1970, 1, 1)).days


@pytest.fixture
def log_of_three(events) -> pl.LazyFrame:
    return events(
        ("u1", "milk", "2024-02-29 08:00", 2.0),
        ("u1", "milk", "2024-02-29 19:00", 1.0),  # the same day is the same basket
        ("u1", "milk", "2024-02-15", 1.0),
        ("u1", "milk", "2024-02-01", None),
        ("u1", "bread", "2024-02-15", 1.0),
        ("u2", "milk", "2024-01-31", 1.0),
        ("u2", "milk", "2024-02-10", 1.0),
        ("u2", "milk", "2024-03-01", 9.0),  # at the cut-off: not known
        ("u3", "bread", "2024-03-02", 9.0),
    )


def test_habits_of_a_small_log_worked_by_hand(log_of_three) -> None:
    table = habits(log_of_three, CUTOFF, (14, 28)).collect()
    assert table.select("user_id", "item_id", "baskets", "units").rows() == [("u1", "bread", 1, 1.0), ("u1", "milk", 3, 5.0), ("u2", "milk", 2, 2.0)]
    milk = table.row(1, named=True)
    assert milk["decayed_14d"] == pytest.approx(1 + 0.5 + 0.25)  # ages 0, 14 and 28 days
    assert milk["decayed_28d"] == pytest.approx(1 + 0.5**0.5 + 0.5)
    assert (milk["first_day"], milk["last_day"], milk["interval_days"]) == (DAY - 29, DAY - 1, 14.0)
    assert milk["days"] == [DAY - 29, DAY - 15, DAY - 1]
    assert milk["user_trips"] == 3
    assert milk["user_trips_45d"] == pytest.approx(1 + 0.5 ** (14 / 45) + 0.5 ** (28 / 45))
    assert (milk["user_last_day"], milk["log_first_day"], milk["cutoff"]) == (DAY - 1, DAY - 30, CUTOFF)
    assert table.row(0, named=True)["interval_days"] is None


def test_item_repeats_are_pulled_to_all_items(log_of_three) -> None:
    table = item_repeats(log_of_three, CUTOFF).collect()
    share, interval = 2 / 3, 12.0  # two of three pairs came back, after 14 and 10 days
    assert table["item_id"].to_list() == ["bread", "milk"]
    assert table["item_repeat_share"].to_list() == pytest.approx([(0 + 10 * share) / 11, (2 + 10 * share) / 12])
    assert table["item_interval_days"].to_list() == pytest.approx([(0 + 5 * interval) / 5, (24 + 5 * interval) / 7])


def test_inputs_at_a_request_date_worked_by_hand(log_of_three) -> None:
    table = habits(log_of_three, CUTOFF, (14, 90))
    row = habit_inputs(table, date(2024, 3, 15), cutoff=CUTOFF, half_lives_days=(14, 90)).collect().row(1, named=True)
    since, interval = 15, (14 * 2 + 12) / 3
    decayed_90 = 1 + 0.5 ** (14 / 90) + 0.5 ** (28 / 90)
    trips_45 = 1 + 0.5 ** (14 / 45) + 0.5 ** (28 / 45)
    expected = {
        "habit_log_decayed_14d": log(1.76),
        "habit_log_decayed_90d": log(decayed_90 + 0.01),
        "habit_log_baskets": log(3),
        "habit_log_units_per_basket": log(5 / 3),
        "habit_log_days_since": log1p(since) - 4,
        "habit_log_interval": log1p(interval) - 3,
        "habit_log_since_over_interval": log((since + 1) / (interval + 1)),
        "habit_due": tanh(log((since + 1) / (interval + 1))) ** 2,
        "habit_log_user_trips": log(4) - 3,
        "habit_log_user_trips_45d": log1p(trips_45) - 2,
        "habit_log_share_of_trips": log((decayed_90 + 0.1) / (trips_45 + 1)),
        "habit_log_user_days_since": log1p(15) - 3,
        "habit_last_year_known": 0.0,
        "habit_log_last_year_weeks": 0.0,
        "habit_lead": 14 / 84,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_inputs_are_float32_in_the_declared_order_and_never_null(log_of_three) -> None:
    table = habit_inputs(habits(log_of_three, CUTOFF), date(2024, 4, 1), cutoff=CUTOFF).collect()
    assert tuple(table.columns[-len(HABIT_INPUTS) :]) == HABIT_INPUTS
    assert set(table.select(HABIT_INPUTS).dtypes) == {pl.Float32}
    assert table.select(pl.any_horizontal(pl.col(HABIT_INPUTS).is_null() | ~pl.col(HABIT_INPUTS).is_finite()).any()).item() is False
    assert habit_input_names((30,))[0] == "habit_log_decayed_30d"


def test_last_years_weeks_are_those_of_the_request_date_fourteen_days_either_side(events) -> None:
    # request 1 March + 28 days = 29 March 2024, window of 28 days; 364 days before: 31 March to 27 April 2023; with margins 17 March to 11 May
    log_events = events(
        ("u", "in_window", "2023-04-10"),
        ("u", "first_day", "2023-03-17"),
        ("u", "day_before", "2023-03-16"),
        ("u", "last_day", "2023-05-11"),
        ("u", "day_after", "2023-05-12"),
        ("u", "twice", "2023-04-01"),
        ("u", "twice", "2023-05-01"),
        ("u", "long_ago", "2022-01-01"),
    )
    table = habit_inputs(habits(log_events, CUTOFF), date(2024, 3, 29), cutoff=CUTOFF).collect()
    counts = dict(zip(table["item_id"], table["habit_log_last_year_weeks"], strict=True))
    one = pytest.approx(log(2), rel=1e-6)
    assert counts == {
        "in_window": one,
        "first_day": one,
        "day_before": 0,
        "last_day": one,
        "day_after": 0,
        "twice": pytest.approx(log(3), rel=1e-6),
        "long_ago": 0,
    }
    assert table["habit_last_year_known"].to_list() == [1.0] * 7


def test_rows_of_one_user_equal_those_of_the_whole_log(log_of_three) -> None:
    whole = habits(log_of_three, CUTOFF).collect().filter(pl.col("user_id") == "u1")
    alone = habits(log_of_three.filter(pl.col("user_id") == "u1"), CUTOFF, items=item_repeats(log_of_three, CUTOFF), log_first_day=date(2024, 1, 31)).collect()
    assert alone.equals(whole)


def test_a_request_before_the_cutoff_is_leakage(log_of_three) -> None:
    with pytest.raises(FeatureLeakageError, match=r"expected 2024-03-01 .* found 2024-02-28"):
        habit_inputs(habits(log_of_three, CUTOFF), date(2024, 2, 28), cutoff=CUTOFF)


def test_habits_made_later_than_the_cutoff_are_leakage(log_of_three) -> None:
    later = habits(log_of_three, date(2024, 3, 5))
    with pytest.raises(FeatureLeakageError, match="habits: expected rows made at or before the cut-off 2024-03-01, found rows made at 2024-03-05"):
        habit_inputs(later, date(2024, 3, 10), cutoff=CUTOFF).collect()
