"""Where a search for parameters is kept."""

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from contracts.errors import StudyError
from contracts.sections.base import Section

SECRETS_IN_ADDRESS = re.compile(r"://[^/@?]*?:(?P<password>[^@]+)@|[?&](?:password|passwd|sslpassword)=(?P<option>[^&]+)", re.IGNORECASE)
NAME_OF_VARIABLE = re.compile(r"\$\{\w+\}")


class TuningConfig(Section):
    """The book of the flow `tune`."""

    storage_url: Annotated[
        str | None,
        Field(
            description="Database of the search, sqlite:/// or postgresql://; without it a SQLite file in the pipeline's store. "
            "${NAME} is read from the environment, the only place for a password."
        ),
    ] = None

    @model_validator(mode="after")
    def _password_is_not_written_down(self) -> Self:
        """Parameters are kept by Prefect and MLflow. Not a ValueError: pydantic would print the address beside it."""
        found = SECRETS_IN_ADDRESS.search(self.storage_url or "")
        if found and not NAME_OF_VARIABLE.fullmatch(found["password"] or found["option"]):
            raise StudyError(
                "tuning.storage_url: expected the password as ${NAME}, found it written out; parameters are kept where others read them. "
                "Put it, or the whole address, into a variable of the environment, e.g. ${PERENNIAL_TUNING_DATABASE}.",
                step="tune",
            )
        return self
