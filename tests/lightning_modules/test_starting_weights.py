"""Weights that `discover` starts from: the measure is NDCG@10 by hand, the search goes uphill, and is where a head begins."""

import itertools
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
from lightning_modules.starting_weights import (
    ENCODER,
    LEAST_GAIN,
    SLOPE,
    Question,
    Weights,
    _changed,
    _figure,
    _weights_at,
    find_weights,
    question_of,
    users_of,
)

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


def question(season: list[float], *, seen: list[int], wanted: list[int]) -> Question:
    """One user, one term of taste that says nothing, one season input."""
    places = torch.arange(len(season))
    return Question(
        lead_days=0,
        taste=torch.zeros(1, len(season), 1).half(),
        season=torch.tensor(season)[:, None],
        is_seen=torch.isin(places, torch.tensor(seen))[None],
        is_target=torch.isin(places, torch.tensor(wanted))[None],
        ideal=torch.tensor([sum(1 / math.log2(place + 2) for place in range(len(wanted)))]),
    )


def test_ndcg_of_a_question_leaves_out_what_the_user_has_had() -> None:
    asked = question([5.0, 4.0, 3.0, 2.0], seen=[0], wanted=[2, 3])
    by_hand = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))  # ranks 2 and 3 of the three left
    assert asked.ndcg(torch.zeros(1), torch.ones(1)) == pytest.approx(by_hand)
    assert asked.ndcg(torch.zeros(1), -torch.ones(1)) == pytest.approx(1.0)


def test_a_question_is_what_the_head_measures(samples: list[SampleData], fine_tune_job: FineTuneJob) -> None:
    """The same weights give the same NDCG@10 by the network that serves: no second meaning of a weight."""
    sample, everyone = samples[0], np.arange(samples[0].num_users)
    head: Head = new_head(fine_tune_job.model_copy(update={"search_start": False}), samples)
    asked = question_of(sample, users_of(sample, everyone, most=64, seed=0), SEARCHED, fine_tune_job.season_inputs)
    prior = [head.season.linear.weight[1, fine_tune_job.season_inputs.index(name)].item() for name in SEARCHED]
    assert prior[0] == 1.0
    values = ndcg(head, fine_tune_job, sample, everyone)["discover"]
    found = asked.ndcg(head.taste_weights()[1].detach(), torch.tensor(prior))
    assert found == pytest.approx(np.nanmean(values), abs=5e-3)  # half precision may turn a near tie


def test_a_shortened_question_keeps_each_users_targets_and_best_items(
    samples: list[SampleData], fine_tune_job: FineTuneJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = samples[0]
    asked = question_of(sample, users_of(sample, np.arange(sample.num_users), most=64, seed=0), SEARCHED, fine_tune_job.season_inputs)
    monkeypatch.setattr(starting_weights, "SHORTLIST", 12)
    taste, season = torch.full((_terms(samples),), 0.5), torch.tensor([1.0, 0.4])
    short = asked.shortened(taste, season)
    assert short.taste.shape[:2] == short.is_seen.shape == (len(asked.ideal), 12)
    assert asked.is_seen.shape[1] > 12
    assert torch.equal(short.is_target.sum(1), asked.is_target.sum(1))
    for change in (0.0, 0.1, -0.1):
        assert short.ndcg(taste, season + change) == pytest.approx(asked.ndcg(taste, season + change), abs=5e-3)
    turned = short.ndcg(-taste, -season)  # far from where it was shortened it knows too little
    assert turned != pytest.approx(asked.ndcg(-taste, -season), abs=5e-3)


@pytest.mark.parametrize("shortlist", [256, 12])
def test_the_search_ends_no_lower_than_it_begins(
    samples: list[SampleData], fine_tune_job: FineTuneJob, monkeypatch: pytest.MonkeyPatch, shortlist: int
) -> None:
    """By whole questions, also where it looks at half of the items at a time."""
    monkeypatch.setattr(starting_weights, "SHORTLIST", shortlist)
    start = Weights((0.0, 0.5, 0.5)[-_terms(samples) :], {"trend_lift_4w": -1.0, "season_last_year_lift": 0.0})
    asked = [users_of(sample, np.arange(sample.num_users), most=64, seed=0) for sample in samples]
    whole = [question_of(sample, users, SEARCHED, fine_tune_job.season_inputs) for sample, users in zip(samples, asked, strict=True) if len(users)]

    def figure(weights: Weights) -> float:
        return _figure(whole, starting_weights._values(weights), weights)

    found = find_weights(samples, everybody(samples), start, fine_tune_job.season_inputs, has_encoder=_terms(samples) > 2, seed=0)
    assert figure(found) > figure(start) * (1 + LEAST_GAIN)
    assert found == find_weights(samples, everybody(samples), start, fine_tune_job.season_inputs, has_encoder=_terms(samples) > 2, seed=0)
    assert min(found.taste) >= 0


def test_users_that_are_asked_are_spread_evenly_over_the_samples(
    samples: list[SampleData], fine_tune_job: FineTuneJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    drawn = users_of
    monkeypatch.setattr(starting_weights, "users_of", lambda *given, most, seed: asked.append(most) or drawn(*given, most=most, seed=seed))
    monkeypatch.setattr(starting_weights, "USERS", 20 * len(samples))
    monkeypatch.setattr(starting_weights, "USERS_AT_ONCE", 7)  # questions are put together from parts
    start = Weights((0.5,) * _terms(samples), {"trend_lift_4w": 1.0})
    in_parts = find_weights(samples, everybody(samples), start, fine_tune_job.season_inputs, has_encoder=False, seed=0)
    assert asked == [20] * len(samples)
    monkeypatch.setattr(starting_weights, "USERS_AT_ONCE", 512)
    assert find_weights(samples, everybody(samples), start, fine_tune_job.season_inputs, has_encoder=False, seed=0) == in_parts
    assert len(users_of(samples[0], np.arange(samples[0].num_users), most=3, seed=0)) == 3


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


def test_taste_left_out_is_not_searched(samples: list[SampleData], fine_tune_job: FineTuneJob) -> None:
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
    asked = replace(question([5.0, 4.0, 3.0, 2.0], seen=[], wanted=[3]), lead_days=84)
    values = {"taste_0": 0.0, SLOPE + ENCODER: 0.0, "trend_lift_4w": 0.5}
    figures = [_figure([asked], {**values, SLOPE + "trend_lift_4w": slope}, Weights((0.0,), {"trend_lift_4w": 0.5})) for slope in (0.0, -1.0)]
    assert figures == pytest.approx([1 / math.log2(5), 1.0])  # at this lead the weight is .5, or -.5


def test_the_search_finds_how_a_weight_changes_with_the_lead(samples: list[SampleData], monkeypatch: pytest.MonkeyPatch) -> None:
    """Today what rises is wanted, in a quarter of a year what falls: one weight cannot say both."""
    now, later = question([3.0, 2.0, 1.0], seen=[], wanted=[0]), replace(question([3.0, 2.0, 1.0], seen=[], wanted=[2]), lead_days=84)
    start = Weights((0.0,), {"trend_lift_4w": 0.1})
    found = found_for(samples, [now, later], start, monkeypatch)
    assert found.season["trend_lift_4w"] > 0
    assert found.season["trend_lift_4w"] + found.slopes["trend_lift_4w"] < 0
    monkeypatch.setattr(starting_weights, "SLOPE_STEPS", {})
    assert found_for(samples, [now, later], start, monkeypatch).slopes["trend_lift_4w"] == 0.0


def test_the_search_finds_how_the_encoders_weight_changes_with_the_lead(samples: list[SampleData], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the encoder says is wanted in a quarter of a year and unwanted today, where its weight ends at nothing, not below."""
    now = replace(question([3.0, 2.0, 1.0], seen=[], wanted=[0]), taste=torch.tensor([[[1.0], [2.0], [40.0]]]).half())
    later = replace(now, lead_days=84, is_target=torch.tensor([[False, False, True]]))
    start = Weights((0.1,), {"trend_lift_4w": 1.0})
    found = found_for(samples, [now, later], start, monkeypatch)
    assert found.asks_encoder
    assert found.taste == (0.0,)
    assert found.encoder_slope == pytest.approx(0.1)
    assert found.season == {"trend_lift_4w": 1.0}
    assert found.slopes == {"trend_lift_4w": 0.0}
    fixed = found_for(samples, [now, later], start, monkeypatch, has_encoder=False)
    assert fixed.encoder_slope == 0.0


def test_a_weight_is_also_changed_at_short_leads_alone(samples: list[SampleData], monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned round at all leads or at long leads only, the weight of trend is wrong for the longest; at short ones only it is right for both."""
    later = replace(question([3.0, 2.0, 1.0], seen=[], wanted=[0]), lead_days=84)
    now = question([3.0, 2.0, 1.0], seen=[], wanted=[2])
    found = found_for(samples, [now, later], Weights((0.0,), {"trend_lift_4w": 0.1}), monkeypatch)
    assert found.season["trend_lift_4w"] < 0 < found.season["trend_lift_4w"] + found.slopes["trend_lift_4w"]


def test_a_question_at_a_lead_is_what_the_head_measures_there(samples: list[SampleData], fine_tune_job: FineTuneJob) -> None:
    """Slopes of the first term of taste and of an input, at a sample whose lead is not 0."""
    sample = next(sample for sample in samples if sample.lead_days == 28)
    start = Weights((0.3, *(0.5,) * (_terms(samples) - 1)), {"trend_lift_4w": 1.0}, {"trend_lift_4w": -3.0}, encoder_slope=6.0)
    head = fine_tuning._new_head(fine_tune_job, samples, start, ())
    everyone = np.arange(sample.num_users)
    read = [name for name, weight in zip(fine_tune_job.season_inputs, head.season.linear.weight[1], strict=True) if weight]
    start = replace(start, season={name: head.season.linear.weight[1, fine_tune_job.season_inputs.index(name)].item() for name in read})
    asked = question_of(sample, users_of(sample, everyone, most=64, seed=0), read, fine_tune_job.season_inputs)
    found = asked.ndcg(*_weights_at(asked.lead, starting_weights._values(start), start))
    expected = np.nanmean(ndcg(head, fine_tune_job, sample, everyone)["discover"])
    assert found == pytest.approx(expected, abs=5e-3)
    flat = replace(start, slopes={}, encoder_slope=0.0)
    assert asked.ndcg(*_weights_at(asked.lead, starting_weights._values(flat), flat)) != pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("name", ["taste_0", "taste_1"])
def test_a_term_of_taste_ends_at_no_weight(name: str) -> None:
    values = {"taste_0": 0.05, "taste_1": 0.05, "trend_lift_4w": 1.0, SLOPE + ENCODER: 0.0, SLOPE + "trend_lift_4w": 0.0}
    assert _changed(values, {name: -0.15}) == values | {name: 0.0}
    assert _changed(values | {name: 0.0}, {name: -0.15}) is None


@pytest.mark.parametrize(("lead_days", "weight"), [(0, 0.1), (42, 0.3), (84, 0.5), (168, 0.5)])
def test_a_head_knows_the_encoders_weight_at_a_lead(samples: list[SampleData], fine_tune_job: FineTuneJob, lead_days: int, weight: float) -> None:
    start = Weights((0.1, *(0.5,) * (_terms(samples) - 1)), {"trend_lift_4w": 1.0}, encoder_slope=0.4)
    head = fine_tuning._new_head(fine_tune_job, samples, start, ())
    assert head.taste_weights_at(lead_days)[1, 0].item() == pytest.approx(weight, abs=1e-5)
    assert torch.equal(head.taste_weights_at(lead_days)[0], head.taste_weights()[0])
    assert torch.equal(head.taste_weights_at(lead_days)[:, 1:], head.taste_weights()[:, 1:])
    without = fine_tuning._new_head(fine_tune_job.model_copy(update={"leave_out": ("taste",)}), samples, start, ())
    assert not without.taste_weights_at(lead_days).any()


def found_for(samples: list[SampleData], asked: list[Question], start: Weights, monkeypatch: pytest.MonkeyPatch, *, has_encoder: bool = True) -> Weights:
    """Weights found where the samples ask these questions, one each."""
    questions = itertools.cycle(asked)  # each is asked anew in every round
    monkeypatch.setattr(starting_weights, "question_of", lambda *given: next(questions))
    some = samples[: len(asked)]
    return find_weights(some, everybody(some), start, ("trend_lift_4w",), has_encoder=has_encoder, seed=0)


def _terms(samples: list[SampleData]) -> int:
    return samples[0].pair_taste.shape[1]
