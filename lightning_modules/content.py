"""Items by their content: text vectors as a table by item_index, nearest neighbours, and the linear taste of an item nobody has had.

Letters: I items, N items without history, K neighbours, E width of a text vector, P items of the pool, R numbers of a linear query.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch import Tensor

from contracts import columns as c
from contracts.errors import CheckpointMismatchError
from lightning_modules.linear_items import LinearItems

if TYPE_CHECKING:
    from lightning_modules.jobs import FineTuneJob
    from lightning_modules.samples import Known

ROWS_AT_ONCE = 1_024
COSINES_AT_ONCE = 8_000_000


def content_table(path: str | None, num_items: int) -> Tensor | None:
    """Text vectors by item_index, [I, E] half precision; zeros where an item has no words. None without a path.

    Raises CheckpointMismatchError where the table names an item beyond `num_items`.
    """
    if path is None:
        return None
    table = pl.read_parquet(path, columns=[c.ITEM_INDEX, c.VECTOR])
    rows = table[c.ITEM_INDEX].to_numpy().astype(np.int64)
    vectors = table[c.VECTOR].to_numpy()
    if len(rows) and int(rows.max()) >= num_items:
        raise CheckpointMismatchError(f"{path}: names item {int(rows.max())}, the vocabulary has {num_items} rows. Build content and features again.")
    found = np.zeros((num_items, vectors.shape[1]), np.float16)
    found[rows] = vectors
    return torch.from_numpy(found)


def nearest(content: np.ndarray, items: np.ndarray, among: np.ndarray, *, number: int, least_cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """The items of `among` most like each of `items`: places in `among` [N, K], most alike first, and shares [N, K] by cosine.

    content [I, E], rows of length 1 or zeros. Shares sum to 1; a neighbour below `least_cosine` or not above 0 has share 0, and where all are
    so a row is zeros. Equally alike ones are in the order of their places.
    """
    number = min(number, len(among))
    places, cosines = np.zeros((len(items), number), np.int64), np.zeros((len(items), number), np.float32)
    known = content[among].astype(np.float32)
    at_once = max(1, COSINES_AT_ONCE // max(len(among), 1))
    for start in range(0, len(items) if number else 0, at_once):
        block = slice(start, start + at_once)
        alike = content[items[block]].astype(np.float32) @ known.T
        some = np.sort(np.argpartition(-alike, number - 1, axis=1)[:, :number], axis=1)
        order = np.argsort(-np.take_along_axis(alike, some, 1), axis=1, kind="stable")
        places[block] = np.take_along_axis(some, order, 1)
        cosines[block] = np.take_along_axis(alike, places[block], 1)
    kept = np.where((cosines >= least_cosine) & (cosines > 0), cosines, np.float32(0))
    return places, kept / np.maximum(kept.sum(1, keepdims=True), np.float32(1e-12))


def with_new_items(job: "FineTuneJob", known: "Known") -> "Known":
    """Taste at a cut-off whose pool also holds items nobody has had before it, with the linear taste of their neighbours by content.

    Such an item scores as the mean of its neighbours, weighted by cosine: its row of a linear term is that of theirs, and it says nothing for itself.
    For a user who had a neighbour, that neighbour's word for itself counts too: the new item is as good as owned already in kind, not in fact.
    """
    content = content_table(job.content, job.num_items)
    if content is None or not job.max_new_items or not job.neighbour_weight or not len(known.pool):
        return known
    table = content.numpy()
    has_words = np.abs(table).max(1) > 0
    new = np.flatnonzero(has_words & (known.popularity == 0))
    places, shares = nearest(table, new, known.pool, number=job.neighbours, least_cosine=job.least_cosine)
    alike = (table[new].astype(np.float32) * _mixed(table[known.pool].astype(np.float32), places, shares)).sum(1)
    chosen = np.flatnonzero(shares.any(1))
    chosen = np.sort(chosen[np.argsort(-alike[chosen], kind="stable")[: job.max_new_items]])
    if not len(chosen):
        return known
    linear = tuple(with_rows(term, new[chosen], places[chosen], shares[chosen] * np.float32(job.neighbour_weight)) for term in known.linear)
    return replace(known, linear=linear, pool=np.sort(np.concatenate([known.pool, new[chosen]])))


def with_rows(linear: LinearItems, items: np.ndarray, places: np.ndarray, weights: np.ndarray) -> LinearItems:
    """A linear model whose pool also holds `items` [N], none of them in it yet: rows are weighted sums of the pool's rows at `places` [N, K]."""
    pool = np.concatenate([linear.pool, items])
    order = np.argsort(pool, kind="stable")
    out = np.concatenate([linear.out, _mixed(linear.out, places, weights)])[order]
    own = np.concatenate([linear.own, np.zeros(len(items), np.float32)])[order]
    return replace(linear, pool=pool[order], out=out, own=own, landmarks=linear.landmarks[:0])  # the short cut for landmarks holds for fitted rows only


def _mixed(rows: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of rows [P, R] at places [N, K], [N, R]."""
    return np.concatenate(
        [
            np.einsum("nk,nkr->nr", weights[start : start + ROWS_AT_ONCE], rows[places[start : start + ROWS_AT_ONCE]])
            for start in range(0, len(places), ROWS_AT_ONCE)
        ]
        or [np.zeros((0, rows.shape[1]), np.float32)]
    ).astype(np.float32)
