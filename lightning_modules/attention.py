"""Attention within many short histories in bf16 on a CPU, forward and backward written out.

Letters: B histories, T steps, H heads, E width of a head.
"""

import math
from typing import Any

import torch
from torch import Tensor

LONGEST = 64  # longer histories would need T x T scores of every history at once
LARGEST_DIFFERENCE = 100.0  # of two base-2 logarithms of weights: 2 to this power still has room for a sum in single precision
Kept = tuple[Tensor, Tensor, Tensor, Tensor]


def short_attention(stacked: Tensor, is_real: Tensor | None, *, is_causal: bool) -> Tensor:
    """From queries, keys and values of right-padded histories [B, T, 3, H, E] to the mixed values [B, T, H, E].

    `is_real` [B, T], None where all steps are; a step of the padding repeats its history's last one. Causal: each step from itself and those before.
    """
    return _ShortAttention.apply(stacked, is_real, is_causal)  # type: ignore[no-any-return]


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stacked: Tensor, is_real: Tensor | None, is_causal: bool) -> Tensor:
        steps = stacked.shape[1]
        whole = stacked.new_ones(1, 1, 1, steps, dtype=torch.float32) if is_real is None else is_real[:, None, None, :].float()
        mixed, kept = attend(stacked, None if is_causal else whole)
        ctx.save_for_backward(*kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradient_of_attend(gradients[0], ctx.saved_tensors), None, None


def attend(stacked: Tensor, mask: Tensor | None) -> tuple[Tensor, Kept]:
    """softmax(Q K' / sqrt(E)) V as `short_attention` has it, and what its gradient needs: two batched products in bf16, softmax in single precision.

    `mask` [B, 1, T or 1, T] is 1 where a step may look at another, itself at least; None: itself and all before.
    A softmax may subtract any number from a row. Here it is the step's score for itself, which is always there, so no maximum is looked for; a
    score that is higher by more than `LARGEST_DIFFERENCE` counts as that. Powers of two take a third of the time of powers of e.
    """
    histories, steps, _, heads, width = stacked.shape
    queries, keys, values = stacked.permute(2, 0, 3, 1, 4).reshape(3, histories * heads, steps, width).unbind(0)  # [B H, T, E] each
    weights = (queries @ keys.transpose(1, 2)).float()  # [B H, T, T]
    weights.sub_(weights.diagonal(dim1=1, dim2=2)[..., None].clone()).mul_(math.log2(math.e) * width**-0.5)
    weights.clamp_(max=LARGEST_DIFFERENCE).exp2_()
    if mask is None:
        weights.tril_()
    else:
        weights.view(histories, heads, steps, steps).mul_(mask)
    halves = weights.div_(weights.sum(-1, keepdim=True)).to(stacked.dtype)
    return (halves @ values).view(histories, heads, steps, width).transpose(1, 2), (queries, keys, values, halves)


def gradient_of_attend(of_mixed: Tensor, kept: Kept) -> Tensor:
    """From the gradient of the mixed values [B, T, H, E] to that of queries, keys and values [B, T, 3, H, E]."""
    histories, steps, heads, width = of_mixed.shape
    queries, keys, values, halves = kept
    of_mixed = of_mixed.transpose(1, 2).reshape(histories * heads, steps, width)
    of_weights = (of_mixed @ values.transpose(1, 2)).float()
    of_scores = torch._softmax_backward_data(of_weights, halves.float(), -1, torch.float32).mul_(width**-0.5).to(halves.dtype)
    found = torch.empty(histories, steps, 3, heads, width, dtype=halves.dtype)
    for number, part in enumerate((of_scores @ keys, of_scores.transpose(1, 2) @ queries, halves.transpose(1, 2) @ of_mixed)):
        for head, of_head in enumerate(part.view(histories, heads, steps, width).unbind(1)):  # head by head: one copy of all takes four times as long
            found[:, :, number, head] = of_head
    return found
