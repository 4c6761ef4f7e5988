"""Reasons hold: what is named matters more than what is not, and the parts are the score's own."""

from datetime import date

import numpy as np
import pytest

from serving.answers import Ask, answer_all
from serving.behaviour import Behaviour
from serving.explanations import counterfactual, explain, most_important
from serving.recommender import Question, Recommender
from tests.serving.small_shop import USERS

DAY = date(2024, 12, 5)


def drop_without(shop: Recommender, behaviour: Behaviour, question: Question, at: np.ndarray, items: np.ndarray) -> float:
    whole, rest = (shop.taste_at(one, question, at)[0, 0] for one in (behaviour, behaviour.without(items[None, :])))
    return float(whole - rest)


def test_deleting_the_named_three_lowers_taste_at_least_twice_as_much_as_three_at_random(shop: Recommender) -> None:
    rng = np.random.default_rng(0)
    named, at_random = [], []
    for user in USERS:
        ask = Ask(DAY, user, list_name="discover", k=3)
        (found,) = answer_all(shop, [ask])
        question = shop.question(DAY, list_name="discover")
        (behaviour,) = shop.stored.behaviours([user], None, DAY)
        because = most_important(shop, behaviour, question, found.positions)
        for position, reasons in zip(found.positions, because, strict=True):
            if len(reasons) < 3:
                continue
            at = np.array([position])
            named.append(drop_without(shop, behaviour, question, at, shop.positions_of([reason.item_id for reason in reasons])))
            others = [rng.choice(behaviour.item_positions, 3, replace=False) for _ in range(4)]
            at_random.append(np.mean([drop_without(shop, behaviour, question, at, three) for three in others]))
    assert len(named) > 60
    assert np.mean(named) > 2 * np.mean(at_random)


def test_a_drop_is_what_taste_loses_without_the_item(shop: Recommender) -> None:
    ask = Ask(DAY, "u03", list_name="discover", k=4)
    (found,) = answer_all(shop, [ask])
    question = shop.question(DAY, list_name="discover")
    (behaviour,) = shop.stored.behaviours(["u03"], None, DAY)
    whole = shop.taste_at(behaviour, question, found.positions)[0]
    for column, reasons in enumerate(most_important(shop, behaviour, question, found.positions)):
        for reason in reasons:
            without = behaviour.without(shop.positions_of([reason.item_id])[None, :])
            assert reason.drop == pytest.approx(float(whole[column] - shop.taste_at(without, question, found.positions)[0, column]), abs=1e-5)


def test_taste_at_some_items_is_taste_at_all_items(shop: Recommender) -> None:
    """`taste_at` is not centred: differences between items must be those of the list."""
    question = shop.question(DAY, k=40)
    (behaviour,) = shop.stored.behaviours(["u03"], None, DAY)
    table = shop.rank(["u03"], request_date=DAY, k=40).sort("item_id")
    taste = shop.taste_at(behaviour, question, np.arange(40))[0]
    np.testing.assert_allclose(taste - taste.mean(), table["taste"], atol=1e-5)


def test_a_counterfactual_is_the_list_without_the_item(shop: Recommender) -> None:
    ask = Ask(DAY, "u03", k=10)
    (found,) = answer_all(shop, [ask])
    reasons = [because for explanation in explain(shop, ask, found) for because in explanation.because]
    strongest = max(reasons, key=lambda because: because.drop).item_id
    other = counterfactual(shop, ask, found, strongest)
    assert other is not None
    assert len(other.gone) == len(other.instead) > 0
    assert not set(other.instead) & set(found.item_ids)
    assert counterfactual(shop, ask, found, "never had") is None
    assert shop.rank(["u03"], request_date=DAY)["item_id"].to_list() == list(found.item_ids), "asking what if changes nothing"


def test_a_session_is_explained_too_and_a_stranger_has_no_taste_to_explain(shop: Recommender) -> None:
    ask = Ask(DAY, "nobody", k=5)
    (found,) = answer_all(shop, [ask])
    explanations = explain(shop, ask, found)
    assert all(not explanation.because for explanation in explanations)
    assert any("in season" in reason for explanation in explanations for reason in explanation.reasons)
