"""What users really chose in a window after a cut-off, and what of it no recommender could have known.

The rule is docs/protocol.md: users with history, items that are candidates, the lists `again` and `discover`.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from contracts import columns as c
from contracts.sections.evaluation import ListName

Interactions = pl.LazyFrame | pl.DataFrame
Cutoff = dt.date | dt.datetime
Population = Literal["warm", "cold_users", "cold_items"]


@dataclass(frozen=True)
class TargetCounts:
    """What became of the distinct (user, item) pairs of one window.

    `num_dropped` pairs concern items that were no candidates; `num_cold_user_targets` concern users without history.
    """

    num_window_targets: int
    num_targets: int
    num_users: int
    num_dropped: int
    num_cold_items: int
    num_cold_users: int
    num_cold_user_targets: int

    @property
    def share_dropped(self) -> float:
        """Share of the targets of users with history that concerns items outside the candidates."""
        warm = self.num_window_targets - self.num_cold_user_targets
        return self.num_dropped / warm if warm else 0.0


def instant(cutoff: Cutoff) -> dt.datetime:
    """Give the first instant of a cut-off in UTC; a date means its midnight."""
    if not isinstance(cutoff, dt.datetime):
        return dt.datetime.combine(cutoff, dt.time(), tzinfo=dt.UTC)
    return cutoff.replace(tzinfo=dt.UTC) if cutoff.tzinfo is None else cutoff.astimezone(dt.UTC)


def before(interactions: Interactions, cutoff: Cutoff) -> pl.LazyFrame:
    """Give the events that are known at the cut-off."""
    return interactions.lazy().filter(pl.col(c.EVENT_TIME) < instant(cutoff))


def within(interactions: Interactions, cutoff: Cutoff, lead_days: int, horizon_days: int, target_events: Sequence[str] | None = None) -> pl.LazyFrame:
    """Give the target events of the window `[cutoff + lead, cutoff + lead + horizon)`; without `target_events` every event counts."""
    start = instant(cutoff) + dt.timedelta(days=lead_days)
    end = start + dt.timedelta(days=horizon_days)
    events = interactions.lazy().filter(pl.col(c.EVENT_TIME) >= start, pl.col(c.EVENT_TIME) < end)
    return events if target_events is None else events.filter(pl.col(c.EVENT_TYPE).is_in(list(target_events)))


def candidates(interactions: Interactions, cutoff: Cutoff, available: pl.DataFrame | None = None) -> pl.DataFrame:
    """Items that may be ranked: one row per item_id with an event before the cut-off, or declared `available` by the catalogue."""
    return known_before(interactions, cutoff, available).items


@dataclass(frozen=True)
class Known:
    """What the protocol asks of the time before a cut-off: who has history, what may be ranked, and who had what (sorted, one row each)."""

    users: pl.DataFrame
    items: pl.DataFrame
    pairs: pl.DataFrame


def known_before(interactions: Interactions, cutoff: Cutoff, available: pl.DataFrame | None = None) -> Known:
    """Collect once what several windows after the same cut-off share."""
    pairs = before(interactions, cutoff).select(c.USER_ID, c.ITEM_ID).unique().sort(c.USER_ID, c.ITEM_ID).collect()
    items = pairs.select(c.ITEM_ID)
    if available is not None:
        items = pl.concat([items, available.select(c.ITEM_ID)])
    return Known(pairs.select(c.USER_ID).unique().sort(c.USER_ID), items.unique().sort(c.ITEM_ID), pairs)


def targets(
    interactions: Interactions,
    cutoff: Cutoff,
    lead_days: int,
    horizon_days: int,
    list_name: ListName,
    *,
    target_events: Sequence[str] | None = None,
    available: pl.DataFrame | None = None,
    population: Population = "warm",
    known: Known | None = None,
) -> pl.DataFrame:
    """Distinct items a user chose in the window.

    Grain: one row per (user_id, item_id), sorted by both.

    Parameters
    ----------
    interactions
        Columns user_id, item_id, event_time; event_type too where `target_events` is given.
    cutoff, lead_days, horizon_days
        The window is `[cutoff + lead_days, cutoff + lead_days + horizon_days)`.
    list_name
        `again`: every item; `discover`: without what the user had before the cut-off.
    target_events
        Event types that count as a choice; without it every event.
    available
        Column item_id: candidates beside the items with an event before the cut-off.
    population
        `warm`: users with history and candidates, the protocol's main figure. `cold_users`: users without history.
        `cold_items`: users with history, items outside the candidates.
    known
        `known_before` with the same interactions, cut-off and `available`, where the caller has it already.
    """
    known = known or known_before(interactions, cutoff, available)
    wanted = _chosen(interactions, cutoff, lead_days, horizon_days, list_name, target_events, known)
    wanted = wanted.join(known.users, on=c.USER_ID, how="anti" if population == "cold_users" else "semi")
    wanted = wanted.join(known.items, on=c.ITEM_ID, how="anti" if population == "cold_items" else "semi")
    return wanted.sort(c.USER_ID, c.ITEM_ID)


def target_counts(
    interactions: Interactions,
    cutoff: Cutoff,
    lead_days: int,
    horizon_days: int,
    list_name: ListName,
    *,
    target_events: Sequence[str] | None = None,
    available: pl.DataFrame | None = None,
    known: Known | None = None,
) -> TargetCounts:
    """Count what `targets` keeps and drops, with the same arguments."""
    known = known or known_before(interactions, cutoff, available)
    pairs = _chosen(interactions, cutoff, lead_days, horizon_days, list_name, target_events, known)
    flagged = pairs.join(known.users.with_columns(has_history=True), on=c.USER_ID, how="left").join(
        known.items.with_columns(is_candidate=True), on=c.ITEM_ID, how="left"
    )
    warm, offered = pl.col("has_history").fill_null(value=False), pl.col("is_candidate").fill_null(value=False)
    row = flagged.select(
        num_window_targets=pl.len(),
        num_targets=(warm & offered).sum(),
        num_users=pl.col(c.USER_ID).filter(warm & offered).n_unique(),
        num_dropped=(warm & ~offered).sum(),
        num_cold_items=pl.col(c.ITEM_ID).filter(~offered).n_unique(),
        num_cold_users=pl.col(c.USER_ID).filter(~warm).n_unique(),
        num_cold_user_targets=(~warm).sum(),
    ).row(0, named=True)
    return TargetCounts(**{name: int(value) for name, value in row.items()})


def _chosen(
    interactions: Interactions,
    cutoff: Cutoff,
    lead_days: int,
    horizon_days: int,
    list_name: ListName,
    target_events: Sequence[str] | None,
    known: Known,
) -> pl.DataFrame:
    """Distinct pairs of the window, without what the user had where the list is `discover`."""
    pairs = within(interactions, cutoff, lead_days, horizon_days, target_events).select(c.USER_ID, c.ITEM_ID).unique().collect()
    return pairs if list_name == "again" else pairs.join(known.pairs, on=[c.USER_ID, c.ITEM_ID], how="anti")
