"""What the head learns from: one sampled (cut-off, lead), ready as tensors, with taste as it was at the cut-off.

Letters: U users with targets, M pairs (user, item) of these users: the items of their history and their targets; J items known at the
cut-off; P of them the pool (the most popular); K terms of taste, the encoder first; D width; S, H inputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from torch import Tensor

from contracts import columns as c
from contracts.errors import DataContractError
from lightning_modules.event_log import EventLog
from lightning_modules.jobs import FineTuneJob, Sample
from lightning_modules.linear_items import LinearItems, decayed, distinct_history, fit_exact, fit_low_rank
from lightning_modules.pretraining import read_snapshot
from lightning_modules.taste import Taste

if TYPE_CHECKING:
    from lightning_modules.adaptation import Histories

POPULARITY_HALF_LIFE_DAYS = 60.0
EVENTS_AT_ONCE = 32_768
USERS_AT_ONCE = 1_024
PAIRS_AT_ONCE = 65_536
EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Known:
    """Taste at a cut-off.

    histories    [users of the log, I]  weights of distinct items, one matrix for each linear term
    linear       one linear item-item model for each term
    popularity   [I]                    decayed number of users of each item, 0 where nobody ever had it
    pool         [P]                    item indices of the most popular, rising
    taste        encoder and request token, or None
    item_vectors [I, D]                 vectors of taste, or None
    """

    cutoff: date
    histories: tuple[sp.csr_array, ...]
    linear: tuple[LinearItems, ...]
    popularity: np.ndarray
    pool: np.ndarray
    taste: Taste | None
    item_vectors: Tensor | None

    @property
    def day(self) -> int:
        """Days from 1970-01-01 to the cut-off."""
        return (self.cutoff - EPOCH).days

    @cached_property
    def half_vectors(self) -> Tensor:
        """`item_vectors` in half precision, one table for all samples of the cut-off; [1, 0] without an encoder."""
        return torch.zeros(1, 0).half() if self.item_vectors is None else self.item_vectors.half()


@dataclass(frozen=True)
class PoolTaste:
    """Linear terms of taste of users for the pool of a cut-off: logs, half precision, one file for each term.

    A file is mapped only while it is read: the pages of all cut-offs together would stay with the process.

    rows   [W]     rows of the log, rising
    files  [W, P]  for each term
    """

    rows: np.ndarray
    files: tuple[Path, ...]

    def terms(self) -> Iterator[np.ndarray]:
        """Each term [W, P], mapped."""
        return (np.load(path, mmap_mode="r") for path in self.files)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Places of rows of the log in `rows`."""
        return np.searchsorted(self.rows, rows)


@dataclass(frozen=True)
class SampleData:
    """One (cut-off, lead) as tensors.

    items       [J]     items known at the cut-off, rising; `season` [J, S] their rows
    pool        [P]     item indices; `rest` the other known items
    offsets     [U+1]   where each user's pairs start
    pair_items  [M]     item index; `is_seen`, `is_target` [M]; `habit` [M, H] half precision, zero where not seen
    pair_taste  [M, K]  terms of taste of each pair, half precision
    queries     [U, D]  encoder's query (D = 0 without an encoder); `taste_items` [I, D] half precision
    linear      linear terms for the pool; `linear_rows` [U] each user's row of them
    histories   what the encoder sees (`adaptation.Histories`), where fine-tuning may change it
    """

    name: str
    lead_days: int
    window_end: date
    items: Tensor
    season: Tensor
    pool: Tensor
    rest: Tensor
    offsets: Tensor
    pair_items: Tensor
    is_seen: Tensor
    is_target: Tensor
    habit: Tensor
    pair_taste: Tensor
    queries: Tensor
    taste_items: Tensor
    linear: PoolTaste
    linear_rows: np.ndarray
    log_floors: Tensor
    histories: "Histories | None" = None

    @property
    def num_users(self) -> int:
        """Users with targets."""
        return len(self.offsets) - 1

    def vectors_of(self, items: Tensor) -> Tensor:
        """Vectors of items, [..., D]."""
        return self.taste_items[items].float()

    def pool_taste(self, users: Tensor) -> Tensor:
        """Terms of taste of users for the pool, [B, P, K]."""
        rows = self.linear_rows[users.numpy()]
        terms = [torch.from_numpy(np.ascontiguousarray(table[rows])).float() for table in self.linear.terms()]
        if self.queries.shape[1]:
            terms.insert(0, self.queries[users] @ self.vectors_of(self.pool).T)
        return torch.stack(terms, -1)

    def other_taste(self, users: Tensor, items: Tensor) -> Tensor:
        """Terms of taste of users for items outside the pool, [B, C, K]: the linear terms are at their floor."""
        terms = [value.expand(len(users), len(items)) for value in self.log_floors]
        if self.queries.shape[1]:
            terms.insert(0, self.queries[users] @ self.vectors_of(items).T)
        return torch.stack(terms, -1)


def known_at(job: FineTuneJob, log: EventLog, cutoff: date) -> Known:
    """Taste at a cut-off: linear terms are fitted, the encoder is the snapshot of the pre-training job."""
    day = (cutoff - EPOCH).days
    matrix, last_days = distinct_history(log, day, job.num_items)
    recent = decayed(matrix, last_days, day, POPULARITY_HALF_LIFE_DAYS)
    popularity = np.bincount(recent.indices, recent.data, minlength=job.num_items)
    pool = np.sort(np.argsort(-popularity, kind="stable")[: min(job.num_candidates, int((popularity > 0).sum()))])
    histories = tuple(decayed(matrix, last_days, day, term.half_life_days) for term in job.linear)
    linear = tuple(_fit(job, history, pool, term.ridge) for history, term in zip(histories, job.linear, strict=True))
    taste = read_snapshot(Path(job.pretraining), cutoff.isoformat()) if job.pretraining else None
    with torch.no_grad():
        vectors = taste.items.all() if taste else None
    return Known(cutoff, histories, linear, popularity, pool, taste, vectors)


def _fit(job: FineTuneJob, history: sp.csr_array, pool: np.ndarray, ridge: float) -> LinearItems:
    if job.linear_form == "exact":
        return fit_exact(history, pool, ridge=ridge, max_landmarks=job.linear_landmarks, seed=job.seed)
    return fit_low_rank(history, pool, rank=job.linear_rank, ridge=ridge, seed=job.seed)


def _labelled(rows: pl.Series, num_users: int, share: float, seed: int) -> pl.Series:
    """Rows of the users whose targets may be learned from: a share of all users, drawn by seed, the same ones at every cut-off."""
    if share == 1.0:
        return rows
    drawn = np.random.default_rng([seed, num_users]).permutation(num_users)[: max(1, round(share * num_users))]
    return rows.filter(rows.is_in(pl.Series(drawn, dtype=rows.dtype).implode()))


@dataclass(frozen=True)
class SampleTables:
    """A sample's tables as read: season by item, pairs by user and item, the users' rows of the log."""

    sample: Sample
    season: pl.DataFrame
    pairs: pl.DataFrame
    rows: np.ndarray


def read_sample(job: FineTuneJob, known: Known, sample: Sample, log_rows: pl.DataFrame, vocabulary: pl.DataFrame) -> SampleTables:
    """Read a sample's tables; the users with labels, at most `max_users`, drawn by seed; items nobody had before the cut-off are left out.

    `log_rows` maps user_id to `row` of the log, `vocabulary` item_id to item_index.
    Raises DataContractError where a table lacks a column the job names.
    """
    is_known = pl.Series(known.popularity > 0)
    season = _read(sample.season, job.season_inputs, vocabulary).unique(c.ITEM_INDEX, keep="first", maintain_order=True).sort(c.ITEM_INDEX)
    season = season.filter(is_known[season[c.ITEM_INDEX].cast(pl.UInt32)])
    targets = _read(sample.targets, (c.USER_ID,), vocabulary).join(log_rows, on=c.USER_ID, how="inner")
    targets = targets.filter(is_known[targets[c.ITEM_INDEX].cast(pl.UInt32)])
    rows = _labelled(targets["row"].unique().sort(), len(log_rows), job.label_share, job.seed)
    if len(rows) > job.max_users:
        rows = rows.sample(job.max_users, seed=job.seed).sort()
    users = rows.to_frame().with_row_index("user")
    targets = targets.join(users, on="row", how="inner").select("user", c.ITEM_INDEX, is_target=pl.lit(value=True))
    habits = _read(sample.habits, (c.USER_ID, *job.habit_inputs), vocabulary).join(log_rows, on=c.USER_ID, how="inner").join(users, on="row", how="inner")
    habits = habits.filter(is_known[habits[c.ITEM_INDEX].cast(pl.UInt32)]).select("user", c.ITEM_INDEX, *job.habit_inputs, is_seen=pl.lit(value=True))
    pairs = habits.join(targets, on=["user", c.ITEM_INDEX], how="full", coalesce=True)
    pairs = pairs.with_columns(pl.col("is_seen", "is_target").fill_null(value=False), pl.col(job.habit_inputs).fill_null(0.0)).sort("user", c.ITEM_INDEX)
    return SampleTables(sample, season, pairs, rows.to_numpy().astype(np.int64))


def pool_taste(job: FineTuneJob, known: Known, rows: np.ndarray, folder: Path) -> PoolTaste:
    """Linear terms of users (rows of the log, rising) for the pool, written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, (linear, history, term) in enumerate(zip(known.linear, known.histories, job.linear, strict=True)):
        path = folder / f"{known.cutoff}_{number}.npy"
        table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(len(rows), len(known.pool)))
        for start in range(0, len(rows), USERS_AT_ONCE):
            scores = linear.scores_of(rows[start : start + USERS_AT_ONCE], history)
            np.maximum(scores, 0, out=scores)
            scores += np.float32(term.floor)
            table[start : start + USERS_AT_ONCE] = np.log(scores, out=scores)
        del table
        files.append(path)
    return PoolTaste(rows, tuple(files))


def sample_data(job: FineTuneJob, log: EventLog, known: Known, tables: SampleTables, linear: PoolTaste) -> SampleData:
    """A sample as tensors."""
    sample, pairs, rows = tables.sample, tables.pairs, tables.rows
    user, items = pairs["user"].to_numpy().astype(np.int64), pairs[c.ITEM_INDEX].to_numpy().astype(np.int64)
    queries = encode(known, log, rows, sample.lead_days)
    linear_rows = linear.take(rows)
    known_items = tables.season[c.ITEM_INDEX].to_numpy().astype(np.int64)
    pool = known.pool[np.isin(known.pool, known_items)]
    if len(pool) < len(known.pool):
        raise DataContractError(
            f"{sample.season}: {len(known.pool) - len(pool)} of the {len(known.pool):,} most popular items before {sample.cutoff} have no season row. "
            "Build season for every item of the vocabulary.",
            table=sample.season,
            rule="season holds every known item",
            num_failed=len(known.pool) - len(pool),
        )
    return SampleData(
        name=f"{sample.cutoff} + {sample.lead_days}",
        lead_days=sample.lead_days,
        window_end=date.fromordinal(sample.cutoff.toordinal() + sample.lead_days + job.horizon_days),
        items=torch.from_numpy(known_items),
        season=torch.from_numpy(tables.season.select(pl.col(job.season_inputs).cast(pl.Float32)).to_numpy(order="c")),
        pool=torch.from_numpy(pool.astype(np.int64)),
        rest=torch.from_numpy(np.setdiff1d(known_items, pool)),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(rows)))])),
        pair_items=torch.from_numpy(items),
        is_seen=torch.from_numpy(pairs["is_seen"].to_numpy()),
        is_target=torch.from_numpy(pairs["is_target"].to_numpy()),
        habit=torch.from_numpy(pairs.select(pl.col(job.habit_inputs).cast(pl.Float32)).to_numpy(order="c")).half(),
        pair_taste=_pair_taste(job, known, linear, linear_rows[user], user, items, queries),
        queries=queries,
        taste_items=known.half_vectors,
        linear=linear,
        linear_rows=linear_rows,
        log_floors=torch.tensor([term.floor for term in job.linear]).log(),
    )


def _pair_taste(job: FineTuneJob, known: Known, linear: PoolTaste, linear_rows: np.ndarray, user: np.ndarray, items: np.ndarray, queries: Tensor) -> Tensor:
    """Terms of taste of each pair, [M, K]."""
    place = np.minimum(np.searchsorted(known.pool, items), len(known.pool) - 1)
    is_pool = known.pool[place] == items
    columns = []
    if known.item_vectors is not None:
        columns.append(_dots(queries.numpy(), known.item_vectors.numpy(), user, items))
    for table, term in zip(linear.terms(), job.linear, strict=True):
        values = np.full(len(items), np.log(term.floor), np.float32)
        values[is_pool] = table[linear_rows[is_pool], place[is_pool]]
        columns.append(values)
    return torch.from_numpy(np.stack(columns, 1).astype(np.float16))


def _dots(left: np.ndarray, right: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    blocks = [slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(rows), PAIRS_AT_ONCE)]
    return np.concatenate([np.einsum("md,md->m", left[rows[block]], right[columns[block]]) for block in blocks] or [np.zeros(0, np.float32)])


def encode(known: Known, log: EventLog, rows: np.ndarray, lead_days: int) -> Tensor:
    """Queries of users (rows of the log) at the cut-off for a lead, [U, D]; D = 0 without an encoder.

    Users of similar history length run together, so that padding stays small.
    """
    if known.taste is None:
        return torch.zeros(len(rows), 0)
    ends, begin = log.ends_before(known.day)[rows], np.asarray(log.offsets[:-1])[rows]
    lengths = np.minimum(ends - begin, known.taste.max_history)
    order = np.argsort(lengths, kind="stable")
    queries = torch.zeros(len(rows), known.taste.items.own.embedding_dim)
    for block in _blocks(lengths[order]):
        users = order[block]
        items, days, types = padded_histories(log, ends[users], lengths[users])
        day = torch.full((len(users),), known.day + lead_days)
        with torch.no_grad():
            queries[users] = known.taste(items, days, types, torch.from_numpy(lengths[users]), day, torch.full((len(users),), float(lead_days)))
    return queries


def padded_histories(log: EventLog, ends: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Items, days and types of the last `lengths` events before `ends`, right-padded, each [B, T]."""
    longest = max(int(lengths.max(initial=0)), 1)
    places = np.minimum(ends[:, None] - lengths[:, None] + np.arange(longest), ends[:, None] - 1).clip(min=0)
    events = log.take(places.ravel())
    items, days, types = (torch.from_numpy(column.astype(np.int64).reshape(places.shape)) for column in (events.items, events.days, events.types))
    return items, days, types


def _blocks(lengths: np.ndarray) -> Iterator[slice]:
    """Slices of rising lengths, each of at most about `EVENTS_AT_ONCE` padded events."""
    start = 0
    while start < len(lengths):
        stop = min(start + USERS_AT_ONCE, len(lengths))
        while stop > start + 1 and (stop - start) * lengths[stop - 1] > EVENTS_AT_ONCE:
            stop = start + (stop - start) // 2
        yield slice(start, stop)
        start = stop


def _read(path: str, columns: Sequence[str], vocabulary: pl.DataFrame) -> pl.DataFrame:
    """Columns of a sample's table, with item_index for item_id."""
    table = pl.scan_parquet(path)
    found = table.collect_schema().names()
    missing = [name for name in (c.ITEM_ID, *columns) if name not in found]
    if missing:
        raise DataContractError(
            f"{path}: columns {', '.join(missing)} missing; found {', '.join(found)}. Build the sample again with the inputs the job names.",
            table=path,
            rule="columns",
            num_failed=len(missing),
        )
    return table.select(c.ITEM_ID, *columns).join(vocabulary.lazy(), on=c.ITEM_ID, how="inner").drop(c.ITEM_ID).collect()
