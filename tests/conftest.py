"""What holds for every test: no telemetry, no store of this machine's user, one Prefect server for the tests that need one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

STORES = Path(tempfile.mkdtemp(prefix="perennial-tests-"))

# Set before any test imports Prefect or MLflow: both read their settings once.
for name in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(name, None)
os.environ.update(
    DO_NOT_TRACK="1",
    GX_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    MLFLOW_TRACKING_URI=f"sqlite:///{STORES / 'mlflow.sqlite'}",
    PREFECT_HOME=str(STORES / "prefect"),
    PREFECT_LOCAL_STORAGE_PATH=str(STORES / "results"),
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
    PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL",
)


def pytest_sessionfinish() -> None:
    shutil.rmtree(STORES, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """Address of a Prefect server over an empty store; flows and tasks of this process use it."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())
