"""The demo as a new user meets it: time and memory of a first and a second run, and what it prints. `python -m benchmarks.demo`.

Writes benchmarks/results/demo.json: rows of seconds and peak memory (proportional set size of the whole process tree), the figures of its evaluation, and
the last lines it printed, which the README shows.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import ROOT, write_results

KIB_PER_GIB = 2**20
DATASET = "complete_journey"


def main() -> None:
    perennial = Path(sys.executable).with_name("perennial")
    with tempfile.TemporaryDirectory() as folder:
        rows, printed = [], ""
        for run in ("first run", "second run, nothing changed"):
            seconds, gib, printed_now = measured([str(perennial), "demo"], Path(folder))
            printed = printed or printed_now
            rows += [
                {"dataset": DATASET, "model": "perennial", "metric": f"seconds, {run}", "value": round(seconds, 1), "n": 1},
                {"dataset": DATASET, "model": "perennial", "metric": f"peak GiB, {run}", "value": round(gib, 2), "n": 1},
            ]
            print(f"{run}: {seconds:.0f} s, {gib:.2f} GiB", flush=True)
        rows += figures(Path(folder))
    write_results(
        "demo", command="python -m benchmarks.demo", rows=[*rows, {"dataset": DATASET, "model": "perennial", "metric": "printed", "value": printed, "n": 1}]
    )


def measured(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Seconds, peak GiB of the process tree, and standard output of a command run in `folder`. Raises where it fails."""
    environment = {**os.environ, "COLUMNS": "150"}
    started, peak = time.monotonic(), 0
    with (folder / "printed.txt").open("w+", encoding="utf-8") as output, (folder / "errors.txt").open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=errors, text=True)
        while process.poll() is None:
            peak = max(peak, tree_kib(process.pid))
            time.sleep(1)
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {(folder / 'errors.txt').read_text(encoding='utf-8')[-2000:]}")
    return time.monotonic() - started, peak / KIB_PER_GIB, printed


def tree_kib(root: int) -> int:
    """Proportional set size of a process and all below it, KiB; shared pages are counted once over the tree."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
    total = 0
    for pid in parents:
        ancestor = pid
        while ancestor not in (0, 1, root):
            ancestor = parents.get(ancestor, 0)
        if ancestor == root:
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except (OSError, StopIteration):
                continue
    return total


def figures(folder: Path) -> list[dict[str, object]]:
    """Rows of the evaluation the run stored, and its gains over the baselines."""
    sys.path.insert(0, str(ROOT))
    from evaluation.results import EvaluationResult

    path = max((folder / ".perennial" / DATASET / "steps" / "evaluate").glob("*/evaluation.json"), key=lambda found: found.stat().st_mtime)
    result = EvaluationResult.model_validate_json(path.read_text(encoding="utf-8"))
    gains = [
        {**row.model_dump(), "dataset": DATASET, "metric": f"gain of {row.metric}", "origin": "all"} for row in result.comparisons if row.metric == "ndcg@10"
    ]
    return [*(row.model_dump() for row in result.rows), *gains]


if __name__ == "__main__":
    main()
