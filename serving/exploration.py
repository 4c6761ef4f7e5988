"""A small share of lists gives its last place to a newcomer of the season, so that items nobody was shown can earn feedback.

Propensities are exact: a learner can weigh every shown place by how likely it was.
"""

import random
from dataclasses import dataclass
from typing import Final

import numpy as np

from contracts import columns as c
from serving.answers import Ask, RankedList
from serving.recommender import Recommender

GREEDY: Final = "greedy"
SEASON_NEWCOMERS: Final = "season_newcomers"
NUM_NEWCOMERS: Final = 20
NEW_WITHIN_WEEKS: Final = 8


@dataclass(frozen=True)
class Shown:
    """A list as it is shown: what policy made it and how likely each place was."""

    found: RankedList
    policy: str
    propensities: tuple[float, ...]


def explore(recommender: Recommender, ask: Ask, found: RankedList, *, share: float, rng: random.Random) -> Shown:
    """With probability `share` the last place goes to a newcomer drawn evenly from the most seasonal ones that are not in the list."""
    length = len(found.item_ids)
    newcomers = _newcomers(recommender, ask, found) if share and length > 1 else np.zeros(0, np.int64)
    if not len(newcomers):
        return Shown(found, GREEDY, (1.0,) * length)
    head = (1.0,) * (length - 1)
    if rng.random() >= share:
        return Shown(found, SEASON_NEWCOMERS, (*head, 1.0 - share))
    position = int(rng.choice(newcomers.tolist()))
    return Shown(_with_last(recommender, ask, found, position), SEASON_NEWCOMERS, (*head, share / len(newcomers)))


def _newcomers(recommender: Recommender, ask: Ask, found: RankedList) -> np.ndarray:
    """Positions of the most seasonal candidates first sold in the last weeks, without what is shown, excluded or had."""
    question = recommender.question(ask.request_date, list_name=ask.list_name, region=ask.region)
    behaviour = recommender.stored.behaviours([ask.name], ask.history(), ask.request_date)[0]
    allowed = question.candidates & recommender.is_new(NEW_WITHIN_WEEKS)
    if ask.category is not None:
        inside = np.zeros(len(allowed), bool)
        inside[recommender.positions_of(recommender.items_in(ask.category, ask.request_date))] = True
        allowed &= inside
    for taken in (found.positions, behaviour.item_positions, recommender.positions_of(ask.exclude)):
        allowed[taken] = False
    positions = np.flatnonzero(allowed)
    return positions[np.argsort(-question.season[positions], kind="stable")[:NUM_NEWCOMERS]]


def _with_last(recommender: Recommender, ask: Ask, found: RankedList, position: int) -> RankedList:
    """The list with its last item replaced; the newcomer's own parts are computed as for any item."""
    item = recommender.item_ids[position]
    question = recommender.question(ask.request_date, list_name=ask.list_name, region=ask.region)
    behaviour = recommender.stored.behaviours([ask.name], ask.history(), ask.request_date)[0]
    own = recommender.scores_at(behaviour, question, np.array([position]))
    parts = [
        np.append(values[:-1], value).astype(np.float32)
        for values, value in ((found.score, own[c.SCORE]), (found.taste, own[c.TASTE]), (found.habit, own[c.HABIT]), (found.season, own[c.SEASON]))
    ]
    return RankedList((*found.item_ids[:-1], item), np.append(found.positions[:-1], position), *parts)
