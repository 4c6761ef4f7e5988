"""The training events as memory-mapped Arrow: what every rank and worker reads, none of it held in memory.

`training_events` (Parquet, sorted by user, time, source order) is copied once to an uncompressed Arrow file of three small columns;
record batches end where a user ends. Positions 0..N-1 count its rows; a user's events are the range `offsets[u]:offsets[u+1]`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from contracts import columns as c
from contracts.errors import CheckpointMismatchError, NotEnoughHistoryError

EVENT_DAY = "event_day"
SHARD_ROWS = 4_000_000
READ_ROWS = 1_000_000
COUNTED_AT_ONCE = 500_000
IS_FIRST = "is_first"
SCHEMA = pa.schema([(c.ITEM_INDEX, pa.int32()), (EVENT_DAY, pa.int32()), (c.EVENT_TYPE, pa.uint8()), (IS_FIRST, pa.uint8())])


@dataclass(frozen=True)
class Shard:
    """Columns of one record batch, zero-copy views of the mapped file; `is_first` marks a user's first event with an item."""

    items: np.ndarray
    days: np.ndarray
    types: np.ndarray
    is_first: np.ndarray

    def take(self, rows: np.ndarray) -> "Shard":
        """Copies of some rows."""
        return Shard(self.items[rows], self.days[rows], self.types[rows], self.is_first[rows])


class EventLog:
    """Events by position. `users` [U] ids in order of their first row, `offsets` [U+1]."""

    def __init__(self, folder: Path) -> None:
        source = pa.memory_map(str(folder / "events.arrow"))
        reader = pa.ipc.open_file(source)
        self.shards = [
            Shard(*(column.to_numpy(zero_copy_only=True) for column in reader.get_batch(number).columns)) for number in range(reader.num_record_batches)
        ]
        self.starts = np.concatenate([[0], np.cumsum([len(shard.items) for shard in self.shards])]).astype(np.int64)
        self.offsets: np.ndarray = np.load(folder / "offsets.npy", mmap_mode="r")
        self._users = folder / "users.parquet"

    @property
    def num_users(self) -> int:
        """Users with at least one event."""
        return len(self.offsets) - 1

    def first_day(self) -> int:
        """Day of the earliest event."""
        return min(int(shard.days.min()) for shard in self.shards)

    def users(self) -> pl.Series:
        """User ids in order of row, [U]."""
        return pl.read_parquet(self._users)[c.USER_ID]

    def take(self, positions: np.ndarray) -> Shard:
        """Events at `positions` (any order)."""
        shard_of = np.searchsorted(self.starts, positions, side="right") - 1
        touched = np.unique(shard_of)
        if len(touched) == 1:
            return self.shards[touched[0]].take(positions - self.starts[touched[0]])
        number = len(positions)
        out = Shard(np.empty(number, np.int32), np.empty(number, np.int32), np.empty(number, np.uint8), np.empty(number, np.uint8))
        for shard in touched:
            mine = shard_of == shard
            part = self.shards[shard].take(positions[mine] - self.starts[shard])
            out.items[mine], out.days[mine], out.types[mine], out.is_first[mine] = part.items, part.days, part.types, part.is_first
        return out

    def ends_before(self, day: int) -> np.ndarray:
        """For each user the position behind the last event before `day`, [U]."""
        return self.first_at(self.offsets[:-1], self.offsets[1:], np.full(self.num_users, day))

    def first_at(self, low: np.ndarray, high: np.ndarray, days: np.ndarray) -> np.ndarray:
        """First position in `[low, high)`, a run of one user's events, whose day is at least the wanted one (`high` if none): bisection over all at once."""
        low, high = np.array(low), np.array(high)
        while (low < high).any():
            middle = (low + high) // 2
            open_ = low < high
            before = np.zeros(len(low), bool)
            before[open_] = self.take(middle[open_]).days < days[open_]
            low = np.where(open_ & before, middle + 1, low)
            high = np.where(open_ & ~before, middle, high)
        return low

    def item_counts(self, day: int, num_items: int) -> np.ndarray:
        """Events of each item before `day`, [I]."""
        counts = np.zeros(num_items, np.int64)
        for shard in self.shards:
            for start in range(0, len(shard.items), COUNTED_AT_ONCE):
                part = slice(start, start + COUNTED_AT_ONCE)
                counts += np.bincount(shard.items[part][shard.days[part] < day], minlength=num_items)
        return counts


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Positions of the ranges `starts[i] : starts[i] + lengths[i]`, end to end."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def prepare_event_log(events: str, folder: Path, event_types: Mapping[str, int], num_items: int) -> None:
    """Copy the events to `folder` as Arrow, a shard at a time; does nothing where that was finished before.

    Raises NotEnoughHistoryError where there are no events, CheckpointMismatchError where an item lies outside the vocabulary.
    """
    if (folder / "offsets.npy").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    users: list[pl.Series] = []
    lengths: list[np.ndarray] = []
    with pa.OSFile(str(folder / "events.arrow.part"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for shard in _whole_users(_read(events), SHARD_ROWS):
            _check_items(shard, events, num_items)
            runs = shard[c.USER_ID].rle().struct.unnest()
            users.append(runs["value"].alias(c.USER_ID))
            lengths.append(runs["len"].to_numpy())
            codes = shard[c.EVENT_TYPE].cast(pl.String).replace_strict(dict(event_types), default=0, return_dtype=pl.UInt8)
            is_first = shard.select(pl.struct(c.USER_ID, c.ITEM_INDEX).is_first_distinct().cast(pl.UInt8)).to_series()
            columns = [shard[c.ITEM_INDEX].cast(pl.Int32), shard[EVENT_DAY].cast(pl.Int32), codes, is_first]
            writer.write_batch(pa.record_batch([pa.array(column.to_numpy()) for column in columns], schema=SCHEMA))
    if not users:
        raise NotEnoughHistoryError(f"training_events: expected at least one event, found none in {events}. Check the cut-off and the ingest.")
    pl.concat(users).to_frame().write_parquet(folder / "users.parquet")
    (folder / "events.arrow.part").replace(folder / "events.arrow")
    np.save(folder / "offsets.part.npy", np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)]))
    (folder / "offsets.part.npy").replace(folder / "offsets.npy")


def _read(events: str) -> Iterator[pl.DataFrame]:
    path = Path(events)
    for part in [path] if path.is_file() else sorted(path.rglob("*.parquet")):
        with pq.ParquetFile(part) as parquet:
            for batch in parquet.iter_batches(READ_ROWS, columns=[c.USER_ID, c.ITEM_INDEX, EVENT_DAY, c.EVENT_TYPE]):
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                yield frame


def _whole_users(batches: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """Frames of about `rows` rows that end where a user ends."""
    kept: list[pl.DataFrame] = []
    for batch in batches:
        kept.append(batch)
        if sum(frame.height for frame in kept) < rows:
            continue
        frame = pl.concat(kept)
        whole = frame.height - int(frame[c.USER_ID].rle().struct.field("len")[-1])
        if whole:
            yield frame[:whole]
        kept = [frame[whole:]]
    rest = pl.concat(kept) if kept else None
    if rest is not None and rest.height:
        yield rest


def _check_items(shard: pl.DataFrame, events: str, num_items: int) -> None:
    largest, smallest = shard[c.ITEM_INDEX].max(), shard[c.ITEM_INDEX].min()
    if largest is None or smallest is None or int(str(largest)) >= num_items or int(str(smallest)) < 0:
        raise CheckpointMismatchError(
            f"training_events: expected item_index from 0 to {num_items - 1}, found {smallest} to {largest} in {events}. "
            "Build the events with the vocabulary of this run."
        )
