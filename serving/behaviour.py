"""What is known of users, packed end to end so that a block of them is scored at once.

`Behaviour` holds, per user, the history (position, day, type of each event, newest last) and the habits rows, all as of one cut-off.
`StoredBehaviour` is that of a bundle; it also makes the behaviour of users who come with raw events: unknown users, running sessions.
Their habits are counted by `features.habits.habits` itself, as of the day after their newest event.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contracts import columns as c
from contracts.tables import TIMESTAMP
from features.habits import habits
from features.histories import event_kind
from serving.bundle import HABITS, HISTORIES, VOCABULARY, Bundle

POSITION: Final = "position"
ROW: Final = "row"
CODE: Final = "code"
UNKNOWN_TYPE: Final = 0
LOOKED_UP_ONE_BY_ONE: Final = 20_000
EPOCH: Final = date(1970, 1, 1)
EVENTS: Final = (c.USER_ID, c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE, c.PLATFORM)

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Behaviour:
    """Packed behaviour of some users, as of `cutoff`.

    users           [U]     ids
    offsets         [U+1]   where each history starts in positions, days, types
    positions       [N]     item of each event, in order of item ids
    days            [N]     days since 1970-01-01
    types           [N]     code of the event type
    item_offsets    [U+1]   where each user's distinct items start in item_positions, item_days
    item_positions  [P]     distinct items of the user, of the history or of a habit, ascending
    item_days       [P]     day of the last event with it
    habit_offsets   [U+1]   where each user's habits rows start in habit_positions, habit_index
    habit_positions [M]     item of each habits row, ascending within a user
    habit_index     [M]     its row in `source`
    rows            [U]     row of each user among the stored ones, -1 for others
    source                  habits table; that of the whole bundle where `is_stored`
    """

    cutoff: date
    users: tuple[str, ...]
    offsets: Integers
    positions: Integers
    days: Integers
    types: Integers
    item_offsets: Integers
    item_positions: Integers
    item_days: Integers
    habit_offsets: Integers
    habit_positions: Integers
    habit_index: Integers
    rows: Integers
    source: pl.DataFrame
    is_stored: bool

    def __len__(self) -> int:
        return len(self.users)

    @property
    def habits(self) -> pl.DataFrame:
        """Habits rows of these users, [M]."""
        return self.source[self.habit_index]

    def lengths(self) -> Integers:
        """Events per user, [U]."""
        return np.diff(self.offsets)

    def habit_rows(self) -> Integers:
        """Row of the user of each habits row, [M]."""
        return np.repeat(np.arange(len(self)), np.diff(self.habit_offsets))

    def item_rows(self) -> Integers:
        """Row of the user of each distinct item, [P]."""
        return np.repeat(np.arange(len(self)), np.diff(self.item_offsets))

    def take(self, rows: Integers, users: Sequence[str]) -> "Behaviour":
        """Behaviour of the users at `rows`, named `users`; a row of -1 is a user nothing is known of."""
        events, offsets = _gather(self.offsets, rows)
        items, item_offsets = _gather(self.item_offsets, rows)
        kept, habit_offsets = _gather(self.habit_offsets, rows)
        return Behaviour(
            cutoff=self.cutoff,
            users=tuple(users),
            offsets=offsets,
            positions=self.positions[events],
            days=self.days[events],
            types=self.types[events],
            item_offsets=item_offsets,
            item_positions=self.item_positions[items],
            item_days=self.item_days[items],
            habit_offsets=habit_offsets,
            habit_positions=self.habit_positions[kept],
            habit_index=self.habit_index[kept],
            rows=np.where(rows >= 0, self.rows[rows], -1),
            source=self.source,
            is_stored=self.is_stored,
        )

    def without_each(self, positions: Integers) -> "Behaviour":
        """One user as many: copy n has never had anything to do with item `positions[n]`."""
        copies = self.take(np.zeros(len(positions), np.int64), [str(position) for position in positions])
        return copies.without(positions[:, None])

    def without(self, positions: Integers) -> "Behaviour":
        """The same users, each without the items in its row of `positions` [U, n]."""
        events = ~(self.positions[:, None] == positions[np.repeat(np.arange(len(self)), self.lengths())]).any(axis=1)
        items = ~(self.item_positions[:, None] == positions[self.item_rows()]).any(axis=1)
        kept = ~(self.habit_positions[:, None] == positions[self.habit_rows()]).any(axis=1)
        return replace(
            self,
            rows=np.full(len(self), -1),
            offsets=_kept_offsets(self.offsets, events),
            positions=self.positions[events],
            days=self.days[events],
            types=self.types[events],
            item_offsets=_kept_offsets(self.item_offsets, items),
            item_positions=self.item_positions[items],
            item_days=self.item_days[items],
            habit_offsets=_kept_offsets(self.habit_offsets, kept),
            habit_positions=self.habit_positions[kept],
            habit_index=self.habit_index[kept],
        )

    def blocks(self, size: int) -> Iterator["Behaviour"]:
        """The users in blocks of at most `size`, in order."""
        for start in range(0, len(self), size):
            rows = np.arange(start, min(start + size, len(self)))
            yield self.take(rows, self.users[start : start + size])

    def padded(self, max_history: int) -> tuple[Integers, Integers, Integers, Integers]:
        """Newest `max_history` events right-padded: positions, days, types [U, T] and lengths [U]; at least one step wide."""
        lengths = np.minimum(self.lengths(), max_history)
        steps = np.arange(max(int(lengths.max(initial=0)), 1))
        is_real = steps < lengths[:, None]
        index = np.where(is_real, (self.offsets[1:] - lengths)[:, None] + steps, 0)
        if not len(self.positions):
            empty = np.zeros(index.shape, np.int64)
            return empty, empty, empty, lengths
        positions, days, types = (np.where(is_real, values[index], 0) for values in (self.positions, self.days, self.types))
        return positions, days, types, lengths


class StoredBehaviour:
    """The users of a bundle, and what their running sessions add."""

    def __init__(self, bundle: Bundle, event_types: Mapping[str, int]) -> None:
        self._settings = bundle.metadata.features
        self._event_types = dict(event_types)
        self._cutoff = bundle.metadata.cutoff
        self._target_events = bundle.metadata.target_events
        self._vocabulary = bundle.table(VOCABULARY).sort(c.ITEM_ID).with_row_index(POSITION).with_columns(pl.col(POSITION).cast(pl.Int64))
        self._position_of = dict(self._vocabulary.select(c.ITEM_ID, POSITION).iter_rows())
        stored = bundle.table(HABITS)
        histories = _explode(bundle.table(HISTORIES), (c.ITEM_INDEX, c.EVENT_DAY, c.EVENT_TYPE)).join(
            self._vocabulary, on=c.ITEM_INDEX, how="inner", maintain_order="left"
        )
        known = self._vocabulary.lazy().select(c.ITEM_ID, POSITION)
        users = pl.concat([histories[c.USER_ID], stored[c.USER_ID]]).unique().sort().to_list()
        self.behaviour = self._pack(users, histories.lazy(), stored.lazy(), known, self._cutoff, is_stored=True)
        self._rows = {user: row for row, user in enumerate(self.behaviour.users)}
        self._items = _item_repeats(stored, self._vocabulary)
        first_day = stored[c.LOG_FIRST_DAY].min() if stored.height else None
        self._log_first_day = EPOCH + timedelta(days=first_day) if isinstance(first_day, int) else self._cutoff

    def has(self, user_id: str) -> bool:
        """Whether anything is known of a user."""
        return user_id in self._rows

    def behaviours(self, users: Sequence[str], histories: pl.DataFrame | None, request_date: date) -> list[Behaviour]:
        """Behaviour of the users: one for those the bundle alone speaks for, one more for each cut-off of users with raw events."""
        if histories is None:
            return [self._known(users)]
        events = self._events(histories, users, request_date)
        live = set(events[c.USER_ID])
        groups = [self._known([user for user in users if user not in live])]
        if live:
            newest = events.group_by(c.USER_ID).agg(pl.col(c.EVENT_TIME).max().dt.date().alias("newest"))
            cutoffs: dict[date, list[str]] = {}
            for user, day in sorted(newest.iter_rows()):
                cutoffs.setdefault(min(max(self._cutoff, day + timedelta(days=1)), request_date), []).append(user)
            groups += [self._live(group, events.filter(pl.col(c.USER_ID).is_in(group)), cutoff) for cutoff, group in cutoffs.items()]
        return [group for group in groups if len(group)]

    def _known(self, users: Sequence[str]) -> Behaviour:
        return self.behaviour.take(np.array([self._rows.get(user, -1) for user in users], np.int64), users)

    def _live(self, users: Sequence[str], events: pl.DataFrame, cutoff: date) -> Behaviour:
        """Users with raw events: stored history and events in order of time; habits counted anew as of `cutoff`."""
        known = self._known([user for user in users if user in self._rows])
        past = pl.LazyFrame(
            {
                c.USER_ID: np.repeat(np.array(known.users, dtype=object), known.lengths()),
                POSITION: known.positions,
                c.EVENT_DAY: known.days,
                CODE: known.types,
            },
            schema={c.USER_ID: pl.String, POSITION: pl.Int64, c.EVENT_DAY: pl.Int64, CODE: pl.Int64},
        )
        new = events.lazy().select(c.USER_ID, POSITION, pl.col(c.EVENT_TIME).dt.epoch("d").cast(pl.Int64).alias(c.EVENT_DAY), self._live_code().alias(CODE))
        history = (
            pl.concat([past, new]).sort(c.USER_ID, c.EVENT_DAY, maintain_order=True).group_by(c.USER_ID, maintain_order=True).tail(self._settings.max_history)
        )
        last_moment = pl.lit(cutoff).cast(TIMESTAMP) - pl.duration(microseconds=1)
        counted = events.filter(pl.col(c.EVENT_TYPE).is_in(self._target_events)) if self._target_events else events
        interactions = pl.concat(
            [
                _baskets(known.habits.lazy()),
                counted.lazy().select(
                    c.USER_ID, c.ITEM_ID, pl.min_horizontal(pl.col(c.EVENT_TIME), last_moment).alias(c.EVENT_TIME), pl.lit(1.0).alias(c.QUANTITY)
                ),
            ]
        )
        items = self._items[np.unique(np.concatenate([known.habit_positions, _integers(counted[POSITION])]))].lazy()
        rows = habits(interactions, cutoff, self._settings.habit_half_lives_days, items=items.drop(POSITION), log_first_day=self._log_first_day)
        return self._pack(sorted(users), history, rows, items, cutoff, is_stored=False)

    def _events(self, histories: pl.DataFrame, users: Sequence[str], request_date: date) -> pl.DataFrame:
        """Raw events of the users asked for, by time, on known items, none after the request date."""
        events = histories
        if isinstance(events.schema[c.ITEM_ID], pl.List):
            events = _explode(events, tuple(name for name in EVENTS[1:] if name in events.columns))
        events = events.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in (c.EVENT_TYPE, c.PLATFORM) if name not in events.columns)
        return (
            self._placed(events.lazy().select(*EVENTS).with_columns(_utc(events.schema[c.EVENT_TIME])), events[c.ITEM_ID])
            .filter(pl.col(c.USER_ID).is_in(list(users)) & (pl.col(c.EVENT_TIME).dt.date() <= request_date))
            .sort(c.USER_ID, c.EVENT_TIME, maintain_order=True)
            .collect()
        )

    def _placed(self, events: pl.LazyFrame, item_ids: pl.Series) -> pl.LazyFrame:
        """The rows of known items, in order, with their `position`; a few are looked up one by one, so that no request joins the whole vocabulary."""
        if len(item_ids) > LOOKED_UP_ONE_BY_ONE:
            return events.join(self._vocabulary.lazy().select(c.ITEM_ID, POSITION), on=c.ITEM_ID, how="inner", maintain_order="left")
        positions = pl.Series(POSITION, [self._position_of.get(item) for item in item_ids], dtype=pl.Int64)
        return events.with_columns(positions).drop_nulls(POSITION)

    def _code(self, kind: pl.Expr, default: pl.Expr | int) -> pl.Expr:
        return kind.replace_strict(self._event_types, default=default, return_dtype=pl.Int64) if self._event_types else pl.lit(UNKNOWN_TYPE, dtype=pl.Int64)

    def _stored_code(self) -> pl.Expr:
        """Code of a stored event, whose type says its platform."""
        return self._code(pl.col(c.EVENT_TYPE), UNKNOWN_TYPE)

    def _live_code(self) -> pl.Expr:
        """Code of a raw event: of its type on its platform, or of its type alone where the model knows it nowhere else."""
        return self._code(event_kind(), self._code(pl.col(c.EVENT_TYPE), UNKNOWN_TYPE))

    def _pack(self, users: Sequence[str], history: pl.LazyFrame, rows: pl.LazyFrame, vocabulary: pl.LazyFrame, cutoff: date, *, is_stored: bool) -> Behaviour:
        """Pack events in order (user_id, position, event_day, event_type or code) and habits rows (user_id, item_id) of some users, sorted.

        `vocabulary` (item_id, position) holds at least the items of the habits rows. A frame that is collected costs a request more than its few rows do.
        """
        order = pl.LazyFrame({c.USER_ID: pl.Series(users, dtype=pl.String)}).with_row_index(ROW)
        code = pl.col(CODE) if CODE in history.collect_schema() else self._stored_code()
        events, packed = pl.collect_all(
            [
                history.join(order, on=c.USER_ID, how="left", maintain_order="left")
                .sort(ROW, maintain_order=True)
                .select(ROW, POSITION, pl.col(c.EVENT_DAY).cast(pl.Int64), code.alias(CODE)),
                rows.join(vocabulary.select(c.ITEM_ID, POSITION), on=c.ITEM_ID, how="inner").join(order, on=c.USER_ID, how="left").sort(ROW, POSITION),
            ]
        )
        items = (
            pl.concat(
                [
                    events.lazy().select(ROW, POSITION, pl.col(c.EVENT_DAY).alias(c.LAST_DAY)),
                    packed.lazy().select(ROW, POSITION, pl.col(c.LAST_DAY).cast(pl.Int64)),
                ]
            )
            .group_by(ROW, POSITION)
            .agg(pl.col(c.LAST_DAY).max())
            .sort(ROW, POSITION)
            .collect()
        )
        return Behaviour(
            cutoff=cutoff,
            users=tuple(users),
            offsets=_offsets(events[ROW], len(users)),
            positions=_integers(events[POSITION]),
            days=_integers(events[c.EVENT_DAY]),
            types=_integers(events[CODE]),
            item_offsets=_offsets(items[ROW], len(users)),
            item_positions=_integers(items[POSITION]),
            item_days=_integers(items[c.LAST_DAY]),
            habit_offsets=_offsets(packed[ROW], len(users)),
            habit_positions=_integers(packed[POSITION]),
            habit_index=np.arange(packed.height),
            rows=np.arange(len(users)) if is_stored else np.full(len(users), -1),
            source=packed.drop(ROW, POSITION),
            is_stored=is_stored,
        )


def _integers(column: pl.Series) -> Integers:
    return column.to_numpy().astype(np.int64)


def _explode(table: pl.DataFrame, lists: tuple[str, ...]) -> pl.DataFrame:
    return table.filter(pl.col(lists[0]).list.len() > 0).explode(*lists)


def _utc(dtype: pl.DataType) -> pl.Expr:
    """event_time as UTC microseconds; dates and times without zone are taken as UTC."""
    time = pl.col(c.EVENT_TIME)
    if isinstance(dtype, pl.String):
        return time.str.to_datetime(time_unit="us", time_zone="UTC")
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        return time.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    return time.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _baskets(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Stored habits as one event per basket: what `habits` counts. Units are spread evenly; days too old to be listed one by one count once."""
    days = pl.concat_list(c.DAYS, pl.col(c.FIRST_DAY, c.LAST_DAY)).list.unique()
    return (
        rows.select(c.USER_ID, c.ITEM_ID, days.alias("day"), (pl.col(c.UNITS) / pl.col(c.BASKETS)).cast(pl.Float64).alias(c.QUANTITY))
        .explode("day")
        .select(c.USER_ID, c.ITEM_ID, pl.col("day").cast(pl.Date).cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias(c.EVENT_TIME), c.QUANTITY)
    )


def _item_repeats(stored: pl.DataFrame, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """How each item is bought again, in order of position, as the bundle's habits say; items nobody had get the mean over all pairs."""
    again = stored.filter(pl.col(c.BASKETS) > 1)
    share = again.height / stored.height if stored.height else 0.0
    interval = again[c.INTERVAL_DAYS].mean() if again.height else 0.0
    known = stored.group_by(c.ITEM_ID).agg(pl.col(c.ITEM_REPEAT_SHARE, c.ITEM_INTERVAL_DAYS).first())
    return (
        vocabulary.select(c.ITEM_ID, POSITION)
        .join(known, on=c.ITEM_ID, how="left", maintain_order="left")
        .with_columns(pl.col(c.ITEM_REPEAT_SHARE).fill_null(share).cast(pl.Float64), pl.col(c.ITEM_INTERVAL_DAYS).fill_null(interval).cast(pl.Float64))
    )


def _offsets(rows: pl.Series, num_users: int) -> Integers:
    return np.concatenate([[0], np.cumsum(np.bincount(rows.to_numpy(), minlength=num_users))]).astype(np.int64)


def _kept_offsets(offsets: Integers, kept: NDArray[np.bool_]) -> Integers:
    return np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)[offsets]


def _gather(offsets: Integers, rows: Integers) -> tuple[Integers, Integers]:
    """Indices of the elements of the ranges `rows`, end to end, and their new offsets; -1 is an empty range."""
    known = rows >= 0
    starts = np.where(known, offsets[rows], 0)
    lengths = np.where(known, offsets[rows + 1] - offsets[rows], 0)
    new = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.repeat(starts - new[:-1], lengths) + np.arange(new[-1]), new
