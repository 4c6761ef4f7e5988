"""Prefect's and MLflow's own pages over the stores of a run, on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from rich.console import Console

from contracts.config import PipelineConfig
from flows.local_environment import ENDING_SIGNALS, Terminated, orderly_end
from tasks.registry import local_tracking_uri, mlflow_folder
from tasks.store import store_of

LOOPBACK = "127.0.0.1"
SECONDS_TO_START, SECONDS_TO_END = 120.0, 15.0
LOG_NAME = "web_pages.log"


def serve_pages(config: PipelineConfig, *, prefect_port: int, mlflow_port: int, console: Console) -> int:
    """Start both servers, print their addresses when they answer, and wait; both end when one ends or a signal comes.

    Returns the exit code of the command: 0 after Ctrl-C or a request to end, 1 where a server could not start or ended by itself; what they
    said is in a file below the storage root.
    """
    storage_root = store_of(config).storage_root
    ports = {"Prefect": prefect_port, "MLflow": mlflow_port}
    taken = [f"{name} {port}" for name, port in ports.items() if _is_answering(port)]
    if taken:
        console.print(f"port already in use: {', '.join(taken)}; choose others with --prefect-port and --mlflow-port", style="red")
        return 1
    log = Path(storage_root) / LOG_NAME
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with orderly_end(), log.open("wb") as said:
            servers = {name: _start(command, prefect_port, said) for name, command in _commands(config, storage_root, prefect_port, mlflow_port).items()}
            console.print("starting the pages of Prefect and MLflow ...")
            ended = _wait_for_answers(servers, ports)
            if ended is None:
                for name, port in ports.items():
                    console.print(f"{name:<8} http://{LOOPBACK}:{port}")
                console.print("Ctrl-C ends both.")
                ended = _wait_for_an_end(servers)
        console.print(f"the server of {ended} ended by itself or did not answer; what it said: {log}", style="red", soft_wrap=True)
        return 1
    except (KeyboardInterrupt, Terminated):
        return 0
    finally:
        _end(servers)


def _commands(config: PipelineConfig, storage_root: str, prefect_port: int, mlflow_port: int) -> dict[str, list[str]]:
    return {
        "Prefect": [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(prefect_port)],
        "MLflow": [
            *(sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(mlflow_port), "--workers", "1"),
            *("--backend-store-uri", config.registry.tracking_uri or local_tracking_uri(storage_root)),
            *("--artifacts-destination", (mlflow_folder(storage_root) / "artifacts").as_uri()),
        ],
    }


def _start(command: list[str], prefect_port: int, said: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PREFECT_UI_API_URL": f"http://{LOOPBACK}:{prefect_port}/api"}
    return subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)


def _is_answering(port: int) -> bool:
    with socket.socket() as line:
        line.settimeout(0.5)
        return line.connect_ex((LOOPBACK, port)) == 0


def _wait_for_answers(servers: dict[str, subprocess.Popen[bytes]], ports: dict[str, int]) -> str | None:
    """None when all answer; else the name of a server that ended or stayed silent."""
    deadline = time.monotonic() + SECONDS_TO_START
    while silent := [name for name in servers if not _is_answering(ports[name])]:
        ended = [name for name, server in servers.items() if server.poll() is not None]
        if ended or time.monotonic() > deadline:
            return (ended or silent)[0]
        time.sleep(0.2)
    return None


def _wait_for_an_end(servers: dict[str, subprocess.Popen[bytes]]) -> str:
    while not (ended := [name for name, server in servers.items() if server.poll() is not None]):
        time.sleep(0.5)
    return ended[0]


def _end(servers: dict[str, subprocess.Popen[bytes]]) -> None:
    """SIGTERM to each server and all it started; SIGKILL to what is still there later."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING_SIGNALS}
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for server in servers.values():
            if server.poll() is None:
                os.killpg(server.pid, sent)
        deadline = time.monotonic() + SECONDS_TO_END
        while any(server.poll() is None for server in servers.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
    for number, handler in before.items():
        signal.signal(number, handler)
