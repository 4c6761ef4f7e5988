"""Quantiles from what the chosen model missed by in its own back-test, by horizon step: no assumption on the shape of the errors.

S series, O origins (oldest first), H horizon, Q quantiles. Source of the idea: split conformal prediction (Vovk et al. 2005), here on rolling origins, where
a late origin says more about the next one than an early one: weighted as in Barber et al. 2023, "Conformal prediction beyond exchangeability".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

OWN_ERRORS_TRUSTED_AT = 12
FEWEST_ERRORS = 20
ORIGIN_MEMORY = 0.7  # weight of an origin's errors relative to the one after it


@dataclass(frozen=True)
class ErrorDistribution:
    """Errors of one model on one level.

    growth   [H] size of the error at each step, not falling, mean error of the pool = 1 at its own scale
    shape    [Q] quantiles of error / (size of the series' errors * growth)
    pooled   mean absolute error in units of the series' scale
    """

    growth: np.ndarray
    shape: np.ndarray
    pooled: float


def error_distribution(errors: np.ndarray, scale: np.ndarray, quantiles: Sequence[float]) -> ErrorDistribution:
    """Learn from the errors [O, S, H] of the back-test; with fewer than 20 of them, a normal shape that widens with the root of the step."""
    horizon = errors.shape[2]
    scaled = np.abs(errors) / scale[None, :, None]
    if np.isfinite(scaled).sum() < FEWEST_ERRORS:
        normal = np.array([NormalDist().inv_cdf(q) for q in quantiles])
        return ErrorDistribution(np.sqrt(np.arange(1, horizon + 1)), normal * np.sqrt(np.pi / 2), 1.0)
    growth = _growth(scaled)
    weights = np.broadcast_to(_origin_weights(len(errors)), errors.shape)
    at_growth = scaled / growth
    known = np.isfinite(at_growth)
    pooled = float(np.average(at_growth[known], weights=weights[known]))
    size = series_size(errors, scale, growth, pooled)
    expected = np.broadcast_to(size[None, :, None] * growth, errors.shape)
    usable = np.isfinite(errors) & (expected > 0)
    shape = weighted_quantiles(errors[usable] / expected[usable], weights[usable], quantiles) if usable.any() else np.zeros(len(quantiles))
    num_origins = int(usable.any(axis=(1, 2)).sum())
    shape = shape * np.sqrt(1 + 1 / max(num_origins, 1))  # a new origin differs from the mean of n by more than each of them did
    return ErrorDistribution(growth, shape, pooled)


def series_size(errors: np.ndarray, scale: np.ndarray, growth: np.ndarray, pooled: float) -> np.ndarray:
    """[S] typical error of each series at growth 1: its own weighted mean, pulled to the pool's (in units of its scale) while its errors are few."""
    own = np.abs(errors) / growth
    weights = np.where(np.isfinite(own), _origin_weights(len(errors)), 0.0)
    total = (np.nan_to_num(own) * weights).sum(axis=(0, 2))
    return (total + OWN_ERRORS_TRUSTED_AT * pooled * scale) / (weights.sum(axis=(0, 2)) + OWN_ERRORS_TRUSTED_AT)


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """[Q] values below which a share q of the weight lies; each value stands in the middle of its own weight, between two the line counts."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) - weights[order] / 2
    return np.interp(np.asarray(quantiles) * weights.sum(), reached, values[order])


def _origin_weights(num_origins: int) -> np.ndarray:
    """[O, 1, 1] 1 for the last origin, less for each before it."""
    return (ORIGIN_MEMORY ** np.arange(num_origins - 1, -1, -1.0))[:, None, None]


def _growth(scaled: np.ndarray) -> np.ndarray:
    """[H] mean scaled error of each step over the mean of all, made non-decreasing; steps not yet seen take the last one's."""
    count = np.isfinite(scaled).sum(axis=(0, 1))
    total = np.nansum(scaled, axis=(0, 1))
    seen = count >= FEWEST_ERRORS
    if not seen.any():
        return np.ones(scaled.shape[2])
    mean = np.interp(np.arange(len(count)), np.flatnonzero(seen), (total / np.maximum(count, 1))[seen])
    rising = isotonic(mean, np.where(seen, count, 1.0))
    return rising / rising.mean() if rising.mean() > 0 else np.ones(len(rising))


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Closest non-decreasing sequence in weighted squares (pool adjacent violators)."""
    blocks: list[list[float]] = []
    for value, weight in zip(values, weights, strict=True):
        blocks.append([float(value), float(weight), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            value_2, weight_2, count_2 = blocks.pop()
            value_1, weight_1, count_1 = blocks.pop()
            weight_sum = weight_1 + weight_2
            blocks.append([(value_1 * weight_1 + value_2 * weight_2) / weight_sum, weight_sum, count_1 + count_2])
    return np.concatenate([np.full(int(count), value) for value, _, count in blocks])


def quantiles_around(mean: np.ndarray, size: np.ndarray, errors: ErrorDistribution) -> np.ndarray:
    """[Q, S, H] mean + size * growth * shape, cut at 0."""
    spread = size[:, None] * errors.growth
    return np.maximum(mean[None] + errors.shape[:, None, None] * spread[None], 0.0)
