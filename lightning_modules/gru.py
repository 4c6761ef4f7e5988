"""GRU encoder: a gated recurrent network over each history. Source: GRU4Rec, arXiv 1511.06939.

Letters: N events (or B, T when padded), D width.
"""

from torch import Tensor, nn

from lightning_modules.dropout import dropout
from lightning_modules.layouts import Layout


class GRU(nn.Module):
    """`num_blocks` recurrent layers, dropout between them, and a last norm. Heads and positions have no part in it."""

    is_causal = True

    def __init__(self, *, width: int, num_blocks: int, num_heads: int, dropout: float, max_history: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.GRU(width, width, batch_first=True) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(self, x: Tensor, steps: Tensor, days: Tensor, layout: Layout) -> Tensor:
        """Hidden state of each event, which has seen nothing later: x [..., D] -> [..., D]."""
        for layer in self.layers:
            x = x + dropout(layout.by_history(lambda inputs, is_real, layer=layer: layer(inputs)[0], x), self.dropout, self.training)
        return self.norm(x)
