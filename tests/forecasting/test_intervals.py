"""Intervals from back-test errors: calibrated at each step, by late origins more than by early ones."""

import numpy as np
import pytest

from contracts.tables import QUANTILES
from forecasting import intervals
from forecasting.intervals import error_distribution, quantiles_around, series_size, weighted_quantiles

SERIES, ORIGINS, HORIZON = 400, 8, 6


def covered(errors: np.ndarray, coming: np.ndarray, low: float, high: float) -> np.ndarray:
    """[H] share of the coming errors [S, H] inside the interval learnt from `errors` [O, S, H]."""
    scale = np.ones(errors.shape[1])
    spread = error_distribution(errors, scale, QUANTILES)
    mean = np.full(coming.shape, 1_000.0)
    quantiles = quantiles_around(mean, series_size(errors, scale, spread.growth, spread.pooled), spread)
    actual = mean + coming
    inside = (actual >= quantiles[QUANTILES.index(low)]) & (actual <= quantiles[QUANTILES.index(high)])
    return inside.mean(0)


def test_each_step_is_covered_as_it_says_where_errors_grow_with_the_step():
    growth = np.arange(1, HORIZON + 1)
    errors = np.random.default_rng(0).normal(0, growth, (ORIGINS + 1, SERIES, HORIZON))
    assert covered(errors[:-1], errors[-1], 0.1, 0.9) == pytest.approx(0.8, abs=0.06)
    assert covered(errors[:-1], errors[-1], 0.025, 0.975) == pytest.approx(0.95, abs=0.035)


def test_lopsided_errors_keep_their_shape():
    errors = np.random.default_rng(1).exponential(10, (ORIGINS + 1, SERIES, HORIZON)) - 10
    shape = error_distribution(errors[:-1], np.ones(SERIES), QUANTILES).shape
    assert shape[-1] > 1.5 * -shape[0]
    assert covered(errors[:-1], errors[-1], 0.1, 0.9).mean() == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("change", [0.9, 1 / 0.9])
def test_errors_that_shrink_or_grow_from_origin_to_origin_are_followed(change, monkeypatch):
    size = change ** np.arange(ORIGINS + 1)
    errors = np.random.default_rng(2).normal(0, size[:, None, None], (ORIGINS + 1, SERIES, HORIZON))
    found = covered(errors[:-1], errors[-1], 0.1, 0.9).mean()
    monkeypatch.setattr(intervals, "ORIGIN_MEMORY", 1.0)
    evenly = covered(errors[:-1], errors[-1], 0.1, 0.9).mean()
    assert abs(found - 0.8) < 0.8 * abs(evenly - 0.8)


def test_weighted_quantiles_by_hand():
    values, weights = np.array([30.0, 10.0, 20.0]), np.array([1.0, 2.0, 1.0])
    assert weighted_quantiles(values, weights, [0.25, 0.625, 0.875, 0.4375]) == pytest.approx([10.0, 20.0, 30.0, 15.0])
    assert weighted_quantiles(values, weights, [0.0, 1.0]) == pytest.approx([10.0, 30.0])


def test_few_errors_get_a_normal_shape_that_widens_with_the_root_of_the_step():
    spread = error_distribution(np.full((1, 2, 4), np.nan), np.ones(2), QUANTILES)
    assert spread.growth == pytest.approx([1, 2**0.5, 3**0.5, 2])
    assert spread.shape[QUANTILES.index(0.9)] == pytest.approx(1.2816 * (np.pi / 2) ** 0.5, abs=1e-3)
