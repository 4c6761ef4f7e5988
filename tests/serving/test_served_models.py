"""The champion changes while it answers; a version that fails is refused; the registry may be away."""

import os
import shutil
import threading
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import BundleError
from serving.answers import Ask, answer_all
from serving.bundle import read_bundle
from serving.recommender import Recommender
from serving.registry import COMPLETE, ModelRegistry
from serving.served_models import ServedModels, check_golden_requests
from tests.serving.shelf_registry import ShelfRegistry
from tests.serving.small_shop import write_shop

TODAY = date(2024, 7, 4)


@pytest.fixture(scope="module")
def bundles(shop_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    other = write_shop(tmp_path_factory.mktemp("other"), seed=1)
    broken = tmp_path_factory.mktemp("broken")
    return {"1": shop_bundle, "2": other, "3": broken}


@pytest.fixture
def registry(bundles: dict[str, Path]) -> ShelfRegistry:
    return ShelfRegistry(bundles)


def served(registry: ShelfRegistry, cache: Path) -> ServedModels:
    return ServedModels(registry, alias="champion", challenger_alias="challenger", cache=cache, threads=1, today=lambda: TODAY)


def version(models: ServedModels) -> str:
    assert models.champion is not None
    return models.champion.version


def test_a_new_champion_is_taken_once(registry: ShelfRegistry, tmp_path: Path) -> None:
    models = served(registry, tmp_path)
    models.start()
    assert version(models) == "1"
    assert not models.refresh()
    registry.aliases["champion"] = "2"
    assert models.refresh()
    assert (version(models), models.swaps) == ("2", 1)


def test_a_version_that_cannot_be_served_is_refused_and_the_old_one_stays(registry: ShelfRegistry, tmp_path: Path) -> None:
    models = served(registry, tmp_path)
    models.start()
    registry.aliases["champion"] = "3"
    assert not models.refresh()
    assert version(models) == "1"
    assert "expected bundle.json" in models.refused["3"].reason
    assert not models.refresh(), "it is not tried again"
    registry.aliases["champion"] = "2"
    assert models.refresh(), "a later version is"


def test_without_the_registry_the_service_goes_on_and_starts_from_its_cache(registry: ShelfRegistry, tmp_path: Path) -> None:
    models = served(registry, tmp_path)
    models.start()
    registry.aliases["champion"] = "2"
    models.refresh()
    registry.is_away = True
    assert not models.refresh()
    assert not models.registry_answers
    assert version(models) == "2"
    later = served(registry, tmp_path)
    later.start()
    assert version(later) == "2", "the one that served last, not the one that was fetched first"


def test_the_version_that_serves_the_one_before_and_the_challenger_stay_in_the_cache(registry: ShelfRegistry, tmp_path: Path) -> None:
    registry.bundles |= {"4": registry.bundles["1"], "5": registry.bundles["2"]}
    models = served(registry, tmp_path)
    models.start()
    registry.aliases["challenger"] = "5"
    models.challenger()
    for number in ("2", "4"):
        registry.aliases["champion"] = number
        assert models.refresh()
    assert sorted(registry.cached) == ["2", "4", "5"]
    again = served(registry, tmp_path)
    again.start()
    assert sorted(registry.cached) == ["2", "4", "5"], "a start with the same champion remembers the one before it"
    registry.aliases["champion"] = "2"
    assert again.refresh()
    assert sorted(registry.cached) == ["2", "4", "5"], "after a roll-back the two have changed places"


def test_a_cache_that_cannot_be_pruned_does_not_stop_a_new_champion(registry: ShelfRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = served(registry, tmp_path)
    models.start()

    def fails(numbers: object) -> list[str]:
        raise PermissionError("read-only")

    monkeypatch.setattr(registry, "keep_only", fails)
    registry.aliases["champion"] = "2"
    assert models.refresh()
    assert version(models) == "2"


def test_old_versions_leave_the_cache_and_what_was_computed_for_them_too(shop_bundle: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    registry, now = ModelRegistry("http://127.0.0.1:9", "shop", tmp_path), time.time()
    digests = {}
    for number, bundle, age in (("1", bundles["1"], 9_000), ("2", bundles["2"], 9_000), ("3", bundles["1"], 60), ("4", bundles["1"], 9_000)):
        shutil.copytree(bundle, tmp_path / f"shop-{number}" / "artifacts" / "bundle")
        mark = tmp_path / f"shop-{number}" / COMPLETE
        mark.touch()
        for path in (mark, mark.parent):
            os.utime(path, (now - age, now - age))
        digests[number] = read_bundle(bundle, verify=False).digest
    assert digests["1"] != digests["2"]
    for name in ("shop-9", "shop-eu-1", "shop-8"):  # being fetched, of another model, left half by a process that was killed
        (tmp_path / name).mkdir()
    os.utime(tmp_path / "shop-eu-1", (now - 9_000, now - 9_000))
    os.utime(tmp_path / "shop-8", (now - 9_000, now - 9_000))
    for number in ("1", "2"):
        for name in (f"linear-{digests[number]}-0.npy", f"year-{digests[number]}.npy"):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (now - 9_000, now - 9_000))
    (tmp_path / "other.npy").touch()
    assert sorted(registry.keep_only(("4",), now=now)) == ["1", "2", "8"]
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"shop-3", "shop-4", "shop-9", "shop-eu-1", f"linear-{digests['1']}-0.npy", f"year-{digests['1']}.npy", "other.npy"}


def test_with_neither_registry_nor_cache_the_error_says_what_to_do(registry: ShelfRegistry, tmp_path: Path) -> None:
    registry.is_away = True
    with pytest.raises(BundleError, match=r"no model to serve at models:/shop@champion: .* Register and promote a version, or start MLflow"):
        served(registry, tmp_path).start()


def test_a_challenger_is_loaded_when_asked_for(registry: ShelfRegistry, tmp_path: Path) -> None:
    models = served(registry, tmp_path)
    models.start()
    assert models.challenger() is None
    registry.aliases["challenger"] = "2"
    challenger = models.challenger()
    assert challenger is not None
    assert (challenger.version, version(models)) == ("2", "1")
    assert models.challenger() is challenger


def test_golden_requests_find_scores_that_are_not_finite(shop: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    check_golden_requests(shop, TODAY)
    original = Recommender._answer

    def poisoned(self: Recommender, *arguments: object) -> object:
        found = original(self, *arguments)  # type: ignore[arg-type]
        return replace(found, score=np.full_like(found.score, np.nan))

    monkeypatch.setattr(Recommender, "_answer", poisoned)
    with pytest.raises(BundleError, match=r"golden request \(list again, 2024-07-04\): scores are not finite"):
        check_golden_requests(shop, TODAY)


def test_answers_never_mix_versions_while_models_change(registry: ShelfRegistry, tmp_path: Path) -> None:
    """Readers ask without pause while the alias moves to and fro: every list is wholly one version's."""
    models = served(registry, tmp_path)
    models.start()
    ask = Ask(TODAY, "u03")
    expected = {number: answer_all(Recommender.load(registry.bundles[number]), [ask])[0].item_ids for number in ("1", "2")}
    assert expected["1"] != expected["2"]
    faults: list[object] = []
    is_done = threading.Event()

    def read() -> None:
        while not is_done.is_set():
            model = models.champion
            assert model is not None
            if answer_all(model, [ask])[0].item_ids != expected[model.version]:
                faults.append(model.version)

    reader = threading.Thread(target=read)
    reader.start()
    for number in ("2", "1", "2"):
        registry.aliases["champion"] = number
        assert models.refresh()
    is_done.set()
    reader.join()
    assert not faults
    assert models.swaps == 3
