"""The head: how taste, habit and season are made into one score for each list.

    again     taste + habit (items of the history only) + season
    discover  taste + season                                        (items of the history are taken out)

Habit sees more than the habits row: an item's trend and season, and the user's taste for it, count differently for what a user has
already than for what is new, so its network also reads that item's season row and the terms of taste.

Letters: N rows, S season inputs, H habit inputs, K terms of taste (the encoder first, then one for each linear term), L lists.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CLAMP = 5.0
LEAD_INPUT = "season_lead"  # days over 84
LONGEST_LEAD = 1.0  # of the input; weights change no further
LEAST_DEVIATION = 1e-3


class PriorNetwork(nn.Module):
    """A linear layer that starts at known weights, plus a small network on standardised inputs that starts at nothing.

    With a `slope` [outputs, inputs] the linear weights change with the lead, which is the column `lead_input` in quarters of a year (84 days), up to one:
    weight + lead x slope. It is given, not learned.

    Inputs where `is_used` [inputs] is false are not read at all (but for the lead, by the slopes of others), and with none in use the answer is 0;
    those that never varied in training are left out of the network, which would not know what to make of the day they do.
    """

    def __init__(
        self,
        num_outputs: int,
        width: int,
        *,
        prior: Tensor,
        bias: float,
        mean: Tensor,
        deviation: Tensor,
        is_used: Tensor,
        lead_input: int | None = None,
        slope: Tensor | None = None,
    ) -> None:
        super().__init__()
        num_inputs = prior.shape[1]
        self.linear = nn.Linear(num_inputs, num_outputs)
        self.inner, self.outer = nn.Linear(num_inputs, width), nn.Linear(width, num_outputs)
        varies = deviation > LEAST_DEVIATION
        self.lead_input = lead_input
        if lead_input is not None:
            self.register_buffer("slope", torch.zeros_like(prior) if slope is None else slope)
        self.register_buffer("used", is_used.float())
        self.register_buffer("gain", is_used.any().float())
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.where(varies & is_used, 1 / deviation.clamp(min=LEAST_DEVIATION), torch.zeros_like(deviation)))
        with torch.no_grad():
            self.linear.weight.copy_(prior)
            self.linear.bias.fill_(bias)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """From inputs [N, inputs] to [N, outputs]."""
        standard = ((inputs - self.mean) * self.scale).clamp(-CLAMP, CLAMP)
        plain = self.linear(inputs * self.used)
        if self.lead_input is not None:
            plain = plain + inputs[:, self.lead_input, None].clamp(max=LONGEST_LEAD) * functional.linear(inputs * self.used, self.slope)
        return self.gain * (plain + self.outer(functional.silu(self.inner(standard))))


class Head(nn.Module):
    """Season network [N, S] -> [N, 2], habit network [N, H + S + K] -> [N, 1] and the weights of taste, positive by softplus."""

    def __init__(self, season: PriorNetwork, habit: PriorNetwork, taste_weights: Tensor, *, has_taste: bool = True) -> None:
        super().__init__()
        self.season, self.habit = season, habit
        self.register_buffer("taste_gain", torch.tensor(float(has_taste)))
        self.raw_weights = nn.Parameter(torch.log(torch.expm1(taste_weights.clamp(min=1e-4))))  # [L, K]

    def anchored(self) -> list[Tensor]:
        """Weights that are pulled towards their start: most of what is new to a user is learned better by the priors than from one year."""
        return [self.taste_weights(), self.season.linear.weight, self.season.outer.weight]

    def taste_weights(self) -> Tensor:
        """Weights of the terms of taste for each list, [L, K]."""
        return self.taste_gain * functional.softplus(self.raw_weights)


def build_head(
    *,
    season_inputs: Sequence[str],
    habit_inputs: Sequence[str],
    unused_inputs: Sequence[str],
    season_prior: Mapping[str, tuple[float, float]],
    season_slopes: Mapping[str, tuple[float, float]],
    habit_prior: Mapping[str, float],
    habit_bias: float,
    season_width: int,
    habit_width: int,
    season_statistics: tuple[Tensor, Tensor],
    habit_statistics: tuple[Tensor, Tensor],
    taste_weights: Tensor,
    leave_out: Sequence[str] = (),
) -> Head:
    """Head at its starting point: priors only. Statistics are mean and deviation of each input.

    `leave_out` names components (taste, habit, trend, season), which are the first words of their inputs: none of them reads or says anything.
    """
    num_terms = taste_weights.shape[1]
    all_habit_inputs = [*habit_inputs, *season_inputs, *(f"taste_{number}" for number in range(num_terms))]
    unused = {name for name in all_habit_inputs if name in unused_inputs or name.partition("_")[0] in leave_out}
    season = PriorNetwork(
        2,
        season_width,
        prior=torch.tensor([season_prior.get(name, (0.0, 0.0)) for name in season_inputs]).T.contiguous(),
        bias=0.0,
        mean=season_statistics[0],
        deviation=season_statistics[1],
        is_used=torch.tensor([name not in unused for name in season_inputs]),
        slope=torch.tensor([season_slopes.get(name, (0.0, 0.0)) for name in season_inputs]).T.contiguous(),
        lead_input=list(season_inputs).index(LEAD_INPUT) if LEAD_INPUT in season_inputs else None,
    )
    habit = PriorNetwork(
        1,
        habit_width,
        prior=torch.tensor([[habit_prior.get(name, 0.0) for name in all_habit_inputs]]),
        bias=habit_bias,
        mean=habit_statistics[0],
        deviation=habit_statistics[1],
        is_used=torch.tensor([name not in unused and "habit" not in leave_out for name in all_habit_inputs]),
    )
    return Head(season, habit, taste_weights, has_taste="taste" not in leave_out)
