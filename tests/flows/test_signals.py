"""A run that is asked to end takes along what it started: Prefect's temporary server and a training process."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

ROOT = Path(__file__).parents[2]
TINY = ROOT / "deployments" / "parameters" / "tiny.yaml"
SERVER, TRAINING = "prefect.server.api.server", "lightning_modules.train"
SECONDS_TO_START, SECONDS_TO_END = 150.0, 60.0


def processes_below(pid: int) -> dict[int, str]:
    """Process id -> command of all that this process started, directly or not."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    rows = [(int(own), int(parent), command) for own, parent, command in (line.split(None, 2) for line in listed)]
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        children = {own: command for own, of, command in rows if of == parent}
        found |= children
        waiting += children
    return found


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return False


@pytest.mark.parametrize(
    ("number", "started", "exit_code"),
    [(signal.SIGTERM, TRAINING, 143), (signal.SIGINT, SERVER, 130)],
    ids=str,
)
def test_nothing_is_left_behind(tmp_path: Path, number: signal.Signals, started: str, exit_code: int):
    parameters = tmp_path / "tiny.yaml"
    parameters.write_text(TINY.read_text(encoding="utf-8") + f"\nstorage_root: {tmp_path / 'stores'}\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    command = [sys.executable, "-m", "flows.command_line", "run", str(parameters)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background with Ctrl-C ignored, and children inherit that
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    below: dict[int, str] = {}
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not any(started in command for command in below.values()):
            assert run.poll() is None, run.communicate()[1]
            assert time.monotonic() < deadline, below
            time.sleep(0.3)
            below |= processes_below(run.pid)
        assert any(SERVER in command for command in below.values())
        time.sleep(1.0)
        run.send_signal(number)
        assert run.wait(SECONDS_TO_END) == exit_code
        time.sleep(0.5)
        assert [command for pid, command in below.items() if is_running(pid)] == []
    finally:
        for pid in (run.pid, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.wait()
        if run.stderr:
            run.stderr.close()
