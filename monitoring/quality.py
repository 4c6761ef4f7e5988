"""How good the published lists turned out to be, list by list in time, and whether the newest ones are worse than season and chance explain."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import polars as pl

FOR: Final = "request_date"
NDCG: Final = "ndcg_at_10"
ERROR: Final = "standard_error"
USERS: Final = "num_users"
DROP_LIMIT: Final = 0.10  # of what was to be expected
ERRORS_ALLOWED: Final = 3.0
LAST_YEAR_REACH_DAYS: Final = 21
BEFORE_DAYS: Final = 90


@dataclass(frozen=True)
class Freshness:
    """Ages in days at the moment of looking; None where there is nothing yet."""

    data_days: int
    rankings_days: int | None
    champion_days: int | None


def quality_drops(quality: pl.DataFrame) -> pl.DataFrame:
    """Which published lists did worse than both those of the last 90 days and those of the same season last year.

    Grain: one row per (list, request_date), as `quality`, sorted; adds
    expected_before, expected_last_year   mean of the lists before, null where there were none
    is_drop                               below each expectation there is, by more than 10 % and three standard errors
    """
    rows = []
    for (name,), published in quality.sort("list", FOR).partition_by("list", as_dict=True, maintain_order=True).items():
        for row in published.iter_rows(named=True):
            day: date = row[FOR]
            year_ago = day - timedelta(days=364)
            before = published.filter(pl.col(FOR) < day, pl.col(FOR) >= day - timedelta(days=BEFORE_DAYS))[NDCG].mean()
            near = (pl.col(FOR) - pl.lit(year_ago)).dt.total_days().abs() <= LAST_YEAR_REACH_DAYS
            last_year = published.filter(near)[NDCG].mean()
            known = [float(value) for value in (before, last_year) if isinstance(value, float)]
            limit = min((value * (1 - DROP_LIMIT) for value in known), default=None)
            is_drop = limit is not None and row[NDCG] < limit and row[NDCG] + ERRORS_ALLOWED * row[ERROR] < min(known)
            rows.append({**row, "list": name, "expected_before": before, "expected_last_year": last_year, "is_drop": is_drop})
    schema: dict[str, Any] = {**quality.schema, "expected_before": pl.Float64, "expected_last_year": pl.Float64, "is_drop": pl.Boolean}
    return pl.DataFrame(rows, schema=schema, orient="row")


def stale(freshness: Freshness, *, max_data_days: int, max_rankings_days: int, max_champion_days: int) -> tuple[str, ...]:
    """What is older than allowed, in words."""
    limits = (
        ("data", freshness.data_days, max_data_days, "Look at the daily update and at the deliveries."),
        ("published rankings", freshness.rankings_days, max_rankings_days, "Run the deployment `publish`."),
        ("champion", freshness.champion_days, max_champion_days, "Run the deployment `train` and review its challenger."),
    )
    return tuple(f"{what}: {age} days old, at most {limit} are allowed. {hint}" for what, age, limit, hint in limits if age is not None and age > limit)
