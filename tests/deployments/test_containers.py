"""Containers and cluster files: nothing here can start Docker or Kubernetes, so they are held to published schemas and to what the code expects of them.

`compose-spec.json` is the schema of the Compose Specification (Apache-2.0, github.com/compose-spec/compose-spec).
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from flows.deploy import IMAGE_FOLDER
from serving.webhook_bridge import BridgeSettings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments"
MANIFESTS = list(yaml.safe_load_all((FOLDER / "kubernetes" / "perennial.yaml").read_text(encoding="utf-8")))
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))


def specification() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "compose-spec.json").read_text(encoding="utf-8"))


def test_compose_file_fits_the_specification(compose: dict[str, Any]):
    jsonschema.Draft7Validator(specification()).validate(compose)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(specification()).validate({**compose, "services": {"a": {"imag": "x"}}})


def test_compose_publishes_on_loopback_only_and_knows_every_volume_and_network(compose: dict[str, Any]):
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert set(service["networks"]) <= set(compose["networks"])
        named = [volume.split(":")[0] for volume in service.get("volumes", ()) if not volume.startswith(("$", ".", "/"))]
        assert set(named) <= set(compose["volumes"])
        assert set(service.get("depends_on", ())) <= set(compose["services"])
    assert (FOLDER / compose["configs"]["databases"]["file"]).is_file()


@pytest.mark.parametrize("name", ["DATABASE_PASSWORD", "MLFLOW_PASSWORD", "MLFLOW_SESSION_KEY", "WEBHOOK_SECRET", "WEBHOOK_ENCRYPTION_KEY"])
def test_secret_of_the_compose_file_must_be_given(name: str):
    assert f"${{{name}:?" in (FOLDER / "compose.yaml").read_text(encoding="utf-8")


def test_shell_of_the_mlflow_service_writes_what_mlflow_reads(compose: dict[str, Any], tmp_path: Path):
    import configparser

    script = compose["services"]["mlflow"]["command"][2].replace("$$", "$").split("exec ")[0]
    environment = {
        "PATH": "/usr/bin:/bin",
        "MLFLOW_DATABASE": "postgresql+psycopg://perennial:secret@postgres:5432/mlflow",
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
    }
    subprocess.run(["sh", "-ec", script], env=environment, check=True)
    assert (tmp_path / "auth.ini").stat().st_mode & 0o077 == 0
    written = configparser.ConfigParser()
    written.read(tmp_path / "auth.ini")
    assert written["mlflow"]["database_uri"].endswith("/mlflow_auth")
    assert set(written["mlflow"]) == {"default_permission", "database_uri", "admin_username", "authorization_function"}
    assert "create database mlflow_auth" in (FOLDER / "databases.sql").read_text(encoding="utf-8")


def test_bridge_gets_what_it_reads_in_every_installation(compose: dict[str, Any]):
    BridgeSettings.from_environment(compose["services"]["bridge"]["environment"])
    (bridge,) = [found for found in MANIFESTS if found["kind"] == "Deployment" and found["metadata"]["name"] == "bridge"]
    given = {variable["name"]: "x" for variable in bridge["spec"]["template"]["spec"]["containers"][0]["env"]}
    BridgeSettings.from_environment(given)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_manifest_is_valid_kubernetes(manifest: dict[str, Any]):
    kubernetes_validate.validate(manifest, "1.31", strict=True)
    assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "perennial"


@pytest.mark.parametrize("name", ["prefect", "mlflow", "bridge", "worker"])
def test_pod_runs_without_root_and_no_secret_is_written_down(name: str):
    (found,) = [found for found in MANIFESTS if found["kind"] == "Deployment" and found["metadata"]["name"] == name]
    pod = found["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert found["spec"]["selector"]["matchLabels"] == found["spec"]["template"]["metadata"]["labels"]
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"]["memory"]
        written = [variable for variable in container.get("env", ()) if "value" in variable]
        assert not [variable for variable in written if re.search("PASSWORD|SECRET|KEY|DATABASE", variable["name"])]


def test_services_and_volumes_lead_somewhere():
    names = {(found["kind"], found["metadata"]["name"]) for found in MANIFESTS}
    for found in MANIFESTS:
        if found["kind"] == "Service":
            assert ("Deployment", found["spec"]["selector"]["app"]) in names
        for volume in found.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names


def test_image_installs_the_pinned_set_and_runs_as_nobody_special():
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("FROM python:3.11")
    assert f"WORKDIR {IMAGE_FOLDER}" in lines
    assert "-c constraints.txt" in DOCKERFILE
    assert DOCKERFILE.index("USER 1000") < DOCKERFILE.index("CMD")
    copied = re.findall(r"^COPY (.*) \./$", DOCKERFILE, re.MULTILINE)
    assert all((ROOT / name).is_file() for name in copied[0].split())
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", ".perennial"} <= set(ignored)
