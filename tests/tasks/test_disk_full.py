"""A disk that fills up under a write, on a real file system of a few megabytes: the old file stays whole, no torn one appears, room is given back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contracts.sections.training import ComputeConfig, EncoderConfig
from lightning_modules.jobs import PretrainJob, TrainingRequest
from tasks.training_process import finished_result

ROOT = Path(__file__).parents[2]
WRITERS = {
    "table": "write_table(pl.DataFrame({'a': np.random.default_rng(1).random(400_000)}), folder / 'kept.parquet', 'kept')",
    "lazy table": "write_table(pl.DataFrame({'a': np.random.default_rng(1).random(400_000)}).lazy(), folder / 'kept.parquet', 'kept')",
    "text": "write_text('x' * 3_000_000, folder / 'kept.txt')",
}
BEFORE = {
    "table": "write_table(pl.DataFrame({'a': [1, 2]}), folder / 'kept.parquet', 'kept')",
    "lazy table": "write_table(pl.DataFrame({'a': [1, 2]}), folder / 'kept.parquet', 'kept')",
    "text": "write_text('whole', folder / 'kept.txt')",
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    head = f"from pathlib import Path\nimport numpy as np, polars as pl\nfrom tasks.store import write_table, write_text\nfolder = Path({str(folder)!r})\n"
    return subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_file_is_old_and_whole_or_new_and_whole(small_disk: Path, kind: str):
    assert run(small_disk, BEFORE[kind]).returncode == 0
    (kept,) = small_disk.iterdir()
    before = kept.read_bytes()
    done = run(small_disk, WRITERS[kind])
    assert done.returncode != 0
    assert "No space left" in done.stderr
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == {kept.name: before}
    assert run(small_disk, BEFORE[kind]).returncode == 0


def training(folder: Path) -> PretrainJob:
    """A pre-training over made events; its folder is `folder`. One checkpoint is about 4 MB, most of it the rows of 20,000 items and their moments."""
    random = np.random.default_rng(1)
    events = folder.parent / "events.parquet"
    columns = {
        "user_id": np.sort(random.integers(0, 60, 3_000)).astype(str),
        "item_index": random.integers(0, 20_000, 3_000, dtype=np.int32),
        "event_day": random.integers(19_000, 19_300, 3_000, dtype=np.int32),
    }
    pl.DataFrame(columns).with_columns(event_type=pl.lit("purchase")).sort("user_id", "event_day", maintain_order=True).write_parquet(events)
    job = PretrainJob(
        inputs_digest="disk full",
        events=str(events),
        num_items=20_000,
        event_types=("purchase",),
        cutoffs=(date(2022, 10, 1),),
        encoder=EncoderConfig(width=16, num_blocks=1, num_heads=2, max_history=16),
        batch_events=256,
        num_negatives=32,
        held_out_days=0,
    )
    request = TrainingRequest(job=job, compute=ComputeConfig(threads=1, checkpoint_every_steps=3))
    (folder / "job.json").write_text(request.model_dump_json(), encoding="utf-8")
    return job


def train(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightning_modules.train", str(folder / "job.json")]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.slow
def test_checkpoint_is_old_and_whole_and_the_training_goes_on_from_it_when_there_is_room(small_disk: Path):
    import torch

    subprocess.run(["mount", "-o", "remount,size=6m", str(small_disk)], check=True)
    job = training(small_disk)
    failed = train(small_disk)
    assert failed.returncode != 0
    assert "not written whole, removed; the checkpoint before stays" in failed.stderr
    assert not list(small_disk.rglob("*.part"))
    kept = torch.load(small_disk / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 3
    assert finished_result(small_disk, job.digest()) is None
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    done = train(small_disk)
    assert done.returncode == 0, done.stdout + done.stderr
    assert finished_result(small_disk, job.digest()) is not None
    assert sorted(path.name for path in (small_disk / "snapshots").iterdir()) == ["2022-10-01.safetensors"]
