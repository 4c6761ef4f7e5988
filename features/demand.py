"""Units wanted per item, category and in all, on a complete grid, and what the past of such a series says about its next period.

A feature here is a small function that returns one named expression; the name says column, operation and window: `units_ma_28d`.
Every window ends before the row's own date. Windows are in days and go by date, so a missing row can never pass for a day.
"""

from collections.abc import Sequence
from datetime import date
from typing import Literal

import polars as pl

from contracts import columns as c
from features.feature import Feature
from features.time_splits import before

Frequency = Literal["day", "week"]
Level = Literal["item", "category", "total"]
PERIOD_DAYS = {"day": 1, "week": 7}
LEVELS: tuple[Level, ...] = ("item", "category", "total")
SERIES = (c.LEVEL, c.ID, c.REGION)
YEAR_DAYS = 364  # 52 weeks: keeps the weekday
PSEUDO_UNITS = 0.1  # per period, keeps ratios of empty windows finite


# ---- the table -----------------------------------------------------------------------------------------------------------


def frequency_of_items(num_items: int, *, weekly_above_items: int) -> Frequency:
    """Daily grids for few items, weekly beyond: 68,509 items over a year are 25 million item-days but 3.6 million item-weeks."""
    return "week" if num_items > weekly_above_items else "day"


def clip_outliers(interactions: pl.LazyFrame, item_catalogue: pl.LazyFrame | None, quantile: float) -> pl.LazyFrame:
    """Events whose quantity above the quantile of its item group is set to it; a missing quantity counts one unit.

    Grain and order: unchanged. The group is the item's category path, or all items without one. Never clipped below one unit.
    A wholesale order of 80,000 pieces is an event, not demand to expect again.
    """
    quantity = pl.col(c.QUANTITY).fill_null(1.0)
    events = interactions.with_columns(quantity.alias(c.QUANTITY))
    if quantile >= 1:
        return events
    if item_catalogue is None:
        return events.with_columns(pl.min_horizontal(c.QUANTITY, pl.max_horizontal(pl.col(c.QUANTITY).quantile(quantile, "higher"), 1.0)))
    groups = item_catalogue.select(c.ITEM_ID, pl.col(c.CATEGORY).fill_null("").alias("group"))
    grouped = events.join(groups, on=c.ITEM_ID, how="left", maintain_order="left").with_columns(pl.col("group").fill_null(""))
    limits = grouped.group_by("group").agg(pl.max_horizontal(pl.col(c.QUANTITY).quantile(quantile, "higher"), 1.0).alias("limit"))
    clipped = grouped.join(limits, on="group", how="left", maintain_order="left").with_columns(pl.min_horizontal(c.QUANTITY, "limit").alias(c.QUANTITY))
    return clipped.drop("group", "limit")


def category_paths(item_catalogue: pl.LazyFrame) -> pl.LazyFrame:
    """Every step of each item's category path. Grain: one row per (item_id, id), id being `a`, `a > b`, `a > b > c`."""
    steps = pl.col(c.CATEGORY).str.split(c.CATEGORY_SEPARATOR)
    return (
        item_catalogue.select(c.ITEM_ID, c.CATEGORY)
        .drop_nulls()
        .with_columns(pl.int_ranges(1, steps.list.len() + 1).alias("depth"))
        .explode("depth")
        .select(c.ITEM_ID, steps.list.head(pl.col("depth")).list.join(c.CATEGORY_SEPARATOR).alias(c.ID))
    )


def demand(
    interactions: pl.LazyFrame,
    item_catalogue: pl.LazyFrame | None,
    *,
    frequency: Frequency,
    levels: Sequence[Level],
    end: date,
    by_region: bool = False,
    clip_quantile: float = 1.0,
    out_of_stock: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """Units and distinct buyers per period, contract DEMAND, strictly before `end`.

    Grain: one row per (level, id, region, date), sorted; complete from the series' first sale to `end`, periods without sales hold 0.
    Weeks are counted back from `end`, so the last one is whole; `date` is a period's first day. A first week cut by the start of the log is kept.
    Level `category` holds every step of the category path under its own id, level `total` the id `total`. Region `all` holds everything;
    `by_region` adds a series set per region. `is_observed` is false where nothing could be sold or seen: no event at all in the log, or the item
    out of stock for the whole period.

    Parameters
    ----------
    clip_quantile
        See `clip_outliers`; 1 clips nothing.
    out_of_stock
        Columns item_id, first_day, last_day (dates, both included): when there was nothing to sell. Item level only.
    """
    counts = demand_counts(
        clip_outliers(before(interactions, end), item_catalogue, clip_quantile),
        item_catalogue,
        frequency=frequency,
        levels=levels,
        end=end,
        by_region=by_region,
    )
    return _on_grid(counts, frequency=frequency, end=end, out_of_stock=out_of_stock)


def demand_counts(
    interactions: pl.LazyFrame, item_catalogue: pl.LazyFrame | None, *, frequency: Frequency, levels: Sequence[Level], end: date, by_region: bool = False
) -> pl.LazyFrame:
    """Units and distinct buyers of the periods with sales, strictly before `end`; adds up over users. A missing quantity counts one unit.

    Grain: one row per (level, id, region, ago); ago 0 is the period that ends at `end`, exclusive.
    """
    days_ago = (pl.lit(end) - pl.col(c.EVENT_TIME).dt.date()).dt.total_days() - 1
    ago = (days_ago // PERIOD_DAYS[frequency]).cast(pl.Int32).alias("ago")
    events = before(interactions, end).select(c.ITEM_ID, c.USER_ID, *([c.REGION] if by_region else []), ago, pl.col(c.QUANTITY).fill_null(1.0).alias(c.UNITS))
    everywhere = events.with_columns(pl.lit(c.ALL_REGIONS).alias(c.REGION))
    rows = pl.concat([everywhere, events.filter(pl.col(c.REGION).is_not_null())]) if by_region else everywhere
    return pl.concat([_level(rows, level, item_catalogue) for level in levels])


def complete_demand(counts: pl.LazyFrame, *, frequency: Frequency, end: date, out_of_stock: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """`demand` from `demand_counts`; rows of a period (from several parts of the users) are added up. Grain: one row per (level, id, region, date), sorted."""
    return _on_grid(counts.group_by(*SERIES, "ago").agg(pl.col(c.UNITS, c.BUYERS).sum()), frequency=frequency, end=end, out_of_stock=out_of_stock)


def _on_grid(counts: pl.LazyFrame, *, frequency: Frequency, end: date, out_of_stock: pl.LazyFrame | None) -> pl.LazyFrame:
    period_days = PERIOD_DAYS[frequency]
    table = counts.cache()
    seen = table.select("ago").unique().with_columns(pl.lit(True).alias(c.IS_OBSERVED))
    complete = _complete(table).join(seen, on="ago", how="left")
    if out_of_stock is not None:
        complete = complete.join(
            _missing_stock(out_of_stock, end, period_days), left_on=[c.LEVEL, c.ID, "ago"], right_on=[c.LEVEL, c.ITEM_ID, "ago"], how="left"
        )
    else:
        complete = complete.with_columns(pl.lit(None, dtype=pl.Boolean).alias("missing"))
    nothing_to_sell = pl.col("missing").fill_null(False) & (pl.col(c.UNITS).fill_null(0) == 0)
    return complete.select(
        *SERIES,
        (pl.lit(end) - pl.duration(days=(pl.col("ago") + 1) * period_days)).cast(pl.Date).alias(c.DATE),
        pl.col(c.UNITS).fill_null(0.0),
        pl.col(c.BUYERS).fill_null(0).cast(pl.Int64),
        (pl.col(c.IS_OBSERVED).fill_null(False) & ~nothing_to_sell).alias(c.IS_OBSERVED),
    ).sort(*SERIES, c.DATE)


def _level(rows: pl.LazyFrame, level: Level, item_catalogue: pl.LazyFrame | None) -> pl.LazyFrame:
    """Periods with sales of one level. Grain: one row per (id, region, ago)."""
    if level == "item":
        named = rows.with_columns(pl.col(c.ITEM_ID).alias(c.ID))
    elif level == "total":
        named = rows.with_columns(pl.lit(c.TOTAL).alias(c.ID))
    elif item_catalogue is None:
        named = rows.with_columns(pl.lit(None, dtype=pl.String).alias(c.ID)).filter(pl.col(c.ID).is_not_null())
    else:
        named = rows.join(category_paths(item_catalogue), on=c.ITEM_ID)
    counts = named.group_by(c.ID, c.REGION, "ago").agg(pl.col(c.UNITS).sum(), pl.col(c.USER_ID).n_unique().cast(pl.Int64).alias(c.BUYERS))
    return counts.select(pl.lit(level).alias(c.LEVEL), c.ID, c.REGION, "ago", c.UNITS, c.BUYERS)


def _complete(table: pl.LazyFrame) -> pl.LazyFrame:
    grid = (
        table.group_by(SERIES)
        .agg(pl.col("ago").max().alias("first"))
        .with_columns(pl.int_ranges(0, pl.col("first") + 1, dtype=pl.Int32).alias("ago"))
        .drop("first")
        .explode("ago")
    )
    return grid.join(table, on=[*SERIES, "ago"], how="left")


def _missing_stock(out_of_stock: pl.LazyFrame, end: date, period_days: int) -> pl.LazyFrame:
    """Periods in which an item was out of stock every day. Grain: one row per (item_id, ago)."""
    days = out_of_stock.select(c.ITEM_ID, pl.date_ranges("first_day", "last_day").alias(c.DATE)).explode(c.DATE).unique().filter(pl.col(c.DATE) < end)
    ago = ((pl.lit(end) - pl.col(c.DATE)).dt.total_days() - 1) // period_days
    return (
        days.group_by(c.ITEM_ID, ago.cast(pl.Int32).alias("ago"))
        .agg(pl.len().alias("days"))
        .filter(pl.col("days") >= period_days)
        .select(pl.lit("item").alias(c.LEVEL), c.ITEM_ID, "ago", pl.lit(True).alias("missing"))
    )


# ---- features of a series: expressions ------------------------------------------------------------------------------------


def lag(column: str, days: int, *, series: Sequence[str] = SERIES) -> pl.Expr:
    """`units_lag_7d`: the value exactly so many days before; null where that date has no row.

    Rows are counted but dates are checked: on a grid with a hole the row before may be any number of days away. Periods longer than a day take
    days in their multiples.
    """
    return _moved(pl.col(column), days, series).alias(f"{column}_lag_{days}d")


def _moved(value: pl.Expr, days: int, series: Sequence[str]) -> pl.Expr:
    """The value of the row exactly `days` earlier, whatever the spacing of the rows: 1 or 7 days. Rows are sorted by series and date.

    A shift over the whole table, refused where it leaves the series or lands on another date: no grouping, ten times faster than a shift per series.
    """
    there = pl.lit(None, dtype=pl.Float64)
    for period_days in (1, 7):
        if days % period_days == 0:
            rows = days // period_days
            same = pl.all_horizontal(pl.col(key) == pl.col(key).shift(rows) for key in series)
            matches = same & ((pl.col(c.DATE) - pl.col(c.DATE).shift(rows)).dt.total_days() == days)
            there = pl.coalesce(pl.when(matches).then(value.shift(rows)), there)
    return there


def _if_whole(value: pl.Expr, column: str, days: int, series: Sequence[str]) -> pl.Expr:
    """The value where the series reaches back that far, null where its window is cut by the first sale."""
    return pl.when(_moved(pl.col(column), days, series).is_not_null()).then(value)


def moving_average(column: str, days: int, *, series: Sequence[str] = SERIES) -> pl.Expr:
    """`units_ma_28d`: mean per period of the days before the row's date; null until one earlier period exists."""
    return pl.col(column).rolling_mean_by(c.DATE, f"{days}d", closed="left").over(series).alias(f"{column}_ma_{days}d")


def sliding(column: str, operation: Literal["sum", "min", "max", "std"], days: int, *, series: Sequence[str] = SERIES) -> pl.Expr:
    """`units_max_28d`, `units_min_28d`, `units_std_28d`, `units_sum_28d` of the days before the row's date."""
    value = pl.col(column)
    roll = {"sum": value.rolling_sum_by, "min": value.rolling_min_by, "max": value.rolling_max_by, "std": value.rolling_std_by}[operation]
    rolled: pl.Expr = roll(c.DATE, f"{days}d", closed="left")
    return rolled.over(series).alias(f"{column}_{operation}_{days}d")


def active_share(column: str, days: int, *, series: Sequence[str] = SERIES) -> pl.Expr:
    """`units_active_91d`: share of the periods before the row's date that had any."""
    return (pl.col(column) > 0).cast(pl.Float64).rolling_mean_by(c.DATE, f"{days}d", closed="left").over(series).alias(f"{column}_active_{days}d")


def growth(column: str, days: int, *, series: Sequence[str] = SERIES) -> pl.Expr:
    """`units_growth_28d`: log ratio of the mean of the days before to that of as many days before those; null until both windows are whole."""
    recent = moving_average(column, days, series=series)
    earlier = _if_whole(_moved(recent, days, series), column, 2 * days, series)
    return ((recent + PSEUDO_UNITS) / (earlier + PSEUDO_UNITS)).log().alias(f"{column}_growth_{days}d")


def same_window_last_year(column: str, days: int, *, series: Sequence[str] = SERIES) -> pl.Expr:
    """`units_last_year_28d`: mean of the days that *follow* the same date of last year (52 weeks before), so what the coming ones then were.

    Null unless the series was on sale the whole window; `days` may be at most 364.
    """
    following = _moved(moving_average(column, days, series=series), YEAR_DAYS - days, series)
    return _if_whole(following, column, YEAR_DAYS, series).alias(f"{column}_last_year_{days}d")


def year_over_year(column: str, days: int, *, series: Sequence[str] = SERIES) -> pl.Expr:
    """`units_yoy_28d`: log ratio of the mean of the days before to that of the same days one year (52 weeks) earlier."""
    recent = moving_average(column, days, series=series)
    earlier = _if_whole(_moved(recent, YEAR_DAYS, series), column, YEAR_DAYS + days, series)
    return ((recent + PSEUDO_UNITS) / (earlier + PSEUDO_UNITS)).log().alias(f"{column}_yoy_{days}d")


def trend(column: str, days: int, *, series: Sequence[str] = SERIES) -> pl.Expr:
    """`units_trend_91d`: slope of the least-squares line through the days before, in units per period per day; null below two periods."""
    value = pl.col(column)
    day = (pl.col(c.DATE) - pl.col(c.DATE).min()).dt.total_days().cast(pl.Float64)

    def total(terms: pl.Expr) -> pl.Expr:
        return terms.rolling_sum_by(c.DATE, f"{days}d", closed="left")

    num, sum_day, sum_value = total(pl.when(value.is_not_null()).then(1.0)), total(day), total(value)
    slope = (num * total(day * value) - sum_day * sum_value) / (num * total(day * day) - sum_day * sum_day)
    return pl.when(num >= 2).then(slope).over(series).alias(f"{column}_trend_{days}d")


def normalised(column: str, days: int, *, series: Sequence[str] = SERIES) -> pl.Expr:
    """`units_z_91d`: the row's own value in standard deviations from the mean of the days before; reads the row's date, so it is a target, not an input."""
    spread = sliding(column, "std", days, series=series).fill_null(0.0)
    return ((pl.col(column) - moving_average(column, days, series=series)) / (spread + PSEUDO_UNITS)).alias(f"{column}_z_{days}d")


# ---- season index ---------------------------------------------------------------------------------------------------------


def season_index(
    table: pl.LazyFrame,
    item_catalogue: pl.LazyFrame | None,
    *,
    days: int = 28,
    shrinkage_units: float = 10.0,
    column: str = c.UNITS,
    series: Sequence[str] = SERIES,
) -> pl.LazyFrame:
    """The table with `units_season_index_28d`: how the coming days of last year stood against all of last year, 1.0 is average.

    Grain and order: unchanged; rows are sorted by series and date. Relative index of a series: (units of the window + k x index above) / (units expected + k),
    the posterior mean of a Poisson rate under a gamma prior worth k = `shrinkage_units`. Expected is its last 364 days times the total's window over the
    total's 364 days, so the growth of the whole shop is not taken for season. Above an item stands its category path, above a category all (1);
    a series that was not on sale the whole window takes the index above it. The column is relative index x the total's own. It is 1.0 where the log does
    not reach back. Needs level `total` in the table; items whose category is not in it are pulled to the total.
    """
    at, k = [c.REGION, c.DATE], shrinkage_units
    window = _if_whole(
        _moved(pl.col(column).rolling_sum_by(c.DATE, f"{days}d", closed="left").over(series), YEAR_DAYS - days, series), column, YEAR_DAYS, series
    )
    year = pl.col(column).rolling_sum_by(c.DATE, f"{YEAR_DAYS}d", closed="left").over(series)
    rows = table.with_columns(window.alias("_window"), year.alias("_year"))
    total = rows.filter((pl.col(c.LEVEL) == c.TOTAL) & pl.col("_window").is_not_null() & (pl.col("_year") > 0)).select(
        *at, (pl.col("_window") / pl.col("_year")).alias("_rate")
    )
    rows = rows.join(total, on=at, how="left", maintain_order="left")

    def relative(above: pl.Expr) -> pl.Expr:
        return pl.coalesce((pl.col("_window") + k * above) / (pl.col("_rate") * pl.col("_year") + k), above)

    categories = rows.filter(pl.col(c.LEVEL) == c.CATEGORY).select(pl.col(c.ID).alias("_path"), *at, relative(pl.lit(1.0)).alias("_above"))
    if item_catalogue is None:
        rows = rows.with_columns(pl.lit(None, dtype=pl.String).alias("_path"))
    else:
        leaves = item_catalogue.select(pl.lit(c.ITEM).alias(c.LEVEL), pl.col(c.ITEM_ID).alias(c.ID), pl.col(c.CATEGORY).alias("_path"))
        rows = rows.join(leaves, on=[c.LEVEL, c.ID], how="left", maintain_order="left")
    rows = rows.join(categories, on=["_path", *at], how="left", maintain_order="left")
    index = relative(pl.col("_above").fill_null(1.0)) * pl.col("_rate") * (YEAR_DAYS / days)
    return rows.with_columns(index.fill_null(1.0).alias(f"{column}_season_index_{days}d")).drop("_window", "_year", "_rate", "_path", "_above")


# ---- all of them ------------------------------------------------------------------------------------------------------------


def demand_feature_list(
    *, lag_days: Sequence[int] = (7, 28, 364), moving_average_days: Sequence[int] = (7, 28, 91), column: str = c.UNITS, series: Sequence[str] = SERIES
) -> list[Feature]:
    """Features of a demand row, in column order; what each reads lies strictly before the row's date."""
    return [
        *(Feature(f"{column}_lag_{days}d", lag(column, days, series=series), f"{column} exactly {days} days before", f"{days} days") for days in lag_days),
        *(
            Feature(f"{column}_ma_{days}d", moving_average(column, days, series=series), f"mean {column} per period of the {days} days before", f"{days} days")
            for days in moving_average_days
        ),
        *(
            Feature(f"{column}_{operation}_28d", sliding(column, operation, 28, series=series), f"{operation} of {column} over the 28 days before", "28 days")
            for operation in ("min", "max", "std")
        ),
        Feature(f"{column}_active_91d", active_share(column, 91, series=series), f"share of periods with {column} among the 91 days before", "91 days"),
        Feature(f"{column}_growth_28d", growth(column, 28, series=series), f"log ratio of mean {column}, 28 days before over the 28 before those", "56 days"),
        Feature(
            f"{column}_last_year_28d",
            same_window_last_year(column, 28, series=series),
            f"mean {column} of the 28 days from the same date of last year",
            "364 days",
        ),
        Feature(
            f"{column}_yoy_28d",
            year_over_year(column, 28, series=series),
            f"log ratio of mean {column}, 28 days before over the same days last year",
            "392 days",
        ),
        Feature(f"{column}_trend_91d", trend(column, 91, series=series), f"least-squares slope of {column} over the 91 days before, per day", "91 days"),
    ]


def demand_features(
    table: pl.LazyFrame,
    item_catalogue: pl.LazyFrame | None = None,
    *,
    lag_days: Sequence[int] = (7, 28, 364),
    moving_average_days: Sequence[int] = (7, 28, 91),
    shrinkage_units: float = 10.0,
    calendar: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """The demand table with every feature of `demand_feature_list`, the season index and, with a calendar, what the date itself says.

    Grain: one row per (level, id, region, date), sorted; daily and weekly series may stand side by side.
    A feature is null until its window exists. Calendar columns are those of the row's region, or of `all`.
    Source: docs/feature_catalogue.md.
    """
    numbered = table.sort(*SERIES, c.DATE).with_columns(pl.struct(SERIES).rle_id().alias("_series"))  # one number a series: grouping by three texts is slow
    features = demand_feature_list(lag_days=lag_days, moving_average_days=moving_average_days, series=("_series",))
    rows = numbered.with_columns(feature.expression.alias(feature.name) for feature in features)
    rows = season_index(rows, item_catalogue, shrinkage_units=shrinkage_units, series=("_series",)).drop("_series")
    if calendar is None:
        return rows
    own = calendar.select(c.REGION, c.DATE, c.SEASON, c.IS_HOLIDAY, "days_to_holiday", "days_since_holiday", "feast", "day_of_year", "iso_week")
    joined = rows.join(own, on=[c.REGION, c.DATE], how="left", maintain_order="left")
    everywhere = own.filter(pl.col(c.REGION) == c.ALL_REGIONS).drop(c.REGION)
    joined = joined.join(everywhere, on=c.DATE, how="left", maintain_order="left", suffix="_everywhere")
    names = [c.SEASON, c.IS_HOLIDAY, "days_to_holiday", "days_since_holiday", "feast", "day_of_year", "iso_week"]
    known = pl.col("iso_week").is_not_null()
    return joined.with_columns(pl.when(known).then(pl.col(name)).otherwise(pl.col(f"{name}_everywhere")).alias(name) for name in names).drop(
        f"{name}_everywhere" for name in names
    )
