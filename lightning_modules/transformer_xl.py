"""Transformer-XL encoder: segments of a history read one after the other, each with the memory of the one before, and relative positions.

A history is cut into segments of half of `max_history`; in every block an event sees its own segment up to itself and the whole segment
before, whose states are memory: no gradient flows into them. So block by block the reach grows by a segment. All segments are computed at
once under masks, which gives the numbers of the loop in the paper (a test keeps it so) and a graph without a loop.
A full history of the product is two segments (of an odd `max_history` the last event is a third): each block hands the states it was given for
the first on to the second, and nothing is carried from one history, batch or request to another.

Letters: N events (or B, T when padded), D width, H heads, E = D / H, b histories and t steps of one group.
Source: Dai et al. 2019, arXiv 1901.02860, section 3.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.dropout import dropout
from lightning_modules.layouts import Layout

NEVER = -1e9


class RelativeBlock(nn.Module):
    """Attention with relative positions and memory, then a network of `feed_forward` times the width; norms come first."""

    def __init__(self, width: int, num_heads: int, dropout: float, segment: int, feed_forward: int) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.segment = num_heads, dropout, segment
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys_values = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.distances, self.output = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.content_bias, self.distance_bias = (nn.Parameter(torch.zeros(num_heads, width // num_heads)) for _ in range(2))
        self.up, self.down = nn.Linear(width, feed_forward * width), nn.Linear(feed_forward * width, width)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """From x [..., D] to [..., D]."""
        normed = self.norm_1(x)
        queries = self.queries(normed).unflatten(-1, (self.num_heads, -1))
        present = self.keys_values(normed).unflatten(-1, (2, self.num_heads, -1))
        memory = self.keys_values(normed.detach()).unflatten(-1, (2, self.num_heads, -1))
        parts = (*present.unbind(-3), *memory.unbind(-3))
        attended = layout.by_history(self._attend, queries, *parts).flatten(-2)
        x = x + dropout(self.output(attended), self.dropout, self.training)
        hidden = self.down(functional.gelu(self.up(self.norm_2(x))))
        return x + dropout(hidden, self.dropout, self.training)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, memory_keys: Tensor, memory_values: Tensor, is_real: Tensor) -> Tensor:
        """[b, t, H, E] each -> [b, t, H, E]."""
        steps = torch.arange(queries.shape[1], device=queries.device)
        distance = steps[:, None] - steps[None, :]  # [t, t]
        back = steps[:, None] // self.segment - steps[None, :] // self.segment  # segments back
        is_present, is_memory = (back == 0) & (distance >= 0), back == 1
        vectors = self.distances(sinusoids(2 * self.segment, queries.shape[2] * queries.shape[3]).to(queries)).unflatten(
            -1, (self.num_heads, -1)
        )  # [2 segments, H, E]
        by_distance = torch.einsum("bihe,rhe->bihr", queries + self.distance_bias, vectors)
        place = distance.clamp(0, 2 * self.segment - 1)[None, :, None, :].expand(queries.shape[0], -1, self.num_heads, -1)
        relative = by_distance.gather(-1, place)  # [b, t, H, t]
        asked = queries + self.content_bias
        content = torch.where(is_present[None, :, None, :], torch.einsum("bihe,bjhe->bihj", asked, keys), torch.einsum("bihe,bjhe->bihj", asked, memory_keys))
        scores = ((content + relative) / math.sqrt(queries.shape[-1])).masked_fill(~(is_present | is_memory)[None, :, None, :], NEVER)
        weights = dropout(scores.softmax(-1), self.dropout, self.training)
        present = torch.einsum("bihj,bjhe->bihe", weights * is_present[None, :, None, :], values)
        return present + torch.einsum("bihj,bjhe->bihe", weights * is_memory[None, :, None, :], memory_values)


def sinusoids(number: int, width: int) -> Tensor:
    """Sinusoid vectors of the distances 0 .. number - 1, [number, width]."""
    rates = torch.exp(-math.log(10_000.0) * torch.arange(0, width, 2) / width)
    angles = torch.arange(number)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class TransformerXL(nn.Module):
    """`num_blocks` relative blocks and a last norm."""

    is_causal = True

    def __init__(self, *, width: int, num_blocks: int, num_heads: int, dropout: float, max_history: int, feed_forward: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([RelativeBlock(width, num_heads, dropout, max(max_history // 2, 1), feed_forward) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, steps: Tensor, days: Tensor, layout: Layout) -> Tensor:
        """Hidden state of each event, which has seen nothing later: x [..., D] -> [..., D]."""
        for block in self.blocks:
            x = block(x, layout)
        return self.norm(x)
