"""The bridge takes each genuine delivery once: forged, stale, replayed, duplicated and out-of-order ones over ASGI, no server."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature

from serving.webhook_bridge import BridgeSettings, Deliveries, make_app, signature_of

SECRET, NOW = "a secret of the test", 1_800_000_000


class Prefect:
    """Prefect's end: keeps events, or answers with an error."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.status = 204

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url == "http://prefect/api/events"
        if self.status < 400:
            self.events += json.loads(request.content)
        return httpx.Response(self.status)


@pytest.fixture
def prefect() -> Prefect:
    return Prefect()


@pytest.fixture
def bridge(tmp_path: Path, prefect: Prefect) -> Callable[..., list[int]]:
    """Send deliveries, (body, headers) each, and return the answers' codes."""

    def send(*deliveries: tuple[bytes, dict[str, str]], now: float = NOW) -> list[int]:
        app = make_app(BridgeSettings(SECRET, "http://prefect/api/", tmp_path / "deliveries.sqlite"), clock=lambda: now, transport=httpx.MockTransport(prefect))

        async def post() -> list[int]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bridge") as client:
                answers = await asyncio.gather(*(client.post("/mlflow", content=body, headers=headers) for body, headers in deliveries))
            return [answer.status_code for answer in answers]

        return asyncio.run(post())

    return send


def delivery(
    delivery_id: str = "d1", *, value: str = "approved", key: str = "review", version: str = "3", at: int = NOW, secret: str = SECRET, **change: Any
) -> tuple[bytes, dict[str, str]]:
    """A delivery as MLflow makes it, signed by MLflow's own function."""
    data = {"name": "shop", "version": version, "key": key, "value": value}
    body = json.dumps({"entity": "model_version_tag", "action": "set", "timestamp": "2027-01-15T08:00:00+00:00", "data": data, **change})
    signature = _generate_hmac_signature(secret, delivery_id, str(at), body)
    return body.encode(), {"X-MLflow-Delivery-Id": delivery_id, "X-MLflow-Timestamp": str(at), "X-MLflow-Signature": signature}


def test_signature_is_mlflows() -> None:
    assert signature_of(SECRET, "d1", "1", b"{}") == _generate_hmac_signature(SECRET, "d1", "1", "{}")


def test_approval_becomes_one_event_that_names_the_version(bridge, prefect) -> None:
    assert bridge(delivery()) == [202]
    [event] = prefect.events
    assert event["event"] == "perennial.version.reviewed"
    assert event["resource"]["prefect.resource.id"] == "perennial.version.shop.3"
    assert event["resource"]["perennial.review"] == "approved"
    assert event["payload"] == {"name": "shop", "version": "3"}


def test_forged_deliveries_are_refused(bridge, prefect) -> None:
    body, headers = delivery()
    forged = [
        delivery(secret="another"),
        (body.replace(b'"3"', b'"4"'), headers),
        (body, {**headers, "X-MLflow-Delivery-Id": "d2"}),
        (body, {**headers, "X-MLflow-Timestamp": str(NOW + 1)}),
        (body, {**headers, "X-MLflow-Signature": ""}),
        (body, {}),
        (body, {**headers, "X-MLflow-Signature": headers["X-MLflow-Signature"].removeprefix("v1,")}),
    ]
    assert bridge(*forged) == [401] * len(forged)
    assert prefect.events == []


@pytest.mark.parametrize(("seconds_off", "code"), [(-301, 401), (-300, 202), (300, 202), (301, 401)])
def test_deliveries_outside_the_window_are_stale(bridge, seconds_off, code) -> None:
    assert bridge(delivery(at=NOW + seconds_off)) == [code]


def test_time_that_is_no_number_is_refused(bridge) -> None:
    body, _ = delivery()
    odd = "١٢"
    signed = signature_of(SECRET, "d1", odd, body)
    latin = {"X-MLflow-Delivery-Id": "d1", "X-MLflow-Timestamp": "soon", "X-MLflow-Signature": signature_of(SECRET, "d1", "soon", body)}
    assert bridge((body, latin)) == [401]
    assert signed.startswith("v1,")


def test_replay_is_refused_also_after_a_restart(bridge, prefect) -> None:
    assert bridge(delivery()) == [202]
    assert bridge(delivery(), now=NOW + 200) == [409]  # every call makes a new application over the same file
    assert len(prefect.events) == 1


def test_of_duplicates_at_once_one_is_taken(bridge, prefect) -> None:
    assert sorted(bridge(*[delivery()] * 5)) == [202, 409, 409, 409, 409]
    assert len(prefect.events) == 1


def test_out_of_order_deliveries_all_arrive_and_carry_no_decision_to_act_on(bridge, prefect) -> None:
    assert bridge(delivery("late", value="rejected", at=NOW - 1), delivery("early", value="approved", at=NOW - 60)) == [202, 202]
    assert {event["resource"]["perennial.review"] for event in prefect.events} == {"approved", "rejected"}
    assert all(set(event["payload"]) == {"name", "version"} for event in prefect.events)


def test_event_prefect_did_not_take_can_be_delivered_again(bridge, prefect) -> None:
    prefect.status = 500
    assert bridge(delivery()) == [503]
    prefect.status = 204
    assert bridge(delivery()) == [202]
    assert len(prefect.events) == 1


def test_other_tags_and_entities_start_nothing(bridge, prefect) -> None:
    assert bridge(delivery("a", key="note"), delivery("b", entity="registered_model", action="created", data={"name": "shop"})) == [202, 202]
    assert prefect.events == []


@pytest.mark.parametrize("change", [{"data": {"name": "shop"}}, {"data": 3}, {"entity": None}])
def test_signed_nonsense_is_named(bridge, prefect, change) -> None:
    assert bridge(delivery(**change)) == [422]
    assert prefect.events == []


def test_body_beyond_the_limit_is_not_read(bridge) -> None:
    assert bridge(delivery(value="x" * 300_000)) == [413]


def test_ids_are_kept_as_long_as_their_times_are_accepted(tmp_path: Path) -> None:
    kept = Deliveries(tmp_path / "deliveries.sqlite")
    assert kept.claim("d1", NOW)
    assert not kept.claim("d1", NOW + 600)
    assert kept.claim("d1", NOW + 602)


def test_settings_name_what_is_missing() -> None:
    with pytest.raises(ValueError, match="PERENNIAL_WEBHOOK_SECRET"):
        BridgeSettings.from_environment({"PREFECT_API_URL": "http://prefect/api"})
