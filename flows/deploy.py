"""Deployments of one pipeline: variables from its parameter file, a work pool, then deployments/prefect.yaml as it stands."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import httpx

from contracts.config import PRESETS, PipelineConfig
from contracts.errors import PipelineError
from flows.local_installation import WORK_POOL, make_work_pool
from flows.schedules import season_rrule
from tasks.registry import local_tracking_uri
from tasks.store import CODE_ROOT, store_of

PREFECT_FILE = CODE_ROOT / "deployments" / "prefect.yaml"
IMAGE_FOLDER = "/app"  # where the image keeps the source


def variables(config: PipelineConfig, *, work_pool: str = WORK_POOL, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What deployments/prefect.yaml reads. MLflow's address comes from the parameters, else from MLFLOW_TRACKING_URI, else the local store."""
    storage_root = store_of(config).storage_root
    tracking_uri = config.registry.tracking_uri or environment.get("MLFLOW_TRACKING_URI") or local_tracking_uri(storage_root)
    placed = config.model_copy(update={"storage_root": storage_root, "registry": config.registry.model_copy(update={"tracking_uri": tracking_uri})})
    return {
        "perennial_parameters": own_values(placed),
        "perennial_season_rrule": season_rrule(config),
        "perennial_work_pool": work_pool,
        "perennial_code_folder": str(CODE_ROOT) if work_pool.endswith("process") else IMAGE_FOLDER,
        "perennial_model": config.registry.model_name,
        "perennial_storage_root": storage_root,
        "perennial_tracking_uri": tracking_uri,
    }


def own_values(config: PipelineConfig) -> dict[str, Any]:
    """What a configuration says beyond its preset and the defaults: another vertical chosen in the form then brings its own preset along."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    for section, preset in json.loads(json.dumps(PRESETS[config.vertical])).items():
        kept = {key: value for key, value in values.get(section, {}).items() if preset.get(key, ...) != value}
        defaults = type(getattr(config, section))().model_dump(mode="json")
        # a value of the preset that was set back to the default must be said
        kept |= {key: defaults[key] for key in preset if key not in values.get(section, {}) and preset[key] != defaults[key]}
        values = {**values, section: kept} if kept else {key: value for key, value in values.items() if key != section}
    return {"name": config.name, "vertical": config.vertical, **{key: value for key, value in values.items() if key not in ("name", "vertical")}}


def deploy(config: PipelineConfig, *, work_pool: str = WORK_POOL, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Set the variables, create the work pool, apply deployments/prefect.yaml; returns the names of the deployments.

    Raises PipelineError with what Prefect said where it refuses.
    """
    api = environment.get("PREFECT_API_URL")
    if not api:
        raise PipelineError("deploy: PREFECT_API_URL is not set. Deployments need a Prefect server: `perennial up` starts one and prints the setting.")
    for name, value in variables(config, work_pool=work_pool, environment=environment).items():
        _set_variable(api, name, value)
    make_work_pool({"PREFECT_API_URL": api}, work_pool)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_FILE)]
    done = subprocess.run(command, cwd=CODE_ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"prefect deploy: exit code {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    listed = (
        httpx.post(f"{api}/deployments/filter", json={"deployments": {"tags": {"all_": ["perennial"]}}, "limit": 100}, timeout=30).raise_for_status().json()
    )
    return sorted(found["name"] for found in listed)


def _set_variable(api: str, name: str, value: Any) -> None:
    answer = httpx.patch(f"{api}/variables/name/{name}", json={"value": value}, timeout=30)
    if answer.status_code == 404:
        answer = httpx.post(f"{api}/variables/", json={"name": name, "value": value, "tags": ["perennial"]}, timeout=30)
    if answer.is_error:
        raise PipelineError(f"variable {name}: Prefect answered {answer.status_code}: {answer.text[:300]}")
