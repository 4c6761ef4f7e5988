"""Pre-training ends in the same weights however often it was interrupted, and however many processes shared it."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import psutil
import pytest
import torch
from safetensors.torch import load_file

from contracts.errors import CheckpointMismatchError, NotEnoughHistoryError
from contracts.sections.training import ComputeConfig
from lightning_modules import losses
from lightning_modules.jobs import PretrainJob, TrainingRequest
from lightning_modules.pretraining import (
    HeldOut,
    LossLog,
    Objective,
    Pretraining,
    learning_rate,
    open_log,
    plan_periods,
    pretrain,
    read_snapshot,
    walk_settings,
)
from lightning_modules.taste import build_taste
from lightning_modules.time_walk import Batch, TimeWalk

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5  # between weights that differ by the order of summation alone: measured 3e-7


def snapshots(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.stem: load_file(path) for path in sorted((folder / "snapshots").glob("*.safetensors"))}


def assert_same(one: Path, two: Path, **tolerance: float) -> None:
    first, second = snapshots(one), snapshots(two)
    assert first.keys() == second.keys()
    assert first
    for name, state in first.items():
        for key, value in state.items():
            torch.testing.assert_close(
                second[name][key], value, **({"atol": 0.0, "rtol": 0.0} | tolerance), msg=lambda text, at=f"{name} {key}": f"{at}: {text}"
            )


def write_request(job: PretrainJob, compute: ComputeConfig, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(TrainingRequest(job=job, compute=compute).model_dump_json())
    return folder / "job.json"


def start(path: Path, processes: int = 1) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "lightning_modules.train", str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(path: Path, processes: int = 1) -> str:
    child = start(path, processes)
    output, _ = child.communicate(timeout=300)
    assert child.returncode == 0, output[-3_000:]
    return output


def first_step(output: str) -> float:
    """Share of the walk that was done after the first step of this start."""
    return [float(line.split()[2]) for line in output.splitlines() if line.startswith("progress pretrain")][1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


def test_every_cutoff_gets_a_snapshot_that_reads_back(pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path) -> None:
    result = pretrain(pretrain_job, compute, tmp_path)
    assert list(snapshots(tmp_path)) == [cutoff.isoformat() for cutoff in pretrain_job.cutoffs]
    taste = read_snapshot(tmp_path, pretrain_job.cutoffs[1].isoformat())
    assert torch.equal(taste.items.own.weight, load_file(tmp_path / "snapshots" / f"{pretrain_job.cutoffs[1]}.safetensors")["items.own.weight"])
    assert result.metrics["held_out_loss"] > 0
    losses = pl.read_parquet(tmp_path / "losses.parquet").filter(pl.col("kind") == "training")
    assert losses["loss"].is_finite().all()
    with pytest.raises(CheckpointMismatchError, match=r"no snapshot at 2001-01-01; there are"):
        read_snapshot(tmp_path, "2001-01-01")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path) -> None:
    job = pretrain_job.model_copy(update={"cutoffs": pretrain_job.cutoffs[:1], "epochs": 0.5})
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        pretrain(job.model_copy(update={"seed": seed}), compute, tmp_path / name)
    assert_same(tmp_path / "one", tmp_path / "two")
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "one", tmp_path / "three")


def test_a_snapshot_has_seen_nothing_after_its_cutoff(pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path) -> None:
    first = (pretrain_job.cutoffs[0] - date(1970, 1, 1)).days
    changed = pl.read_parquet(pretrain_job.events).with_columns(
        pl.when(pl.col("event_day") >= first).then((pl.col("item_index") + 3) % 40).otherwise(pl.col("item_index")).cast(pl.Int32).alias("item_index")
    )
    changed.write_parquet(tmp_path / "changed.parquet")
    job = pretrain_job.model_copy(update={"cutoffs": pretrain_job.cutoffs[:2], "epochs": 0.5})
    pretrain(job, compute, tmp_path / "one")
    pretrain(job.model_copy(update={"events": str(tmp_path / "changed.parquet")}), compute, tmp_path / "two")
    one, two = snapshots(tmp_path / "one"), snapshots(tmp_path / "two")
    early, late = (cutoff.isoformat() for cutoff in job.cutoffs)
    assert all(torch.equal(one[early][key], two[early][key]) for key in one[early])
    assert not all(torch.equal(one[late][key], two[late][key]) for key in one[late])


def test_training_learns_what_users_do(pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path) -> None:
    job = pretrain_job.model_copy(update={"cutoffs": pretrain_job.cutoffs[-1:], "epochs": 3.0, "held_out_days": 30, "patience": 8})
    metrics = pretrain(job, compute, tmp_path).metrics
    untrained = math.log(job.num_negatives + 1)
    assert metrics["held_out_loss"] < untrained - 0.3


@pytest.mark.parametrize("loss", ["sampled_softmax_logq", "full_softmax", "gbce", "bce", "bpr"])
def test_every_loss_trains(loss: str, pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path) -> None:
    job = pretrain_job.model_copy(
        update={"cutoffs": pretrain_job.cutoffs[:1], "epochs": 0.5, "loss": loss, "objective": "window_item" if loss == "bpr" else "next_item"}
    )
    assert np.isfinite(list(pretrain(job, compute, tmp_path).metrics.values())).all()


def test_logq_makes_sampling_an_estimate_of_the_full_softmax(pretrain_job: PretrainJob, tmp_path: Path) -> None:
    job = pretrain_job.model_copy(update={"num_negatives": 20_000, "encoder": pretrain_job.encoder.model_copy(update={"dropout": 0.0})})
    log = open_log(job.events, tmp_path, job.event_type_codes(), job.num_items)
    batch = next(iter(TimeWalk(log, plan_periods(job)[:1], walk_settings(job), num_items=job.num_items)))
    torch.manual_seed(0)
    taste = build_taste(job.encoder, torch.zeros(job.num_items, 0, dtype=torch.long), num_items=job.num_items, num_event_types=2)
    torch.nn.init.normal_(taste.items.own.weight)
    values = {loss: float(Objective(taste, loss)(batch).detach()) for loss in ("full_softmax", "sampled_softmax_logq", "sampled_softmax")}
    assert values["sampled_softmax_logq"] == pytest.approx(values["full_softmax"], rel=0.03)
    assert values["sampled_softmax"] > values["full_softmax"] + 1


def test_a_batch_without_a_target_on_any_process_changes_nothing(pretrain_job: PretrainJob, tmp_path: Path) -> None:
    """All of its events are repeats, as may be in the few batches of a daily update."""
    log = open_log(pretrain_job.events, tmp_path, pretrain_job.event_type_codes(), pretrain_job.num_items)
    batch = next(iter(TimeWalk(log, plan_periods(pretrain_job)[:1], walk_settings(pretrain_job), num_items=pretrain_job.num_items)))
    none = {name: getattr(batch, name)[:0] for name in ("sources", "targets", "request_days", "lead_days", "since", "weights")}
    taste = build_taste(pretrain_job.encoder, torch.zeros(pretrain_job.num_items, 0, dtype=torch.long), num_items=pretrain_job.num_items, num_event_types=2)
    module = Pretraining(taste, pretrain_job)
    module._trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=lambda value, reduce_op: value))
    loss = module.training_step(replace(batch, **none), 0)
    loss.backward()
    assert loss.item() == 0.0
    assert all(weight.grad is None or not weight.grad.any() for weight in module.parameters())


@pytest.mark.parametrize("world_size", [2, 60])
def test_the_held_out_loss_is_the_mean_by_weight_over_all_processes(world_size: int, pretrain_job: PretrainJob, tmp_path: Path) -> None:
    """With 60 processes and some 40 windows a batch, some have no window of their own."""
    encoder = pretrain_job.encoder.model_copy(update={"dropout": 0.0})
    job = pretrain_job.model_copy(update={"encoder": encoder, "repeat_weight": 0.01, "num_negatives": 5})
    log = open_log(job.events, tmp_path, job.event_type_codes(), job.num_items)
    periods = plan_periods(job)
    module = Pretraining(build_taste(job.encoder, torch.zeros(job.num_items, 0, dtype=torch.long), num_items=job.num_items, num_event_types=2), job)
    torch.nn.init.normal_(module.taste.items.own.weight)
    looks, total = [], torch.zeros(2)
    for ranks in (range(1), range(world_size)):
        batches: list[Batch] = []
        for rank in ranks:
            walk = TimeWalk(log, periods, walk_settings(job), num_items=job.num_items, rank=rank, world_size=len(ranks))
            batches += walk.held_out(periods[0].end_day, periods[1].end_day)
        alone = SimpleNamespace(world_size=1)
        looks.append(HeldOut(batches, checks=1, patience=1)._look(alone, module))
        assert (min(float(batch.weights.sum()) for batch in batches) == 0) == (len(ranks) == 60)
        if len(ranks) == 1:
            with torch.no_grad():
                for batch in batches:
                    weight = batch.weights.sum()
                    total += torch.stack([module.eval().objective(batch) * weight, weight])
    assert looks[0] == pytest.approx(float(total[0] / total[1]), rel=1e-6)
    assert looks[1] == pytest.approx(looks[0], rel=1e-5)


def test_the_loss_of_a_period_is_the_mean_over_processes() -> None:
    class Two:
        """Stands for the second process: its share of the loss is 3."""

        def reduce(self, value: torch.Tensor, reduce_op: str) -> torch.Tensor:
            assert reduce_op == "mean"
            return value.add_(3.0).div_(2)  # in place, as gloo does

    log, batch = LossLog(), SimpleNamespace(period=1)
    for share in (1.0, 2.0):
        outputs = {"loss": torch.tensor(share)}
        log.on_train_batch_end(SimpleNamespace(world_size=2, strategy=Two()), None, outputs, batch, 0)
        assert outputs["loss"] == share
    assert log.sums == {1: [2.0 + 2.5, 2.0]}


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_contrastive_views_of_one_history_come_closer_than_those_of_others(
    kind: str, pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path
) -> None:
    """With a large weight the training is contrastive alone; without it the views are as far apart as chance left them."""
    found = {}
    for weight in (0.0, 100.0):
        encoder = pretrain_job.encoder.model_copy(update={"kind": kind})
        objective = "masked_item" if kind == "bert" else "next_item"
        job = pretrain_job.model_copy(
            update={"cutoffs": pretrain_job.cutoffs[:1], "epochs": 4.0, "encoder": encoder, "objective": objective, "contrastive_weight": weight}
        )
        pretrain(job, compute, tmp_path / str(weight))
        taste = read_snapshot(tmp_path / str(weight), job.cutoffs[0].isoformat())
        log = open_log(job.events, tmp_path / str(weight), job.event_type_codes(), job.num_items)
        batch = next(iter(TimeWalk(log, plan_periods(job)[:1], walk_settings(job), num_items=job.num_items)))
        torch.manual_seed(0)
        objective_of = Objective(taste, job.loss, weight)
        with torch.no_grad():
            found[weight] = float(losses.contrastive(objective_of.view(batch), objective_of.view(batch)))
    assert found[100.0] < found[0.0] - 0.2, found


@pytest.mark.parametrize("kind", ["bert", "transformer_xl", "hstu", "ligr", "gru", "rnn"])
def test_every_encoder_trains_on_the_same_batches(kind: str, pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path) -> None:
    encoder = pretrain_job.encoder.model_copy(update={"kind": kind})
    objective, epochs = ("masked_item", 10.0) if kind == "bert" else ("next_item", 4.0)  # a masked pass asks for a third of the events
    job = pretrain_job.model_copy(update={"cutoffs": pretrain_job.cutoffs[:1], "epochs": epochs, "encoder": encoder, "objective": objective})
    pretrain(job, compute, tmp_path)
    trained = read_snapshot(tmp_path, job.cutoffs[0].isoformat())
    assert trained.encoder.is_causal == (kind != "bert")
    torch.manual_seed(0)
    untrained = build_taste(job.encoder, trained.items.categories, num_items=job.num_items, num_event_types=2)
    log = open_log(job.events, tmp_path, job.event_type_codes(), job.num_items)
    periods = plan_periods(job)
    batches = TimeWalk(log, periods, walk_settings(job), num_items=job.num_items).held_out(periods[-1].end_day, periods[-1].end_day + 60)
    with torch.no_grad():
        before, after = (np.mean([float(Objective(taste.eval(), job.loss)(batch)) for batch in batches]) for taste in (untrained, trained))
    assert after < before - 0.25, (before, after)  # on days after the training


def test_a_bidirectional_encoder_learns_masked_items_only(pretrain_job: PretrainJob) -> None:
    values = pretrain_job.model_dump()
    with pytest.raises(ValueError, match=r"objective next_item does not fit pretraining.encoder.kind bert"):
        PretrainJob.model_validate({**values, "encoder": {**values["encoder"], "kind": "bert"}})
    with pytest.raises(ValueError, match=r"objective masked_item does not fit pretraining.encoder.kind gpt"):
        PretrainJob.model_validate({**values, "objective": "masked_item"})


def test_no_event_before_the_first_cutoff_is_an_error_that_says_so(pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path) -> None:
    job = pretrain_job.model_copy(update={"cutoffs": (date(2020, 1, 1),)})
    with pytest.raises(NotEnoughHistoryError, match="no event before 2020-01-01"):
        pretrain(job, compute, tmp_path)


def test_days_are_held_out_before_the_first_cutoff_only(pretrain_job: PretrainJob) -> None:
    periods = plan_periods(pretrain_job)
    first = (pretrain_job.cutoffs[0] - date(1970, 1, 1)).days
    assert (periods[0].end_day, periods[0].snapshot) == (first - 7, None)
    assert [period.snapshot for period in periods[1:]] == [cutoff.isoformat() for cutoff in pretrain_job.cutoffs]
    assert [period.start_day for period in periods] == [None, *(period.end_day for period in periods[:-1])]


def test_the_learning_rate_warms_up_and_falls_at_the_end_of_a_period() -> None:
    assert learning_rate(1.0, 0, 9, 0.0) == pytest.approx(0.1)
    assert learning_rate(1.0, 9, 9, 0.0) == pytest.approx(1.0)
    assert learning_rate(1.0, 100, 9, 0.6) == pytest.approx(1.0)
    assert learning_rate(1.0, 100, 9, 1.0) == pytest.approx(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_and_ends_in_the_same_weights(
    number: signal.Signals, pretrain_job: PretrainJob, compute: ComputeConfig, undisturbed: Path, tmp_path: Path
) -> None:
    job = pretrain_job.model_copy(update={"epochs": 12.0, "cutoffs": pretrain_job.cutoffs[:2], "patience": 9})
    if not (undisturbed / "result.json").exists():
        (undisturbed / "output").write_text(run(write_request(job, compute, undisturbed)))
    path = write_request(job, compute, tmp_path)
    child = start(path)
    assert child.stdout is not None
    deadline = time.monotonic() + 120
    while not (tmp_path / "last.ckpt").exists():
        assert child.poll() is None, child.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(child.pid, number)
    child.communicate(timeout=60)
    assert child.returncode != 0
    assert not (tmp_path / "result.json").exists()
    assert first_step(run(path)) > first_step((undisturbed / "output").read_text())  # it goes on; from the start the weights would be the same too
    assert_same(undisturbed, tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["metrics"] == pytest.approx(json.loads((undisturbed / "result.json").read_text())["metrics"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_the_model_of_one(strategy: str, pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path) -> None:
    encoder = pretrain_job.encoder.model_copy(update={"dropout": 0.0})
    # Adam divides a gradient by its size: a wrong scale would not show, and noise of the order of summation would
    optimizer = pretrain_job.optimizer.model_copy(update={"name": "sgd", "learning_rate": 0.3, "gradient_clip": 1e6})
    job = pretrain_job.model_copy(update={"encoder": encoder, "optimizer": optimizer, "cutoffs": pretrain_job.cutoffs[:2], "epochs": 1.0})
    compute = compute.model_copy(update={"precision": "32"})
    run(write_request(job, compute, tmp_path / "one"))
    output = run(write_request(job, compute.model_copy(update={"devices": 2, "strategy": strategy}), tmp_path / "two"), processes=2)
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert output.count("progress pretrain 1.0000") == 1
    assert_same(tmp_path / "one", tmp_path / "two", atol=TOLERANCE)
    assert two["metrics"] == pytest.approx(one["metrics"], abs=TOLERANCE)
    early, late = snapshots(tmp_path / "one").values()
    weights = dict(read_snapshot(tmp_path / "one", job.cutoffs[0].isoformat()).named_parameters())
    moved = {name: float((late[name] - early[name]).abs().max()) for name in weights}
    assert min(moved.values()) > 50 * TOLERANCE, moved  # else weights that never moved would agree too


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_of_which_one_was_killed_go_on_and_end_in_the_same_weights(
    strategy: str, pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path
) -> None:
    job = pretrain_job.model_copy(update={"epochs": 12.0, "cutoffs": pretrain_job.cutoffs[:1], "patience": 9})
    both = compute.model_copy(update={"devices": 2, "strategy": strategy})
    whole = run(write_request(job, both, tmp_path / "whole"), processes=2)
    path = write_request(job, both, tmp_path / "killed")
    child = start(path, processes=2)
    assert child.stdout is not None
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "last.ckpt").exists():
        assert child.poll() is None, child.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(psutil.Process(child.pid).children()[-1].pid, signal.SIGKILL)
    child.communicate(timeout=60)
    assert child.returncode != 0
    assert not (tmp_path / "killed" / "result.json").exists()
    assert first_step(run(path, processes=2)) > first_step(whole)  # it goes on; from the start the weights would be the same too
    assert_same(tmp_path / "whole", tmp_path / "killed")
