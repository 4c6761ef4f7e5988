"""Raw files -> `interactions` by month, `item_catalogue` and what was set aside; again and again, each row once.

    folder/
      interactions/month=2017-01/part.parquet    ordered by time, ties by source order
      item_catalogue.parquet
      quarantine/ingest/part-00000.parquet       one file an ingest, with rule, source_file, source_row, found
      manifest.json                              sources seen (content digests), references, watermark

A batch of raw rows is mapped (and its user ids hashed) in memory, then lies in `.staging` by month; each touched month is merged with its stored
part on its own, so memory holds one batch or one month, never the log.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from contracts import columns as c
from contracts.artifacts import IngestReport, TableRef, content_digest, text_digest
from contracts.errors import PipelineError, SourceError
from contracts.sections.source import SourceConfig
from contracts.tables import INTERACTIONS, QUARANTINE_EXTRA
from sources import staging
from sources.datasets import declare
from sources.datasets.declaration import Declaration
from sources.mapping import (
    FOUND,
    IS_MAPPED,
    check_time_unit,
    hash_ids,
    hash_key,
    map_catalogue,
    map_events,
    month_of,
    wanted_columns,
    whole_catalogue,
)
from sources.readers import ROW, TABLE, SourceFile, expand, find, is_continued, open_files, reading, require_columns, scan_file, shown

Progress = Callable[[str, float], None]

ROWS_PER_BATCH: Final = 500_000
IDS_PER_PASS: Final = 5_000_000  # event ids held at once while repeated ones are looked for
ROWS_PER_GROUP: Final = 262_144
HOPELESS_ROWS: Final = 100  # a file of this many rows none of which can be used is a fault of the configuration, not of its rows
DUPLICATE: Final = f"duplicate_{c.EVENT_ID}"

_FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_CATALOGUE: Final = "item_catalogue.parquet"
_INTERACTIONS: Final = "interactions"
_QUARANTINE: Final = "quarantine/ingest"
_KNOWN: Final = "known"
_TURN: Final = "turn"  # which file of the run a staged row came from: rows of one batch lie in several months, their order must not be lost
_READING_SHARE: Final = 0.7  # of the progress bar
_COLUMNS: Final = (*INTERACTIONS.schema, c.SOURCE_FILE, c.SOURCE_ROW)
_SET_ASIDE: Final = (*INTERACTIONS.schema, *QUARANTINE_EXTRA, FOUND)
_ADVICE: Final[Mapping[str, str]] = {
    "event_time_unreadable": "Set `source.time_format` to the pattern of the texts, or `source.time_zone` to a zone in which these times exist",
    "event_time_out_of_range": "Check `source.time_unit`",
    "unknown_event_type": "Add the words to `source.event_types`",
}


@dataclass
class _Intake:
    """What reading the sources has found so far."""

    rows_in: int = 0
    rows_known: int = 0
    rows_deleted: int = 0
    rows_mapped: int = 0
    by_rule: Counter[str] = field(default_factory=Counter)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    titles: list[pl.DataFrame] = field(default_factory=list)


@dataclass(frozen=True)
class _Run:
    """What stays the same during one ingest."""

    folder: Path
    declared: Declaration
    manifest: dict[str, Any]
    key: bytes | None
    deleted: pl.Series
    now: datetime
    progress: Progress

    @property
    def source(self) -> SourceConfig:
        return self.declared.source

    @property
    def staging(self) -> Path:
        return self.folder / staging.STAGING

    def kept_parts(self, table: str) -> list[Path]:
        """Stored parts that stay; none where everything is read again."""
        return _parts(self.folder / table) if self.manifest["sources"] else []


def ingest(
    source: SourceConfig,
    folder: Path,
    *,
    environment: Mapping[str, str],
    now: datetime,
    progress: Progress | None = None,
) -> IngestReport:
    """Take in what the sources have and the folder has not.

    Parameters
    ----------
    folder
        Where the tables live; made if missing. One ingest at a time.
    environment
        Values of ${NAME} in addresses, and the secret of the user ids' hash.
    now
        Written beside each source in the manifest.
    progress
        Told (what, share done from 0 to 1).

    Raises SourceError: a source cannot be read as configured; nothing has changed then. TransientError: a store did not answer.
    """
    try:
        with staging.exclusive(folder):
            staging.recover(folder)
            try:
                return _ingest(_expanded(source, environment), folder, environment, now, progress or _silent)
            finally:
                staging.discard(folder)
    except PipelineError as error:
        error.step = error.step or "ingest"
        raise


def _silent(what: str, share: float) -> None:
    """Nobody asked."""


def _expanded(source: SourceConfig, environment: Mapping[str, str]) -> SourceConfig:
    addresses = {"uri": source.uri, "catalogue_uri": source.catalogue_uri, "deletions_uri": source.deletions_uri}
    return source.model_copy(update={name: expand(address, environment) for name, address in addresses.items() if address is not None})


def _ingest(source: SourceConfig, folder: Path, environment: Mapping[str, str], now: datetime, progress: Progress) -> IngestReport:
    declared = declare(source, folder)
    key = hash_key(environment.get(source.hash_key_variable), variable=source.hash_key_variable) if source.hash_user_ids else None
    run = _Run(folder, declared, _manifest_for(declared, folder, key), key, _deleted_users(declared.source, key), now, progress)
    staging.begin(folder)
    intake = _read_sources(run)
    repeated = _repeated(run, intake)
    months = _merge_months(run, repeated)
    quarantine = _write_quarantine(run)
    catalogue = _write_catalogue(run, intake)
    _publish(run, intake, [*months.written, *quarantine.written, *catalogue], [*months.removed, *quarantine.removed])
    by_rule = intake.by_rule + Counter({DUPLICATE: repeated.filter(pl.col(c.RULE) == DUPLICATE).height})
    last_part = _parts(folder / _INTERACTIONS)[-1]
    report = IngestReport(
        interactions=_table_ref("interactions", folder / _INTERACTIONS),
        item_catalogue=_table_ref("item_catalogue", folder / _CATALOGUE) if (folder / _CATALOGUE).exists() else None,
        quarantined=_table_ref("quarantine", folder / _QUARANTINE) if _parts(folder / _QUARANTINE) else None,
        rows_in=intake.rows_in,
        rows_accepted=intake.rows_mapped - repeated.height,
        rows_quarantined=by_rule.total(),
        rows_deleted=intake.rows_deleted,
        rows_known=intake.rows_known + repeated.filter(pl.col(c.RULE) == _KNOWN).height,
        rows_erased=months.rows_erased + quarantine.rows_erased,
        quarantined_by_rule={rule: count for rule, count in sorted(by_rule.items()) if count},
        changed_months=months.names,
        watermark=pl.scan_parquet(last_part, hive_partitioning=False).select(pl.col(c.EVENT_TIME).max()).collect().item().isoformat(),
    )
    progress(f"{report.rows_accepted:,} events accepted, {report.rows_quarantined:,} set aside", 1.0)
    return report


def _parts(folder: Path) -> list[Path]:
    """Parquet files of a table in stable order, which for the months is their order in time."""
    return sorted(folder.rglob("*.parquet"))


def _table_ref(name: str, path: Path) -> TableRef:
    parts = [path] if path.is_file() else _parts(path)
    rows = pl.scan_parquet(parts, hive_partitioning=False).select(pl.len()).collect().item()
    columns = tuple(pl.read_parquet_schema(parts[0]))
    return TableRef(name=name, path=str(path), rows=rows, columns=columns, digest=content_digest(parts, path if path.is_dir() else None))


# ---- what is known before the first row is read


def _manifest_for(declared: Declaration, folder: Path, key: bytes | None) -> dict[str, Any]:
    """Manifest of the stored state, or an empty one if all of it must be, and can be, read again.

    Raises SourceError if stored rows were read under another configuration (or user ids hashed with another key) from files that are gone.
    """
    fingerprint = None if key is None else hash_ids(pl.Series(["key"]), key).item()
    fresh: dict[str, Any] = {"format": _FORMAT, "configuration": _configuration_digest(declared), "hash_key": fingerprint, "sources": {}}
    path = folder / _MANIFEST
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else fresh
    if all(stored.get(name) == fresh[name] for name in fresh if name != "sources"):
        return dict(stored)
    present = set(stored["sources"]) if declared.is_regenerated else _keys_now(declared.source)
    gone = sorted(entry["name"] for key, entry in stored["sources"].items() if key not in present)
    if gone:
        raise SourceError(
            f"{folder}: its events were read under another configuration (mapping, zone, event types or hash key), and {len(gone):,} of the files "
            f"they came from are gone (first `{gone[0]}`): they cannot be read again. Restore files or configuration, or use another `storage_root`."
        )
    return fresh


def _configuration_digest(declared: Declaration) -> str:
    elsewhere = {"uri", "catalogue_uri", "deletions_uri", "hash_key_variable", "changed_files"}
    return text_digest(declared.source.model_dump_json(exclude=elsewhere), *(f"{name}:{rule}" for name, rule in declared.rules.items()))


def _keys_now(source: SourceConfig) -> set[str]:
    located = find(_address(source), file_format=source.file_format)
    return {file.key for place in located for file in open_files(place, file_format=source.file_format)}


def _address(source: SourceConfig) -> str:
    if source.uri is None:
        raise SourceError(f"source.uri is missing for source.dataset {source.dataset}. Set it to a file, glob or folder.")
    return source.uri


def _deleted_users(source: SourceConfig, key: bytes | None) -> pl.Series:
    """Ids, as they are stored, of the users who asked to be forgotten: all their rows go, of any time."""
    if source.deletions_uri is None:
        return pl.Series(c.USER_ID, [], dtype=pl.String)
    tables = [scan_file(file, csv_separator=source.csv_separator) for place in find(source.deletions_uri) for file in open_files(place)]
    ids = []
    for table in tables:
        require_columns(table.collect_schema().names(), {"deletions": c.USER_ID}, where="source.deletions_uri")
        with reading("source.deletions_uri"):
            ids.append(table.select(pl.col(c.USER_ID).cast(pl.String)).drop_nulls().unique().collect().to_series())
    users = pl.concat(ids).unique()
    return users if key is None else hash_ids(users, key)


# ---- reading


def _read_sources(run: _Run) -> _Intake:
    """Map every row not seen before into `.staging`: usable ones by month, the others with their rule."""
    intake, source = _Intake(), run.source
    located = find(_address(source), file_format=source.file_format)
    scratch = None if run.key is not None else run.staging / "fetched"  # copies on disk would hold the ids in clear
    for number, place in enumerate(located):
        for file in open_files(place, file_format=source.file_format, scratch=scratch):
            _read_file(run, intake, file, share=(number / len(located), 1 / len(located)))
    return intake


def _read_file(run: _Run, intake: _Intake, file: SourceFile, share: tuple[float, float]) -> None:
    seen = {**run.manifest["sources"], **intake.sources}
    if file.key in seen:
        intake.rows_in += seen[file.key]["rows"]
        intake.rows_known += seen[file.key]["rows"]
        return
    with reading(file.name):
        rows = run.declared.prepare(scan_file(file, csv_separator=run.source.csv_separator, csv_columns=run.source.csv_columns))
        names = rows.collect_schema().names()
    wanted = wanted_columns(run.source, names)
    require_columns(names, {f"source.columns.{ours}": theirs for ours, theirs in wanted.items()}, where=file.name)
    num_before = _rows_of_shorter_version(run, file)
    needed = dict.fromkeys([*wanted.values(), *(root for rule in run.declared.rules.values() for root in rule.meta.root_names()), ROW, TABLE])
    progress = _reading_progress(run, file, share)
    num_rows = num_before + _map_batches(run, intake, file, rows.select(*needed).filter(pl.col(ROW) > num_before), len(seen), progress)
    intake.rows_in += num_before
    intake.rows_known += num_before
    intake.sources[file.key] = {"name": file.name, "rows": num_rows, "num_bytes": file.num_bytes, "digest": file.digest, "read_at": run.now.isoformat()}
    if run.declared.catalogue_of_events is not None:
        with reading(file.name):
            intake.titles.append(whole_catalogue(run.declared.catalogue_of_events(rows).collect()))


def _reading_progress(run: _Run, file: SourceFile, share: tuple[float, float]) -> Callable[[int], None]:
    start, length = share

    def tell(num_rows: int) -> None:
        done = min(1.0, num_rows / file.num_rows_about) if file.num_rows_about else 0.5
        run.progress(f"reading {file.name}: {num_rows:,} rows", _READING_SHARE * (start + length * done))

    return tell


def _rows_of_shorter_version(run: _Run, file: SourceFile) -> int:
    """Rows of `file` that were taken in when it was shorter: a log that is appended to goes on where it stopped.

    Raises SourceError if a file of this name had other content: without natural ids its rows would count twice.
    """
    earlier = [entry for entry in run.manifest["sources"].values() if entry["name"] == file.name]
    if not earlier or run.source.columns.event_id is not None:
        return 0
    for entry in sorted(earlier, key=lambda entry: -entry["num_bytes"]):
        if file.can_grow and is_continued(file, entry["num_bytes"], entry["digest"]):
            return int(entry["rows"])
    if run.source.changed_files == "add":
        return 0
    raise SourceError(
        f"{file.name}: was ingested before with other content ({earlier[-1]['rows']:,} rows), and without natural event ids its rows would count twice. "
        "Map `source.columns.event_id`, write new rows to new files or to the end of a CSV file, or set `source.changed_files: add` if all its rows are new."
    )


def _map_batches(run: _Run, intake: _Intake, file: SourceFile, rows: pl.LazyFrame, number: int, progress: Callable[[int], None]) -> int:
    """Write the mapped rows of one file to `.staging`; the number of rows."""
    num_rows, by_rule, example = 0, Counter[str](), ""
    for index, batch in enumerate(_batches(rows, file)):
        if index == 0:
            check_time_unit(batch[run.source.columns.event_time], unit=run.source.time_unit, where=file.name)
        events = map_events(batch, run.source, where=file.name, key=file.key, rules=run.declared.rules, hash_key=run.key)
        num_rows += events.height
        kept = _without(run.deleted, events)
        intake.rows_deleted += events.height - kept.height
        set_aside = kept.filter(~IS_MAPPED)
        by_rule.update(dict(set_aside[c.RULE].value_counts().iter_rows()))
        example = example or _example(set_aside)
        _write_staged(run.staging / "set_aside" / f"{number:06d}-{index:06d}.parquet", set_aside.select(_SET_ASIDE))
        mapped = kept.filter(IS_MAPPED).select(*_COLUMNS, pl.lit(number, pl.Int32).alias(_TURN), month_of(pl.col(c.EVENT_TIME)).alias(c.MONTH))
        for (month,), part in mapped.partition_by(c.MONTH, as_dict=True, include_key=False, maintain_order=True).items():
            _write_staged(run.staging / "months" / str(month) / f"{number:06d}-{index:06d}.parquet", part)
        intake.rows_mapped += mapped.height
        progress(num_rows)
    intake.rows_in += num_rows
    intake.by_rule += by_rule
    if num_rows >= HOPELESS_ROWS and by_rule.total() == num_rows:
        raise SourceError(_hopeless(file.name, num_rows, by_rule, example))
    return num_rows


def _batches(rows: pl.LazyFrame, file: SourceFile) -> Iterator[pl.DataFrame]:
    with reading(file.name):
        yield from rows.collect_batches(chunk_size=ROWS_PER_BATCH, maintain_order=True)


def _example(set_aside: pl.DataFrame) -> str:
    found = set_aside.drop_nulls(FOUND).head(1)
    return "" if found.is_empty() else f", first {found[FOUND].item()!r} in row {found[c.SOURCE_ROW].item():,}"


def _hopeless(where: str, num_rows: int, by_rule: Counter[str], example: str) -> str:
    rule = by_rule.most_common(1)[0][0]
    counts = ", ".join(f"{name} {count:,}" for name, count in by_rule.most_common(3))
    return f"{where}: none of {num_rows:,} rows can be used: {counts}{example}. {_ADVICE.get(rule, 'Check `source.columns` and the rows themselves')}."


def _write_staged(path: Path, frame: pl.DataFrame) -> None:
    if frame.height:
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path, compression="lz4")


# ---- merging


def _repeated(run: _Run, intake: _Intake) -> pl.DataFrame:
    """New rows whose event_id is stored already (`known`) or stands earlier among the new rows: turn, source_row, rule.

    Digest ids cannot repeat (equal content is not read twice), so only natural ids are looked at, `IDS_PER_PASS` at a time.
    """
    chunks = _parts(run.staging / "months")
    if run.source.columns.event_id is None or not chunks:
        return pl.DataFrame(schema={_TURN: pl.Int32, c.SOURCE_ROW: pl.Int64, c.RULE: pl.String})
    stored = run.kept_parts(_INTERACTIONS)
    num_passes = math.ceil(intake.rows_mapped / IDS_PER_PASS)
    found = []
    for number in range(num_passes):
        mine = pl.col(c.EVENT_ID).hash(0) % num_passes == number
        new = pl.scan_parquet(chunks).filter(mine).select(c.EVENT_ID, _TURN, c.SOURCE_ROW)
        ids = _known_ids(stored, new)
        rows = new.collect(engine="streaming").sort(_TURN, c.SOURCE_ROW).with_columns(is_known=pl.col(c.EVENT_ID).is_in(ids.implode()))
        rule = pl.when("is_known").then(pl.lit(_KNOWN)).when(~pl.col(c.EVENT_ID).is_first_distinct()).then(pl.lit(DUPLICATE))
        found.append(rows.select(_TURN, c.SOURCE_ROW, rule.alias(c.RULE)).drop_nulls(c.RULE))
    return pl.concat(found)


def _known_ids(stored: list[Path], new: pl.LazyFrame) -> pl.Series:
    if not stored:
        return pl.Series(c.EVENT_ID, [], dtype=pl.String)
    ids = pl.scan_parquet(stored, hive_partitioning=False).select(c.EVENT_ID)
    return ids.join(new.select(c.EVENT_ID), on=c.EVENT_ID, how="semi").collect(engine="streaming").to_series()


@dataclass(frozen=True)
class _Rewritten:
    """Files of one table a run writes anew or takes away, relative to the folder."""

    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    rows_erased: int = 0


def _merge_months(run: _Run, repeated: pl.DataFrame) -> _Rewritten:
    """Write the new part of every month that has new rows or loses some to a deletion."""
    kept = {_month(path): path for path in run.kept_parts(_INTERACTIONS)}
    new: dict[str, list[Path]] = {}
    for path in sorted((run.staging / "months").rglob("*.parquet")):
        new.setdefault(path.parent.name, []).append(path)
    erasing = {month: num for month, path in kept.items() if (num := _rows_of(run.deleted, path))}
    written, names, emptied = [], [], set()
    touched = sorted(new.keys() | erasing.keys())
    for number, month in enumerate(touched):
        run.progress(f"writing {month}", _READING_SHARE + (1 - _READING_SHARE) * number / len(touched))
        name = f"{_INTERACTIONS}/month={month}/part.parquet"
        part = _merge(run, repeated, month, kept.get(month), new.get(month, []))
        if part is None:
            continue
        names.append(month)
        if part.is_empty():
            emptied.add(month)
        else:
            _write_part(run.staging / name, part)
            written.append(name)
    gone = [path for path in _parts(run.folder / _INTERACTIONS) if _month(path) in emptied or (_month(path) not in kept and _month(path) not in names)]
    return _Rewritten(tuple(written), tuple(str(path.relative_to(run.folder)) for path in gone), tuple(names), sum(erasing.values()))


def _month(part: Path) -> str:
    return part.parent.name.removeprefix("month=")


def _merge(run: _Run, repeated: pl.DataFrame, month: str, stored: Path | None, chunks: Sequence[Path]) -> pl.DataFrame | None:
    """Rows of one month: the stored ones first, then the new ones in source order, stably by time. None if nothing changes."""
    before = pl.read_parquet(stored, hive_partitioning=False) if stored else None
    kept = [_without(run.deleted, before)] if before is not None else []
    new = pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in chunks]) if chunks else None
    if new is not None and repeated.height:
        marked = new.join(repeated, on=[_TURN, c.SOURCE_ROW], how="left", maintain_order="left")
        duplicates = marked.filter(pl.col(c.RULE) == DUPLICATE).with_columns(pl.lit(None, pl.String).alias(FOUND))
        _write_staged(run.staging / "set_aside" / f"duplicates-{month}.parquet", duplicates.select(_SET_ASIDE))
        new = marked.filter(IS_MAPPED)
    if before is not None and kept[0].height == before.height and (new is None or new.is_empty()):
        return None
    return pl.concat([*kept, *([new.select(_COLUMNS)] if new is not None else [])]).sort(c.EVENT_TIME, maintain_order=True)


def _without(users: pl.Series, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(~pl.col(c.USER_ID).is_in(users.implode()).fill_null(value=False)) if len(users) else frame


def _rows_of(users: pl.Series, path: Path) -> int:
    if not len(users):
        return 0
    return int(pl.scan_parquet(path, hive_partitioning=False).select(pl.col(c.USER_ID).is_in(users.implode()).sum()).collect().item())


def _write_part(path: Path, frame: pl.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.rechunk().write_parquet(path, compression="zstd", row_group_size=ROWS_PER_GROUP)


def _write_quarantine(run: _Run) -> _Rewritten:
    """One new part for the rows set aside now; older parts without the rows of deleted users."""
    kept = run.kept_parts(_QUARANTINE)
    written, removed, erased = [], [str(path.relative_to(run.folder)) for path in _parts(run.folder / _QUARANTINE) if path not in kept], 0
    for path in kept:
        if num := _rows_of(run.deleted, path):
            name, left = str(path.relative_to(run.folder)), _without(run.deleted, pl.read_parquet(path))
            erased += num
            if left.is_empty():
                removed.append(name)
            else:
                _write_part(run.staging / name, left)
                written.append(name)
    chunks = sorted((run.staging / "set_aside").glob("*.parquet"))
    if chunks:
        number = 1 + int(kept[-1].stem.removeprefix("part-")) if kept else 0
        name = f"{_QUARANTINE}/part-{number:05d}.parquet"
        (run.staging / name).parent.mkdir(parents=True, exist_ok=True)
        pl.scan_parquet(chunks).sink_parquet(run.staging / name, compression="zstd", row_group_size=ROWS_PER_GROUP)
        written.append(name)
    return _Rewritten(tuple(written), tuple(name for name in removed if name not in written), rows_erased=erased)


def _write_catalogue(run: _Run, intake: _Intake) -> list[str]:
    """The catalogue with what was read now over what was known; items that left the source stay, histories speak of them."""
    path, source = run.folder / _CATALOGUE, run.source
    stored = [pl.read_parquet(path)] if path.exists() and run.manifest["sources"] else []
    tables = [*stored, *intake.titles]
    if source.catalogue_uri is not None:
        for place in find(source.catalogue_uri):
            tables += [_read_catalogue(run, file) for file in open_files(place)]
    if not tables:
        return []
    items = whole_catalogue(pl.concat(tables))
    if stored and items.equals(stored[0]):
        return []
    _write_part(run.staging / _CATALOGUE, items)
    return [_CATALOGUE]


def _read_catalogue(run: _Run, file: SourceFile) -> pl.DataFrame:
    raw = scan_file(file, csv_separator=run.source.csv_separator)
    if run.declared.catalogue is None:
        return map_catalogue(raw, run.source.catalogue_columns, time_zone=run.source.time_zone, where=file.name)
    with reading(file.name):
        return whole_catalogue(run.declared.catalogue(raw).collect())


def _publish(run: _Run, intake: _Intake, written: Sequence[str], removed: Sequence[str]) -> None:
    """Put the staged files in place, the manifest last; nothing is touched if nothing is new."""
    remaining = {str(path.relative_to(run.folder)) for path in _parts(run.folder / _INTERACTIONS)} - set(removed)
    if not remaining and not any(name.startswith(_INTERACTIONS) for name in written):
        counts = ", ".join(f"{rule} {count:,}" for rule, count in intake.by_rule.most_common(3)) or "no rows at all"
        raise SourceError(
            f"{shown(_address(run.source))}: expected events, found {intake.rows_in:,} rows, none of which can be used ({counts}). "
            "Check the files and `source.columns`."
        )
    manifest = {**run.manifest, "sources": {**run.manifest["sources"], **intake.sources}}
    if not written and not removed and not intake.sources:
        staging.recover(run.folder)
        return
    (run.staging / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    staging.commit(run.folder, [*written, _MANIFEST], removed)
