"""Progress of a long step: a bar on the terminal and a progress artifact in Prefect's UI."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from tqdm import tqdm

UPDATE_EVERY_SECONDS = 2.0

Progress = Callable[[float, str], None]


@contextmanager
def progress_of(step: str) -> Iterator[Progress]:
    """Yield `report(fraction, text)`; fractions run from 0 to 1. Prefect is told at most every two seconds."""
    artifact = create_progress_artifact(0.0, key=f"{step.replace('_', '-')}-progress", description=step) if TaskRunContext.get() else None
    bar = tqdm(
        total=100, desc=f"{step:>15}", bar_format="{desc} |{bar:30}| {n:3.0f} % {elapsed} {postfix}", file=sys.stderr, mininterval=0.5, dynamic_ncols=True
    )
    last_told = 0.0

    def report(fraction: float, text: str = "") -> None:
        nonlocal last_told
        percent = min(max(fraction, 0.0), 1.0) * 100
        bar.set_postfix_str(text[:60], refresh=False)
        bar.update(percent - bar.n)
        if artifact and time.monotonic() - last_told > UPDATE_EVERY_SECONDS:
            update_progress_artifact(artifact, percent)
            last_told = time.monotonic()

    try:
        yield report
        report(1.0)
        if artifact:
            update_progress_artifact(artifact, 100.0)
    finally:
        bar.close()


def progress_lines(report: Progress, log: Callable[[str], None]) -> Callable[[str], None]:
    """Reader of a training process' lines: `progress <stage> <fraction> <text>` moves the bar, everything else goes to the log."""

    def read(line: str) -> None:
        words = line.split(" ", 3)
        if len(words) >= 3 and words[0] == "progress":
            report(float(words[2]), words[3] if len(words) > 3 else "")
        elif line.strip():
            log(line)

    return read
