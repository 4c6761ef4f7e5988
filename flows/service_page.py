"""The recommendation service and its page over the stores of a run, on loopback (docs/serving.md)."""

import os
from pathlib import Path

from rich.console import Console

from contracts.config import PipelineConfig
from contracts.errors import BundleError
from tasks.registry import CHAMPION, bundle_of_version, connect, local_tracking_uri, version_at
from tasks.store import store_of

LOOPBACK = "127.0.0.1"


def service_settings(config: PipelineConfig) -> dict[str, str]:
    """Settings of the service for a configuration's champion, as PERENNIAL_* variables; users may be browsed, since this is one's own machine.

    Where no version was promoted yet, the newest registered one is served as a plain bundle. Raises BundleError where there is none.
    """
    store, registry = store_of(config), config.registry
    client = connect(registry, store.storage_root)
    folder = Path(store.storage_root).resolve() / "serving"
    settings = {"cache": str(folder / "cache"), "log_folder": str(folder / "log"), "browse_users": "true"}
    if version_at(client, registry.model_name, CHAMPION) is not None:
        settings |= {"tracking_uri": registry.tracking_uri or local_tracking_uri(store.storage_root), "model_name": registry.model_name}
    else:
        numbers = [int(found.version) for found in client.search_model_versions(f"name = '{registry.model_name}'")]
        if not numbers:
            raise BundleError(f"{registry.model_name}: nothing is registered yet. Run the pipeline first: `perennial run`, or `make demo` for the demo.")
        settings["bundle"] = str(bundle_of_version(registry, store.storage_root, str(max(numbers))))
    return {f"PERENNIAL_{name.upper()}": value for name, value in settings.items()}


def serve_page(config: PipelineConfig, *, port: int, console: Console) -> None:
    """Serve until told to stop. A PERENNIAL_* variable that is set already is left alone."""
    settings = service_settings(config)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if "PERENNIAL_BUNDLE" in settings:
        console.print("no champion yet: the newest registered version is served; a later promotion shows after a restart", style="yellow")
    console.print(f"page  http://{LOOPBACK}:{port}/\nAPI   http://{LOOPBACK}:{port}/docs\nCtrl-C ends it.")
    from serving.__main__ import serve

    serve(host=LOOPBACK, port=port)
