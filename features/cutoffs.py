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


def sample_pairs(cutoffs: Sequence[date], leads_days: Sequence[int], *, horizon_days: int, known_until: date) -> list[tuple[date, int]]:
    """(cut-off, lead) pairs whose whole window `[cutoff + lead, cutoff + lead + horizon)` is known at `known_until`, oldest first."""
    return [(cutoff, lead) for cutoff in sorted(cutoffs) for lead in leads_days if cutoff + timedelta(days=lead + horizon_days) <= known_until]
