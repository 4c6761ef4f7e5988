"""Ranks the items of a bundle for users and a date: score = taste + habit + season.

The one implementation of a score: evaluation, publishing, the registered model and the HTTP service all call `Recommender.rank`.
Taste and season are centred over the candidates (a user's own exclusions do not shift them), habit is zero off the history, ties fall to
the smaller item_id. Users nothing is known of have no taste and no habit: they get the seasonal answer.

What lies outside the pool of the linear terms is not scored item by item: `serving.shortlist` gives the few that can be among the best, and only those and
the pool are scored. The list is that of a pass over all items.

Letters: B users of a block, I items in order of item_id (a row's place is its *position*), P items of the pool, K terms of taste, M habits rows,
N pairs of a user and an item, D width of the encoder's vectors.
"""

import math
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, timedelta
from pathlib import Path
from threading import Lock
from typing import Final, Self

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from contracts import columns as c
from contracts.artifacts import BundleRef
from contracts.errors import BundleError
from contracts.sections.features import FeaturesConfig
from contracts.tables import RANKINGS
from features.calendar import calendar
from features.habits import habit_inputs
from features.season import MAX_HOLIDAY_DISTANCE_DAYS, SEASON_PROPER_INPUTS, season
from serving.behaviour import EPOCH, Behaviour, StoredBehaviour
from serving.bundle import FORECASTS, ITEM_CATALOGUE, ITEM_WEEKS, VOCABULARY, Bundle, bundle_ref, read_bundle
from serving.item_tables import Floats, Integers
from serving.networks import LinearTerm, Networks
from serving.shortlist import STRETCH, BestFirst, Offer, Scan

SEASON_COLUMN: Final = {"again": 0, "discover": 1}
DISCOVER: Final = "discover"
SCORES_AT_ONCE: Final = 4_000_000
MAX_USERS_AT_ONCE: Final = 256
SEASON_BYTES_KEPT: Final = 256 * 2**20
QUESTIONS_KEPT: Final = 16
HABIT_DATES_KEPT: Final = 4
MEMORY_BYTES_KEPT: Final = 128 * 2**20
MAX_REMEMBERED_BLOCK: Final = 32
HABIT_ROWS_AT_ONCE: Final = 200_000
MAX_HABITS_KEPT: Final = 2_000_000
PARTS: Final = (c.SCORE, c.TASTE, c.HABIT, c.SEASON)
VECTORS_AT_ONCE: Final = 65_536
ROUNDING: Final = 1e-4
LEAD_INPUT: Final = "season_lead"
SEASON_LOOK_UPS: Final = tuple(name for name in SEASON_PROPER_INPUTS if name != LEAD_INPUT)
HABIT_LOOK_UPS: Final = ("habit_log_last_year_weeks", "habit_last_year_known")

NO_PAIRS: Final = np.zeros(0, np.int64)
Exclusions = Sequence[str] | pl.DataFrame | None


@dataclass(frozen=True)
class Question:
    """What is the same for all users of one call.

    candidates       [I]  items on offer
    season           [I]  centred over them
    pool_season      [P]  that of the pool, minus infinity off the candidates
    pool_weights     [P]  share of each item of the pool in the mean over the candidates that have vectors
    mean_vector      [D]  mean of those vectors
    offer                 what the scan adds to its products; None where taste has no encoder
    best_first            candidates outside the pool that taste cannot tell apart, by season: one group with vectors, one without
    """

    request_date: date
    list_name: str
    candidates: NDArray[np.bool_]
    season: Floats
    pool_season: Floats
    pool_weights: Floats
    mean_vector: Floats
    offer: Offer | None
    best_first: tuple[BestFirst, ...]
    k: int
    region: str
    lookup_shift_days: int = 0


@dataclass(frozen=True)
class _Season:
    """Season of all items on a date: the network's inputs [I, S] and what it says [I, 2]."""

    inputs: Floats
    scores: Floats


@dataclass(frozen=True)
class _Taste:
    """Taste of some users, in parts that any (user, item) pair is put together from.

    queries   [B, D]  of the encoder; None without one
    linear    K' x [B, P]  logarithm of each linear term for the pool, at `floors` outside
    weighted  [B, D]  queries times the list's weight; None where the list has none
    above     [B, P]  weighted sum of the linear terms above their floors
    centre    [B]     mean over the candidates that have vectors
    is_known  [B]     users with a history; the others have no taste
    """

    queries: Floats | None
    linear: Sequence[Floats]
    floors: Sequence[float]
    weighted: Floats | None
    above: Floats
    centre: Floats
    is_known: NDArray[np.bool_]


_OfUsers = dict[Hashable, Floats]  # what was computed for the users of one block and holds for all questions about them


@dataclass(frozen=True)
class Ranked:
    """The best items of some users, end to end, best first: `users` are rows of `names`."""

    names: tuple[str, ...]
    users: Integers
    ranks: Integers
    positions: Integers
    score: Floats
    taste: Floats
    habit: Floats
    season: Floats


@dataclass(frozen=True)
class _Scored:
    """Pairs of a user and an item with their scores and two of the parts, [N] each."""

    users: Integers
    positions: Integers
    score: Floats
    taste: Floats
    habit: Floats


class Recommender:
    """A bundle, loaded. Safe to share between threads; two versions may live in one process."""

    def __init__(self, bundle: Bundle, *, version: str | None = None, threads: int = 1) -> None:
        self.bundle = bundle
        self.version = version or bundle.digest
        self.cutoff = bundle.metadata.cutoff
        vocabulary = bundle.table(VOCABULARY).sort(c.ITEM_ID)
        self.item_ids = vocabulary[c.ITEM_ID]
        self.item_catalogue = bundle.table(ITEM_CATALOGUE)
        self.networks = Networks(bundle.folder / "networks", vocabulary[c.ITEM_INDEX].to_numpy().astype(np.int64), threads=threads)
        self.stored = StoredBehaviour(bundle, self.networks.head.event_types)
        self._vocabulary = vocabulary
        self._item_weeks = bundle.table(ITEM_WEEKS)
        self._forecasts = bundle.table(FORECASTS) if bundle.has_table(FORECASTS) else None
        self.ids = tuple(self.item_ids)
        self._positions = dict(zip(self.ids, range(len(self.ids)), strict=True))
        self._item_index = vocabulary[c.ITEM_INDEX].to_numpy().astype(np.int64)
        self._regions = set(self._item_weeks[c.REGION].unique())
        self._has_events = self._items_with_events()
        self._searchable = self._search_table()
        self._titles = self._texts(c.TITLE)
        self._categories = self._texts(c.CATEGORY)
        self._seasons: OrderedDict[tuple[date, str, int], _Season] = OrderedDict()
        self._questions: dict[tuple[date, str, str, int], Question] = {}
        self._memory: OrderedDict[Hashable, Floats] = OrderedDict()
        self._memory_bytes = 0
        self._habits: dict[date, Floats] = {}
        self._lock = Lock()
        self._scan_found: Scan | None = None
        self._scan_lock, self._threads = Lock(), threads

    @classmethod
    def load(cls, folder: Path | str, *, version: str | None = None, threads: int = 1, verify: bool = True) -> Self:
        """Open the bundle in `folder`. Raises BundleError where it cannot be served."""
        return cls(read_bundle(folder, verify=verify), version=version, threads=threads)

    @property
    def ref(self) -> BundleRef:
        """Reference of the bundle that answers."""
        return bundle_ref(self.bundle)

    @property
    def users(self) -> tuple[str, ...]:
        """Users with a history, sorted."""
        return self.stored.behaviour.users

    @property
    def lists(self) -> tuple[str, ...]:
        """Lists this model ranks."""
        return tuple(self.networks.head.lists)

    def rank(
        self,
        users: Sequence[str] | None = None,
        *,
        request_date: date,
        list_name: str = "again",
        k: int = 10,
        exclude: Exclusions = None,
        candidates: Sequence[str] | pl.Series | None = None,
        histories: pl.DataFrame | None = None,
        region: str = c.ALL_REGIONS,
        lookup_shift_days: int = 0,
    ) -> pl.DataFrame:
        """The `k` best candidates of each user on a date. Columns and grain of the contract `rankings`, users in the order asked.

        Parameters
        ----------
        users
            Ids; None: every user with a history. Unknown ids get the seasonal answer.
        request_date
            First day of the window the list is for; at or after the cut-off.
        list_name
            `again`: anything; `discover`: only items the user has had nothing to do with.
        exclude
            Items nobody gets (a sequence), or rows user_id, item_id of what single users do not get. Unknown items are ignored.
        candidates
            Items offered; default: those with an event before the cut-off or declared available by the catalogue; what is not yet or no
            longer available on the date is left out.
        histories
            Raw events (one row per event or lists per user; user_id, item_id, event_time, event_type, platform) that come on top of what the
            bundle knows: unknown users, running sessions. Unknown items are ignored.
        region
            Region whose season is asked for; one the bundle does not know gets the season of all.
        lookup_shift_days
            Moves only the look-ups by date (calendar, last year's weeks, forecast); lead, trend and history stay. For the season lift.

        Raises ValueError for a date before the cut-off, an unknown list or a k below 1.
        """
        question = self.question(request_date, list_name=list_name, k=k, candidates=candidates, region=region, lookup_shift_days=lookup_shift_days)
        return self.rank_each([question], users, exclude=exclude, histories=histories)[0]

    def rank_each(
        self, questions: Sequence[Question], users: Sequence[str] | None = None, *, exclude: Exclusions = None, histories: pl.DataFrame | None = None
    ) -> list[pl.DataFrame]:
        """As `rank`, one table for each question about the same users; what depends on the user alone is computed once for all of them.

        Of `histories` all questions know the same: what lies before the earliest of their dates.
        """
        asked = list(dict.fromkeys(users)) if users is not None else list(self.users)
        barred = {user: self.positions_of(items) for user, items in self._exclusions(exclude, asked).items()}
        answers: list[list[Ranked]] = [[] for _ in questions]
        for block in self._blocks(asked, histories, min(question.request_date for question in questions)):
            of_users: _OfUsers = {}
            for question, found in zip(questions, answers, strict=True):
                found.append(self._answer(block, question, barred, of_users))
        return [self._rankings(found, question, asked) for found, question in zip(answers, questions, strict=True)]

    def question(
        self,
        request_date: date,
        *,
        list_name: str = "again",
        k: int = 10,
        candidates: Sequence[str] | pl.Series | None = None,
        region: str = c.ALL_REGIONS,
        lookup_shift_days: int = 0,
    ) -> Question:
        """What all users of a call share. Raises ValueError for a date before the cut-off, an unknown list or a k below 1."""
        if request_date < self.cutoff:
            raise ValueError(f"request_date: expected {self.cutoff} (the cut-off of this model) or later, found {request_date}")
        if k < 1:
            raise ValueError(f"k: expected at least 1, found {k}")
        self.networks.list_head(list_name)
        if candidates is not None:
            offered = np.zeros(len(self.item_ids), bool)
            offered[self.positions_of(candidates)] = True
            return self._centred(request_date, list_name, k, offered, region, lookup_shift_days)
        key = (request_date, list_name, region, lookup_shift_days)
        found = self._questions.get(key)
        if found is None:
            found = self._centred(request_date, list_name, k, self.items_on(request_date), region, lookup_shift_days)
            with self._lock:
                self._questions = {**dict(list(self._questions.items())[-(QUESTIONS_KEPT - 1) :]), key: found}
        return replace(found, k=k)

    def _centred(self, request_date: date, list_name: str, k: int, offered: NDArray[np.bool_], region: str, lookup_shift_days: int) -> Question:
        head, networks = self.networks.list_head(list_name), self.networks
        scores = self.season_of(request_date, region, lookup_shift_days)[:, SEASON_COLUMN[list_name]]
        centre = scores[offered].mean(dtype=np.float64) if offered.any() else 0.0
        season = (scores - np.float32(centre)).astype(np.float32)
        counted = offered & networks.has_vectors
        share = np.float32(1 / max(counted.sum(), 1))
        is_scanned = networks.has_encoder and head.encoder_weight != 0
        rest = offered & (networks.place < 0)
        listed, unlisted = rest & networks.has_vectors, rest & ~networks.has_vectors
        groups = [unlisted] if is_scanned else [listed, unlisted]
        return Question(
            request_date=request_date,
            list_name=list_name,
            candidates=offered,
            season=season,
            pool_season=np.where(offered, season, np.float32(-np.inf))[networks.pool],
            pool_weights=counted[networks.pool] * share,
            mean_vector=self._mean_vector(np.flatnonzero(counted), share) if is_scanned else np.zeros(0, np.float32),
            offer=self._scan().offer(season, listed) if is_scanned else None,
            best_first=tuple(BestFirst(season, members) for members in groups if members.any()),
            k=k,
            region=region,
            lookup_shift_days=lookup_shift_days,
        )

    def _mean_vector(self, positions: Integers, share: np.float32) -> Floats:
        """Sum of some items' vectors times `share`, [D]."""
        table = self.networks.taste_items
        assert table is not None
        total = np.zeros(table.width, np.float64)
        for start in range(0, len(positions), VECTORS_AT_ONCE):
            total += table.rows(positions[start : start + VECTORS_AT_ONCE]).sum(axis=0, dtype=np.float64)
        return (total * share).astype(np.float32)

    def _scan(self) -> Scan:
        """The eight-bit copy of the vectors, laid out by what sold in the last year; made when first asked for."""
        with self._scan_lock:
            if self._scan_found is None:
                assert self.networks.taste_items is not None
                best_known = self.positions_of(self._searchable[c.ITEM_ID])
                self._scan_found = Scan(self.networks.taste_items, best_known[self.networks.has_vectors[best_known]], threads=self._threads)
            return self._scan_found

    def answer(
        self, users: Sequence[str], question: Question, *, exclude: Mapping[str, Sequence[str]] | None = None, histories: pl.DataFrame | None = None
    ) -> Iterator[Ranked]:
        """The lists of distinct users, block by block; what `rank` makes a table of."""
        positions = {user: self.positions_of(items) for user, items in (exclude or {}).items()}
        for block in self._blocks(users, histories, question.request_date):
            yield self._answer(block, question, positions, {})

    def _blocks(self, users: Sequence[str], histories: pl.DataFrame | None, request_date: date) -> Iterator[Behaviour]:
        for group in self.stored.behaviours(users, histories, request_date):
            yield from group.blocks(max(1, min(MAX_USERS_AT_ONCE, SCORES_AT_ONCE // max(len(self.networks.pool), STRETCH))))

    def season_of(self, request_date: date, region: str = c.ALL_REGIONS, lookup_shift_days: int = 0) -> Floats:
        """Season of all items on a date, [I, 2] (again, discover), uncentred. Computed once per date and region."""
        return self._season_of(request_date, region, lookup_shift_days).scores

    def _season_of(self, request_date: date, region: str, lookup_shift_days: int) -> _Season:
        key = (request_date, region if region in self._regions else c.ALL_REGIONS, lookup_shift_days)
        with self._lock:
            if key in self._seasons:
                self._seasons.move_to_end(key)
                return self._seasons[key]
        found = self._compute_season(*key)
        with self._lock:
            self._seasons[key] = found
            while len(self._seasons) > 1 and sum(kept.inputs.nbytes for kept in self._seasons.values()) > SEASON_BYTES_KEPT:
                self._seasons.popitem(last=False)
        return found

    def season_scores_uncached(self, request_date: date, region: str = c.ALL_REGIONS) -> Floats:
        """As `season_of`, without taking a place in memory: for sweeps over many dates."""
        key = (request_date, region if region in self._regions else c.ALL_REGIONS, 0)
        with self._lock:
            known = self._seasons.get(key)
        return (known or self._compute_season(*key)).scores

    def season_inputs_of(self, request_date: date, region: str = c.ALL_REGIONS) -> Floats:
        """Inputs of the season network on a date, [I, S], columns `networks.head.season_inputs`."""
        return self._season_of(request_date, region, 0).inputs

    def items_on(self, request_date: date) -> NDArray[np.bool_]:
        """Default candidates, [I]: an event before the cut-off or declared available by the catalogue, and on offer on the date."""
        return (self._has_events | self._declared_from(request_date)) & ~self._closed_on(request_date)

    def items_in(self, category: str, request_date: date) -> pl.Series:
        """Default candidates of a date below a category path (itself or anything finer)."""
        below = pl.DataFrame({c.ITEM_ID: self.item_ids.filter(pl.Series(self.items_on(request_date)))})
        if c.CATEGORY not in self.item_catalogue.columns:
            return below[c.ITEM_ID].clear()
        path = pl.col(c.CATEGORY)
        inside = self.item_catalogue.filter((path == category) | path.str.starts_with(category + c.CATEGORY_SEPARATOR))
        return below.join(inside, on=c.ITEM_ID, how="semi", maintain_order="left")[c.ITEM_ID]

    def past_weeks(self, item_id: str, region: str = c.ALL_REGIONS) -> list[tuple[date, float]]:
        """First day and buyers of each week from an item's first sale to the cut-off, oldest first."""
        rows = dict(self._item_weeks.filter((pl.col(c.ITEM_ID) == item_id) & (pl.col(c.REGION) == region)).select(c.WEEKS_AGO, c.BUYERS).iter_rows())
        weeks = range(max(rows, default=-1), -1, -1)
        return [(self.cutoff - timedelta(days=7 * (weeks_ago + 1)), float(rows.get(weeks_ago, 0))) for weeks_ago in weeks]

    def forecast_of(self, item_id: str, region: str = c.ALL_REGIONS) -> tuple[str | None, pl.DataFrame]:
        """Whose forecast there is for an item, its own or that of the deepest category above it, and its rows by date."""
        empty = pl.DataFrame(schema={c.DATE: pl.Date, c.MEAN: pl.Float64})
        if self._forecasts is None:
            return None, empty
        steps = (self.category_of(item_id) or "").split(c.CATEGORY_SEPARATOR)
        paths = [c.CATEGORY_SEPARATOR.join(steps[:depth]) for depth in range(len(steps), 0, -1)]
        of_region = self._forecasts.filter(pl.col(c.REGION) == region)
        for level, key in [(c.ITEM, item_id), *((c.CATEGORY, path) for path in paths)]:
            rows = of_region.filter((pl.col(c.LEVEL) == level) & (pl.col(c.ID) == key)).sort(c.DATE)
            if rows.height:
                return (self.title_of(item_id) if level == c.ITEM else key), rows
        return None, empty

    def knows(self, item_id: str) -> bool:
        """Whether an item is in the vocabulary."""
        return item_id in self._positions

    def knows_user(self, user_id: str) -> bool:
        """Whether the bundle has a history of a user."""
        return self.stored.has(user_id)

    def newest_items(self, user_id: str, limit: int) -> list[str]:
        """Distinct items of a stored user, newest first."""
        (behaviour,) = self.stored.behaviours([user_id], None, self.cutoff)
        return list(dict.fromkeys(self.item_ids[int(position)] for position in behaviour.positions[::-1]))[:limit]

    def search(self, query: str, limit: int) -> list[str]:
        """Items whose title, category or id holds every word of the query, those with most buyers in the last year first."""
        table = self._searchable
        for word in query.lower().split():
            table = table.filter(pl.col("words").str.contains(word, literal=True))
        return table[c.ITEM_ID].head(limit).to_list()

    def list_of(self, behaviour: Behaviour, question: Question, *, exclude: Sequence[str] = ()) -> Integers:
        """Positions of the list of one user whose behaviour is given, best first."""
        return self._answer(behaviour, question, {behaviour.users[0]: self.positions_of(exclude)}, {}).positions

    def title_of(self, item_id: str) -> str:
        """Title of an item as the catalogue has it, or its id."""
        return self._titles.get(item_id, item_id)

    def category_of(self, item_id: str) -> str | None:
        """Category path of an item, None where the catalogue has none."""
        return self._categories.get(item_id)

    def positions_of(self, item_ids: Iterable[str]) -> Integers:
        """Positions of the items that are known; the others are left out."""
        return np.array([self._positions[item] for item in item_ids if item in self._positions], np.int64)

    # ---- one call -----------------------------------------------------------------------------------------------------

    def _exclusions(self, exclude: Exclusions, asked: Sequence[str]) -> dict[str, Sequence[str]]:
        """Items that are not given to each user."""
        if exclude is None:
            return {}
        if isinstance(exclude, pl.DataFrame):
            return dict(exclude.select(c.USER_ID, c.ITEM_ID).group_by(c.USER_ID).agg(c.ITEM_ID).iter_rows())
        return dict.fromkeys(asked, exclude)

    def _answer(self, block: Behaviour, question: Question, excluded: Mapping[str, Integers], of_users: _OfUsers) -> Ranked:
        num_items = len(self.item_ids)
        taste = self._taste(block, question, of_users)
        rows, positions = block.habit_rows(), block.habit_positions
        had = rows * num_items + positions  # ascending
        is_discover = question.list_name == DISCOVER
        habit = np.zeros(len(rows), np.float32) if is_discover else self._habit(block, question, taste)
        barred = [row * num_items + excluded[user] for row, user in enumerate(block.users) if user in excluded]
        hidden = np.unique(np.concatenate([had, *barred] if is_discover else barred)) if is_discover or barred else np.zeros(0, np.int64)
        known = [self._of_pool(question, taste, rows, positions, habit, hidden)]
        if not is_discover:
            known.append(had[(self.networks.place[positions] < 0) & question.candidates[positions]])
        pairs = np.concatenate(known)
        first = self._scored(question, taste, had, habit, pairs[~_is_in(pairs, hidden)])
        least = _kth_of_each(first.users, first.score, len(block), question.k)
        found = _together(
            first, self._scored(question, taste, had, habit, np.concatenate([*self._of_rest(block, question, taste, had, hidden, least), NO_PAIRS]))
        )
        users, ranks, order = _best_of_each(found.users, found.score, found.positions, question.k)
        return Ranked(
            block.users,
            users,
            ranks,
            found.positions[order],
            found.score[order],
            found.taste[order],
            found.habit[order],
            question.season[found.positions[order]],
        )

    def _scored(self, question: Question, taste: _Taste, had: Integers, habit: Floats, pairs: Integers) -> _Scored:
        """Some pairs (user x I + position), in full."""
        users, positions = np.divmod(pairs, len(self.item_ids))
        of_taste, of_habit = self._taste_of(taste, users, positions), _look_up(had, habit, pairs)
        return _Scored(users, positions, of_taste + question.season[positions] + of_habit, of_taste, of_habit)

    def _of_pool(self, question: Question, taste: _Taste, rows: Integers, positions: Integers, habit: Floats, hidden: Integers) -> Integers:
        """Pairs (user x I + position) of the pool that can be among the best k of their user."""
        networks = self.networks
        if not len(networks.pool):
            return NO_PAIRS
        scores = taste.above - taste.centre[:, None]
        if taste.weighted is not None:
            scores += taste.weighted @ networks.pool_vectors.T
        if not networks.pool_has_vectors.all():
            scores[:, ~networks.pool_has_vectors] = 0
        scores[~taste.is_known] = 0
        scores += question.pool_season
        place = networks.place[positions]
        scores[rows[place >= 0], place[place >= 0]] += habit[place >= 0]
        hidden_rows, hidden_positions = np.divmod(hidden, len(self.item_ids))
        place = networks.place[hidden_positions]
        scores[hidden_rows[place >= 0], place[place >= 0]] = -np.inf
        num_places = scores.shape[1]
        bounds = np.full(len(scores), -np.inf, np.float32)
        if question.k < num_places:
            bounds = np.partition(scores, num_places - question.k, axis=1)[:, num_places - question.k] - np.float32(ROUNDING)
        users, places = np.nonzero((scores >= bounds[:, None]) & (scores > -np.inf))
        return np.asarray(users * len(self.item_ids) + networks.pool[places], np.int64)

    def _of_rest(self, block: Behaviour, question: Question, taste: _Taste, had: Integers, hidden: Integers, least: Floats) -> Iterator[Integers]:
        """Pairs outside the pool, without those the user had (they have a habit), that can be among the best k of their user and reach `least`, [B]."""
        num_items = len(self.item_ids)
        away = had if not len(hidden) else np.union1d(had, hidden)
        num_away = np.bincount(away[self.networks.place[away % num_items] < 0] // num_items, minlength=len(block))
        for group in question.best_first:
            first = group.first(question.k + int(num_away.max(initial=0)))
            found = (np.arange(len(block))[:, None] * num_items + first).ravel()
            yield found[~_is_in(found, away)]
        if question.offer is not None:
            queries = taste.weighted if taste.weighted is not None else np.zeros((len(block), self.networks.width), np.float32)
            wanted = np.where(taste.is_known[:, None], queries, np.float32(0))
            centres = np.where(taste.is_known, taste.centre, np.float32(0))
            users, positions = self._scan().best(wanted, question.offer, question.k + num_away, least + centres - np.float32(ROUNDING))
            found = users * num_items + positions
            yield found[~_is_in(found, away)]

    # ---- the three parts ------------------------------------------------------------------------------------------------

    def _taste(self, block: Behaviour, question: Question, of_users: _OfUsers) -> _Taste:
        """Taste of a block of users, centred over the candidates that have vectors. Raises BundleError where it is not finite."""
        head, networks = self.networks.list_head(question.list_name), self.networks
        queries = self._queries(block, question.request_date, question.lookup_shift_days) if networks.has_encoder else None
        weighted = queries * np.float32(head.encoder_weight) if queries is not None and head.encoder_weight else None
        linear = [self._linear(block, number, term, of_users) for number, term in enumerate(head.linear)]
        floors = [math.log(term.floor) for term in head.linear]
        above = np.zeros((len(block), len(networks.pool)), np.float32)
        for term, values, floor in zip(head.linear, linear, floors, strict=True):  # outside the pool every term is at its floor, which centring takes off
            above += np.float32(term.weight) * (values - np.float32(floor))
        centre = (above * question.pool_weights).sum(axis=1)
        if weighted is not None:
            centre += (weighted * question.mean_vector).sum(axis=1)
        if not np.isfinite(centre).all():
            raise BundleError("taste is not finite: the networks are broken. Export them and register again.")
        return _Taste(queries, linear, floors, weighted, above, centre.astype(np.float32), np.diff(block.item_offsets) > 0)

    def _taste_of(self, taste: _Taste, rows: Integers, positions: Integers) -> Floats:
        """Taste of some pairs, [N]; zero without a history or a vector. A pair's taste does not depend on which others are asked for."""
        networks = self.networks
        found = -taste.centre[rows]
        place = networks.place[positions]
        inside = place >= 0
        found[inside] += taste.above[rows[inside], place[inside]]
        if taste.weighted is not None and networks.taste_items is not None:
            found += np.einsum("nd,nd->n", taste.weighted[rows], networks.taste_items.rows(positions))
        return np.where(taste.is_known[rows] & networks.has_vectors[positions], found, np.float32(0))

    def _terms_of(self, taste: _Taste, rows: Integers, positions: Integers) -> Floats:
        """The K terms of taste of some pairs, neither weighted nor centred, [N, K]."""
        networks = self.networks
        place = networks.place[positions]
        inside = place >= 0
        columns = []
        if taste.queries is not None and networks.taste_items is not None:
            columns.append(np.einsum("nd,nd->n", taste.queries[rows], networks.taste_items.rows(positions)))
        for values, floor in zip(taste.linear, taste.floors, strict=True):
            column = np.full(len(rows), floor, np.float32)
            column[inside] = values[rows[inside], place[inside]]
            columns.append(column)
        return np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), np.float32)

    def taste_at(self, block: Behaviour, question: Question, positions: Integers) -> Floats:
        """Weighted taste of a block of users for some items, [B, N], not centred: cheap where all items are not needed."""
        head, networks = self.networks.list_head(question.list_name), self.networks
        taste = np.zeros((len(block), len(positions)), np.float32)
        if networks.taste_items is not None and networks.has_encoder and head.encoder_weight:
            queries = self._queries(block, question.request_date, question.lookup_shift_days)
            taste += np.float32(head.encoder_weight) * (queries @ networks.taste_items.rows(positions).T)
        place = networks.place[positions]
        inside = place >= 0
        for number, term in enumerate(head.linear):
            tables = networks.terms[number]
            histories = self._histories(block, term.half_life_days)
            linear = np.zeros_like(taste)
            own = histories[:, positions[inside]].toarray() * tables.own[place[inside]]
            linear[:, inside] = tables.at(histories, place[inside]) - own
            taste += np.float32(term.weight) * np.log(np.maximum(linear, 0) + np.float32(term.floor))
        return taste

    def scores_at(self, behaviour: Behaviour, question: Question, positions: Integers) -> dict[str, Floats]:
        """Score and its parts of one user for some items the user never had: name of the part -> [N]."""
        taste = self._taste_of(self._taste(behaviour, question, {}), np.zeros(len(positions), np.int64), positions)
        season = question.season[positions]
        return {c.SCORE: taste + season, c.TASTE: taste, c.HABIT: np.zeros(len(positions), np.float32), c.SEASON: season}

    def is_new(self, num_weeks: int) -> NDArray[np.bool_]:
        """Items first sold within the last weeks before the cut-off, [I]."""
        first = self._item_weeks.group_by(c.ITEM_ID).agg(pl.col(c.WEEKS_AGO).max()).filter(pl.col(c.WEEKS_AGO) < num_weeks)
        flags = np.zeros(len(self.item_ids), bool)
        flags[self.positions_of(first[c.ITEM_ID])] = True
        return flags

    def _histories(self, block: Behaviour, half_life_days: float | None) -> sp.csr_array:
        """Weights of the distinct items of the histories, [B, I] sparse."""
        weights = _history_weights(block, half_life_days)
        return sp.csr_array((weights, block.item_positions, block.item_offsets), shape=(len(block), len(self.item_ids)))

    def _queries(self, block: Behaviour, request_date: date, lookup_shift_days: int) -> Floats:
        """Encoder's query per user, [B, D]."""
        return self._remembered(("query", request_date, lookup_shift_days), block, lambda part: self._encode(part, request_date, lookup_shift_days))

    def remember(self, users: Sequence[str], lists: Collection[str], request_date: date) -> None:
        """Compute what lists of some stored users will ask for, in one go; nothing where it could not be kept."""
        stored = [user for user in dict.fromkeys(users) if self.knows_user(user)]
        if not 1 < len(stored) <= MAX_REMEMBERED_BLOCK:
            return
        (block,) = self.stored.behaviours(stored, None, request_date)
        if self.networks.has_encoder:
            self._queries(block, request_date, 0)
        for number, term in {pair: None for name in lists for pair in enumerate(self.networks.list_head(name).linear)}:
            self._linear(block, number, term, {})

    def _remembered(self, what: Hashable, block: Behaviour, compute: Callable[[Behaviour], Floats]) -> Floats:
        """One row per user: those of stored users are kept, so that a user's next list, or the next date of the dial, need not wait for them."""
        if len(block) > MAX_REMEMBERED_BLOCK or (block.rows < 0).all():
            return compute(block)
        with self._lock:
            found = [self._memory.get((what, row)) for row in block.rows.tolist()]
        missing = np.array([place for place, values in enumerate(found) if values is None], np.int64)
        if len(missing):
            computed = compute(block if len(missing) == len(block) else block.take(missing, [block.users[place] for place in missing]))
            for place, values in zip(missing.tolist(), computed, strict=True):
                found[place] = values
                if block.rows[place] >= 0:
                    self._keep((what, int(block.rows[place])), values.copy())
        return np.stack([values for values in found if values is not None])

    def _keep(self, key: Hashable, values: Floats) -> None:
        with self._lock:
            replaced = self._memory.pop(key, None)
            self._memory[key] = values
            self._memory_bytes += values.nbytes - (0 if replaced is None else replaced.nbytes)
            while self._memory_bytes > MEMORY_BYTES_KEPT:
                self._memory_bytes -= self._memory.popitem(last=False)[1].nbytes

    def _encode(self, block: Behaviour, request_date: date, lookup_shift_days: int) -> Floats:
        """Encoder's query per user, [B, D]; histories of similar length run together, so padding stays small."""
        networks, max_history = self.networks, self.networks.head.max_history
        queries: Floats | None = None
        for rows in _similar_lengths(np.minimum(block.lengths(), max_history)):
            part = block if len(rows) == len(block) else block.take(rows, [block.users[row] for row in rows])
            positions, days, types, lengths = part.padded(max_history)
            encoded = networks.encode(
                {
                    "items": np.where(np.arange(positions.shape[1]) < lengths[:, None], self._item_index[positions], 0),
                    "event_days": days,
                    "event_types": types,
                    "lengths": lengths,
                    "request_day": np.full(len(part), (request_date - EPOCH).days + lookup_shift_days, np.int64),
                    "lead_days": np.full(len(part), (request_date - block.cutoff).days, np.float32),
                }
            )
            queries = np.zeros((len(block), encoded.shape[1]), np.float32) if queries is None else queries
            queries[np.arange(len(block)) if part is block else rows] = encoded
        return np.zeros((len(block), self.networks.width), np.float32) if queries is None else queries

    def _linear(self, block: Behaviour, number: int, term: LinearTerm, of_users: _OfUsers) -> Floats:
        """Logarithm of one linear item-item term for the pool, [B, P]; it depends neither on the date nor on the list."""
        key = ("linear", number, term.half_life_days, term.floor)
        if key not in of_users:
            of_users[key] = self._remembered(key, block, lambda part: self._compute_linear(part, number, term))
        return of_users[key]

    def _compute_linear(self, block: Behaviour, number: int, term: LinearTerm) -> Floats:
        """As `_linear`; an item does not speak for itself."""
        tables, positions = self.networks.terms[number], block.item_positions
        weights = _history_weights(block, term.half_life_days)
        linear = tables.of(self._histories(block, term.half_life_days), self.networks.place)
        place = self.networks.place[positions]
        inside = place >= 0
        linear[block.item_rows()[inside], place[inside]] -= weights[inside] * tables.own[place[inside]]
        np.maximum(linear, 0, out=linear)
        linear += np.float32(term.floor)
        return np.log(linear, out=linear)

    def _habit(self, block: Behaviour, question: Question, taste: _Taste) -> Floats:
        """Habit of each habits row, [M]: its habit inputs, the item's season inputs on the date, the user's terms of taste for it."""
        if not len(block.habit_index):
            return np.zeros(0, np.float32)
        own = self._habit_rows(block, question)
        rows, positions = block.habit_rows(), block.habit_positions
        of_season = self._season_of(question.request_date, question.region, question.lookup_shift_days).inputs[positions]
        return self.networks.habit(np.concatenate([own, of_season, self._terms_of(taste, rows, positions)], axis=1))

    def _habit_rows(self, block: Behaviour, question: Question) -> Floats:
        """Habit inputs of a block, [M, H]; read off where they were computed for all stored users of the date."""
        shift = question.lookup_shift_days
        if block.is_stored and not shift and question.request_date in self._habits:
            return self._habits[question.request_date][block.habit_index]
        inputs = self._habit_inputs(block.habits, block.cutoff, question.request_date)
        if shift:
            inputs = _with_look_ups(inputs, self._habit_inputs(block.habits, block.cutoff, question.request_date + timedelta(days=shift)), HABIT_LOOK_UPS)
        return inputs.to_numpy(order="c")

    def is_warm(self, request_date: date, *, max_habits: int = MAX_HABITS_KEPT) -> bool:
        """Whether `warm` has nothing left to do for a date."""
        return request_date in self._habits or not 0 < self.stored.behaviour.source.height <= max_habits

    def warm(self, request_date: date, *, max_habits: int = MAX_HABITS_KEPT, cache: Path | None = None) -> None:
        """Compute what requests for a date share: season, rows of the linear terms, habit inputs of all stored users where these are at most `max_habits`.

        The rows take seconds and do not depend on the date: they are kept in the folder `cache`, by the bundle's digest, and read from there.
        """
        self.season_of(request_date)
        for number, term in enumerate(self.networks.terms):
            path = None if cache is None else cache / f"linear-{self.bundle.digest}-{number}.npy"
            if path is not None and path.is_file():
                if not term.has_all_rows:
                    term.take_rows(np.load(path))
            elif cache is not None and path is not None and term.all_rows.size:
                cache.mkdir(parents=True, exist_ok=True)
                draft = path.with_suffix(f".{uuid.uuid4().hex[:8]}.tmp.npy")
                np.save(draft, term.all_rows)
                draft.replace(path)
        source = self.stored.behaviour.source
        if self.is_warm(request_date, max_habits=max_habits):
            return
        inputs = np.concatenate([self._habit_inputs(rows, self.cutoff, request_date).to_numpy(order="c") for rows in source.iter_slices(HABIT_ROWS_AT_ONCE)])
        with self._lock:
            self._habits = {**dict(list(self._habits.items())[-(HABIT_DATES_KEPT - 1) :]), request_date: inputs}

    def _habit_inputs(self, habits: pl.DataFrame, cutoff: date, request_date: date) -> pl.DataFrame:
        """Inputs of the habit network, as `features.habits` makes them."""
        settings = self.bundle.metadata
        half_lives = settings.features.habit_half_lives_days
        rows = habit_inputs(habits.lazy(), request_date, cutoff=cutoff, horizon_days=settings.horizon_days, half_lives_days=half_lives)
        return rows.select(self.networks.head.habit_inputs).collect()

    def _compute_season(self, request_date: date, region: str, lookup_shift_days: int) -> _Season:
        """Season of all items as the season network sees them on a date."""
        inputs = self._season_inputs(request_date, region)
        if lookup_shift_days:
            inputs = _with_look_ups(inputs, self._season_inputs(request_date + timedelta(days=lookup_shift_days), region), SEASON_LOOK_UPS)
        rows = inputs.to_numpy(order="c")
        return _Season(rows, self.networks.season(rows))

    def _season_inputs(self, request_date: date, region: str) -> pl.DataFrame:
        """Inputs of the season network, one row per item in order of item_id, as `features.season` makes them."""
        metadata = self.bundle.metadata
        table = season(
            self._item_weeks.lazy(),
            self.item_catalogue.lazy() if c.CATEGORY in self.item_catalogue.columns else None,
            cutoff=self.cutoff,
            request_date=request_date,
            horizon_days=metadata.horizon_days,
            vocabulary=self._vocabulary,
            forecasts=None if self._forecasts is None else self._forecasts.lazy(),
            calendar=request_calendar(metadata.features, [region], request_date, metadata.horizon_days).lazy(),
            shrinkage=metadata.features.shrinkage_units,
            regions=[region],
        )
        return table.select(c.ITEM_ID, *self.networks.head.season_inputs).sort(c.ITEM_ID).collect().drop(c.ITEM_ID)

    # ---- tables -----------------------------------------------------------------------------------------------------------

    def _search_table(self) -> pl.DataFrame:
        """item_id and what it can be found by, most bought first."""
        bought = self._item_weeks.filter((pl.col(c.WEEKS_AGO) < 52) & (pl.col(c.REGION) == c.ALL_REGIONS)).group_by(c.ITEM_ID).agg(pl.col(c.BUYERS).sum())
        texts = [pl.col(name).fill_null("") for name in (c.TITLE, c.CATEGORY) if name in self.item_catalogue.columns]
        named = self.item_catalogue.select(c.ITEM_ID, pl.concat_str([pl.col(c.ITEM_ID), *texts], separator=" ").str.to_lowercase().alias("words"))
        items = pl.DataFrame({c.ITEM_ID: self.item_ids}).join(named, on=c.ITEM_ID, how="left").with_columns(pl.col("words").fill_null(pl.col(c.ITEM_ID)))
        return items.join(bought, on=c.ITEM_ID, how="left").sort(pl.col(c.BUYERS).fill_null(0), c.ITEM_ID, descending=[True, False]).drop(c.BUYERS)

    def _texts(self, column: str) -> dict[str, str]:
        if column not in self.item_catalogue.columns:
            return {}
        return dict(self.item_catalogue.select(c.ITEM_ID, column).drop_nulls().iter_rows())

    def _items_with_events(self) -> NDArray[np.bool_]:
        flags = np.zeros(len(self.item_ids), bool)
        flags[self.stored.behaviour.item_positions] = True
        flags[self.positions_of(self._item_weeks[c.ITEM_ID].unique())] = True
        return flags

    def _declared_from(self, request_date: date) -> NDArray[np.bool_]:
        return self._flag(pl.col(c.AVAILABLE_FROM).dt.date() <= request_date, c.AVAILABLE_FROM)

    def _closed_on(self, request_date: date) -> NDArray[np.bool_]:
        early = self._flag(pl.col(c.AVAILABLE_FROM).dt.date() > request_date, c.AVAILABLE_FROM)
        return early | self._flag(pl.col(c.AVAILABLE_UNTIL).dt.date() < request_date, c.AVAILABLE_UNTIL)

    def _flag(self, condition: pl.Expr, column: str) -> NDArray[np.bool_]:
        flags = np.zeros(len(self.item_ids), bool)
        if column in self.item_catalogue.columns:
            flags[self.positions_of(self.item_catalogue.filter(condition)[c.ITEM_ID])] = True
        return flags

    def _rankings(self, answers: Sequence[Ranked], question: Question, asked: Sequence[str]) -> pl.DataFrame:
        """Answers of all blocks as a `rankings` table, users in the order they were asked for."""
        place = {user: number for number, user in enumerate(asked)}
        parts = {name: np.concatenate([getattr(answer, name) for answer in answers]) if answers else np.zeros(0, np.float32) for name in PARTS}
        places = np.concatenate([np.array([place[name] for name in answer.names], np.int64)[answer.users] for answer in answers] or [np.zeros(0, np.int64)])
        ranks = np.concatenate([answer.ranks for answer in answers] or [np.zeros(0, np.int64)])
        order = np.lexsort((ranks, places))
        positions = np.concatenate([answer.positions for answer in answers] or [np.zeros(0, np.int64)])[order]
        names = pl.Series(c.USER_ID, asked, dtype=pl.String)
        columns: dict[str, pl.Series | pl.Expr] = {
            c.CUTOFF: pl.lit(self.cutoff),
            c.REQUEST_DATE: pl.lit(question.request_date),
            c.LIST: pl.lit(question.list_name),
            c.MODEL_VERSION: pl.lit(self.version),
            c.USER_ID: names[places[order]],
            c.RANK: pl.Series(ranks[order] + 1),
            c.ITEM_ID: self.item_ids[positions],
            **{name: pl.Series(values[order]) for name, values in parts.items()},
        }
        return pl.select(pl.Series(c.RANK, ranks)).select(**{name: columns[name] for name in RANKINGS.schema}).cast(dict(RANKINGS.schema))  # type: ignore[arg-type]


def request_calendar(features: FeaturesConfig, regions: Iterable[str], request_date: date, horizon_days: int) -> pl.DataFrame:
    """The days a season row looks at, from the request to the horizon and two months beyond, with each region's holidays."""
    countries = {region: features.region_countries.get(region, features.country) for region in regions}
    last = request_date + timedelta(days=max(horizon_days, MAX_HOLIDAY_DISTANCE_DAYS) + 1)
    return calendar(request_date, last, regions=countries, fourier_order=features.fourier_order, season_names=features.season_names)


def _history_weights(block: Behaviour, half_life_days: float | None) -> Floats:
    """Weight of each distinct item of the histories, [M]: 1, or halved with each half-life since its last event before the cut-off."""
    if half_life_days is None:
        return np.ones(len(block.item_positions), np.float32)
    age = np.maximum((block.cutoff - EPOCH).days - 1 - block.item_days, 0)
    return np.exp2(-age / half_life_days).astype(np.float32)


def _similar_lengths(lengths: Integers, ratio: float = 1.5) -> list[Integers]:
    """Rows with a history, put together where the longest is at most `ratio` times the shortest (or all are short)."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    groups, start = [], 0
    while start < len(order):
        stop = int(np.searchsorted(lengths[order], max(lengths[order[start]] * ratio, 8), side="right"))
        groups.append(order[start:stop])
        start = stop
    return groups


def _with_look_ups(inputs: pl.DataFrame, shifted: pl.DataFrame, look_ups: Sequence[str]) -> pl.DataFrame:
    """`inputs` with the look-ups by date taken from rows made for another date; order of columns kept."""
    return inputs.with_columns(shifted[name] for name in look_ups if name in inputs.columns)


def _together(one: _Scored, other: _Scored) -> _Scored:
    return _Scored(*(np.concatenate([getattr(part, name.name) for part in (one, other)]) for name in fields(_Scored)))


def _kth_of_each(rows: Integers, scores: Floats, num_rows: int, k: int) -> Floats:
    """The k-th largest score of each row, minus infinity where a row has fewer."""
    found = np.full(num_rows, -np.inf, np.float32)
    order = np.lexsort((-scores, rows))
    ordered = rows[order]
    kth = order[np.arange(len(rows)) - np.searchsorted(ordered, ordered) == k - 1]
    found[rows[kth]] = scores[kth]
    return found


def _best_of_each(rows: Integers, scores: Floats, positions: Integers, k: int) -> tuple[Integers, Integers, Integers]:
    """The k best of each row among pairs in any order: rows, ranks from 0, places in the input. Ties go to the smaller position."""
    order = np.lexsort((positions, -scores, rows))
    rows = rows[order]
    ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = ranks < k
    return rows[kept], ranks[kept], order[kept]


def _is_in(keys: Integers, known: Integers) -> NDArray[np.bool_]:
    """Which keys are among `known`, ascending."""
    if not len(known):
        return np.zeros(len(keys), bool)
    return np.asarray(known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys)


def _look_up(keys: Integers, values: Floats, wanted: Integers) -> Floats:
    """Value of each wanted key in sorted `keys`, zero where it is not there."""
    if not len(keys):
        return np.zeros(len(wanted), np.float32)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0).astype(np.float32)
