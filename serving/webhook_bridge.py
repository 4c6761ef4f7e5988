"""MLflow's signed webhook in, a Prefect event out; what the event starts reads the registry again, so order and loss of deliveries decide nothing.

    PERENNIAL_WEBHOOK_SECRET=... PREFECT_API_URL=http://127.0.0.1:4200/api python -m serving.webhook_bridge

202  signed, fresh, new: the event is with Prefect (or is of no interest and was dropped)
401  not signed with our secret, or its time is more than five minutes off
409  this delivery was taken already
422  signed, but no delivery of MLflow's registry
503  Prefect did not take the event; nothing is remembered, MLflow delivers again

Only deliveries that say a version was reviewed are passed on. Ids of deliveries are kept in SQLite for as long as their time stamps would be accepted, so a
restart forgets none.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

WINDOW_SECONDS: Final = 300
MAX_BODY_BYTES: Final = 262_144
REVIEWED: Final = "perennial.version.reviewed"
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class BridgeSettings:
    """One bridge: the secret it shares with MLflow, Prefect's API, and where it remembers deliveries."""

    secret: str
    prefect_api_url: str
    deliveries: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "BridgeSettings":
        """Settings from PERENNIAL_WEBHOOK_SECRET, PREFECT_API_URL and PERENNIAL_DELIVERIES. Raises ValueError that names what is missing."""
        missing = [name for name in ("PERENNIAL_WEBHOOK_SECRET", "PREFECT_API_URL") if not environment.get(name)]
        if missing:
            raise ValueError(f"{', '.join(missing)}: expected in the environment, not set. The secret is the one given to MLflow when the webhook was made.")
        return cls(
            secret=environment["PERENNIAL_WEBHOOK_SECRET"],
            prefect_api_url=environment["PREFECT_API_URL"],
            deliveries=Path(environment.get("PERENNIAL_DELIVERIES", ".perennial/deliveries.sqlite")),
        )


class TagData(BaseModel):
    """A tag of a version was set."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1, max_length=256)]
    version: Annotated[str, Field(pattern=r"^[1-9][0-9]*$")]
    key: Annotated[str, Field(max_length=250)]
    value: Annotated[str, Field(max_length=5000)]


class Delivery(BaseModel):
    """Body of a delivery."""

    model_config = ConfigDict(extra="ignore")

    entity: str
    action: str
    timestamp: str
    data: dict[str, Any]


def signature_of(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    """`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, as MLflow signs."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether a delivery carries our signature and a time within the window; the signatures are compared in constant time."""
    delivery_id, timestamp = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    expected = signature_of(secret, delivery_id, timestamp, body)
    signed = hmac.compare_digest(expected.encode(), headers.get("x-mlflow-signature", "").encode())
    return signed and bool(delivery_id) and timestamp.isascii() and timestamp.isdigit() and abs(now - int(timestamp)) <= WINDOW_SECONDS


def review_event(delivery_id: str, delivery: Delivery) -> dict[str, Any] | None:
    """The Prefect event of a delivery; None where it is not about a review. Its id follows from the delivery's, so Prefect keeps one of two."""
    if (delivery.entity, delivery.action) != ("model_version_tag", "set"):
        return None
    tag = TagData.model_validate(delivery.data)
    if tag.key != "review":
        return None
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, delivery_id)),
        "event": REVIEWED,
        "occurred": delivery.timestamp,
        "resource": {
            "prefect.resource.id": f"perennial.version.{tag.name}.{tag.version}",
            "prefect.resource.name": f"{tag.name} version {tag.version}",
            "perennial.review": tag.value,
        },
        "payload": {"name": tag.name, "version": tag.version},
    }


class Deliveries:
    """Ids of deliveries that were taken, each once; kept as long as their time stamps would be accepted."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with closing(self._open()) as connection, connection:
            connection.execute("create table if not exists deliveries (id text primary key, at real not null)")

    def claim(self, delivery_id: str, now: float) -> bool:
        """Remember an id; False where it is known. Two requests at once: one of them is told True."""
        with closing(self._open()) as connection, connection:
            connection.execute("delete from deliveries where at < ?", (now - 2 * WINDOW_SECONDS - 1,))
            return connection.execute("insert or ignore into deliveries values (?, ?)", (delivery_id, now)).rowcount == 1

    def forget(self, delivery_id: str) -> None:
        """Let an id be delivered again."""
        with closing(self._open()) as connection, connection:
            connection.execute("delete from deliveries where id = ?", (delivery_id,))

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=10)


def make_app(settings: BridgeSettings, *, clock: Callable[[], float] = time.time, transport: httpx.AsyncBaseTransport | None = None) -> FastAPI:
    """The bridge. `clock` and `transport` (towards Prefect) are given by tests."""
    app = FastAPI(title="Perennial webhook bridge", docs_url=None, redoc_url=None, openapi_url=None)
    deliveries = Deliveries(settings.deliveries)

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        return {"ok": True}

    @app.post("/mlflow", status_code=202)
    async def take(request: Request) -> dict[str, str]:
        body = await _body_of(request)
        if not is_genuine(settings.secret, request.headers, body, clock()):
            raise HTTPException(401, "expected a signature with the shared secret and a time within five minutes of ours")
        delivery_id = request.headers["x-mlflow-delivery-id"]
        try:
            event = review_event(delivery_id, Delivery.model_validate_json(body))
        except ValidationError as error:
            raise HTTPException(422, f"no delivery of MLflow's registry: {json.loads(error.json(include_input=False, include_url=False))}") from error
        if not deliveries.claim(delivery_id, clock()):
            raise HTTPException(409, "this delivery was taken already")
        if event is None:
            return {"event": "none"}
        try:
            async with httpx.AsyncClient(transport=transport, timeout=10.0) as prefect:
                (await prefect.post(f"{settings.prefect_api_url.rstrip('/')}/events", json=[event])).raise_for_status()
        except httpx.HTTPError as error:
            deliveries.forget(delivery_id)
            raise HTTPException(503, "Prefect did not take the event; deliver again", headers={"Retry-After": "5"}) from error
        return {"event": event["event"]}

    return app


async def _body_of(request: Request) -> bytes:
    """The body, read up to its limit."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"expected at most {MAX_BODY_BYTES} bytes")
    return body


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m serving.webhook_bridge", description="MLflow's signed webhook in, a Prefect event out.")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen at")
    parser.add_argument("--port", type=int, default=8090, help="port to listen at")
    given = parser.parse_args()
    try:
        settings = BridgeSettings.from_environment()
    except ValueError as error:
        parser.error(str(error))
    uvicorn.run(make_app(settings), host=given.host, port=given.port, access_log=False)


if __name__ == "__main__":
    main()
