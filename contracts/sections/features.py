"""Seasonal features: calendar, demand, histories, habits."""

from typing import Annotated

from pydantic import Field

from contracts.sections.base import BY_VERTICAL, Section


class FeaturesConfig(Section):
    """What is computed about items and users before a cut-off."""

    country: Annotated[
        str, Field(min_length=2, max_length=6, description="Country of the holiday calendar where events carry no region, ISO code such as US, GB or US-NY.")
    ] = "US"
    region_countries: Annotated[dict[str, str], Field(description="Region of the events -> country code of its calendar.")] = {}
    use_regions: Annotated[bool, Field(description="Demand and season per region; off: one region `all`.")] = False
    season_names: Annotated[
        dict[str, tuple[int, int]],
        Field(description="Named parts of the year: first and last day of year; may wrap over New Year.", json_schema_extra=BY_VERTICAL),
    ] = {}
    pay_days_uri: Annotated[str | None, Field(description="Optional table of pay days: date, region.")] = None
    school_terms_uri: Annotated[str | None, Field(description="Optional table of school terms: first_day, last_day, region.")] = None
    fourier_order: Annotated[int, Field(ge=1, le=10, description="Harmonics of the year.")] = 4
    moving_average_days: Annotated[tuple[int, ...], Field(description="Windows of moving averages, days.")] = (7, 28, 91)
    lag_days: Annotated[tuple[int, ...], Field(description="Lags, days.")] = (7, 28, 364)
    weekly_above_items: Annotated[int, Field(ge=0, description="Item demand is weekly, not daily, beyond this many items.")] = 5_000
    shrinkage_units: Annotated[float, Field(gt=0, description="Pseudo-count that pulls an item's season to its category's, units.")] = 10.0
    clip_quantile: Annotated[float, Field(gt=0.5, le=1, description="Units of one event above this quantile of their item group are clipped.")] = 0.999
    habit_half_lives_days: Annotated[tuple[int, ...], Field(description="Half-lives of decayed purchase counts, days.")] = (14, 45, 90, 180, 365)
    max_history: Annotated[int, Field(ge=2, le=20_000, description="Newest events of a user that are kept in a history.")] = 512
    cutoff_every_days: Annotated[int, Field(ge=7, description="Spacing of the training cut-offs, days.")] = 28
    first_cutoff_after_days: Annotated[int, Field(ge=7, description="First training cut-off, days after the first event.")] = 56
