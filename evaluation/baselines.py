"""Simple recommenders a model must beat: popularity, habit, item-item similarity, each with trend and season.

A baseline is named by what it multiplies: `popular_28d`, `habit_90d`, `ease*trend`, `item_knn*trend*season`. Everything is scored in blocks
of users from sparse matrices; no matrix of items x items is ever made.

Letters: I items, U users known at the cut-off, F users EASE is fitted on, B users of one block.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.linalg
import scipy.sparse as sp

from contracts import columns as c
from contracts.sections.evaluation import ListName
from contracts.tables import RANKINGS
from evaluation.targets import Cutoff, Interactions, before, instant

Scores = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

ALL_TIME_DAYS = 1e9
YEAR_DAYS = 364  # whole weeks, so that weekdays match
LAST_YEAR_PADDING_DAYS = 14
PSEUDO_BUYERS = 10.0  # lifts are shrunk as if every item had this many more buyers
EASE_REGULARISATION = 200.0
KNN_SHRINKAGE = 20.0
EASE_LOG_FLOOR = 0.02
KNN_LOG_FLOOR = 1e-3
BLOCK_USERS = 128
MAX_EASE_USERS = 8_000  # users x users in float64 stays at half a gigabyte
RUN_ITEMS = 64  # items whose largest score is taken at once when the best k are looked for

NAME = re.compile(r"(?P<base>item_knn|ease|habit_\d+d)(?P<factors>(\*trend)?(\*season)?|\*\(trend\*season\)\^\.5)")
POPULAR = re.compile(r"popular_(all|\d+d)(\+0\.3\*last_year)?|last_year_weeks")


def baseline_rankings(
    interactions: Interactions,
    *,
    cutoff: Cutoff,
    lead_days: int | Sequence[int],
    horizon_days: int,
    lists: Sequence[ListName],
    names: Sequence[str],
    users: Sequence[str] | pl.Series | None = None,
    k: int = 10,
    target_events: Sequence[str] | None = None,
    lookup_shift_days: int = 0,
) -> pl.DataFrame:
    """Rank with each baseline, from the events before the cut-off.

    Grain: one row per (list, model_version, request_date, user_id, rank), columns of `contracts.tables.RANKINGS`;
    `model_version` is the baseline's name, `request_date` the first day of the window. Ties fall to the smaller item_id.

    Parameters
    ----------
    interactions
        Columns user_id, item_id, event_time; event_type too where `target_events` is given.
    lead_days
        One lead, or several that share all work that does not depend on the lead.
    names
        Baselines; `check_baseline_name` says which names there are.
    users
        Whom to rank for; without it everyone with history. Users without history are left out.
    target_events
        Event types that are counted; every event still makes history (for `discover`) and candidates.
    lookup_shift_days
        Moves only the look-up of last year's weeks, for the season lift.

    Raises ValueError for an unknown name.
    """
    for name in names:
        check_baseline_name(name)
    known = KnownAtCutoff(interactions, cutoff, target_events)
    leads = [lead_days] if isinstance(lead_days, int) else list(lead_days)
    window = _Window(leads, horizon_days, lookup_shift_days)
    asked = known.user_positions(users)
    pieces: dict[tuple[str, ListName, tuple[int, ...]], list[_Ranked]] = {}
    for start in range(0, len(asked), BLOCK_USERS):
        for key, ranked in _rank_block(_Block(known, asked[start : start + BLOCK_USERS]), window, lists, names, k):
            pieces.setdefault(key, []).append(ranked)
    tables = [_table(known, name, list_name, leads, ranked) for (name, list_name, leads), ranked in pieces.items()]
    if not tables:
        return pl.DataFrame(schema=dict(RANKINGS.schema))
    day = pl.lit(instant(cutoff).date())
    parts = [pl.lit(None, pl.Float32).alias(part) for part in (c.TASTE, c.HABIT, c.SEASON)]
    table = pl.concat(tables).with_columns(day.alias(c.CUTOFF), (day + pl.duration(days=pl.col(c.LEAD_DAYS))).alias(c.REQUEST_DATE), *parts)
    return table.select(pl.col(name).cast(kind) for name, kind in RANKINGS.schema.items())


def check_baseline_name(name: str) -> None:
    """Raise ValueError where a name means no baseline, and say which names do."""
    if not (NAME.fullmatch(name) or POPULAR.fullmatch(name)):
        raise ValueError(
            f"unknown baseline {name!r}; known: popular_all, popular_<days>d, last_year_weeks, popular_<days>d+0.3*last_year, and"
            " item_knn, ease, habit_<days>d, each alone or with *trend, *season, *trend*season, *(trend*season)^.5"
        )


@dataclass(frozen=True)
class _Ranked:
    """Best items of some users, by user and rank: positions, ranks from 1, scores [N]."""

    user: Indices
    item: Indices
    rank: Indices
    score: Scores


@dataclass(frozen=True)
class _Window:
    leads: list[int]
    horizon_days: int
    lookup_shift_days: int


class KnownAtCutoff:
    """The events before a cut-off as arrays over users and items, and what several baselines make of them.

    Items and users are sorted by id, so that a smaller position is a smaller id.
    """

    def __init__(self, interactions: Interactions, cutoff: Cutoff, target_events: Sequence[str] | None = None) -> None:
        counted = pl.lit(value=True) if target_events is None else pl.col(c.EVENT_TYPE).is_in(list(target_events))
        age = (pl.lit(instant(cutoff)) - pl.col(c.EVENT_TIME)).dt.total_days().cast(pl.Int32)
        past = before(interactions, cutoff).select(c.USER_ID, c.ITEM_ID, age.alias("age"), counted.alias("counted")).collect()
        self.items = past[c.ITEM_ID].unique().sort()
        self.users = past[c.USER_ID].unique().sort()
        item = _positions(past[c.ITEM_ID], self.items)
        user = _positions(past[c.USER_ID], self.users)
        self.history = _binary(user, item, (len(self.users), len(self.items)))
        keep = past["counted"].to_numpy()
        self.user, self.item, self.age = user[keep], item[keep], past["age"].to_numpy()[keep]
        self.bought = self.history if target_events is None else _binary(self.user, self.item, self.history.shape)
        self._levels: dict[tuple[float, float], Scores] = {}
        self._decayed: dict[float, sp.csr_matrix] = {}

    def user_positions(self, users: Sequence[str] | pl.Series | None) -> Indices:
        """Positions of the users who have history, sorted."""
        if users is None:
            return np.arange(len(self.users))
        asked = pl.Series(c.USER_ID, users, dtype=pl.String).unique()
        return _positions(asked.filter(asked.is_in(self.users.implode())).sort(), self.users)

    def level(self, first_age: float, last_age: float = -1.0) -> Scores:
        """Distinct buyers per item between two ages, `last_age < age <= first_age` in whole days [I]."""
        key = (first_age, last_age)
        if key not in self._levels:
            inside = (self.age <= first_age) & (self.age > last_age)
            self._levels[key] = np.asarray(_binary(self.user[inside], self.item[inside], self.history.shape).getnnz(axis=0), np.float32)
        return self._levels[key]

    def same_weeks_last_year(self, lead_days: int, horizon_days: int) -> Scores:
        """Distinct buyers per item in the window's weeks a year before, with two weeks either side, as far as they are known [I]."""
        start = lead_days - YEAR_DAYS
        return self.level(LAST_YEAR_PADDING_DAYS - start, max(-float(start + horizon_days + LAST_YEAR_PADDING_DAYS), -1.0))

    def tie_breaker(self) -> Scores:
        """A millionth-size copy of recent popularity for scores that are zero on most items [I]."""
        recent = self.level(28)
        return np.asarray(recent / (recent.max(initial=0) + 1) * 1e-3, np.float32)

    def trend_lift(self) -> Scores:
        """Log lift of the last 28 days over the year [I]."""
        return log_lift(self.level(28), self.level(YEAR_DAYS))

    def season_lift(self, lead_days: int, horizon_days: int) -> Scores:
        """Log lift of last year's weeks over the year; zero everywhere where nothing of last year is known [I]."""
        return log_lift(self.same_weeks_last_year(lead_days, horizon_days), self.level(YEAR_DAYS))

    def decayed(self, half_life_days: float) -> sp.csr_matrix:
        """Events per user and item, halved every half-life [U, I]."""
        if half_life_days not in self._decayed:
            weight = 0.5 ** (self.age.astype(np.float64) / half_life_days)
            self._decayed[half_life_days] = sp.csr_matrix((weight, (self.user, self.item)), self.history.shape).astype(np.float32)
        return self._decayed[half_life_days]

    @cached_property
    def ease(self) -> "_Ease":
        """EASE in its dual form, fitted once for all leads, lists and factors."""
        return _Ease(self.bought)

    @cached_property
    def knn(self) -> "_ItemKnn":
        """Cosine similarity of items."""
        return _ItemKnn(self.bought)


def log_lift(weeks: Scores, year: Scores) -> Scores:
    """Log of an item's share in some weeks over its share in the year, shrunk as if every item had ten more buyers [I]."""
    share = (year + 0.5) / (year.sum() + 0.5 * len(year))
    prior = PSEUDO_BUYERS * len(year)
    return np.asarray(np.log((weeks + prior * share) / (weeks.sum() + prior)) - np.log(share), np.float32)


class _Ease:
    """A linear item-item model with a zero diagonal, solved over users instead of items.

    With K = X X' + lambda, P = (I - X' K^-1 X) / lambda. For a fitted user x P = K^-1 X (their row), so one sparse product
    gives the scores of a block; other users are folded in through x X' K^-1. Above `MAX_EASE_USERS` users it is fitted on those
    with the most items.

    Source: Steck, Embarrassingly Shallow Autoencoders (arXiv 1905.03375); dual by the Woodbury identity.
    """

    def __init__(self, bought: sp.csr_matrix) -> None:
        num_users = bought.shape[0]
        most_items_first = np.argsort(-np.diff(bought.indptr), kind="stable")
        fitted = np.sort(most_items_first[:MAX_EASE_USERS])
        self.bought = bought
        self.fitted = bought[fitted]
        self.transposed = self.fitted.T.tocsr()
        self.position = np.full(num_users, -1)
        self.position[fitted] = np.arange(len(fitted))
        gram = (self.fitted @ self.fitted.T).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += EASE_REGULARISATION
        self.inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False, assume_a="pos").astype(np.float32)
        self.diagonal = np.maximum((1.0 - self._explained()) / np.float32(EASE_REGULARISATION), np.float32(1e-9))

    def _explained(self) -> Scores:
        """x_i' K^-1 x_i of every item [I]."""
        explained = np.zeros(self.fitted.shape[1], np.float32)
        for start in range(0, self.fitted.shape[0], BLOCK_USERS):
            rows = self.fitted[start : start + BLOCK_USERS].tocoo()
            solved = self.transposed @ np.ascontiguousarray(self.inverse[:, start : start + BLOCK_USERS])  # [I, B]
            explained += np.bincount(rows.col, weights=solved[rows.col, rows.row], minlength=len(explained)).astype(np.float32)
        return explained

    def scores(self, users: Indices) -> Scores:
        """Scores of a block [I, B]."""
        block = self.bought[users]
        position = self.position[users]
        if (position >= 0).all():
            product = self.transposed @ np.ascontiguousarray(self.inverse[:, position])
        else:
            weights = (block @ self.transposed).toarray() @ self.inverse  # [B, F]
            product = (block.T.toarray() - self.transposed @ np.ascontiguousarray(weights.T)) / np.float32(EASE_REGULARISATION)
        scores = np.divide(product, -self.diagonal[:, None], out=product)
        rows = block.tocoo()
        scores[rows.col, rows.row] += 1
        return np.asarray(scores, np.float32)


class _ItemKnn:
    """Cosine of items with shrinkage, an item's own similarity left out."""

    def __init__(self, bought: sp.csr_matrix) -> None:
        norm = np.sqrt(np.asarray(bought.sum(0), np.float32).ravel() + np.float32(KNN_SHRINKAGE))
        self.bought = bought
        self.normalised = (bought @ sp.diags(1 / norm)).tocsr().astype(np.float32)
        self.normalised_transposed = self.normalised.T.tocsr()
        self.own = np.asarray(self.normalised.power(2).sum(0), np.float32).ravel()

    def scores(self, users: Indices) -> Scores:
        """Scores of a block [I, B]."""
        common = (self.bought @ self.normalised[users].T).toarray()  # [U, B]
        scores = np.asarray(self.normalised_transposed @ common, np.float32)
        rows = self.bought[users].tocoo()
        scores[rows.col, rows.row] -= self.own[rows.col]
        return scores


class _Block:
    """A block of users with the scores several baselines share, each computed once."""

    def __init__(self, known: KnownAtCutoff, users: Indices) -> None:
        self.known = known
        self.users = users
        self.history = known.history[users].tocoo()
        self.num_seen = np.diff(known.history[users].indptr)
        self._bases: dict[str, Scores] = {}

    def base(self, name: str) -> Scores:
        """Scores of ease and item_knn, counts of habit; not to be overwritten [I, B]."""
        if name not in self._bases:
            self._bases[name] = self._compute(name)
        return self._bases[name]

    def log_base(self, name: str) -> Scores:
        """Log scores of ease and item_knn, with a floor; not to be overwritten [I, B]."""
        if f"log {name}" not in self._bases:
            floored = np.maximum(self.base(name), 0) + np.float32(EASE_LOG_FLOOR if name == "ease" else KNN_LOG_FLOOR)
            self._bases[f"log {name}"] = np.log(floored, out=floored)
        return self._bases[f"log {name}"]

    def _compute(self, name: str) -> Scores:
        if name == "ease":
            return self.known.ease.scores(self.users)
        if name == "item_knn":
            return self.known.knn.scores(self.users)
        half_life = float(name.removeprefix("habit_").removesuffix("d"))
        return np.asarray(self.known.decayed(half_life)[self.users].toarray().T, np.float32, order="C")


def _rank_block(
    block: _Block, window: _Window, lists: Sequence[ListName], names: Sequence[str], k: int
) -> Iterator[tuple[tuple[str, ListName, tuple[int, ...]], _Ranked]]:
    """Rank once for all leads where a baseline does not look at the lead."""
    for name in names:
        depends_on_lead = "season" in name or "last_year" in name
        for leads in [(lead,) for lead in window.leads] if depends_on_lead else [tuple(window.leads)]:
            for list_name, ranked in _rank(block, name, leads[0], window, lists, k):
                yield (name, list_name, leads), ranked


def _rank(block: _Block, name: str, lead_days: int, window: _Window, lists: Sequence[ListName], k: int) -> Iterator[tuple[ListName, _Ranked]]:
    lookup_lead = lead_days + window.lookup_shift_days
    if POPULAR.fullmatch(name):
        scores = _popularity(block.known, name, lookup_lead, window.horizon_days)
        for list_name in lists:
            yield list_name, _best_of_one(scores, block, k, without_history=list_name == "discover")
        return
    scores = _personal(block, name, lookup_lead, window.horizon_days)
    for list_name in sorted(lists):  # `again` first: `discover` overwrites what the user had
        if list_name == "discover":
            scores[block.history.col, block.history.row] = -np.inf
        item, user, rank, score = best_per_user(scores, k)
        yield list_name, _Ranked(block.users[user], item, rank, score)


def _popularity(known: KnownAtCutoff, name: str, lead_days: int, horizon_days: int) -> Scores:
    if name == "last_year_weeks":
        return np.add(known.same_weeks_last_year(lead_days, horizon_days), known.tie_breaker())
    days = name.removeprefix("popular_").split("+")[0]
    level = known.level(ALL_TIME_DAYS if days == "all" else float(days.removesuffix("d")))
    if not name.endswith("last_year"):
        return level
    last = known.same_weeks_last_year(lead_days, horizon_days)
    return np.asarray(level / max(level.sum(), 1) + 0.3 * last / max(last.sum(), 1), np.float32)


def _personal(block: _Block, name: str, lead_days: int, horizon_days: int) -> Scores:
    """Scores [I, B] that the caller may overwrite."""
    known = block.known
    match = NAME.fullmatch(name)
    assert match is not None  # names are checked where they enter
    base, factors = match["base"], match["factors"]
    lift = np.zeros(len(known.items), np.float32)
    if "trend" in factors:
        lift = lift + known.trend_lift()
    if "season" in factors:
        lift = lift + known.season_lift(lead_days, horizon_days)
    if factors.endswith("^.5"):
        lift = np.float32(0.5) * lift
    if base.startswith("habit_"):
        # a count has no log off the history: half the lift, as a factor, and popularity below it
        return np.asarray(block.base(base) * np.exp(np.float32(0.5) * lift)[:, None] + known.tie_breaker()[:, None], np.float32)
    return np.add(block.log_base(base), lift[:, None]) if factors else block.base(base).copy()


def best_per_user(scores: Scores, k: int) -> tuple[Indices, Indices, Indices, Scores]:
    """Find the k best items of each column; ties to the smaller row.

    scores   [I, B]   -inf: not offered
    returns  item, user, rank (from 1), score, each [at most B * k], by user and rank

    The k-th largest of the maxima of runs of items is no larger than the k-th largest score, so everything below it can go.
    """
    num_items, num_users = scores.shape
    whole = num_items - num_items % RUN_ITEMS
    maxima = scores[:whole].reshape(-1, RUN_ITEMS, num_users).max(axis=1)  # [I / run, B]
    if whole < num_items:
        maxima = np.concatenate([maxima, scores[whole:].max(axis=0, keepdims=True)])
    floor = np.full(num_users, -np.inf, np.float32)
    if len(maxima) >= k:
        floor = np.partition(maxima, len(maxima) - k, axis=0)[len(maxima) - k]
    run, user_of_run = np.nonzero(maxima >= floor)
    item = (run[:, None] * RUN_ITEMS + np.arange(RUN_ITEMS)).ravel()
    user = np.repeat(user_of_run, RUN_ITEMS)
    inside = item < num_items
    item, user = item[inside], user[inside]
    value = scores[item, user]
    offered = (value > -np.inf) & (value >= floor[user])
    item, user, value = item[offered], user[offered], value[offered]
    order = np.lexsort((item, -value, user))
    item, user, value = item[order], user[order], value[order]
    first = np.searchsorted(user, np.arange(num_users))
    rank = np.arange(len(user)) - first[user] + 1
    kept = rank <= k
    return item[kept], user[kept], rank[kept], value[kept]


def _best_of_one(scores: Scores, block: _Block, k: int, *, without_history: bool) -> _Ranked:
    """`best_per_user` for scores that are the same for every user: one order, walked past what each user had."""
    deepest = k + (int(block.num_seen.max(initial=0)) if without_history else 0)
    head = np.argsort(-scores, kind="stable")[:deepest]
    offered = np.ones((len(block.users), len(head)), bool)
    if without_history:
        offered = block.known.history[block.users][:, head].toarray() == 0
    rank = np.cumsum(offered, axis=1)
    user, place = np.nonzero(offered & (rank <= k))
    return _Ranked(block.users[user], head[place], rank[user, place], scores[head[place]])


def _table(known: KnownAtCutoff, name: str, list_name: ListName, leads: tuple[int, ...], pieces: list[_Ranked]) -> pl.DataFrame:
    ranked = pl.DataFrame(
        {
            c.USER_ID: known.users.gather(pl.Series(np.concatenate([piece.user for piece in pieces]))),
            c.ITEM_ID: known.items.gather(pl.Series(np.concatenate([piece.item for piece in pieces]))),
            c.RANK: np.concatenate([piece.rank for piece in pieces]),
            c.SCORE: np.concatenate([piece.score for piece in pieces]),
        }
    ).with_columns(pl.lit(list_name).alias(c.LIST), pl.lit(name).alias(c.MODEL_VERSION))
    return pl.concat([ranked.with_columns(pl.lit(lead, pl.Int32).alias(c.LEAD_DAYS)) for lead in leads])


def _positions(ids: pl.Series, known: pl.Series) -> Indices:
    return ids.cast(pl.Enum(known)).to_physical().cast(pl.Int64).to_numpy()


def _binary(user: Indices, item: Indices, shape: tuple[int, int]) -> sp.csr_matrix:
    matrix = sp.csr_matrix((np.ones(len(user), np.float32), (user, item)), shape)
    matrix.data[:] = 1
    return matrix
