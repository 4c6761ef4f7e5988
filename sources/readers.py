"""Open what an address names: files, globs, hive folders, zips and workbooks, local or behind any fsspec address.

An address becomes `Located` files, a located file becomes one or more `SourceFile`s (the members of a zip, the sheets of a workbook), and a
`SourceFile` becomes a lazy frame of raw columns. Nothing here knows what the columns mean.
"""

import codecs
import functools
import glob
import gzip
import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, Any, Final, Literal
from urllib.parse import unquote, urlsplit

import fsspec
import polars as pl

from contracts.errors import SourceError, TransientError

FileFormat = Literal["csv", "parquet", "ipc", "excel", "jsonl"]

ENDINGS: Final[Mapping[str, FileFormat]] = MappingProxyType(
    {
        ".csv": "csv",
        ".csv.gz": "csv",
        ".tsv": "csv",
        ".txt": "csv",
        ".parquet": "parquet",
        ".pq": "parquet",
        ".arrow": "ipc",
        ".ipc": "ipc",
        ".feather": "ipc",
        ".xlsx": "excel",
        ".xls": "excel",
        ".xlsb": "excel",
        ".ods": "excel",
        ".jsonl": "jsonl",
        ".jsonl.gz": "jsonl",
        ".ndjson": "jsonl",
    }
)
NO_VARIABLES: Final[Mapping[str, str]] = MappingProxyType({})
ROW: Final = "__row__"  # position in the file; the name stays clear of a source's own `source_row`
TABLE: Final = "__table__"  # name of the file or sheet
HIVE_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Located:
    """A file an address led to, not yet opened. `name` is what people see: relative, without credentials."""

    name: str
    path: str
    partitions: tuple[tuple[str, str | None], ...]
    filesystem: Any = None  # None: this machine's files

    @property
    def is_local(self) -> bool:
        """Whether the file can be read in place."""
        return self.filesystem is None


@dataclass(frozen=True)
class SourceFile:
    """One readable table: a file, a member of a zip or a sheet of a workbook.

    `key` is a digest of content, sheet and hive values: equal keys mean equal rows, whatever the file is called.
    """

    name: str
    content: Path | bytes
    file_format: FileFormat
    partitions: tuple[tuple[str, str | None], ...] = ()
    sheet: str | None = None
    digest: str = ""
    num_bytes: int = 0
    num_rows_about: int | None = None  # for progress only: lines of a text, rows of a Parquet file

    @property
    def can_grow(self) -> bool:
        """Whether rows can be appended to the file without changing what was there."""
        return self.file_format in {"csv", "jsonl"} and not self.name.lower().endswith(".gz")

    @property
    def key(self) -> str:
        """32 hex digits that stand for the rows of this table."""
        parts = [self.digest, self.sheet or "", *(f"{name}={value}" for name, value in self.partitions)]
        return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:32]


def scan(
    uri: str,
    *,
    file_format: str = "auto",
    csv_separator: str = ",",
    csv_columns: Sequence[str] = (),
    environment: Mapping[str, str] = NO_VARIABLES,
) -> pl.LazyFrame:
    """Rows of every file the address names, one below the other, raw columns.

    Columns of CSV files are text (what they mean is the mapping's business); hive folders add their keys as text columns. Remote files and
    members of a zip are held in memory.

    Parameters
    ----------
    uri
        File, glob or folder; local, or any fsspec address. ${NAME} is taken from `environment`.
    csv_columns
        Names of the columns of CSV files that have no header line.

    Raises SourceError: no such file, empty, truncated, unreadable or mixed files. TransientError: the network or the store failed.
    """
    frames = [
        scan_file(file, csv_separator=csv_separator, csv_columns=csv_columns).drop(ROW, TABLE)
        for located in find(uri, environment=environment, file_format=file_format)
        for file in open_files(located, file_format=file_format)
    ]
    return frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")


def expand(uri: str, environment: Mapping[str, str]) -> str:
    """Address with every ${NAME} replaced by `environment[NAME]`."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise SourceError(
                f"{uri}: expected the environment variable {match[1]}, found none. Set it, e.g. `export {match[1]}=/data`, or write the address out."
            )
        return environment[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, uri)


def shown(uri: str) -> str:
    """Address without user, password and query, fit for a message."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def find(uri: str, *, environment: Mapping[str, str] = NO_VARIABLES, file_format: str = "auto") -> list[Located]:
    """Files an address names, in stable order: a file alone, the matches of a glob, or all data files below a folder.

    Below a folder, names that start with `.` or `_` are left out. Raises SourceError if there is none.
    """
    address = expand(uri, environment)
    located = _find_local(address.removeprefix("file://"), file_format) if _is_local(address) else _find_remote(address, file_format)
    if not located:
        raise SourceError(
            f"{shown(address)}: expected data files ({', '.join(ENDINGS)} or .zip), found none. Check the address, or name the format in `source.file_format`.",
            step="ingest",
        )
    return sorted(located, key=lambda file: file.name)


def _is_local(address: str) -> bool:
    return "://" not in address or address.startswith("file://")


def _find_local(address: str, file_format: str) -> list[Located]:
    if glob.has_magic(address):
        fixed = _fixed_parts(Path(address).parts)
        root, pattern = Path(*fixed), str(Path(*Path(address).parts[len(fixed) :]))
        matches = [path for path in root.glob(pattern) if path.is_file()]
        return [Located(path.relative_to(root).as_posix(), str(path), _hive_values(path.parts)) for path in matches]
    path = Path(address)
    if path.is_dir():
        below = [file for file in path.rglob("*") if file.is_file() and _is_data_file(file.relative_to(path).parts, file_format)]
        return [Located(file.relative_to(path).as_posix(), str(file), _hive_values(file.relative_to(path).parts)) for file in below]
    if not path.exists():
        raise SourceError(_no_such_file(address, sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else None))
    return [Located(path.name, str(path), ())]


def _no_such_file(address: str, beside: Sequence[str] | None) -> str:
    if beside is None:
        return f"{shown(address)}: no such file, and no such folder either. Check `source.uri`."
    near = get_close_matches(PurePosixPath(address).name, beside, n=1)
    found = f"the folder has {len(beside):,} entries" + (f", nearest `{near[0]}`" if near else "")
    return f"{shown(address)}: no such file; {found}. Check `source.uri`."


def _find_remote(address: str, file_format: str) -> list[Located]:
    with _remote_errors(address):
        filesystem, path = fsspec.core.url_to_fs(address)
        filesystem.invalidate_cache()  # an object store keeps its listings, and a worker that lives long would not see new files
        if address.startswith(("http://", "https://")):
            return [Located(PurePosixPath(unquote(urlsplit(address).path)).name or urlsplit(address).netloc, path, (), filesystem)]
        if glob.has_magic(path):
            root = "/".join(_fixed_parts(path.split("/")))
            return [_remote_file(filesystem, match, root) for match in filesystem.glob(path)]
        if not filesystem.exists(path):
            raise SourceError(_no_such_file(address, None))
        if filesystem.isdir(path):
            files = [_remote_file(filesystem, match, path) for match in filesystem.find(path)]
            return [file for file in files if _is_data_file(PurePosixPath(file.name).parts, file_format)]
        return [Located(PurePosixPath(path).name, path, (), filesystem)]


def _remote_file(filesystem: Any, path: str, root: str) -> Located:
    name = path.removeprefix(root).lstrip("/")
    return Located(name, path, _hive_values(PurePosixPath(name).parts), filesystem)


def _fixed_parts(parts: Sequence[str]) -> list[str]:
    """Leading parts of a pattern that hold no wildcard."""
    fixed: list[str] = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed


def _is_data_file(parts: Sequence[str], file_format: str) -> bool:
    if any(part.startswith((".", "_")) for part in parts):
        return False
    return file_format != "auto" or _format_of(parts[-1]) is not None or parts[-1].lower().endswith(".zip")


def _hive_values(parts: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    pairs = [part.split("=", 1) for part in parts[:-1] if re.match(r"\w+=", part)]
    return tuple((name, None if value == HIVE_NULL else unquote(value)) for name, value in pairs)


def _format_of(name: str) -> FileFormat | None:
    lower = name.lower()
    matching = [ending for ending in ENDINGS if lower.endswith(ending)]
    return ENDINGS[max(matching, key=len)] if matching else None


def open_files(located: Located, *, file_format: str = "auto", scratch: Path | None = None) -> Iterator[SourceFile]:
    """Tables inside one located file, checked for what can be told without reading the rows.

    Parameters
    ----------
    scratch
        Folder for copies of remote files and zip members; without it they are held in memory and nothing is written.
    """
    content = Path(located.path) if located.is_local else _fetch(located, scratch)
    if located.path.lower().split("?")[0].endswith(".zip") or (file_format == "auto" and _format_of(located.name) is None and _is_zip(content)):
        yield from _zip_members(located, content, file_format, scratch)
        return
    yield from _tables(SourceFile(located.name, content, _decide_format(located.name, file_format), located.partitions))


def _decide_format(name: str, file_format: str) -> FileFormat:
    decided = _format_of(name) if file_format == "auto" else file_format
    if decided is None:
        raise SourceError(f"{name}: cannot tell its format by the ending; known endings: {', '.join(ENDINGS)}. Name it in `source.file_format`.")
    return decided  # type: ignore[return-value]


def _fetch(located: Located, scratch: Path | None) -> Path | bytes:
    with _remote_errors(located.filesystem.unstrip_protocol(located.path)), located.filesystem.open(located.path, "rb") as stream:
        return _keep(stream, located.name, scratch)


def _keep(stream: IO[bytes], name: str, scratch: Path | None) -> Path | bytes:
    if scratch is None:
        return stream.read()
    target = scratch / hashlib.sha256(name.encode()).hexdigest()[:16] / PurePosixPath(name).name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as copy:
        shutil.copyfileobj(stream, copy, _CHUNK)
    return target


def _is_zip(content: Path | bytes) -> bool:
    with open_content(content) as stream:
        return zipfile.is_zipfile(stream)


def _zip_members(located: Located, content: Path | bytes, file_format: str, scratch: Path | None) -> Iterator[SourceFile]:
    if not _is_zip(content):
        raise SourceError(f"{located.name}: expected a zip archive, found a file that is none or was cut off. Fetch it again.")
    with open_content(content) as packed, zipfile.ZipFile(packed) as archive:
        members = [info for info in archive.infolist() if not info.is_dir() and _is_data_file(PurePosixPath(info.filename).parts, file_format)]
        if not members:
            inside = ", ".join(info.filename for info in archive.infolist()[:5]) or "nothing"
            raise SourceError(f"{located.name}: expected data files in the zip, found {inside}. Name the format in `source.file_format`.")
        for info in sorted(members, key=lambda member: member.filename):
            name = f"{located.name}!{info.filename}"
            with archive.open(info) as stream:
                member = _keep(stream, name, scratch)
            yield from _tables(SourceFile(name, member, _decide_format(info.filename, file_format), located.partitions))


def _tables(file: SourceFile) -> Iterator[SourceFile]:
    digest, num_bytes = digest_of(file.content)
    file = replace(file, digest=digest, num_bytes=num_bytes)
    if num_bytes == 0:
        raise SourceError(f"{file.name}: expected rows, found an empty file (0 bytes). Export it again or leave it out.")
    if file.file_format == "excel":
        for sheet in _sheet_names(file):
            yield replace(file, name=f"{file.name}#{sheet}", sheet=sheet)
        return
    if file.file_format == "parquet":
        _check_parquet_ends(file)
        with reading(file.name):
            file = replace(file, num_rows_about=pl.scan_parquet(file.content).select(pl.len()).collect().item())
    if file.file_format in {"csv", "jsonl"}:
        file = replace(file, num_rows_about=_num_lines(file))
    yield file


def _sheet_names(file: SourceFile) -> list[str]:
    import fastexcel  # heavy, and only workbooks need it

    try:
        return list(fastexcel.read_excel(str(file.content) if isinstance(file.content, Path) else file.content).sheet_names)
    except fastexcel.FastExcelError as error:
        raise SourceError(
            f"{file.name}: expected a workbook (xlsx, xls, xlsb, ods), found a file that is none ({_first_line(error)}). Save it again."
        ) from error


def digest_of(content: Path | bytes, first_bytes: int | None = None) -> tuple[str, int]:
    """sha256 (64 hex digits) and number of bytes of a content, or of its first bytes only."""
    total, num_bytes = hashlib.sha256(), 0
    with open_content(content) as stream:
        while chunk := stream.read(_CHUNK if first_bytes is None else min(_CHUNK, first_bytes - num_bytes)):
            total.update(chunk)
            num_bytes += len(chunk)
    return total.hexdigest(), num_bytes


def open_content(content: Path | bytes) -> IO[bytes]:
    """Stream over a file or over bytes."""
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)


def is_continued(file: SourceFile, num_bytes: int, digest: str) -> bool:
    """Whether the first `num_bytes` of a file have this digest and end with a line: it is the earlier file with rows appended."""
    if file.num_bytes <= num_bytes or digest_of(file.content, num_bytes)[0] != digest:
        return False
    with open_content(file.content) as stream:
        stream.seek(num_bytes - 1)
        return b"\n" in stream.read(2)


def _check_parquet_ends(file: SourceFile) -> None:
    with open_content(file.content) as stream:
        head = stream.read(4)
        stream.seek(-min(4, file.num_bytes), io.SEEK_END)
        tail = stream.read(4)
    if head != b"PAR1":
        raise SourceError(f"{file.name}: expected Parquet (it starts with PAR1), found {head!r}. Name the format in `source.file_format`.")
    if tail != b"PAR1":
        raise SourceError(f"{file.name}: truncated Parquet, {file.num_bytes:,} bytes without the closing PAR1. It was cut off; fetch or write it again.")


def _num_lines(file: SourceFile) -> int:
    """Lines of a text; raises SourceError that names the line where it is not UTF-8."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    is_packed = file.name.lower().endswith(".gz")
    with open_content(file.content) as raw, gzip.open(raw) if is_packed else raw as stream:
        for chunk in iter(functools.partial(stream.read, _CHUNK), b""):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise SourceError(_not_utf8(file.name, line, error)) from None
            line += chunk.count(b"\n")
    return line


def _not_utf8(name: str, line: int, error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    guess = "utf-16" if line == 1 and error.object[:2] in {b"\xff\xfe", b"\xfe\xff"} else "windows-1252"
    return f"{name}: expected UTF-8, found byte 0x{byte:02x} in line {line:,}. Convert it, e.g. `iconv -f {guess} -t utf-8 {PurePosixPath(name).name}`."


def scan_file(file: SourceFile, *, csv_separator: str = ",", csv_columns: Sequence[str] = ()) -> pl.LazyFrame:
    """Raw columns of one table, hive keys as text, `TABLE` (its name) and `ROW` (position, 1 for the first row of data).

    Raises SourceError if the schema cannot be read; faults further down appear when the frame is collected (see `reading`).
    """
    with reading(file.name):
        raw = _scan_format(file, csv_separator, csv_columns)
        known = raw.collect_schema().names()
    hive = [pl.lit(value, dtype=pl.String).alias(name) for name, value in file.partitions if name not in known]
    return raw.with_columns(*hive, pl.lit(file.name).alias(TABLE))


def _scan_format(file: SourceFile, csv_separator: str, csv_columns: Sequence[str]) -> pl.LazyFrame:
    content = file.content
    match file.file_format:
        case "parquet":
            return pl.scan_parquet(content, row_index_name=ROW, row_index_offset=1, hive_partitioning=False, glob=False)
        case "ipc":
            return pl.scan_ipc(content, row_index_name=ROW, row_index_offset=1, hive_partitioning=False, glob=False)
        case "csv":
            separator = "\t" if file.name.lower().endswith(".tsv") else csv_separator
            return pl.scan_csv(
                content,
                separator=separator,
                has_header=not csv_columns,
                new_columns=list(csv_columns) or None,
                infer_schema=False,
                row_index_name=ROW,
                row_index_offset=1,
                glob=False,
            )
        case "jsonl":
            return pl.scan_ndjson(content, infer_schema_length=10_000, row_index_name=ROW, row_index_offset=1)
        case "excel":
            return _read_sheet(file).lazy()


def _read_sheet(file: SourceFile) -> pl.DataFrame:
    # All rows decide a column's type: a code column that starts with numbers turns to text further down.
    return pl.read_excel(file.content, sheet_name=file.sheet, infer_schema_length=None, raise_if_empty=False).with_row_index(ROW, offset=1)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what Polars says about a broken file into a SourceError that names the file."""
    try:
        yield
    except pl.exceptions.ColumnNotFoundError as error:
        raise SourceError(_column_not_found(name, str(error))) from error
    except pl.exceptions.NoDataError as error:
        raise SourceError(f"{name}: expected a header and rows, found no data. Export it again or leave it out.") from error
    except (pl.exceptions.ComputeError, pl.exceptions.SchemaError) as error:
        raise SourceError(f"{name}: cannot be read to its end: {_first_line(error)}. {_advice(str(error))}") from error


def _column_not_found(where: str, text: str) -> str:
    match = re.search(r'unable to find column "(.+?)"; valid columns: \[(.*?)\]', text)
    if match is None:
        return f"{where}: a column that the data set reads is missing: {text.strip().splitlines()[0]}."
    have = _own(re.findall(r'"(.*?)"', match[2]))
    return f"{where}: {_missing(match[1], have)}. Check that `source.dataset` is the one this file belongs to."


def _advice(text: str) -> str:
    if "found more fields" in text:
        return "A line has more fields than the header: check `source.csv_separator` and unquoted separators."
    return "It is damaged or not of the format its ending says; write it again, or name the format in `source.file_format`."


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].strip()


@contextmanager
def _remote_errors(address: str) -> Iterator[None]:
    """Tell a wrong address (SourceError) from a store that failed (TransientError)."""
    where = shown(address)
    try:
        yield
    except (SourceError, TransientError):
        raise
    except (ValueError, ImportError) as error:
        raise SourceError(f"{where}: the address cannot be used ({_first_line(error)}). Check its scheme, e.g. s3:// or https://.") from error
    except Exception as error:
        cause = error.__cause__ or error  # fsspec calls a web server that does not answer a missing file; the cause knows better
        status = getattr(cause, "status", None)
        if isinstance(error, PermissionError) or status in {401, 403}:
            raise SourceError(f"{where}: access refused. Check the credentials the store reads from the environment.") from error
        if isinstance(cause, FileNotFoundError) or status in {404, 410}:
            raise SourceError(f"{where}: no such file. Check the address.") from error
        if isinstance(error, OSError) or type(cause).__module__.startswith(("aiohttp", "botocore")):
            raise TransientError(f"{where}: the store did not answer as expected ({type(cause).__name__}). It may pass; try again.") from error
        raise


def require_columns(found: Iterable[str], wanted: Mapping[str, str], *, where: str) -> None:
    """Raise SourceError that names each missing column and the nearest one the source has.

    Parameters
    ----------
    wanted
        Parameter -> column name it holds, e.g. {"source.columns.user_id": "customer"}.
    """
    have = _own(found)
    faults = [f"{_missing(name, have)} (set `{parameter}`)" for parameter, name in wanted.items() if name not in have]
    if faults:
        raise SourceError(f"{where}: {'; '.join(faults)}; have {len(have)} columns: {', '.join(have[:12])}{' ...' if len(have) > 12 else ''}.")


def _own(columns: Iterable[str]) -> list[str]:
    """Columns of the source itself."""
    return [name for name in columns if name not in {ROW, TABLE}]


def _missing(name: str, have: Sequence[str]) -> str:
    near = get_close_matches(name.lower(), [column.lower() for column in have], n=1, cutoff=0.4)
    nearest = next((column for column in have if near and column.lower() == near[0]), None)
    return f"column `{name}` missing" + (f", nearest `{nearest}`" if nearest else "")
