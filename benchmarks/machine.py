"""What every benchmark writes down beside its rows: when, where, which code, which command."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def write_results(name: str, *, command: str, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write benchmarks/results/NAME.json, replacing what stood there."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    aside = path.with_suffix(".tmp")
    aside.write_text(results_text(rows, command=command), encoding="utf-8")
    aside.replace(path)
    return path


def results_text(rows: Sequence[Mapping[str, object]], **about: str) -> str:
    """Rows as JSON, one a line, under when, where and by what code they were measured."""
    head = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "git_sha": git_sha(), "machine": describe_machine(), **about}
    return f'{json.dumps(head)[:-1]}, "rows": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]}\n"


def describe_machine() -> str:
    """Processor, cores, memory, system and Python in one line; no name of the machine."""
    cpu = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next((int(line.split()[1]) / 2**20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0.0)
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def git_sha() -> str:
    """Commit of the code, with `+` where the work tree differs from it."""
    sha = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    changed = subprocess.run(["git", "status", "--porcelain", "--", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return sha + ("+" if changed else "")


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
