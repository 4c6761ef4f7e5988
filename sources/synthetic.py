"""Generated behaviour with planted taste, habit and season, and the truth behind it.

What is planted, so that tests can ask for it back:

* yearly: each leaf category has its own time of the year; the southern region has it half a year later
* moving occasions: categories that sell in the weeks before Easter, Black Friday or Christmas, wherever the date falls
* weekly: weekends are busier, and for some categories much more so
* life: a fifth of the items appears later, a seventh vanishes; half of the users join over time
* taste: each user has three favourite leaf categories
* habit: each user has staples he comes back to at an interval of their own

Every day is drawn from its own seed, so the events do not depend on how many are written at a time, and memory does not grow with them.
"""

import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contracts.errors import SourceError
from contracts.sections.source import SyntheticConfig

EVENTS_FOLDER: Final = "events"
CATALOGUE_FILE: Final = "catalogue.parquet"
REGIONS: Final = ("GB", "AU")  # north and south; codes of holiday calendars
REGION_SHARES: Final = (0.6, 0.4)
OCCASIONS: Final = ("none", "easter", "black_friday", "christmas")
ROWS_PER_FILE: Final = 1_000_000

_COMPLETE: Final = "complete.json"
_FORMAT: Final = 1
_FAVOURITES: Final = (6.0, 3.0, 1.5)  # weight of a user's favourite categories; everything else together weighs `_BACKGROUND`
_BACKGROUND: Final = 2.0
_NUM_STAPLES: Final = 5
_REPEAT_SHARE: Final = 0.4
_REPEAT_TYPES: Final = (("view", 0.25), ("cart", 0.05), ("purchase", 0.70))
_TASTE_TYPES: Final = (("view", 0.60), ("click", 0.10), ("cart", 0.08), ("purchase", 0.22))
_TYPES: Final = ("view", "click", "cart", "purchase")
_PLATFORMS: Final = ("app", "web", "store")

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """Everything fixed before the first event. Arrays over items (I), leaf categories (L), users (U); items are sorted by leaf."""

    config: SyntheticConfig
    first_day: dt.date
    leaf_of: Ints  # [I]
    leaf_bounds: Ints  # [L + 1] first item of each leaf
    popularity: Floats  # [I]
    price: Floats  # [I]
    peak_day: Floats  # [I] day of the year of the yearly peak in the north
    strength: Floats  # [I] 0: the same all year
    occasion: Ints  # [L] index of OCCASIONS
    weekend_lift: Floats  # [L]
    item_first: Ints  # [I] day number
    item_last: Ints  # [I] day number, inclusive
    user_region: Ints  # [U]
    user_first: Ints  # [U] day number
    activity: Floats  # [U]
    favourites: Ints  # [U, 3] leaf
    staples: Ints  # [U, 5] item
    interval: Ints  # [U, 5] days
    phase: Ints  # [U, 5] days

    @property
    def num_leaves(self) -> int:
        """Number of leaf categories."""
        return len(self.leaf_bounds) - 1

    def date(self, day: int) -> dt.date:
        """Calendar date of a day number."""
        return self.first_day + dt.timedelta(days=day)


@dataclass(frozen=True)
class GroundTruth:
    """What the generator planted.

    items   item_id, department, category, popularity, peak_day (north), strength, occasion, weekend_lift, first_date, last_date
    users   user_id, region, first_date, favourites (list of category), staples (list of item_id), intervals_days (list)
    days    date, expected_events
    """

    items: pl.DataFrame
    users: pl.DataFrame
    days: pl.DataFrame
    _world: World

    def item_shares(self, date: dt.date, region: str) -> pl.DataFrame:
        """Share of each item among the events of a region on a date that follow neither taste nor habit: item_id, share (sums to 1)."""
        weights = item_weights(self._world, (date - self._world.first_day).days, REGIONS.index(region))
        return self.items.select("item_id", share=pl.Series(weights / weights.sum()))


def build_world(config: SyntheticConfig) -> World:
    """Draw items, users and their tastes from `config.seed`."""
    rng = np.random.default_rng([config.seed, 0])
    num_items, num_users = config.num_items, config.num_users
    num_leaves = int(np.clip(num_items // 20, 1, 40))
    leaf_bounds = np.linspace(0, num_items, num_leaves + 1).astype(np.int64)
    leaf_of = np.repeat(np.arange(num_leaves), np.diff(leaf_bounds))
    occasion = np.where(np.arange(num_leaves) % 5 == 4, 1 + (np.arange(num_leaves) // 5) % 3, 0)
    leaf_peak = (np.arange(num_leaves) * 365.25 * 0.381966) % 365.25  # golden section: neighbours lie far apart in the year
    leaf_strength = np.where(occasion > 0, 0.0, np.array([0.0, 0.8, 1.6, 2.4])[np.arange(num_leaves) % 4])
    first, last = _lives(rng, num_items, config.days)
    favourites = _distinct_choices(rng, num_users, num_leaves, len(_FAVOURITES))
    staple_leaf = np.take_along_axis(favourites, rng.integers(0, favourites.shape[1], (num_users, _NUM_STAPLES)), axis=1)
    width = np.diff(leaf_bounds)[staple_leaf]
    user_first = np.where(rng.random(num_users) < 0.5, 0, rng.integers(0, max(1, int(config.days * 0.7)), num_users))
    user_first[0] = 0  # no day without anyone
    interval = rng.integers(5, 46, (num_users, _NUM_STAPLES))
    return World(
        config=config,
        first_day=dt.date.fromisoformat(config.first_day),
        leaf_of=leaf_of,
        leaf_bounds=leaf_bounds,
        popularity=rng.lognormal(0.0, 1.0, num_items),
        price=np.round(rng.lognormal(2.0, 0.7, num_items) + 0.5, 2),
        peak_day=(leaf_peak[leaf_of] + rng.normal(0, 10, num_items)) % 365.25,
        strength=leaf_strength[leaf_of] * rng.uniform(0.8, 1.2, num_items),
        occasion=occasion,
        weekend_lift=np.array([1.0, 1.0, 1.8])[np.arange(num_leaves) % 3],
        item_first=first,
        item_last=last,
        user_region=(rng.random(num_users) > REGION_SHARES[0]).astype(np.int64),
        user_first=user_first,
        activity=rng.lognormal(0.0, 0.8, num_users),
        favourites=favourites,
        staples=leaf_bounds[staple_leaf] + (rng.random((num_users, _NUM_STAPLES)) * width).astype(np.int64),
        interval=interval,
        phase=(rng.random((num_users, _NUM_STAPLES)) * interval).astype(np.int64),
    )


def _lives(rng: np.random.Generator, num_items: int, days: int) -> tuple[Ints, Ints]:
    """First and last day of each item; the first item of a catalogue lives through it all, so that no day is empty."""
    fate = rng.random(num_items)
    first = np.where(fate < 0.20, (rng.uniform(0.15, 0.85, num_items) * days).astype(np.int64), 0)
    last = np.where(fate > 0.86, (rng.uniform(0.30, 0.95, num_items) * days).astype(np.int64), days)
    first[0], last[0] = 0, days
    return first, last


def _distinct_choices(rng: np.random.Generator, rows: int, choices: int, wanted: int) -> Ints:
    """[rows, wanted] distinct numbers below `choices` a row (repeated only if there are fewer)."""
    start = rng.integers(0, choices, rows)
    steps = np.cumsum(rng.integers(1, max(2, choices // wanted + 1), (rows, wanted - 1)), axis=1)
    return np.column_stack([start, (start[:, None] + steps) % choices])


def item_weights(world: World, day: int, region: int) -> Floats:
    """Expected weight of each item [I] on a day in a region: popularity x yearly season x occasion x weekend x life."""
    date = world.date(day)
    day_of_year = date.timetuple().tm_yday - (365.25 / 2 if region == 1 else 0.0)
    yearly = np.exp(world.strength * (np.cos(2 * np.pi * (day_of_year - world.peak_day) / 365.25) - 0.25))
    leaf = np.array([_occasion_lift(kind, date) for kind in OCCASIONS])[world.occasion]
    if date.weekday() >= 5:
        leaf = leaf * world.weekend_lift
    is_alive = (world.item_first <= day) & (day <= world.item_last)
    weights: Floats = world.popularity * yearly * leaf[world.leaf_of] * is_alive
    return weights


def _occasion_lift(kind: str, date: dt.date) -> float:
    """1 without an occasion; else 0.05 all year, rising to 8 on the day with a scale of ten days."""
    if kind == "none":
        return 1.0
    days_before = min((occasion_date(kind, date.year + year) - date).days for year in (0, 1) if occasion_date(kind, date.year + year) >= date)
    return float(0.05 + 8.0 * np.exp(-days_before / 10.0))


def occasion_date(kind: str, year: int) -> dt.date:
    """Date of a moving or fixed occasion."""
    if kind == "easter":
        return easter_sunday(year)
    if kind == "christmas":
        return dt.date(year, 12, 25)
    first = dt.date(year, 11, 1)
    return first + dt.timedelta(days=(3 - first.weekday()) % 7 + 22)  # the day after the fourth Thursday of November


def easter_sunday(year: int) -> dt.date:
    """Western Easter. Source: J. Meeus, Astronomical Algorithms, chapter 8 (anonymous Gregorian computus)."""
    century, in_century = divmod(year, 100)
    golden = year % 19
    correction = century - century // 4 - (century - (century + 8) // 25 + 1) // 3
    epact = (19 * golden + correction + 15) % 30
    weekday = (32 + 2 * (century % 4) + 2 * (in_century // 4) - epact - in_century % 4) % 7
    late = (golden + 11 * epact + 22 * weekday) // 451
    month, day = divmod(epact + weekday - 7 * late + 114, 31)
    return dt.date(year, month, day + 1)


def day_counts(world: World) -> Ints:
    """Events of each day; they add up to `num_events`. Weekends and the weeks before Christmas are busier, and the business grows."""
    days = np.arange(world.config.days)
    weekday = (days + world.first_day.weekday()) % 7
    christmas = np.array([_occasion_lift("christmas", world.date(int(day))) for day in days])
    intensity = (1 + 0.2 * days / len(days)) * np.where(weekday >= 5, 1.3, 1.0) * (1 + 0.1 * christmas)
    edges = np.rint(np.cumsum(intensity) / intensity.sum() * world.config.num_events).astype(np.int64)
    counts: Ints = np.diff(edges, prepend=0)
    return counts


class _Crowd:
    """Users of a region by first day, with running activity: who can act on a day is a prefix."""

    def __init__(self, world: World, region: int) -> None:
        members = np.flatnonzero(world.user_region == region)
        self.members = members[np.argsort(world.user_first[members], kind="stable")]
        self.first = world.user_first[self.members]
        self.running = np.cumsum(world.activity[self.members])

    def draw(self, rng: np.random.Generator, day: int, count: int) -> Ints:
        present = int(np.searchsorted(self.first, day, side="right"))
        if present == 0:
            return np.empty(0, dtype=np.int64)
        return self.members[np.searchsorted(self.running[:present], rng.random(count) * self.running[present - 1], side="right").clip(max=present - 1)]


def _day_events(world: World, crowds: tuple[_Crowd, ...], day: int, count: int) -> dict[str, NDArray[Any]]:
    """Events of one day as arrays [count], in order of time."""
    rng = np.random.default_rng([world.config.seed, 1, day])
    wanted = [int(rng.binomial(count, REGION_SHARES[0]))]
    wanted.append(count - wanted[0])
    if any(len(crowd.members) == 0 or crowd.first[0] > day for crowd in crowds):  # a tiny world may have no one in a region yet
        empty = next(region for region, crowd in enumerate(crowds) if len(crowd.members) == 0 or crowd.first[0] > day)
        wanted = [0 if region == empty else count for region in range(len(crowds))]
    parts = [_region_events(world, crowds[region], rng, day, region, num) for region, num in enumerate(wanted) if num]
    events = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    seconds = np.sort(np.clip(rng.normal(14.5, 4.0, count), 0, 23.999) * 3600).astype(np.int64)
    order = rng.permutation(count)
    return {name: values[order] for name, values in events.items()} | {"second": seconds, "day": np.full(count, day)}


def _region_events(world: World, crowd: _Crowd, rng: np.random.Generator, day: int, region: int, count: int) -> dict[str, NDArray[Any]]:
    users = crowd.draw(rng, day, count)
    weights = item_weights(world, day, region)
    items = _taste_items(world, rng, users, weights)
    repeats = rng.random(count) < _REPEAT_SHARE
    staples, has_staple = _staple_items(world, rng, users, weights, day)
    repeats &= has_staple
    items = np.where(repeats, staples, items)
    kind = np.where(repeats, _draw_types(rng, count, _REPEAT_TYPES), _draw_types(rng, count, _TASTE_TYPES))
    platform = np.where(rng.random(count) < 0.8, users % len(_PLATFORMS), rng.integers(0, len(_PLATFORMS), count))
    quantity = 1 + np.where(kind == _TYPES.index("purchase"), rng.poisson(0.3, count), 0)
    return {"user": users, "item": items, "kind": kind, "platform": platform, "quantity": quantity, "region": np.full(count, region)}


def _taste_items(world: World, rng: np.random.Generator, users: Ints, weights: Floats) -> Ints:
    """One item a user: a favourite category or any, in proportion to taste x what is in season; then an item in proportion to its weight."""
    running = np.concatenate([[0.0], np.cumsum(weights)])
    mass = np.diff(running[world.leaf_bounds])
    relative = mass / running[-1] * world.num_leaves
    favourites = world.favourites[users]
    scores = np.column_stack([relative[favourites] * np.array(_FAVOURITES), np.full(len(users), _BACKGROUND)])
    cumulative = np.cumsum(scores, axis=1)
    choice = (rng.random(len(users))[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1)
    leaf = np.take_along_axis(favourites, np.minimum(choice, favourites.shape[1] - 1)[:, None], axis=1)[:, 0]
    is_any = choice >= favourites.shape[1]
    low = np.where(is_any, 0.0, running[world.leaf_bounds[leaf]])
    high = np.where(is_any, running[-1], running[world.leaf_bounds[leaf + 1]])
    drawn = np.searchsorted(running, low + rng.random(len(users)) * (high - low), side="right") - 1
    return drawn.clip(0, len(weights) - 1)


def _staple_items(world: World, rng: np.random.Generator, users: Ints, weights: Floats, day: int) -> tuple[Ints, NDArray[np.bool_]]:
    """One staple a user, the one that is due most of all, and whether he has one that is sold that day."""
    staples, interval = world.staples[users], world.interval[users]
    since_due = (day - world.phase[users]) % interval
    score = (0.05 + np.exp(-since_due / 2.0)) * (weights[staples] > 0)
    cumulative = np.cumsum(score, axis=1)
    choice = (rng.random(len(users))[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1).clip(max=_NUM_STAPLES - 1)
    return np.take_along_axis(staples, choice[:, None], axis=1)[:, 0], cumulative[:, -1] > 0


def _draw_types(rng: np.random.Generator, count: int, types: tuple[tuple[str, float], ...]) -> Ints:
    codes = np.array([_TYPES.index(name) for name, _ in types])
    edges = np.cumsum([share for _, share in types])
    return codes[np.searchsorted(edges, rng.random(count) * edges[-1], side="right").clip(max=len(codes) - 1)]


def event_frames(config: SyntheticConfig, *, rows_per_frame: int = ROWS_PER_FILE) -> Iterator[pl.DataFrame]:
    """Events in order of time, a frame of whole days at a time.

    Columns: event_id, user_id, item_id, event_time, event_type, quantity, price, basket_id, platform, region.
    """
    world = build_world(config)
    crowds = tuple(_Crowd(world, region) for region in range(len(REGIONS)))
    users, items = _user_ids(config), _item_ids(config)
    pending: list[dict[str, NDArray[Any]]] = []
    num_pending = num_written = 0
    for day, count in enumerate(day_counts(world)):
        if count:
            pending.append(_day_events(world, crowds, day, int(count)))
            num_pending += int(count)
        if pending and (num_pending >= rows_per_frame or day == config.days - 1):
            yield _frame(world, pending, users, items, num_written)
            num_written += num_pending
            pending, num_pending = [], 0


def _frame(world: World, days: list[dict[str, NDArray[Any]]], users: pl.Series, items: pl.Series, first_id: int) -> pl.DataFrame:
    events = {name: np.concatenate([day[name] for day in days]) for name in days[0]}
    start = (world.first_day - dt.date(1970, 1, 1)).days
    time = (events["day"] + start) * 86_400 + events["second"]
    return pl.DataFrame(
        {
            "event_id": np.arange(first_id, first_id + len(time)),
            "user_id": users.gather(events["user"]),
            "item_id": items.gather(events["item"]),
            "event_time": pl.Series(time * 1_000_000).cast(pl.Datetime("us", "UTC")),
            "event_type": pl.Series(_TYPES).gather(events["kind"]),
            "quantity": events["quantity"],
            "price": world.price[events["item"]],
            "basket_id": events["user"] * world.config.days + events["day"],
            "platform": pl.Series(_PLATFORMS).gather(events["platform"]),
            "region": pl.Series(REGIONS).gather(events["region"]),
        }
    )


def _user_ids(config: SyntheticConfig) -> pl.Series:
    width = len(str(config.num_users - 1))
    return pl.Series("user_id", [f"u{index:0{width}d}" for index in range(config.num_users)])


def _item_ids(config: SyntheticConfig) -> pl.Series:
    width = len(str(config.num_items - 1))
    return pl.Series("item_id", [f"i{index:0{width}d}" for index in range(config.num_items)])


def catalogue(config: SyntheticConfig) -> pl.DataFrame:
    """One row per item: item_id, department, category, title, text, available_from, available_until."""
    world = build_world(config)
    midnight = dt.datetime.combine(world.first_day, dt.time(), tzinfo=dt.UTC)
    department, leaf = _category_names(world)
    ids = _item_ids(config)
    return pl.DataFrame(
        {
            "item_id": ids,
            "department": department,
            "category": leaf,
            "title": [f"{name} {code}" for name, code in zip(leaf, ids, strict=True)],
            "text": [f"{high}, {low}, {price:.2f}" for high, low, price in zip(department, leaf, world.price, strict=True)],
            "available_from": pl.Series([midnight + dt.timedelta(days=int(day)) for day in world.item_first], dtype=pl.Datetime("us", "UTC")),
            "available_until": pl.Series(
                [midnight + dt.timedelta(days=int(day) + 1) if day < config.days else None for day in world.item_last], dtype=pl.Datetime("us", "UTC")
            ),
        }
    )


def _category_names(world: World) -> tuple[list[str], list[str]]:
    leaves = [f"{OCCASIONS[kind].replace('_', ' ') if kind else 'range'} {number:02d}" for number, kind in enumerate(world.occasion)]
    return [f"department {number // 5}" for number in world.leaf_of], [leaves[number] for number in world.leaf_of]


def ground_truth(config: SyntheticConfig) -> GroundTruth:
    """Tables of what `config` plants; see `GroundTruth`."""
    world = build_world(config)
    department, leaf = _category_names(world)
    items, leaf_names = _item_ids(config), dict(zip(world.leaf_of.tolist(), leaf, strict=True))

    def dates(days: Ints) -> pl.Series:
        return pl.Series([world.date(int(day)) for day in days], dtype=pl.Date)

    item_table = pl.DataFrame(
        {
            "item_id": items,
            "department": department,
            "category": leaf,
            "popularity": world.popularity,
            "peak_day": world.peak_day,
            "strength": world.strength,
            "occasion": pl.Series(OCCASIONS).gather(world.occasion[world.leaf_of]),
            "weekend_lift": world.weekend_lift[world.leaf_of],
            "first_date": dates(world.item_first),
            "last_date": dates(world.item_last),
        }
    )
    user_table = pl.DataFrame(
        {
            "user_id": _user_ids(config),
            "region": pl.Series(REGIONS).gather(world.user_region),
            "first_date": dates(world.user_first),
            "favourites": [[leaf_names[number] for number in row] for row in world.favourites.tolist()],
            "staples": [[items[number] for number in row] for row in world.staples.tolist()],
            "intervals_days": world.interval.tolist(),
        }
    )
    day_table = pl.DataFrame({"date": dates(np.arange(config.days)), "expected_events": day_counts(world)})
    return GroundTruth(item_table, user_table, day_table, world)


def write_synthetic(config: SyntheticConfig, folder: Path, *, progress: Callable[[str, float], None] | None = None) -> Path:
    """Write `events/part-*.parquet` and `catalogue.parquet` into `folder`, a file at a time, and return the folder.

    A folder that holds the same configuration's events already is left as it is. Raises SourceError if it holds anything else.
    """
    mark = folder / _COMPLETE
    wanted = {"format": _FORMAT, **config.model_dump()}
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == wanted:
        return folder
    if folder.exists() and not mark.exists() and any(folder.iterdir()):
        raise SourceError(f"{folder}: expected an empty folder or earlier generated events, found other files. Choose another folder for the synthetic events.")
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / EVENTS_FOLDER).mkdir(parents=True)
    num_written = 0
    for number, frame in enumerate(event_frames(config)):
        frame.write_parquet(aside / EVENTS_FOLDER / f"part-{number:05d}.parquet")
        num_written += frame.height
        if progress:
            progress(f"{num_written:,} of {config.num_events:,} events generated", num_written / config.num_events)
    catalogue(config).write_parquet(aside / CATALOGUE_FILE)
    (aside / _COMPLETE).write_text(json.dumps(wanted), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return folder
