"""Where outputs of steps live, and how they are written: aside first, synced, then renamed, so no reader sees half a table."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from contracts.artifacts import Reference, TableRef, content_digest, text_digest
from contracts.config import PipelineConfig

CODE_ROOT = Path(__file__).resolve().parents[1]
SCORER = tuple(f"serving/{name}.py" for name in ("behaviour", "bundle", "item_tables", "networks", "recommender", "shortlist"))  # all that decides a score


class Store(Reference):
    """Folder of one pipeline's data. A step's output folder is named by the digest of all that went into it."""

    root: str

    @property
    def storage_root(self) -> str:
        """Folder that several pipelines share; MLflow and Prefect live there."""
        return str(Path(self.root).parent)

    def identity(self) -> str:
        """Name the store got when it was made: results kept for a store that was deleted are not taken for those of its successor."""
        path = Path(self.root) / "identity"
        if not path.exists():
            write_text(uuid.uuid4().hex, path)
        return path.read_text(encoding="utf-8")

    def ingest_folder(self) -> Path:
        """The incremental store of events; the only folder that changes in place."""
        return Path(self.root) / "ingest"

    def step_folder(self, step: str, *inputs: BaseModel | str | None, code: tuple[str, ...]) -> Path:
        """Output folder of a step for these inputs and this code; same inputs, same folder."""
        folder = Path(self.root) / "steps" / step / reuse_digest(*inputs, code=code)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def reuse_digest(*inputs: BaseModel | str | None, code: tuple[str, ...]) -> str:
    """Digest of a step's inputs (references carry content digests) and of the source it runs."""
    return text_digest(*(model_text(given) if isinstance(given, BaseModel) else str(given) for given in inputs), code_version(code))


def model_text(model: BaseModel) -> str:
    """All that a model says, the content of the side tables it names included (fields `..._uri` that are a file: pay days, planned inputs)."""
    files = [value for name, value in model if name.endswith("_uri") and isinstance(value, str) and Path(value).is_file()]
    return model.model_dump_json() + "".join(content_digest([Path(file)]) for file in files)


def code_version(code: tuple[str, ...]) -> str:
    """Digest of Python source of ours: whole folders, or single files such as `serving/bundle.py`; contracts are always among them."""
    places = [CODE_ROOT / place for place in {*code, "contracts"}]
    files = {path for place in places for path in ([place] if place.suffix == ".py" else place.rglob("*.py"))}
    return content_digest(files, CODE_ROOT)


def audit_address(store: Store) -> str:
    """Address of the audit table; one for all pipelines of a storage root."""
    return f"sqlite:///{Path(store.storage_root).resolve() / 'audit.sqlite'}"


def write_table(table: pl.LazyFrame | pl.DataFrame, path: Path, name: str) -> TableRef:
    """Write one Parquet file (zstd) and return its reference. Atomic: a crash leaves the old file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _aside(path, ".tmp") as aside:
        if isinstance(table, pl.LazyFrame):
            table.sink_parquet(aside, compression="zstd", maintain_order=True)
        else:
            table.write_parquet(aside, compression="zstd")
    return table_reference(path, name)


def table_reference(path: Path, name: str) -> TableRef:
    """Reference of a stored table: a Parquet file, or a folder of parts."""
    parts = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    frame = pl.scan_parquet(parts)
    return TableRef(
        name=name,
        path=str(path),
        rows=frame.select(pl.len()).collect().item(),
        columns=tuple(frame.collect_schema().names()),
        digest=content_digest(parts, path if path.is_dir() else path.parent),
    )


def read_table(ref: TableRef) -> pl.LazyFrame:
    """The stored table, lazily."""
    return pl.scan_parquet(ref.parts())


def write_text(text: str, path: Path) -> Path:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _aside(path, path.suffix + ".tmp") as aside:
        aside.write_text(text, encoding="utf-8")
    return path


def fresh_folder(path: Path) -> Path:
    """The folder, emptied: leftovers of an interrupted attempt do not mix with a new one."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


@contextmanager
def _aside(path: Path, suffix: str) -> Iterator[Path]:
    """A path to write to instead; made durable and moved to its place, or removed where writing fails (a full disk gets its room back)."""
    aside = path.with_suffix(suffix)
    try:
        yield aside
        _sync(aside)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def store_of(config: PipelineConfig) -> Store:
    """The store of a pipeline, by its name below the storage root. Raises ValueError where the root names a variable that is not set."""
    storage_root = os.path.expandvars(config.storage_root)
    if "${" in storage_root:
        raise ValueError(f"storage_root {config.storage_root!r}: an environment variable in it is not set. Set it, or write the folder itself.")
    return Store(root=str(Path(storage_root).expanduser().resolve() / config.name))
