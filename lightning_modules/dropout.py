"""Dropout that costs little on a CPU."""

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 2**16


def dropout(x: Tensor, share: float, is_training: bool) -> Tensor:
    """Zero a `share` of the values at random in training and scale the others so that the mean stays; any shape.

    On a CPU PyTorch draws a float for each value, an eighth of a training step of a small encoder; here a value takes 16 random bits, a fifth of
    that time, and `share` is taken to the nearest 1 / 65,536. Elsewhere it is PyTorch's own. Draws come from PyTorch's generator: a seed fixes them.
    Source: Srivastava et al. 2014, "Dropout".
    """
    if not is_training or share == 0.0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, share)
    zeroed = round(share * LEVELS)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    numbers = words.view(torch.int16)[: x.numel()].view(x.shape)  # even over -32,768 .. 32,767
    kept = (numbers >= zeroed - LEVELS // 2).to(x.dtype).mul_(LEVELS / (LEVELS - zeroed))
    return x * kept
