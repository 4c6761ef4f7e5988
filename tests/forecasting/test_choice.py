"""Weights of the combination, worked out on small back-tests."""

import numpy as np

from forecasting.back_test import BackTest
from forecasting.choice import combination_weights


def back_test_of(*errors: float) -> BackTest:
    """One series, two origins, three steps; each candidate is wrong by the same amount everywhere."""
    table = np.array(errors)[:, None, None, None] * np.ones((1, 2, 1, 3))
    return BackTest(tuple(f"model {number}" for number in range(len(errors))), table, np.zeros((2, 1, 3)), np.ones(1))


def test_a_candidate_half_as_wrong_weighs_sixty_four_times_as_much():
    weights = combination_weights(back_test_of(1.0, 0.5))[:, 0]
    assert weights[0] == 0.0, "below the smallest weight it is left out"
    np.testing.assert_allclose(combination_weights(back_test_of(1.0, 0.8))[:, 0], [0.8**6 / (1 + 0.8**6), 1 / (1 + 0.8**6)])


def test_candidates_that_say_the_same_count_once():
    alone = combination_weights(back_test_of(1.0, 0.9))[:, 0]
    copied = combination_weights(back_test_of(1.0, 0.9, 0.9, 1.0, 0.9))[:, 0]
    np.testing.assert_allclose(copied, [*alone, 0, 0, 0])


def test_without_a_measured_error_the_weights_still_add_up_to_one():
    nothing = BackTest(("a", "b", "c"), np.full((3, 1, 1, 2), np.nan), np.full((1, 1, 2), np.nan), np.full(1, np.nan))
    np.testing.assert_allclose(combination_weights(nothing)[:, 0].sum(), 1.0)
