"""Networks that forecast: the RNN of the classical recipe, a GRU and an N-HiTS. Plain modules; loss and walk are in `forecasting`.

B windows, L past periods, H horizon, K known inputs, C seasonal channels, F facts, D width, Q outputs per step.
Each returns a correction [B, H, Q] to the guess of its window; the last layer starts at zero, so training starts from the guess.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.forecasting_windows import Batch


class ClassicalRnn(nn.Module):
    """The recipe of the textbook: past values, a recurrent network, the next H values. Sees no calendar and no season.

    Source: Elman 1990.
    """

    uses_guess = False

    def __init__(self, *, horizon: int, num_outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.horizon, self.num_outputs = horizon, num_outputs
        self.rnn = nn.RNN(2, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.out = _zero_start(nn.Linear(width, horizon * num_outputs))

    def forward(self, batch: Batch) -> Tensor:
        """[B, H, Q] from the last hidden state."""
        states, _ = self.rnn(torch.stack([batch.past, batch.is_seen], dim=2))  # [B, L, D]
        return self.out(self.dropout(states[:, -1])).view(-1, self.horizon, self.num_outputs)


class GruForecaster(nn.Module):
    """A GRU over the past and its calendar; each step ahead reads the last state beside its own calendar and earlier seasons.

    Source: Cho et al. 2014 (arXiv 1406.1078); the head shared by all steps follows DeepAR's direct relatives (MQ-RNN, arXiv 1711.11053).
    """

    uses_guess = True

    def __init__(self, *, horizon: int, num_outputs: int, width: int, dropout: float, num_known: int, num_seasonal: int, num_facts: int) -> None:
        super().__init__()
        self.gru = nn.GRU(2 + num_known, width, batch_first=True)
        self.steps = nn.Parameter(torch.randn(horizon, 8) * 0.1)
        self.head = nn.Sequential(
            nn.Linear(width + 8 + num_known + num_seasonal + 1 + num_facts, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.GELU(),
            _zero_start(nn.Linear(width, num_outputs)),
        )

    def forward(self, batch: Batch) -> Tensor:
        """[B, H, Q] step by step, the same head for all."""
        past = torch.cat([batch.past[..., None], batch.is_seen[..., None], batch.past_known], dim=2)
        states, _ = self.gru(past)  # [B, L, D]
        horizon = batch.guess.shape[1]
        about = torch.cat([states[:, -1], batch.facts], dim=1)[:, None].expand(-1, horizon, -1)  # [B, H, D + F]
        steps = self.steps[None].expand(len(batch.past), -1, -1)
        return self.head(torch.cat([about, steps, batch.future_known, batch.seasonal, batch.guess[..., None]], dim=2))


class NHits(nn.Module):
    """Stacks that look at the past at different rates and answer at different rates, each explaining what the ones before left over.

    Source: Challu et al. 2022, N-HiTS (arXiv 2201.12886); here with calendar, earlier seasons and facts beside the past, and quantiles.
    """

    uses_guess = True

    def __init__(
        self,
        *,
        past: int,
        horizon: int,
        num_outputs: int,
        width: int,
        dropout: float,
        num_known: int,
        num_seasonal: int,
        num_facts: int,
        rates: tuple[int, ...] = (8, 4, 1),
    ) -> None:
        super().__init__()
        beside = horizon * (num_known + num_seasonal + 1) + num_facts
        self.compress = nn.Sequential(nn.Linear(beside, width), nn.GELU(), nn.Dropout(dropout))
        self.blocks = nn.ModuleList(
            _Block(past=past, horizon=horizon, num_outputs=num_outputs, width=width, dropout=dropout, rate=min(rate, past, horizon)) for rate in rates
        )

    def forward(self, batch: Batch) -> Tensor:
        """[B, H, Q] sum of the blocks' answers."""
        beside = torch.cat([batch.future_known.flatten(1), batch.seasonal.flatten(1), batch.guess, batch.facts], dim=1)
        context = self.compress(beside)  # [B, D]
        rest, answer = batch.past, torch.zeros((), device=batch.past.device)
        for block in self.blocks:
            backward, forward = block(rest, batch.is_seen, context)
            rest, answer = (rest - backward) * batch.is_seen, answer + forward
        return answer


class _Block(nn.Module):
    """One rate: pool the past, answer with a few knots, draw straight lines between them."""

    def __init__(self, *, past: int, horizon: int, num_outputs: int, width: int, dropout: float, rate: int) -> None:
        super().__init__()
        self.past, self.horizon, self.num_outputs, self.rate = past, horizon, num_outputs, rate
        pooled = -(-past // rate)
        self.past_knots, self.future_knots = max(pooled, 2), max(-(-horizon // rate), 2 if horizon > 1 else 1)
        self.body = nn.Sequential(nn.Linear(2 * pooled + width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width), nn.GELU())
        self.backward_knots = nn.Linear(width, self.past_knots)
        self.forward_knots = _zero_start(nn.Linear(width, self.future_knots * num_outputs))

    def forward(self, past: Tensor, is_seen: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Backcast [B, L] and forecast [B, H, Q]."""
        pooled = [functional.avg_pool1d(one[:, None], self.rate, ceil_mode=True)[:, 0] for one in (past, is_seen)]
        hidden = self.body(torch.cat([*pooled, context], dim=1))
        backward = functional.interpolate(self.backward_knots(hidden)[:, None], size=self.past, mode="linear", align_corners=True)[:, 0]
        knots = self.forward_knots(hidden).view(len(past), self.num_outputs, self.future_knots)
        forward = functional.interpolate(knots, size=self.horizon, mode="linear", align_corners=True)  # [B, Q, H]
        return backward, forward.transpose(1, 2)


def build_network(
    name: str, *, past: int, horizon: int, num_outputs: int, width: int, dropout: float, num_known: int, num_seasonal: int, num_facts: int
) -> nn.Module:
    """Network by its name in the configuration."""
    shared = {"horizon": horizon, "num_outputs": num_outputs, "width": width, "dropout": dropout}
    beside = {"num_known": num_known, "num_seasonal": num_seasonal, "num_facts": num_facts}
    if name == "rnn":
        return ClassicalRnn(**shared)
    if name == "gru":
        return GruForecaster(**shared, **beside)
    if name == "nhits":
        return NHits(past=past, **shared, **beside)
    raise ValueError(f"forecast network: expected rnn, gru or nhits, found {name!r}")


def _zero_start(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
