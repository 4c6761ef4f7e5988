"""deployments/prefect.yaml: Prefect's own models, its parameters against the flows they start, its triggers, and the dates of its schedules."""

import json
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from dateutil.rrule import rrulestr
from prefect import Flow
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, RawScheduleConfig
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.utilities.importtools import import_object

from contracts.config import PRESETS, PipelineConfig
from features.calendar import is_southern, season_of
from flows.deploy import variables
from flows.schedules import season_rrule

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deployments" / "prefect.yaml"
PARAMETERS = sorted((ROOT / "deployments" / "parameters").glob("*.yaml"))
TINY = ROOT / "deployments" / "parameters" / "tiny.yaml"
PURPOSES = {"train", "forecast", "daily-update", "publish", "ask", "review", "promote", "reconcile", "rollback", "monitor", "tune"}


def filled(value: Any, known: dict[str, Any]) -> Any:
    """The file as `prefect deploy` sees it: a placeholder that is the whole text keeps the variable's type."""
    if isinstance(value, dict):
        return {key: filled(part, known) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, known) for part in value]
    if isinstance(value, str) and value.startswith("{{ prefect.variables."):
        return known[value.removeprefix("{{ prefect.variables.").removesuffix(" }}")]
    return value


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    known = variables(PipelineConfig.from_yaml(TINY), environment={})
    return filled(yaml.safe_load(FILE.read_text(encoding="utf-8")), known)


@pytest.fixture(scope="module")
def deployments(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {found["name"]: found for found in content["deployments"]}


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    path, name = deployment["entrypoint"].split(":")
    assert (ROOT / path).is_file()
    found = import_object(f"{path.removesuffix('.py').replace('/', '.')}.{name}")
    assert isinstance(found, Flow)
    return found


def test_no_flow_hides_a_package():
    """Prefect puts the folder of an entrypoint first on the path: `import monitoring` would find `flows/monitoring.py`."""
    stems = {path.stem for path in (ROOT / "flows").glob("[!_]*.py")}
    assert len(stems) > 10
    assert stems & {*sys.stdlib_module_names, *(path.name for path in ROOT.iterdir())} == set()


def test_file_is_valid_and_holds_no_key_prefect_would_pass_over(content: dict[str, Any], deployments: dict[str, dict[str, Any]]):
    PrefectYamlModel.model_validate(content)
    assert set(content) - {"definitions"} <= {"name", *(field.alias or name for name, field in PrefectYamlModel.model_fields.items())}
    for deployment in deployments.values():
        assert set(deployment) <= set(DeploymentConfig.model_fields), deployment["name"]
        assert set(deployment.get("concurrency_limit", {})) <= {"limit", "collision_strategy", "grace_period_seconds"}


def test_every_purpose_has_one_described_and_tagged_deployment(content: dict[str, Any], deployments: dict[str, dict[str, Any]]):
    assert set(deployments) == PURPOSES
    assert len(content["deployments"]) == len(PURPOSES)
    for deployment in deployments.values():
        assert len(deployment["description"]) > 30
        assert deployment["tags"][0] == "perennial"
        assert deployment["enforce_parameter_schema"] is True


def test_parameters_are_accepted_by_the_flow_they_start_and_a_wrong_one_is_not(deployments: dict[str, dict[str, Any]]):
    person = {
        "ask": {"version": "3"},
        "review": {"version": "3", "decision": "approved", "reviewer": "ada"},
        "rollback": {"by": "ada", "reason": "wrong prices"},
        "promote": {"version": "3"},
    }
    for name, deployment in deployments.items():
        flow = flow_of(deployment)
        flow.validate_parameters({**deployment["parameters"], **person.get(name, {})})
        for schedule in deployment.get("schedules", ()):
            flow.validate_parameters({**deployment["parameters"], **schedule.get("parameters", {})})
        with pytest.raises(Exception, match="nonsense"):
            flow.validate_parameters({**deployment["parameters"], **person.get(name, {}), "nonsense": 1})


@pytest.mark.parametrize("path", PARAMETERS, ids=lambda path: path.stem)
def test_every_parameter_file_survives_the_way_through_a_variable(path: Path):
    config = PipelineConfig.from_yaml(path)
    known = variables(config, environment={})
    again = PipelineConfig.model_validate(json.loads(json.dumps(known["perennial_parameters"])))
    assert again.model_copy(update={"storage_root": config.storage_root, "registry": config.registry}) == config
    rrulestr(known["perennial_season_rrule"], dtstart=datetime(2026, 1, 1, tzinfo=UTC))


def test_schedules_are_named_valid_and_of_the_kinds_that_were_asked_for(deployments: dict[str, dict[str, Any]]):
    found = {(name, schedule["slug"]): schedule for name, deployment in deployments.items() for schedule in deployment.get("schedules", ())}
    for schedule in found.values():
        RawScheduleConfig.model_validate(schedule)
    kinds = {CronSchedule: "cron", IntervalSchedule: "interval", RRuleSchedule: "rrule"}
    for model, key in kinds.items():
        for schedule in found.values():
            if key in schedule:
                model.model_validate({key: schedule[key], "timezone": schedule.get("timezone", "UTC")})
    assert set(found) == {
        ("train", "weekly"),
        ("train", "before-each-season"),
        ("forecast", "weekly"),
        ("daily-update", "daily"),
        ("publish", "daily"),
        ("reconcile", "every-ten-minutes"),
        ("monitor", "daily"),
    }
    assert found["reconcile", "every-ten-minutes"]["interval"] == 600
    assert found["train", "weekly"]["parameters"] == {"fresh": False}
    assert found["train", "before-each-season"]["parameters"] == {"fresh": True}


@pytest.mark.parametrize("vertical", sorted(PRESETS))
@pytest.mark.parametrize(("country", "regions"), [("DE", {}), ("AU", {}), ("GB", {"s": "AU-VIC", "n": "GB"})])
def test_training_is_due_two_weeks_before_each_season_of_its_calendar(vertical: str, country: str, regions: dict[str, str]):
    config = PipelineConfig.model_validate(
        {
            "name": "mine",
            "vertical": vertical,
            "source": {"dataset": "synthetic"},
            "features": {"country": country, "use_regions": bool(regions), "region_countries": regions},
        }
    )
    rule = rrulestr(season_rrule(config), dtstart=datetime(2027, 1, 1, tzinfo=UTC))
    due = rule.between(datetime(2027, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC), inc=True)
    hemispheres = {is_southern(code) for code in (country, *regions.values())}
    names = config.features.season_names

    def begins(day: date, *, southern: bool) -> bool:
        return season_of(day.timetuple().tm_yday, names, southern=southern) != season_of(
            (day - timedelta(days=1)).timetuple().tm_yday, names, southern=southern
        )

    for moment in due:
        assert moment.hour == 3
        # the rule counts days of the year from its start, so a leap day between training and season makes it fifteen
        after = [(moment + timedelta(days=days)).date() for days in (13, 14, 15)]
        assert any(begins(day, southern=southern) for day in after for southern in hemispheres), moment
    assert len(due) == 4 * len(
        {day for southern in hemispheres for day in range(1, 366) if begins(date(2027, 1, 1) + timedelta(days=day - 1), southern=southern)}
    )


def test_season_without_a_name_is_refused_in_words():
    config = PipelineConfig.model_validate({"name": "mine", "source": {"dataset": "synthetic"}, "features": {"season_names": {}}})
    with pytest.raises(ValueError, match=r"features\.season_names is empty"):
        season_rrule(config)


def test_training_is_not_queued_and_promotion_is_not_dropped(deployments: dict[str, dict[str, Any]]):
    strategies = {name: deployment["concurrency_limit"]["collision_strategy"] for name, deployment in deployments.items() if "concurrency_limit" in deployment}
    assert strategies["train"] == strategies["daily-update"] == "CANCEL_NEW"
    assert strategies["promote"] == strategies["rollback"] == "ENQUEUE"


def test_triggers_fit_the_events_that_are_sent(deployments: dict[str, dict[str, Any]]):
    from prefect.events import Event, Resource

    from serving.webhook_bridge import Delivery, review_event
    from tasks.look_for_drift import ALARM

    data = {"name": "shop", "version": "3", "key": "review", "value": "approved"}
    sent = review_event("d1", Delivery.model_validate({"entity": "model_version_tag", "action": "set", "timestamp": "2027-01-15T08:00:00+00:00", "data": data}))
    assert sent is not None
    triggers = {name: DeploymentEventTrigger.model_validate(deployments[name]["triggers"][0]) for name in ("promote", "train")}
    assert triggers["promote"].expect == {sent["event"]}
    assert triggers["promote"].match.matches(Resource.model_validate(sent["resource"]))
    rejected = {**sent["resource"], "perennial.review": "rejected"}
    assert not triggers["promote"].match.matches(Resource.model_validate(rejected))
    assert triggers["train"].expect == {ALARM}
    assert Event(event=ALARM, resource={"prefect.resource.id": "perennial.pipeline.mine"}).event in triggers["train"].expect
    assert set(triggers["promote"].parameters) <= set(flow_of(deployments["promote"]).parameters.properties)


def test_one_variable_chooses_where_everything_runs():
    text = FILE.read_text(encoding="utf-8")
    assert text.count("prefect.variables.perennial_work_pool") == 1
    config = PipelineConfig.from_yaml(TINY)
    assert variables(config, environment={})["perennial_code_folder"] == str(ROOT)
    for pool in ("perennial-docker", "perennial-kubernetes"):
        assert variables(config, work_pool=pool, environment={})["perennial_code_folder"] == "/app"


def test_address_of_mlflow_comes_from_the_parameters_else_from_the_environment(tmp_path: Path):
    config = PipelineConfig.from_yaml(TINY).model_copy(update={"storage_root": str(tmp_path)})
    assert variables(config, environment={})["perennial_tracking_uri"].startswith("sqlite:///")
    assert variables(config, environment={"MLFLOW_TRACKING_URI": "http://mlflow:5000"})["perennial_tracking_uri"] == "http://mlflow:5000"
    named = config.model_copy(update={"registry": config.registry.model_copy(update={"tracking_uri": "http://other:5000"})})
    assert variables(named, environment={"MLFLOW_TRACKING_URI": "http://mlflow:5000"})["perennial_tracking_uri"] == "http://other:5000"
