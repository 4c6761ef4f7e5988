"""The linear item-item term of taste: EASE, fitted on the distinct items of every history before a cut-off.

EASE (Steck 2019, arXiv 1905.03375) is ridge regression of each item on the others, B = I - P / diag(P) with P = (X'X + ridge)^-1. The
items x items inverse is never made; by the matrix inversion lemma, with M = (X X' + ridge)^-1 X and h_p = x_p' M_p,

    (x B)_p = [ (x X') . M_p - x_p h_p ] / (1 - h_p)

so a history x is R numbers (its overlap with each of R users, the *landmarks*), and an item is R numbers more. With a decayed X the same
holds for weights. A low-rank form (randomised SVD) has the same shape, for data whose landmarks would be too many; at full rank both are
EASE to the last digit.

Letters: U users, I items, R landmarks or rank, P items that are scored (the pool).
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from lightning_modules.event_log import EventLog, ranges

OVERSAMPLING = 16
POWER_ITERATIONS = 2
ROWS_AT_ONCE = 2_000_000
LEAST_FREE = 1e-6


@dataclass(frozen=True)
class LinearItems:
    """Score of pool item p for a history x: (x linear_in) . out[p] - x_p own[p].

    linear_in  [I, R] sparse
    pool       [P]    item indices, rising
    out        [P, R] float32
    own        [P]    float32
    landmarks  [R]    rows of the users an exact model was fitted on, rising; empty for a low-rank one
    """

    linear_in: sp.csr_array
    pool: np.ndarray
    out: np.ndarray
    own: np.ndarray
    landmarks: np.ndarray
    ridge: float

    def scores(self, history: sp.csr_array) -> np.ndarray:
        """Scores of histories (weights of distinct items, [U, I]) for the pool, [U, P]."""
        scores = (history @ self.linear_in).toarray().astype(np.float32) @ self.out.T
        seen = history[:, self.pool].tocoo()
        scores[seen.row, seen.col] -= seen.data * self.own[seen.col]
        return scores

    def scores_of(self, rows: np.ndarray, history: sp.csr_array) -> np.ndarray:
        """Scores of the users at `rows` of the matrix `history` it was fitted on, [len(rows), P].

        For landmarks X X' (X X' + ridge)^-1 X = X - ridge M, so a score is x_p - ridge out[p]: no second product.
        """
        if not np.isin(rows, self.landmarks).all():
            return self.scores(history[rows])
        scores = self.out[:, np.searchsorted(self.landmarks, rows)].T * np.float32(-self.ridge)
        seen = history[rows][:, self.pool].tocoo()
        scores[seen.row, seen.col] += seen.data
        return scores


def fit_exact(history: sp.csr_array, pool: np.ndarray, *, ridge: float, max_landmarks: int, seed: int = 0) -> LinearItems:
    """EASE of the histories [U, I]; where more than `max_landmarks` users have one, of that many drawn at random."""
    rows = _landmarks(history, max_landmarks, seed)
    landmarks = history[rows].astype(np.float32)
    kernel = (landmarks @ landmarks.T).toarray()
    kernel[np.diag_indices_from(kernel)] += ridge
    inverse = _inverse(kernel)
    columns = landmarks[:, pool]
    regressed = np.asarray(columns.T @ inverse)  # M of the pool, [P, R]
    own = np.asarray(columns.T.multiply(regressed).sum(1)).ravel()
    free = np.maximum(1.0 - own, LEAST_FREE)
    return LinearItems(landmarks.T.tocsr(), pool, (regressed / free[:, None]).astype(np.float32), (own / free).astype(np.float32), rows, ridge)


def fit_low_rank(history: sp.csr_array, pool: np.ndarray, *, rank: int, ridge: float, seed: int = 0) -> LinearItems:
    """EASE with X replaced by its best approximation of `rank`: no users x users table.

    With X = U S V' and d = s^2 / (s^2 + ridge) the score is (x V d V'_p - x_p h_p) / (1 - h_p), h_p = sum over r of V_pr^2 d_r.
    """
    vectors, singular = _right_singular_vectors(history, min(rank, *history.shape), seed)
    kept = singular**2 / (singular**2 + ridge)
    own = (vectors[pool] ** 2) @ kept
    free = np.maximum(1.0 - own, LEAST_FREE)
    out = (vectors[pool] * kept) / free[:, None]
    return LinearItems(sp.csr_array(vectors.astype(np.float32)), pool, out.astype(np.float32), (own / free).astype(np.float32), np.zeros(0, np.int64), ridge)


def _landmarks(history: sp.csr_array, max_landmarks: int, seed: int) -> np.ndarray:
    active = np.flatnonzero(np.diff(history.indptr))
    if len(active) <= max_landmarks:
        return active
    return np.sort(np.random.default_rng(seed).choice(active, max_landmarks, replace=False))


def _inverse(positive_definite: np.ndarray) -> np.ndarray:
    """Inverse by Cholesky; the argument is overwritten."""
    potrf, potri = scipy.linalg.get_lapack_funcs(("potrf", "potri"), (positive_definite,))
    factor, _ = potrf(positive_definite, lower=1, overwrite_a=1, clean=1)
    inverse, _ = potri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(inverse)
    return inverse + np.tril(inverse, -1).T


def _right_singular_vectors(history: sp.csr_array, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """V [I, R] and s [R], largest first. Randomised subspace iteration (Halko et al. 2011, arXiv 0909.4061); exact where the rank is nearly full."""
    num_users, num_items = history.shape
    if rank + OVERSAMPLING >= min(num_users, num_items):
        return _exact_singular_vectors(history, rank)
    matrix = history.astype(np.float32)
    basis = matrix @ np.random.default_rng(seed).standard_normal((num_items, rank + OVERSAMPLING), dtype=np.float32)
    for _ in range(POWER_ITERATIONS):
        basis = matrix @ (matrix.T @ np.linalg.qr(basis)[0])
    projected = matrix.T @ np.linalg.qr(basis)[0]  # [I, rank + oversampling]
    values, rotation = np.linalg.eigh(projected.T.astype(np.float64) @ projected)
    kept = _largest(values, rank)
    return projected @ (rotation[:, kept] / np.sqrt(values[kept])).astype(np.float32), np.sqrt(values[kept])


def _exact_singular_vectors(history: sp.csr_array, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """By the eigenvectors of the smaller Gram matrix."""
    matrix = history.astype(np.float64)
    is_tall = matrix.shape[0] >= matrix.shape[1]
    values, vectors = np.linalg.eigh((matrix.T @ matrix if is_tall else matrix @ matrix.T).toarray())
    kept = _largest(values, rank)
    singular = np.sqrt(values[kept])
    return (vectors[:, kept] if is_tall else np.asarray(matrix.T @ vectors[:, kept]) / singular), singular


def _largest(values: np.ndarray, rank: int) -> np.ndarray:
    order = np.argsort(-values)[:rank]
    return order[values[order] > 1e-9 * values.max()]


def distinct_history(log: EventLog, cutoff_day: int, num_items: int) -> tuple[sp.csr_array, np.ndarray]:
    """Matrix 0/1 of users and their distinct items before a day [U, I], and the last day of each of its entries."""
    known = log.ends_before(cutoff_day)
    begin = np.asarray(log.offsets[:-1])
    lengths = known - begin
    counts, items, last_days = np.zeros(log.num_users, np.int64), [], []
    for first, last in _user_blocks(lengths):
        users = np.repeat(np.arange(first, last), lengths[first:last])
        events = log.take(ranges(begin[first:last], lengths[first:last]))
        key = users * num_items + events.items
        order = np.argsort(key, kind="stable")  # days rise within a user, so the last of equal keys is the latest
        is_last = np.append(key[order][1:] != key[order][:-1], True) if len(key) else np.zeros(0, bool)
        kept = order[is_last]
        counts += np.bincount(users[kept], minlength=log.num_users)
        items.append(events.items[kept])
        last_days.append(events.days[kept])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    indices = np.concatenate(items) if items else np.zeros(0, np.int32)
    matrix = sp.csr_array((np.ones(len(indices), np.float32), indices, offsets), shape=(log.num_users, num_items))
    return matrix, np.concatenate(last_days) if last_days else np.zeros(0, np.int32)


def decayed(matrix: sp.csr_array, last_days: np.ndarray, cutoff_day: int, half_life_days: float | None) -> sp.csr_array:
    """The same matrix, each entry halved for every half-life since its last event; the day before the cut-off counts 1."""
    if half_life_days is None:
        return matrix
    weights = np.exp2(-(cutoff_day - 1 - last_days) / half_life_days).astype(np.float32)
    return sp.csr_array((weights, matrix.indices, matrix.indptr), shape=matrix.shape)


def _user_blocks(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of users that together hold at most about `ROWS_AT_ONCE` events."""
    ends = np.cumsum(lengths)
    cuts = np.searchsorted(ends, np.arange(ROWS_AT_ONCE, ends[-1] + ROWS_AT_ONCE, ROWS_AT_ONCE)) + 1 if len(ends) and ends[-1] else np.zeros(0, np.int64)
    bounds = np.unique(np.concatenate([[0], np.minimum(cuts, len(lengths)), [len(lengths)]]))
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
