"""A real installation from its first start: the form in a browser, a review by webhook, faults of real servers, and everything still there after a restart.

The tests build on one another, in this order.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from contracts import columns as c
from flows.local_installation import Installation, _as_database_user, _postgres_program, _started, start, stop
from flows.local_installation import running as services
from sources.synthetic import event_frames
from tasks.audit import audit_trail
from tasks.store import audit_address, store_of
from tests.deployments.conftest import Running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

DRIVER = Path(shutil.which("chromedriver") or "/usr/bin/chromedriver")
README = Path(__file__).parents[2] / "README.md"
COLUMNS = ("event_id", "user_id", "item_id", "event_time", "event_type", "quantity", "region")
FIELD = """
const header = [...document.querySelectorAll('.p-label__header')].find(h => {
  const label = h.querySelector('.schema-form-property__label');
  return label && label.innerText.replace(' (Optional)', '') === arguments[0];
});
return header && header.parentElement.querySelector('input, textarea, select');
"""
SUBMIT = "[...document.querySelectorAll('button')].filter(b => b.innerText.trim() === 'Submit').pop().click()"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not DRIVER.exists():
        pytest.skip(f"no chromedriver on the path nor at {DRIVER}")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--window-size=1400,1200",
    ):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def decisions(running: Running) -> list[tuple[str, str, str]]:
    trail = audit_trail(audit_address(store_of(running.config)), running.config.registry.model_name)
    return list(trail.select("version", "decision", "by").iter_rows())


def put(browser: Any, label: str, value: str) -> None:
    from selenium.webdriver.common.keys import Keys

    found = wait_for(lambda: browser.execute_script(FIELD, label), 60)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    found.send_keys(Keys.CONTROL, "a")
    found.send_keys(value)


def body_of(browser: Any) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def test_every_server_listens_on_loopback_only_and_secrets_are_the_owners(running: Running):
    ports = {getattr(running.installation.ports, name) for name in ("prefect", "mlflow", "bridge", "postgres")}
    listening = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text(encoding="utf-8").splitlines()[1:]]
    found = {fields[1] for fields in listening if fields[3] == "0A" and int(fields[1].split(":")[1], 16) in ports}
    assert {address.split(":")[0] for address in found} == {"0100007F"}
    assert len(found) == 4
    assert (running.installation.folder / "installation.json").stat().st_mode & 0o077 == 0
    assert httpx.get(f"{running.installation.mlflow_url}/api/2.0/mlflow/experiments/search", params={"max_results": 1}, timeout=30).status_code == 401


@pytest.mark.browser
def test_wrong_value_in_the_form_gives_a_message_and_starts_nothing(running: Running, browser: Any):
    browser.get(f"http://127.0.0.1:{running.installation.ports.prefect}/deployments/deployment/{running.deployment('train')['id']}/run")
    put(browser, "Seed", "-1")
    browser.execute_script(SUBMIT)
    wait_for(lambda: "Validation failed for field 'config.seed'. Failure reason: -1 is less than the minimum of 0" in body_of(browser), 30)
    assert running.runs_of("seasonal-training") == []


@pytest.mark.browser
def test_form_starts_a_run_whose_steps_carry_the_names_of_the_readme(running: Running, browser: Any):
    put(browser, "Seed", "3")
    browser.execute_script(SUBMIT)
    (run,) = wait_for(lambda: running.runs_of("seasonal-training"), 30)
    assert run["parameters"]["config"]["seed"] == 3
    assert run["parameters"]["config"]["fine_tuning"].get("target_events") is None  # left to the vertical
    assert running.ended(run["id"], seconds=400) == "COMPLETED", running.errors_of(run["id"])
    diagram = re.search(r"^```\n( source files.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert diagram is not None
    steps = set(re.findall(r"^ (\w+) {2,}", diagram[1], re.MULTILINE)) - {"forecast_demand", "build_content"}  # switched off in this pipeline
    assert set(running.steps(run["id"])) == steps
    browser.get(f"http://127.0.0.1:{running.installation.ports.prefect}/runs/flow-run/{run['id']}")
    wait_for(lambda: "Completed" in body_of(browser), 30)
    kinds = {artifact["type"] for artifact in running.prefect("POST", "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})}
    assert {"progress", "table", "markdown"} <= kinds
    assert running.champion() is None


@pytest.fixture(scope="module")
def version(running: Running) -> str:
    """The version that waits for a review."""
    found = running.mlflow("GET", "registered-models/alias", {"name": running.config.registry.model_name, "alias": "challenger"})
    return str(found["model_version"]["version"])


def test_copy_that_carries_the_approval_and_a_version_without_gates_are_refused(running: Running, version: str):
    name = running.config.registry.model_name
    original = running.mlflow("GET", "model-versions/get", {"name": name, "version": version})["model_version"]
    tags = [*({"key": tag["key"], "value": tag["value"]} for tag in original["tags"]), {"key": "review", "value": "approved"}]
    body = {"name": name, "source": f"models:/{name}/{version}", "tags": tags}
    copy = str(running.mlflow("POST", "model-versions/create", body)["model_version"]["version"])
    done = running.command("promote", str(running.installation.folder / "micro.yaml"), "--version", copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "A copy" in done.stdout
    assert running.champion() is None
    assert decisions(running)[-1][:2] == (copy, "refused")
    running.mlflow("DELETE", "model-versions/delete", {"name": name, "version": copy})


def test_forged_delivery_is_refused_by_the_bridge_and_starts_nothing(running: Running, version: str):
    headers = {"x-mlflow-delivery-id": "d1", "x-mlflow-timestamp": str(int(time.time())), "x-mlflow-signature": "v1,Zm9yZ2Vk"}
    assert httpx.post(running.installation.bridge_url, json={"entity": "model_version_tag"}, headers=headers, timeout=10).status_code == 401
    assert running.runs_of("promote-reviewed") == [run for run in running.runs_of("promote-reviewed") if run["deployment_id"] is None]


def test_review_in_mlflow_promotes_by_webhook(running: Running, version: str):
    running.set_tag(running.config.registry.model_name, version, "review", "approved")
    assert wait_for(running.champion, 120) == version
    wait_for(lambda: decisions(running)[-1][:2] == (version, "promoted"), 30)
    (run,) = [run for run in running.runs_of("promote-reviewed") if run["deployment_id"]]
    assert running.ended(run["id"], seconds=60) == "COMPLETED"
    assert run["parameters"]["version"] == version


def test_mlflow_killed_under_reconcile_is_waited_for_and_the_lost_champion_comes_back(running: Running, version: str):
    name = running.config.registry.model_name
    running.mlflow("DELETE", "registered-models/alias", {"name": name, "alias": "champion"})
    assert running.champion() is None
    os.killpg(services(running.installation.folder)["mlflow"], signal.SIGKILL)
    begun = running.begin("reconcile")
    wait_for(lambda: running.prefect("GET", f"flow_runs/{begun}")["state_type"] == "RUNNING", 60)
    start(running.installation, lambda _: None)
    assert running.ended(begun) == "COMPLETED"
    assert running.champion() == version
    assert decisions(running)[-1][:2] == (version, "restored")


def test_database_that_is_restarted_costs_no_state(running: Running, version: str):
    known, before = len(running.prefect("POST", "deployments/filter", {})), decisions(running)
    data = running.installation.folder / "postgres"
    _as_database_user([_postgres_program("pg_ctl"), "--pgdata", str(data), "--mode", "immediate", "--wait", "restart", "--log", str(data / "postgres.log")])
    wait_for(lambda: not running.prefect("POST", "deployments/filter", {}, fails=True).is_error, 30)
    assert len(running.prefect("POST", "deployments/filter", {})) == known
    wait_for(lambda: running.champion() == version, 30)
    assert decisions(running) == before


def processes_of(folder: Path) -> list[str]:
    """Command lines of trainings below a folder; read from the kernel, since `ps` cuts them to the width of a terminal."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended in between
            continue
        if "lightning_modules.train" in words and str(folder) in words:
            found.append(words)
    return found


def test_second_start_is_cancelled_and_cancel_leaves_a_checkpoint_and_no_orphan(running: Running):
    parameters = {**running.deployment("train")["parameters"]}
    parameters["config"] = {
        **parameters["config"],
        "seed": 9,
        "fine_tuning": {**parameters["config"]["fine_tuning"], "max_steps": 100_000, "epochs": 1_000, "patience": 1_000, "num_seeds": 10},
    }
    first = running.begin("train", parameters)
    fits = Path(store_of(running.config).root) / "steps" / "fine_tune"

    def of_first() -> list[Path]:
        return [path.parent for path in fits.glob("*/job.json") if json.loads(path.read_text(encoding="utf-8"))["job"]["num_seeds"] == 10]

    wait_for(lambda: [found for folder in of_first() for found in folder.glob("*/seed_*/last.ckpt")], 200)
    assert running.run("train", parameters) == "CANCELLED"
    asked = time.time()
    running.prefect("POST", f"flow_runs/{first}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert running.ended(first, seconds=120) == "CANCELLED"
    wait_for(lambda: not processes_of(running.installation.folder), 40)
    assert "register" not in running.steps(first)
    (cancelled,) = of_first()
    assert max(found.stat().st_mtime for found in cancelled.glob("*/seed_*/last.ckpt")) > asked - 1  # the next start goes on from here
    assert not (cancelled / "result.json").exists()


def test_worker_that_is_killed_in_a_run_leaves_no_training_behind(running: Running):
    begun = running.begin("train")
    wait_for(lambda: processes_of(running.installation.folder), 200)
    os.killpg(services(running.installation.folder)["worker"], signal.SIGKILL)
    wait_for(lambda: "worker" not in services(running.installation.folder), 20)
    wait_for(lambda: not processes_of(running.installation.folder), 60)
    start(running.installation, lambda _: None)
    assert running.ended(begun, seconds=120) == "CRASHED"


def test_drift_starts_a_retraining_that_goes_on_from_what_the_killed_one_had_finished(running: Running, version: str):
    weeks_gone = 2
    events = pl.concat(list(event_frames(running.config.source.synthetic)))
    last = events[c.EVENT_TIME].max()
    drifted = events.filter((pl.col(c.EVENT_TIME) < last - timedelta(weeks=weeks_gone)) | (pl.col("event_id") % 4 == 0))
    drifted.write_parquet(running.installation.folder / "drifted.parquet")
    source = {"dataset": "table", "uri": str(running.installation.folder / "drifted.parquet"), "columns": {name: name for name in COLUMNS}}
    known = {run["id"] for run in running.runs_of("seasonal-training")}
    config = {**running.deployment("monitor")["parameters"]["config"], "name": "drifted", "source": source}
    assert running.run("monitor", {"config": config}) == "COMPLETED"
    (started,) = wait_for(lambda: [run for run in running.runs_of("seasonal-training") if run["id"] not in known], 30)
    assert started["created_by"]["type"] == "AUTOMATION"
    assert "retrain-on-drift" in str(started["created_by"])
    assert running.ended(started["id"]) == "COMPLETED", running.errors_of(started["id"])
    steps = running.steps(started["id"])
    assert {step for step, state in steps.items() if state == "Cached"} >= {"validate", "build_features", "build_season"}
    assert {step for step, state in steps.items() if state == "Completed"} >= {"fine_tune", "register", "gate", "promote"}
    assert running.champion() == version


def test_forecast_daily_update_and_tuning_run_on_the_worker_and_leave_what_they_say(running: Running, version: str):
    """All three at once: what each waits for costs no time then."""
    base = running.deployment("train")["parameters"]["config"]
    model, stores = running.config.registry.model_name, Path(store_of(running.config).storage_root)
    known = pl.concat(list(event_frames(running.config.source.synthetic)))
    last = known[c.EVENT_TIME].max()
    since = known.filter(pl.col(c.EVENT_TIME) > last - timedelta(days=364), pl.col(c.EVENT_TIME) <= last - timedelta(days=354))
    later = pl.concat([known, since.with_columns(pl.col(c.EVENT_TIME) + timedelta(days=364), pl.col("event_id") + 1_000_000)])
    later.write_parquet(running.installation.folder / "later.parquet")
    source = {"dataset": "table", "uri": str(running.installation.folder / "later.parquet"), "columns": {name: name for name in COLUMNS}}
    forecast = {"enabled": True, "levels": ["total"], "frequency": "week", "horizon_periods": 4, "models": ["seasonal_naive"], "back_test_origins": 1}
    begun = {
        "daily-update": running.begin("daily-update", {"config": {**base, "name": "later", "source": source}}),
        "forecast": running.begin("forecast", {"config": {**base, "forecast": forecast}}),
        "tune": running.begin("tune", {"config": base, "num_trials": 2}),
    }
    assert {name: running.ended(run) for name, run in begun.items()} == dict.fromkeys(begun, "COMPLETED"), [running.errors_of(r) for r in begun.values()]

    # forecast: a version of the forecaster whose table holds the coming weeks
    found = running.mlflow("GET", "model-versions/search", {"filter": f"name='{model}-forecaster'"})["model_versions"]
    assert len(found) == 1
    (table,) = (stores / running.config.name / "steps" / "forecast_demand").glob("*/forecasts.parquet")
    newest = pl.read_parquet(table).filter(pl.col(c.CUTOFF) == pl.col(c.CUTOFF).max())
    assert newest.height == 4
    assert tags_of(found[0])["cutoff"] == str(newest[c.CUTOFF][0])

    # daily update: trained on from the champion, which goes on serving until somebody decides
    versions = running.mlflow("GET", "model-versions/search", {"filter": f"name='{model}'", "max_results": 100})["model_versions"]
    (updated,) = [one for one in versions if tags_of(one).get("kind") == "warm_started"]
    assert tags_of(updated)["refreshed_from"] == version
    assert tags_of(updated)["cutoff"] == str((later[c.EVENT_TIME].max() + timedelta(days=1)).date())
    assert {"warm_start", "fine_tune", "evaluate", "register", "gate"} <= set(running.steps(begun["daily-update"]))
    assert running.champion() == version

    # tune: a search of two trials, each a run below that of the search
    experiment = running.mlflow("GET", "experiments/get-by-name", {"experiment_name": running.config.registry.experiment})["experiment"]["experiment_id"]
    trials = running.mlflow(
        "POST", "runs/search", {"experiment_ids": [experiment], "filter": "attributes.run_name LIKE 'trial %' and attributes.status = 'FINISHED'"}
    )["runs"]
    assert sorted(run["info"]["run_name"] for run in trials) == ["trial 0", "trial 1"]
    assert all(run["data"]["metrics"][0]["value"] > 0 for run in trials)


def test_review_by_its_deployment_is_written_down_and_nothing_is_promoted_without_approval(running: Running, version: str):
    challenger = running.champion(alias="challenger")
    assert challenger not in (None, version)
    asked = {"version": challenger, "decision": "rejected", "reviewer": "ada", "note": "not before the sale"}
    assert running.run("review", asked) == "COMPLETED"
    assert ("rejected", "ada") in [(decision, by) for number, decision, by in decisions(running) if number == challenger]
    assert running.champion() == version


def tags_of(found: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in found.get("tags", [])}


def test_rollback_without_a_predecessor_is_refused_in_words_and_the_champion_goes_on(running: Running, version: str):
    done = running.command("rollback", str(running.installation.folder / "micro.yaml"), "--by", "ada", "--reason", "wrong prices")
    assert done.returncode == 1
    assert "goes on serving" in " ".join(done.stderr.split())
    assert running.champion() == version


def test_secrets_are_in_no_parameter_variable_or_log(running: Running):
    installation = running.installation
    secrets = [
        installation.database_password,
        installation.mlflow_password,
        installation.mlflow_session_key,
        installation.webhook_secret,
        installation.webhook_encryption_key,
    ]
    told = (
        str(running.prefect("POST", "variables/filter", {}))
        + str(running.prefect("POST", "deployments/filter", {}))
        + str(running.prefect("POST", "flow_runs/filter", {}))
    )
    told += str(running.prefect("POST", "logs/filter", {"limit": 200})) + str(running.prefect("POST", "work_pools/filter", {}))
    told += "".join(path.read_text(encoding="utf-8", errors="replace") for path in (installation.folder / "services").glob("*.log"))
    assert len(told) > 10_000
    assert [secret for secret in secrets if secret in told] == []


def test_down_ends_its_own_processes_only_and_up_finds_everything_again(running: Running, version: str):
    folder = running.installation.folder
    other = subprocess.Popen(["sleep", "300"])
    try:
        ids = services(folder)
        assert set(ids) == {"prefect", "mlflow", "bridge", "worker"}
        known = {found["name"] for found in running.prefect("POST", "deployments/filter", {})}
        stop(folder, lambda _: None)
        assert [pid for pid in ids.values() if _started(pid) is not None] == []
        assert services(folder) == {}
        assert other.poll() is None
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{running.installation.prefect_api_url}/health", timeout=2)
        since = datetime.now(UTC).isoformat()
        again = Installation.at(folder)
        assert again == running.installation
        start(again, lambda _: None)
        assert running.champion() == version
        assert {found["name"] for found in running.prefect("POST", "deployments/filter", {})} == known
        assert decisions(running)
        wait_for(
            lambda: [one["last_heartbeat_time"] > since for one in running.prefect("POST", "work_pools/perennial-process/workers/filter", {})] == [True], 60
        )
        assert running.mlflow("GET", "webhooks", {})["webhooks"][0]["url"] == running.installation.bridge_url
    finally:
        other.terminate()
        other.wait()
