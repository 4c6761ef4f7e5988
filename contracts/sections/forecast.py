"""Demand forecasts."""

from typing import Annotated, Literal

from pydantic import Field

from contracts.sections.base import Section

ForecastModel = Literal[
    "seasonal_naive",
    "recent_mean",
    "season_trend",
    "season_trend_recent",
    "season_trend_additive",
    "season_level",
    "autoregression",
    "mstl",
    "auto_ets",
    "theta",
    "croston",
    "tsb",
    "combination",
    "rnn",
    "gru",
    "nhits",
]


class ForecastConfig(Section):
    """How far ahead, at which levels, with which models."""

    enabled: Annotated[bool, Field(description="Off: the season term goes without forecasts.")] = True
    frequency: Annotated[Literal["day", "week", "month"], Field(description="Period of the series.")] = "week"
    horizon_periods: Annotated[int, Field(ge=1, le=400, description="Periods ahead.")] = 16
    levels: Annotated[tuple[Literal["item", "category", "total"], ...], Field(description="Levels that are forecast.")] = ("category", "total")
    max_item_series: Annotated[int, Field(ge=0, description="Items forecast one by one, best sellers first; the others follow their category.")] = 2_000
    models: Annotated[
        tuple[ForecastModel, ...],
        Field(
            description="Candidates; the back-test chooses per level and weighs per series. `seasonal_naive` always competes, `combination` is their weighted mean."
        ),
    ] = (
        "seasonal_naive",
        "recent_mean",
        "season_trend",
        "season_trend_recent",
        "season_trend_additive",
        "season_level",
        "autoregression",
        "theta",
        "mstl",
        "combination",
    )
    season_periods: Annotated[tuple[int, ...], Field(description="Lengths of the seasons in periods, e.g. 52 weeks; used where two are held.")] = (52,)
    back_test_origins: Annotated[int, Field(ge=1, le=60, description="Rolling origins of the choice.")] = 8
    back_test_every_periods: Annotated[int | None, Field(ge=1, description="Periods between two origins; without it a quarter of the horizon.")] = None
    back_test_series: Annotated[int, Field(ge=10, description="Series per level the choice is made on, spread over small and large ones.")] = 200
    max_slow_series: Annotated[int, Field(ge=0, description="Levels with more series than this use only the models that run on all series at once.")] = 5_000
    reconcile: Annotated[bool, Field(description="Make children add up to parents.")] = True
    network_first_steps: Annotated[int, Field(ge=1, description="Training steps of a network before the first cut-off.")] = 600
    network_later_steps: Annotated[int, Field(ge=0, description="Training steps of a network for each later cut-off.")] = 60
    planned_uri: Annotated[
        str | None,
        Field(
            description="Optional Parquet table of what is planned, for the networks: level, id, date, region (optional) and numeric columns known ahead (promotion, price)."
        ),
    ] = None
    network_past_periods: Annotated[int, Field(ge=4, description="Periods of the past a network sees at once.")] = 32
