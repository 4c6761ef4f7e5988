"""`PipelineConfig`: the YAML file, the web form and the argument of every flow are this one frozen object."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from contracts.errors import StudyError
from contracts.sections.base import Section
from contracts.sections.content import ContentConfig
from contracts.sections.evaluation import EvaluationConfig, PublishConfig, RegistryConfig
from contracts.sections.features import FeaturesConfig
from contracts.sections.forecast import ForecastConfig
from contracts.sections.source import SourceConfig
from contracts.sections.training import ComputeConfig, FineTuningConfig, PretrainingConfig, WarmStartConfig
from contracts.sections.tuning import TuningConfig
from contracts.sections.validation import ValidationConfig

Vertical = Literal["shop", "travel", "content"]

# What a vertical means where the parameters do not say otherwise.
PRESETS: dict[str, dict[str, Any]] = {
    "shop": {
        "fine_tuning": {"target_events": ["purchase"]},
        "evaluation": {"lists": ["again", "discover"], "horizon_days": 28},
        "features": {"season_names": {"winter": [335, 59], "spring": [60, 151], "summer": [152, 243], "autumn": [244, 334]}},
    },
    "travel": {
        "fine_tuning": {"target_events": ["booking", "purchase"]},
        "evaluation": {"lists": ["discover"], "horizon_days": 84},
        "features": {"season_names": {"high_summer": [172, 243], "shoulder_autumn": [244, 319], "low_winter": [320, 79], "shoulder_spring": [80, 171]}},
    },
    "content": {
        "fine_tuning": {"target_events": ["play", "rating", "view"]},
        "evaluation": {"lists": ["discover"], "horizon_days": 14},
        "features": {"season_names": {"holidays": [349, 6], "winter": [7, 79], "spring": [80, 171], "summer": [172, 263], "autumn": [264, 348]}},
    },
}


class PipelineConfig(Section):
    """Everything a run of the pipeline needs."""

    name: Annotated[
        str,
        Field(title="Name", min_length=1, max_length=80, pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Short name; stores and models are kept apart by it."),
    ]
    vertical: Annotated[Vertical, Field(title="Vertical", description="Preset: target events, lists, horizon and season names.")] = "shop"
    storage_root: Annotated[str, Field(title="Storage root", description="Folder of everything that is written. ${NAME} is read from the environment.")] = (
        ".perennial"
    )
    seed: Annotated[int, Field(ge=0, description="Seed of everything random.")] = 0
    source: SourceConfig
    validation: ValidationConfig = ValidationConfig()
    features: FeaturesConfig = FeaturesConfig()
    content: ContentConfig = ContentConfig()
    forecast: ForecastConfig = ForecastConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    fine_tuning: FineTuningConfig = FineTuningConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    registry: RegistryConfig = RegistryConfig()
    publish: PublishConfig = PublishConfig()
    tuning: TuningConfig = TuningConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = PRESETS.get(values.get("vertical", "shop"), {})
        merged = dict(values)
        for section, defaults in preset.items():
            given = merged.get(section, {})
            if isinstance(given, dict):
                merged[section] = {**defaults, **given}
        return merged

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        encoder = self.pretraining.encoder
        if encoder.max_history > self.features.max_history:
            raise ValueError(
                f"pretraining.encoder.max_history {encoder.max_history} is more than features.max_history {self.features.max_history}: "
                "the encoder would wait for events that are not kept"
            )
        tuned = self.fine_tuning
        if not self.pretraining.enabled and (tuned.adaptation != "frozen" or tuned.adaptation_layer != "none"):
            raise ValueError(
                f"fine_tuning.adaptation {tuned.adaptation} and adaptation_layer {tuned.adaptation_layer} change an encoder, but pretraining.enabled is false. "
                "Turn pre-training on, or set them to frozen and none."
            )
        weeks = max(self.evaluation.leads_days) + self.evaluation.horizon_days
        if self.forecast.frequency == "month":
            raise ValueError("forecast.frequency: month is for demand tables that are monthly already; the pipeline builds demand by day or week. Choose one.")
        days = self.forecast.horizon_periods * (7 if self.forecast.frequency == "week" else 1)
        if self.forecast.enabled and days < weeks:
            raise ValueError(
                f"forecast.horizon_periods covers {days} days, but evaluation.leads_days + evaluation.horizon_days needs {weeks}. "
                "Raise forecast.horizon_periods or shorten the leads."
            )
        return self

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a parameter file. A misspelt key is an error that names the nearest known key.

        Raises ValueError for a file that is no mapping, FileNotFoundError, and ValueError with every fault listed.
        """
        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{path}: not readable as YAML in UTF-8: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a mapping of parameters, found {'an empty file' if values is None else type(values).__name__}")  # noqa: TRY004
        try:
            return cls.model_validate(values)
        except StudyError as error:
            raise ValueError(f"{path}: {error}") from error
        except ValidationError as error:
            raise ValueError(f"{path}: " + "; ".join(_explain(fault) for fault in error.errors())) from error


def _explain(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"]) or "parameters"
    if fault["type"] != "extra_forbidden":
        said = fault["msg"].removeprefix("Value error, ")
        return f"{where}: {said}" if isinstance(fault["input"], dict) else f"{where}: {said} (found {fault['input']!r})"
    known = _known_keys(fault["loc"][:-1])
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else f"; known keys: {', '.join(sorted(known))}"
    return f"{where}: unknown key{hint}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    section: type[Section] = PipelineConfig
    for part in location:
        if isinstance(part, int):  # a place in a list of sections
            continue
        annotation = section.model_fields[str(part)].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, Section))
    return list(section.model_fields)
