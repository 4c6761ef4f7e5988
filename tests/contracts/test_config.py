"""The configuration: presets of verticals, sections that fit together, faults in words."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from contracts.config import PRESETS, PipelineConfig, Vertical
from contracts.sections.base import Section

SOURCE = {"dataset": "synthetic"}


def config(**sections: Any) -> PipelineConfig:
    return PipelineConfig.model_validate({"name": "mine", "source": SOURCE, **sections})


def sections(kind: type[Section] = PipelineConfig) -> list[type[Section]]:
    found = [kind]
    for field in kind.model_fields.values():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Section):
                found += sections(part)
    return found


@pytest.fixture
def read(tmp_path: Path):
    def from_text(text: str) -> PipelineConfig:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return PipelineConfig.from_yaml(path)

    return from_text


@pytest.mark.parametrize("vertical", get_args(Vertical))
def test_vertical_sets_targets_lists_horizon_and_seasons(vertical: str):
    made = config(vertical=vertical, forecast={"enabled": False})
    assert set(made.fine_tuning.target_events) == set(PRESETS[vertical]["fine_tuning"]["target_events"])
    assert made.evaluation.horizon_days == {"shop": 28, "travel": 84, "content": 14}[vertical]
    assert ("again" in made.evaluation.lists) == (vertical == "shop")
    assert made.features.season_names


def test_seasons_of_a_vertical_cover_every_day_of_the_year_once():
    for vertical, preset in PRESETS.items():
        spans = preset["features"]["season_names"].values()
        days = [day for first, last in spans for day in (range(first, last + 1) if first <= last else [*range(first, 366), *range(1, last + 1)])]
        assert sorted(days) == list(range(1, 366)), vertical


def test_a_value_that_is_given_wins_over_the_preset_and_leaves_the_rest():
    made = config(vertical="content", evaluation={"horizon_days": 7})
    assert made.evaluation.horizon_days == 7
    assert made.evaluation.lists == ("discover",)


def test_configuration_is_frozen_and_survives_json():
    made = config(evaluation={"origins": ["2024-01-01"]})
    with pytest.raises(ValidationError, match="frozen"):
        made.seed = 3
    assert PipelineConfig.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize("kind", dict.fromkeys(sections()), ids=lambda kind: kind.__name__)
def test_every_field_says_what_it_is_and_is_read_from_its_own_section(kind: type[Section]):
    assert kind.model_config["frozen"]
    assert kind.model_config["extra"] == "forbid"
    for name, field in kind.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        assert is_section or (field.description or "").endswith("."), f"{kind.__name__}.{name}"


def test_bounds_of_a_field_reach_the_schema_that_draws_the_form():
    schema = PipelineConfig.model_json_schema()
    assert schema["$defs"]["EvaluationConfig"]["properties"]["horizon_days"]["minimum"] == 1
    assert schema["properties"]["vertical"]["enum"] == ["shop", "travel", "content"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("fine_tuning: {epoch: 3}", r"fine_tuning\.epoch: unknown key; did you mean `epochs`\?"),
        ("pretraining: {encoder: {widht: 3}}", r"pretraining\.encoder\.widht: unknown key; did you mean `width`\?"),
        ("fine_tuning: {linear: [{ridg: 3}]}", r"fine_tuning\.linear\.0\.ridg: unknown key; did you mean `ridge`\?"),
        ("zzzz: 3", r"zzzz: unknown key; known keys: compute, content, evaluation, .*vertical"),
        ("seed: -1", r"seed: Input should be greater than or equal to 0 \(found -1\)"),
        ("vertical: bank", r"vertical: Input should be 'shop', 'travel' or 'content' \(found 'bank'\)"),
        ("evaluation: {origins: [2020-13-01]}", r"not readable as YAML.*month"),
        ("evaluation: {lists: [again}", r"not readable as YAML"),
        ("pretraining: {enabled: false}\nfine_tuning: {adaptation: lora}", r"fine_tuning\.adaptation lora .* but pretraining\.enabled is false"),
        ("evaluation: {leads_days: [0, 300]}", r"forecast\.horizon_periods covers 112 days, but .* needs 328\. Raise"),
        ("features: {max_history: 32}", r"pretraining\.encoder\.max_history 64 is more than features\.max_history 32"),
        ("pretraining: {encoder: {width: 10, num_heads: 4}}", r"encoder\.width 10 is not a multiple of encoder\.num_heads 4"),
    ],
)
def test_fault_in_a_file_names_file_field_and_what_to_try(read, lines: str, message: str):
    with pytest.raises(ValueError, match=message) as raised:
        read(f"name: mine\nsource: {{dataset: synthetic}}\n{lines}\n")
    assert "mine.yaml: " in str(raised.value)
    assert "Value error" not in str(raised.value)


def test_every_fault_is_listed_at_once(read):
    with pytest.raises(ValueError, match=r"seed: .*; compute\.devices: "):
        read("name: mine\nsource: {dataset: synthetic}\nseed: -1\ncompute: {devices: 0}\n")


@pytest.mark.parametrize(("text", "found"), [("", "an empty file"), ("- a\n- b\n", "list"), ("only words\n", "str")])
def test_file_that_is_no_mapping_is_refused(read, text: str, found: str):
    with pytest.raises(ValueError, match=f"expected a mapping of parameters, found {found}"):
        read(text)


def test_table_without_an_address_is_refused(read):
    with pytest.raises(ValueError, match=r"source\.uri is missing"):
        read("name: mine\nsource: {}\n")
