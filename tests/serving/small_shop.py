"""A shop of 40 items and 60 users with a summer half and a winter half, for tests of the service."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from features.vocabulary import grow_vocabulary
from tests.serving.hand_made import CUTOFF, events, write_networks, write_small_bundle

NUM_ITEMS, NUM_USERS = 40, 60
ITEMS = [f"i{number:02d}" for number in range(NUM_ITEMS)]
USERS = [f"u{number:02d}" for number in range(NUM_USERS)]


def seasonal_events(seed: int = 0) -> pl.DataFrame:
    """Two years before the cut-off; items 0 to 19 sell from May to October, the others from November to April; users have five favourites."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(NUM_USERS):
        favourites = rng.choice(NUM_ITEMS, 5, replace=False)
        for _ in range(40):
            day = date.fromordinal(CUTOFF.toordinal() - int(rng.integers(1, 730)))
            half = np.arange(20) if 5 <= day.month <= 10 else np.arange(20, 40)
            item = rng.choice(favourites) if rng.random() < 0.5 else rng.choice(half)
            rows.append((USERS[user], ITEMS[item], day.isoformat()))
    rows.sort(key=lambda row: row[2])
    return events(rows)


def write_shop(folder: Path, *, seed: int = 0, season_weight: float = 1.0, forecasts: bool = True) -> Path:
    """Write the shop's bundle below a folder and return its path; `seed` and `season_weight` make versions that differ."""
    rng = np.random.default_rng(7 + seed)
    vocabulary = grow_vocabulary(None, pl.LazyFrame({"item_id": ITEMS}))
    catalogue = pl.DataFrame(
        {
            "item_id": ITEMS,
            "category": [f"{'summer' if number < 20 else 'winter'} > {'garden' if number % 2 else 'kitchen'}" for number in range(NUM_ITEMS)],
            "title": [f"{'Sunny' if number < 20 else 'Frosty'} thing {number}" for number in range(NUM_ITEMS)],
        }
    )
    linear = np.abs(rng.normal(size=(NUM_ITEMS + 1, 8))) * (rng.random((NUM_ITEMS + 1, 8)) < 0.4)
    write_networks(
        folder / "networks",
        rng.normal(size=(NUM_ITEMS + 1, 6)) * 0.5,
        season={"season_last_year_lift": (season_weight, season_weight), "trend_log_level_52w": (0.2, 0.2)},
        habit={"habit_log_baskets": 0.5, "taste_1": 0.1},
        encoder_weight=0.5,
        linear=linear,
        max_history=32,
    )
    write_small_bundle(
        folder / "bundle", folder / "networks", seasonal_events(), vocabulary, catalogue=catalogue, forecasts=_forecasts() if forecasts else None
    )
    return folder / "bundle"


def _forecasts() -> pl.DataFrame:
    weeks = [date.fromordinal(CUTOFF.toordinal() + 7 * week) for week in range(16)]
    rows = [(CUTOFF, "category", category, "all", day, "theta", 10.0 + number) for category in ("summer", "winter") for number, day in enumerate(weeks)]
    table = pl.DataFrame(rows, schema=["cutoff", "level", "id", "region", "date", "model", "mean"], orient="row")
    return table.with_columns(pl.col("mean").sub(3).alias("q100"), pl.col("mean").add(3).alias("q900"))
