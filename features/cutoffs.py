"""The dates at which the past is cut: one grid serves training, evaluation and the model that is served."""

from collections.abc import Sequence
from datetime import date, timedelta

from contracts.errors import NotEnoughHistoryError

SAME_SEASON = 364  # days: the same day of the week, a year before


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


def pairs_since(
    seen_until: date, origins: Sequence[date], leads_days: Sequence[int], *, horizon_days: int, every_days: int, earliest: date, knows_the_past: bool
) -> list[tuple[date, int]]:
    """(cut-off, lead) pairs for a training that goes on from one that had seen the data until `seen_until`, oldest first.

    New ones: for every origin and lead the newest whose window ends there, and back every `every_days` while the window ends after `seen_until`.
    Older ones, to replay: the newest that had been seen, and that of the same season a year before. Where the model as it was before `seen_until` is
    not known (an encoder, without `knows_the_past`), only cut-offs from there on. None lies before `earliest`.
    """
    window = {lead: timedelta(days=lead + horizon_days) for lead in leads_days}
    found: set[tuple[date, int]] = set()
    for lead, length in window.items():
        for origin in origins:
            cutoff = origin - length
            while cutoff + length > seen_until:
                found.add((cutoff, lead))
                cutoff -= timedelta(days=every_days)
        found |= {(seen_until - length, lead), (max(origins) - length - timedelta(days=SAME_SEASON), lead)}
    first = earliest if knows_the_past else max(earliest, seen_until)
    return sorted(pair for pair in found if pair[0] >= first)
