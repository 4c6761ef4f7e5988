"""A paused run asks the reviewer, and what is answered is written into the registry and the record."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.flow_runs import resume_flow_run

from flows import promotion
from tasks.audit import audit_trail
from tasks.store import audit_address

pytestmark = [pytest.mark.prefect, pytest.mark.slow]
MODEL = "asked"


@pytest.fixture
def address(prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry with one version no gate has judged."""
    monkeypatch.setattr(promotion, "LOOK_SECONDS", 1)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, source=str(tmp_path))
    return uri


def _ask(address: str, folder: Path) -> tuple[threading.Thread, list[Any], UUID]:
    """Start the run, wait until it is paused; its end is put into the list."""
    ended: list[Any] = []

    def run() -> None:
        state = promotion.ask_for_review(version="1", model_name=MODEL, storage_root=str(folder), tracking_uri=address, return_state=True)
        ended.append(state)

    thread = threading.Thread(target=run)
    thread.start()
    with get_client(sync_client=True) as client:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            ours = [one for one in client.read_flow_runs() if one.parameters.get("tracking_uri") == address]
            if ours and ours[0].state is not None and ours[0].state.is_paused():
                return thread, ended, ours[0].id
            time.sleep(0.5)
    raise AssertionError("the run was not paused")


def test_the_answer_of_the_paused_run_is_the_decision(address: str, tmp_path: Path) -> None:
    thread, ended, run = _ask(address, tmp_path)

    resume_flow_run(run, run_input={"decision": "rejected", "reviewer": "ada", "note": "not before the sale"})
    thread.join(120)

    assert ended[0].is_completed(), ended
    tags = MlflowClient(tracking_uri=address, registry_uri=address).get_model_version(MODEL, "1").tags
    assert (tags["review"], tags["reviewed_by"], tags["review_note"]) == ("rejected", "ada", "not before the sale")
    (row,) = audit_trail(audit_address(promotion.store_below(str(tmp_path), MODEL)), MODEL).iter_rows(named=True)
    assert (row["version"], row["decision"], row["by"]) == ("1", "rejected", "ada")


def test_a_version_no_gate_has_judged_cannot_be_approved_by_the_form_either(address: str, tmp_path: Path) -> None:
    thread, ended, run = _ask(address, tmp_path)

    resume_flow_run(run, run_input={"decision": "approved", "reviewer": "ada"})
    thread.join(120)

    assert ended[0].is_failed(), ended
    assert "review" not in MlflowClient(tracking_uri=address, registry_uri=address).get_model_version(MODEL, "1").tags
