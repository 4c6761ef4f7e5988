import datetime as dt

import polars as pl
import pytest

from evaluation.targets import candidates, target_counts, targets

CUTOFF = dt.date(2024, 3, 1)


@pytest.fixture
def events(make_events):
    return make_events(
        [
            ("ann", "tea", "2024-02-01"),
            ("bob", "jam", "2024-02-29"),
            ("ann", "tea", "2024-03-01"),  # the first day of the window, bought again
            ("ann", "jam", "2024-03-02"),
            ("ann", "jam", "2024-03-03"),  # the same item twice is one target
            ("ann", "new", "2024-03-04"),  # no event before the cut-off
            ("bob", "tea", "2024-03-29"),  # the day after the window
            ("cat", "tea", "2024-03-05"),  # no history
        ]
    )


def test_again_holds_every_distinct_candidate_of_the_window(events):
    assert targets(events, CUTOFF, 0, 28, "again").rows() == [("ann", "jam"), ("ann", "tea")]


def test_discover_leaves_out_what_the_user_had(events):
    assert targets(events, CUTOFF, 0, 28, "discover").rows() == [("ann", "jam")]


def test_lead_moves_the_window_and_not_what_is_known(events):
    assert targets(events, CUTOFF, 28, 28, "again").rows() == [("bob", "tea")]


def test_what_is_known_ends_at_the_midnight_of_the_cutoff(events):
    assert candidates(events, CUTOFF)["item_id"].to_list() == ["jam", "tea"]
    assert candidates(events, dt.datetime(2024, 2, 29, tzinfo=dt.UTC))["item_id"].to_list() == ["tea"]


def test_a_cutoff_in_another_zone_is_the_same_instant(events):
    berlin = dt.datetime(2024, 3, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    assert targets(events, berlin, 0, 28, "again").equals(targets(events, CUTOFF, 0, 28, "again"))


def test_declared_items_are_candidates_too(events):
    declared = pl.DataFrame({"item_id": ["new"]})
    assert targets(events, CUTOFF, 0, 28, "discover", available=declared).rows() == [("ann", "jam"), ("ann", "new")]


def test_only_target_events_count_in_the_window_but_all_make_history(events):
    viewed = events.with_columns(event_type=pl.when(pl.col("item_id") == "jam").then(pl.lit("view")).otherwise(pl.lit("purchase")))
    assert targets(viewed, CUTOFF, 0, 28, "again", target_events=["purchase"]).rows() == [("ann", "tea")]
    assert targets(viewed, CUTOFF, 28, 28, "discover", target_events=["purchase"]).rows() == [("bob", "tea")]


def test_users_and_items_without_history_stand_apart(events):
    assert targets(events, CUTOFF, 0, 28, "again", population="cold_users").rows() == [("cat", "tea")]
    assert targets(events, CUTOFF, 0, 28, "again", population="cold_items").rows() == [("ann", "new")]


def test_counts_say_what_was_dropped(events):
    counts = target_counts(events, CUTOFF, 0, 28, "again")
    assert (counts.num_window_targets, counts.num_targets, counts.num_users) == (4, 2, 1)
    assert (counts.num_dropped, counts.num_cold_items, counts.num_cold_users, counts.num_cold_user_targets) == (1, 1, 1, 1)
    assert counts.share_dropped == 1 / 3


def test_counts_agree_with_targets(shop):
    for list_name in ("again", "discover"):
        kept = targets(shop, dt.date(2020, 11, 1), 28, 28, list_name)
        counts = target_counts(shop, dt.date(2020, 11, 1), 28, 28, list_name)
        assert counts.num_targets == kept.height > 100
        assert counts.num_users == kept["user_id"].n_unique()


def test_row_order_does_not_matter(shop):
    shuffled = shop.sample(fraction=1.0, shuffle=True, seed=1)
    assert targets(shuffled.lazy(), dt.date(2020, 11, 1), 0, 28, "discover").equals(targets(shop, dt.date(2020, 11, 1), 0, 28, "discover"))


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize("list_name", ["again", "discover"])
def test_targets_equal_the_reference(online_retail, protocol, list_name):
    ours = targets(online_retail, dt.date(2011, 6, 27), 56, 28, list_name)
    theirs = protocol.targets(
        online_retail.select("user_id", "item_id", time=pl.col("event_time").dt.replace_time_zone(None)), dt.datetime(2011, 6, 27), 56, list_name
    )
    assert ours.equals(theirs)
