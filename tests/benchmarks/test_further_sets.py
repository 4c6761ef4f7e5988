"""Smaller data sets: where a cut falls, what a window holds, and how cuts are pooled."""

import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from benchmarks import further_sets, leave_one_out, planted_season
from benchmarks.recommender import on_threads
from lightning_modules.taste import build_taste


def times(days: list[int]) -> pl.Series:
    return pl.Series([datetime(2020, 1, 1, 12, tzinfo=UTC) + timedelta(days=day) for day in days])


def test_a_cut_is_the_day_of_its_share_and_the_window_ends_with_the_next_fifth() -> None:
    even = times(list(range(100)))
    assert further_sets.window_of(even, 0.6) == (date(2020, 1, 1) + timedelta(days=60), 20)
    assert further_sets.window_of(even, 0.8) == (date(2020, 1, 1) + timedelta(days=80), 20)  # the last day is part of it
    assert further_sets.window_of(times([0] * 60 + [10] * 20 + [13] * 20), 0.6) == (date(2020, 1, 11), 3)


def test_the_last_window_ends_with_the_data() -> None:
    origin = further_sets.last_window(date(2015, 12, 31))
    assert origin + timedelta(days=further_sets.WINDOW_DAYS - 1) == date(2015, 12, 31)


def test_parameters_ask_one_window_and_choose_baselines_before_it() -> None:
    config = further_sets.table_config("steam", "events.parquet", "games.parquet", leads=True)
    asked = further_sets.with_window(config, "/somewhere", date(2015, 10, 3), 90).evaluation
    assert (asked.origins, asked.leads_days, asked.horizon_days, asked.tune_until) == ((date(2015, 10, 3),), (0,), 90, date(2015, 10, 3))
    assert asked.lists == ("again", "discover")
    assert further_sets.table_config("movielens", "events.parquet", None, leads=False).evaluation.lists == ("discover",)


def test_a_cell_is_found_again_wherever_its_tables_lie_and_on_any_number_of_threads() -> None:
    config, other = (further_sets.table_config("steam", events, "games.parquet", leads=True) for events in ("here.parquet", "there.parquet"))
    moved = on_threads(other.model_copy(update={"storage_root": "there"}), 7)
    assert further_sets.name_of(moved) == further_sets.name_of(config)
    assert further_sets.name_of(config.model_copy(update={"seed": 1})) != further_sets.name_of(config)


def test_cuts_are_pooled_over_users_and_the_gain_is_paired() -> None:
    cells = [
        {"window": ["1998-01-01", 20], "users": {"perennial": {"a": 0.5, "b": 0.3}, "popular_7d": {"a": 0.4, "b": 0.3}}},
        {"window": ["1998-02-01", 20], "users": {"perennial": {"a": 0.7}, "popular_7d": {"a": 0.3}}},
    ]
    ours, popular, gain = further_sets.pooled("movielens_100k", cells)
    assert (ours["value"], popular["value"], ours["n"]) == (pytest.approx(0.5), pytest.approx(1 / 3, abs=1e-5), 3)
    assert gain["value"] == pytest.approx(0.5, abs=1e-5)
    assert gain["difference"] == pytest.approx(0.5 / 3, abs=1e-5)


# the planted season


def test_the_generator_draws_what_others_drew() -> None:
    events = planted_season.planted_events(40, 200)
    assert events.height == 3_455
    assert events.rows()[:3] == [(37, 45, 1_619_731_641), (10, 127, 1_620_267_317), (30, 53, 1_620_681_314)]


def test_the_cut_leaks_nothing_and_the_target_is_the_first_new_item() -> None:
    hour = 3_600
    events = pl.DataFrame(
        [(1, 1, 0), (1, 2, 10 * hour), (2, 3, 20 * hour), (1, 1, 81 * hour), (1, 3, 82 * hour), (2, 9, 83 * hour), (2, 1, 84 * hour), (3, 1, 100 * hour)],
        schema=["user", "item", "at"],
        orient="row",
    )
    known, later = planted_season.cut(events)
    assert known["event_time"].max() < later["event_time"].min()
    first = planted_season.first_new(known, later).sort("user_id")
    # u1 had item 1; item 9 is unknown before the cut; u3 is unknown
    assert first.select("user_id", "item_id").rows() == [("u0001", "i3"), ("u0002", "i1")]
    assert first["gap_days"].to_list() == pytest.approx([72 / 24, 64 / 24])


def test_planted_seeds_are_averaged_per_user_whatever_their_order() -> None:
    asked = pl.DataFrame({"user_id": ["b", "a"], "item_id": ["x", "y"], "gap_days": [40.0, 1.0]})
    everyone, back = planted_season.mean_of_seeds(asked, ["0-", "-0"])
    assert (everyone["n"], everyone["value"]) == (2, 0.5)
    assert (back["n"], back["value"]) == (1, 0.5)
    _, back = planted_season.mean_of_seeds(asked, ["0-", "--"])  # places are of a, then b
    assert back["value"] == 0.0


# leave-one-out


def test_the_target_is_the_last_event_and_ties_keep_the_source_order() -> None:
    day = datetime(2014, 1, 1, tzinfo=UTC)
    rows = [("b", "x", day), ("a", "z", day), ("a", "p", day), ("a", "q", day), ("a", "y", day - timedelta(days=1)), ("b", "w", day), ("c", "x", day)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "event_time"], orient="row")
    known, target = leave_one_out.without_last(events, 1)
    assert dict(target.select("user_id", "item_id").iter_rows()) == {"a": "q", "b": "w", "c": "x"}
    assert known["item_id"].to_list() == ["y", "z", "p", "x"]
    learned, check = leave_one_out.without_last(events, 2)
    assert dict(check.select("user_id", "item_id").iter_rows()) == {"a": "p", "b": "x"}
    assert learned["item_id"].to_list() == ["y", "z"]


def test_a_target_counts_by_its_rank_among_what_the_user_has_not_had() -> None:
    import torch

    job = leave_one_out.job_of(5, date(2014, 2, 1), epochs=1, seed=0)
    taste = build_taste(job.encoder, torch.zeros(5, 0, dtype=torch.long), num_items=5, num_event_types=1)

    class Fixed(torch.nn.Module):
        items = taste.items
        training = False

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return torch.ones(1, 64)

        def eval(self) -> None:
            pass

        def train(self, mode: bool = True) -> None:
            pass

    with torch.no_grad():
        taste.items.own.weight[:] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])[:, None]
    asked = {"user": ["u"], "items": [[0, 2]], "days": [[1, 2]], "target": pl.Series([3]).to_numpy(), "day": pl.Series([5]).to_numpy()}
    # items 0, 1 and 2 score higher, 0 and 2 were had: one stands before it
    assert leave_one_out.ndcg(Fixed(), asked).tolist() == pytest.approx([1 / 1.5849625])  # type: ignore[arg-type]


def test_attributes_of_an_item_are_nodes_in_order_and_the_rest_is_zero() -> None:
    vocabulary = pl.DataFrame({"item_id": ["x", "y", "z"], "item_index": [0, 1, 2]}, schema_overrides={"item_index": pl.Int32})
    attributes = pl.DataFrame({"item_id": ["z", "z", "x", "gone"], "attribute": [40, 7, 40, 7]})
    assert leave_one_out.attribute_nodes(attributes, vocabulary).tolist() == [[2, 0], [0, 0], [1, 2]]
    assert leave_one_out.attribute_nodes(None, vocabulary).shape == (3, 0)


def test_places_keep_the_figure_of_each_user() -> None:
    values = [1.0, 0.0, 1 / math.log2(4), 1 / math.log2(11)]
    assert leave_one_out.places_of(np.array(values, np.float32)) == "0-29"
    assert leave_one_out.ndcg_of("0-29").tolist() == pytest.approx(values)


def test_seeds_are_averaged_per_user() -> None:
    (row,) = leave_one_out.mean_of_seeds("perennial:ligr", ["00-", "--0"])
    assert (row["n"], row["value"], row["reached"]) == (3, 0.5, True)
    assert leave_one_out.mean_of_seeds("perennial:ligr", ["00-"]) == []


@pytest.mark.slow
def test_the_encoder_finds_an_order_that_is_there() -> None:
    start = datetime(2014, 1, 1, tzinfo=UTC)
    rows = [(f"u{user:02d}", f"i{(user + step) % 20:02d}", start + timedelta(days=step)) for user in range(60) for step in range(8)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "event_time"], orient="row").with_columns(event_type=pl.lit("rating"))
    scores, best = leave_one_out.fitted_scores(events.with_columns(pl.col("event_time").dt.cast_time_unit("us")), epochs=120, seed=0, batch_events=128)
    assert len(scores["user"]) == 60
    assert best > 0.8
    assert scores["ndcg"].mean() > 0.8  # chance is .39: ten of the thirteen items the user has not had
