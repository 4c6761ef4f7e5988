"""Setting bad rows aside: every stored row goes either to the accepted parts or to quarantine, in its order. Polars, one part at a time."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.artifacts import TableRef, content_digest
from expectations.row_views import STORED_PART, STORED_ROW

BROKEN_SCHEMA: Final = {STORED_PART: pl.String, STORED_ROW: pl.Int64, "rule_order": pl.Int64, c.RULE: pl.String}


def broken_rows(failures: pl.DataFrame) -> pl.DataFrame:
    """One row per bad row of the table.

    Parameters
    ----------
    failures
        Grain: stored row x broken rule; columns of `BROKEN_SCHEMA`, `rule_order` the place of the rule in its suite.

    Returns
    -------
    Grain: stored row. `rule` is the first rule it broke, `broken_rules` all of them joined by a comma, in the suite's order.

    Examples
    --------
    >>> failures = pl.DataFrame(
    ...     [("a.parquet", 4, 7, "price_negative"), ("a.parquet", 4, 2, "user_id_missing")], schema=BROKEN_SCHEMA, orient="row"
    ... )
    >>> broken_rows(failures).rows()
    [('a.parquet', 4, 'user_id_missing', 'user_id_missing, price_negative')]
    """
    return (
        failures.sort(STORED_PART, STORED_ROW, "rule_order")
        .group_by(STORED_PART, STORED_ROW, maintain_order=True)
        .agg(pl.col(c.RULE).first(), pl.col(c.RULE).str.join(", ").alias(c.BROKEN_RULES))
    )


def split_table(table: TableRef, broken: pl.DataFrame, *, accepted: Path, quarantined: Path) -> tuple[TableRef, TableRef]:
    """Write the good rows to `accepted`, the bad ones to `quarantined`; both folders appear whole or not at all.

    Accepted parts keep their names (one part a month stays one part a month) and their row order, a part without good rows is left out; a single
    file is cut by the month of the event.
    Quarantined parts add `rule`, `broken_rules`, `source_file` and `source_row`; where the table does not say which file and row of the source it
    was, they say which part of the table (relative to it) and which row (from 0). `broken` is what `broken_rows` returns, `stored_part` the part's
    full path. Raises AssertionError if a row is lost.
    """
    root = Path(table.path)
    base = root.parent if root.is_file() else root
    by_month = root.is_file() and c.EVENT_TIME in table.columns
    by_part = {key[0]: group for key, group in broken.group_by(STORED_PART)}
    empty = broken.clear()
    with _whole_folder(accepted) as good_folder, _whole_folder(quarantined) as bad_folder:
        for part in table.parts():
            bad = by_part.get(str(part), empty).drop(STORED_PART).sort(STORED_ROW)
            _write_accepted(part, bad[STORED_ROW], good_folder, part.relative_to(base), by_month=by_month)
            if bad.height:
                _bad_rows(part, bad, place=part.relative_to(base).as_posix()).sink_parquet(
                    bad_folder / f"{'-'.join(part.relative_to(base).with_suffix('').parts)}.parquet"
                )
    good_ref, bad_ref = table_ref(table.name, accepted, columns=table.columns), table_ref(table.name, quarantined)
    assert good_ref.rows + bad_ref.rows == table.rows, f"{table.name}: {table.rows:,} rows in, {good_ref.rows:,} accepted + {bad_ref.rows:,} quarantined"
    assert bad_ref.rows == broken.height, f"{table.name}: {broken.height:,} bad rows found, {bad_ref.rows:,} quarantined"
    return good_ref, bad_ref


def table_ref(name: str, folder: Path, *, columns: Sequence[str] | None = None) -> TableRef:
    """Reference to the Parquet parts below a folder."""
    parts = sorted(folder.rglob("*.parquet"))
    rows = pl.scan_parquet(parts).select(pl.len()).collect().item() if parts else 0
    names = columns if columns is not None else pl.read_parquet_schema(parts[0])
    return TableRef(name=name, path=str(folder), rows=rows, columns=tuple(names), digest=content_digest(parts, folder))


def _write_accepted(part: Path, bad_rows: pl.Series, folder: Path, name: Path, *, by_month: bool) -> None:
    rows = pl.scan_parquet(part, row_index_name=STORED_ROW).filter(~pl.col(STORED_ROW).cast(pl.Int64).is_in(bad_rows.implode())).drop(STORED_ROW)
    if not by_month:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not bad_rows.len():
            _share(part, target)
        elif bad_rows.len() < pq.read_metadata(part).num_rows:
            rows.sink_parquet(target, compression="zstd", maintain_order=True)
        return
    month = pl.col(c.EVENT_TIME).dt.strftime("%Y-%m")
    for name_of_month in rows.select(month.unique().sort()).collect().to_series():
        target = folder / f"month={name_of_month}" / "part.parquet"
        target.parent.mkdir()
        rows.filter(month == name_of_month).sink_parquet(target, compression="zstd", maintain_order=True)


def _share(part: Path, target: Path) -> None:
    """The same file under a second name; parts are replaced, never changed, so nothing is copied where the file system can link."""
    try:
        target.hardlink_to(part)
    except OSError:
        shutil.copyfile(part, target)


def _bad_rows(part: Path, bad: pl.DataFrame, *, place: str) -> pl.LazyFrame:
    rows = pl.scan_parquet(part, row_index_name=STORED_ROW).with_columns(pl.col(STORED_ROW).cast(pl.Int64))
    has_source = {c.SOURCE_FILE, c.SOURCE_ROW} <= set(pl.read_parquet_schema(part))
    source = () if has_source else (pl.lit(place).alias(c.SOURCE_FILE), pl.col(STORED_ROW).alias(c.SOURCE_ROW))
    last = (c.RULE, c.BROKEN_RULES, c.SOURCE_FILE, c.SOURCE_ROW)
    return (
        rows.filter(pl.col(STORED_ROW).is_in(bad[STORED_ROW].implode()))
        .join(bad.lazy(), on=STORED_ROW, how="left", maintain_order="left")
        .with_columns(*source)
        .select(pl.exclude(*last, STORED_ROW), *last)
    )


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield scratch
    except BaseException:
        shutil.rmtree(scratch)
        raise
    if target.exists():
        shutil.rmtree(target)
    scratch.replace(target)
