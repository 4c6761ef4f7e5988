"""A bundle: the folder a recommender is served from. Data only (ONNX, safetensors, Parquet, JSON), never code or pickle.

    bundle.json                format number, cut-off, horizon, name, settings, sha256 of every other file
    networks/                  the exported networks (docs/architecture.md)
    vocabulary.parquet         item_id, item_index; row i of every item table is item_index i (0 is padding)
    item_catalogue.parquet     category, title ... of the items
    histories.parquet          user -> item_index, event_day, event_type (lists, newest last)
    habits.parquet             user x item: what happened before the cut-off
    item_weeks.parquet         item x region x weeks_ago
    forecasts.parquet          optional

Writing is atomic: a half-written bundle is never seen under its final name. Two bundles can be open in one process.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Final

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts import columns as c
from contracts.artifacts import BundleRef, text_digest
from contracts.errors import BundleError
from contracts.sections.features import FeaturesConfig

FORMAT: Final = 1
MANIFEST: Final = "bundle.json"
NETWORKS: Final = "networks"
VOCABULARY: Final = "vocabulary"
ITEM_CATALOGUE: Final = "item_catalogue"
HISTORIES: Final = "histories"
HABITS: Final = "habits"
ITEM_WEEKS: Final = "item_weeks"
FORECASTS: Final = "forecasts"
REQUIRED_TABLES: Final = (VOCABULARY, ITEM_CATALOGUE, HISTORIES, HABITS, ITEM_WEEKS)
REQUIRED_NETWORKS: Final = ("head.json", "vectors.safetensors", "season.onnx", "habit.onnx")

HISTORY_COLUMNS: Final = (c.ITEM_INDEX, c.EVENT_DAY, c.EVENT_TYPE)


class BundleMetadata(BaseModel):
    """What a bundle says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, description="Name of the pipeline that made it.")]
    cutoff: Annotated[date, Field(description="What is known ends here, exclusive.")]
    horizon_days: Annotated[int, Field(ge=1, description="Length of the window it was trained for, days.")]
    created: Annotated[str, Field(description="When it was made, ISO time.")]
    config_digest: Annotated[str, Field(description="Digest of the configuration it was made with.")]
    features: Annotated[FeaturesConfig, Field(description="Calendar, half-lives and history length: what request-time features need.")] = FeaturesConfig()
    target_events: Annotated[tuple[str, ...], Field(description="Event types that make a habit; none: every type.")] = ()
    notes: Annotated[dict[str, str], Field(description="Anything else worth keeping: code version, seeds, metrics.")] = {}


class Manifest(BaseModel):
    """Contents of `bundle.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    metadata: BundleMetadata
    files: dict[str, str]


class Bundle(BaseModel):
    """A verified folder, opened lazily: tables are read when they are asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    folder: Path
    metadata: BundleMetadata
    digest: str

    def table(self, name: str) -> pl.DataFrame:
        """One table of the bundle, in memory."""
        return pl.read_parquet(self.folder / f"{name}.parquet", glob=False)

    def has_table(self, name: str) -> bool:
        """Whether an optional table is there."""
        return (self.folder / f"{name}.parquet").is_file()

    def network(self, name: str) -> Path:
        """Path of one exported file."""
        return self.folder / NETWORKS / name


def write_bundle(
    folder: Path,
    *,
    networks: Path,
    vocabulary: pl.DataFrame,
    item_catalogue: pl.DataFrame,
    histories: pl.DataFrame,
    habits: pl.DataFrame,
    item_weeks: pl.DataFrame,
    forecasts: pl.DataFrame | None = None,
    metadata: BundleMetadata,
) -> BundleRef:
    """Write a bundle folder, replacing what stood there, and return its reference.

    `histories` may hold item ids and times (contract `histories`) or be packed already; items outside the vocabulary leave the lists.

    Raises BundleError where a network is missing or an item_index stands twice.
    """
    _check_networks(networks)
    _check_vocabulary(vocabulary)
    tables = {
        VOCABULARY: vocabulary.select(c.ITEM_ID, c.ITEM_INDEX).sort(c.ITEM_INDEX),
        ITEM_CATALOGUE: item_catalogue,
        HISTORIES: pack_histories(histories, vocabulary),
        HABITS: habits.sort(c.USER_ID, c.ITEM_ID),
        ITEM_WEEKS: item_weeks,
    }
    if forecasts is not None:
        tables[FORECASTS] = forecasts

    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        shutil.copytree(networks, draft / NETWORKS)
        for name, table in tables.items():
            table.write_parquet(draft / f"{name}.parquet", compression="zstd", row_group_size=1_000_000)
        manifest = Manifest(format=FORMAT, metadata=metadata, files=_digests(draft))
        (draft / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return BundleRef(path=str(folder), cutoff=metadata.cutoff.isoformat(), digest=_bundle_digest(manifest))


def read_bundle(folder: Path | str, *, verify: bool = True) -> Bundle:
    """Open a bundle after checking its format number, its parts and, unless told not to, the sha256 of every file.

    Raises BundleError that names the file and what to do.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    missing = [
        name
        for name in [*(f"{table}.parquet" for table in REQUIRED_TABLES), *(f"{NETWORKS}/{name}" for name in REQUIRED_NETWORKS)]
        if name not in manifest.files
    ]
    outside = [name for name in manifest.files if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise BundleError(
            f"bundle {folder}: {MANIFEST} lists {', '.join(outside)}, which is not inside the folder. It was not written by `write_bundle`; do not use it."
        )
    if missing:
        raise BundleError(f"bundle {folder}: {', '.join(missing)} not listed in {MANIFEST}. It was not written by `write_bundle`; make it again.")
    if verify:
        _verify(folder, manifest.files)
    return Bundle(folder=folder, metadata=manifest.metadata, digest=_bundle_digest(manifest))


def bundle_ref(bundle: Bundle) -> BundleRef:
    """Small reference of an open bundle."""
    return BundleRef(path=str(bundle.folder), cutoff=bundle.metadata.cutoff.isoformat(), digest=bundle.digest)


def pack_histories(histories: pl.DataFrame, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """Histories as small integers: one row per user with lists `item_index` (Int32), `event_day` (Int32, days since 1970), `event_type` (String).

    Order is kept (newest last); items outside the vocabulary are dropped, and users left without any item too.
    """
    if set(HISTORY_COLUMNS) <= set(histories.columns):
        return histories.select(c.USER_ID, *HISTORY_COLUMNS).sort(c.USER_ID)
    events = (
        histories.lazy()
        .select(c.USER_ID, c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE)
        .filter(pl.col(c.ITEM_ID).list.len() > 0)
        .explode(c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE)
        .join(vocabulary.lazy().select(c.ITEM_ID, c.ITEM_INDEX), on=c.ITEM_ID, how="inner", maintain_order="left")
        .with_columns(pl.col(c.EVENT_TIME).dt.epoch("d").cast(pl.Int32).alias(c.EVENT_DAY), pl.col(c.ITEM_INDEX).cast(pl.Int32))
    )
    return events.group_by(c.USER_ID, maintain_order=True).agg(*HISTORY_COLUMNS).sort(c.USER_ID).collect()


def _check_networks(networks: Path) -> None:
    missing = [name for name in REQUIRED_NETWORKS if not (networks / name).is_file()]
    if missing:
        found = sorted(path.name for path in networks.glob("*")) if networks.is_dir() else "no such folder"
        raise BundleError(f"networks {networks}: {', '.join(missing)} missing; found {found}. Export the networks of the fine-tuning stage first.")


def _check_vocabulary(vocabulary: pl.DataFrame) -> None:
    repeated = vocabulary.filter(pl.col(c.ITEM_INDEX).is_duplicated() | pl.col(c.ITEM_ID).is_duplicated() | (pl.col(c.ITEM_INDEX) < 0))
    if not vocabulary.height or repeated.height:
        example = repeated.row(0) if repeated.height else "no rows at all"
        raise BundleError(
            f"vocabulary: expected one row per item with its own item_index, found {repeated.height} other rows ({example}). Build it with `grow_vocabulary`."
        )


def _digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _bundle_digest(manifest: Manifest) -> str:
    """Equal for equal content: neither the time of making nor the notes are part of it."""
    identity = manifest.metadata.model_dump_json(exclude={"created", "notes"})
    return text_digest(str(manifest.format), identity, *(f"{name}={digest}" for name, digest in sorted(manifest.files.items())))


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        found = "no such folder" if not folder.exists() else f"found {sorted(p.name for p in folder.iterdir())[:8]}"
        raise BundleError(f"bundle {folder}: expected {MANIFEST}, {found}. Give the folder `write_bundle` wrote, or download the version again.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"bundle {folder}: {MANIFEST} is not JSON ({error}). Download the version again.") from error
    number = values.get("format") if isinstance(values, dict) else None
    if number != FORMAT:
        raise BundleError(f"bundle {folder}: format {number!r}, this code reads format {FORMAT}. Use the release that wrote it, or train and register again.")
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise BundleError(
            f"bundle {folder}: {MANIFEST} does not fit its format: {error.errors()[0]['loc']} {error.errors()[0]['msg']}. Make the bundle again."
        ) from error


def _verify(folder: Path, files: Mapping[str, str]) -> None:
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"bundle {folder}: {name} is missing. Download the version again.")
        found = _sha256(path)
        if found != digest:
            raise BundleError(
                f"bundle {folder}: {name} has sha256 {found[:12]}, {MANIFEST} says {digest[:12]}: damaged or changed after writing. Download the version again."
            )
