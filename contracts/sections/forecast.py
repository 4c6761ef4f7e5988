"""Demand forecasts."""

from typing import Annotated, Literal

from pydantic import Field

from contracts.sections.base import Section

ForecastModel = Literal["seasonal_naive", "mstl", "auto_ets", "theta", "croston", "tsb", "rnn", "gru", "nhits"]


class ForecastConfig(Section):
    """How far ahead, at which levels, with which models."""

    enabled: Annotated[bool, Field(description="Off: the season term goes without forecasts.")] = True
    frequency: Annotated[Literal["day", "week"], Field(description="Period of the series.")] = "week"
    horizon_periods: Annotated[int, Field(ge=1, le=400, description="Periods ahead.")] = 16
    levels: Annotated[tuple[Literal["item", "category", "total"], ...], Field(description="Levels that are forecast.")] = ("category", "total")
    max_item_series: Annotated[int, Field(ge=0, description="Items forecast one by one, best sellers first; the others follow their category.")] = 2_000
    models: Annotated[tuple[ForecastModel, ...], Field(description="Candidates; the back-test chooses per level.")] = ("seasonal_naive", "theta", "mstl")
    season_periods: Annotated[tuple[int, ...], Field(description="Lengths of the seasons in periods, e.g. 52 for weekly data; used where the history holds two of them.")] = (52,)
    back_test_origins: Annotated[int, Field(ge=1, le=20, description="Rolling origins of the choice.")] = 5
    reconcile: Annotated[bool, Field(description="Make children add up to parents.")] = True
