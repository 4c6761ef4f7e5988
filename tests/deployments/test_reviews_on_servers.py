"""Reviews on the real servers: a delivery that is lost, late, told twice or stale, and a rollback. MLflow, the bridge, Prefect and its worker are real; so is
what they decide about, three versions of a made model. The tests build on one another, in this order.
"""

import json
import os
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest

from contracts.sections.evaluation import RegistryConfig
from flows.local_installation import running as services
from flows.local_installation import start
from serving.bundle import bundle_ref, read_bundle
from serving.recommender import Recommender
from serving.webhook_bridge import REVIEWED, signature_of
from tasks.audit import audit_trail
from tasks.register import golden_requests
from tasks.registry import connect, log_recommender, set_version_tags, start_parent
from tasks.review_tags import QUARANTINED, review_subject
from tasks.store import audit_address, store_of, write_text
from tests.deployments.conftest import Running, wait_for
from tests.serving.small_shop import write_shop

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

MODEL = "shelf"


@dataclass(frozen=True)
class Shelf:
    """Versions that passed their gates: `first` without a champion, the others against `first`."""

    first: str
    second: str
    third: str


@pytest.fixture(scope="module")
def shelf(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    registry = RegistryConfig(model_name=MODEL, tracking_uri=running.installation.mlflow_url)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in running.installation.client_environment().items():
            if name.startswith("MLFLOW_"):
                patched.setenv(name, value)
        client = connect(registry, str(running.installation.folder / "stores"))
        made: list[str] = []
        for seed in range(3):
            folder = tmp_path_factory.mktemp("version")
            path = write_shop(folder, seed=seed)
            run_id = start_parent(client, registry.experiment, name=f"{MODEL}-{seed}", tags={})
            golden = write_text(json.dumps(golden_requests(Recommender.load(path))), folder / "golden_requests.json")
            digest = f"evaluation{seed}"
            tags = {"evaluation_digest": digest, "run_id": run_id, "compared_with": made[0] if made else ""}
            version = log_recommender(client, MODEL, run_id, bundle_ref(read_bundle(path)), kind="made", description="made", tags=tags, extra=[golden])
            passed = {"gate_quality": "passed", "gate_servability": "passed", "review_of": review_subject(MODEL, version, digest)}
            set_version_tags(client, MODEL, version, passed)
            made.append(version)
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])
    return Shelf(*made)


def decisions(running: Running) -> list[tuple[str, str]]:
    return list(audit_trail(audit_address(store_of(running.config)), MODEL).select("version", "decision").iter_rows())


def promotions_of(running: Running, version: str) -> list[dict[str, Any]]:
    """Runs the automation started for a version."""
    return [run for run in running.runs_of("promote-reviewed") if (run["parameters"].get("model_name"), run["parameters"].get("version")) == (MODEL, version)]


def events_about(running: Running, version: str, review: str) -> int:
    """Events Prefect holds about a review of a version."""
    asked = {"filter": {"event": {"name": [REVIEWED]}, "resource": {"id": [f"perennial.version.{MODEL}.{version}"]}}}
    return sum(event["resource"]["perennial.review"] == review for event in running.prefect("POST", "events/filter", asked)["events"])


@pytest.fixture(scope="module")
def overtaken(running: Running, shelf: Shelf) -> dict[str, Any]:
    """The approval of the second version, a minute on its way."""
    return late_approval(running, shelf.second, seconds_ago=60)


def late_approval(running: Running, version: str, *, seconds_ago: int) -> dict[str, Any]:
    """A delivery as MLflow signs it, of some time ago."""
    at = int(time.time()) - seconds_ago
    data = {"name": MODEL, "version": version, "key": "review", "value": "approved"}
    delivery = {"entity": "model_version_tag", "action": "set", "timestamp": datetime.fromtimestamp(at, UTC).isoformat(), "data": data}
    body = json.dumps(delivery).encode()
    headers = {"x-mlflow-delivery-id": f"late-{version}-{seconds_ago}", "x-mlflow-timestamp": str(at)}
    signature = signature_of(running.installation.webhook_secret, headers["x-mlflow-delivery-id"], str(at), body)
    return {"content": body, "headers": {**headers, "x-mlflow-signature": signature}}


def deliver(running: Running, delivery: dict[str, Any]) -> int:
    return httpx.post(running.installation.bridge_url, timeout=20, **delivery).status_code


def kill_bridge(running: Running) -> None:
    os.killpg(services(running.installation.folder)["bridge"], signal.SIGKILL)
    wait_for(lambda: "bridge" not in services(running.installation.folder), 10)


def test_lost_delivery_is_made_good_by_reconcile(running: Running, shelf: Shelf):
    log = running.installation.folder / "services" / "mlflow.log"
    kill_bridge(running)
    running.set_tag(MODEL, shelf.first, "review", "approved")
    wait_for(lambda: "Failed to send webhook" in Path(log).read_text(encoding="utf-8", errors="replace"), 40)
    start(running.installation, lambda _: None)
    assert (promotions_of(running, shelf.first), running.champion(MODEL)) == ([], None)
    assert running.run("reconcile", {"model_name": MODEL}) == "COMPLETED"
    assert running.champion(MODEL) == shelf.first
    assert decisions(running) == [(shelf.first, "promoted")]


def test_approval_that_is_overtaken_by_a_rejection_promotes_nothing(running: Running, shelf: Shelf, overtaken: dict[str, Any]):
    running.set_tag(MODEL, shelf.second, "review", "rejected")
    wait_for(lambda: events_about(running, shelf.second, "rejected"), 20)
    assert deliver(running, overtaken) == 202
    (run,) = wait_for(lambda: promotions_of(running, shelf.second), 30)
    assert running.ended(run["id"], seconds=60) == "COMPLETED"
    assert running.champion(MODEL) == shelf.first
    assert decisions(running)[-1] == (shelf.second, "refused")


def test_replayed_and_stale_deliveries_start_nothing_also_after_the_bridge_was_killed(running: Running, shelf: Shelf, overtaken: dict[str, Any]):
    kill_bridge(running)
    start(running.installation, lambda _: None)
    assert deliver(running, overtaken) == 409
    assert deliver(running, late_approval(running, shelf.second, seconds_ago=400)) == 401
    assert events_about(running, shelf.second, "approved") == 1
    assert len(promotions_of(running, shelf.second)) == 1


def test_rollback_lets_the_previous_champion_serve_and_the_bad_version_never_returns(running: Running, shelf: Shelf):
    running.set_tag(MODEL, shelf.third, "review", "approved")
    wait_for(lambda: running.champion(MODEL) == shelf.third, 60)
    wait_for(lambda: decisions(running)[-1] == (shelf.third, "promoted"), 30)
    assert running.champion(MODEL, alias="previous_champion") == shelf.first
    assert running.run("rollback", {"model_name": MODEL, "by": "grace", "reason": "wrong prices"}) == "COMPLETED"
    assert running.champion(MODEL) == shelf.first
    assert decisions(running)[-1] == (shelf.third, "rolled_back")
    found = running.mlflow("GET", "model-versions/get", {"name": MODEL, "version": shelf.third})["model_version"]
    assert {tag["key"]: tag["value"] for tag in found["tags"]}[QUARANTINED] == "wrong prices"
    running.set_tag(MODEL, shelf.third, "review", "approved")  # the webhook asks once more
    wait_for(lambda: len(promotions_of(running, shelf.third)) == 2, 30)
    for run in promotions_of(running, shelf.third):
        assert running.ended(run["id"], seconds=60) == "COMPLETED"
    assert running.champion(MODEL) == shelf.first
    assert decisions(running)[-1] == (shelf.third, "refused")
