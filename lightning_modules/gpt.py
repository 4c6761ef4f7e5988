"""GPT-style encoder: pre-norm blocks of causal attention and a GELU network, as GPT-2 has them.

Letters: N events (or B, T when padded), D width, H heads, E = D / H. Block by block equal to `transformers.GPT2Model` with the same
weights (a test keeps it so). Source: Radford et al. 2019, "Language models are unsupervised multitask learners"; for recommendation
SASRec, arXiv 1808.09781.
"""

from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.dropout import dropout
from lightning_modules.layouts import Layout


class CausalAttention(nn.Module):
    """Each event looks at itself and the events before it."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """From x [..., D] to [..., D]."""
        queries, keys, values = self.inputs(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)  # each [..., H, E]
        mixed = layout.attend(queries, keys, values, is_causal=True)
        return dropout(self.output(mixed.flatten(-2)), self.dropout, self.training)


class Block(nn.Module):
    """Attention, then a network of `feed_forward` times the width (GPT-2: 4, SASRec: 1), each on the normed stream and added to it."""

    def __init__(self, width: int, num_heads: int, dropout: float, feed_forward: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, num_heads, dropout)
        self.up, self.down = nn.Linear(width, feed_forward * width), nn.Linear(feed_forward * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """From x [..., D] to [..., D]."""
        x = x + self.attention(self.norm_1(x), layout)
        hidden = self.down(functional.gelu(self.up(self.norm_2(x))))
        return x + dropout(hidden, self.dropout, self.training)


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
        x = x + self.positions(steps)
        for block in self.blocks:
            x = block(x, layout)
        return self.norm(x)
