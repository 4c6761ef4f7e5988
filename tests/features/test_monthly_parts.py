"""Tables made from monthly parts equal those made from the whole log, at any cut-off; a part says nothing about what lies after it."""

from datetime import date

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from contracts import columns as c
from contracts.sections.source import SyntheticConfig
from features.habits import habits
from features.histories import histories
from features.item_weeks import item_weeks
from features.monthly_parts import history_part, purchase_part
from sources.synthetic import event_frames

EVENTS = ("purchase",)


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    config = SyntheticConfig(num_events=6_000, num_users=60, num_items=80, days=200)
    return pl.concat(list(event_frames(config))).with_columns(pl.col(c.QUANTITY).cast(pl.Float64))


def months_of(log: pl.DataFrame) -> list[pl.LazyFrame]:
    named = log.with_columns(pl.col(c.EVENT_TIME).dt.strftime("%Y-%m").alias("month"))
    return [part.lazy() for part in named.partition_by("month", include_key=False, maintain_order=True)]


@pytest.mark.parametrize("cutoff", [date(2021, 3, 1), date(2021, 4, 17), date(2021, 7, 20)])
@pytest.mark.parametrize("by_region", [False, True])
def test_habits_and_item_weeks_of_parts_equal_those_of_the_log(log: pl.DataFrame, cutoff: date, *, by_region: bool):
    wanted = log.lazy().filter(pl.col(c.EVENT_TYPE).is_in(EVENTS))
    purchases = pl.concat([purchase_part(month, EVENTS) for month in months_of(log)])
    assert_frame_equal(habits(purchases, cutoff).collect(), habits(wanted, cutoff).collect(), check_exact=True)
    assert_frame_equal(item_weeks(purchases, cutoff, by_region=by_region).collect(), item_weeks(wanted, cutoff, by_region=by_region).collect())


@pytest.mark.parametrize("max_history", [3, 512])
def test_histories_of_parts_equal_those_of_the_log(log: pl.DataFrame, max_history: int):
    cutoff = date(2021, 6, 1)
    parts = [history_part(month, max_history) for month in months_of(log)[:5]]
    assert_frame_equal(histories(pl.concat(parts), cutoff, max_history).collect(), histories(log.lazy(), cutoff, max_history).collect())


def test_part_of_a_month_holds_one_row_per_user_item_region_and_day(log: pl.DataFrame):
    part = purchase_part(log.lazy(), EVENTS).collect()
    assert part.select(c.USER_ID, c.ITEM_ID, c.REGION, c.EVENT_TIME).is_duplicated().sum() == 0
    assert part[c.QUANTITY].sum() == log.filter(pl.col(c.EVENT_TYPE) == "purchase")[c.QUANTITY].sum()
