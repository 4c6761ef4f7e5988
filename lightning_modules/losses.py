"""Losses of sequence models as pure functions; each returns the mean over its rows, float32.

Letters: N targets, D width, I items, K negatives shared by the N targets.
`queries` [N, D] and `items` tables [I, D] score by dot product; `weights` [N] count a row as more or less than one (0 leaves it out).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

NEVER = -1e9
SCORES_AT_ONCE = 2**21  # fits the cache: faster than one large table
FEWEST_ITEMS_AT_ONCE = 1_024


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp(min=1e-12)


class _TargetLogs(torch.autograd.Function):
    """-log of each target's share [N], walking over `chunk` items at a time forth and back, so that [N, chunk] is the largest table held."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, item_vectors: Tensor, targets: Tensor, chunk: int) -> Tensor:
        kind = queries.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else queries.dtype
        asked = queries.to(dtype)
        total = queries.new_full((len(queries),), -torch.inf, dtype=torch.float32)
        for vectors in item_vectors.split(chunk):
            total = torch.logaddexp(total, (asked @ vectors.to(dtype).T).float().logsumexp(1))
        positive = (asked * item_vectors[targets].to(dtype)).sum(1).float()
        ctx.save_for_backward(queries, item_vectors, targets, total)
        ctx.chunk, ctx.dtype = chunk, dtype
        return total - positive

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, item_vectors, targets, total = ctx.saved_tensors
        asked, outer = queries.to(ctx.dtype), gradients[0].float()[:, None]
        of_queries = torch.zeros_like(queries, dtype=torch.float32)
        of_items = torch.empty_like(item_vectors)
        for vectors, out in zip(item_vectors.split(ctx.chunk), of_items.split(ctx.chunk), strict=True):
            cast = vectors.to(ctx.dtype)
            shares = (asked @ cast.T).float().sub_(total[:, None]).exp_().mul_(outer).to(ctx.dtype)
            of_queries += shares @ cast
            out.copy_(shares.T @ asked)
        of_queries -= outer * item_vectors[targets]
        of_items.index_add_(0, targets, (-outer * queries).to(of_items.dtype))
        return of_queries.to(queries.dtype), of_items, None, None


def full_cross_entropy(queries: Tensor, item_vectors: Tensor, targets: Tensor, *, weights: Tensor | None = None, chunk: int | None = None) -> Tensor:
    """Cross-entropy over all I items; only [N, chunk] scores are held at once, in the forward and again in the backward pass.

    `chunk` is by default what keeps that table at 8 MiB. Source: the softmax of GRU4Rec (arXiv 1511.06939) over the whole catalogue; the
    running log of sums is that of online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867).
    """
    rows = chunk or max(SCORES_AT_ONCE // max(len(queries), 1), FEWEST_ITEMS_AT_ONCE)
    return _mean(_TargetLogs.apply(queries, item_vectors, targets, rows), weights)


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


def contrastive(first: Tensor, second: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Two views [B, D] of the same B histories: each view must find its other among all others of the batch, in both directions.

    Cosine over `temperature`, cross-entropy over the B others. Source: NT-Xent (Chen et al. 2020, arXiv 2002.05709, eq. 1), for histories CL4SRec, arXiv
    2010.14395, eq. 4; here the negatives of a view are the other view's rows only.
    """
    scores = functional.normalize(first.float(), dim=1) @ functional.normalize(second.float(), dim=1).T / temperature
    same = torch.arange(len(scores), device=scores.device)
    return (functional.cross_entropy(scores, same) + functional.cross_entropy(scores.T, same)) / 2


def mean_squared_error(predictions: Tensor, values: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Mean squared error, for values such as ratings and spend."""
    return _mean((predictions.float() - values.float()).square(), weights)
