"""Intervals of means and of paired differences, with users as clusters.

A user who appears at several origins is drawn with all their rows or not at all. Seeds are averaged per user before anything is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from contracts import columns as c

LEVEL = 0.95
CHUNK_VALUES = 4_000_000  # draws held at once


@dataclass(frozen=True)
class Interval:
    """A mean over rows and its interval."""

    value: float
    ci_low: float
    ci_high: float
    num_users: int


@dataclass(frozen=True)
class PairedDifference:
    """Ours minus the other, absolute and relative to the other, each with its interval."""

    difference: float
    ci_low: float
    ci_high: float
    relative: float
    relative_low: float
    relative_high: float
    num_users: int

    @property
    def is_gain(self) -> bool:
        """The interval lies above zero."""
        return self.ci_low > 0


def resampled_sums(values: npt.NDArray[np.float64], num_resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Sum the rows of each resample of users.

    values   [U, C]   one row per user
    returns  [R, C]   the same users are drawn for every column, so columns stay paired
    """
    users = len(values)
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK_VALUES // max(users, 1))
    sums = []
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        draws = generator.integers(0, users, (rows, users))
        cells = (draws + np.arange(rows)[:, None] * users).ravel()
        times_drawn = np.bincount(cells, minlength=rows * users).reshape(rows, users)
        sums.append(times_drawn.astype(np.float64) @ values)
    return np.concatenate(sums)


def average_seeds(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Average `value` over the seeds of one model; every other column is part of the key."""
    if len(tables) == 1:
        return tables[0]
    keys = [name for name in tables[0].columns if name != "value"]
    return pl.concat(tables).group_by(keys, maintain_order=True).agg(pl.col("value").mean())


def mean_interval(table: pl.DataFrame, num_resamples: int = 2_000, seed: int = 0) -> Interval:
    """Mean of `value` with its bootstrap interval. Rows: user_id, value (one per user, origin and lead)."""
    users = table.group_by(c.USER_ID).agg(total=pl.col("value").sum(), rows=pl.len()).sort(c.USER_ID)
    values = users.select(pl.col("total", "rows").cast(pl.Float64)).to_numpy()
    drawn = resampled_sums(values, num_resamples, seed)
    low, high = interval(drawn[:, 0] / drawn[:, 1])
    return Interval(float(values[:, 0].sum() / values[:, 1].sum()), low, high, len(values))


def paired_bootstrap(ours: pl.DataFrame, other: pl.DataFrame, num_resamples: int = 2_000, seed: int = 0) -> PairedDifference:
    """Mean difference and its interval.

    Rows of both: user_id, value and any further key (origin, lead); pairs are made by all columns but `value`.

    Raises ValueError if the two tables do not hold the same keys: a difference of different users is no difference.
    """
    keys = [name for name in ours.columns if name != "value"]
    both = ours.join(other.rename({"value": "other"}), on=keys)
    if not both.height == ours.height == other.height:
        found = f"{ours.height:,} rows of ours and {other.height:,} of the other share {both.height:,} keys {keys}"
        raise ValueError(f"paired_bootstrap: {found}; expected the same rows in both. Score both on the same targets.")
    users = both.group_by(c.USER_ID).agg(ours=pl.col("value").sum(), other=pl.col("other").sum(), rows=pl.len()).sort(c.USER_ID)
    values = users.select(pl.col("ours", "other", "rows").cast(pl.Float64)).to_numpy()
    return paired_difference(values, resampled_sums(values, num_resamples, seed))


def paired_difference(values: npt.NDArray[np.float64], drawn: npt.NDArray[np.float64]) -> PairedDifference:
    """Difference of two models from sums per user and resampled sums.

    values  [U, 3]   sum of ours, sum of the other, number of rows
    drawn   [R, 3]   the same sums per resample
    """
    ours, other, rows = values.sum(0)
    low, high = interval((drawn[:, 0] - drawn[:, 1]) / drawn[:, 2])
    relative_low, relative_high = interval(_relative(drawn[:, 0], drawn[:, 1]))
    relative = float(_relative(values[:, 0].sum(keepdims=True), values[:, 1].sum(keepdims=True))[0])
    return PairedDifference(float((ours - other) / rows), low, high, relative, relative_low, relative_high, len(values))


def interval(resamples: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Lower and upper end of the central interval of the resampled figures."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resamples, [tail, 1 - tail])
    return float(low), float(high)


def _relative(ours: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # an opponent that scores nothing is beaten without bound by anything, and equalled by nothing
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = ours / other - 1
    return np.where(other == 0, np.where(ours > 0, np.finfo(np.float64).max, 0.0), ratio)
