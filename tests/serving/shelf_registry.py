"""A registry in memory, for tests of what the service does while the champion changes."""

from collections.abc import Collection
from pathlib import Path

from contracts.errors import TransientError
from serving.recommender import Recommender


class ShelfRegistry:
    """Versions in memory; `is_away` makes it fail as a registry without connection does."""

    model_name = "shop"

    def __init__(self, bundles: dict[str, Path]) -> None:
        self.bundles, self.aliases, self.is_away, self.cached = bundles, {"champion": "1"}, False, []

    def number_at(self, alias: str) -> str | None:
        if self.is_away:
            raise TransientError("MLflow does not answer")
        return self.aliases.get(alias)

    def load(self, number: str, *, threads: int) -> Recommender:
        if self.is_away and number not in self.cached:
            raise TransientError("MLflow does not answer")
        found = Recommender.load(self.bundles[number], version=number, threads=threads)
        self.cached = list(dict.fromkeys([number, *self.cached]))
        return found

    def cached_versions(self) -> list[str]:
        return self.cached

    def keep_only(self, numbers: Collection[str]) -> list[str]:
        gone = [number for number in self.cached if number not in numbers]
        self.cached = [number for number in self.cached if number in numbers]
        return gone
