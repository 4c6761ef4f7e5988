"""Reasons hold: what is named matters more than what is not, and the parts are the score's own."""

import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from features.season import SEASON_INPUTS
from serving.answers import Ask, RankedList, answer_all
from serving.behaviour import Behaviour
from serving.explanations import LEAST_LIFT, _season_claims, counterfactual, explain, most_important, season_words
from serving.recommender import Question, Recommender
from tests.serving.hand_made import linear_graph
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


def reasoned(shop_bundle: Path, tmp_path: Path, season: dict[str, tuple[float, float]]) -> tuple[Recommender, RankedList, list[str | None]]:
    """The shop with a season network that adds these inputs only; a stranger's list and what is said of its season."""
    shutil.copytree(shop_bundle, tmp_path / "bundle")
    weights = np.array([season.get(name, (0.0, 0.0)) for name in SEASON_INPUTS])
    linear_graph(tmp_path / "bundle" / "networks" / "season.onnx", weights, "season", squeeze=False)
    model = Recommender.load(tmp_path / "bundle", verify=False)
    ask = Ask(DAY, "nobody", k=10)
    (found,) = answer_all(model, [ask])
    return model, found, season_words(model, ask, found)


def test_in_season_is_said_with_the_index_the_model_scores_with(shop_bundle: Path, tmp_path: Path) -> None:
    model, found, words = reasoned(shop_bundle, tmp_path, {"season_index": (1.0, 1.0)})
    index = model.season_inputs_of(DAY)[found.positions, SEASON_INPUTS.index("season_index")]
    assert index.min() > LEAST_LIFT
    assert words == [f"in season now: {np.exp(value):.1f} times its usual share in these weeks last year" for value in index]


def test_no_season_is_claimed_that_the_model_does_not_score(shop_bundle: Path, tmp_path: Path) -> None:
    """The items' index is as high as before, but here only how much they sell counts."""
    model, found, words = reasoned(shop_bundle, tmp_path, {"trend_log_level_52w": (1.0, 1.0)})
    assert model.season_inputs_of(DAY)[found.positions, SEASON_INPUTS.index("season_index")].max() > LEAST_LIFT
    assert set(words) == {"popular at this time"}


def test_an_item_that_was_not_there_last_year_has_its_categorys_season() -> None:
    row = {"season_index": 0.7, "season_category_last_year_lift": 0.4, "season_existed_last_year": 0.0}
    assert [claim.words for claim in _season_claims(row)] == ["its category is in season: 2.0 times its usual share in these weeks last year"]
    words = [claim.words for claim in _season_claims(row | {"season_existed_last_year": 1.0})]
    assert words[0] == "in season now: 2.0 times its usual share in these weeks last year"
    assert words[1] == "its category is in season: 1.5 times its usual share in these weeks last year"


def test_a_forecast_is_the_items_own_only_where_it_has_one() -> None:
    row = {"season_forecast_lift": 0.0, "season_category_forecast_lift": 0.5, "season_forecast_known": 0.0}
    assert [claim.words for claim in _season_claims(row)] == ["in season now: its category is forecast at 1.6 times the year's level"]
    assert not _season_claims(row | {"season_forecast_known": 1.0})
