"""A component that is left out neither reads nor says anything, in training and in what is exported."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from contracts.sections.training import ComputeConfig
from lightning_modules.export import export_rows
from lightning_modules.fine_tuning import fine_tune
from lightning_modules.head import Head, build_head
from lightning_modules.jobs import FineTuneJob, PretrainJob
from lightning_modules.pretraining import pretrain, read_snapshot
from lightning_modules.trainers import use_bf16

SEASON, HABIT = ("trend_lift_4w", "season_index"), ("habit_log_decayed_90d",)


def head_without(*components: str) -> Head:
    torch.manual_seed(0)
    head = build_head(
        season_inputs=SEASON,
        habit_inputs=HABIT,
        unused_inputs=(),
        season_prior={"trend_lift_4w": (1.0, 1.0), "season_index": (0.4, 0.4)},
        season_slopes={},
        habit_prior={"habit_log_decayed_90d": 1.0},
        habit_bias=4.0,
        season_width=4,
        habit_width=4,
        season_statistics=(torch.zeros(2), torch.ones(2)),
        habit_statistics=(torch.zeros(4), torch.ones(4)),
        taste_weights=torch.tensor([[0.5], [0.7]]),
        leave_out=components,
    )
    for network in (head.season, head.habit):
        torch.nn.init.normal_(network.outer.weight)
    return head


def moves(network: torch.nn.Module, width: int) -> list[bool]:
    """Whether each input has a part in the answer."""
    rows = torch.zeros(width + 1, width)
    rows[range(1, width + 1), range(width)] = 1.0
    with torch.no_grad():
        answer = network(rows)
    return [not torch.equal(answer[0], other) for other in answer[1:]]


@pytest.mark.parametrize(
    ("left_out", "season", "habit", "has_taste"),
    [
        ((), [True, True], [True, True, True, True], True),
        (("trend",), [False, True], [True, False, True, True], True),
        (("season",), [True, False], [True, True, False, True], True),
        (("taste",), [True, True], [True, True, True, False], False),
        (("habit",), [True, True], [False] * 4, True),
        (("trend", "season", "taste"), [False, False], [True, False, False, False], False),
    ],
)
def test_inputs_of_a_component_left_out_are_not_read(left_out: tuple[str, ...], season: list[bool], habit: list[bool], has_taste: bool, tmp_path: Path) -> None:
    head = head_without(*left_out)
    assert moves(head.season, 2) == season
    assert moves(head.habit, 4) == habit
    assert bool(head.taste_weights().gt(0).all()) == has_taste
    assert bool(head.taste_weights().eq(0).all()) != has_taste
    rows = torch.randn(5, 4)
    export_rows([head.habit], tmp_path / "habit.onnx", output="habit")
    found = onnxruntime.InferenceSession(tmp_path / "habit.onnx").run(None, {"inputs": rows.numpy()})[0]
    np.testing.assert_allclose(found, head.habit(rows)[:, 0].detach().numpy(), atol=1e-5)
    assert (found == 0).all() == ("habit" in left_out)


def test_a_head_without_taste_and_habit_is_served_without_them(fine_tune_job: FineTuneJob, compute: ComputeConfig, tmp_path: Path) -> None:
    job = fine_tune_job.model_copy(update={"leave_out": ("taste", "habit"), "max_steps": 4})
    fine_tune(job, compute, tmp_path)
    networks = tmp_path / job.origins[0].isoformat() / "networks"
    lists = json.loads((networks / "head.json").read_text())["lists"]
    assert [term["weight"] for one in lists.values() for term in one["linear"]] == [0.0] * 4
    rows = np.random.default_rng(0).standard_normal((6, len(job.habit_inputs) + len(job.season_inputs) + 2)).astype(np.float32)
    assert (onnxruntime.InferenceSession(networks / "habit.onnx").run(None, {"inputs": rows})[0] == 0).all()
    season = onnxruntime.InferenceSession(networks / "season.onnx").run(None, {"inputs": rows[:, : len(job.season_inputs)]})[0]
    assert np.abs(season).max() > 0.1


@pytest.mark.parametrize("has_calendar", [True, False])
def test_a_request_without_calendar_is_the_same_on_any_date(has_calendar: bool, pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path) -> None:
    job = pretrain_job.model_copy(update={"cutoffs": pretrain_job.cutoffs[:1], "request_calendar": has_calendar})
    pretrain(job, compute, tmp_path)
    taste = read_snapshot(tmp_path, job.cutoffs[0].isoformat())
    state, lead, since = torch.randn(2, 16), torch.zeros(2), torch.full((2,), 3)
    with torch.no_grad():
        one, other = (taste.request(state, torch.full((2,), day), lead, since) for day in (19_000, 19_003))
    assert torch.equal(one, other) != has_calendar


@pytest.mark.parametrize(
    ("precision", "has_wide_layers", "instructions", "wanted"),
    [
        ("auto", True, {"avx512_bf16": True}, True),
        ("auto", True, {"amx_bf16": True}, True),
        ("auto", True, {"avx512_bf16": False}, False),
        ("auto", False, {"avx512_bf16": True}, False),
        ("32", True, {"avx512_bf16": True}, False),
        ("bf16", False, {}, True),
    ],
)
def test_bf16_on_a_cpu_asks_for_its_instructions_and_wide_layers(
    precision: str, has_wide_layers: bool, instructions: dict[str, bool], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: instructions)
    assert use_bf16(ComputeConfig(accelerator="cpu", precision=precision), has_wide_layers=has_wide_layers) is wanted
