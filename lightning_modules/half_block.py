"""A GPT block in training on a CPU with bf16, forward and backward written out: no graph of operations, fewer casts, dropout by masks of bits.

The numbers are those of `gpt.Block` under autocast: matrices in bf16; norms, softmax and sums in single precision. All batches of about as many events
have the same shapes (`layouts.Grid`).

Letters: R rows of T steps, D width, H heads.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.attention import attend, gradient_of_attend
from lightning_modules.dropout import random_numbers, scale_of, threshold_of

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
        out, kept = _forward(x, mask, halves, num_heads, share)
        ctx.save_for_backward(x, *halves, *kept)
        ctx.num_heads, ctx.share = num_heads, share
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, *saved = ctx.saved_tensors
        number = len(Weights._fields)
        of_x, of_weights = _backward(gradients[0], x, Weights(*saved[:number]), saved[number:], ctx.num_heads, ctx.share)
        return of_x, None, None, None, *of_weights


def _forward(x: Tensor, mask: Tensor, weights: Weights, num_heads: int, share: float) -> tuple[Tensor, list[Tensor]]:
    """The block's output [R, T, D] and what its gradient needs."""
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


def _backward(of_out: Tensor, x: Tensor, weights: Weights, kept: list[Tensor], num_heads: int, share: float) -> tuple[Tensor, Weights]:
    """Gradients of x [R, T, D] and of the weights from that of the output."""
    stays, normed_1, mean_1, rate_1, queries, keys, values, attention, mixed, middle, normed_2, mean_2, rate_2, hidden = kept
    shape = x.shape
    of_out, x = of_out.flatten(0, 1), x.flatten(0, 1)
    of_down = _masked(of_out, stays[1], share)
    of_hidden = torch.ops.aten.gelu_backward(of_down @ weights.down, hidden)
    of_middle, *of_second = _through_norm(of_hidden, normed_2, middle, mean_2, rate_2, weights.norm_2, weights.shift_2, weights.up)
    of_middle.add_(of_out)
    of_output = _masked(of_middle, stays[0], share)
    of_mixed = (of_output @ weights.output).view(shape[0], shape[1], num_heads, -1)
    of_inputs = gradient_of_attend(of_mixed, (queries, keys, values, attention)).view(len(x), -1)
    of_x, *of_first = _through_norm(of_inputs, normed_1, x, mean_1, rate_1, weights.norm_1, weights.shift_1, weights.inputs)
    of_weights = Weights(*of_first, *_of_linear(of_output, mixed), *of_second, *_of_linear(of_down, functional.gelu(hidden)))
    return of_x.add_(of_middle).view(shape), of_weights


def _add(x: Tensor, change: Tensor, mask: Tensor, share: float) -> Tensor:
    """X plus what dropout leaves of `change`, which is written over."""
    change.view(torch.int16).bitwise_and_(mask)
    return torch.add(x, change.float(), alpha=scale_of(share))


def _masked(gradient: Tensor, mask: Tensor, share: float) -> Tensor:
    """Gradient of a change that went through dropout, in bf16."""
    found = (gradient * scale_of(share)).bfloat16()
    found.view(torch.int16).bitwise_and_(mask)
    return found


def _of_linear(of_output: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a linear layer's matrix and bias. The bias's is a product as well: it adds up in single precision and copies nothing."""
    return (of_output.T @ inputs).float(), (of_output.new_ones(1, len(of_output)) @ of_output)[0].float()


def _through_norm(
    of_output: Tensor, normed: Tensor, x: Tensor, mean: Tensor, rate: Tensor, norm: Tensor, shift: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Where x goes through a norm and a linear layer: gradients of x, norm, shift, matrix and bias from that of the layer's output."""
    of_normed = (of_output @ matrix).float()
    of_x, of_norm, of_shift = torch.ops.aten.native_layer_norm_backward(of_normed, x, [x.shape[1]], mean, rate, norm, shift, [True, True, True])
    return of_x, of_norm, of_shift, *_of_linear(of_output, normed)
