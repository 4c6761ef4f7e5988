"""Properties every table must have: the future does not move it, the order of rows does not move it, its grain holds."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.tables import INTERACTIONS
from features.demand import demand, demand_feature_list, demand_features
from features.feature import Feature
from features.habits import habit_inputs, habits, item_repeats
from features.histories import histories, training_events
from features.item_weeks import item_weeks
from features.season import season
from features.training_targets import training_targets
from features.vocabulary import grow_vocabulary

CUTOFF = date(2024, 3, 1)
REQUEST = CUTOFF + timedelta(days=10)
START = datetime(2022, 12, 1, tzinfo=UTC)
CATALOGUE = pl.LazyFrame({"item_id": ["i0", "i1", "i2", "i3"], "category": ["a > x", "a > y", "b", None]})
VOCABULARY = grow_vocabulary(None, CATALOGUE.select("item_id"))

SECONDS_BEFORE = int((datetime(2024, 3, 1, tzinfo=UTC) - START).total_seconds())
ROW = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, SECONDS_BEFORE - 1), st.integers(1, 5), st.sampled_from(["north", "south", None]))
FUTURE_ROW = st.tuples(
    st.integers(0, 5), st.integers(0, 3), st.integers(SECONDS_BEFORE, SECONDS_BEFORE + 80 * 86_400), st.integers(1, 900), st.sampled_from(["north", None])
)


def log(rows: list[tuple]) -> pl.LazyFrame:
    return pl.LazyFrame(
        {
            "event_id": [str(n) for n in range(len(rows))],
            "user_id": [f"u{row[0]}" for row in rows],
            "item_id": [f"i{row[1]}" for row in rows],
            # the number of the row keeps times apart: order within a tie is the source's, and may move when rows do
            "event_time": [START + timedelta(seconds=row[2], microseconds=n) for n, row in enumerate(rows)],
            "event_type": ["purchase"] * len(rows),
            "quantity": [float(row[3]) for row in rows],
            "region": [row[4] for row in rows],
        },
        schema={name: INTERACTIONS.schema[name] for name in ("event_id", "user_id", "item_id", "event_time", "event_type", "quantity", "region")},
    )


# Every table a cut-off or an `end` makes, with its grain.
TABLES: dict[str, tuple[Callable[[pl.LazyFrame], pl.LazyFrame], tuple[str, ...]]] = {
    "histories": (lambda x: histories(x, CUTOFF, 3), ("user_id", "cutoff")),
    "item_weeks": (lambda x: item_weeks(x, CUTOFF, by_region=True), ("item_id", "region", "weeks_ago")),
    "item_repeats": (lambda x: item_repeats(x, CUTOFF), ("item_id",)),
    "habits": (lambda x: habits(x, CUTOFF), ("user_id", "item_id")),
    "habit_inputs": (lambda x: habit_inputs(habits(x, CUTOFF), REQUEST, cutoff=CUTOFF), ("user_id", "item_id")),
    "season": (
        lambda x: season(item_weeks(x, CUTOFF, by_region=True), CATALOGUE, cutoff=CUTOFF, request_date=REQUEST, vocabulary=VOCABULARY),
        ("region", "item_id"),
    ),
    "demand": (
        lambda x: demand(x, CATALOGUE, frequency="day", levels=("item", "category", "total"), end=CUTOFF, by_region=True, clip_quantile=0.9),
        ("level", "id", "region", "date"),
    ),
    "demand_features": (
        lambda x: demand_features(demand(x, CATALOGUE, frequency="week", levels=("item", "category", "total"), end=CUTOFF), CATALOGUE),
        ("level", "id", "region", "date"),
    ),
}
QUICK = settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
THOROUGH = settings(QUICK, max_examples=60)


@pytest.mark.parametrize("name", TABLES)
@QUICK
@given(past=st.lists(ROW, min_size=1, max_size=25), future=st.lists(FUTURE_ROW, min_size=4, max_size=10))
def test_changing_the_future_does_not_move_the_past(name: str, past: list[tuple], future: list[tuple]) -> None:
    assert_future_does_not_matter(name, past, future)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
@THOROUGH
@given(past=st.lists(ROW, min_size=1, max_size=60), future=st.lists(FUTURE_ROW, max_size=20))
def test_changing_the_future_does_not_move_the_past_in_many_logs(name: str, past: list[tuple], future: list[tuple]) -> None:
    assert_future_does_not_matter(name, past, future)


def assert_future_does_not_matter(name: str, past: list[tuple], future: list[tuple]) -> None:
    build, _ = TABLES[name]
    assert build(log(past + future)).collect().equals(build(log(past)).collect())


def rounded(table: pl.DataFrame) -> pl.DataFrame:
    """Sums of floats may differ in the last bits with the order they are added in."""
    return table.with_columns(pl.col(pl.Float32, pl.Float64).round(4) + 0.0)


@pytest.mark.parametrize("name", TABLES)
@QUICK
@given(past=st.lists(ROW, min_size=1, max_size=25), random=st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(name: str, past: list[tuple], random) -> None:
    assert_order_does_not_matter(name, past, random)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
@THOROUGH
@given(past=st.lists(ROW, min_size=1, max_size=60), random=st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter_in_many_logs(name: str, past: list[tuple], random) -> None:
    assert_order_does_not_matter(name, past, random)


def assert_order_does_not_matter(name: str, past: list[tuple], random) -> None:
    build, _ = TABLES[name]
    ordered = log(past).collect()
    places = list(range(ordered.height))
    random.shuffle(places)
    assert rounded(build(ordered[places].lazy()).collect()).equals(rounded(build(ordered.lazy()).collect()))


@pytest.mark.parametrize("name", TABLES)
@settings(QUICK, max_examples=2)
@given(past=st.lists(ROW, min_size=1, max_size=25))
def test_grain_holds(name: str, past: list[tuple]) -> None:
    build, grain = TABLES[name]
    table = build(log(past)).collect()
    assert table.height > 0
    assert not table.select(grain).is_duplicated().any()
    assert table.select(pl.col(grain).is_null().any()).sum_horizontal().item() == 0


@QUICK
@given(past=st.lists(ROW, min_size=2, max_size=25), future=st.lists(FUTURE_ROW, min_size=1, max_size=10))
def test_targets_do_not_see_past_their_window(past: list[tuple], future: list[tuple]) -> None:
    window_end = START + timedelta(seconds=SECONDS_BEFORE, days=28)
    whole = log(past + future)
    cut = whole.filter(pl.col("event_time") < window_end)
    args = (CUTOFF, 0, 28, ["purchase"])
    assert training_targets(whole, *args).collect().equals(training_targets(cut, *args).collect())


@QUICK
@given(rows=st.lists(ROW, min_size=1, max_size=25), random=st.randoms(use_true_random=False))
def test_training_events_do_not_depend_on_row_order(rows: list[tuple], random) -> None:
    ordered = log(rows).collect()
    places = list(range(ordered.height))
    random.shuffle(places)
    assert training_events(ordered[places].lazy(), VOCABULARY).collect().equals(training_events(ordered.lazy(), VOCABULARY).collect())


FEATURES = {feature.name: feature for feature in demand_feature_list(lag_days=(7, 28), moving_average_days=(7, 28))}


@pytest.mark.parametrize("name", FEATURES)
def test_a_demand_feature_of_a_date_reads_nothing_of_that_date_or_later(name: str) -> None:
    feature: Feature = FEATURES[name]
    days = [date(2022, 6, 6) + timedelta(days=7 * n) for n in range(80)]
    table = pl.DataFrame({"level": "item", "id": "a", "region": "all", "date": days, "units": [float(n % 7 + n) for n in range(80)]})
    at = days[70]
    moved = table.with_columns(pl.when(pl.col("date") >= at).then(999.0).otherwise("units").alias("units"))
    value, after = (
        frame.lazy().select("date", feature.expression.alias("value")).filter(pl.col("date") == at).collect()["value"].item() for frame in (table, moved)
    )
    assert value is not None
    assert value == after
