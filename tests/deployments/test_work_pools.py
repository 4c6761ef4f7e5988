"""Base job templates: those Prefect publishes for each kind of worker, with defaults of ours; the Kubernetes job they make is a valid one."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from prefect.client.schemas.actions import WorkPoolCreate

FOLDER = Path(__file__).parents[2] / "deployments" / "work_pools"
KINDS = {"process": "prefect", "docker": "prefect-docker", "kubernetes": "prefect-kubernetes"}


def template(kind: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_template_has_the_variables_and_configuration_of_prefects_own(kind: str):
    published = json.loads((files("prefect.server.api") / "collections_data/views/aggregate-worker-metadata.json").read_text(encoding="utf-8"))
    own = published[KINDS[kind]][kind]["default_base_job_configuration"]
    ours = template(kind)
    assert set(ours["variables"]["properties"]) == set(own["variables"]["properties"])
    assert set(ours["job_configuration"]) == set(own["job_configuration"])
    WorkPoolCreate(name=f"perennial-{kind}", type=kind, base_job_template=ours)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_run_tells_anyone_anything_or_reads_a_pickle(kind: str):
    environment = template(kind)["variables"]["properties"]["env"]["default"]
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"
    assert not [name for name in environment if "KEY" in name or "SECRET" in name or "PASSWORD" in name]


def test_kubernetes_job_of_the_template_is_valid():
    given = template("kubernetes")
    values = {name: field.get("default") for name, field in given["variables"]["properties"].items()}
    values |= {"name": "a-run", "command": ["prefect", "flow-run", "execute"], "labels": {"a": "b"}, "env": [{"name": "A", "value": "b"}]}

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(part) for key, part in value.items()}
        if isinstance(value, list):
            return [filled(part) for part in value]
        if isinstance(value, str) and value.startswith("{{") and value.endswith("}}"):
            return values[value.strip("{} ")]
        return value.replace("{{ name }}", "a-run") if isinstance(value, str) else value

    job = filled(given["job_configuration"]["job_manifest"])
    kubernetes_validate.validate(job, "1.31", strict=True)
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "perennial-secrets"}}]
    assert pod["restartPolicy"] == "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**job, "spec": {**job["spec"], "parallelism": "one"}}, "1.31", strict=True)
