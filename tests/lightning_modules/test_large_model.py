"""The parameter file for large models at toy size: the same strategy, precision and switches, on two processes of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint

from contracts.config import PipelineConfig
from contracts.sections.training import ComputeConfig
from lightning_modules import pretraining
from lightning_modules.jobs import PretrainJob, TrainingRequest
from lightning_modules.pretraining import pretrain, read_snapshot

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deployments" / "parameters" / "large_model.yaml"

# the entry of a training process; each rank also writes down how much of every weight, and of its moments, it holds itself, and how its blocks are computed
TRAIN = """
import json, sys
from pathlib import Path
import torch
from lightning_modules import gpt, pretraining, train
from lightning_modules.trainers import process_rank

path = Path(sys.argv[1])
add_loss = pretraining.LossLog.on_train_batch_end
checkpoint, forward = pretraining.checkpoint, gpt.Block.forward
blocks = {"steps": 0, "checkpoints": 0, "passes": []}

def held(tensor):
    return [list(tensor.shape), list(tensor.to_local().shape) if hasattr(tensor, "to_local") else list(tensor.shape), str(tensor.dtype)]

def counted(*given, **options):
    blocks["checkpoints"] += torch.is_grad_enabled()
    return checkpoint(*given, **options)

def watched(self, x, layout):
    if torch.is_grad_enabled():
        blocks["passes"].append(str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else "none")
    return forward(self, x, layout)

def look(self, trainer, module, outputs, batch, batch_idx):
    add_loss(self, trainer, module, outputs, batch, batch_idx)
    states = trainer.optimizers[0].state
    found = {name: {"weight": held(p), "moment": held(states[p]["exp_avg"])} for name, p in module.named_parameters() if p in states}
    path.with_name(f"held_{process_rank()}.json").write_text(json.dumps(found))
    blocks["steps"] += 1
    path.with_name(f"blocks_{process_rank()}.json").write_text(json.dumps(blocks))

pretraining.checkpoint, gpt.Block.forward = counted, watched
pretraining.LossLog.on_train_batch_end = look
train.run(path)
"""


def toy(job: PretrainJob) -> tuple[PretrainJob, ComputeConfig]:
    """The file's job and machines, smaller: everything that is a switch stays."""
    config = PipelineConfig.from_yaml(FILE)
    section = config.pretraining
    encoder = section.encoder.model_copy(update={"width": 16, "num_blocks": 2, "num_heads": 2, "max_history": 16})
    section = section.model_copy(update={"encoder": encoder, "batch_events": 512, "num_negatives": 32, "epochs": 1.0})
    given = {"inputs_digest", "events", "num_items", "event_types", "item_features"}
    small = PretrainJob.from_config(section, **{name: getattr(job, name) for name in given}, cutoffs=job.cutoffs[:1])
    return small, config.compute.model_copy(update={"accelerator": "cpu", "devices": 2, "threads": 1})


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "ddp"])
def test_the_large_model_trains_at_toy_size_on_two_processes(strategy: str, pretrain_job: PretrainJob, tmp_path: Path) -> None:
    job, compute = toy(pretrain_job)
    assert (compute.strategy, compute.precision, compute.activation_checkpointing) == ("fsdp2", "bf16", True)
    words = pl.DataFrame({"item_index": range(job.num_items), "vector": pl.Series(np.eye(job.num_items, 8), dtype=pl.Array(pl.Float32, 8))})
    words.write_parquet(tmp_path / "content.parquet")
    job = job.model_copy(update={"content": str(tmp_path / "content.parquet")})
    request = TrainingRequest(job=job, compute=compute.model_copy(update={"strategy": strategy}))
    (tmp_path / "job.json").write_text(request.model_dump_json())
    (tmp_path / "train.py").write_text(TRAIN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "train.py"), str(tmp_path / "job.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["world_size"] == 2
    held = [json.loads((tmp_path / f"held_{rank}.json").read_text()) for rank in range(2)]
    table = [found["objective.taste.items.own.weight"] for found in held]
    of_content = [found["objective.taste.items.of_content.weight"] for found in held]
    block = [found["objective.taste.encoder.blocks.1.up.weight"] for found in held]
    share = 2 if strategy == "fsdp2" else 1
    for kind in ("weight", "moment"):
        assert [found[kind] for found in table] == [[[job.num_items, 16], [job.num_items // share, 16], "torch.float32"]] * 2
        assert [found[kind] for found in of_content] == [[[16, 8], [16 // share, 8], "torch.float32"]] * 2
        assert [found[kind] for found in block] == [[[64, 16], [64 // share, 16], "torch.float32"]] * 2
    for rank in range(2):
        blocks = json.loads((tmp_path / f"blocks_{rank}.json").read_text())
        assert blocks["steps"] > 3
        assert blocks["checkpoints"] == 2 * blocks["steps"], rank  # two blocks
        assert blocks["passes"] == ["torch.bfloat16"] * 2 * blocks["checkpoints"], rank  # each once forward and once more in the backward pass
    taste = read_snapshot(tmp_path, job.cutoffs[0].isoformat())
    assert taste.items.own.weight.shape == (job.num_items, 16)
    assert taste.items.content.shape == (job.num_items, 8)  # read again: it is in no snapshot


@pytest.mark.parametrize("kind", ["gpt", "gru"])
def test_computing_blocks_twice_changes_nothing(
    kind: str, pretrain_job: PretrainJob, compute: ComputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice: list[int] = []
    monkeypatch.setattr(pretraining, "checkpoint", lambda *given, **options: (twice.append(1), checkpoint(*given, **options))[1])
    encoder = pretrain_job.encoder.model_copy(update={"kind": kind, "dropout": 0.2, "num_blocks": 2})
    job = pretrain_job.model_copy(update={"cutoffs": pretrain_job.cutoffs[:1], "epochs": 0.5, "encoder": encoder})
    states = []
    for is_on in (False, True):
        folder = tmp_path / str(is_on)
        pretrain(job, compute.model_copy(update={"activation_checkpointing": is_on}), folder)
        states.append(load_file(folder / "snapshots" / f"{job.cutoffs[0]}.safetensors"))
        assert bool(twice) == is_on
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, msg=name)
