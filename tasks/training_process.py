"""Starts a training process, shows its log, passes cancellation on, and reads what it left. Knows nothing of the flow around it.

The child runs in a process group of its own, so that a signal to the group reaches every rank and none is left behind.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ValidationError

from contracts.artifacts import JobResult
from contracts.errors import TrainingFailedError
from contracts.sections.training import ComputeConfig
from lightning_modules.jobs import TrainingRequest

MODULE = "lightning_modules.train"
SECONDS_TO_END = 25.0
LAST_LINES = 30
RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_USE_AGENT_STORE",
)


class DigestedJob(Protocol):
    """A job of `lightning_modules.jobs`."""

    def digest(self) -> str:
        """Digest of the work."""
        ...


def run_training(job: DigestedJob, folder: Path, compute: ComputeConfig, on_line: Callable[[str], None]) -> JobResult:
    """Run a job in `folder` in a process of its own and return its result.

    A folder that holds the result of the same job is not trained again; one that holds a checkpoint of it goes on from there.
    `on_line` gets every line of the log; lines `progress <stage> <fraction> <text>` can be shown as a bar.
    An exception while waiting (a cancelled flow) ends the child: SIGTERM, then SIGKILL after 25 seconds.

    Raises TrainingFailedError with the exit code and the last lines.
    """
    done = finished_result(folder, job.digest())
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    request = TrainingRequest.model_validate({"job": job, "compute": compute})
    _start_over_if_changed(folder, request)
    (folder / "job.json").write_text(request.model_dump_json(indent=1), encoding="utf-8")
    lines: deque[str] = deque(maxlen=LAST_LINES)
    exit_code = _run(training_command(folder / "job.json", compute), training_environment(os.environ, compute), on_line, lines)
    result = finished_result(folder, job.digest())
    if exit_code or result is None:
        reason = f"exit code {exit_code}" if exit_code else "it ended well but left no result.json of this job"
        raise TrainingFailedError(
            f"training: {reason}. Job: {folder / 'job.json'}. Run `python -m {MODULE} {folder / 'job.json'}` to see it alone. Last lines:\n" + "\n".join(lines),
            exit_code=exit_code,
            last_lines=list(lines),
        )
    return result


def finished_result(folder: Path, digest: str) -> JobResult | None:
    """Result in `folder`, where it is of the job with this digest."""
    try:
        result = JobResult.model_validate_json((folder / "result.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None
    return result if result.job_digest == digest else None


def training_command(job: Path, compute: ComputeConfig) -> list[str]:
    """Command of the child: the module alone, or under torchrun for several processes; nodes meet at MASTER_ADDR:MASTER_PORT."""
    if compute.devices == 1 and compute.num_nodes == 1:
        return [sys.executable, "-u", "-m", MODULE, str(job)]
    launcher = [sys.executable, "-u", "-m", "torch.distributed.run", f"--nproc-per-node={compute.devices}", "--max-restarts=0"]
    if compute.num_nodes == 1:
        return [*launcher, "--standalone", "-m", MODULE, str(job)]
    meeting = f"{os.environ.get('MASTER_ADDR', '127.0.0.1')}:{os.environ.get('MASTER_PORT', '29500')}"
    return [
        *launcher,
        f"--nnodes={compute.num_nodes}",
        f"--node-rank={os.environ.get('NODE_RANK', '0')}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={meeting}",
        "-m",
        MODULE,
        str(job),
    ]


def training_environment(environment: Mapping[str, str], compute: ComputeConfig) -> dict[str, str]:
    """Environment of the child: no rank of any process around this one, threads as configured, this source on the path."""
    kept = {name: value for name, value in environment.items() if name not in RANK_VARIABLES}
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
    return {**kept, "OMP_NUM_THREADS": str(compute.threads), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _run(command: list[str], environment: Mapping[str, str], on_line: Callable[[str], None], lines: deque[str]) -> int:
    child = subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            lines.append(line.rstrip())
            on_line(lines[-1])
        return child.wait()
    except BaseException:
        _end(child)
        raise
    finally:
        child.stdout.close()


def _end(child: subprocess.Popen[str]) -> None:
    """SIGTERM to the child's group, so that every rank leaves a checkpoint; SIGKILL to what is still there after 25 seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(SECONDS_TO_END)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _start_over_if_changed(folder: Path, request: BaseModel) -> None:
    """A checkpoint of another job is of no use to this one: leave only what any job may read."""
    path = folder / "job.json"
    if not path.exists():
        return
    try:
        before = TrainingRequest.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError:
        before = None
    if before is None or before.job != request.job:  # type: ignore[attr-defined]
        for left in folder.rglob("last.ckpt"):
            left.unlink()
        (folder / "events" / "offsets.npy").unlink(missing_ok=True)
