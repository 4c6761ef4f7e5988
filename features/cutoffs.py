"""The dates at which the past is cut: one grid serves training, evaluation and the model that is served."""

from collections.abc import Sequence
from datetime import date, timedelta

from contracts.errors import NotEnoughHistoryError


def training_cutoffs(first_day: date, end: date, *, every_days: int, first_after_days: int) -> list[date]:
    """Cut-offs every `every_days` counted back from `end` (exclusive end of what is known), oldest first.

    None lies less than `first_after_days` after `first_day`, so that each has a past to learn from.
    Raises NotEnoughHistoryError where not even one fits.
    """
    earliest = first_day + timedelta(days=first_after_days)
    grid = []
    cutoff = end
    while cutoff >= earliest:
        grid.append(cutoff)
        cutoff -= timedelta(days=every_days)
    if not grid:
        raise NotEnoughHistoryError(
            f"interactions: expected at least {first_after_days} days before the first cut-off, found {(end - first_day).days} days "
            f"({first_day} to {end}). Give more history or lower features.first_cutoff_after_days."
        )
    return grid[::-1]


def evaluation_origins(origins: Sequence[date], first_day: date, end: date, *, horizon_days: int, leads_days: Sequence[int], min_history_days: int) -> list[date]:
    """The configured origins, or else the latest one whose windows at every lead lie before `end`.

    Raises NotEnoughHistoryError where an origin leaves less than `min_history_days` of past or its first window lies outside the data.
    """
    latest = end - timedelta(days=horizon_days + max(leads_days))
    chosen = sorted(origins) if origins else [latest]
    for origin in chosen:
        if (origin - first_day).days < min_history_days or origin + timedelta(days=horizon_days + min(leads_days)) > end:
            raise NotEnoughHistoryError(
                f"evaluation.origins: {origin} needs {min_history_days} days before it and {horizon_days + min(leads_days)} days from it; "
                f"the data span {first_day} to {end} (exclusive). Choose an origin in between, shorten evaluation.horizon_days or give more history."
            )
    return chosen


def sample_pairs(cutoffs: Sequence[date], leads_days: Sequence[int], *, horizon_days: int, known_until: date) -> list[tuple[date, int]]:
    """(cut-off, lead) pairs whose whole window `[cutoff + lead, cutoff + lead + horizon)` is known at `known_until`, oldest first."""
    return [(cutoff, lead) for cutoff in sorted(cutoffs) for lead in leads_days if cutoff + timedelta(days=lead + horizon_days) <= known_until]
