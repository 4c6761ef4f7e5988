"""Drift on planted seasonal behaviour: hardly ever without a drift, at once with one."""

from datetime import date, datetime, timedelta, timezone

import polars as pl
import pytest

from contracts import columns as c
from contracts.sections.source import SyntheticConfig
from monitoring.drift import EVENTS, MIX_LIMIT, VOLUME_LIMIT, WEEK, drift_of, weekly_counts
from sources.synthetic import catalogue, event_frames

SEEDS = (0, 1, 2)
STARTS = range(68, 150, 6)


@pytest.fixture(scope="module")
def worlds() -> list[pl.DataFrame]:
    """Weeks of three years of planted seasons, moving feasts, growth, appearing and vanishing items."""
    made = []
    for seed in SEEDS:
        config = SyntheticConfig(num_events=150_000, num_users=800, num_items=400, days=1_095, seed=seed)
        log = pl.concat(list(event_frames(config)))
        items = catalogue(config).with_columns(pl.concat_str(["department", c.CATEGORY], separator=c.CATEGORY_SEPARATOR).alias(c.CATEGORY))
        made.append(weekly_counts(log.lazy(), items.lazy(), log[c.EVENT_TIME].max().date() + timedelta(days=1)))
    return made


def with_less(weeks: pl.DataFrame, start: date, share: float) -> pl.DataFrame:
    fewer = (pl.col(EVENTS) * (1 - share)).round().cast(pl.Int64)
    return weeks.with_columns(pl.when(pl.col(WEEK) >= start).then(fewer).otherwise(EVENTS).alias(EVENTS))


def with_another_mix(weeks: pl.DataFrame, start: date, share: float, category: str) -> pl.DataFrame:
    """From `start` on, `share` of all events goes to one category."""
    moved = share * pl.col(EVENTS).sum().over(WEEK) * (pl.col(c.CATEGORY) == category)
    shifted = (pl.col(EVENTS) * (1 - share) + moved).round().cast(pl.Int64)
    return weeks.with_columns(pl.when(pl.col(WEEK) >= start).then(shifted).otherwise(EVENTS).alias(EVENTS))


def test_seasons_feasts_and_growth_are_no_alarm(worlds: list[pl.DataFrame]):
    judged = pl.concat([drift_of(weeks) for weeks in worlds]).drop_nulls("volume_from_last_year")
    assert judged.height > 280
    assert judged.filter(pl.col("is_volume_alarm") | pl.col("is_mix_alarm")).height <= 0.05 * judged.height


def test_december_is_unlike_november_but_no_alarm(worlds: list[pl.DataFrame]):
    decembers = pl.concat([drift_of(weeks) for weeks in worlds]).filter(pl.col(WEEK).dt.year() == 2023, pl.col(WEEK).dt.month() == 12)
    assert decembers["volume_from_weeks_before"].max() > VOLUME_LIMIT / 2
    assert decembers["mix_from_weeks_before"].max() > MIX_LIMIT / 2
    assert decembers["is_volume_alarm"].sum() == decembers["is_mix_alarm"].sum() == 0


@pytest.mark.parametrize("kind", ["volume", "mix"])
def test_shift_of_a_fifth_is_found_within_two_weeks_in_any_season(worlds: list[pl.DataFrame], kind: str):
    found = tried = 0
    for weeks in worlds:
        days = weeks[WEEK].unique().sort().to_list()
        names = weeks[c.CATEGORY].unique().sort().to_list()
        for start in STARTS:
            shifted = with_less(weeks, days[start], 0.2) if kind == "volume" else with_another_mix(weeks, days[start], 0.2, names[start % len(names)])
            found += any(drift_of(shifted)[f"is_{kind}_alarm"].to_list()[start : start + 2])
            tried += 1
    assert found == tried


def test_shift_is_not_told_before_it_comes_and_its_category_is_named(worlds: list[pl.DataFrame]):
    weeks = worlds[1]
    days = weeks[WEEK].unique().sort().to_list()
    name = weeks[c.CATEGORY].unique().sort().to_list()[0]
    shifted = drift_of(with_another_mix(weeks, days[100], 0.2, name))
    assert shifted.head(100).equals(drift_of(weeks).head(100))
    assert name in shifted.filter("is_mix_alarm")["most_changed"].to_list()


def test_first_year_and_empty_weeks_are_not_judged(worlds: list[pl.DataFrame]):
    weeks = worlds[0]
    days = weeks[WEEK].unique().sort().to_list()
    judged = drift_of(with_less(weeks, days[-1], 1.0))
    assert judged.head(55)["volume_from_last_year"].null_count() == 55
    assert judged["volume_from_last_year"].to_list()[-1] is None
    assert not judged["is_volume_alarm"].to_list()[-1]


def test_weeks_are_counted_back_from_the_end_and_absent_pairs_are_zero():
    def at(day: int) -> datetime:
        return datetime(2024, 1, day, 23, 59, tzinfo=timezone.utc)  # noqa: UP017

    log = pl.LazyFrame(
        {c.ITEM_ID: ["a", "a", "b", "x"], c.EVENT_TIME: [at(2), at(9), at(15), at(15)]}, schema_overrides={c.EVENT_TIME: pl.Datetime("us", "UTC")}
    )
    items = pl.LazyFrame({c.ITEM_ID: ["a", "b"], c.CATEGORY: ["tea > green", "cups"]})
    found = weekly_counts(log, items, date(2024, 1, 16))
    assert found.rows() == [
        (date(2024, 1, 2), "", 0),
        (date(2024, 1, 2), "cups", 0),
        (date(2024, 1, 2), "tea", 1),
        (date(2024, 1, 9), "", 1),
        (date(2024, 1, 9), "cups", 1),
        (date(2024, 1, 9), "tea", 1),
    ]
