"""Several seeds as one evaluation: a user counts once, with the mean of what each seed gave him."""

import math
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from contracts.artifacts import EvaluationRef, ValidationReport
from contracts.sections.evaluation import EvaluationConfig
from tasks.evaluate import OURS, average_over_seeds
from tasks.store import write_table

ORIGIN = date(2021, 3, 1)
USERS = ("u0", "u1", "u2", "u3")


def rankings(order: str, folder: Path) -> EvaluationRef:
    """Every user is offered the same items, in `order`."""
    rows = [(ORIGIN, ORIGIN, "again", user, item, rank) for user in USERS for rank, item in enumerate(order, start=1)]
    table = pl.DataFrame(rows, schema=["cutoff", "request_date", "list", "user_id", "item_id", "rank"], orient="row")
    return EvaluationRef(path=str(folder / f"{order}.json"), digest="0" * 16, rankings=write_table(table, folder / f"{order}.parquet", "rankings"))


def test_seeds_are_averaged_per_user_before_intervals_are_taken(tmp_path: Path) -> None:
    events = [(user, item, datetime(2021, 2, day, tzinfo=UTC)) for user in USERS for item, day in (("b", 1), ("c", 2))]
    events += [("u9", "a", datetime(2021, 2, 3, tzinfo=UTC)), *((user, "a", datetime(2021, 3, 5, tzinfo=UTC)) for user in USERS)]
    table = pl.DataFrame(events, schema={"user_id": pl.String, "item_id": pl.String, "event_time": pl.Datetime("us", "UTC")}, orient="row")
    accepted = write_table(table.with_columns(event_type=pl.lit("purchase")), tmp_path / "events.parquet", "interactions")
    report = ValidationReport(accepted=accepted, rows_in=len(events), rows_accepted=len(events), rows_quarantined=0)
    config = EvaluationConfig(origins=(ORIGIN,), leads_days=(0,), lists=("again",), baselines=("popular_28d",), num_resamples=100)
    seeds = [rankings(order, tmp_path) for order in ("abc", "bac")]
    result = average_over_seeds(seeds, report, config, ("purchase",), name="made", seed=0)
    figure = result.figure(OURS, "again", 0)
    assert figure.value == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert figure.n == len(USERS)
    (gain,) = [one for one in result.comparisons if one.metric == "ndcg@10" and one.lead_days == 0]
    assert gain.other == "popular_28d"
    assert gain.other_value == pytest.approx(1 / math.log2(4))  # four have had b, four c, one a
