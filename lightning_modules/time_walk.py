"""Packed batches in the order of time: for each cut-off the events that became known since the last one, and some older ones.

A *window* is a run of a user's events, at most `max_history`; windows are packed end to end into batches of at most `batch_events`, no
padding. Every event is a target once in each pass: windows overlap by one event, which is context only, except where a history begins.

The order depends on the seed, the period and the pass alone, never on the number of processes; the state of the loader is how far the
walk has come (period, batches), so training goes on in mid-period with the next unseen batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from lightning_modules.event_log import EventLog, ranges
from lightning_modules.layouts import Packed

HELD_OUT_BATCHES = 4
MASKED_SHARE = 0.2


@dataclass(frozen=True)
class Period:
    """Training between two cut-offs: events before `end_day`, those from `start_day` on are new."""

    start_day: int | None
    end_day: int
    snapshot: str | None


@dataclass(frozen=True)
class Windows:
    """Runs of events: `starts` [W], `lengths` [W], and whether a window begins its user's history [W]."""

    starts: np.ndarray
    lengths: np.ndarray
    is_beginning: np.ndarray

    def take(self, rows: np.ndarray) -> "Windows":
        """The windows at `rows`."""
        return Windows(self.starts[rows], self.lengths[rows], self.is_beginning[rows])

    def between(self, start: int, stop: int) -> "Windows":
        """A run of the windows, not copied."""
        return Windows(self.starts[start:stop], self.lengths[start:stop], self.is_beginning[start:stop])

    @property
    def num_events(self) -> int:
        """Events in all windows, overlaps counted twice."""
        return int(self.lengths.sum())


@dataclass
class Batch:
    """One packed batch: N events of B windows, M targets.

    items, days, types, gaps, steps  [N]  item, day, type code, days since the event before, place in the window
    sources                          [M]  state a target is predicted from: 0 before any event, n + 1 after event n
    targets                          [M]  item index
    request_days, lead_days, since   [M]  day asked for, lead, days since the last event of the source
    negatives                        [K]  items drawn by popularity, the same on every process
    negative_logq                    [K]  log of how often each is expected among the K
    is_masked                        [N]  events whose item is hidden (objective masked_item), else all false
    weights                          [M]  1 for a user's first event with an item, `repeat_weight` for later ones
    users                            [B]  user of each window, as row of the log
    """

    items: Tensor
    days: Tensor
    types: Tensor
    gaps: Tensor
    steps: Tensor
    sources: Tensor
    targets: Tensor
    request_days: Tensor
    lead_days: Tensor
    since: Tensor
    negatives: Tensor
    negative_logq: Tensor
    weights: Tensor
    is_masked: Tensor
    users: Tensor
    offsets: np.ndarray
    period: int
    number: int
    share_done: float
    ends_period: bool
    scale: float = 1.0

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def layout(self) -> Packed:
        """How the events lie."""
        return Packed(self.offsets, self.items.device)


@dataclass(frozen=True)
class WalkSettings:
    """Numbers of a walk; see `PretrainJob`."""

    max_history: int
    batch_events: int
    num_negatives: int
    epochs: float
    replay: float
    objective: str
    horizon_days: int
    leads_days: tuple[int, ...]
    repeat_weight: float
    even_share: float
    seed: int


class TimeWalk:
    """Loader over all periods; `rank` of `world_size` processes takes its share of each batch."""

    def __init__(self, log: EventLog, periods: list[Period], settings: WalkSettings, *, num_items: int, rank: int = 0, world_size: int = 1) -> None:
        self.log, self.periods, self.settings, self.num_items = log, periods, settings, num_items
        self.rank, self.world_size = rank, world_size
        self.period, self.position, self.epochs = 0, 0, settings.epochs
        self.is_stopped = False
        self._bounds = [log.ends_before(period.end_day) for period in periods]

    def __len__(self) -> int:
        """Batches of the longest walk; early stopping makes it shorter."""
        return sum(len(self.batches(number, self.settings.epochs)) for number in range(len(self.periods)))

    def is_empty(self, number: int) -> bool:
        """Whether a period has no new event."""
        return bool((self._bounds[number] == self._older(number)).all())

    def state_dict(self) -> dict[str, Any]:
        """How far the walk has come; the same for every rank and any number of processes."""
        return {"period": self.period, "position": self.position, "epochs": self.epochs, "is_stopped": self.is_stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.period, self.position, self.epochs = state["period"], state["position"], state["epochs"]
        self.is_stopped = state.get("is_stopped", False)  # checkpoints of earlier versions do not say

    def end_period_early(self, share_done: float) -> None:
        """Leave the current period now; later periods get the same number of visits for each new event."""
        self.epochs = self.epochs * share_done
        self.is_stopped = True

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the present state to the end; starting again after the end begins anew.

        Each of W workers of a DataLoader gives every W-th batch, so that together they give the same batches in the same order. The walk of the main
        process does not move with them: what needs its state (early stopping, going on in mid-period) reads without workers, as pre-training does.
        """
        share, taken = get_worker_info(), 0
        while self.period < len(self.periods):
            # a checkpoint at the step that left a period early is taken up in the next one
            plan = [] if self.is_stopped else self.batches(self.period, self.settings.epochs if self.period == 0 else self.epochs)
            negatives = NegativeSampler(self.log.item_counts(self.periods[self.period].end_day, self.num_items), self.settings.even_share)
            for number in range(self.position, len(plan)):
                self.position, taken = number + 1, taken + 1
                if share and (taken - 1) % share.num_workers != share.id:
                    continue
                batch = self.batch(plan[number], negatives, key=(self.settings.seed, self.period, number), known_to=self._bounds[self.period])
                batch.period, batch.number = self.period, number
                batch.share_done, batch.ends_period = (number + 1) / len(plan), number + 1 == len(plan)
                yield batch
                if self.is_stopped:
                    break
            self.period, self.position, self.is_stopped = self.period + 1, 0, False
        self.period, self.position, self.epochs = 0, 0, self.settings.epochs

    def held_out(self, first_day: int, end_day: int) -> list[Batch]:
        """A few fixed batches whose targets lie in `[first_day, end_day)`."""
        known = self.log.ends_before(end_day)
        older = self.log.ends_before(first_day)
        begin = np.asarray(self.log.offsets[:-1])
        users = np.flatnonzero(known > older)
        windows = _cover(begin[users], older[users], known[users], self.settings.max_history, jitter=None)
        generator = np.random.default_rng([self.settings.seed, 9])
        plan = _pack(windows, generator.permutation(len(windows.starts)), self.settings.batch_events)[:HELD_OUT_BATCHES]
        negatives = NegativeSampler(self.log.item_counts(first_day, self.num_items), self.settings.even_share)
        return [
            self.batch(windows_, negatives, key=(self.settings.seed, 10**6, number), known_to=known, first_target_day=first_day)
            for number, windows_ in enumerate(plan)
        ]

    def batches(self, number: int, epochs: float) -> list[Windows]:
        """Batches of one period, in order."""
        begin = np.asarray(self.log.offsets[:-1])
        return plan_period(begin, self._older(number), self._bounds[number], self.settings, number=number, epochs=epochs)

    def _older(self, number: int) -> np.ndarray:
        """Position of each user's first new event of a period, [U]."""
        start = self.periods[number].start_day
        if start is None:
            return np.asarray(self.log.offsets[:-1])
        return self._bounds[number - 1] if number else self.log.ends_before(start)

    def batch(
        self, windows: Windows, negatives: "NegativeSampler", *, key: tuple[int, ...], known_to: np.ndarray, first_target_day: int | None = None
    ) -> Batch:
        """Share of this process of one global batch."""
        order = np.argsort(windows.lengths, kind="stable")
        is_empty = self.rank >= len(order)
        mine = windows.take(order[:1] if is_empty else order[self.rank :: self.world_size])
        positions = ranges(mine.starts, mine.lengths)
        users = np.searchsorted(self.log.offsets, mine.starts, side="right") - 1
        offsets = np.concatenate([[0], np.cumsum(mine.lengths)])
        events = self.log.take(positions)
        items, days = events.items.astype(np.int64), events.days.astype(np.int64)
        steps = np.arange(len(positions)) - np.repeat(offsets[:-1], mine.lengths)
        gaps = np.where(steps == 0, 0, np.diff(days, prepend=days[:1]))
        if self.settings.objective == "window_item":
            sources, chosen = self._window_targets(positions, days, known_to[np.repeat(users, mine.lengths)], key)
            wanted = self.log.take(chosen)
        elif self.settings.objective == "masked_item":
            is_last = np.append(steps[1:] == 0, True)
            sources = 1 + np.flatnonzero((uniform(positions, (*key, 8)) < MASKED_SHARE) | is_last)
            wanted = events.take(sources - 1)
        else:
            at = np.flatnonzero((steps > 0) | np.repeat(mine.is_beginning, mine.lengths))
            sources, wanted = np.where(steps[at] == 0, 0, at), events.take(at)
        is_masked = np.zeros(len(positions), bool)
        target_weights = np.where(wanted.is_first, 1.0, self.settings.repeat_weight).astype(np.float32)
        kept = (target_weights > 0) & (True if first_target_day is None else wanted.days >= first_target_day)
        sources, wanted, target_weights = sources[kept], wanted.take(kept), target_weights[kept]
        targets, target_days = wanted.items.astype(np.int64), wanted.days.astype(np.int64)
        last_days = np.where(sources == 0, target_days, days[sources - 1])
        if self.settings.objective == "masked_item":
            last_days = target_days - gaps[sources - 1]
            is_masked[sources - 1] = True
        chance = [uniform(positions[np.maximum(sources - 1, 0)], (*key, 3 + turn)) for turn in range(3)]
        request = _requests(target_days, last_days, self.settings.horizon_days, chance)
        weights = target_weights * np.float32(0.0 if is_empty else 1.0)
        drawn = negatives.draw(self.settings.num_negatives, np.random.default_rng([*key, 1]))
        return Batch(
            *(torch.from_numpy(np.ascontiguousarray(x)) for x in (items, days, events.types.astype(np.int64), gaps, steps, sources, targets, *request)),
            negatives=torch.from_numpy(drawn),
            negative_logq=torch.from_numpy(negatives.log_expected(drawn)),
            weights=torch.from_numpy(weights),
            is_masked=torch.from_numpy(is_masked),
            users=torch.from_numpy(users),
            offsets=offsets,
            period=-1,
            number=-1,
            share_done=0.0,
            ends_period=False,
        )

    def _window_targets(self, positions: np.ndarray, days: np.ndarray, known_to: np.ndarray, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """For each event one later event of the user, drawn from the window of a lead drawn at random; events without one are left out.

        `known_to` [N]: position behind the last known event of each event's user. Returns the sources (see `Batch`) and the positions of their targets.
        """
        leads = np.asarray(self.settings.leads_days)[(uniform(positions, (*key, 6)) * len(self.settings.leads_days)).astype(np.int64)]
        first = self.log.first_at(positions + 1, known_to, days + 1 + leads)
        last = self.log.first_at(first, known_to, days + 1 + leads + self.settings.horizon_days)
        chosen = first + (uniform(positions, (*key, 7)) * (last - first)).astype(np.int64)
        at = np.flatnonzero(last > first)
        return at + 1, chosen[at]


class NegativeSampler:
    """Draws items by popularity, and a share of them evenly over the items seen so far."""

    def __init__(self, counts: np.ndarray, even_share: float) -> None:
        seen = counts > 0
        self.probability = (1 - even_share) * counts / max(counts.sum(), 1) + even_share * seen / max(seen.sum(), 1)
        self._cumulative = np.cumsum(self.probability)

    def draw(self, number: int, generator: np.random.Generator) -> np.ndarray:
        """Item indices, with repetition, [number]."""
        drawn = np.searchsorted(self._cumulative, generator.random(number) * self._cumulative[-1], side="right")
        return np.minimum(drawn, len(self._cumulative) - 1)

    def log_expected(self, drawn: np.ndarray) -> np.ndarray:
        """Log of the expected number of times each drawn item is among as many draws, float32."""
        return np.log(self.probability[drawn] * len(drawn)).astype(np.float32)


def plan_period(begin: np.ndarray, older: np.ndarray, known: np.ndarray, settings: WalkSettings, *, number: int, epochs: float) -> list[Windows]:
    """Batches of one period, in order.

    begin, older, known  [U]  position of each user's first event, of the first new one, behind the last known one
    """
    num_new = int((known - older).sum())
    if num_new == 0:
        return []
    users = np.flatnonzero(known > older)
    budget = max(epochs * num_new, 1.0)
    chosen: list[Windows] = []
    spent = 0.0
    has_old = bool((older > begin).any())
    budget_new = budget * (1 - settings.replay) if has_old else budget
    turn = 0
    while spent < budget_new or turn == 0:
        generator = np.random.default_rng([settings.seed, number, turn])
        jitter = None if turn == 0 else generator
        cover = _cover(begin[users], older[users], known[users], settings.max_history, jitter)
        cover = cover.take(generator.permutation(len(cover.starts)))
        if turn > 0:
            cover = cover.take(np.arange(int(np.searchsorted(np.cumsum(cover.lengths), budget_new - spent)) + 1).clip(max=len(cover.starts) - 1))
        chosen.append(cover)
        spent += cover.num_events
        turn += 1
    if has_old and spent < budget:
        chosen.append(_replayed(begin, older, settings.max_history, budget - spent, np.random.default_rng([settings.seed, number, 10**6])))
        everything = _join(chosen)
        return _pack(everything, np.random.default_rng([settings.seed, number, 10**6 + 1]).permutation(len(everything.starts)), settings.batch_events)
    everything = _join(chosen)
    return _pack(everything, np.arange(len(everything.starts)), settings.batch_events)


def _cover(begin: np.ndarray, older: np.ndarray, known: np.ndarray, max_history: int, jitter: np.random.Generator | None) -> Windows:
    """Windows that together hold every event from `older` to `known` as a target once; borders move with `jitter`."""
    stride = max_history - 1
    counts = known - older
    shift = np.zeros(len(counts), np.int64) if jitter is None else jitter.integers(0, stride, len(counts))
    shift = np.minimum(shift, counts - 1).clip(min=0)
    pieces = -(-(counts + shift) // stride)
    user = np.repeat(np.arange(len(counts)), pieces)
    piece = np.arange(len(user)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    last = known[user] + shift[user] - piece * stride
    first = last - stride - 1  # context only, unless the history begins later
    ends, starts = np.minimum(last, known[user]), np.maximum(first, begin[user])
    is_beginning = first < begin[user]
    keep = (ends - starts > 1) | (is_beginning & (ends > starts))
    return Windows(starts[keep], (ends - starts)[keep], is_beginning[keep])


def _replayed(begin: np.ndarray, older: np.ndarray, max_history: int, num_events: float, generator: np.random.Generator) -> Windows:
    """Random windows of older events, users by the number of their events."""
    weights = (older - begin).astype(float)
    size = np.minimum(older - begin, max_history)
    expected = float((weights * size).sum() / weights.sum())
    number = max(int(num_events / max(expected, 1.0)), 1)
    user = np.searchsorted(np.cumsum(weights), generator.random(number) * weights.sum(), side="right").clip(max=len(begin) - 1)
    ends = older[user] - (generator.random(number) * np.maximum(older[user] - begin[user] - size[user] + 1, 1)).astype(np.int64)
    starts = np.maximum(ends - max_history, begin[user])
    keep = ends > starts
    return Windows(starts[keep], (ends - starts)[keep], (starts == begin[user])[keep])


def _join(parts: list[Windows]) -> Windows:
    return Windows(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("starts", "lengths", "is_beginning")))


def _pack(windows: Windows, order: np.ndarray, batch_events: int) -> list[Windows]:
    """Windows in `order`, cut into batches of at most `batch_events` events (one window at least)."""
    ordered = windows.take(order)
    ends = np.cumsum(ordered.lengths)
    batches, start, done = [], 0, 0
    while start < len(ends):
        stop = max(start + 1, int(np.searchsorted(ends, done + batch_events, side="right")))
        batches.append(ordered.between(start, stop))
        start, done = stop, int(ends[stop - 1])
    return batches


def _requests(target_days: np.ndarray, last_days: np.ndarray, horizon_days: int, chance: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A request that each target answers: its window holds the target's day and begins after the last event; the cut-off lies in between.

    Half of the requests are made at the cut-off itself (lead 0). Returns request day, lead and days since the last event.
    """
    gap = target_days - last_days
    back = (chance[0] * np.minimum(gap + 1, horizon_days)).astype(np.int64)
    since = gap - back
    leads = np.where(chance[1] < 0.5, 0, (chance[2] * (since + 1)).astype(np.int64))
    return target_days - back, leads.astype(np.float32), since.astype(np.float32)


def uniform(positions: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Numbers in [0, 1) that depend on position and key alone, so that any number of processes draws the same. Source: SplitMix64 (Steele et al. 2014)."""
    start = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    with np.errstate(over="ignore"):
        x = (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + start
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53
