"""Losses of sequence models as pure functions; each returns the mean over its rows, float32.

Letters: N targets, D width, I items, K negatives shared by the N targets.
`queries` [N, D] and `items` tables [I, D] score by dot product; `weights` [N] count a row as more or less than one (0 leaves it out).
"""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

NEVER = -1e9


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp(min=1e-12)


def full_cross_entropy(
    queries: Tensor, item_vectors: Tensor, targets: Tensor, *, bias: Tensor | None = None, weights: Tensor | None = None, chunk: int = 1_024
) -> Tensor:
    """Cross-entropy over all items, `chunk` targets at a time, so that no [N, I] table is ever held.

    Only the [chunk, I] logits of one chunk live at once, in the forward and again in the backward pass.
    """

    def part(query: Tensor, vectors: Tensor, target: Tensor) -> Tensor:
        logits = (query @ vectors.T).float()
        return functional.cross_entropy(logits if bias is None else logits + bias, target, reduction="none")

    losses = [
        checkpoint(part, queries[start : start + chunk], item_vectors, targets[start : start + chunk], use_reentrant=False, preserve_rng_state=False)
        for start in range(0, len(queries), chunk)
    ]
    return _mean(torch.cat(losses), weights)


def streamed_cross_entropy(queries: Tensor, item_vectors: Tensor, targets: Tensor, *, weights: Tensor | None = None, chunk: int = 16_384) -> Tensor:
    """The same value as `full_cross_entropy`, walking over `chunk` items at a time: for catalogues whose row of logits is itself too large."""

    def part(running: Tensor, query: Tensor, vectors: Tensor) -> Tensor:
        return torch.logaddexp(running, (query @ vectors.T).float().logsumexp(1))

    running = queries.new_full((len(queries),), -torch.inf, dtype=torch.float32)
    for start in range(0, len(item_vectors), chunk):
        running = checkpoint(part, running, queries, item_vectors[start : start + chunk], use_reentrant=False, preserve_rng_state=False)
    positive = (queries * item_vectors[targets]).sum(1).float()
    return _mean(running - positive, weights)


def sampled_softmax(
    positive_scores: Tensor,
    negative_scores: Tensor,
    *,
    positive_logq: Tensor | None = None,
    negative_logq: Tensor | None = None,
    is_target: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Softmax over the target and K shared negatives.

    positive_scores  [N]
    negative_scores  [N, K]
    positive_logq    [N]     log of the expected count of the target among the negatives; scores are corrected by it
    negative_logq    [K]     the same of each negative
    is_target        [N, K]  negatives that are the target itself: left out

    With `logq` the loss estimates the full softmax (Bengio and Senecal 2008; Yi et al. 2019, doi 10.1145/3298689.3346996). Without it,
    and negatives drawn by popularity, scores become log p(item | history) - log p(item): taste without popularity.
    """
    positive = positive_scores.float() if positive_logq is None else positive_scores.float() - positive_logq
    negative = negative_scores.float() if negative_logq is None else negative_scores.float() - negative_logq
    if is_target is not None:
        negative = negative.masked_fill(is_target, NEVER)
    return _mean(torch.logaddexp(positive, negative.logsumexp(1)) - positive, weights)


def binary_cross_entropy(positive_scores: Tensor, negative_scores: Tensor, *, is_target: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Target against 1, each of K negatives against 0; mean over the negatives. Source: SASRec, arXiv 1808.09781."""
    return generalised_binary_cross_entropy(positive_scores, negative_scores, beta=1.0, is_target=is_target, weights=weights)


def generalised_binary_cross_entropy(
    positive_scores: Tensor, negative_scores: Tensor, *, beta: float, is_target: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """gBCE: the probability of the target is raised to the power `beta`, which undoes the over-confidence of sampled negatives.

    Source: gSASRec, arXiv 2308.07192, eq. 9; `beta` from `gbce_beta`.
    """
    positive = -beta * functional.logsigmoid(positive_scores.float())
    negative = -functional.logsigmoid(-negative_scores.float())
    if is_target is None:
        return _mean(positive + negative.mean(1), weights)
    kept = (~is_target).float()
    return _mean(positive + (negative * kept).sum(1) / kept.sum(1).clamp(min=1), weights)


def gbce_beta(num_negatives: int, num_items: int, calibration: float) -> float:
    """Power of gBCE: 1 (plain BCE) at calibration 0, the sampling rate at calibration 1. Source: arXiv 2308.07192, eq. 10."""
    rate = num_negatives / max(num_items - 1, 1)
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def bayesian_personalised_ranking(
    positive_scores: Tensor, negative_scores: Tensor, *, is_target: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """BPR: -log sigmoid(target - negative), mean over the negatives. Source: Rendle et al. 2009, arXiv 1205.2618."""
    pairs = -functional.logsigmoid(positive_scores.float()[:, None] - negative_scores.float())
    if is_target is None:
        return _mean(pairs.mean(1), weights)
    kept = (~is_target).float()
    return _mean((pairs * kept).sum(1) / kept.sum(1).clamp(min=1), weights)


def mean_squared_error(predictions: Tensor, values: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Mean squared error, for values such as ratings and spend."""
    return _mean((predictions.float() - values.float()).square(), weights)
