import datetime as dt

import polars as pl

from evaluation.baselines import baseline_rankings
from evaluation.negative_control import MAX_SHIFT_DAYS, rotate_histories
from evaluation.ranking_metrics import score_rankings
from evaluation.season_lift import SHIFT_DAYS, season_lift, shifted_date
from evaluation.targets import targets

CUTOFF = dt.date(2021, 4, 1)


def lift(events):
    """Season lift of last year's weeks over three origins."""

    def scores(shift_days):
        parts = []
        for back in (0, 28, 56):
            cutoff = CUTOFF - dt.timedelta(days=back)
            wanted = targets(events, cutoff, 28, 28, "again")
            ranked = baseline_rankings(
                events, cutoff=cutoff, lead_days=28, horizon_days=28, lists=("again",), names=("last_year_weeks",), lookup_shift_days=shift_days
            )
            parts.append(score_rankings(ranked, wanted).select("user_id", pl.lit(back).alias("origin"), value="ndcg"))
        return pl.concat(parts)

    return season_lift(scores(0), scores(SHIFT_DAYS))


def test_the_right_date_pays_where_seasons_come_back(shop):
    found = lift(shop)
    assert found.is_gain
    assert found.relative_low > 0.3


def test_it_pays_nothing_on_rotated_histories(shop):
    found = lift(rotate_histories(shop, seed=0))
    assert found.relative_low < 0 < found.relative_high


def test_a_shift_keeps_the_weekday():
    assert shifted_date(CUTOFF).weekday() == CUTOFF.weekday()


def test_rotation_keeps_events_times_of_day_and_the_span(shop):
    rotated = rotate_histories(shop, seed=3)
    assert rotated.height == shop.height
    assert rotated.schema == shop.schema
    assert rotated["event_time"].is_sorted()
    assert rotated["event_time"].min() >= shop["event_time"].min().replace(hour=0, minute=0)
    assert rotated["event_time"].max() < shop["event_time"].max() + dt.timedelta(days=1)
    counts = [table.group_by("user_id", "item_id", pl.col("event_time").dt.time()).len().sort(pl.all()) for table in (shop, rotated)]
    assert counts[0].equals(counts[1])


def test_a_history_moves_as_one(make_events):
    first, last = ("zed", "edge", "2020-01-01"), ("zed", "edge", "2021-06-30")
    events = make_events([first, ("ann", "tea", "2020-02-01"), ("ann", "jam", "2020-02-15"), last])
    span = 547
    for seed in range(20):
        ann = rotate_histories(events, seed).filter(pl.col("user_id") == "ann")
        days = {item: (time.date() - dt.date(2020, 1, 1)).days for item, time in ann.select("item_id", "event_time").iter_rows()}
        assert (days["jam"] - days["tea"]) % span == 14
        assert (days["tea"] - 31) % span <= MAX_SHIFT_DAYS


def test_the_same_seed_moves_the_same_way(shop):
    assert rotate_histories(shop, 1).equals(rotate_histories(shop.lazy(), 1))
    assert not rotate_histories(shop, 1).equals(rotate_histories(shop, 2))
