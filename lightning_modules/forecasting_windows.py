"""Windows of many series as tensors: what a global network sees at the end of a past, and what it must say.

S series, T periods, B windows, L past periods, H horizon, K known inputs, C seasonal channels, F facts of a series.

A window is taken about its recent level and divided by its own spread, so that one network serves a corner shop and a country. Beside the past it
gets, for each step ahead, what the same step of up to three earlier seasons added to the level of then; the network corrects that guess.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from contracts import columns as c

SEASONS_BACK = 3
MIN_PAST = 4
FEWEST_STEPS = 20
NUM_OWN_FACTS = 3  # level over spread, share of zeros, age; then one for each level of the data


@dataclass
class Batch:
    """B windows, one process's share of a step.

    past [B, L], is_seen [B, L], past_known [B, L, K], future_known [B, H, K], seasonal [B, H, C], facts [B, F]   inputs
    guess [B, H]           level and season of then, in spreads about the recent level
    target [B, H]          what came, the same units; NaN where not known
    level, spread [B]      to go back to units
    """

    past: Tensor
    is_seen: Tensor
    past_known: Tensor
    future_known: Tensor
    seasonal: Tensor
    facts: Tensor
    guess: Tensor
    target: Tensor
    level: Tensor
    spread: Tensor
    period: int = 0
    share_done: float = 0.0
    ends_period: bool = False

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in moved.items()})


class Series:
    """All series and what is known of their periods, as arrays.

    keys [S] rows (level, id, region); values [S, T] NaN before a series begins; known [R, T + H, K'] by region, planned [S, T + H, K - K'] by series;
    dates [T + H]
    """

    def __init__(self, series: str | Path, periods: str | Path, horizon: int, planned: str | Path | None = None) -> None:
        table, calendar = pl.read_parquet(series), pl.read_parquet(periods)
        self.keys = table.select(c.LEVEL, c.ID, c.REGION)
        self.horizon = horizon
        regions = calendar[c.REGION].unique(maintain_order=True).to_list()
        by_region = [calendar.filter(pl.col(c.REGION) == region) for region in regions]
        self.dates = by_region[0][c.DATE].to_list()
        self.known = np.stack([part.drop(c.REGION, c.DATE).to_numpy().astype(np.float32) for part in by_region])
        self.region = np.array([regions.index(region) if region in regions else 0 for region in table[c.REGION]])
        levels = table[c.LEVEL].unique().sort().to_list()
        self.level = np.eye(len(levels), dtype=np.float32)[[levels.index(level) for level in table[c.LEVEL]]]
        self.num_periods = len(self.dates) - horizon
        self.values = np.full((table.height, self.num_periods), np.nan)
        for row, (first, values) in enumerate(table.select("first", "values").iter_rows()):
            self.values[row, first : first + len(values)] = values
        self.first = table["first"].to_numpy()
        self.planned = self._planned(planned)

    def _planned(self, path: str | Path | None) -> np.ndarray:
        if path is None:
            return np.zeros((len(self.values), len(self.dates), 0), np.float32)
        table = self.keys.join(pl.read_parquet(path), on=self.keys.columns, how="left", maintain_order="left").drop(self.keys.columns)
        usual = pl.lit([0.0] * len(self.dates))
        return np.stack([np.array(column.to_list(), np.float32) for column in table.with_columns(pl.all().fill_null(usual))], axis=2)

    @property
    def num_known(self) -> int:
        """K."""
        return int(self.known.shape[2] + self.planned.shape[2])

    def _known(self, rows: np.ndarray, periods: np.ndarray) -> np.ndarray:
        """What is known beforehand of some periods [B, N] of each row, [B, N, K]."""
        return np.concatenate([self.known[self.region[rows][:, None], periods], self.planned[rows[:, None], periods]], axis=2)

    def windows(self, rows: np.ndarray, ends: np.ndarray, *, past: int, seasons: tuple[int, ...], known_to: int) -> Batch:
        """Windows that end before period `ends` of each row; values at or after `known_to` are NaN in the target."""
        back = ends[:, None] + np.arange(-past, 0)
        ahead = ends[:, None] + np.arange(self.horizon)
        seen = self._at(rows, back)
        is_seen = ~np.isnan(seen)
        recent = self._mean_before(rows, ends, min(past, _level_window(seasons)))
        spread = np.nanmean(np.abs(seen - np.nanmean(seen, axis=1, keepdims=True)), axis=1) + 1e-3 * np.nanmean(np.abs(seen), axis=1)
        spread = np.where(spread > 0, spread, 1.0)
        seasonal, is_known, guess = self._seasonal(rows, ends, seasons)
        target = np.where(ahead < known_to, self._at(rows, ahead), np.nan)
        age = np.log1p(ends - self.first[rows])
        zeros = np.nanmean(np.where(is_seen, seen == 0, np.nan), axis=1)
        facts = np.column_stack([np.log1p(np.abs(recent) / spread), zeros, age / 5, self.level[rows]])
        return Batch(
            past=_tensor(np.where(is_seen, (seen - recent[:, None]) / spread[:, None], 0.0)),
            is_seen=_tensor(is_seen),
            past_known=_tensor(self._known(rows, np.maximum(back, 0))),
            future_known=_tensor(self._known(rows, ahead)),
            seasonal=_tensor(np.concatenate([seasonal / spread[:, None, None], is_known], axis=2)),
            facts=_tensor(facts),
            guess=_tensor(guess / spread[:, None]),
            target=_tensor((target - recent[:, None]) / spread[:, None]),
            level=_tensor(recent),
            spread=_tensor(spread),
        )

    def _seasonal(self, rows: np.ndarray, ends: np.ndarray, seasons: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[B, H, C / 2] increments over the level of then (0 where unknown), whether each is known, and their mean over the longest season [B, H]."""
        steps = np.arange(self.horizon)
        increments = []
        guess = np.zeros((len(rows), self.horizon))
        for season in seasons:
            cycles = -(-(steps + 1) // season)
            of_season = []
            for number in range(SEASONS_BACK):
                behind = (cycles + number) * season
                then = ends[:, None] - (number + 1) * season
                level = self._mean_before(rows, then[:, 0], _level_window((season,)))
                of_season.append(self._at(rows, ends[:, None] + steps - behind) - level[:, None])
            stacked = np.stack(of_season, axis=2)
            known = ~np.isnan(stacked)
            count = known.sum(2)
            mean = np.divide(np.where(known, stacked, 0.0).sum(2), count, out=np.zeros(count.shape), where=count > 0)
            guess = np.where(count > 0, mean, guess)
            increments.append(stacked)
        if not increments:
            nothing = np.zeros((len(rows), self.horizon, 0))
            return nothing, nothing, guess
        channels = np.concatenate(increments, axis=2)
        return np.nan_to_num(channels), ~np.isnan(channels), guess

    def _at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Values at [B, N] periods, NaN outside the history."""
        inside = (columns >= 0) & (columns < self.num_periods)
        return np.where(inside, self.values[rows[:, None], np.clip(columns, 0, self.num_periods - 1)], np.nan)

    def _mean_before(self, rows: np.ndarray, ends: np.ndarray, count: int) -> np.ndarray:
        """[B] mean of the `count` values before `ends`, NaN where none is known."""
        values = self._at(rows, ends[:, None] + np.arange(-count, 0))
        known = (~np.isnan(values)).sum(1)
        return np.divide(np.nansum(values, axis=1), known, out=np.full(len(rows), np.nan), where=known > 0)


def _level_window(seasons: tuple[int, ...]) -> int:
    """Periods of the recent level: whole short seasons, a thirteenth of a long one, at least 8."""
    season = max(seasons, default=1)
    return season if 1 < season <= 12 else max(8, season // 13)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


@dataclass(frozen=True)
class WalkSettings:
    """Numbers of the walk; see `ForecastJob`."""

    known: tuple[int, ...]
    past: int
    seasons: tuple[int, ...]
    first_steps: int
    later_steps: int
    max_epochs: float
    batch_windows: int
    seed: int


class WindowWalk:
    """Loader along time: for each cut-off random windows that lie before it; `rank` of `world_size` takes its share of each step."""

    def __init__(self, series: Series, settings: WalkSettings, *, rank: int = 0, world_size: int = 1) -> None:
        self.series, self.settings, self.rank, self.world_size = series, settings, rank, world_size
        self.done = 0
        self.first_steps = self._at_most(settings.first_steps, settings.known[0])
        self.later_steps = self._at_most(settings.later_steps, settings.known[0])

    def __len__(self) -> int:
        """Steps of the whole walk."""
        return self.first_steps + self.later_steps * (len(self.settings.known) - 1)

    def _at_most(self, steps: int, known: int) -> int:
        """Steps, fewer where the windows before `known` would be seen more than `max_epochs` times."""
        windows = np.maximum(known - self.series.first - MIN_PAST, 0).sum()
        return min(steps, max(-(-int(windows * self.settings.max_epochs) // self.settings.batch_windows), min(steps, FEWEST_STEPS)))

    def state_dict(self) -> dict[str, Any]:
        """Steps taken; the same for every rank."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.done = state["done"]

    def place(self, step: int) -> tuple[int, float, bool]:
        """Cut-off a step belongs to, share of its steps done after it, and whether it is its last."""
        first, later = self.first_steps, self.later_steps
        if step < first:
            return 0, (step + 1) / first, step + 1 == first
        period, number = divmod(step - first, later)
        return period + 1, (number + 1) / later, number + 1 == later

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the present state to the end; starting again after the end begins anew."""
        for step in range(self.done, len(self)):
            self.done = step + 1
            period, share_done, ends_period = self.place(step)
            batch = self.draw(step, self.settings.known[period])
            batch.period, batch.share_done, batch.ends_period = period, share_done, ends_period
            yield batch
        self.done = 0

    def draw(self, step: int, known: int) -> Batch:
        """Windows of a step, the share of this process: series at random, then an end at random, both before `known`."""
        first = self.series.first
        usable = np.flatnonzero(first + MIN_PAST < known)
        generator = np.random.default_rng([self.settings.seed, step])
        rows = usable[generator.integers(len(usable), size=self.settings.batch_windows)]
        ends = generator.integers(first[rows] + MIN_PAST, known)
        mine = slice(self.rank, None, self.world_size)
        return self.series.windows(rows[mine], ends[mine], past=self.settings.past, seasons=self.settings.seasons, known_to=known)

    def is_empty(self, known: int) -> bool:
        """Whether no window ends before a cut-off."""
        return not bool((self.series.first + MIN_PAST < known).any())
