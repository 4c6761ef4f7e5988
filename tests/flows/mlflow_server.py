"""A real MLflow server that a test may kill and start again: SQLite and a folder of artifacts that outlive it, loopback only."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from mlflow import MlflowClient

from flows.local_installation import QUIET, free_ports

SECONDS_TO_START = 90.0
SOURCE = "s3://nowhere/made"  # a server takes no local folders


class ClientOfServer(MlflowClient):
    """A client whose made versions have no files."""

    def create_model_version(self, name: str, source: str, *given: Any, **named: Any) -> Any:
        return super().create_model_version(name, SOURCE, *given, **named)


def client_of(uri: str) -> MlflowClient:
    return ClientOfServer(tracking_uri=uri, registry_uri=uri)


@dataclass
class MlflowServer:
    """One server over the stores of a folder."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def over(cls, folder: Path) -> "MlflowServer":
        """A server over this folder, started."""
        server = cls(folder, free_ports().mlflow)
        server.start()
        return server

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.sqlite'}", "--artifacts-destination", (self.folder / "artifacts").as_uri()),
        ]
        environment = {**os.environ, **QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + SECONDS_TO_START
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "mlflow.log").read_text(encoding="utf-8")[-3000:]
            assert time.monotonic() < deadline, "MLflow did not come up"
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it takes requests."""
        try:
            return httpx.get(f"{self.uri}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End it as a power cut does: SIGKILL to the server and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
