"""Figures of users in a cell are the evaluation's: the same users, order, means and gains, over windows with other users."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from benchmarks.figures_of_users import figures, figures_of_users, gains, tables_of, windows_of
from benchmarks.recommender import parameters_of
from contracts.config import PipelineConfig
from evaluation.evaluation import evaluate

ORIGINS = (date(2017, 5, 1), date(2017, 6, 1))
KNOWN_USERS = 25


@pytest.fixture
def config() -> PipelineConfig:
    config = parameters_of("complete_journey", "nowhere", quick=False)
    evaluation = config.evaluation.model_copy(update={"origins": ORIGINS, "tune_until": None, "baselines": (), "season_lift": False, "slices": False})
    fine_tuning = config.fine_tuning.model_copy(update={"target_events": ("purchase",)})
    return config.model_copy(update={"evaluation": evaluation, "fine_tuning": fine_tuning})


@pytest.fixture
def events() -> pl.DataFrame:
    """Thirty users, ten items, views and purchases of half a year; the last five users have no history."""
    drawn = np.random.default_rng(1)
    rows = []
    for user in range(30):
        first = 0 if user < KNOWN_USERS else 152
        for day in drawn.integers(first, 200, 12):
            kind = "purchase" if drawn.random() < 0.4 else "view"
            rows.append((f"u{user}", f"i{int(drawn.integers(10))}", date(2017, 1, 1) + timedelta(days=int(day)), kind))
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "event_time", "event_type"], orient="row").sort("event_time", maintain_order=True)
    return table.with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))


def ranked(seed: int) -> pl.DataFrame:
    """Other items for each user and window, in no order of users; some users have no ranking."""
    drawn = np.random.default_rng(seed)
    rows = []
    for origin in ORIGINS:
        for lead in (0, 28):
            for list_name in ("again", "discover"):
                for user in drawn.permutation(KNOWN_USERS)[: KNOWN_USERS - 3]:
                    items = drawn.permutation(10)[:5]
                    rows += [(origin, origin + timedelta(days=lead), list_name, f"u{user}", f"i{item}", rank) for rank, item in enumerate(items, start=1)]
    return pl.DataFrame(rows, schema=["cutoff", "request_date", "list", "user_id", "item_id", "rank"], orient="row").with_columns(pl.col("rank").cast(pl.Int32))


def test_figures_and_gains_are_those_of_the_evaluation(config: PipelineConfig, events: pl.DataFrame) -> None:
    rankings = {name: ranked(seed) for seed, name in enumerate(("ours", "other"))}
    cells = {name: {"users": figures_of_users(table, windows_of(events, config))} for name, table in rankings.items()}
    tables = tables_of(windows_of(events, config), cells)
    expected = evaluate(rankings, events, config.evaluation, model="ours", target_events=config.fine_tuning.target_events, seed=config.seed)

    pooled = {(row.model, row.list, row.lead_days): row for row in expected.rows if row.metric == "ndcg@10" and row.origin == "all"}
    found = {(row["model"], row["list"], row["lead_days"]): row for row in figures(config, tables)}
    assert set(found) == set(pooled)
    for key, row in pooled.items():
        assert (found[key]["n"], found[key]["value"], found[key]["ci_low"]) == (row.n, pytest.approx(row.value, abs=1e-4), pytest.approx(row.ci_low, abs=1e-4))
    compared = {(one.list, one.lead_days): one for one in expected.comparisons if one.metric == "ndcg@10"}
    paired = {(row["list"], row["lead_days"]): row for row in gains(config, tables, "ours")}
    assert set(paired) == set(compared)
    for place, one in compared.items():
        assert paired[place]["num_users"] == one.num_users
        assert [paired[place][name] for name in ("difference", "ci_low", "ci_high")] == pytest.approx([one.difference, one.ci_low, one.ci_high], abs=2e-4)


def test_each_user_keeps_his_own_figure(config: PipelineConfig, events: pl.DataFrame) -> None:
    """A user's figures over the windows are those of his own rankings, told apart by scoring him alone."""
    table = ranked(0)
    tables = tables_of(windows_of(events, config), {"ours": {"users": figures_of_users(table, windows_of(events, config))}})
    users = tables["ours"]["user_id"].unique().sort()
    assert not set(users) & {f"u{user}" for user in range(KNOWN_USERS, 30)}  # nobody without history is asked
    totals = tables["ours"].group_by("user_id").agg(pl.col("value").sum()).sort("user_id")
    assert totals["value"].n_unique() > len(users) // 2
    for user, total in totals.iter_rows():
        alone = events.filter((pl.col("user_id") == user) | (pl.col("event_time") < pl.lit(ORIGINS[0])))
        own = evaluate({"ours": table}, alone, config.evaluation, model="ours", target_events=config.fine_tuning.target_events)
        rows = [row for row in own.rows if row.metric == "ndcg@10" and row.origin == "all" and row.lead_days is None]
        assert total == pytest.approx(sum(row.value * row.n for row in rows), abs=1e-3)
