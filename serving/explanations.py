"""Why an item stands in a list, in words and in numbers that hold.

Parts: the score's own arithmetic. Taste: the history items whose absence lowers the item's taste most, found by taking each of them out
in turn (deletion, exact for this model; no gradient needed). Season and habit: the inputs that speak for them. Counterfactual: the list
as it would be without one item of the history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from contracts import columns as c
from serving.answers import Ask, RankedList
from serving.behaviour import EPOCH, Behaviour
from serving.item_tables import Integers
from serving.recommender import DISCOVER, Question, Recommender

MAX_HISTORY_ITEMS: Final = 128
NUM_BECAUSE: Final = 3
LEAST_DROP: Final = 0.02
LEAST_LIFT: Final = 0.25
DAYS_A_WEEK: Final = 7


@dataclass(frozen=True)
class Because:
    """A history item and how much the taste for the recommended one falls without it."""

    item_id: str
    drop: float


@dataclass(frozen=True)
class Explanation:
    """Why one item stands where it stands."""

    reasons: tuple[str, ...]
    because: tuple[Because, ...]


@dataclass(frozen=True)
class Counterfactual:
    """What the list would show in place of `gone` had the user had nothing to do with `without`."""

    without: str
    gone: tuple[str, ...]
    instead: tuple[str, ...]


def explain(recommender: Recommender, ask: Ask, found: RankedList) -> list[Explanation]:
    """One explanation per item of an answer, in order."""
    if not found.item_ids:
        return []
    question, behaviour = _question(recommender, ask), _behaviour(recommender, ask)
    because = most_important(recommender, behaviour, question, found.positions)
    seasons, habits = season_words(recommender, ask, found), habit_words(behaviour, ask, found)
    return [
        Explanation(tuple(word for word in (season, habit, _like(recommender, named)) if word), tuple(named))
        for season, habit, named in zip(seasons, habits, because, strict=True)
    ]


def most_important(recommender: Recommender, behaviour: Behaviour, question: Question, positions: Integers, *, num: int = NUM_BECAUSE) -> list[list[Because]]:
    """For each recommended item the history items whose deletion lowers its taste most, at most `num`, greatest drop first."""
    history = _newest_items(behaviour)
    if not len(history):
        return [[] for _ in positions]
    whole = recommender.taste_at(behaviour, question, positions)  # [1, N]
    drops = whole - recommender.taste_at(behaviour.without_each(history), question, positions)  # [history, N]
    found = []
    for column, position in enumerate(positions):
        order = np.argsort(-drops[:, column], kind="stable")
        named = [
            Because(recommender.item_ids[int(history[row])], float(drops[row, column]))
            for row in order
            if history[row] != position and drops[row, column] > LEAST_DROP
        ]
        found.append(named[:num])
    return found


def counterfactual(recommender: Recommender, ask: Ask, found: RankedList, without: str) -> Counterfactual | None:
    """The list without one item of the history; None where the user never had it."""
    question, behaviour = _question(recommender, ask), _behaviour(recommender, ask)
    positions = recommender.positions_of([without])
    if not len(positions) or positions[0] not in behaviour.item_positions:
        return None
    other = recommender.list_of(
        behaviour.without(positions[None, :]), question, exclude=(*ask.exclude, without) if question.list_name == DISCOVER else ask.exclude
    )
    instead = [recommender.item_ids[int(position)] for position in other]
    return Counterfactual(without, tuple(item for item in found.item_ids if item not in instead), tuple(item for item in instead if item not in found.item_ids))


def season_words(recommender: Recommender, ask: Ask, found: RankedList) -> list[str | None]:
    """What speaks for the season part of each item: the same weeks of last year, its forecast, its trend."""
    names = recommender.networks.head.season_inputs
    inputs = recommender.season_inputs_of(ask.request_date, ask.region)[found.positions]
    words: list[str | None] = []
    for row, season in zip(inputs, found.season, strict=True):
        value = dict(zip(names, row.tolist(), strict=True))
        words.append(_season_word(value) if season > 0 else None)
    return words


def habit_words(behaviour: Behaviour, ask: Ask, found: RankedList) -> list[str | None]:
    """How often the user has each item, and how long ago; nothing for items that are new to the user."""
    table = dict(zip(behaviour.habit_positions.tolist(), behaviour.habits.iter_rows(named=True), strict=True))
    today = (ask.request_date - EPOCH).days
    return [_habit_word(table[position], today) if position in table else None for position in found.positions.tolist()]


def _season_word(value: dict[str, float]) -> str | None:
    last_year, forecast, trend = (value.get(name, 0.0) for name in ("season_last_year_lift", "season_category_forecast_lift", "trend_lift_4w"))
    category = value.get("season_category_last_year_lift", 0.0)
    if last_year > LEAST_LIFT and last_year >= category:
        return f"in season now: {np.exp(last_year):.1f} times its usual share in these weeks last year"
    if category > LEAST_LIFT:
        return f"its category is in season: {np.exp(category):.1f} times its usual share in these weeks last year"
    if forecast > LEAST_LIFT:
        return f"in season now: its category is forecast at {np.exp(forecast):.1f} times the year's level"
    if trend > LEAST_LIFT:
        return f"rising: {np.exp(trend):.1f} times its usual share in the last four weeks"
    return "popular at this time"


def _habit_word(row: dict[str, object], today: int) -> str:
    baskets, last_day, interval = row[c.BASKETS], row[c.LAST_DAY], row[c.INTERVAL_DAYS]
    assert isinstance(baskets, int)
    assert isinstance(last_day, int)
    ago = _span(today - last_day)
    if isinstance(interval, float) and interval >= 1:
        return f"you have this about every {_span(round(interval))}, last {ago} ago"
    return f"you had this {ago} ago" if baskets == 1 else f"you had this {baskets} times, last {ago} ago"


def _span(days: int) -> str:
    if days < 2 * DAYS_A_WEEK:
        return "day" if days == 1 else f"{max(days, 0)} days"
    return f"{round(days / DAYS_A_WEEK)} weeks" if days < 100 else f"{round(days / 30.4)} months"


def _like(recommender: Recommender, because: Sequence[Because]) -> str | None:
    return f"like {recommender.title_of(because[0].item_id)}" if because else None


def _question(recommender: Recommender, ask: Ask) -> Question:
    candidates = None if ask.category is None else recommender.items_in(ask.category, ask.request_date)
    return recommender.question(ask.request_date, list_name=ask.list_name, k=ask.k, candidates=candidates, region=ask.region)


def _behaviour(recommender: Recommender, ask: Ask) -> Behaviour:
    return recommender.stored.behaviours([ask.name], ask.history(), ask.request_date)[0]


def _newest_items(behaviour: Behaviour) -> Integers:
    """Distinct items of the one user, newest last event first, at most as many as are taken out in turn."""
    order = np.argsort(-behaviour.item_days, kind="stable")[:MAX_HISTORY_ITEMS]
    return behaviour.item_positions[order]
