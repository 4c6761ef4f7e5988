"""The next new item where a season is planted: `python -m benchmarks.planted_season [--seeds 3]`.

Three years of 3,000 users and 1,200 items with a taste cluster and a peak day of the year (a third of them evergreen). Events before the last fifth of
the time are known; each user is asked at the date of his first new item after it, which the model is told, and that item is the target. A second
figure is of users who come back after 30 days or more: their last items say little about the season. One model answers both. Seeds are of the model,
the data stay; they are averaged per user.

Writes benchmarks/results/planted_season.json, and a cell for each seed below benchmarks/results/cells/planted_season/ under the digest of parameters and
code, with the place of each user's item (leave_one_out.py).
"""

import argparse
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.leave_one_out import ndcg_of, places_of
from benchmarks.machine import RESULTS, ROOT, about_cells, command_of, kept_cell, write_results
from benchmarks.recommender import CODE, short
from contracts import columns as c
from contracts.artifacts import BundleRef
from contracts.config import PipelineConfig
from evaluation.bootstrap import mean_interval
from evaluation.ranking_metrics import score_rankings
from flows.local_environment import use_local_stores
from tasks.store import reuse_digest

CELLS = RESULTS / "cells" / "planted_season"
START = 1_617_235_200  # 2021-04-01, seconds
NUM_USERS, NUM_ITEMS, DAYS, NUM_CLUSTERS = 3_000, 1_200, 1_095, 12
EVENTS_A_DAY, SEASON_SHARE, KNOWN_SHARE = 0.085, 0.55, 0.8
GAP_DAYS = 30
TOP = 10
GOALS = (0.150, 0.140)  # first new item; the same of who comes back


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", default=str(ROOT / ".perennial" / "benchmarks"), help="folder of intermediate tables")
    parser.add_argument("--seeds", type=int, default=3, help="trainings, seeds 0, 1, ...")
    asked = parser.parse_args()
    known, later = cut(planted_events())
    cells = [measured_cell(known, first_new(known, later), asked.storage, seed) for seed in range(asked.seeds)]
    rows = [row for cell in cells for row in cell["rows"]] + mean_of_seeds(first_new(known, later), [cell["places"] for cell in cells])
    print(write_results("planted_season", command=command_of("planted_season"), rows=rows, **about_cells(cells)))


def measured_cell(known: pl.DataFrame, asked: pl.DataFrame, storage: str, seed: int) -> dict[str, Any]:
    """Rows of one training and the places of the targets, users in order; read where it was measured before."""
    config = config_of(storage, str(Path(storage) / "planted_season.parquet"), seed)
    plain = config.model_copy(update={"storage_root": "", "source": config.source.model_copy(update={"uri": "planted"})})

    def measured() -> dict[str, Any]:
        Path(storage).mkdir(parents=True, exist_ok=True)
        known.write_parquet(Path(storage) / "planted_season.parquet")
        use_local_stores(config.storage_root)  # before Prefect is imported
        from flows.partial_runs import train_only

        rankings = rank_at_own_date(train_only(config).final, asked)
        scored = score_rankings(rankings, asked.select(c.USER_ID, c.ITEM_ID)).select(c.USER_ID, value="ndcg").sort(c.USER_ID)
        rows = [short({"dataset": config.name, "model": "perennial", "seed": seed, **row}) for row in figures(scored, asked)]
        return {"places": places_of(scored["value"].to_numpy()), "rows": rows}

    return kept_cell(CELLS / f"seed{config.seed}-{reuse_digest(plain, code=(*CODE, 'benchmarks/planted_season.py'))}.json", measured)


def mean_of_seeds(asked: pl.DataFrame, places: list[str]) -> list[dict[str, Any]]:
    """The figures of each user's mean over the trainings."""
    if len(places) == 1:
        return []
    scored = asked.select(c.USER_ID).sort(c.USER_ID).with_columns(value=np.mean([ndcg_of(one) for one in places], axis=0))
    return [short({"dataset": "planted_season", "model": f"perennial, mean of {len(places)} seeds", **row}) for row in figures(scored, asked)]


def config_of(storage: str, events: str, seed: int = 0) -> PipelineConfig:
    """Windows of a week, since an item is asked for at a date and not for a month; the encoder in taste, pre-trained on the next item over all items."""
    return PipelineConfig.model_validate(
        {
            "name": "planted_season",
            "seed": seed,
            "storage_root": storage,
            "source": {"dataset": "table", "uri": events},
            "compute": {"threads": 1},
            "forecast": {"enabled": False},
            "pretraining": {"objective": "next_item", "loss": "full_softmax", "epochs": 6, "item_rate": 1.0},
            "fine_tuning": {"leads_days": [0, 28, 84], "use_encoder": "always"},
            "evaluation": {"leads_days": [0], "horizon_days": 7, "num_origins": 1},
        }
    )


# ---- the protocol --------------------------------------------------------------------------------------------------------------


def cut(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What is known at 80 % of the time, and what comes later."""
    first, last = events["at"].min(), events["at"].max()
    at = int(first + KNOWN_SHARE * (last - first))  # type: ignore[operator]
    return table_of(events.filter(pl.col("at") < at)), table_of(events.filter(pl.col("at") >= at))


def table_of(events: pl.DataFrame) -> pl.DataFrame:
    time = pl.from_epoch("at", time_unit="s").cast(pl.Datetime("us", "UTC")).alias(c.EVENT_TIME)
    return events.select(pl.format("u{}", pl.col("user").cast(pl.String).str.zfill(4)).alias(c.USER_ID), pl.format("i{}", "item").alias(c.ITEM_ID), time)


def first_new(known: pl.DataFrame, later: pl.DataFrame) -> pl.DataFrame:
    """First later event of each known user with a known item he has not had: user_id, item_id, event_time, days since his last known event."""
    new = later.join(known.select(c.USER_ID).unique(), on=c.USER_ID, how="semi").join(known.select(c.ITEM_ID).unique(), on=c.ITEM_ID, how="semi")
    new = new.join(known.select(c.USER_ID, c.ITEM_ID).unique(), on=[c.USER_ID, c.ITEM_ID], how="anti").sort(c.EVENT_TIME, maintain_order=True)
    first = new.unique(c.USER_ID, keep="first", maintain_order=True)
    last = known.group_by(c.USER_ID).agg(last=pl.col(c.EVENT_TIME).max())
    return first.join(last, on=c.USER_ID).with_columns(gap_days=(pl.col(c.EVENT_TIME) - pl.col("last")).dt.total_seconds() / 86_400).drop("last")


def rank_at_own_date(bundle: BundleRef, asked: pl.DataFrame) -> pl.DataFrame:
    """The best new items of each user, asked at the date of his first one (the cut-off's day at the earliest)."""
    from serving.recommender import Recommender

    recommender = Recommender.load(bundle.path)
    tables = []
    for (day,), users in asked.group_by(pl.col(c.EVENT_TIME).dt.date(), maintain_order=True):
        assert isinstance(day, date)
        tables.append(recommender.rank(users[c.USER_ID].to_list(), request_date=max(day, recommender.cutoff), list_name="discover", k=TOP))
    return pl.concat(tables)


def figures(scored: pl.DataFrame, asked: pl.DataFrame) -> list[dict[str, Any]]:
    """NDCG@10 (user_id, value) of the first new item, of all users and of those who come back after a month."""
    away = asked.filter(pl.col("gap_days") >= GAP_DAYS).select(c.USER_ID)
    rows = []
    back = scored.join(away, on=c.USER_ID, how="semi")
    for name, table, goal in zip(("first new item", f"first new item, back after {GAP_DAYS} days"), (scored, back), GOALS, strict=True):
        found = mean_interval(table)
        row = {"metric": f"ndcg@10, {name}", "value": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high, "n": table.height}
        rows.append({**row, "goal": goal, "reached": found.value >= goal})
    return rows


# ---- the generator -------------------------------------------------------------------------------------------------------------


def planted_events(num_users: int = NUM_USERS, num_items: int = NUM_ITEMS, days: int = DAYS, seed: int = 0) -> pl.DataFrame:
    """user, item (from 1), at (seconds), sorted by time, ties as drawn.

    A user walks between taste clusters; with a chance of 55 % the item is one in season on that day of the year, else evergreens are twenty times
    likelier. The order of the draws is fixed: other figures on these data come from the same numbers.
    """
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, NUM_CLUSTERS, num_items)
    peak = rng.uniform(0, 365.25, num_items)
    evergreen = rng.random(num_items) < 0.35
    width = rng.uniform(12, 30, num_items)
    popularity = rng.zipf(1.35, num_items).clip(1, 200).astype(float)
    taste = rng.dirichlet(np.ones(NUM_CLUSTERS) * 0.25, num_users)
    moves = rng.dirichlet(np.ones(NUM_CLUSTERS) * 0.2, NUM_CLUSTERS) * 0.5 + np.eye(NUM_CLUSTERS) * 0.5
    items_of = [np.where(cluster == number)[0] for number in range(NUM_CLUSTERS)]
    num_events = rng.poisson(EVENTS_A_DAY * days * rng.gamma(2.0, 0.5, num_users)).clip(5, 400)
    joined = rng.uniform(0, days * 0.6, num_users)
    in_season = seasons(peak, width, evergreen)
    first_day = datetime.fromtimestamp(START, UTC).timetuple().tm_yday - 1
    rows: list[tuple[int, int, int]] = []
    for user in range(num_users):
        times = np.sort(rng.uniform(joined[user], days, num_events[user]))
        here = rng.choice(NUM_CLUSTERS, p=taste[user])
        had: set[int] = set()
        for time in times:
            here = rng.choice(NUM_CLUSTERS, p=moves[here]) if rng.random() < 0.7 else rng.choice(NUM_CLUSTERS, p=taste[user])
            items = items_of[here]
            weights = popularity[items].copy()
            if rng.random() < SEASON_SHARE:
                seasonal = weights * in_season[int(first_day + time) % 366, items]
                if seasonal.sum() > 1e-6:
                    weights = seasonal
            else:
                weights = weights * np.where(evergreen[items], 1.0, 0.05)
            chances = weights / weights.sum()
            for _ in range(4):
                item = int(items[rng.choice(len(items), p=chances)])
                if item not in had:
                    break
            had.add(item)
            rows.append((user + 1, item + 1, int(START + time * 86_400)))
    return pl.DataFrame(rows, schema=["user", "item", "at"], orient="row").sort("at", maintain_order=True)


def seasons(peak: NDArray[np.float64], width: NDArray[np.float64], evergreen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much in season each item is on each day of the year, 0 to 1, [366, I]."""
    apart = np.abs((np.arange(366)[:, None] - peak[None, :] + 182.6) % 365.25 - 182.6)
    level = np.exp(-0.5 * (apart / width[None, :]) ** 2)
    level[:, evergreen] = 0.0
    return level


if __name__ == "__main__":
    main()
