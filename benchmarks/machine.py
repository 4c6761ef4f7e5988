"""What every benchmark writes down beside its rows: when, where, which code, which command, and cells of what is finished.

A cell is a part of a benchmark that is measured once, in a file of its own: it names the commit that measured it and the seconds it took, whatever commit
collects it later.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NOT_SAID = ("--storage", "--threads")  # folders of a machine, and what figures do not depend on
COLLECTS = "--stored"  # of a command that was interrupted: what it had measured


def write_results(name: str, *, command: str, rows: Sequence[Mapping[str, object]], **about: object) -> Path:
    """Write benchmarks/results/NAME.json, replacing what stood there; `about` goes into its head (see `about_cells`)."""
    return _written(RESULTS / f"{name}.json", results_text(rows, command=command, **about))


def kept_cell(cell: Path, measure: Callable[[], Mapping[str, Any]], *, is_whole: Callable[[Mapping[str, Any]], bool] = lambda found: True) -> dict[str, Any]:
    """What a cell holds: read where it was measured before and `is_whole`, else what `measure` gives (`rows`, and what else is kept), written.

    Its head says `seconds`, by the wall clock; steps that an interrupted run had finished before cost nothing again.
    """
    if cell.exists() and is_whole(found := dict(json.loads(cell.read_text(encoding="utf-8")))):
        return found
    started = time.monotonic()
    made = dict(measure())
    rows = made.pop("rows")
    text = results_text(rows, seconds=round(time.monotonic() - started, 1), **made)
    _written(cell, text)
    return dict(json.loads(text))


def about_cells(cells: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the heads of cells say together: the commits that measured them, and the seconds they took where each of them says so."""
    heads = list(cells)
    seconds = [head.get("seconds") for head in heads]
    took = {"seconds": round(sum(seconds), 1)} if seconds and None not in seconds else {}
    return {"measured_by": sorted({head["git_sha"] for head in heads if "git_sha" in head}), **took}


def command_of(module: str) -> str:
    """The command that was typed, without folders of the machine, threads and whether it only collected: `python -m benchmarks.MODULE --quick`."""
    left_out = argparse.ArgumentParser(add_help=False)
    for flag in NOT_SAID:
        left_out.add_argument(flag)
    left_out.add_argument(COLLECTS, action="store_true")
    _, flags = left_out.parse_known_args(sys.argv[1:])
    return shlex.join(["python", "-m", f"benchmarks.{module}", *flags])


def results_text(rows: Sequence[Mapping[str, object]], **about: object) -> str:
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


def _written(path: Path, text: str) -> Path:
    """Written aside first: who is interrupted leaves no half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    return path


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
