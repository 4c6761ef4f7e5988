"""Children add up to parents: the smallest change of all forecasts, weighed by how uncertain each is, after which every sum holds.

N series of one cut-off, E equations, H horizon. A parent equals its children plus a rest (items without a category, regions left out); a rest that the
history shows is forecast by its recent mean, one it does not show is zero. Source: MinT with diagonal weights, Wickramasuriya et al. 2019, in its
constraint form.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
from scipy import sparse
from scipy.sparse.linalg import splu

from contracts import columns as c
from contracts.tables import QUANTILES, quantile_column
from forecasting.models import RECENT_PERIODS
from forecasting.panel import KEY, Panel

REST_TOLERANCE = 1e-6
RIDGE = 1e-9
NORMAL_80 = 2.563  # standard deviations between the 10 and the 90 % point
ROUNDS_WITHOUT_NEGATIVES = 5


def reconcile(forecasts: pl.DataFrame, panel: Panel, categories: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Forecasts of contract `FORECASTS` (one model) whose children add up to their parents, per cut-off; quantiles move with their mean.

    The tree: items below their category (`categories`: item id -> path), a path below the path without its last step, first steps below the total;
    without `categories` items stand below the total. Every series of region `all` is also the sum of its regions.
    """
    parts = [_reconcile_one(part, panel, categories or {}) for _, part in forecasts.group_by(c.CUTOFF, maintain_order=True)]
    return pl.concat(parts) if parts else forecasts


def _reconcile_one(part: pl.DataFrame, panel: Panel, categories: Mapping[str, str]) -> pl.DataFrame:
    keys = part.select(KEY).unique(maintain_order=True)
    horizon = part.height // keys.height
    mean = part[c.MEAN].to_numpy().reshape(keys.height, horizon)
    spread = (part[quantile_column(0.9)] - part[quantile_column(0.1)]).to_numpy().reshape(keys.height, horizon).mean(1) / NORMAL_80
    groups = children_of(keys, categories)
    if not groups:
        return part
    known = panel.known_periods(part[c.CUTOFF][0])
    row_in_panel = keys.join(panel.keys.with_row_index("row"), on=list(KEY), how="left", maintain_order="left")["row"].to_numpy()
    history = np.nan_to_num(panel.values[row_in_panel, :known])
    adjusted = add_up(mean, spread**2, groups, history)
    ratio = np.divide(adjusted, mean, out=np.ones_like(mean), where=mean > 0).ravel()
    shift = np.where(mean.ravel() > 0, 0.0, adjusted.ravel())
    return part.with_columns(
        pl.Series(c.MEAN, adjusted.ravel()),
        *(pl.Series(name, part[name].to_numpy() * ratio + shift) for name in map(quantile_column, QUANTILES)),
    )


def children_of(keys: pl.DataFrame, categories: Mapping[str, str]) -> dict[tuple[int, str], list[int]]:
    """(row of a parent, kind of sum) -> rows of its children; kinds are `tree` and `regions`."""
    place = {key: row for row, key in enumerate(keys.select(KEY).iter_rows())}
    totals = {region: row for (level, _, region), row in place.items() if level == c.TOTAL}
    groups: dict[tuple[int, str], list[int]] = {}
    for (level, name, region), row in place.items():
        parent = _parent(level, name, region, place, totals, categories)
        if parent is not None:
            groups.setdefault((parent, "tree"), []).append(row)
        whole = place.get((level, name, c.ALL_REGIONS))
        if region != c.ALL_REGIONS and whole is not None:
            groups.setdefault((whole, "regions"), []).append(row)
    return groups


def _parent(
    level: str, name: str, region: str, place: Mapping[tuple[str, str, str], int], totals: Mapping[str, int], categories: Mapping[str, str]
) -> int | None:
    if level == c.TOTAL:
        return None
    path = categories.get(name) if level == c.ITEM else name.rpartition(c.CATEGORY_SEPARATOR)[0]
    while path:
        if (c.CATEGORY, path, region) in place:
            return place[c.CATEGORY, path, region]
        path = path.rpartition(c.CATEGORY_SEPARATOR)[0]
    return totals.get(region)


def add_up(mean: np.ndarray, variance: np.ndarray, groups: Mapping[tuple[int, str], list[int]], history: np.ndarray) -> np.ndarray:
    """[N, H] means after which each parent equals its children plus rest, none below zero.

    mean       [N, H]
    variance   [N] of each forecast; a sure one moves little
    history    [N, T] known values: what the rests were
    """
    num_series = len(mean)
    rests = [history[parent] - history[children].sum(0) for (parent, _), children in groups.items()]
    size = [max(np.abs(history[parent]).max(initial=0.0), 1.0) for parent, _ in groups]
    has_rest = [np.abs(rest).max(initial=0.0) > REST_TOLERANCE * scale for rest, scale in zip(rests, size, strict=True)]
    matrix = sparse.lil_matrix((len(groups), num_series + sum(has_rest)))
    rest_mean, rest_variance = [], []
    for number, ((parent, _), children) in enumerate(groups.items()):
        matrix[number, parent] = 1.0
        matrix[number, children] = -1.0
        if has_rest[number]:
            recent = rests[number][-RECENT_PERIODS:]
            matrix[number, num_series + len(rest_mean)] = -1.0
            rest_mean.append(recent.mean())
            rest_variance.append(max(rests[number].var(), 1e-6))
    smallest = 1e-6 * max(float(variance.max(initial=0.0)), 1.0)
    weight = np.concatenate([np.maximum(variance, smallest), rest_variance])
    start = np.concatenate([mean, np.repeat(np.array(rest_mean)[:, None], mean.shape[1], axis=1)]) if rest_mean else mean
    return _without_negatives(start, weight, matrix.tocsr(), num_series)[:num_series]


def _without_negatives(start: np.ndarray, weight: np.ndarray, matrix: sparse.csr_matrix, num_series: int) -> np.ndarray:
    """Project; where a series falls below zero at a step, hold it at zero there and project again."""
    result = _project(start, weight, matrix)
    for step in np.flatnonzero((result[:num_series] < 0).any(0)):
        held = np.zeros(len(start), dtype=bool)
        for _ in range(ROUNDS_WITHOUT_NEGATIVES):
            held[:num_series] |= result[:num_series, step] < 0
            pinned = np.where(held, 0.0, start[:, step])
            result[:, step] = _project(pinned[:, None], np.where(held, 0.0, weight), matrix)[:, 0]
            if (result[:num_series, step] >= -REST_TOLERANCE).all():
                break
    result[:num_series] = np.maximum(result[:num_series], 0.0)
    return result


def _project(start: np.ndarray, weight: np.ndarray, matrix: sparse.csr_matrix) -> np.ndarray:
    """Nearest point to `start` [N, H], in squares over `weight`, where matrix @ point = 0."""
    weighted = matrix @ sparse.diags(weight) @ matrix.T
    scale = max(float(weighted.diagonal().mean()), 1e-12)
    system = splu((weighted + RIDGE * scale * sparse.identity(weighted.shape[0])).tocsc())
    return start - weight[:, None] * (matrix.T @ system.solve(matrix @ start))
