"""Weights that `discover` starts from: the measure is NDCG@10 by hand, the search goes uphill, sees no held-out user, and is where a head begins."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from lightning_modules import fine_tuning, starting_weights
from lightning_modules.export import export_rows
from lightning_modules.fine_tuning import ndcg
from lightning_modules.head import LEAD_INPUT, Head, build_head
from lightning_modules.jobs import FineTuneJob
from lightning_modules.pretraining import open_log
from lightning_modules.samples import SampleData
from lightning_modules.starting_weights import LEAST_GAIN, SLOPE, Question, Weights, _answers, find_weights, gain_of, level_of, question_of

SEARCHED = ("trend_lift_4w", "season_last_year_lift")


@pytest.fixture
def samples(fine_tune_job: FineTuneJob, tmp_path: Path) -> list[SampleData]:
    log = open_log(fine_tune_job.events, tmp_path, fine_tune_job.event_type_codes(), fine_tune_job.num_items)
    cutoffs = sorted({one.cutoff for one in fine_tune_job.samples})
    return [sample for cutoff in cutoffs for sample in fine_tuning._at_cutoff(fine_tune_job, log, cutoff, tmp_path / "terms")[1]]


def everybody(samples: list[SampleData]) -> list[np.ndarray]:
    return [np.arange(sample.num_users) for sample in samples]


def new_head(job: FineTuneJob, samples: list[SampleData]) -> Head:
    return fine_tuning._new_head(job, samples, fine_tuning._start_of_discover(job, samples, seed=0), ())


def question(season: list[float], *, seen: list[int], wanted: list[int], users: int = 1) -> Question:
    """So many users alike, one term of taste that says nothing, one season input."""
    places = torch.arange(len(season))
    return Question(
        users=torch.arange(users),
        lead_days=0,
        lead=0.0,
        taste=torch.zeros(users, len(season), 1).half(),
        season=torch.tensor(season)[:, None],
        is_seen=torch.isin(places, torch.tensor(seen)).expand(users, -1),
        is_target=torch.isin(places, torch.tensor(wanted)).expand(users, -1),
        ideal=torch.tensor([sum(1 / math.log2(place + 2) for place in range(len(wanted)))]).expand(users),
    )


def test_ndcg_of_a_question_leaves_out_what_the_user_has_had() -> None:
    asked = question([5.0, 4.0, 3.0, 2.0], seen=[0], wanted=[2, 3])
    by_hand = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))  # ranks 2 and 3 of the three left
    assert asked.ndcg(torch.zeros(1), torch.ones(1)).tolist() == pytest.approx([by_hand])
    assert asked.ndcg(torch.zeros(1), -torch.ones(1)).tolist() == pytest.approx([1.0])


def test_a_question_is_what_the_head_measures(samples: list[SampleData], fine_tune_job: FineTuneJob) -> None:
    """The same weights give the same NDCG@10 by the network that serves: no second meaning of a weight."""
    sample, everyone = samples[0], np.arange(samples[0].num_users)
    head: Head = new_head(fine_tune_job.model_copy(update={"search_start": False}), samples)
    asked = question_of(sample, everyone, SEARCHED, fine_tune_job.season_inputs, most=64, seed=0)
    assert asked is not None
    prior = [head.season.linear.weight[1, fine_tune_job.season_inputs.index(name)].item() for name in SEARCHED]
    assert prior[0] == 1.0
    values = ndcg(head, fine_tune_job, sample, everyone)["discover"]
    found = asked.ndcg(head.taste_weights()[1].detach(), torch.tensor(prior))
    assert float(found.mean()) == pytest.approx(np.nanmean(values), abs=5e-3)  # half precision may turn a near tie


def test_the_search_ends_no_lower_than_it_begins(samples: list[SampleData], fine_tune_job: FineTuneJob) -> None:
    start = Weights((0.0, 0.5, 0.5)[-_terms(samples) :], {"trend_lift_4w": -1.0, "season_last_year_lift": 0.0})
    asked = [question_of(sample, np.arange(sample.num_users), SEARCHED, fine_tune_job.season_inputs, most=64, seed=0) for sample in samples]

    def figure(weights: Weights) -> float:
        by_lead: dict[int, list[float]] = {}
        for one in asked:
            if one is not None:
                found = one.ndcg(torch.tensor(weights.taste), torch.tensor(list(weights.season.values())))
                by_lead.setdefault(one.lead_days, []).append(float(found.mean()))
        return float(np.mean([np.mean(values) for values in by_lead.values()]))

    found = find_weights(samples, everybody(samples), start, fine_tune_job.season_inputs, has_encoder=_terms(samples) > 2, seed=0)
    assert figure(found) > figure(start) * (1 + LEAST_GAIN)
    assert found == find_weights(samples, everybody(samples), start, fine_tune_job.season_inputs, has_encoder=_terms(samples) > 2, seed=0)
    assert min(found.taste) >= 0


def test_users_that_are_asked_are_spread_evenly_over_the_samples(
    samples: list[SampleData], fine_tune_job: FineTuneJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(starting_weights, "question_of", lambda *given, most, seed: asked.append(most))
    monkeypatch.setattr(starting_weights, "USERS", 20 * len(samples))
    start = Weights((0.5,) * _terms(samples), {"trend_lift_4w": 1.0})
    assert find_weights(samples, everybody(samples), start, fine_tune_job.season_inputs, has_encoder=False, seed=0) == start
    assert asked == [20] * len(samples)
    sample, everyone = samples[0], np.arange(samples[0].num_users)
    few = question_of(sample, everyone, SEARCHED, fine_tune_job.season_inputs, most=3, seed=0)
    assert few is not None
    assert len(few.ideal) == 3


def test_the_search_sees_no_user_held_out(samples: list[SampleData], fine_tune_job: FineTuneJob) -> None:
    few = [np.arange(1, sample.num_users, 2) for sample in samples]
    start = Weights((0.5,) * _terms(samples), {"trend_lift_4w": 1.0})
    whole = find_weights(samples, few, start, fine_tune_job.season_inputs, has_encoder=False, seed=0)
    for sample in samples:  # whoever is held out now wants other things
        rows = torch.repeat_interleave(torch.arange(sample.num_users), sample.offsets[1:] - sample.offsets[:-1])
        is_held_out = rows % 2 == 0
        sample.is_target[is_held_out] = ~sample.is_target[is_held_out]
    assert find_weights(samples, few, start, fine_tune_job.season_inputs, has_encoder=False, seed=0) == whole
    nobody = [np.zeros(0, np.int64) for _ in samples]
    assert find_weights(samples, nobody, start, fine_tune_job.season_inputs, has_encoder=False, seed=0) == start


def test_a_new_head_begins_at_the_weights_found(samples: list[SampleData], fine_tune_job: FineTuneJob, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Weights(tuple(0.1 * (number + 1) for number in range(_terms(samples))), {"trend_lift_4w": 0.7}, {"trend_lift_4w": -0.6})
    monkeypatch.setattr(fine_tuning, "find_weights", lambda *given, **more: found)
    given = []
    monkeypatch.setattr(fine_tuning, "build_head", lambda **parts: given.append(parts["season_slopes"]) or build_head(**parts))
    fixed, searched = (new_head(fine_tune_job.model_copy(update={"search_start": search}), samples) for search in (False, True))
    assert searched.taste_weights()[1].tolist() == pytest.approx(list(found.taste), abs=1e-5)
    assert searched.season.linear.weight[1, fine_tune_job.season_inputs.index("trend_lift_4w")].item() == pytest.approx(0.7)
    assert [slopes["trend_lift_4w"] for slopes in given] == [(0.0, -0.3), (0.0, -0.6)]
    assert torch.equal(searched.taste_weights()[0], fixed.taste_weights()[0])  # again begins where it did
    assert torch.equal(searched.season.linear.weight[0], fixed.season.linear.weight[0])


def test_gain_of_a_step_and_its_error_by_hand() -> None:
    """Two cut-offs of today, one a quarter of a year ahead: today's count a quarter each. Users 0 and 1 are asked at all of them."""
    now = question([1.0, 0.0], seen=[], wanted=[0], users=2)
    later = replace(question([1.0, 0.0], seen=[], wanted=[0], users=4), lead_days=84)
    before = [torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]), torch.zeros(4)]
    after = [torch.tensor([0.7, 0.3]), torch.tensor([0.4, 1.0]), torch.tensor([0.1, 0.1, 0.1, 0.1])]
    assert level_of([now, now, later], before) == pytest.approx(0.25 * 0.5 + 0.25 * 0.5 + 0.5 * 0.0)
    gain, error = gain_of([now, now, later], after, before)
    assert gain == pytest.approx(0.25 * 0.0 + 0.25 * 0.2 + 0.5 * 0.1)
    first, second, others = 0.25 * 0.2 / 2 + 0.25 * 0.4 / 2 + 0.5 * 0.1 / 4, -0.25 * 0.2 / 2 + 0.5 * 0.1 / 4, 0.5 * 0.1 / 4
    assert error == pytest.approx(math.sqrt(first**2 + second**2 + 2 * others**2))


@pytest.mark.parametrize(("users", "taken"), [(4, False), (40, True)])
def test_a_step_that_few_users_ask_for_is_chance(samples: list[SampleData], monkeypatch: pytest.MonkeyPatch, users: int, taken: bool) -> None:
    """A step that half of the users gain .5 by and the others nothing: .25 in the mean, with an error of .18 of four users and .06 of forty."""
    falling, middle = (question([3.0, 2.0, 1.0], seen=[], wanted=[wanted], users=users // 2) for wanted in (2, 1))
    parts = {name: torch.cat([getattr(falling, name), getattr(middle, name)]) for name in ("taste", "is_seen", "is_target", "ideal")}
    asked = replace(falling, **parts, users=torch.arange(users))
    monkeypatch.setattr(starting_weights, "question_of", lambda *given, **more: asked)
    start = Weights((0.0,), {"trend_lift_4w": 0.1})
    found = find_weights(samples[:1], everybody(samples[:1]), start, ("trend_lift_4w",), has_encoder=False, seed=0)
    assert (found.season["trend_lift_4w"] < 0) == taken


def test_the_same_users_asked_again_prove_no_more(samples: list[SampleData], monkeypatch: pytest.MonkeyPatch) -> None:
    """Four users in fifty overlapping windows are four users; two hundred users are not."""
    falling, middle = (question([3.0, 2.0, 1.0], seen=[], wanted=[wanted], users=2) for wanted in (2, 1))
    parts = {name: torch.cat([getattr(falling, name), getattr(middle, name)]) for name in ("taste", "is_seen", "is_target", "ideal")}
    start = Weights((0.0,), {"trend_lift_4w": 0.1})
    for distinct in (False, True):
        asked = iter([replace(falling, **parts, users=torch.arange(4) + 4 * number * distinct) for number in range(50)])
        monkeypatch.setattr(starting_weights, "question_of", lambda *given, asked=asked, **more: next(asked))
        found = find_weights(samples[:1] * 50, everybody(samples[:1]) * 50, start, ("trend_lift_4w",), has_encoder=False, seed=0)
        assert (found.season["trend_lift_4w"] < 0) == distinct


def test_users_of_a_question_are_rows_of_the_log(samples: list[SampleData], fine_tune_job: FineTuneJob) -> None:
    """The same user has the same row at every cut-off, whatever his place in a sample."""
    found = 0
    for sample in samples:
        wants_new = [bool((sample.is_target & ~sample.is_seen)[low:high].any()) for low, high in zip(sample.offsets, sample.offsets[1:], strict=False)]
        asked = question_of(sample, np.arange(sample.num_users), SEARCHED, fine_tune_job.season_inputs, most=10_000, seed=0)
        rows = sample.linear.rows[sample.linear_rows][np.array(wants_new)].tolist()
        assert (asked.users.tolist() if asked else []) == rows
        found += len(rows)
    assert found > 10


def test_a_long_step_is_seen_where_short_ones_gain_nothing(samples: list[SampleData], monkeypatch: pytest.MonkeyPatch) -> None:
    """What rises is wanted and taste says otherwise by .6: a weight of .3 or .5 turns nothing, .9 does."""
    asked = question([1.0, 0.0], seen=[], wanted=[0], users=40)
    asked = replace(asked, taste=torch.tensor([0.0, 0.6]).half()[None, :, None].expand(40, -1, -1))
    monkeypatch.setattr(starting_weights, "question_of", lambda *given, **more: asked)
    start = Weights((1.0,), {"trend_lift_4w": 0.1})
    found = find_weights(samples[:1], everybody(samples[:1]), start, ("trend_lift_4w",), has_encoder=False, seed=0)
    assert (found.taste, found.season["trend_lift_4w"]) == ((1.0,), pytest.approx(0.9))
    monkeypatch.setattr(starting_weights, "REACHES", (1,))
    assert find_weights(samples[:1], everybody(samples[:1]), start, ("trend_lift_4w",), has_encoder=False, seed=0).season == start.season


def test_taste_left_out_is_not_searched(samples: list[SampleData], fine_tune_job: FineTuneJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting_weights, "LEAST_ERRORS", 0.0)  # a dozen users: any gain will do
    start = Weights((0.0,) * _terms(samples), {"trend_lift_4w": 0.0})
    found = find_weights(samples, everybody(samples), start, fine_tune_job.season_inputs, has_encoder=False, seed=0)
    assert not any(found.taste)
    assert found.season["trend_lift_4w"] != 0.0
    head = new_head(fine_tune_job.model_copy(update={"leave_out": ("taste", "trend")}), samples)
    assert not head.taste_weights().any()
    assert not (head.season.linear.weight * head.season.used)[1, fine_tune_job.season_inputs.index("trend_lift_4w")]


def test_weights_change_with_the_lead_up_to_a_quarter_of_a_year(tmp_path: Path) -> None:
    """The search, the network and what is exported agree on what a weight is at a lead."""
    inputs = ("trend_lift_4w", LEAD_INPUT)
    head = build_head(
        season_inputs=inputs,
        habit_inputs=(),
        unused_inputs=(),
        season_prior={"trend_lift_4w": (1.0, 1.0)},
        season_slopes={"trend_lift_4w": (0.0, -0.25)},
        habit_prior={},
        habit_bias=0.0,
        season_width=4,
        habit_width=4,
        season_statistics=(torch.zeros(2), torch.ones(2)),
        habit_statistics=(torch.zeros(3), torch.ones(3)),
        taste_weights=torch.ones(2, 1),
    )
    rows = torch.tensor([[2.0, 0.0], [2.0, 1 / 3], [2.0, 1.0], [2.0, 4.0]])
    expected = np.array([[2.0, 2.0], [2.0, 2.0 - 0.5 / 3], [2.0, 1.5], [2.0, 1.5]], np.float32)  # again keeps its weight
    np.testing.assert_allclose(head.season(rows).detach().numpy(), expected, rtol=1e-6)
    export_rows([head.season, head.season], tmp_path / "season.onnx", output="season")
    np.testing.assert_allclose(onnxruntime.InferenceSession(tmp_path / "season.onnx").run(None, {"inputs": rows.numpy()})[0], expected, rtol=1e-6)
    asked = replace(question([5.0, 4.0, 3.0, 2.0], seen=[], wanted=[3]), lead=1.0)
    values = {"taste_0": 0.0, "trend_lift_4w": 0.5}
    start = Weights((0.0,), {"trend_lift_4w": 0.5})
    figures = [_answers([asked], {**values, SLOPE + "trend_lift_4w": slope}, start)[0].item() for slope in (0.0, -1.0)]
    assert figures == pytest.approx([1 / math.log2(5), 1.0])  # at this lead the weight is .5, or -.5


def test_the_search_finds_how_a_weight_changes_with_the_lead(samples: list[SampleData], monkeypatch: pytest.MonkeyPatch) -> None:
    """Today what rises is wanted, in a quarter of a year what falls: one weight cannot say both."""
    now = question([3.0, 2.0, 1.0], seen=[], wanted=[0], users=40)
    later = replace(question([3.0, 2.0, 1.0], seen=[], wanted=[2], users=40), lead_days=84, lead=1.0)
    asked = iter([now, later] * 2)
    monkeypatch.setattr(starting_weights, "question_of", lambda *given, **more: next(asked))
    start = Weights((0.0,), {"trend_lift_4w": 0.1})
    found = find_weights(samples[:2], everybody(samples[:2]), start, ("trend_lift_4w",), has_encoder=False, seed=0)
    assert found.season["trend_lift_4w"] > 0
    assert found.season["trend_lift_4w"] + found.slopes["trend_lift_4w"] < 0
    monkeypatch.setattr(starting_weights, "SLOPE_STEPS", {})
    fixed = find_weights(samples[:2], everybody(samples[:2]), start, ("trend_lift_4w",), has_encoder=False, seed=0)
    assert fixed.slopes["trend_lift_4w"] == 0.0


def _terms(samples: list[SampleData]) -> int:
    return samples[0].pair_taste.shape[1]
