"""The HTTP service: what it answers, what it refuses and how it says so, what it remembers."""

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import uvicorn
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError

from serving.answers import Ask, answer_all
from serving.batching import OverloadedError, Scorer
from serving.recommender import Recommender
from serving.schemas import RecommendRequest
from serving.service import create_app
from serving.settings import ServiceSettings
from sources.mapping import hash_ids, hash_key
from tests.serving.conftest import NOW, wait_until_ready
from tests.serving.shelf_registry import ShelfRegistry
from tests.serving.small_shop import USERS, write_shop

TODAY = NOW.date().isoformat()


def recommend(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def measure(client: TestClient, name: str) -> float:
    (line,) = (line for line in client.get("/metrics").text.splitlines() if line.startswith(name + " "))
    return float(line.split()[1])


def test_a_list_is_the_recommenders_own(client: TestClient, shop: Recommender) -> None:
    for list_name in ("again", "discover"):
        answer = recommend(client, user_id="u03", date="2024-12-05", k=7, list=list_name)
        table = shop.rank(["u03"], request_date=date(2024, 12, 5), list_name=list_name, k=7)
        assert ids(answer) == table["item_id"].to_list()
        for part in ("score", "taste", "habit", "season"):
            np.testing.assert_allclose([item[part] for item in answer["items"]], table[part], atol=1e-6)
        assert answer["model_version"] == "bundle"


def test_a_body_is_read_straight_from_json_and_gives_what_the_usual_way_gives(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI's own way is taken with another content type, and for what is wrong with a body."""
    read = []
    original = RecommendRequest.model_validate_json
    monkeypatch.setattr(RecommendRequest, "model_validate_json", lambda text: read.append(text) or original(text))
    event = {"item_id": "i03", "event_time": "2024-07-03T10:00:00Z", "event_type": "purchase"}
    for body in ({"user_id": "u03"}, {"user_id": "u04", "date": "2024-12-05", "list": "discover", "exclude": ["i01"], "events": [event], "k": 3}):
        text = json.dumps(body)
        lean, usual = (
            client.post("/recommend", content=text, headers={"content-type": kind}) for kind in ("application/json", "application/json; charset=utf-8")
        )
        assert lean.status_code == usual.status_code == 200
        assert lean.json()["items"] == usual.json()["items"]
    assert len(read) == 2
    faults = [client.post("/recommend", content=text, headers={"content-type": "application/json"}) for text in ('{"k": 0}', '{"k": ', '{"no": 1}', "[]")]
    assert [fault.status_code for fault in faults] == [422] * 4
    assert faults[0].json()["detail"] == "k: Input should be greater than or equal to 1"


def test_the_date_changes_the_list_and_is_today_when_left_out(client: TestClient) -> None:
    assert recommend(client, user_id="u03")["date"] == TODAY
    assert ids(recommend(client, date="2024-07-08")) != ids(recommend(client, date="2025-01-06"))


def test_unknown_users_and_items_are_answered_and_counted(client: TestClient) -> None:
    users, items = measure(client, "perennial_unknown_users_total"), measure(client, "perennial_unknown_items_total")
    answer = recommend(client, user_id="nobody", events=[{"item_id": "no such thing"}], exclude=["nor this"])
    assert answer["unknown_items"] == 2
    assert {item["taste"] for item in answer["items"]} == {0.0}
    assert measure(client, "perennial_unknown_users_total") == users + 1
    assert measure(client, "perennial_unknown_items_total") == items + 1


def test_events_of_the_request_and_events_sent_before_count_alike(client: TestClient) -> None:
    session = [{"item_id": "i35", "event_type": "purchase"}, {"item_id": "i36", "event_type": "view"}]
    before = recommend(client, user_id="zoe", list="discover", k=40)
    within = recommend(client, user_id="zoe", list="discover", k=40, events=session)
    assert client.post("/events", json={"user_id": "zoe", "events": [*session, {"item_id": "?"}]}).json() == {"accepted": 2, "unknown_items": 1}
    after = recommend(client, user_id="zoe", list="discover", k=40)
    assert after["items"] == within["items"]
    assert set(ids(before)) - set(ids(after)) == {"i35", "i36"}
    assert after["items"][0]["taste"] != 0


def test_category_and_exclusions_narrow_the_list(client: TestClient) -> None:
    answer = recommend(client, user_id="u01", category="winter > garden", k=100)
    assert {item["category"] for item in answer["items"]} == {"winter > garden"}
    assert {item["category"].split(" > ")[0] for item in recommend(client, user_id="u01", category="winter", k=100)["items"]} == {"winter"}
    first = ids(answer)[0]
    assert first not in ids(recommend(client, user_id="u01", category="winter > garden", k=100, exclude=[first]))


def test_an_explained_list_says_why_in_words(client: TestClient) -> None:
    answer = recommend(client, user_id="u03", date="2024-12-05", explain=True)
    reasons = " ".join(reason for item in answer["items"] for reason in item["reasons"])
    assert "in season now" in reasons or "in season:" in reasons
    assert "you have this about every" in reasons
    assert "like " in reasons
    assert answer["counterfactual"]["without"].startswith("i")
    for item in answer["items"]:
        assert item["score"] == pytest.approx(item["taste"] + item["habit"] + item["season"], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"k": 0}, "k: Input should be greater than or equal to 1"),
        ({"k": 101}, "k: Input should be less than or equal to 100"),
        ({"date": "2024-06-30"}, "date: expected 2024-07-01 (the model's cut-off) to 2034-07-09, found 2024-06-30"),
        ({"date": "2999-01-01"}, "found 2999-01-01"),
        ({"date": "July"}, "date: "),
        ({"list": "gain"}, "list: Input should be 'again' or 'discover'"),
        ({"user": "u01"}, "user: Extra inputs are not permitted"),
        ({"user_id": ""}, "user_id: "),
        ({"user_id": "x" * 300}, "user_id: "),
        ({"events": [{"item_id": "i01"}] * 201}, "events: "),
        ({"events": [{"item_id": "i01", "event_time": "0001-01-01T00:00:00+10:00"}]}, "events.0.event_time: "),
    ],
)
def test_wrong_input_gets_422_in_words(client: TestClient, body: dict[str, Any], message: str) -> None:
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_hostile_bodies_get_an_answer_in_the_four_hundreds(client: TestClient) -> None:
    for content in (
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"user_id": "\\ud800"}',
        b'{"k": NaN}',
        b'{"k": 1e400}',
        b'{"events": [{"item_id": "\\u0000"}]}',
        b"[" * 5000,
    ):
        answer = client.post("/recommend", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 400, 422), (content[:40], answer.text)


def test_bodies_too_large_are_refused_unread(client: TestClient) -> None:
    large = json.dumps({"user_id": "u01", "exclude": ["x" * 256] * 1500})
    assert client.post("/recommend", content=large).status_code == 413

    def parts() -> Any:
        for _ in range(100):
            yield b" " * 10_000

    assert client.post("/recommend", content=parts()).status_code == 413


def test_impressions_and_feedback_are_written(settings: ServiceSettings) -> None:
    with TestClient(create_app(settings, now=lambda: NOW, seed=0)) as client:
        wait_until_ready(client)
        answer = recommend(client, user_id="u03", k=3)
        assert client.post("/feedback", json={"request_id": answer["request_id"], "rewards": [{"item_id": ids(answer)[1], "reward": 2.5}]}).json() == {
            "accepted": 1
        }
    assert settings.log_folder is not None
    shown = pl.read_parquet(settings.log_folder / "impressions/**/*.parquet", hive_partitioning=False)
    assert shown.select("request_id", "position", "user_id", "item_id", "list", "model_version", "policy", "propensity").rows() == [
        (answer["request_id"], position, "u03", item, "again", "bundle", "greedy", 1.0) for position, item in enumerate(ids(answer), start=1)
    ]
    rewards = pl.read_parquet(settings.log_folder / "feedback/**/*.parquet", hive_partitioning=False)
    assert rewards.select("request_id", "item_id", "reward").rows() == [(answer["request_id"], ids(answer)[1], 2.5)]


def test_users_are_pseudonymous_behind_the_door(settings: ServiceSettings, caplog: pytest.LogCaptureFixture) -> None:
    secret = "a secret of sixteen and more"
    with TestClient(create_app(settings.model_copy(update={"hash_key": SecretStr(secret)}), now=lambda: NOW)) as client:
        wait_until_ready(client)
        client.post("/events", json={"user_id": "secretive-sam", "events": [{"item_id": "i35"}]})
        assert recommend(client, user_id="secretive-sam")["items"][0]["taste"] != 0
    assert settings.log_folder is not None
    logged = pl.read_parquet(settings.log_folder / "impressions/**/*.parquet", hive_partitioning=False)["user_id"].unique().to_list()
    assert logged == hash_ids(pl.Series(["secretive-sam"]), hash_key(secret, variable="X")).to_list()
    assert "secretive-sam" not in caplog.text


def test_a_key_is_asked_for_where_one_is_set(settings: ServiceSettings) -> None:
    with TestClient(create_app(settings.model_copy(update={"api_key": SecretStr("open sesame")}), now=lambda: NOW)) as client:
        wait_until_ready(client)
        assert client.post("/recommend", json={}).status_code == 401
        assert client.post("/recommend", json={}, headers={"X-API-Key": "open"}).status_code == 401
        assert client.post("/recommend", json={}, headers={"X-API-Key": "open sesame"}).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/healthz").status_code == 200


def test_other_origins_are_closed_by_default(client: TestClient) -> None:
    answer = client.get("/model", headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_batch_gives_the_same_lists(client: TestClient, shop: Recommender) -> None:
    answer = client.post("/batch", json={"user_ids": [*USERS, "nobody", "u00"], "date": "2024-12-05", "k": 5}).json()
    table = shop.rank([*USERS, "nobody"], request_date=date(2024, 12, 5), k=5)
    assert list(answer["lists"]) == [*USERS, "nobody"]
    for (user,), rows in table.partition_by("user_id", as_dict=True).items():
        assert [item["item_id"] for item in answer["lists"][user]] == rows["item_id"].to_list()


@pytest.mark.slow
def test_an_items_year_is_given_in_numbers(settings: ServiceSettings, shop: Recommender) -> None:
    with TestClient(create_app(settings, now=lambda: NOW)) as client:
        wait_until_ready(client)
        waiting = client.get("/items/i05/season")
        assert waiting.status_code == 503
        assert waiting.headers["retry-after"] == "5"
        client.app.state.service.year.compute()  # type: ignore[attr-defined]
        year = client.get("/items/i05/season").json()
        assert len(year["season"]) == 53
        scores = shop.season_of(date(2024, 7, 1) + timedelta(days=21))
        assert year["season"][3]["discover"] == pytest.approx(float(scores[5, 1] - scores[:, 1].mean()), abs=1e-5)
        summer, winter = (np.mean([point["again"] for point in year["season"] if int(point["date"][5:7]) in months]) for months in ((6, 7, 8), (12, 1, 2)))
        assert summer > winter
        assert year["forecast_of"] == "summer"
        assert year["forecast"][0] == {"date": "2024-07-01", "mean": 10.0, "low": 7.0, "high": 13.0}
        assert sum(point["buyers"] for point in year["past"]) > 0
        assert client.get("/items/unheard-of/season").status_code == 404


def test_items_are_found_by_words(client: TestClient) -> None:
    found = client.get("/items", params={"query": "frosty GARDEN", "limit": 5}).json()
    assert len(found) == 5
    assert all(item["title"].startswith("Frosty") and item["category"] == "winter > garden" for item in found)
    assert client.get("/items", params={"query": "a(b"}).json() == []


def test_browsing_users_is_off_unless_switched_on(client: TestClient, settings: ServiceSettings) -> None:
    assert client.get("/users", params={"query": "u1"}).json() == [f"u1{number}" for number in range(10)]
    assert len(client.get("/users/u03/history", params={"limit": 4}).json()) == 4
    with TestClient(create_app(settings.model_copy(update={"browse_users": False}), now=lambda: NOW)) as closed:
        wait_until_ready(closed)
        assert closed.get("/users").status_code == 404
        assert closed.get("/users/u03/history").status_code == 404


def test_exploration_gives_exact_propensities(settings: ServiceSettings) -> None:
    """Half of the lists may end in a newcomer; the small shop's items are old, so a newcomer is declared new by a longer window."""
    with TestClient(create_app(settings.model_copy(update={"explore_share": 0.5}), now=lambda: NOW, seed=1)) as client:
        wait_until_ready(client)
        service = client.app.state.service  # type: ignore[attr-defined]
        service.models.champion.is_new = lambda _: np.arange(40) >= 30
        last = [ids(recommend(client, user_id="u03", k=3, list="discover"))[-1] for _ in range(60)]
    assert settings.log_folder is not None
    shown = pl.read_parquet(settings.log_folder / "impressions/**/*.parquet", hive_partitioning=False)
    assert shown["policy"].unique().to_list() == ["season_newcomers"]
    ends = shown.filter(pl.col("position") == 3)
    greedy = ends.filter(pl.col("propensity") == 0.5)["item_id"].unique().to_list()
    drawn = ends.filter(pl.col("propensity") < 0.5)
    assert len(greedy) == 1
    assert 15 < drawn.height < 45
    assert drawn["propensity"].unique().to_list() == [0.5 / drawn["item_id"].n_unique()]
    assert set(drawn["item_id"]) <= {f"i{number}" for number in range(30, 40)}
    assert set(last) == {*greedy, *drawn["item_id"]}


def test_too_many_waiting_are_turned_away_at_once(shop: Recommender) -> None:
    async def crowd() -> list[object]:
        scorer = Scorer(max_waiting=3, max_together=2)
        asks = [scorer.answer(Ask(date(2024, 7, 4), user), shop, timeout_seconds=5) for user in USERS[:10]]
        found = await asyncio.gather(*asks, return_exceptions=True)
        scorer.close()
        return list(found)

    found = asyncio.run(crowd())
    refused = [answer for answer in found if isinstance(answer, OverloadedError)]
    assert len(refused) == 7
    assert all(len(answer.item_ids) == 10 for answer in found if not isinstance(answer, Exception))  # type: ignore[attr-defined]


def test_an_overloaded_service_says_when_to_come_again(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> None:
        raise OverloadedError("too many requests are waiting")

    monkeypatch.setattr(Scorer, "answer", full)
    answer = client.post("/recommend", json={})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_one_bad_request_does_not_spoil_those_scored_with_it(shop: Recommender) -> None:
    async def mixed() -> list[object]:
        scorer = Scorer(max_waiting=10, max_together=10)
        days = (date(2024, 7, 4), date(2020, 1, 1), date(2024, 7, 4))
        found = await asyncio.gather(*(scorer.answer(Ask(day, "u01"), shop, timeout_seconds=5) for day in days), return_exceptions=True)
        scorer.close()
        return list(found)

    first, bad, third = asyncio.run(mixed())
    assert isinstance(bad, ValueError)
    assert first.item_ids == third.item_ids  # type: ignore[attr-defined]


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    found = ServiceSettings.from_environment(
        {"PERENNIAL_BUNDLE": str(tmp_path), "PERENNIAL_ALLOW_ORIGINS": "https://a, https://b", "PERENNIAL_API_KEY": "k", "PERENNIAL_THREADS": "2"}
    )
    assert found.allow_origins == ("https://a", "https://b")
    assert found.threads == 2
    assert "k" not in repr(found.api_key)
    with pytest.raises(ValidationError, match="nothing to serve: give PERENNIAL_TRACKING_URI"):
        ServiceSettings.from_environment({})


def test_two_workers_share_sessions_through_redis(settings: ServiceSettings, redis_url: str) -> None:
    shared = settings.model_copy(update={"redis_url": redis_url})
    body = {"user_id": "somebody in redis", "date": "2024-12-05"}
    with TestClient(create_app(shared, now=lambda: NOW)) as first, TestClient(create_app(shared, now=lambda: NOW)) as second:
        wait_until_ready(first)
        wait_until_ready(second)
        before = second.post("/recommend", json=body).json()["items"]
        assert first.post("/events", json={"user_id": body["user_id"], "events": [{"item_id": "i35", "event_type": "purchase"}]}).status_code == 200
        after = second.post("/recommend", json=body).json()["items"]
    assert {item["taste"] for item in before} == {0.0}
    assert any(item["taste"] != 0 for item in after)


def test_without_its_store_of_sessions_the_service_still_makes_lists(settings: ServiceSettings) -> None:
    with TestClient(create_app(settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0"}), now=lambda: NOW)) as client:
        wait_until_ready(client)
        assert len(client.post("/recommend", json={"user_id": "u01"}).json()["items"]) == 10
        refused = client.post("/events", json={"user_id": "u01", "events": [{"item_id": "i35"}]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert "the store of sessions does not answer" in refused.json()["detail"]
        assert "perennial_sessions_missed_total 1.0" in client.get("/metrics").text


def test_a_request_that_waits_too_long_is_given_up(shop: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.batching.answer_all", lambda *_: time.sleep(0.3))

    async def late() -> None:
        scorer = Scorer(max_waiting=3, max_together=2)
        with pytest.raises(OverloadedError, match=r"no answer within 0.05 s"):
            await scorer.answer(Ask(date(2024, 7, 4), "u01"), shop, timeout_seconds=0.05)
        scorer.close()

    asyncio.run(late())


def test_requests_in_flight_are_finished_on_the_way_down(settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop while a list is being made, the server answers it, writes its impressions, and only then ends."""
    is_asked = threading.Event()

    def slowly(*arguments: Any) -> Any:
        is_asked.set()
        time.sleep(0.4)
        return answer_all(*arguments)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(create_app(settings, now=lambda: NOW), log_level="error", timeout_graceful_shutdown=30))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        with httpx.Client(base_url=address) as client:
            end = time.monotonic() + 20
            while not server.started or client.get("/readyz").status_code != 200:
                assert time.monotonic() < end
                time.sleep(0.02)
            monkeypatch.setattr("serving.batching.answer_all", slowly)
            with ThreadPoolExecutor(1) as asking:
                answer = asking.submit(client.post, "/recommend", json={"user_id": "u01"})
                assert is_asked.wait(5)
                server.should_exit = True
                assert answer.result(10).status_code == 200
        thread.join(20)
        assert not thread.is_alive()
    assert settings.log_folder is not None
    assert pl.read_parquet(settings.log_folder / "impressions/**/*.parquet", hive_partitioning=False).height == 10


def test_the_promotion_event_brings_the_new_champion_without_losing_a_request(settings: ServiceSettings, shop_bundle: Path, tmp_path: Path) -> None:
    """Readers ask without pause while the alias moves twice; `POST /refresh` is all the service is told, and every answer is a list."""
    registry = ShelfRegistry({"1": shop_bundle, "2": write_shop(tmp_path / "other", seed=1)})
    with TestClient(create_app(settings.model_copy(update={"poll_seconds": 3600.0, "timeout_seconds": 60.0}), registry=registry, now=lambda: NOW)) as client:
        wait_until_ready(client)
        answers: list[tuple[int, str]] = []
        is_done = threading.Event()

        def read() -> None:
            while not is_done.is_set():
                answer = client.post("/recommend", json={"user_id": "u01"})
                answers.append((answer.status_code, answer.json().get("model_version", "")))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in ("2", "1"):
            registry.aliases["champion"] = number
            assert client.post("/refresh").status_code == 202
            end = time.monotonic() + 120
            while client.get("/readyz").json()["model_version"] != number:
                assert time.monotonic() < end
                time.sleep(0.02)
        is_done.set()
        for reader in readers:
            reader.join()
        assert {status for status, _ in answers} == {200}
        assert {version for _, version in answers} == {"1", "2"}
        assert "perennial_model_swaps 2.0" in client.get("/metrics").text
