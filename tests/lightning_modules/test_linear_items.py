"""The linear term against EASE written out, items x items."""

import numpy as np
import pytest
import scipy.sparse as sp

from lightning_modules.linear_items import decayed, fit_exact, fit_low_rank

RIDGE = 3.0


def histories(seed: int = 0, users: int = 30, items: int = 12) -> sp.csr_array:
    return sp.csr_array((np.random.default_rng(seed).random((users, items)) < 0.3).astype(np.float32))


def ease(matrix: np.ndarray, ridge: float) -> np.ndarray:
    """Weights B of Steck's closed form: zero on the diagonal."""
    inverse = np.linalg.inv(matrix.T @ matrix + ridge * np.eye(matrix.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def test_exact_scores_equal_ease() -> None:
    matrix = histories()
    model = fit_exact(matrix, np.arange(12), ridge=RIDGE, max_landmarks=100)
    wanted = matrix.toarray() @ ease(matrix.toarray().astype(float), RIDGE)
    np.testing.assert_allclose(model.scores(matrix), wanted, atol=2e-6)


def test_full_rank_equals_ease() -> None:
    matrix = histories()
    model = fit_low_rank(matrix, np.arange(12), rank=12, ridge=RIDGE)
    wanted = matrix.toarray() @ ease(matrix.toarray().astype(float), RIDGE)
    np.testing.assert_allclose(model.scores(matrix), wanted, atol=1e-6)


def test_a_history_the_model_was_not_fitted_on_gets_eases_score() -> None:
    matrix, other = histories(), histories(seed=1, users=4)
    model = fit_exact(matrix, np.arange(12), ridge=RIDGE, max_landmarks=100)
    np.testing.assert_allclose(model.scores(other), other.toarray() @ ease(matrix.toarray().astype(float), RIDGE), atol=2e-6)


def test_scores_of_landmarks_need_no_product_and_are_the_same() -> None:
    dense = histories().toarray()
    dense[3] = 0  # a user nothing is known of is no landmark
    matrix = sp.csr_array(dense)
    model = fit_exact(matrix, np.array([1, 4, 7]), ridge=RIDGE, max_landmarks=100)
    rows = np.array([0, 5, 29])
    np.testing.assert_allclose(model.scores_of(rows, matrix), model.scores(matrix[rows]), atol=2e-6)
    assert 3 not in model.landmarks
    np.testing.assert_allclose(model.scores_of(np.array([3, 5]), matrix), model.scores(matrix[[3, 5]]), atol=2e-6)


def test_a_decayed_matrix_equals_ease_of_it() -> None:
    matrix = histories()
    weighted = decayed(matrix, np.random.default_rng(2).integers(0, 50, matrix.nnz), 50, 10.0)
    model = fit_exact(weighted, np.arange(12), ridge=RIDGE, max_landmarks=100)
    np.testing.assert_allclose(model.scores(weighted), weighted.toarray() @ ease(weighted.toarray().astype(float), RIDGE), atol=2e-6)


def test_decay_counts_the_day_before_the_cutoff_as_one() -> None:
    matrix = sp.csr_array(np.array([[1.0, 1.0]], np.float32))
    np.testing.assert_allclose(decayed(matrix, np.array([99, 89]), 100, 10.0).toarray(), [[1.0, 0.5]])


def test_landmarks_are_at_most_as_many_as_asked_for_and_the_same_for_a_seed() -> None:
    first, second = (fit_exact(histories(), np.arange(12), ridge=RIDGE, max_landmarks=7, seed=5) for _ in range(2))
    assert len(first.landmarks) == 7
    np.testing.assert_array_equal(first.out, second.out)


def test_randomised_singular_vectors_span_the_true_ones() -> None:
    generator = np.random.default_rng(0)
    matrix = sp.csr_array((generator.random((300, 3)) @ generator.random((3, 200)) + 0.001 * generator.random((300, 200))).astype(np.float32))
    model = fit_low_rank(matrix, np.arange(200), rank=3, ridge=RIDGE)
    exact = np.linalg.svd(matrix.toarray(), full_matrices=False)[2][:3]
    overlap = np.linalg.svd(model.linear_in.toarray().T @ exact.T)[1]
    assert overlap == pytest.approx(np.ones(3), abs=1e-3)
