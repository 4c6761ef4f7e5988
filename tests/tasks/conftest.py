"""A store and a registry of their own for the tests of steps."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from contracts.sections.evaluation import RegistryConfig
from tasks.registry import connect
from tasks.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(root=str(tmp_path / "stores" / "shop"))


@pytest.fixture(scope="session")
def registry_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite registry for all tests: making one takes seconds. Tests keep apart by the names of their models."""
    return str(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def client(registry_root: str) -> Iterator[MlflowClient]:
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    yield connect(RegistryConfig(), registry_root)
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])
