"""The form of a run: the JSON schema Prefect's pages are made from, and what a form sends back."""

import json
from typing import Any

import jsonschema
import pytest

from contracts.config import PRESETS, PipelineConfig
from flows.deploy import own_values
from flows.seasonal_training import seasonal_training

BOUNDS = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "enum", "const", "pattern", "minLength"}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return seasonal_training.parameters.model_dump()


def fields(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{name}.{key}", field) for name, part in schema["definitions"].items() for key, field in part["properties"].items()]


def meant(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """A field with the section it refers to."""
    return {**schema["definitions"][field["$ref"].rsplit("/", 1)[1]], **field} if "$ref" in field else field


def branches(field: dict[str, Any]) -> list[dict[str, Any]]:
    return [branch for branch in field.get("anyOf", [field]) if branch.get("type") != "null"]


def test_every_field_has_a_title_and_a_description(schema: dict[str, Any]):
    lacking = [name for name, field in fields(schema) if not meant(schema, field).get("title") or len(meant(schema, field).get("description", "")) < 5]
    assert lacking == []
    assert len(fields(schema)) > 100


def test_every_number_is_bounded_and_every_duration_says_its_unit(schema: dict[str, Any]):
    numbers = [(name, branch, field) for name, field in fields(schema) for branch in branches(field) if branch.get("type") in {"integer", "number"}]
    assert [name for name, branch, _ in numbers if not BOUNDS & set(branch)] == []
    units = {"days": "day", "_ms": "millisecond", "_mb": "megabyte", "hours": "hour"}
    for name, field in fields(schema):
        for ending, unit in units.items():
            if name.endswith(ending):
                assert unit in field["description"].lower(), name


def test_only_name_and_source_must_be_given(schema: dict[str, Any]):
    assert schema["definitions"]["PipelineConfig"]["required"] == ["name", "source"]
    assert {name: part["required"] for name, part in schema["definitions"].items() if part.get("required")} == {"PipelineConfig": ["name", "source"]}


def test_fields_keep_their_order_in_a_store_that_forgets_it(schema: dict[str, Any]):
    shown = schema["definitions"]["PipelineConfig"]["properties"]
    assert sorted(shown, key=lambda name: shown[name]["position"]) == list(PipelineConfig.model_fields)


def test_choices_are_lists_to_choose_from(schema: dict[str, Any]):
    chosen = {name: branch["enum"] for name, field in fields(schema) for branch in branches(field) if "enum" in branch}
    assert chosen["PipelineConfig.vertical"] == ["shop", "travel", "content"]
    assert {"EncoderConfig.kind", "SourceConfig.dataset", "ComputeConfig.accelerator", "ForecastConfig.frequency"} <= set(chosen)


def as_the_form_sends(schema: dict[str, Any], name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Prefect's form fills in the default of every field that was not touched."""
    values = {}
    for key, field in schema["definitions"][name]["properties"].items():
        if "$ref" in field:
            values[key] = as_the_form_sends(schema, field["$ref"].rsplit("/", 1)[1], given.get(key, {}))
        elif key in given:
            values[key] = given[key]
        elif "default" in field:
            values[key] = field["default"]
    return values


@pytest.mark.parametrize("vertical", sorted(PRESETS))
def test_vertical_that_is_chosen_in_the_form_brings_its_preset(schema: dict[str, Any], vertical: str):
    stored = own_values(PipelineConfig.model_validate({"name": "mine", "source": {"dataset": "synthetic"}}))
    sent = as_the_form_sends(schema, "PipelineConfig", {**stored, "vertical": vertical})
    config = PipelineConfig.model_validate({key: value for key, value in sent.items() if key != "forecast"} | {"forecast": {"horizon_periods": 40}})
    assert config.evaluation.lists == tuple(PRESETS[vertical]["evaluation"]["lists"])
    assert config.evaluation.horizon_days == PRESETS[vertical]["evaluation"]["horizon_days"]
    assert config.features.season_names == {name: tuple(days) for name, days in PRESETS[vertical]["features"]["season_names"].items()}
    assert config.fine_tuning.target_events == tuple(PRESETS[vertical]["fine_tuning"]["target_events"])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"vertical": "travel"},
        {"vertical": "travel", "evaluation": {"lists": ["again", "discover"], "horizon_days": 28}},
        {"features": {"season_names": {}}},
    ],
)
def test_own_values_say_all_that_differs_and_no_more(change: dict[str, Any]):
    config = PipelineConfig.model_validate({"name": "mine", "source": {"dataset": "synthetic"}, **change})
    own = json.loads(json.dumps(own_values(config)))
    assert PipelineConfig.model_validate(own) == config
    assert set(own) <= {"name", "vertical", "source", *change}


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (None, {"seed": -1}),
        (None, {"vertical": "shoes"}),
        ("publish", {"k": 0}),
        ("fine_tuning", {"epochs": "many"}),
        ("pretraining", {"encoder": {"dropout": 1.5}}),
        ("evaluation", {"horizon_day": 28}),
    ],
)
def test_wrong_value_is_refused_by_the_schema_alone(schema: dict[str, Any], section: str | None, values: dict[str, Any]):
    good = {"config": {"name": "mine", "source": {"dataset": "synthetic"}}}
    jsonschema.validate(good, schema)
    bad = {"config": {**good["config"], **({section: values} if section else values)}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema)
