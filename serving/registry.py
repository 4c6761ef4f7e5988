"""The one place of serving that speaks to MLflow: which version an alias points at, and its bundle on this machine."""

import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from contracts.errors import BundleError, TransientError
from serving.bundle import MANIFEST, read_bundle
from serving.recommender import Recommender

COMPLETE: Final = "complete"
DERIVED: Final = re.compile(r"(?:linear|year)-(?P<digest>[0-9a-f]+)(?:-\d+)?\.npy")
YOUNG_SECONDS: Final = 600
NOT_FOUND: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


@dataclass(frozen=True)
class Version:
    """A registered version an alias points at."""

    name: str
    number: str
    alias: str


class ModelRegistry:
    """Registered versions of one model, with a cache of their bundles in a folder. Pickle stays off.

    A service asks every few seconds anyway and goes on with what it has: MLflow's client gives up soon, in the whole process. `is_patient`: it keeps
    MLflow's own retries and time limits, as a flow that uploads models does.
    """

    def __init__(self, tracking_uri: str, model_name: str, cache: Path, *, is_patient: bool = False) -> None:
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
        if not is_patient:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self.model_name = model_name
        self._uri = tracking_uri
        self._client: MlflowClient | None = None
        self._cache = cache

    def version_at(self, alias: str) -> Version | None:
        """Version at an alias, None where the alias or the model does not exist. Raises TransientError when MLflow does not answer."""
        with _faults():
            try:
                found = self._connected().get_model_version_by_alias(self.model_name, alias)
            except MlflowException as error:
                if error.error_code in NOT_FOUND:
                    return None
                raise
        return Version(self.model_name, str(found.version), alias)

    def number_at(self, alias: str) -> str | None:
        """Number of the version at an alias, None where there is none."""
        found = self.version_at(alias)
        return None if found is None else found.number

    def bundle_folder(self, number: str) -> Path:
        """Bundle of a version; downloaded once and checked, afterwards read from the cache without MLflow."""
        folder = self._cache / f"{self.model_name}-{number}"
        if not (folder / COMPLETE).exists():
            with _faults():
                source = self._connected().get_model_version_download_uri(self.model_name, number)
                mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(_made(folder)), tracking_uri=self._uri)
            read_bundle(_bundle_below(folder))
            (folder / COMPLETE).touch()
        return _bundle_below(folder)

    def load(self, number: str, *, threads: int = 1) -> Recommender:
        """Recommender of a version. Raises BundleError where it cannot be served."""
        return Recommender.load(self.bundle_folder(number), version=number, threads=threads)

    def load_at(self, alias: str, *, threads: int = 1) -> Recommender:
        """Recommender at `models:/name@alias`. Raises BundleError where the alias points at nothing."""
        version = self.version_at(alias)
        if version is None:
            raise BundleError(f"models:/{self.model_name}@{alias}: no such alias at {self._uri}. Register a version and promote it first.")
        return self.load(version.number, threads=threads)

    def cached_versions(self) -> list[str]:
        """Versions whose bundle lies complete in the cache, the latest fetched first."""
        marks = sorted(self._cache.glob(f"{self.model_name}-*/{COMPLETE}"), key=lambda mark: mark.stat().st_mtime, reverse=True)
        return [number for mark in marks if (number := mark.parent.name.removeprefix(f"{self.model_name}-")).isdigit()]  # not those of `name-other`

    def keep_only(self, numbers: Collection[str], *, now: float | None = None) -> list[str]:
        """Take other versions of this model off the cache, and what was computed for bundles that are no longer there; gives the versions that went.

        A version that was fetched within the last ten minutes, or is being fetched, stays: another process on the same cache may be about to load it.
        The mark of a complete version goes first, so a removal that is cut short leaves what is fetched again, never half a version that looks whole.
        """
        oldest = (time.time() if now is None else now) - YOUNG_SECONDS
        gone = []
        for folder in self._cache.glob(f"{self.model_name}-*"):
            number = folder.name.removeprefix(f"{self.model_name}-")
            if not number.isdigit() or number in numbers or max(_modified(folder), _modified(folder / COMPLETE)) > oldest:
                continue
            (folder / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(number)
        if gone:
            kept = {read_bundle(_bundle_below(mark.parent), verify=False).digest for mark in self._cache.glob(f"*/{COMPLETE}")}
            for path in self._cache.glob("*.npy"):
                named = DERIVED.fullmatch(path.name)
                if named and named["digest"] not in kept and _modified(path) <= oldest:
                    path.unlink(missing_ok=True)
        return gone

    def _connected(self) -> MlflowClient:
        if self._client is None:
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        return self._client


@contextmanager
def _faults() -> Iterator[None]:
    """Faults that may pass by themselves become TransientError."""
    try:
        yield
    except (requests.ConnectionError, requests.Timeout, OperationalError) as error:
        raise TransientError(f"MLflow does not answer: {error}. The service goes on with the version it has.", step="serve") from error
    except MlflowException as error:
        if any(sign in str(error) for sign in ("Max retries exceeded", "API request", "database is locked", "unable to open database")):
            raise TransientError(f"MLflow does not answer: {error}. The service goes on with the version it has.", step="serve") from error
        raise


def _modified(path: Path) -> float:
    """Time a file was last written; never, where another process took it away."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("-inf")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _bundle_below(folder: Path) -> Path:
    found = sorted(folder.rglob(MANIFEST))
    if not found:
        raise BundleError(f"{folder}: the registered version holds no {MANIFEST}. It was not logged with `serving.pyfunc_model`; register it again.")
    return found[0].parent
