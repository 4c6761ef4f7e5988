"""Limits of the data checks."""

from datetime import date
from typing import Annotated

from pydantic import Field, field_validator

from contracts.sections.base import Section


class ValidationConfig(Section):
    """When data are refused, set aside, or only remarked on."""

    event_types: Annotated[tuple[str, ...], Field(description="Event types that may occur.")] = (
        "view",
        "click",
        "cart",
        "purchase",
        "rating",
        "play",
        "booking",
    )
    earliest: Annotated[str, Field(description="Events before this date are set aside, ISO date.")] = "1995-01-01"
    future_tolerance_hours: Annotated[float, Field(ge=0, description="Events later than now by more than this many hours are set aside.")] = 24.0
    max_price: Annotated[float, Field(gt=0, description="Prices above are set aside, in the source's currency.")] = 1_000_000.0
    max_quarantined_share: Annotated[float, Field(ge=0, le=1, description="Share of rows set aside above which the flow stops.")] = 0.05
    max_repeated_share: Annotated[
        float, Field(ge=0, le=1, description="Share of events that equal another in all but their id, above which a warning is shown.")
    ] = 0.05
    max_share_without_catalogue: Annotated[float, Field(ge=0, le=1, description="Share of items without a catalogue entry above which a warning is shown.")] = (
        0.05
    )
    max_share_without_category: Annotated[
        float, Field(ge=0, le=1, description="Share of catalogue entries without a category above which a warning is shown.")
    ] = 0.2
    volume_tolerance: Annotated[
        float, Field(gt=0, description="Warn where a day's events differ from the same weekday of the weeks before by more than this factor.")
    ] = 3.0
    category_share_tolerance: Annotated[
        float, Field(gt=0, le=1, description="Warn where a category's share differs from the same season last year by more than this (absolute).")
    ] = 0.15
    min_users: Annotated[int, Field(ge=1, description="Fewer users stop the flow.")] = 2
    min_items: Annotated[int, Field(ge=1, description="Fewer items stop the flow.")] = 2

    @field_validator("earliest")
    @classmethod
    def _is_a_date(cls, value: str) -> str:
        try:
            date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"expected an ISO date such as 1995-01-01, found {value!r}") from error
        return value
