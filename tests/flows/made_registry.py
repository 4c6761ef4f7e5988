"""A registry in memory that answers as MLflow's client does, a fuse that cuts any client at the n-th call, and a world of events around them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from contracts.errors import BundleError
from contracts.sections.evaluation import RegistryConfig
from tasks.audit import record_decision
from tasks.registry import CHALLENGER, CHAMPION
from tasks.review_tags import REVIEW_OF, review_subject
from tasks.store import Store, audit_address

MODEL = "shop"


@dataclass
class MadeVersion:
    version: str
    tags: dict[str, str]


class MadeRegistry:
    """The calls promotion makes, with MLflow's errors; test_promotion_any_order.py compares it with MLflow itself."""

    def __init__(self) -> None:
        self.versions: dict[str, MadeVersion] = {}
        self.aliases: dict[str, str] = {}
        self._next = 1

    def create_model_version(self, name: str, source: str, tags: dict[str, str] | None = None) -> MadeVersion:
        made = MadeVersion(str(self._next), dict(tags or {}))
        self.versions[made.version] = made
        self._next += 1
        return made

    def get_model_version(self, name: str, version: str) -> MadeVersion:
        if version not in self.versions:
            raise MlflowException(f"Model Version (name={name}, version={version}) not found", RESOURCE_DOES_NOT_EXIST)
        return MadeVersion(version, dict(self.versions[version].tags))

    def get_model_version_by_alias(self, name: str, alias: str) -> MadeVersion:
        if alias not in self.aliases:
            raise MlflowException(f"Registered model alias {alias} not found.", INVALID_PARAMETER_VALUE)
        return self.get_model_version(name, self.aliases[alias])

    def search_model_versions(self, query: str) -> list[MadeVersion]:
        return [self.get_model_version(MODEL, version) for version in self.versions]

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.get_model_version(name, version)
        self.versions[version].tags[key] = value

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.get_model_version(name, version)
        self.aliases[alias] = version

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self.aliases.pop(alias, None)

    def delete_model_version(self, name: str, version: str) -> None:
        self.get_model_version(name, version)
        del self.versions[version]
        self.aliases = {alias: pointed for alias, pointed in self.aliases.items() if pointed != version}


class Killed(BaseException):
    """The process is gone: nothing it would have done afterwards happens."""


class Fuse:
    """A client that fails at its n-th call: for good, as a killed process does, or once, as a broken connection does."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._left: int | None = None
        self._for_good = True

    def burn_after(self, calls: int, *, for_good: bool) -> None:
        self._left, self._for_good = calls, for_good

    def mend(self) -> None:
        self._left = None

    def spend(self) -> None:
        """Count one call."""
        if self._left is None:
            return
        self._left -= 1
        if self._left < 0:
            if self._for_good:
                raise Killed
            self._left = None
            raise requests.ConnectionError("cut")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._client, name)

        def counted(*given: Any, **named: Any) -> Any:
            self.spend()
            return call(*given, **named)

        return counted


@dataclass
class World:
    """A registry with people and processes around it; what they did is kept, to judge promotions by."""

    client: Any
    folder: Path
    copies: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    num_digests: int = 0

    def __post_init__(self) -> None:
        self.fuse = Fuse(self.client)
        self.registry = RegistryConfig(model_name=MODEL)
        self.store = Store(root=str(self.folder / MODEL))

    @property
    def audit(self) -> str:
        return audit_address(self.store)

    def champion(self) -> str | None:
        try:
            return str(self.client.get_model_version_by_alias(MODEL, CHAMPION).version)
        except MlflowException:
            return None

    def tags(self, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(MODEL, version).tags)

    def versions(self) -> list[str]:
        return sorted((str(found.version) for found in self.client.search_model_versions(f"name = '{MODEL}'")), key=int)

    def register(self, *, passed: bool = True, broken: bool = False, compared_with: str | None = None) -> str:
        """A new version that went through its gates, as the training flow leaves it."""
        self.num_digests += 1
        digest = f"evaluation{self.num_digests}"
        tags = {"evaluation_digest": digest, "bundle_digest": f"bundle{self.num_digests}", "compared_with": compared_with or self.champion() or ""}
        version = str(self.client.create_model_version(MODEL, source=str(self.folder), tags=tags).version)
        word = "passed" if passed else "failed"
        for key, value in {"gate_quality": word, "gate_servability": "passed", REVIEW_OF: review_subject(MODEL, version, digest)}.items():
            self.client.set_model_version_tag(MODEL, version, key, value)
        if passed:
            self.client.set_registered_model_alias(MODEL, CHALLENGER, version)
        record_decision(
            self.audit,
            model=MODEL,
            version=version,
            decision="challenger" if passed else "refused",
            by="gates",
            reasons=(),
            figures={"ndcg_at_10": 0.3},
        )
        if broken:
            self.broken.add(version)
        return version

    def copy(self, version: str) -> str:
        """`copy_model_version`: all tags go along."""
        made = str(self.client.create_model_version(MODEL, source=str(self.folder), tags=self.tags(version)).version)
        self.copies.add(made)
        if version in self.broken:
            self.broken.add(made)
        return made

    def say(self, version: str, decision: str) -> None:
        """A reviewer sets the tag in MLflow's page."""
        self.client.set_model_version_tag(MODEL, version, "review", decision)

    def smoke_test(self, version: str) -> None:
        self.fuse.spend()
        if version in self.broken:
            raise BundleError(f"version {version} does not repeat its golden requests")
