"""Plain recurrent encoder (Elman, tanh): the simplest memory there is, for comparison. Source: Elman 1990, doi 10.1207/s15516709cog1402_1.

Letters: N events (or B, T when padded), D width, b histories and t steps of one group.
"""

import torch
from torch import Tensor, nn

from lightning_modules.dropout import dropout
from lightning_modules.layouts import Layout


class RNN(nn.Module):
    """`num_blocks` recurrent layers, dropout between them, and a last norm. Heads and positions have no part in it."""

    is_causal = True

    def __init__(self, *, width: int, num_blocks: int, num_heads: int, dropout: float, max_history: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.RNN(width, width, batch_first=True) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(self, x: Tensor, steps: Tensor, days: Tensor, layout: Layout) -> Tensor:
        """Hidden state of each event, which has seen nothing later: x [..., D] -> [..., D]."""
        for layer in self.layers:
            x = x + dropout(layout.by_history(lambda inputs, is_real, layer=layer: _recur(layer, inputs), x), self.dropout, self.training)
        return self.norm(x)


def _recur(layer: nn.RNN, inputs: Tensor) -> Tensor:
    """From inputs [b, t, D] to states [b, t, D]. For the exporter, which would unroll the steps of its example, the ONNX operator is named."""
    if not torch.onnx.is_in_onnx_export():
        return layer(inputs)[0]
    x = inputs.transpose(0, 1)  # [t, b, D]
    bias = torch.cat([layer.bias_ih_l0, layer.bias_hh_l0])[None]
    shape = (x.shape[0], 1, x.shape[1], layer.hidden_size)
    states = torch.onnx.ops.symbolic(
        "RNN", [x, layer.weight_ih_l0[None], layer.weight_hh_l0[None], bias], attrs={"hidden_size": layer.hidden_size}, dtype=x.dtype, shape=shape, version=18
    )
    return states[:, 0].transpose(0, 1)
