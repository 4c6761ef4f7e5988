"""Why an item stands in a list, in words and in numbers that hold.

Parts: the score's own arithmetic. Taste: the history items whose absence lowers the item's taste most, found by taking each of them out
in turn (deletion, exact for this model; no gradient needed). Season: the inputs whose absence lowers it most, found the same way. Habit:
what the user's record says. Counterfactual: the list as it would be without one item of the history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from contracts import columns as c
from serving.answers import Ask, RankedList
from serving.behaviour import EPOCH, Behaviour
from serving.item_tables import Integers
from serving.recommender import DISCOVER, SEASON_COLUMN, Question, Recommender

MAX_HISTORY_ITEMS: Final = 128
NUM_BECAUSE: Final = 3
LEAST_DROP: Final = 0.02
LEAST_LIFT: Final = 0.25
DAYS_A_WEEK: Final = 7
INDEX: Final = "season_index"
LAST_YEAR: Final = "season_last_year_lift"
ITEM_INPUTS: Final = (INDEX, LAST_YEAR, "season_last_year_change")
CATEGORY_INPUTS: Final = ("season_category_last_year_lift", "season_parent_category_last_year_lift")
FORECAST_INPUTS: Final = ("season_forecast_lift", "season_category_forecast_lift")
TREND_INPUTS: Final = ("trend_lift_1w", "trend_lift_4w", "trend_lift_13w", "trend_lift_4w_over_8w")


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
class _Claim:
    """Words about an item's season and the inputs they rest on, which are 0 where everything is as usual."""

    words: str
    inputs: tuple[str, ...]


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
    """What speaks most for the season part of each item that has one above the mean: last year's weeks, its category's, its forecast, its trend.

    By deletion: the inputs that make a claim are set to "as usual" and the season network is asked again; the claim whose absence costs most is named, and
    none that costs nothing, whatever its numbers say.
    """
    names = recommender.networks.head.season_inputs
    column = SEASON_COLUMN[ask.list_name]
    words: list[str | None] = []
    for row, season in zip(recommender.season_inputs_of(ask.request_date, ask.region)[found.positions], found.season, strict=True):
        claims = _season_claims(dict(zip(names, row.tolist(), strict=True))) if season > 0 else []
        without = np.stack([row, *(np.where(np.isin(names, claim.inputs), np.float32(0), row) for claim in claims)])
        scores = recommender.networks.season(without)[:, column]
        drops = scores[0] - scores[1:]
        best = int(np.argmax(drops)) if claims else -1
        held = bool(claims) and drops[best] > LEAST_DROP
        words.append((claims[best].words if held else "popular at this time") if season > 0 else None)
    return words


def habit_words(behaviour: Behaviour, ask: Ask, found: RankedList) -> list[str | None]:
    """How often the user has each item, and how long ago; nothing for items that are new to the user."""
    table = dict(zip(behaviour.habit_positions.tolist(), behaviour.habits.iter_rows(named=True), strict=True))
    today = (ask.request_date - EPOCH).days
    return [_habit_word(table[position], today) if position in table else None for position in found.positions.tolist()]


def _season_claims(value: Mapping[str, float]) -> list[_Claim]:
    """What could be said of an item's season, each with the inputs it rests on. An item that was not there last year has its category's index."""
    own = value.get(INDEX, value.get(LAST_YEAR, 0.0))
    category = value.get("season_category_last_year_lift", 0.0)
    has_own = value.get("season_existed_last_year", 1.0) > 0
    forecast = value.get("season_forecast_lift", 0.0) if value.get("season_forecast_known", 0.0) > 0 else value.get("season_category_forecast_lift", 0.0)
    whose = "it" if value.get("season_forecast_known", 0.0) > 0 else "its category"
    trend = value.get("trend_lift_4w", 0.0)
    of_item, of_category = ((own, ITEM_INPUTS), (category, CATEGORY_INPUTS)) if has_own else ((0.0, ()), (own, (*ITEM_INPUTS, *CATEGORY_INPUTS)))
    claims = [
        (of_item, "in season now: {:.1f} times its usual share in these weeks last year"),
        (of_category, "its category is in season: {:.1f} times its usual share in these weeks last year"),
        ((forecast, FORECAST_INPUTS), f"in season now: {whose} is forecast at {{:.1f}} times the year's level"),
        ((trend, TREND_INPUTS), "rising: {:.1f} times its usual share in the last four weeks"),
    ]
    return [_Claim(words.format(np.exp(lift)), inputs) for (lift, inputs), words in claims if lift > LEAST_LIFT]


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
