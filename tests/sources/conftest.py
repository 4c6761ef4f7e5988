"""Small logs on disk, a loopback web server, and one way to ingest them."""

import datetime as dt
import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from contracts.artifacts import IngestReport
from contracts.sections.source import SourceConfig
from sources.ingest import ingest

NOW = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
SECRET = {"PERENNIAL_HASH_KEY": "a secret of more than sixteen characters"}

Ingest = Callable[..., IngestReport]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def take_in(store: Path) -> Ingest:
    """Ingest a table at an address; keywords go to the SourceConfig."""

    def run(uri: object, *, environment: dict[str, str] = SECRET, **options: object) -> IngestReport:
        return ingest(SourceConfig.model_validate({"uri": str(uri), **options}), store, environment=environment, now=NOW)

    return run


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    """Write lines to a file below the test's folder."""

    def write(name: str, *lines: str) -> Path:
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and folder of a web server on this machine."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


def stored(report: IngestReport) -> pl.DataFrame:
    """All stored interactions, in the order of the parts."""
    return pl.concat([pl.read_parquet(part, hive_partitioning=False) for part in report.interactions.parts()])


def set_aside(report: IngestReport) -> pl.DataFrame:
    """All rows in quarantine."""
    assert report.quarantined is not None
    return pl.concat([pl.read_parquet(part) for part in report.quarantined.parts()])
