"""Prefect's and MLflow's own pages over the stores of a run, on loopback."""

import os
import signal
import subprocess
import sys
from types import FrameType

from rich.console import Console

from contracts.config import PipelineConfig
from tasks.registry import local_tracking_uri, mlflow_folder
from tasks.store import store_of

LOOPBACK = "127.0.0.1"


def serve_pages(config: PipelineConfig, *, prefect_port: int, mlflow_port: int, console: Console) -> int:
    """Start both servers, print their addresses, and wait; ends both when one ends or a signal comes."""
    storage_root = store_of(config).storage_root
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PREFECT_UI_API_URL": f"http://{LOOPBACK}:{prefect_port}/api"}
    commands = {
        f"Prefect  http://{LOOPBACK}:{prefect_port}": [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(prefect_port)],
        f"MLflow   http://{LOOPBACK}:{mlflow_port}": [
            *(sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(mlflow_port), "--workers", "1"),
            *("--backend-store-uri", config.registry.tracking_uri or local_tracking_uri(storage_root)),
            *("--artifacts-destination", (mlflow_folder(storage_root) / "artifacts").as_uri()),
        ],
    }
    servers = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) for command in commands.values()]

    def stop(signum: int, frame: FrameType | None) -> None:
        for server in servers:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    for page in commands:
        console.print(page)
    console.print("Ctrl-C ends both.")
    try:
        os.wait()
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        stop(signal.SIGTERM, None)
    return max(abs(server.wait()) for server in servers) and 0
