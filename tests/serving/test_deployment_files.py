"""Container and Kubernetes files: valid by Kubernetes' own schemas, and true to the service they start."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving.measures import Measures
from serving.service import create_app
from serving.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deployments" / "serving"
MANIFESTS = sorted(path for path in (FOLDER / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
KUBERNETES = "1.37"


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [document for path in MANIFESTS for document in documents(path) if document["kind"] == kind]
    return found


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    return dict(of_kind("Deployment")["spec"]["template"]["spec"])


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return dict(found)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_document_is_valid_for_kubernetes_and_has_no_unknown_field(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    broken = json.loads(json.dumps(of_kind("Deployment")))
    broken["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_kustomization_lists_every_file() -> None:
    listed = yaml.safe_load((FOLDER / "kubernetes" / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert sorted(listed) == [path.name for path in MANIFESTS]


def test_selectors_find_the_pods_and_names_meet(pod: dict[str, Any]) -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        of_kind("Deployment")["spec"]["selector"]["matchLabels"],
        of_kind("Service")["spec"]["selector"],
        of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == of_kind("Deployment")["metadata"]["name"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [of_kind("PersistentVolumeClaim")["metadata"]["name"]]
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_probes_ask_what_the_service_answers_and_liveness_needs_no_model(container: dict[str, Any], settings: ServiceSettings) -> None:
    paths = set(create_app(settings).openapi()["paths"])
    probed = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert set(probed.values()) <= paths
    assert probed == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    assert of_kind("Deployment")["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"] in paths


def test_every_variable_is_a_setting(container: dict[str, Any]) -> None:
    known = {f"PERENNIAL_{name.upper()}" for name in ServiceSettings.model_fields}
    given = of_kind("ConfigMap")["data"]
    assert set(given) | {variable["name"] for variable in container["env"]} <= known
    assert ServiceSettings.from_environment(given).cache == Path("/var/lib/perennial/cache")
    assert set(re.findall(r"PERENNIAL_[A-Z_]+", (FOLDER / "Containerfile").read_text(encoding="utf-8"))) <= known


def test_scaling_goes_by_a_metric_the_service_has() -> None:
    measures = Measures()
    measures.requests.labels("/recommend", 200).inc()
    text = (FOLDER / "kubernetes" / "scaling.yaml").read_text(encoding="utf-8")
    (metric,) = [found["pods"]["metric"]["name"] for found in of_kind("HorizontalPodAutoscaler")["spec"]["metrics"] if found["type"] == "Pods"]
    (series,) = re.findall(rf"matches: (\w+), as: {metric}", text)
    assert f"\n{series}{{" in measures.text().decode()


def test_a_pod_has_time_to_finish_its_requests(pod: dict[str, Any], container: dict[str, Any]) -> None:
    graceful = int(re.search(r"timeout_graceful_shutdown=(\d+)", (ROOT / "serving" / "__main__.py").read_text(encoding="utf-8")).group(1))  # type: ignore[union-attr]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > graceful + pause


def test_the_container_copies_what_there_is_and_runs_as_nobody() -> None:
    text = (FOLDER / "Containerfile").read_text(encoding="utf-8")
    for sources in re.findall(r"^COPY (.+) \S+$", text, flags=re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    assert re.search(r"^USER 10001$", text, flags=re.MULTILINE)
    assert of_kind("Deployment")["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 10001


IN_THE_CONTAINER = """
import importlib.abc, importlib.metadata as metadata, re, sys
wanted = [line.strip() for line in open("deployments/serving/requirements.txt") if line[0] != "#"]
there = {"perennial"}
while wanted:
    name = re.split(r"[^A-Za-z0-9_.-]", wanted.pop())[0].lower().replace("_", "-")
    if name not in there:
        there.add(name)
        try:
            wanted += [need for need in metadata.requires(name) or [] if "extra ==" not in need]
        except metadata.PackageNotFoundError:
            pass  # needed on other systems only
owners = metadata.packages_distributions()

class OnlyWhatIsThere(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        of = {owner.lower().replace("_", "-") for owner in owners.get(name.split(".")[0], [])}
        if name.split(".")[0] in ABSENT or (of and not of & there):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, OnlyWhatIsThere())
import redis.asyncio, serving.__main__, serving.registry, serving.service
from serving.answers import Ask, answer_all
from serving.recommender import Recommender
shop = Recommender.load(BUNDLE)
print(len(answer_all(shop, [Ask(shop.cutoff, shop.users[0])])[0].item_ids))
"""


@pytest.mark.slow
def test_the_containers_requirements_and_folders_are_enough_to_serve(shop_bundle: Path) -> None:
    """With every other package and folder hidden the service is imported and a list is made."""
    copied = set(re.findall(r"^COPY (\w+) \w+$", (FOLDER / "Containerfile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    absent = {path.parent.name for path in ROOT.glob("*/__init__.py")} - copied
    assert {"tasks", "lightning_modules"} <= absent
    code = f"BUNDLE, ABSENT = {str(shop_bundle)!r}, {absent!r}{IN_THE_CONTAINER}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "10"
