"""Grain and schema of every table that is stored. Types are Polars'; nullable unless named in `required`."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

import polars as pl

from contracts import columns as c

PolarsType: TypeAlias = pl.DataType | type[pl.DataType]

TIMESTAMP: Final = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class TableContract:
    """What one table must look like: one row per `grain`, these columns, `required` ones never null."""

    name: str
    grain: tuple[str, ...]
    schema: MappingProxyType[str, PolarsType]
    required: tuple[str, ...]


def _table(name: str, grain: tuple[str, ...], schema: dict[str, PolarsType], required: tuple[str, ...] = ()) -> TableContract:
    return TableContract(name, grain, MappingProxyType(schema), tuple(dict.fromkeys(grain + required)))


INTERACTIONS: Final = _table(
    "interactions",
    (c.EVENT_ID,),
    {
        c.EVENT_ID: pl.String,
        c.USER_ID: pl.String,
        c.ITEM_ID: pl.String,
        c.EVENT_TIME: TIMESTAMP,
        c.EVENT_TYPE: pl.String,
        c.QUANTITY: pl.Float64,
        c.PRICE: pl.Float64,
        c.VALUE: pl.Float64,
        c.BASKET_ID: pl.String,
        c.PLATFORM: pl.String,
        c.REGION: pl.String,
    },
    (c.USER_ID, c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE),
)

ITEM_CATALOGUE: Final = _table(
    "item_catalogue",
    (c.ITEM_ID,),
    {
        c.ITEM_ID: pl.String,
        c.CATEGORY: pl.String,
        c.TITLE: pl.String,
        c.TEXT: pl.String,
        c.IMAGE_PATH: pl.String,
        c.AUDIO_PATH: pl.String,
        c.AVAILABLE_FROM: TIMESTAMP,
        c.AVAILABLE_UNTIL: TIMESTAMP,
    },
)

VOCABULARY: Final = _table("vocabulary", (c.ITEM_ID,), {c.ITEM_ID: pl.String, c.ITEM_INDEX: pl.Int32}, (c.ITEM_INDEX,))

DEMAND: Final = _table(
    "demand",
    (c.LEVEL, c.ID, c.REGION, c.DATE),
    {
        c.LEVEL: pl.String,
        c.ID: pl.String,
        c.REGION: pl.String,
        c.DATE: pl.Date,
        c.UNITS: pl.Float64,
        c.BUYERS: pl.Int64,
        c.IS_OBSERVED: pl.Boolean,
    },
    (c.UNITS,),
)

QUANTILES: Final = (0.025, 0.1, 0.5, 0.9, 0.975)


def quantile_column(quantile: float) -> str:
    """Column of a forecast quantile: 0.025 -> `q025`, 0.5 -> `q500`."""
    return f"q{round(quantile * 1000):03d}"


FORECASTS: Final = _table(
    "forecasts",
    (c.CUTOFF, c.LEVEL, c.ID, c.REGION, c.DATE, c.MODEL),
    {
        c.CUTOFF: pl.Date,
        c.LEVEL: pl.String,
        c.ID: pl.String,
        c.REGION: pl.String,
        c.DATE: pl.Date,
        c.MODEL: pl.String,
        c.MEAN: pl.Float64,
        **{quantile_column(q): pl.Float64 for q in QUANTILES},
    },
    (c.MEAN,),
)

HISTORIES: Final = _table(
    "histories",
    (c.USER_ID, c.CUTOFF),
    {
        c.USER_ID: pl.String,
        c.CUTOFF: pl.Date,
        c.ITEM_ID: pl.List(pl.String),
        c.EVENT_TIME: pl.List(TIMESTAMP),
        c.EVENT_TYPE: pl.List(pl.String),
    },
    (c.ITEM_ID,),
)

ITEM_WEEKS: Final = _table(
    "item_weeks",
    (c.ITEM_ID, c.REGION, c.WEEKS_AGO, c.CUTOFF),
    {
        c.ITEM_ID: pl.String,
        c.REGION: pl.String,
        c.WEEKS_AGO: pl.Int32,
        c.BUYERS: pl.UInt32,
        c.FIRST_BUYERS: pl.UInt32,
        c.LAST_BUYERS: pl.UInt32,
        c.UNITS: pl.Float64,
        c.USERS: pl.UInt32,
        c.CUTOFF: pl.Date,
    },
    (c.BUYERS, c.FIRST_BUYERS, c.LAST_BUYERS, c.UNITS, c.USERS),
)

RANKINGS: Final = _table(
    "rankings",
    (c.CUTOFF, c.REQUEST_DATE, c.LIST, c.MODEL_VERSION, c.USER_ID, c.RANK),
    {
        c.CUTOFF: pl.Date,
        c.REQUEST_DATE: pl.Date,
        c.LIST: pl.String,
        c.MODEL_VERSION: pl.String,
        c.USER_ID: pl.String,
        c.RANK: pl.Int32,
        c.ITEM_ID: pl.String,
        c.SCORE: pl.Float32,
        c.TASTE: pl.Float32,
        c.HABIT: pl.Float32,
        c.SEASON: pl.Float32,
    },
    (c.ITEM_ID, c.SCORE),
)

QUARANTINE_EXTRA: Final[MappingProxyType[str, PolarsType]] = MappingProxyType({c.RULE: pl.String, c.SOURCE_FILE: pl.String, c.SOURCE_ROW: pl.Int64})

TABLES: Final = MappingProxyType({t.name: t for t in (INTERACTIONS, ITEM_CATALOGUE, VOCABULARY, DEMAND, FORECASTS, HISTORIES, ITEM_WEEKS, RANKINGS)})
