"""Which model speaks: the best single one, a mean of all weighted by how they did, or last year, by rolling back-test.

M models, O origins, S series, H horizon.
"""

from dataclasses import dataclass

import numpy as np

from forecasting.back_test import BackTest

COMBINATION = "combination"
WEIGHT_POWER = 6.0
ORIGINS_TRUSTED_AT = 10
SINGLE_MUST_WIN_BY = 1.02  # the combination is judged with the weights of one origin less than it will have, and fails less badly
SMALLEST_WEIGHT = 0.03  # mean over a level's series; a model below it costs time and changes nothing


@dataclass(frozen=True)
class Choice:
    """What the back-test says about one level.

    model     a candidate's name, or `combination`
    scores    mean scaled error by candidate (MASE over the origins), `combination` included where it competed
    weights   [M, S] weight of each candidate in the combination, columns add up to 1
    errors    [O, S, H] back-test errors of the chosen model: actual - forecast
    """

    model: str
    scores: dict[str, float]
    weights: np.ndarray
    errors: np.ndarray


def choose(test: BackTest, *, reference: str, unmeasured: str, combine: bool) -> Choice:
    """The candidate with the smallest pooled error; `reference` unless something beats it, `unmeasured` where there is no error to judge by.

    The combination is judged with weights that were made without the origin it is judged at.
    """
    errors = {model: test.errors[place] for place, model in enumerate(test.models)}
    weights = combination_weights(test)
    if combine:
        errors[COMBINATION] = _combined_errors(test)
    by_series = np.stack([test.scaled(one) for one in errors.values()])
    measured = np.isfinite(by_series).all(0)
    if not measured.any():
        return Choice(unmeasured, dict.fromkeys(errors, float("nan")), weights, errors[unmeasured])
    scores = {model: float(by_series[place, measured].mean()) for place, model in enumerate(errors)}
    best = min(scores, key=lambda name: scores[name] * (1.0 if name == COMBINATION else SINGLE_MUST_WIN_BY))
    model = best if scores[best] < scores[reference] else reference
    return Choice(model, scores, weights, errors[model])


def combination_weights(test: BackTest, without: int | None = None) -> np.ndarray:
    """[M, S] weights by (error relative to the other models) ** -6; a series' own errors count in full only from about ten origins on.

    Until then its level's errors stand in, so a new item borrows its category's weights. Candidates that say the same (seasonal ones before there
    is a season) count once: five copies of one opinion would outvote the others.
    """
    keep = [origin for origin in range(test.errors.shape[1]) if origin != without]
    own = np.stack([test.scaled(errors[keep]) for errors in test.errors])
    mean = own.mean(0)
    relative = np.divide(own, mean, out=np.full(own.shape, np.nan), where=mean > 0)
    measured = np.isfinite(relative).all(0)
    if not measured.any():
        weights = np.ones(own.shape)
        weights[_repeats(test.errors)] = 0.0
        return weights / weights.sum(0)
    pooled = relative[:, measured].mean(1, keepdims=True)
    trusted = len(keep) / (len(keep) + ORIGINS_TRUSTED_AT)
    score = np.where(measured, trusted * relative + (1 - trusted) * pooled, pooled)
    weights = np.maximum(score, 1e-3) ** -WEIGHT_POWER
    weights[_repeats(test.errors)] = 0.0
    weights = weights / weights.sum(0)
    weights[weights.mean(1) < SMALLEST_WEIGHT] = 0.0
    return weights / weights.sum(0)


def _repeats(errors: np.ndarray) -> list[int]:
    """Places of candidates [M, O, S, H] whose errors are those of one before them."""
    return [place for place in range(1, len(errors)) if any(np.array_equal(errors[place], errors[first], equal_nan=True) for first in range(place))]


def pooled_weights(weights: np.ndarray) -> np.ndarray:
    """[M, 1] weights of a series that was not back-tested: the mean over those that were."""
    return weights.mean(1, keepdims=True)


def _combined_errors(test: BackTest) -> np.ndarray:
    """[O, S, H] errors of the combination, each origin with the weights of the others."""
    combined = np.full(test.errors.shape[1:], np.nan)
    for origin in range(test.errors.shape[1]):
        weights = combination_weights(test, without=origin)
        combined[origin] = np.einsum("ms,msh->sh", weights, test.errors[:, origin])
    return combined
