"""BERT encoder: bidirectional attention, trained to name masked items; the request itself is a masked event at the end of the history.

Letters: N events (or B, T when padded), D width, H heads, E = D / H. Block by block equal to `transformers.BertLayer` with the same weights
(a test keeps it so). Source: Devlin et al. 2018, arXiv 1810.04805; for recommendation BERT4Rec, arXiv 1904.06690.
"""

from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.dropout import dropout
from lightning_modules.layouts import Layout
from lightning_modules.lookups import rows_of


class BidirectionalBlock(nn.Module):
    """Attention, then a network of `feed_forward` times the width; each is added and then normed."""

    def __init__(self, width: int, num_heads: int, dropout: float, feed_forward: int) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, feed_forward * width), nn.Linear(feed_forward * width, width)
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """From x [..., D] to [..., D]."""
        mixed = layout.attend(self.inputs(x).unflatten(-1, (3, self.num_heads, -1)), is_causal=False)
        x = self.norm_1(x + dropout(self.output(mixed.flatten(-2)), self.dropout, self.training))
        hidden = self.down(functional.gelu(self.up(x)))
        return self.norm_2(x + dropout(hidden, self.dropout, self.training))


class BERT(nn.Module):
    """Position vectors (one more than the history: the request), a norm, and `num_blocks` blocks."""

    is_causal = False

    def __init__(self, *, width: int, num_blocks: int, num_heads: int, dropout: float, max_history: int, feed_forward: int = 4) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_history + 1, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList([BidirectionalBlock(width, num_heads, dropout, feed_forward) for _ in range(num_blocks)])
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, x: Tensor, steps: Tensor, days: Tensor, layout: Layout) -> Tensor:
        """Hidden state of each event, which has seen the whole history: x [..., D] -> [..., D]."""
        x = self.norm(x + rows_of(self.positions.weight, steps))
        for block in self.blocks:
            x = block(x, layout)
        return x
