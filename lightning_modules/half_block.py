"""A GPT block in training on a CPU with bf16: some histories at a time through the whole block, so that what lies between is still in the cache.

Operation by operation a block of 6,400 events x 64 writes and reads 1.6 MB some sixty times, and a value that has left the cache costs five times as
much. Here `NUM_PIECES` pieces go through at once, forward and backward, written out, without a graph of operations. The numbers are those of
`gpt.Block` under autocast: matrices in bf16, norms, softmax and sums in single precision.

Letters: R rows of T steps (`layouts.Grid`), r rows of a piece, D width, H heads.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.attention import attend, gradient_of_attend
from lightning_modules.dropout import random_numbers, scale_of, threshold_of

NUM_PIECES = 1
KEPT_OF_A_PIECE = 14
EPSILON = 1e-5  # of nn.LayerNorm


class Weights(NamedTuple):
    """Weights of a block, in the order in which it uses them."""

    norm_1: Tensor
    shift_1: Tensor
    inputs: Tensor
    inputs_bias: Tensor
    output: Tensor
    output_bias: Tensor
    norm_2: Tensor
    shift_2: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor

    def halved(self) -> "Weights":
        """The matrices and their biases in bf16, the norms as they are."""
        return Weights(*(weight if "norm" in name or "shift" in name else weight.bfloat16() for name, weight in self._asdict().items()))


def half_block(x: Tensor, mask: Tensor, weights: Weights, *, num_heads: int, share: float) -> Tensor:
    """From x [R, T, D] to the same shape; `mask` [R, 1, T, T] as in `layouts.Grid`, dropout of `share`."""
    return _HalfBlock.apply(x, mask, num_heads, share, *weights)  # type: ignore[no-any-return]


def is_half_on_cpu(x: Tensor) -> bool:
    """Whether matrices are multiplied in bf16 on a CPU now."""
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


class _HalfBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, num_heads: int, share: float, *weights: Tensor) -> Tensor:
        halves = Weights(*weights).halved()
        pieces = [_forward(*piece, halves, num_heads, share) for piece in zip(*_cut(x, mask), strict=True)]
        ctx.save_for_backward(x, *halves, *(tensor for _, kept in pieces for tensor in kept))
        ctx.num_heads, ctx.share = num_heads, share
        return torch.cat([out for out, _ in pieces])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, *saved = ctx.saved_tensors
        halves, kept = Weights(*saved[: len(Weights._fields)]), saved[len(Weights._fields) :]
        of_weights = Weights(*(torch.zeros_like(weight, dtype=torch.float32) for weight in halves))
        of_x = [
            _backward(*piece, halves, kept[number * KEPT_OF_A_PIECE : (number + 1) * KEPT_OF_A_PIECE], of_weights, ctx.num_heads, ctx.share)
            for number, piece in enumerate(zip(*_cut(gradients[0], x), strict=True))
        ]
        return torch.cat(of_x), None, None, None, *of_weights


def _cut(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Each of the tensors [R, ...] in pieces of as many rows, but for the last."""
    return [tensor.split(-(-len(tensor) // NUM_PIECES)) for tensor in tensors]


def _forward(x: Tensor, mask: Tensor, weights: Weights, num_heads: int, share: float) -> tuple[Tensor, list[Tensor]]:
    """The block's output for a piece [r, T, D], and the `KEPT_OF_A_PIECE` tensors its gradient needs."""
    shape, width = x.shape, x.shape[2]
    x = x.flatten(0, 1)
    stays = random_numbers(2, *x.shape).ge_(threshold_of(share)).neg_()  # all bits set where a value stays
    normed_1, mean_1, rate_1 = torch.native_layer_norm(x, [width], weights.norm_1, weights.shift_1, EPSILON)
    normed_1 = normed_1.bfloat16()
    stacked = torch.addmm(weights.inputs_bias, normed_1, weights.inputs.T)
    mixed, attention = attend(stacked.view(shape[0], shape[1], 3, num_heads, -1), mask)
    mixed = mixed.reshape(x.shape)
    middle = _add(x, torch.addmm(weights.output_bias, mixed, weights.output.T), stays[0], share)
    normed_2, mean_2, rate_2 = torch.native_layer_norm(middle, [width], weights.norm_2, weights.shift_2, EPSILON)
    normed_2 = normed_2.bfloat16()
    hidden = torch.addmm(weights.up_bias, normed_2, weights.up.T)
    out = _add(middle, torch.addmm(weights.down_bias, functional.gelu(hidden), weights.down.T), stays[1], share)
    return out.view(shape), [stays, normed_1, mean_1, rate_1, *attention, mixed, middle, normed_2, mean_2, rate_2, hidden]


def _backward(of_out: Tensor, x: Tensor, weights: Weights, kept: list[Tensor], of_weights: Weights, num_heads: int, share: float) -> Tensor:
    """Gradient of x [r, T, D] from that of the output; those of the weights are added to `of_weights`."""
    stays, normed_1, mean_1, rate_1, queries, keys, values, attention, mixed, middle, normed_2, mean_2, rate_2, hidden = kept
    shape = x.shape
    of_out, x = of_out.flatten(0, 1), x.flatten(0, 1)
    of_down = _masked(of_out, stays[1], share)
    of_weights.down.add_(of_down.T @ functional.gelu(hidden))
    of_weights.down_bias.add_(_sum(of_down))
    of_hidden = torch.ops.aten.gelu_backward(of_down @ weights.down, hidden)
    of_middle = _through_norm(of_hidden, normed_2, middle, mean_2, rate_2, weights[6:9], of_weights[6:10]).add_(of_out)
    of_output = _masked(of_middle, stays[0], share)
    of_weights.output.add_(of_output.T @ mixed)
    of_weights.output_bias.add_(_sum(of_output))
    of_mixed = (of_output @ weights.output).view(shape[0], shape[1], num_heads, -1)
    of_stacked = gradient_of_attend(of_mixed, (queries, keys, values, attention)).view(len(x), -1)
    return _through_norm(of_stacked, normed_1, x, mean_1, rate_1, weights[:3], of_weights[:4]).add_(of_middle).view(shape)


def _add(x: Tensor, change: Tensor, mask: Tensor, share: float) -> Tensor:
    """X plus what dropout leaves of `change`, which is written over."""
    change.view(torch.int16).bitwise_and_(mask)
    return torch.add(x, change.float(), alpha=scale_of(share))


def _masked(gradient: Tensor, mask: Tensor, share: float) -> Tensor:
    """Gradient of a change that went through dropout, in bf16."""
    found = (gradient * scale_of(share)).bfloat16()
    found.view(torch.int16).bitwise_and_(mask)
    return found


def _sum(x: Tensor) -> Tensor:
    """Sum over the rows of x [n, D] in bf16: as a product, which adds up in single precision and makes no copy."""
    return (x.new_ones(1, len(x)) @ x)[0]


def _through_norm(
    of_linear: Tensor, normed: Tensor, x: Tensor, mean: Tensor, rate: Tensor, weights: tuple[Tensor, ...], of_weights: tuple[Tensor, ...]
) -> Tensor:
    """Gradient of x where a norm and a linear layer follow, from that of the layer's output; weights: norm, shift, matrix; theirs: bias as well."""
    norm, shift, matrix = weights
    of_norm, of_shift, of_matrix, of_bias = of_weights
    of_matrix.add_(of_linear.T @ normed)
    of_bias.add_(_sum(of_linear))
    of_normed = (of_linear @ matrix).float()
    of_x, by_norm, by_shift = torch.ops.aten.native_layer_norm_backward(of_normed, x, [x.shape[1]], mean, rate, norm, shift, [True, True, True])
    of_norm.add_(by_norm)
    of_shift.add_(by_shift)
    return of_x  # type: ignore[no-any-return]
