"""The exported networks give what torch gives, and the folder is what the architecture page says."""

import json
import warnings
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from contracts.sections.training import ComputeConfig, EncoderConfig
from lightning_modules import fine_tuning
from lightning_modules.export import export_rows
from lightning_modules.fine_tuning import fine_tune
from lightning_modules.head import PriorNetwork
from lightning_modules.jobs import FineTuneJob, PretrainJob
from lightning_modules.pretraining import pretrain, read_snapshot
from lightning_modules.starting_weights import Weights
from lightning_modules.taste import ENCODERS, build_taste


def run(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_the_graph_of_rows_is_the_mean_of_the_networks(num_outputs: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    networks = []
    for _ in range(2):
        network = PriorNetwork(
            num_outputs,
            3,
            prior=torch.randn(num_outputs, 5, generator=generator),
            bias=0.3,
            mean=torch.randn(5, generator=generator),
            deviation=torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0]),
            is_used=torch.tensor([True, True, True, True, False]),
        )
        torch.nn.init.normal_(network.outer.weight)
        networks.append(network)
    export_rows(networks, tmp_path / "rows.onnx", output="out")
    rows = 4 * torch.randn(7, 5, generator=generator)
    with torch.no_grad():
        wanted = torch.stack([network(rows) for network in networks]).mean(0)
    found = run(tmp_path / "rows.onnx", {"inputs": rows.numpy()})
    np.testing.assert_allclose(found, (wanted[:, 0] if num_outputs == 1 else wanted).numpy(), atol=1e-5)
    assert run(tmp_path / "rows.onnx", {"inputs": rows[:1].numpy()}).shape == ((1,) if num_outputs == 1 else (1, 2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.mark.slow
def test_the_folder_holds_what_the_architecture_page_says(pretrain_job: PretrainJob, fine_tune_job: FineTuneJob, compute: ComputeConfig, folders: Path) -> None:
    pretrain(pretrain_job, compute, folders / "pretrain")
    job = fine_tune_job.model_copy(update={"pretraining": str(folders / "pretrain"), "num_seeds": 2})
    origin = job.origins[0]
    fine_tune(job, compute, folders / "fine_tune")
    networks = folders / "fine_tune" / origin.isoformat() / "networks"

    head = json.loads((networks / "head.json").read_text())
    assert head["format"] == 2
    assert head["season_inputs"] == list(job.season_inputs)
    assert head["habit_inputs"] == list(job.habit_inputs)
    assert head["event_types"] == {"purchase": 1, "view": 2}
    assert head["max_history"] == 16
    assert date.fromisoformat(head["cutoff"]) == origin
    assert all(len(head["lists"][name]["linear"]) == len(job.linear) and head["lists"][name]["encoder_weight"] > 0 for name in job.lists)

    vectors = load_file(networks / "vectors.safetensors")
    assert (np.diff(vectors["linear_items"]) > 0).all()
    pool = len(vectors["linear_items"])
    for number in range(len(job.linear)):
        assert len(vectors[f"linear_{number}_indptr"]) == job.num_items + 1
        assert vectors[f"linear_{number}_out"].shape[0] == vectors[f"linear_{number}_self"].shape[0] == pool
    snapshot = read_snapshot(folders / "pretrain", origin.isoformat())
    np.testing.assert_allclose(vectors["taste_items"], snapshot.items.all().detach().numpy(), atol=1e-6)

    num_terms = 1 + len(job.linear)
    rows = np.random.default_rng(0).standard_normal((9, len(job.season_inputs))).astype(np.float32)
    assert run(networks / "season.onnx", {"inputs": rows}).shape == (9, 2)
    rows = np.random.default_rng(0).standard_normal((1, len(job.habit_inputs) + len(job.season_inputs) + num_terms)).astype(np.float32)
    assert run(networks / "habit.onnx", {"inputs": rows}).shape == (1,)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "is_used"), [((0.0, 0.0), False), ((0.0, 0.1), True)])
def test_the_encoder_is_exported_only_where_it_adds(
    pretrain_job: PretrainJob,
    fine_tune_job: FineTuneJob,
    compute: ComputeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights: tuple[float, float],
    is_used: bool,
) -> None:
    def found(samples: object, users: object, start: Weights, *given: object, seed: int, **more: object) -> Weights:
        return replace(start, taste=(weights[seed - fine_tune_job.seed], *start.taste[1:]))

    monkeypatch.setattr(fine_tuning, "find_weights", found)
    pretrain(pretrain_job, compute, tmp_path / "pretrain")
    job = fine_tune_job.model_copy(update={"pretraining": str(tmp_path / "pretrain"), "use_encoder": "if_it_adds", "max_steps": 2, "epochs": 1, "num_seeds": 2})
    result = fine_tune(job, compute, tmp_path / "fine_tune")
    assert result.metrics[f"encoder_weight_{job.origins[0]}"] == pytest.approx(sum(weights) / 2)
    assert (tmp_path / "fine_tune" / job.origins[0].isoformat() / "networks" / "encoder.onnx").exists() == is_used


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_an_exported_program_asks_the_same_at_other_sizes(kind: str) -> None:
    """`torch.export`; the recurrent encoders unroll their steps, so their program is for one length of history."""

    def asked(num_users: int, num_steps: int) -> tuple[torch.Tensor, ...]:
        items, days = torch.randint(0, 9, (num_users, num_steps)), torch.randint(18_000, 18_400, (num_users, num_steps)).sort()[0]
        lengths = torch.randint(1, num_steps + 1, (num_users,))
        return items, days, torch.ones_like(items), lengths, torch.full((num_users,), 18_450), torch.full((num_users,), 28.0)

    config = EncoderConfig(kind=kind, width=16, num_blocks=2, num_heads=2, max_history=12)  # type: ignore[arg-type]
    model = build_taste(config, torch.zeros(9, 0, dtype=torch.long), num_items=9, num_event_types=1).eval()
    auto = torch.export.Dim.AUTO
    is_recurrent = kind in ("gru", "rnn")
    table, column = ({0: auto} if is_recurrent else {0: auto, 1: auto}), {0: auto}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # weights of a recurrent layer stand twice, as a list and by name
        program = torch.export.export(model, asked(3, 5), dynamic_shapes=(table, table, table, column, column, column), strict=False).module()
        for size in ((2, 5), (7, 5)) if is_recurrent else ((2, 3), (2, 9), (4, 12)):
            inputs = asked(*size)
            torch.testing.assert_close(program(*inputs), model(*inputs), rtol=1e-5, atol=1e-5)
