"""Panels of the report as plain data, and how they are made from the pipeline's tables."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import polars as pl
from pydantic import Field, model_validator

from contracts import columns as c
from contracts.artifacts import Reference
from contracts.tables import quantile_column

MODEL_WORDS: Final[Mapping[str, str]] = {
    "seasonal_naive": "last year's values (seasonal naive)",
    "recent_mean": "the mean of the last weeks",
    "season_trend": "season times trend",
    "season_trend_recent": "season times trend, recent years first",
    "season_trend_additive": "season plus trend",
    "season_level": "season times level",
    "autoregression": "autoregression",
    "mstl": "MSTL (season and trend decomposed)",
    "auto_ets": "exponential smoothing (AutoETS)",
    "theta": "the theta method",
    "croston": "Croston's method",
    "tsb": "the Teunter-Syntetos-Babai method",
    "rnn": "a recurrent network (RNN)",
    "gru": "a recurrent network (GRU)",
    "nhits": "N-HiTS",
}


class HeatMap(Reference):
    """Level of demand of each category in each week; 1 is the category's own average, null a week without data."""

    title: str
    rows: tuple[str, ...] = Field(description="categories")
    columns: tuple[dt.date, ...] = Field(description="first day of each week, ascending")
    values: tuple[tuple[float | None, ...], ...] = Field(description="one tuple per category, one value per week")

    @model_validator(mode="after")
    def _is_rectangular(self) -> "HeatMap":
        if len(self.values) != len(self.rows) or any(len(row) != len(self.columns) for row in self.values):
            raise ValueError(
                f"heat map {self.title!r}: expected {len(self.rows)} rows of {len(self.columns)} values, found {[len(row) for row in self.values]}"
            )
        return self


class ForecastPeriod(Reference):
    """One period of a fan chart. Periods before the cut-off have an actual only."""

    date: dt.date
    actual: float | None = None
    mean: float | None = None
    low_80: float | None = None
    high_80: float | None = None
    low_95: float | None = None
    high_95: float | None = None


class SeriesPart(Reference):
    """One part of a series taken apart: its trend in units, a season or the holidays as a ratio (1 is usual); a value for each of the panel's `part_dates`."""

    name: str
    values: tuple[float, ...]


class ForecastPanel(Reference):
    """Forecast of one series against what came, and the history up to the cut-off taken apart into parts that multiply to it."""

    title: str
    unit: str = "units"
    cutoff: dt.date
    model: str = Field(default="", description="which model speaks, in words that follow `forecast by`")
    periods: tuple[ForecastPeriod, ...]
    part_dates: tuple[dt.date, ...] = ()
    parts: tuple[SeriesPart, ...] = ()


class LevelError(Reference):
    """Mean absolute scaled error of a level's forecasts and of last year's values, on the same periods after the cut-offs."""

    level: str
    num_series: int
    chosen: float
    last_year: float
    models: str = Field(description="which models speak, the most frequent first, in words that follow `by`")


class ExampleItem(Reference):
    """One recommended item with the three parts of its score."""

    rank: int
    item_id: str
    title: str
    category: str = ""
    taste: float
    habit: float
    season: float

    @property
    def score(self) -> float:
        """Sum of the parts."""
        return self.taste + self.habit + self.season


class Example(Reference):
    """One user's list for one date."""

    title: str = Field(description="the occasion in words, e.g. the week of Thanksgiving")
    user: str
    list: str
    request_date: dt.date
    items: tuple[ExampleItem, ...]


def season_heat_map(
    demand: pl.DataFrame,
    *,
    level: str = "category",
    num_rows: int = 14,
    num_weeks: int = 52,
    title: str = "Demand by category and week",
    order: Literal["units", "peak"] = "peak",
) -> HeatMap:
    """Make the heat map of the last weeks of a demand table (`contracts.tables.DEMAND`), daily or weekly.

    The largest categories are shown, by default in the order of their strongest week. Regions are added up.
    """
    of_level = demand.filter(pl.col(c.LEVEL) == level)
    last = of_level[c.DATE].max()
    if not isinstance(last, dt.date):
        return HeatMap(title=title, rows=(), columns=(), values=())
    first = last - dt.timedelta(days=7 * num_weeks - 1)
    week = (pl.col(c.DATE) - pl.lit(first)).dt.total_days() // 7
    weekly = of_level.filter(pl.col(c.DATE) >= first).group_by(c.ID, week.alias("week")).agg(pl.col(c.UNITS).sum())
    largest = weekly.group_by(c.ID).agg(pl.col(c.UNITS).sum()).filter(pl.col(c.UNITS) > 0).sort(c.UNITS, c.ID, descending=[True, False]).head(num_rows)[c.ID]
    values: dict[str, list[float | None]] = {}
    for name in largest:
        units = dict(weekly.filter(pl.col(c.ID) == name).select("week", c.UNITS).iter_rows())
        mean = sum(units.values()) / len(units)
        values[name] = [units[week] / mean if week in units else None for week in range(num_weeks)]
    names = sorted(values, key=lambda name: _strongest(values[name])) if order == "peak" else list(values)
    weeks = tuple(first + dt.timedelta(days=7 * week) for week in range(num_weeks))
    return HeatMap(title=title, rows=tuple(names), columns=weeks, values=tuple(tuple(values[name]) for name in names))


def _strongest(levels: list[float | None]) -> int:
    return max(range(len(levels)), key=lambda week: levels[week] or 0.0)


def forecast_panel(
    demand: pl.DataFrame,
    forecasts: pl.DataFrame,
    *,
    level: str,
    id: str,  # noqa: A002
    cutoff: dt.date,
    num_periods_before: int = 16,
    title: str | None = None,
    choices: pl.DataFrame | None = None,
) -> ForecastPanel:
    """Make the fan chart of one series from `contracts.tables.DEMAND` and `FORECASTS`; regions are added up, the mean only where there are several.

    `choices` (cutoff, level, id, region, model, leading_model, fallback) says which model stands behind the forecast called `chosen`.
    Raises ValueError where the forecasts hold nothing for the level, id and cut-off.
    """
    ahead = forecasts.filter(pl.col(c.LEVEL) == level, pl.col(c.ID) == id, pl.col(c.CUTOFF) == cutoff)
    if ahead.is_empty():
        known = forecasts.filter(pl.col(c.LEVEL) == level, pl.col(c.CUTOFF) == cutoff)[c.ID].unique().sort().head(5).to_list()
        raise ValueError(f"forecasts: nothing for level {level!r}, id {id!r}, cut-off {cutoff}; ids at this level and cut-off: {known}")
    several = ahead[c.REGION].n_unique() > 1
    quantiles = {"low_95": 0.025, "low_80": 0.1, "high_80": 0.9, "high_95": 0.975}
    columns = [
        pl.col(c.MEAN).sum().alias("mean"),
        *((pl.lit(None, pl.Float64) if several else pl.col(quantile_column(q)).first()).alias(name) for name, q in quantiles.items()),
    ]
    fan = ahead.group_by(c.DATE).agg(columns)
    actual = demand.filter(pl.col(c.LEVEL) == level, pl.col(c.ID) == id).group_by(c.DATE).agg(actual=pl.col(c.UNITS).sum())
    before = actual.filter(pl.col(c.DATE) < cutoff).sort(c.DATE).tail(num_periods_before).select(c.DATE)
    dates = pl.concat([before, fan.select(c.DATE)]).unique().sort(c.DATE)
    rows = dates.join(actual, on=c.DATE, how="left").join(fan, on=c.DATE, how="left").sort(c.DATE)
    model = _models_in_words(ahead, choices, level=level, id=id, cutoff=cutoff)
    return ForecastPanel(title=title or f"{id}", cutoff=cutoff, model=model, periods=tuple(ForecastPeriod(**row) for row in rows.iter_rows(named=True)))


def level_errors(by_level: Mapping[str, tuple[float, float]], choices: pl.DataFrame, *, cutoffs: Sequence[dt.date]) -> tuple[LevelError, ...]:
    """Errors of each level (chosen, last year), coarse to fine, with the models that `choices` names at the cut-offs."""
    order = (c.TOTAL, c.CATEGORY, c.ITEM)
    errors = []
    for level in sorted(by_level, key=lambda name: order.index(name) if name in order else len(order)):
        made = choices.filter(pl.col(c.LEVEL) == level, pl.col(c.CUTOFF).is_in(list(cutoffs)))
        models = made.group_by(c.MODEL).len().sort("len", c.MODEL, descending=[True, False])[c.MODEL].to_list()
        chosen, last_year = by_level[level]
        errors.append(
            LevelError(
                level=level,
                num_series=made.select(c.ID, c.REGION).n_unique() if made.height else 0,
                chosen=chosen,
                last_year=last_year,
                models=" or ".join("a weighted mean of models" if model == "combination" else _in_words(model) for model in models),
            )
        )
    return tuple(errors)


def _models_in_words(ahead: pl.DataFrame, choices: pl.DataFrame | None, *, level: str, id: str, cutoff: dt.date) -> str:  # noqa: A002
    """The models behind a forecast: by their own names, or, for the one its back-test chose, as `choices` names it region by region."""
    of_series = (c.LEVEL, c.ID, c.CUTOFF)
    chosen = (
        choices.filter(pl.all_horizontal(pl.col(name) == value for name, value in zip(of_series, (level, id, cutoff), strict=True)))
        if choices is not None
        else None
    )
    if chosen is None or chosen.is_empty():
        said = [_in_words(name) for name in ahead[c.MODEL].unique().sort()]
    else:
        said = [_choice_in_words(row) for row in chosen.sort(c.REGION).iter_rows(named=True)]
    return ", ".join(dict.fromkeys(said))


def _choice_in_words(row: Mapping[str, str | None]) -> str:
    leading = row.get("leading_model")
    model = f"a weighted mean of models, {_in_words(leading)} first" if row[c.MODEL] == "combination" and leading else _in_words(row[c.MODEL] or "")
    return f"{model} ({row['fallback']})" if row.get("fallback") else model


def _in_words(model: str) -> str:
    return "the model its back-test chose" if model == "chosen" else MODEL_WORDS.get(model, model.replace("_", " "))


def example_of(
    rankings: pl.DataFrame,
    *,
    user: str,
    list_name: str,
    request_date: dt.date,
    title: str,
    item_catalogue: pl.DataFrame | None = None,
    names: Mapping[str, str] | None = None,
) -> Example:
    """Take one user's list for one date from a rankings table, with titles from the catalogue or `names`.

    Raises ValueError where the table holds no such list.
    """
    rows = rankings.filter(pl.col(c.USER_ID) == user, pl.col(c.LIST) == list_name, pl.col(c.REQUEST_DATE) == request_date).sort(c.RANK)
    if rows.is_empty():
        dates = rankings[c.REQUEST_DATE].unique().sort().to_list()
        raise ValueError(f"rankings: no list {list_name!r} of user {user!r} for {request_date}; request dates in the table: {[str(day) for day in dates[:8]]}")
    if item_catalogue is not None:
        rows = rows.join(
            item_catalogue.select(c.ITEM_ID, *(name for name in (c.TITLE, c.CATEGORY) if name in item_catalogue.columns)),
            on=c.ITEM_ID,
            how="left",
            maintain_order="left",
        )
    known = names or {}
    items = tuple(
        ExampleItem(
            rank=row[c.RANK],
            item_id=row[c.ITEM_ID],
            title=row.get(c.TITLE) or known.get(row[c.ITEM_ID]) or row[c.ITEM_ID],
            category=(row.get(c.CATEGORY) or "").split(c.CATEGORY_SEPARATOR)[-1],
            taste=row[c.TASTE] or 0.0,
            habit=row[c.HABIT] or 0.0,
            season=row[c.SEASON] or 0.0,
        )
        for row in rows.iter_rows(named=True)
    )
    return Example(title=title, user=user, list=list_name, request_date=request_date, items=items)
