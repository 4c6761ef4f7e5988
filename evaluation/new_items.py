"""Items without history as a list of their own: ranked among themselves, out of the whole catalogue.

The protocol's candidates have an event before the cut-off or are declared available; so what a model knows of a new item by its words or its category
does not show in the two lists. Here the candidates are the items of the catalogue that have no event before the cut-off, and nothing else. The catalogue
is that of today: some candidates did not exist yet, which makes the task harder, the same for everyone.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from contracts import columns as c
from contracts.sections.evaluation import ListName
from evaluation.targets import Cutoff, Interactions, Known, known_before, targets

KIND: Final = "new_items"
SLICE: Final = "items without history, ranked among themselves"
BY_CHANCE: Final = "by chance"


def items_without_history(
    interactions: Interactions, cutoff: Cutoff, item_catalogue: pl.DataFrame | pl.LazyFrame, *, known: Known | None = None
) -> pl.DataFrame:
    """Candidates of this list.

    Grain: one row per item_id of the catalogue without an event before the cut-off, sorted.
    """
    known = known or known_before(interactions, cutoff)
    return item_catalogue.lazy().select(c.ITEM_ID).unique().collect().join(known.items, on=c.ITEM_ID, how="anti").sort(c.ITEM_ID)


def new_item_targets(
    interactions: Interactions,
    cutoff: dt.date,
    lead_days: int,
    horizon_days: int,
    list_name: ListName,
    candidates: pl.DataFrame,
    *,
    target_events: Sequence[str] | None = None,
    known: Known | None = None,
) -> pl.DataFrame:
    """What users with history chose of the candidates in the window.

    Grain: one row per (user_id, item_id), sorted by both.
    """
    found = targets(interactions, cutoff, lead_days, horizon_days, list_name, target_events=target_events, population="cold_items", known=known)
    return found.join(candidates, on=c.ITEM_ID, how="semi", maintain_order="left")


def ndcg_by_chance(num_targets: np.ndarray, num_candidates: int, k: int = 10) -> np.ndarray:
    """Expected NDCG@k of an order drawn at random, for users with so many targets [U] among the candidates.

    Examples
    --------
    >>> ndcg_by_chance(np.array([1, 4]), 4, k=1)
    array([0.25, 1.  ])
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(num_targets, k) - 1]
    share: np.ndarray = num_targets / num_candidates * discount[: min(k, num_candidates)].sum() / ideal
    return share
