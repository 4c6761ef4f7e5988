"""Which model answers: the champion, changed while it answers.

The old model goes on until the new one has loaded, passed its golden requests and warmed up; a version that fails is refused and
remembered, the old one stays. Without MLflow the service goes on with what it has and starts from its cache.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from contracts.errors import BundleError, TransientError
from serving.answers import Ask, answer_all
from serving.recommender import Recommender

GOLDEN_USERS: Final = 4
GOLDEN_K: Final = 10
LAST_SERVED: Final = "last_served.json"

logger = logging.getLogger("perennial.serving")


class Registry(Protocol):
    """What the service needs of a model registry; `serving.registry.ModelRegistry` is one."""

    model_name: str

    def number_at(self, alias: str) -> str | None:
        """Version an alias points at. Raises TransientError when the registry does not answer."""
        ...

    def load(self, number: str, *, threads: int) -> Recommender:
        """Recommender of a version, from the cache where it is there."""
        ...

    def cached_versions(self) -> list[str]:
        """Versions that can be loaded without the registry."""
        ...

    def keep_only(self, numbers: Collection[str]) -> list[str]:
        """Take other versions off the cache; gives those that went."""
        ...


@dataclass(frozen=True)
class Refusal:
    """A version that was not taken, and why."""

    version: str
    reason: str


class ServedModels:
    """Champion and, when asked for, challenger. `champion` is replaced in one assignment: a request keeps the model it began with."""

    def __init__(
        self,
        registry: Registry,
        *,
        alias: str,
        challenger_alias: str,
        cache: Path,
        threads: int,
        today: Callable[[], date],
        on_change: Callable[[Recommender], None] | None = None,
    ) -> None:
        self.champion: Recommender | None = None
        self.refused: dict[str, Refusal] = {}
        self.swaps = 0
        self.registry_answers = True
        self._challenger: Recommender | None = None
        self._registry, self._alias, self._challenger_alias = registry, alias, challenger_alias
        self._cache, self._threads, self._today, self._on_change = cache, threads, today, on_change

    def start(self) -> None:
        """Load the champion, or the version that served last when the registry is away. Raises BundleError where neither is there."""
        self.refresh()
        if self.champion is not None:
            return
        for number in self._fallbacks():
            try:
                self._take(self._prepared(number))
            except BundleError as error:
                logger.warning("cached version %s cannot be served: %s", number, error)
            else:
                logger.warning("registry is away: serving version %s from the cache", number)
                return
        reasons = (
            "; ".join(f"version {refusal.version}: {refusal.reason}" for refusal in self.refused.values()) or "the registry has none and the cache is empty"
        )
        raise BundleError(
            f"no model to serve at models:/{self._registry.model_name}@{self._alias}: {reasons}. Register and promote a version, or start MLflow.", step="serve"
        )

    def refresh(self) -> bool:
        """Take the version the alias points at now, if it is another one and passes. True when the model changed."""
        try:
            number = self._registry.number_at(self._alias)
            self.registry_answers = True
        except TransientError as error:
            self.registry_answers = False
            logger.warning("%s", error)
            return False
        if number is None or number in self.refused or (self.champion is not None and self.champion.version == number):
            return False
        started = time.perf_counter()
        try:
            found = self._prepared(number)
        except TransientError as error:
            self.registry_answers = False
            logger.warning("version %s could not be fetched: %s", number, error)
            return False
        except Exception as error:  # a version that fails in any way must not take the service down
            self.refused[number] = Refusal(number, f"{type(error).__name__}: {error}")
            logger.exception("version %s refused; version %s goes on", number, self.champion.version if self.champion else "none")
            return False
        self._take(found)
        self._prune()
        logger.info("version %s serves (ready after %.1f s)", number, time.perf_counter() - started)
        return True

    def challenger(self) -> Recommender | None:
        """The challenger, loaded when first asked for; None where there is none."""
        try:
            number = self._registry.number_at(self._challenger_alias)
        except TransientError:
            return self._challenger
        if number is None:
            self._challenger = None
        elif self._challenger is None or self._challenger.version != number:
            self._challenger = self._prepared(number)
        return self._challenger

    def _prepared(self, number: str) -> Recommender:
        found = self._registry.load(number, threads=self._threads)
        found.warm(max(self._today(), found.cutoff), cache=self._cache)
        check_golden_requests(found, self._today())
        return found

    def _take(self, found: Recommender) -> None:
        if self.champion is not None:
            self.swaps += 1
        last = self._last_served()
        previous = last.get("version") if last.get("version") != found.version else last.get("previous")
        self.champion = found
        self._cache.mkdir(parents=True, exist_ok=True)
        served = {"model": self._registry.model_name, "version": found.version, "previous": previous}
        draft = self._cache / f".{LAST_SERVED}.{uuid.uuid4().hex[:8]}"
        draft.write_text(json.dumps(served), encoding="utf-8")
        draft.replace(self._cache / LAST_SERVED)
        if self._on_change is not None:
            self._on_change(found)

    def _prune(self) -> None:
        """Leave the version that serves, the one before it and the challenger in the cache. What fails here must not take the service down."""
        assert self.champion is not None
        try:
            kept = {self.champion.version, self._last_served().get("previous"), self._registry.number_at(self._challenger_alias)}
            if self._challenger is not None:
                kept.add(self._challenger.version)
            gone = self._registry.keep_only({number for number in kept if number is not None})
        except Exception:
            logger.exception("old versions could not be taken off the cache; it is tried again after the next change")
            return
        if gone:
            logger.info("taken off the cache: version %s", ", ".join(gone))

    def _last_served(self) -> dict[str, str | None]:
        """Version of this model that served last from this cache and the one before it; empty where none did."""
        try:
            found: dict[str, str | None] = json.loads((self._cache / LAST_SERVED).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return found if found.get("model") == self._registry.model_name else {}

    def _fallbacks(self) -> list[str]:
        cached = self._registry.cached_versions()
        return [number for number in dict.fromkeys([self._last_served().get("version"), *cached]) if number in cached]


class FixedModel:
    """Registry of one bundle folder: no MLflow, no change."""

    def __init__(self, bundle: Path) -> None:
        self.model_name, self._bundle = bundle.name, bundle

    def number_at(self, alias: str) -> str | None:
        """The one version there is; no challenger."""
        return "bundle" if alias != "challenger" else None

    def load(self, number: str, *, threads: int) -> Recommender:
        """The bundle's recommender."""
        return Recommender.load(self._bundle, version=number, threads=threads)

    def cached_versions(self) -> list[str]:
        """Always there."""
        return ["bundle"]

    def keep_only(self, numbers: Collection[str]) -> list[str]:
        """Nothing: the folder is not the service's own."""
        return []


def check_golden_requests(recommender: Recommender, today: date) -> None:
    """Ask what any healthy model can answer, of known users and of an unknown one, today and half a year on.

    Raises BundleError that says what was wrong with which answer.
    """
    first = max(today, recommender.cutoff)
    users = [*recommender.users[:GOLDEN_USERS], "nobody knows this user"]
    for day in (first, date.fromordinal(first.toordinal() + 182)):
        for list_name in recommender.lists:
            asks = [Ask(request_date=day, user_id=user, list_name=list_name, k=GOLDEN_K) for user in users]
            for ask, found in zip(asks, answer_all(recommender, asks), strict=True):
                where = f"golden request (list {list_name}, {day})"
                if not found.item_ids and (ask.user_id == users[-1] or list_name == "again"):
                    whom = "an unknown user" if ask.user_id == users[-1] else "a user it knows"
                    raise BundleError(f"{where}: no items at all for {whom}. Check candidates, availability and networks of the bundle.", step="serve")
                if not np.isfinite(found.score).all():
                    raise BundleError(f"{where}: scores are not finite. The networks are broken; export and register again.", step="serve")
                if np.abs(found.score - found.taste - found.habit - found.season).max(initial=0) > 1e-3:
                    raise BundleError(f"{where}: taste + habit + season is not the score.", step="serve")
                if (np.diff(found.score) > 0).any() or len(set(found.item_ids)) < len(found.item_ids):
                    raise BundleError(f"{where}: items are not ranked by score, or one stands twice.", step="serve")
