"""One small shop for all tests of the service, and a running application around it."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serving.recommender import Recommender
from serving.service import create_app
from serving.settings import ServiceSettings
from tests.serving.small_shop import write_shop

NOW = datetime(2024, 7, 4, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="session")
def shop_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def shop(shop_bundle: Path) -> Recommender:
    return Recommender.load(shop_bundle, version="bundle")


@pytest.fixture
def settings(shop_bundle: Path, tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(bundle=shop_bundle, cache=tmp_path / "cache", log_folder=tmp_path / "log", browse_users=True, warm_year=False)


@pytest.fixture(scope="module")
def client(shop_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A ready service on the fourth of July 2024, three days after the cut-off."""
    folder = tmp_path_factory.mktemp("service")
    settings = ServiceSettings(bundle=shop_bundle, cache=folder / "cache", log_folder=folder / "log", browse_users=True, warm_year=False)
    with TestClient(create_app(settings, now=lambda: NOW, seed=0)) as found:
        wait_until_ready(found)
        yield found


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Redis server over an empty store."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder: Path = tmp_path_factory.mktemp("redis")
    with subprocess.Popen([server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)], stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
        process.terminate()


def wait_until_ready(client: TestClient, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end, client.get("/readyz").text
        time.sleep(0.02)
