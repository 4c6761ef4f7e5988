"""`perennial ui` as a process: both pages answer, nothing is left when it ends, and a port that is taken is told."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.flows.test_signals import ROOT, is_running, processes_below

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

SECONDS_TO_END = 40.0


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


def answer(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as page:
        return str(page.read(2000), "utf-8", "replace")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    parameters = tmp_path / "mine.yaml"
    parameters.write_text(f"name: mine\nstorage_root: {tmp_path}/stores\nsource: {{dataset: synthetic}}\n", encoding="utf-8")
    return [sys.executable, "-m", "flows.command_line", "ui", str(parameters)]


def test_both_pages_answer_and_end_together(command: list[str], tmp_path: Path):
    ports = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    asked = [*command, "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    pages = subprocess.Popen(asked, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    below: dict[int, str] = {}
    try:
        assert pages.stdout is not None
        said = ""
        while "Ctrl-C ends both." not in said:
            line = pages.stdout.readline()
            assert line, said
            said += line
        assert [f"http://127.0.0.1:{port}" in said for port in ports] == [True, True]
        assert "<title>Prefect" in answer(f"http://127.0.0.1:{ports[0]}/")
        assert "<title>MLflow" in answer(f"http://127.0.0.1:{ports[1]}/")
        below = processes_below(pages.pid)
        assert len(below) >= 2
        pages.send_signal(signal.SIGTERM)
        assert pages.wait(SECONDS_TO_END) == 0
        time.sleep(0.5)
        assert [asked for pid, asked in below.items() if is_running(pid)] == []
    finally:
        for pid in (pages.pid, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pages.communicate()


def test_port_that_is_taken_ends_with_1_and_says_which(command: list[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = subprocess.run(
            [*command, "--mlflow-port", str(port), "--prefect-port", str(free_port())], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert shown.returncode == 1
    assert f"port already in use: MLflow {port}" in " ".join((shown.stdout + shown.stderr).split())
