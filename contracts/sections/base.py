"""What all sections share: frozen, unknown keys are errors, and an order of their fields that survives a form."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict

BY_VERTICAL: Final[dict[str, Any]] = {"by_vertical": True}  # mark of a field whose value the preset of `vertical` gives where the parameters do not


def _for_the_form(schema: dict[str, Any]) -> None:
    """Number the fields: PostgreSQL stores a form's schema without their order, Prefect's pages sort by `position`.

    A form sends every default along. What the preset decides has none there, or the choice of a vertical would change nothing.
    """
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position
        if field.pop("by_vertical", False):
            field.pop("default", None)
            field["description"] += " Left alone: as `vertical` says."


class Section(BaseModel):
    """Base of every section of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, json_schema_extra=_for_the_form)
