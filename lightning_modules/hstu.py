"""HSTU encoder: pointwise gated attention (no softmax) with a bias for distance in steps and in days.

Letters: N events (or B, T when padded), D width, H heads, E = D / H, b histories and t steps of one group.
Source: Zhai et al. 2024, "Actions speak louder than words", arXiv 2402.17152, eq. 1 to 3.

    U, V, Q, K = split(silu(f1(norm(x))))
    A = silu(Q K' + bias of steps + bias of days) / max_history, for what lies before
    y = x + f2(norm(A V) * U)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.dropout import dropout
from lightning_modules.layouts import Layout

DAY_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class PointwiseBlock(nn.Module):
    """One block of HSTU."""

    def __init__(self, width: int, num_heads: int, dropout: float, max_history: int) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.max_history = num_heads, dropout, max_history
        self.norm, self.norm_attended = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.output = nn.Linear(width, 4 * width), nn.Linear(width, width)
        self.step_bias = nn.Embedding(max_history, num_heads)
        self.day_bias = nn.Embedding(len(DAY_BOUNDS) + 1, num_heads)
        self.register_buffer("day_bounds", torch.tensor(DAY_BOUNDS), persistent=False)
        for table in (self.step_bias.weight, self.day_bias.weight):
            nn.init.normal_(table, std=0.02)

    def forward(self, x: Tensor, days: Tensor, layout: Layout) -> Tensor:
        """From x [..., D] to [..., D]."""
        gates, values, queries, keys = functional.silu(self.inputs(self.norm(x))).chunk(4, -1)
        heads = (part.unflatten(-1, (self.num_heads, -1)) for part in (queries, keys, values))
        attended = layout.by_history(self._attend, *heads, days).flatten(-2)
        return x + dropout(self.output(self.norm_attended(attended) * gates), self.dropout, self.training)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, days: Tensor, is_real: Tensor) -> Tensor:
        """[b, t, H, E] each, days [b, t] -> [b, t, H, E]."""
        steps = torch.arange(queries.shape[1], device=queries.device)
        distance = steps[:, None] - steps[None, :]  # [t, t]
        ago = days[:, :, None] - days[:, None, :]  # [b, t, t]
        bias = self.step_bias(distance.clamp(0, self.max_history - 1)) + self.day_bias((ago[..., None] >= self.day_bounds).sum(-1))
        scores = torch.einsum("bihe,bjhe->bijh", queries, keys) + bias
        weights = functional.silu(scores) / self.max_history * (distance >= 0)[..., None]
        return torch.einsum("bijh,bjhe->bihe", weights, values)


class HSTU(nn.Module):
    """`num_blocks` pointwise blocks and a last norm."""

    is_causal = True

    def __init__(self, *, width: int, num_blocks: int, num_heads: int, dropout: float, max_history: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([PointwiseBlock(width, num_heads, dropout, max_history) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, steps: Tensor, days: Tensor, layout: Layout) -> Tensor:
        """Hidden state of each event, which has seen nothing later: x [..., D], days [...] -> [..., D]."""
        for block in self.blocks:
            x = block(x, days, layout)
        return self.norm(x)
