"""One real installation on free ports: PostgreSQL, Prefect with a worker, MLflow with passwords, the bridge; a small pipeline deployed."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.config import PipelineConfig
from flows.local_installation import Installation, free_ports, start, stop
from tasks.store import CODE_ROOT
from tests.flows.micro import MICRO


@dataclass(frozen=True)
class Running:
    """The installation, the pipeline on it, and how to ask its servers."""

    installation: Installation
    config: PipelineConfig

    def prefect(self, method: str, path: str, body: Any = None, *, fails: bool = False) -> Any:
        answer = httpx.request(method, f"{self.installation.prefect_api_url}/{path}", json=body, timeout=30)
        if fails:
            return answer
        return answer.raise_for_status().json() if answer.content else None

    def mlflow(self, method: str, path: str, body: Any = None) -> Any:
        asked = {"params": body} if method == "GET" else {"json": body}
        answer = httpx.request(
            method, f"{self.installation.mlflow_url}/api/2.0/mlflow/{path}", auth=("admin", self.installation.mlflow_password), timeout=60, **asked
        )
        return answer.json() if answer.status_code in (200, 404, 400) else answer.raise_for_status()

    def deployment(self, name: str) -> dict[str, Any]:
        return next(found for found in self.prefect("POST", "deployments/filter", {}) if found["name"] == name)

    def begin(self, name: str, parameters: dict[str, Any] | None = None) -> str:
        return str(self.prefect("POST", f"deployments/{self.deployment(name)['id']}/create_flow_run", {"parameters": parameters or {}})["id"])

    def run(self, name: str, parameters: dict[str, Any] | None = None, *, seconds: float = 240) -> str:
        """Start a deployment and wait; the state it ended in."""
        return self.ended(self.begin(name, parameters), seconds=seconds)

    def ended(self, flow_run: str, *, seconds: float = 240) -> str:
        final = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
        return str(wait_for(lambda: (found := self.prefect("GET", f"flow_runs/{flow_run}"))["state_type"] in final and found, seconds)["state_type"])

    def errors_of(self, flow_run: str) -> str:
        """What a run logged as errors, for the message of a test that did not expect any."""
        found = self.prefect("POST", "logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run]}, "level": {"ge_": 40}}})
        return "\n".join(log["message"][-2_000:] for log in found)

    def steps(self, flow_run: str) -> dict[str, str]:
        found = self.prefect("POST", "task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
        return {step["name"].rsplit("-", 1)[0]: step["state_name"] for step in found}

    def runs_of(self, flow: str) -> list[dict[str, Any]]:
        found = self.prefect("POST", "flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})
        return [run for run in found if not run["auto_scheduled"]]

    def champion(self, model: str | None = None, *, alias: str = "champion") -> str | None:
        found = self.mlflow("GET", "registered-models/alias", {"name": model or self.config.registry.model_name, "alias": alias})
        return found["model_version"]["version"] if "model_version" in found else None

    def set_tag(self, model: str, version: str, key: str, value: str) -> None:
        """As MLflow's page does it."""
        assert self.mlflow("POST", "model-versions/set-tag", {"name": model, "version": version, "key": key, "value": value}) == {}

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`perennial` as a person with the installation's environment calls it."""
        environment = {**os.environ, **self.installation.client_environment(), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "flows.command_line", *words], capture_output=True, text=True, check=False, env=environment, cwd=self.installation.folder
        )


def wait_for(asked: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := asked()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Started once; pytest's own folders are closed to the user PostgreSQL runs as, hence one beside them."""
    if not (shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))):
        pytest.skip("PostgreSQL is not installed")
    import yaml

    from flows.deploy import deploy

    folder = Path(tempfile.mkdtemp(prefix="perennial-installation-"))
    folder.chmod(0o755)
    installation = Installation.at(folder, free_ports())
    parameters = folder / "micro.yaml"
    parameters.write_text(yaml.safe_dump({**MICRO, "storage_root": str(folder / "stores")}), encoding="utf-8")
    config = PipelineConfig.from_yaml(parameters)
    try:
        start(installation, lambda _: None)
        deploy(config, environment={**installation.client_environment(), "PYTHONPATH": str(CODE_ROOT)})
        yield Running(installation, config)
    finally:
        stop(folder, lambda _: None)
        shutil.rmtree(folder, ignore_errors=True)
