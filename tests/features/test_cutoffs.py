"""Which samples a training that goes on from an earlier one looks at."""

from datetime import date, timedelta

from features.cutoffs import pairs_since


def test_a_training_that_goes_on_learns_from_windows_that_end_later_and_replays_two_older_ones():
    seen, origins = date(2023, 1, 1), (date(2023, 1, 10), date(2023, 3, 7))
    options = {"horizon_days": 28, "every_days": 28, "earliest": date(2021, 1, 1)}
    pairs = pairs_since(seen, origins, (0,), knows_the_past=True, **options)
    new = [(date(2022, 12, 13), 0), (date(2023, 1, 10), 0), (date(2023, 2, 7), 0)]
    assert pairs == [(date(2022, 2, 8), 0), (date(2022, 12, 4), 0), *new]
    assert all(seen < cutoff + timedelta(days=28) <= max(origins) for cutoff, _ in new)
    assert pairs_since(seen, origins, (0,), knows_the_past=False, **options) == new[1:]
    late = {**options, "earliest": date(2022, 12, 14)}
    assert pairs_since(seen, origins, (0, 28), knows_the_past=True, **late) == [(date(2023, 1, 10), 0), (date(2023, 1, 10), 28), (date(2023, 2, 7), 0)]
