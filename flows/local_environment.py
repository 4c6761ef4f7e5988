"""Settings of a run on one machine: stores below the storage root, patience for the first start, no telemetry.

Read before Prefect is imported. A variable that is already set is left alone, so a server, a worker or a person decides.
"""

import os
from pathlib import Path


def use_local_stores(storage_root: str, *, verbose: bool = False) -> None:
    """Point Prefect at a home below `storage_root` unless a server is configured."""
    if "PREFECT_API_URL" not in os.environ:
        home = Path(storage_root).resolve() / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("PREFECT_HOME", str(home))
    for name, value in {
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if verbose else "CRITICAL",  # the command says in words what failed
        "PREFECT_LOCAL_STORAGE_PATH": str(Path(storage_root).resolve() / "results"),
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "OMP_NUM_THREADS": str(min(os.cpu_count() or 1, 2)),
    }.items():
        os.environ.setdefault(name, value)
