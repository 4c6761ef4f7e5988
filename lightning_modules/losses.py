"""Losses of sequence models as pure functions; each returns the mean over its rows, float32.

Letters: N targets, D width, I items, K negatives shared by the N targets.
`queries` [N, D] and `items` tables [I, D] score by dot product; `weights` [N] count a row as more or less than one (0 leaves it out).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

NEVER = -1e9
SCORES_AT_ONCE = 2**20  # fits the cache: faster than one large table, and than twice as many
FEWEST_ROWS_AT_ONCE = 64


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp(min=1e-12)


def _exp_(x: Tensor) -> Tensor:
    """E to the power of `x`, in place: by powers of two, which take a third of the time on a CPU."""
    return x.mul_(math.log2(math.e)).exp2_()


class _FullSoftmax(torch.autograd.Function):
    """Weighted sum of -log of each target's share. Walks over `rows` targets at a time and takes their gradients at once, while their scores are there."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, item_vectors: Tensor, targets: Tensor, weights: Tensor, rows: int) -> Tensor:
        kind = queries.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else queries.dtype
        asked, table = queries.detach().to(dtype), item_vectors.detach().to(dtype)
        is_learning = any(ctx.needs_input_grad)
        of_queries = torch.empty_like(queries, dtype=torch.float32) if is_learning else None
        of_items = torch.zeros_like(item_vectors, dtype=torch.float32) if is_learning else None
        loss = weights.new_zeros(())
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            target, weight = targets[part, None], weights[part, None]
            scores = (asked[part] @ table.T).float()
            positive = scores.gather(1, target)
            largest = scores.amax(1, keepdim=True)
            total = _exp_(scores.sub_(largest)).sum(1, keepdim=True)
            loss += (weight * (total.log() + largest - positive)).sum()
            if of_queries is not None and of_items is not None:
                pull = scores.mul_(weight / total).scatter_add_(1, target, -weight).to(dtype)  # the gradient of the scores
                of_queries[part] = pull @ table
                if dtype == torch.float32:
                    of_items.addmm_(pull.T, asked[part])
                else:
                    of_items += pull.T @ asked[part]
        if of_queries is not None and of_items is not None:
            ctx.save_for_backward(of_queries.to(queries.dtype), of_items.to(item_vectors.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_queries, of_items = ctx.saved_tensors
        return of_queries * gradients[0], of_items * gradients[0], None, None, None


def full_cross_entropy(queries: Tensor, item_vectors: Tensor, targets: Tensor, *, weights: Tensor | None = None, rows: int | None = None) -> Tensor:
    """Cross-entropy over all I items; the scores of `rows` targets are held at once, [rows, I], and never come back.

    `rows` is by default what keeps that table at 4 MiB, but at least 64. Source: the softmax of GRU4Rec (arXiv 1511.06939) over the whole catalogue;
    gradients taken in the forward pass as in Liger (arXiv 2410.10989).
    """
    rows = rows or max(SCORES_AT_ONCE // max(len(item_vectors), 1), FEWEST_ROWS_AT_ONCE)
    share = torch.full((len(queries),), 1 / max(len(queries), 1), device=queries.device) if weights is None else weights / weights.sum().clamp(min=1e-12)
    return _FullSoftmax.apply(queries, item_vectors, targets, share.float(), rows)  # type: ignore[no-any-return]


class _SampledSoftmax(torch.autograd.Function):
    """`sampled_softmax` of dot products; takes the gradients at once, while the scores are there, and writes in place."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, of_targets: Tensor, of_negatives: Tensor, targets: Tensor, negatives: Tensor, logq: Tensor, weights: Tensor
    ) -> Tensor:
        kind = queries.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else queries.dtype
        asked, drawn = queries.to(dtype), of_negatives.to(dtype)
        positive = (queries * of_targets).sum(1, keepdim=True).float()
        scores = (asked @ drawn.T).float().sub_(logq)
        largest = torch.maximum(scores.amax(1, keepdim=True), positive)
        is_other = (targets.int()[:, None] - negatives.int()).abs_().clamp_(max=1)  # [N, K], 0 where a negative is the target itself
        scores = _exp_(scores.sub_(largest)).mul_(is_other.float())
        own = _exp_(positive - largest)
        total = scores.sum(1, keepdim=True) + own
        if any(ctx.needs_input_grad):
            pull = scores.mul_(weights[:, None] / total).to(dtype)  # the gradient of the negatives' scores
            of_positive = ((own / total - 1) * weights[:, None]).to(of_targets.dtype)
            of_queries = torch.addcmul((pull @ drawn).to(queries.dtype), of_positive.to(queries.dtype), of_targets.to(queries.dtype))
            ctx.save_for_backward(of_queries, queries * of_positive, (pull.T @ asked).to(of_negatives.dtype))
        return (weights[:, None] * (total.log() + largest - positive)).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_queries, of_targets, of_negatives = ctx.saved_tensors
        return of_queries * gradients[0], of_targets * gradients[0], of_negatives * gradients[0], None, None, None, None


def sampled_cross_entropy(
    queries: Tensor, of_targets: Tensor, of_negatives: Tensor, targets: Tensor, negatives: Tensor, *, logq: Tensor | None = None, weights: Tensor
) -> Tensor:
    """`sampled_softmax` where scores are dot products: the same value and gradients in a third of the time on a CPU.

    queries, of_targets  [N, D]  queries and vectors of their targets
    of_negatives         [K, D]  vectors of the negatives
    targets, negatives   [N] [K] item indices: a negative that is the target itself is left out
    logq                 [K]     see `sampled_softmax`
    """
    shift = torch.zeros(len(negatives), device=queries.device) if logq is None else logq
    share = (weights / weights.sum().clamp(min=1e-12)).float()
    return _SampledSoftmax.apply(queries, of_targets, of_negatives, targets, negatives, shift, share)  # type: ignore[no-any-return]


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
    """Mean squared error, for values such as ratings and spend. Source: Koren et al. 2009, doi 10.1109/MC.2009.263, eq. 2, without its penalty."""
    return _mean((predictions.float() - values.float()).square(), weights)
