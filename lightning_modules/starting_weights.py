"""Weights of the list `discover`: its few strongest ones, found by NDCG@10 of the sampled cut-offs.

A network fitted on a dozen cut-offs learns these cut-offs by heart: on Online Retail II a head trained from weights that suit another shop ranked what
is new to a user worse than it had begun. A few weights (one for each term of taste, trend, season index, first-time buyers, ...; of two of them also how
they change with the lead) carry over better, and can be found by the measure itself, one at a time. There the list stays (`FineTuneJob.trained_lists`).
A step is taken where it gains clearly more than chance among the users asked: where these are few, the weights stay where they begin. It is tried at several
lengths: what small ones gain is lost in the noise where a long one stands out of it.

Letters: B users of a sample, P items of its pool, K terms of taste, W searched season inputs.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lightning_modules.head import LEAD_INPUT, LONGEST_LEAD
from lightning_modules.samples import SampleData

TOP = 10
USERS = 4_096  # that are asked in all: each sample's share of them
LEAST_USERS = 16  # of a sample
LEAST_GAIN = 0.005  # relative; a step that gains less is not worth a weight that differs
LEAST_ERRORS = 2.0  # standard errors of its paired gain that a step must exceed: few users give any step a gain by chance
REACHES = (1, 2, 4)  # lengths of a step
ROUNDS = 3
SLIGHT = 1e-9  # what adding up steps may leave below 0
TASTE_STEPS = (0.15, -0.15)
ENCODER_STEPS = (0.05, 0.2, -0.05)
SEASON_STEPS = {
    "trend_lift_4w": (0.2, -0.2),
    "season_index": (0.2, -0.2),
    "trend_log_new_buyers_4w": (0.1, -0.1),
    "trend_log_level_13w": (-0.1, 0.1),
    "trend_category_lift_4w": (-0.1, 0.1),
    "season_parent_category_last_year_lift": (0.2, -0.2),
    "trend_lift_1w": (0.2, -0.2),
}
SLOPE_STEPS = {"trend_lift_4w": (-0.3, 0.3), "season_index": (0.3, -0.3)}
SLOPE = "slope of "


@dataclass(frozen=True)
class Weights:
    """Weights of `discover`: of the terms of taste [K], of season inputs by name, and how these change with the lead (`head.PriorNetwork`)."""

    taste: tuple[float, ...]
    season: Mapping[str, float]
    slopes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """What some users of one sample wanted of what was new to them.

    users [B] rows of the log; lead is the head's input for it, bounded as there; taste [B, P, K] half precision; season [P, W]; is_seen, is_target [B, P]
    ideal [B] the best possible sum of gains
    """

    users: Tensor
    lead_days: int
    lead: float
    taste: Tensor
    season: Tensor
    is_seen: Tensor
    is_target: Tensor
    ideal: Tensor

    def ndcg(self, taste: Tensor, season: Tensor) -> Tensor:
        """NDCG@10 of each user [B] with these weights [K] and [W]."""
        scores = (self.taste.float() @ taste + self.season @ season).masked_fill(self.is_seen, -math.inf)
        best = scores.topk(min(TOP, scores.shape[1]), 1).indices
        gains = self.is_target.gather(1, best) / torch.log2(torch.arange(2.0, best.shape[1] + 2))
        return gains.sum(1) / self.ideal


def find_weights(
    samples: Sequence[SampleData],
    users: Sequence[np.ndarray],
    start: Weights,
    season_inputs: Sequence[str],
    *,
    has_encoder: bool,
    seed: int,
) -> Weights:
    """The best weights on the way uphill from `start`, one changed at a time; the mean over leads of the mean over cut-offs decides (`gain_of`).

    users
        Those of each sample that are looked at, so that users held out stay unseen.
    start
        Terms of taste that are all 0 (taste is left out) stay so; season inputs it does not name are not read.
    """
    most = max(USERS // len(samples), LEAST_USERS)
    asked = (question_of(sample, rows, list(start.season), season_inputs, most=most, seed=seed) for sample, rows in zip(samples, users, strict=True))
    questions = [question for question in asked if question is not None]
    if not questions:
        return start
    of_taste = [ENCODER_STEPS if has_encoder and number == 0 else TASTE_STEPS for number in range(len(start.taste))] if any(start.taste) else []
    steps = {**{f"taste_{number}": one for number, one in enumerate(of_taste)}, **SEASON_STEPS, **{SLOPE + name: one for name, one in SLOPE_STEPS.items()}}
    slopes = {SLOPE + name: start.slopes.get(name, 0.0) for name in start.season}
    values = {**{f"taste_{number}": value for number, value in enumerate(start.taste)}, **start.season, **slopes}
    best = _answers(questions, values, start)
    for _ in range(ROUNDS):
        before = best
        for changed, step in [(name, step) for name in list(values) for step in steps.get(name, ())]:
            while (found := _clearest(questions, values, best, changed, step, start)) is not None:
                values, best = found
        if best is before:
            break
    return Weights(
        tuple(max(round(values[f"taste_{number}"], 6), 0.0) for number in range(len(start.taste))),
        {name: values[name] for name in start.season},
        {**start.slopes, **{name: values[SLOPE + name] for name in start.season}},
    )


def _clearest(
    questions: Sequence[Question], values: Mapping[str, float], best: Sequence[Tensor], changed: str, step: float, start: Weights
) -> tuple[dict[str, float], list[Tensor]] | None:
    """Values after the length of a step that gains most beyond its error, and what users have with them; None where no length gains clearly."""
    found: tuple[dict[str, float], list[Tensor]] | None = None
    most = 0.0
    for reach in REACHES:
        tried = {**values, changed: values[changed] + reach * step}
        if changed.startswith("taste_") and tried[changed] < -SLIGHT:  # terms of taste stay positive
            break
        answers = _answers(questions, tried, start)
        gain, error = gain_of(questions, answers, best)
        if gain < -LEAST_ERRORS * error:  # farther is worse
            break
        if gain > max(LEAST_GAIN * level_of(questions, best), LEAST_ERRORS * error) and gain - LEAST_ERRORS * error > most:
            found, most = (tried, answers), gain - LEAST_ERRORS * error
    return found


def question_of(sample: SampleData, among: np.ndarray, searched: Sequence[str], season_inputs: Sequence[str], *, most: int, seed: int) -> Question | None:
    """The question of a sample, of at most `most` users drawn by seed `among` some; None where none of them wanted anything new."""
    wanted = sample.is_target & ~sample.is_seen
    rows = torch.repeat_interleave(torch.arange(sample.num_users), sample.offsets[1:] - sample.offsets[:-1])
    counts = torch.bincount(rows[wanted], minlength=sample.num_users)
    asked = among[counts.numpy()[among] > 0]
    if not len(asked):
        return None
    users = torch.from_numpy(np.sort(np.random.default_rng([seed, len(asked)]).permutation(asked)[:most]))
    place_of_user = torch.full((sample.num_users,), -1).index_copy(0, users, torch.arange(len(users)))
    place = torch.searchsorted(sample.pool, sample.pair_items).clamp(max=len(sample.pool) - 1)
    is_inside = (sample.pool[place] == sample.pair_items) & (place_of_user[rows] >= 0)
    user, item = place_of_user[rows[is_inside]], place[is_inside]
    is_seen, is_target = (torch.zeros(len(users), len(sample.pool), dtype=torch.bool) for _ in range(2))
    is_seen[user, item], is_target[user, item] = sample.is_seen[is_inside], wanted[is_inside]
    columns = [list(season_inputs).index(name) for name in searched]
    ideal = (1 / torch.log2(torch.arange(2.0, TOP + 2))).cumsum(0)
    return Question(
        users=torch.from_numpy(sample.linear.rows[sample.linear_rows[users.numpy()]]),
        lead_days=sample.lead_days,
        lead=min(float(sample.season[0, list(season_inputs).index(LEAD_INPUT)]), LONGEST_LEAD) if LEAD_INPUT in season_inputs else 0.0,
        taste=sample.pool_taste(users).half(),
        season=sample.season[torch.searchsorted(sample.items, sample.pool)][:, columns],
        is_seen=is_seen,
        is_target=is_target,
        ideal=ideal[counts[users].clamp(max=TOP) - 1],
    )


def level_of(questions: Sequence[Question], answers: Sequence[Tensor]) -> float:
    """Mean over leads of the mean over cut-offs of what the users of each question have [B]."""
    return sum(share * float(values.mean()) for share, values in zip(_shares(questions), answers, strict=True))


def gain_of(questions: Sequence[Question], answers: Sequence[Tensor], before: Sequence[Tensor]) -> tuple[float, float]:
    """What `level_of` gains over what the same users had before, and its standard error if nothing were gained.

    Users are drawn, questions stand. Cut-offs overlap, so a user is asked much the same several times: what he gains in all of them is one draw, squared
    about 0; one user proves nothing.
    """
    parts = [share * (after - one) / len(one) for share, after, one in zip(_shares(questions), answers, before, strict=True)]
    users, place = torch.unique(torch.cat([question.users for question in questions]), return_inverse=True)
    of_users = torch.zeros(len(users)).index_add(0, place, torch.cat(parts))
    return float(of_users.sum()), float(of_users.square().sum().sqrt())


def _shares(questions: Sequence[Question]) -> list[float]:
    """What each question counts: leads count alike, and so do the cut-offs of a lead."""
    of_lead = Counter(question.lead_days for question in questions)
    return [1 / (len(of_lead) * of_lead[question.lead_days]) for question in questions]


def _answers(questions: Sequence[Question], values: Mapping[str, float], start: Weights) -> list[Tensor]:
    """NDCG@10 of the users of each question with these weights."""
    taste = torch.tensor([values[f"taste_{number}"] for number in range(len(start.taste))])
    season = torch.tensor([values[name] for name in start.season])
    slope = torch.tensor([values[SLOPE + name] for name in start.season])
    return [question.ndcg(taste, season + question.lead * slope) for question in questions]
