"""A disk that fills up under a write, on a real file system of one megabyte: the old file stays whole, no torn one appears, room is given back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
