"""The challenger beside the champion: same requests, agreement logged, nobody waits and nothing breaks."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from serving.answers import Ask, answer_all
from serving.recommender import Recommender
from serving.service import create_app
from serving.settings import ServiceSettings
from serving.shadow import QUEUE_SIZE, SCHEMA, Shadow, agreement
from tests.serving.conftest import NOW, wait_until_ready
from tests.serving.shelf_registry import ShelfRegistry
from tests.serving.small_shop import USERS, write_shop

ASKS = [Ask(request_date=date(2024, 7, 4), user_id=user, k=5) for user in USERS[:6]]


def shadowed(challenger: Callable[[], Recommender | None], folder: Path, asks: list[tuple[Ask, tuple[str, ...]]], **options: Any) -> Shadow:
    shadow = Shadow(challenger, folder, **{"share": 1.0, "draw": lambda: 0.5, "now": lambda: datetime(2024, 7, 4, tzinfo=UTC), **options})
    for ask, items in asks:
        shadow.offer(ask, items, "1")
    shadow.close()
    return shadow


def test_equal_models_agree_and_another_list_does_not(shop: Recommender, tmp_path: Path) -> None:
    found = answer_all(shop, ASKS)
    asks = [(ask, answer.item_ids) for ask, answer in zip(ASKS, found, strict=True)]
    asks[0] = (asks[0][0], tuple(reversed(asks[0][1])))
    asks[1] = (asks[1][0], ("nothing", "of", "this", "is", "sold"))
    shadowed(lambda: shop, tmp_path, asks)
    (row,) = agreement(tmp_path).to_dicts()
    assert (row["champion"], row["challenger"], row["list"], row["requests"]) == ("1", "bundle", "again", 6)
    assert row["overlap"] == pytest.approx(5 / 6)
    assert row["same_first"] == pytest.approx(4 / 6)
    assert pl.read_parquet(tmp_path / "*.parquet").schema == pl.Schema(SCHEMA)


def test_only_its_share_is_scored(shop: Recommender, tmp_path: Path) -> None:
    draws = iter([0.05, 0.2, 0.09, 0.9, 0.1, 0.0])
    shadowed(lambda: shop, tmp_path, [(ask, ()) for ask in ASKS], share=0.1, draw=lambda: next(draws))
    assert agreement(tmp_path)["requests"].to_list() == [3]


@pytest.mark.parametrize("what", ["none", "fails", "earlier"])
def test_challenger_that_is_absent_fails_or_cannot_be_asked_breaks_nothing(shop: Recommender, tmp_path: Path, what: str) -> None:
    def challenger() -> Recommender | None:
        if what == "fails":
            raise RuntimeError("no such file")
        return None if what == "none" else shop

    early = [replace(ask, request_date=date(2024, 1, 1)) for ask in ASKS]
    shadowed(challenger, tmp_path, [(ask, ()) for ask in (early if what == "earlier" else ASKS)])
    assert agreement(tmp_path).height == 0


def test_full_queue_drops_and_no_request_waits(shop: Recommender, tmp_path: Path) -> None:
    gate = threading.Event()

    def slow() -> Recommender:
        gate.wait(30)
        return shop

    shadow = Shadow(slow, tmp_path, share=1.0, draw=lambda: 0.0)
    for _ in range(QUEUE_SIZE + 10):
        shadow.offer(ASKS[0], (), "1")
    assert shadow.dropped in {9, 10}
    gate.set()
    shadow.close()
    assert agreement(tmp_path)["requests"].sum() == QUEUE_SIZE + 10 - shadow.dropped


def test_service_offers_every_answer_of_the_champion(tmp_path: Path) -> None:
    registry = ShelfRegistry({"1": write_shop(tmp_path / "one"), "2": write_shop(tmp_path / "two", seed=5)})
    registry.aliases["challenger"] = "2"
    settings = ServiceSettings(tracking_uri="http://mlflow", cache=tmp_path / "cache", log_folder=tmp_path / "log", shadow_share=1.0, warm_year=False)
    with TestClient(create_app(settings, registry=registry, now=lambda: NOW, seed=0)) as client:
        wait_until_ready(client)
        for user in USERS[:4]:
            assert client.post("/recommend", json={"user_id": user}).json()["model_version"] == "1"
        assert client.post("/recommend", json={"user_id": USERS[0], "model": "challenger"}).status_code == 200
    (row,) = agreement(tmp_path / "log" / "shadow").to_dicts()
    assert (row["champion"], row["challenger"], row["requests"]) == ("1", "2", 4)
    assert 0 <= row["overlap"] <= 1
