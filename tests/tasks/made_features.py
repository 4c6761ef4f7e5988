"""Feature tables with nothing in them but what a test names."""

from contracts.artifacts import FeatureTables, TableRef


def bare_features(table: TableRef, *, demand: TableRef, first_day: str, end: str) -> FeatureTables:
    """`table` stands for every table but demand; no cut-offs, no training events."""
    return FeatureTables(
        first_day=first_day,
        end=end,
        cutoffs=(),
        origins=(),
        vocabulary=table,
        item_catalogue=None,
        training_events=None,
        calendar=table,
        demand=demand,
    )
