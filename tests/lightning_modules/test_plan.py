"""What `perennial plan` says against what a training really takes."""

import json
import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
import torch

from contracts.sections.training import ComputeConfig, EncoderConfig, OptimizerConfig
from lightning_modules.event_log import EventLog, prepare_event_log
from lightning_modules.jobs import PretrainJob, TrainingRequest
from lightning_modules.plan import DataSize, Machine, made_up_events, plan_pretraining
from lightning_modules.pretraining import plan_periods, walk_settings
from lightning_modules.taste import build_taste
from lightning_modules.time_walk import TimeWalk

ROOT = Path(__file__).resolve().parents[2]
SLOW_MACHINE = Machine("a machine of round numbers", 1e10, 1e9, 1e9, 1e-5, 1e-3)

# a small training first, so that everything that is loaded once is there; then the growth of the resident memory at its fullest
MEASURE = """
import json, sys
from pathlib import Path
import torch
from lightning_modules.jobs import TrainingRequest
from lightning_modules.pretraining import pretrain

torch.set_num_threads(1)

def kib(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))

folder = Path(sys.argv[1])
request = TrainingRequest.model_validate_json((folder / "job.json").read_text())
encoder = request.job.encoder.model_copy(update={"width": 16, "num_blocks": 1})
small = request.job.model_copy(update={"batch_events": 64, "num_items": 1000, "events": str(folder / "small.parquet"), "encoder": encoder})
pretrain(small, request.compute, folder / "small")
before = kib("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
pretrain(request.job, request.compute, folder / "large")
print(json.dumps((kib("VmHWM") - before) * 1024))
"""


def job_of(size: DataSize, encoder: EncoderConfig, **others: object) -> PretrainJob:
    values = {"held_out_days": 0, "epochs": 1.0, "objective": "next_item", "optimizer": OptimizerConfig(), "cutoffs": (date(2021, 1, 1),), **others}
    return PretrainJob(inputs_digest="0123456789abcdef", events="none", num_items=size.num_items, event_types=("event",), encoder=encoder, **values)


def taken(job: PretrainJob, compute: ComputeConfig, size: DataSize, folder: Path) -> int:
    """Bytes by which a process of its own grew."""
    made_up_events(job, size).write_parquet(folder / "events.parquet")
    small = DataSize(1000, 200, 20)
    made_up_events(job.model_copy(update={"batch_events": 64}), small).write_parquet(folder / "small.parquet")
    job = job.model_copy(update={"events": str(folder / "events.parquet")})
    (folder / "job.json").write_text(TrainingRequest(job=job, compute=compute).model_dump_json())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", MEASURE, str(folder)], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    return int(json.loads(done.stdout.splitlines()[-1]))


SIZES = {
    "many items": (DataSize(500_000, 12_000, 600), EncoderConfig(width=64, num_blocks=1), {"batch_events": 4_096}),
    "wide encoder": (DataSize(20_000, 3_000, 120), EncoderConfig(width=512, num_blocks=6, num_heads=8), {"batch_events": 1_024}),
    "many events at once": (DataSize(20_000, 26_000, 800), EncoderConfig(width=64, num_blocks=4, max_history=32), {"batch_events": 12_288}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_memory_is_foreseen_within_15_percent(name: str, tmp_path: Path) -> None:
    size, encoder, others = SIZES[name]
    job, compute = job_of(size, encoder, **others), ComputeConfig(accelerator="cpu", threads=1)
    foreseen = plan_pretraining(job, compute, size, SLOW_MACHINE).process_bytes
    measured = taken(job, compute, size, tmp_path)
    assert foreseen == pytest.approx(measured, rel=0.15), f"foreseen {foreseen / 2**20:.0f} MiB, taken {measured / 2**20:.0f} MiB"


def test_parameters_are_those_of_the_network() -> None:
    size, encoder = DataSize(300, 4_000, 50, num_event_types=2, num_nodes=7, depth=2), EncoderConfig(width=32, num_blocks=3)
    plan = plan_pretraining(job_of(size, encoder), ComputeConfig(accelerator="cpu"), size, SLOW_MACHINE)
    taste = build_taste(encoder, torch.arange(8).repeat(38)[:300, None].expand(-1, 2), num_items=300, num_event_types=2)
    assert plan.parameters == sum(parameter.numel() for parameter in taste.parameters())
    assert plan.item_parameters == (300 + 8) * 32
    assert (plan.weights, plan.gradients) == (4 * plan.parameters, 4 * plan.parameters)
    assert plan.optimizer_states == pytest.approx(8 * plan.parameters, rel=0.001)  # two moments of Adam, and a step counter for each tensor


def test_text_vectors_of_items_take_their_room() -> None:
    encoder, compute = EncoderConfig(width=32, num_blocks=1), ComputeConfig(accelerator="cpu")
    sizes = [DataSize(20_000, 4_000, 50, content_width=width) for width in (0, 384)]
    plain, with_content = (plan_pretraining(job_of(size, encoder, num_negatives=64, batch_events=256), compute, size, SLOW_MACHINE) for size in sizes)
    assert with_content.parameters - plain.parameters == 384 * 32
    assert 1 <= (with_content.device_bytes - plain.device_bytes) / (20_000 * 384 * 2) < 1.3  # half precision, whole on each device


def test_sharing_divides_what_rests_and_gathers_what_is_computed_with() -> None:
    size, encoder = DataSize(3_000, 4_000, 50), EncoderConfig(width=32, num_blocks=3)
    one, ddp, fsdp2 = (
        plan_pretraining(job_of(size, encoder), ComputeConfig(accelerator="cpu", devices=devices, strategy=strategy), size, SLOW_MACHINE)
        for devices, strategy in ((1, "auto"), (4, "ddp"), (4, "fsdp2"))
    )
    assert (ddp.weights, ddp.optimizer_states, ddp.gathered) == (one.weights, one.optimizer_states, 0)
    assert (fsdp2.weights, fsdp2.optimizer_states) == (one.weights // 4, one.optimizer_states // 4)
    assert fsdp2.item_table == pytest.approx(16 * 3_000 * 32 / 4, rel=0.01)
    assert 0 < fsdp2.gathered <= 2 * one.weights
    assert ddp.activations < 0.6 * one.activations  # each computes its share of the batch
    assert (one.steps, ddp.steps) == (fsdp2.steps, fsdp2.steps)


@pytest.mark.parametrize("kind", ["gpt", "bert", "transformer_xl", "hstu", "ligr", "gru", "rnn"])
def test_computing_blocks_twice_saves_memory_of_every_encoder(kind: str) -> None:
    size, encoder = DataSize(200, 4_000, 100), EncoderConfig(kind=kind, width=32, num_blocks=4, max_history=8)
    objective = "masked_item" if kind == "bert" else "next_item"
    kept, computed = (
        plan_pretraining(
            job_of(size, encoder, objective=objective, num_negatives=16),
            ComputeConfig(accelerator="cpu", activation_checkpointing=is_on, precision="32"),
            size,
            SLOW_MACHINE,
        )
        for is_on in (False, True)
    )
    assert computed.activations < (0.95 if kind == "rnn" else 0.8) * kept.activations


@pytest.mark.parametrize(("epochs", "events_of_a_user", "num_cutoffs"), [(1.0, 5, 2), (1.0, 120, 1), (3.0, 20, 6), (0.3, 20, 12)])
def test_steps_are_those_of_the_walk(epochs: float, events_of_a_user: int, num_cutoffs: int, tmp_path: Path) -> None:
    size = DataSize(200, 40_000, 40_000 // events_of_a_user)
    cutoffs = tuple(date(2021, 1, 1) - timedelta(days=28 * back) for back in reversed(range(num_cutoffs)))
    job = job_of(size, EncoderConfig(width=8, max_history=32), epochs=epochs, batch_events=512, cutoffs=cutoffs, held_out_days=7)
    events = made_up_events(job, size)
    events.write_parquet(tmp_path / "events.parquet")
    prepare_event_log(str(tmp_path / "events.parquet"), tmp_path / "log", {"event": 1}, size.num_items)
    walk = TimeWalk(EventLog(tmp_path / "log"), plan_periods(job), walk_settings(job), num_items=size.num_items)
    all_users = DataSize(200, events.height, events["user_id"].n_unique())
    third = events.filter(pl.col("user_id").str.slice(-1).is_in(["1", "4", "7"]))
    plan = plan_pretraining(job, ComputeConfig(accelerator="cpu"), all_users, SLOW_MACHINE, events=third)
    assert plan.steps == pytest.approx(len(walk), rel=0.08)
