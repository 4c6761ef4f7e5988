"""LiGR encoder: causal attention and a SwiGLU network, each let in through a learned gate.

Letters: N events (or B, T when padded), D width, H heads, E = D / H. Source: LiGR, arXiv 2502.03417; as the block of eSASRec,
arXiv 2508.06450.
"""

from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.dropout import dropout
from lightning_modules.gpt import CausalAttention
from lightning_modules.layouts import Layout
from lightning_modules.lookups import rows_of


class GatedBlock(nn.Module):
    """x + gate(x) * part(norm(x)), for attention and then for the network."""

    def __init__(self, width: int, num_heads: int, dropout: float, feed_forward: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, num_heads, dropout)
        self.gate_1, self.gate_2 = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * feed_forward * width), nn.Linear(feed_forward * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """From x [..., D] to [..., D]."""
        x = x + self.gate_1(x).sigmoid() * self.attention(self.norm_1(x), layout)
        left, right = self.up(self.norm_2(x)).chunk(2, -1)
        hidden = dropout(self.down(functional.silu(left) * right), self.dropout, self.training)
        return x + self.gate_2(x).sigmoid() * hidden


class LiGR(nn.Module):
    """`num_blocks` gated blocks and a last norm."""

    is_causal = True

    def __init__(self, *, width: int, num_blocks: int, num_heads: int, dropout: float, max_history: int, feed_forward: int = 4) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_history, width)
        self.blocks = nn.ModuleList([GatedBlock(width, num_heads, dropout, feed_forward) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, x: Tensor, steps: Tensor, days: Tensor, layout: Layout) -> Tensor:
        """Hidden state of each event, which has seen nothing later: x [..., D] -> [..., D]."""
        x = x + rows_of(self.positions.weight, steps)
        for block in self.blocks:
            x = block(x, layout)
        return self.norm(x)
