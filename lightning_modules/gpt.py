"""GPT-style encoder: pre-norm blocks of causal attention and a GELU network, as GPT-2 has them.

Letters: N events (or B, T when padded), D width, H heads, E = D / H. Block by block equal to `transformers.GPT2Model` with the same
weights (a test keeps it so). Source: Radford et al. 2019, "Language models are unsupervised multitask learners"; for recommendation
SASRec, arXiv 1808.09781.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.attention import LONGEST
from lightning_modules.dropout import dropout
from lightning_modules.half_block import Weights, half_block, is_half_on_cpu
from lightning_modules.layouts import Grid, Layout, Packed
from lightning_modules.lookups import rows_of


class CausalAttention(nn.Module):
    """Each event looks at itself and the events before it."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """From x [..., D] to [..., D]."""
        stacked = self.inputs(x).unflatten(-1, (3, self.num_heads, -1))  # queries, keys, values [..., 3, H, E]
        mixed = layout.attend(stacked, is_causal=True)
        return dropout(self.output(mixed.flatten(-2)), self.dropout, self.training)


class Block(nn.Module):
    """Attention, then a network of `feed_forward` times the width (GPT-2: 4, SASRec: 1), each on the normed stream and added to it."""

    def __init__(self, width: int, num_heads: int, dropout: float, feed_forward: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, num_heads, dropout)
        self.up, self.down = nn.Linear(width, feed_forward * width), nn.Linear(feed_forward * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor, layout: Layout | Grid) -> Tensor:
        """From x [..., D] to [..., D]."""
        if isinstance(layout, Grid):
            return half_block(x, layout.mask, self._weights(), num_heads=self.attention.num_heads, share=self.dropout)
        x = x + self.attention(self.norm_1(x), layout)
        hidden = self.down(functional.gelu(self.up(self.norm_2(x))))
        return x + dropout(hidden, self.dropout, self.training)

    def _weights(self) -> Weights:
        layers = (self.norm_1, self.attention.inputs, self.attention.output, self.norm_2, self.up, self.down)
        return Weights(*(weight for layer in layers for weight in (layer.weight, layer.bias)))


class GPT(nn.Module):
    """`num_blocks` blocks and a last norm."""

    is_causal = True

    def __init__(self, *, width: int, num_blocks: int, num_heads: int, dropout: float, max_history: int, feed_forward: int = 4) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_history, width)
        self.blocks = nn.ModuleList([Block(width, num_heads, dropout, feed_forward) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, x: Tensor, steps: Tensor, days: Tensor, layout: Layout) -> Tensor:
        """Hidden state of each event, which has seen nothing later.

        x       [..., D]   vectors of the events
        steps   [...]      place of each event in its history, from 0
        days    [...]      day of each event (unused: the calendar is in x)
        """
        x = x + rows_of(self.positions.weight, steps)
        if self.training and torch.is_grad_enabled() and is_half_on_cpu(x) and isinstance(layout, Packed) and layout.longest <= LONGEST:
            return self.norm(self._in_rows(x, layout.grid))
        for block in self.blocks:
            x = block(x, layout)
        return self.norm(x)

    def _in_rows(self, x: Tensor, grid: Grid) -> Tensor:
        rows, _, steps, _ = grid.mask.shape
        x = x.index_select(0, grid.index).view(rows, steps, -1)
        for block in self.blocks:
            x = block(x, grid)
        return x.flatten(0, 1).index_select(0, grid.place)
