"""What all sections share: frozen, unknown keys are errors."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
