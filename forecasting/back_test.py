"""Rolling-origin back-test: what every candidate would have said at earlier points, and how wrong it was by what is known at a cut-off.

S series, H horizon, O origins, M models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Means = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class BackTest:
    """Errors of all candidates at the origins before one cut-off.

    models   names, M
    errors   [M, O, S, H] actual - forecast, NaN where the actual lies at or after the cut-off or the series did not exist
    actuals  [O, S, H]
    scale    [S] mean absolute step of the seasonal naive rule inside the history, NaN where it is 0 or unknown
    """

    models: tuple[str, ...]
    errors: np.ndarray
    actuals: np.ndarray
    scale: np.ndarray

    def scaled_errors(self) -> np.ndarray:
        """[M, S] `scaled` of every candidate."""
        return np.stack([self.scaled(errors) for errors in self.errors])

    def scaled(self, errors: np.ndarray) -> np.ndarray:
        """[S] mean absolute error of errors [O, S, H] over origins and steps, in units of `scale` (MASE); NaN for a series without errors."""
        total = np.nansum(np.abs(errors), axis=(0, 2))
        count = (~np.isnan(errors)).sum(axis=(0, 2))
        return np.divide(total, count * self.scale, out=np.full(total.shape, np.nan), where=(count > 0) & np.isfinite(self.scale))


def origins_before(known: int, count: int, every: int, first: int) -> list[int]:
    """Numbers of known periods at the rolling origins before a cut-off that knows `known` periods, latest first, none under `first`."""
    return [origin for origin in (known - every * step for step in range(1, count + 1)) if origin >= first]


def back_test(values: np.ndarray, known: int, means_at: Mapping[int, Means], models: Sequence[str], horizon: int, seasons: Sequence[int]) -> BackTest:
    """Collect the errors of the forecasts made at the origins in `means_at` (origin -> model -> [S, H]) against values before `known` only."""
    origins = sorted(means_at)
    actuals = np.full((len(origins), len(values), horizon), np.nan)
    errors = np.full((len(models), *actuals.shape), np.nan)
    for number, origin in enumerate(origins):
        steps = min(horizon, known - origin)
        actuals[number, :, :steps] = values[:, origin : origin + steps]
        for place, model in enumerate(models):
            errors[place, number] = actuals[number] - means_at[origin][model]
    return BackTest(tuple(models), errors, actuals, seasonal_scale(values[:, :known], seasons))


def seasonal_scale(past: np.ndarray, seasons: Sequence[int]) -> np.ndarray:
    """[S] mean absolute difference to one season (the longest with 8 differences) earlier, else to the period before; NaN where that is 0."""
    scale = np.full(len(past), np.nan)
    for lag in sorted({1, *seasons}):
        if lag >= past.shape[1]:
            continue
        steps = np.abs(past[:, lag:] - past[:, :-lag])
        count = (~np.isnan(steps)).sum(1)
        mean = np.divide(np.nansum(steps, axis=1), count, out=np.full(len(past), np.nan), where=count > 0)
        usable = (count >= (8 if lag > 1 else 1)) & (mean > 0)
        scale[usable] = mean[usable]
    return scale
