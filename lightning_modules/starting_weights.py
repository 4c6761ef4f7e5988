"""Weights of the list `discover`: its few strongest ones, found by NDCG@10 of the sampled cut-offs.

A network fitted on a dozen cut-offs learns these cut-offs by heart: on Online Retail II a head trained from weights that suit another shop ranked what
is new to a user worse than it had begun. A few weights (one for each term of taste, trend, season index, first-time buyers, ...; of three of them also
how they change with the lead) carry over better, and can be found by the measure itself, one at a time. There the list stays (`FineTuneJob.trained_lists`).

Letters: B users of a sample, P items of its pool, K terms of taste, W searched season inputs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from lightning_modules.head import LONGEST_LEAD, bounded_lead
from lightning_modules.samples import SampleData

TOP = 10
FIRST = 1e4  # more than any score
USERS = 16_384  # that are asked in all: each sample's share of them
SHORTLIST = 256  # items of each that can come to the top
LEAST_USERS = 16  # of a sample
USERS_AT_ONCE = 512
LEAST_GAIN = 0.005  # relative; below it a step is noise
ROUNDS = 3
SLIGHT = 1e-9  # what adding up steps may leave below 0
ENCODER = "taste_0"
ENCODER_STEPS = (0.05, 0.2, -0.05)
TASTE_STEPS = (0.15, -0.15)
SEASON_STEPS = {
    "trend_lift_4w": (0.2, -0.2),
    "season_index": (0.2, -0.2),
    "trend_log_new_buyers_4w": (0.1, -0.1),
    "trend_log_level_13w": (-0.1, 0.1),
    "trend_category_lift_4w": (-0.1, 0.1),
    "season_parent_category_last_year_lift": (0.2, -0.2),
    "trend_lift_1w": (0.2, -0.2),
}
SLOPE_STEPS = {ENCODER: (0.2, -0.2), "trend_lift_4w": (-0.3, 0.3), "season_index": (0.3, -0.3)}
SLOPE = "slope of "
Values = dict[str, float]


@dataclass(frozen=True)
class Weights:
    """Weights of `discover`: of the terms of taste [K], of season inputs by name, and how these and the encoder's change with the lead (`head.Head`)."""

    taste: tuple[float, ...]
    season: Mapping[str, float]
    slopes: Mapping[str, float] = field(default_factory=dict)
    encoder_slope: float = 0.0

    def encoder_weight(self, lead: float) -> float:
        """Weight of the first term, where it is the encoder's, at a lead (`head.bounded_lead`)."""
        return max(self.taste[0] + lead * self.encoder_slope, 0.0)

    @property
    def asks_encoder(self) -> bool:
        """Whether the encoder says anything at any lead."""
        return self.encoder_weight(0.0) > 0 or self.encoder_weight(LONGEST_LEAD) > 0


@dataclass(frozen=True)
class Question:
    """What some users of one sample wanted of what was new to them.

    taste [B, P, K] half precision; season [P, W], or each user's own [B, P, W]; is_seen, is_target [B, P]
    ideal [B] the best possible sum of gains
    """

    lead_days: int
    taste: Tensor
    season: Tensor
    is_seen: Tensor
    is_target: Tensor
    ideal: Tensor

    @property
    def lead(self) -> float:
        """By what weights change (`head.bounded_lead`)."""
        return bounded_lead(self.lead_days)

    def ndcg(self, taste: Tensor, season: Tensor) -> float:
        """Mean NDCG@10 with these weights [K] and [W]."""
        scores = self._scores(taste, season)
        best = scores.topk(min(TOP, scores.shape[1]), 1).indices
        gains = self.is_target.gather(1, best) / torch.log2(torch.arange(2.0, best.shape[1] + 2))
        return float((gains.sum(1) / self.ideal).mean())

    def shortened(self, taste: Tensor, season: Tensor) -> "Question":
        """The same of `SHORTLIST` items of each user: the targets, and what scores best with these weights."""
        kept = (self._scores(taste, season) + FIRST * self.is_target).topk(min(SHORTLIST, self.is_seen.shape[1]), 1).indices
        is_seen, is_target = self.is_seen.gather(1, kept), self.is_target.gather(1, kept)
        of_taste = self.taste.gather(1, kept[..., None].expand(-1, -1, self.taste.shape[2]))
        return replace(self, taste=of_taste, season=self.season[kept].half(), is_seen=is_seen, is_target=is_target)

    def _scores(self, taste: Tensor, season: Tensor) -> Tensor:
        return (self.taste.float() @ taste + self.season.float() @ season).masked_fill(self.is_seen, -math.inf)


def find_weights(
    samples: Sequence[SampleData],
    users: Sequence[np.ndarray],
    start: Weights,
    season_inputs: Sequence[str],
    *,
    has_encoder: bool,
    seed: int,
) -> Weights:
    """The best weights on the way uphill from `start`, one changed at a time; the mean over leads of the mean over cut-offs decides.

    users
        Those of each sample that are looked at: where training follows, not those held out to say when it stops.
    start
        Terms of taste that are all 0 (taste is left out) stay so; season inputs it does not name are not read.
    """
    most = max(USERS // len(samples), LEAST_USERS)
    asked = [users_of(sample, among, most=most, seed=seed) for sample, among in zip(samples, users, strict=True)]
    values = _values(start)
    for _ in range(ROUNDS):
        questions = _questions(samples, asked, values, start, season_inputs)
        if not questions:
            return start
        best = before = _figure(questions, values, start)
        for step in _steps(start, has_encoder=has_encoder):
            while (tried := _changed(values, step)) is not None:
                figure = _figure(questions, tried, start)
                if figure <= best * (1 + LEAST_GAIN):
                    break
                values, best = tried, figure
        if best == before:
            break
    return Weights(
        tuple(round(values[f"taste_{number}"], 6) for number in range(len(start.taste))),
        {name: values[name] for name in start.season},
        {**start.slopes, **{name: values[SLOPE + name] for name in start.season}},
        round(values[SLOPE + ENCODER], 6),
    )


def _questions(samples: Sequence[SampleData], asked: Sequence[Tensor], values: Values, start: Weights, season_inputs: Sequence[str]) -> list[Question]:
    """The questions of all samples, one each, shortened by the weights of the round: what these cut off could not come to the top in a few steps."""
    questions = []
    for sample, users in zip(samples, asked, strict=True):
        weights = _weights_at(bounded_lead(sample.lead_days), values, start)
        parts = [question_of(sample, some, list(start.season), season_inputs).shortened(*weights) for some in users.split(USERS_AT_ONCE) if len(some)]
        if parts:
            tables = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("taste", "season", "is_seen", "is_target", "ideal")}
            questions.append(replace(parts[0], **tables))
    return questions


def _values(weights: Weights) -> Values:
    """Weights by name: one for each term of taste, season input and slope."""
    return {
        **{f"taste_{number}": value for number, value in enumerate(weights.taste)},
        **weights.season,
        SLOPE + ENCODER: weights.encoder_slope,
        **{SLOPE + name: weights.slopes.get(name, 0.0) for name in weights.season},
    }


def _steps(start: Weights, *, has_encoder: bool) -> list[Values]:
    """What is tried in a round, in order: a change of one weight at all leads, at long leads, or at short leads."""
    of_taste = [ENCODER_STEPS if has_encoder and number == 0 else TASTE_STEPS for number in range(len(start.taste))] if any(start.taste) else []
    at_all = {**{f"taste_{number}": one for number, one in enumerate(of_taste)}, **{name: SEASON_STEPS.get(name, ()) for name in start.season}}
    steps = [{name: step} for name, some in at_all.items() for step in some]
    for name, some in SLOPE_STEPS.items():
        if name in start.season or (name == ENCODER and has_encoder and of_taste):
            steps += [{SLOPE + name: step} for step in some] + [{name: step, SLOPE + name: -step} for step in some]
    return steps


def _changed(values: Values, step: Values) -> Values | None:
    """Values after a step, none where nothing changes. A term of taste ends at a weight of 0, the encoder's at any lead."""
    changed = values | {name: values[name] + by for name, by in step.items()}
    at_longest = max(changed.get(ENCODER, 0.0) + changed[SLOPE + ENCODER], 0.0)
    changed |= {name: max(value, 0.0) for name, value in changed.items() if name.startswith("taste_")}
    changed[SLOPE + ENCODER] = at_longest - changed.get(ENCODER, 0.0)
    return changed if any(abs(changed[name] - values[name]) > SLIGHT for name in step) else None


def users_of(sample: SampleData, among: np.ndarray, *, most: int, seed: int) -> Tensor:
    """Users of a sample `among` some who wanted anything new, at most `most`, drawn by seed; rising."""
    asked = among[_num_new_targets(sample).numpy()[among] > 0]
    return torch.from_numpy(np.sort(np.random.default_rng([seed, len(asked)]).permutation(asked)[:most]))


def question_of(sample: SampleData, users: Tensor, searched: Sequence[str], season_inputs: Sequence[str]) -> Question:
    """The question of some users of a sample; all of them wanted something new (`users_of`)."""
    wanted = sample.is_target & ~sample.is_seen
    rows = torch.repeat_interleave(torch.arange(sample.num_users), sample.offsets.diff())
    place_of_user = torch.full((sample.num_users,), -1).index_copy(0, users, torch.arange(len(users)))
    place = torch.searchsorted(sample.pool, sample.pair_items).clamp(max=len(sample.pool) - 1)
    is_inside = (sample.pool[place] == sample.pair_items) & (place_of_user[rows] >= 0)
    user, item = place_of_user[rows[is_inside]], place[is_inside]
    is_seen, is_target = (torch.zeros(len(users), len(sample.pool), dtype=torch.bool) for _ in range(2))
    is_seen[user, item], is_target[user, item] = sample.is_seen[is_inside], wanted[is_inside]
    columns = [list(season_inputs).index(name) for name in searched]
    ideal = (1 / torch.log2(torch.arange(2.0, TOP + 2))).cumsum(0)
    return Question(
        lead_days=sample.lead_days,
        taste=sample.pool_taste(users).half(),
        season=sample.season[torch.searchsorted(sample.items, sample.pool)][:, columns],
        is_seen=is_seen,
        is_target=is_target,
        ideal=ideal[_num_new_targets(sample)[users].clamp(max=TOP) - 1],
    )


def _num_new_targets(sample: SampleData) -> Tensor:
    rows = torch.repeat_interleave(torch.arange(sample.num_users), sample.offsets.diff())
    return torch.bincount(rows[sample.is_target & ~sample.is_seen], minlength=sample.num_users)


def _figure(questions: Sequence[Question], values: Mapping[str, float], start: Weights) -> float:
    """Mean over leads of the mean over cut-offs."""
    by_lead: dict[int, list[float]] = {}
    for question in questions:
        by_lead.setdefault(question.lead_days, []).append(question.ndcg(*_weights_at(question.lead, values, start)))
    return float(np.mean([np.mean(found) for found in by_lead.values()]))


def _weights_at(lead: float, values: Mapping[str, float], start: Weights) -> tuple[Tensor, Tensor]:
    """Weights of the terms of taste [K] and of the season inputs [W] at a lead."""
    taste = torch.tensor([values[f"taste_{number}"] for number in range(len(start.taste))])
    taste[:1] += lead * values[SLOPE + ENCODER]
    season = torch.tensor([values[name] + lead * values[SLOPE + name] for name in start.season])
    return taste, season
