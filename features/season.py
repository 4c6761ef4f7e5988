"""What was known at a cut-off about an item on a date: trend, last year's weeks, forecast, calendar.

`season` is arithmetic on `item_weeks`, so one stored table answers for every later request date; training and serving call this very function.
Inputs fall into two groups that are ablated and date-shifted apart: `TREND_INPUTS` depend on the cut-off alone,
`SEASON_PROPER_INPUTS` are every look-up by the request date.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from math import cos, pi, sin

import polars as pl

from contracts import columns as c
from features.feature import Feature, float32, names
from features.time_splits import last_year_window, lead_days, made_by

LAST_YEAR_PAD_DAYS = 14
YEAR_WEEKS = 52
SHRINKAGE = 10.0
MAX_HOLIDAY_DISTANCE_DAYS = 60
# The same for all items of a sample: with one turn of the year they tell the cut-offs of training apart and a network learns those by heart
# (Complete Journey, one year: again at a lead of 28 days 15 % lower with harmonics, 0.7 % without).
CALENDAR_WEEKS_NEEDED = 2 * 52
_ITEM = [c.ITEM_ID, c.REGION]
_LEAF, _PARENT = "category_leaf", "category_parent"
_FORECAST_COLUMNS = ("forecast_lift", "forecast_known", "category_forecast_lift")
_OF_ITEM, _OF_CATEGORY = "item_weeks of the item", "item_weeks of the category"


# ---- counts: one row per (item, region) ---------------------------------------------------------------------------------


def week_overlap(first_day_ago: float, last_day_ago: float) -> pl.Expr:
    """Share of each weeks_ago bucket, [7 w, 7 w + 7) days before the cut-off, that a window covers; first > last, both in days before the cut-off."""
    start = 7.0 * pl.col(c.WEEKS_AGO)
    covered = pl.min_horizontal(start + 7, pl.lit(float(first_day_ago))) - pl.max_horizontal(start, pl.lit(float(last_day_ago)))
    return covered.clip(lower_bound=0) / 7


def _trailing(column: str, num_weeks: int, skip: int = 0) -> pl.Expr:
    return (pl.col(column) * pl.col(c.WEEKS_AGO).is_between(skip, skip + num_weeks - 1)).sum().cast(pl.Float64)


def _counts(item_weeks: pl.LazyFrame, last_year: tuple[int, int]) -> pl.LazyFrame:
    """Sums over weeks that the inputs are made of. Grain: one row per (item_id, region) with a sale."""
    return item_weeks.group_by(_ITEM).agg(
        *(_trailing(c.LAST_BUYERS, weeks).alias(f"distinct_{weeks}w") for weeks in (1, 4, 13, YEAR_WEEKS)),
        *(_trailing(c.FIRST_BUYERS, weeks).alias(f"new_{weeks}w") for weeks in (4, 13)),
        pl.col(c.FIRST_BUYERS).sum().cast(pl.Float64).alias("ever"),
        _trailing(c.BUYERS, 4).alias("buyers_4w"),
        _trailing(c.BUYERS, 4, skip=4).alias("buyers_before_4w"),
        _trailing(c.BUYERS, YEAR_WEEKS).alias("buyers_52w"),
        _trailing(c.BUYERS, 4, skip=YEAR_WEEKS).alias("buyers_year_ago_4w"),
        _trailing(c.UNITS, YEAR_WEEKS).alias("units_52w"),
        (pl.col(c.BUYERS) * week_overlap(*last_year)).sum().alias("last_year"),
        pl.col(c.WEEKS_AGO).max().alias("first_week"),
        pl.col(c.WEEKS_AGO).min().alias("last_week"),
    )


def _grid(item_weeks: pl.LazyFrame, vocabulary: pl.DataFrame | None) -> pl.LazyFrame:
    """Rows to fill: every item of the vocabulary (or with a sale) in every region, with what is constant in a region."""
    of_region = item_weeks.group_by(c.REGION).agg(pl.col(c.USERS).max().cast(pl.Float64), pl.col(c.WEEKS_AGO).max().alias("log_weeks"))
    if vocabulary is None:
        items = item_weeks.select(c.ITEM_ID).unique().sort(c.ITEM_ID).with_columns(pl.lit(None, dtype=pl.Int32).alias(c.ITEM_INDEX))
    else:
        items = vocabulary.lazy().select(c.ITEM_ID, c.ITEM_INDEX).sort(c.ITEM_INDEX)
    return of_region.sort(c.REGION).join(items, how="cross", maintain_order="left_right")


def _with_categories(grid: pl.LazyFrame, item_catalogue: pl.LazyFrame | None) -> pl.LazyFrame:
    """Leaf and parent of each item's category path; a path of one step is its own parent, items without one share the empty path."""
    if item_catalogue is None:
        return grid.with_columns(pl.lit("").alias(_LEAF), pl.lit("").alias(_PARENT))
    steps = pl.col(c.CATEGORY).str.split(c.CATEGORY_SEPARATOR)
    parent = pl.when(steps.list.len() > 1).then(steps.list.head(steps.list.len() - 1).list.join(c.CATEGORY_SEPARATOR)).otherwise(pl.col(c.CATEGORY))
    categories = item_catalogue.select(c.ITEM_ID, pl.col(c.CATEGORY).alias(_LEAF), parent.alias(_PARENT))
    return grid.join(categories, on=c.ITEM_ID, how="left", maintain_order="left").with_columns(pl.col(_LEAF, _PARENT).fill_null(""))


# ---- forms -----------------------------------------------------------------------------------------------------------


def log_lift(weeks: pl.Expr, year: pl.Expr, *, over: Sequence[str] = (c.REGION,), num: pl.Expr | None = None, shrinkage: float = SHRINKAGE) -> pl.Expr:
    """Log of a part's share in some weeks over its share in the year, shrunk as if the average part had `shrinkage` more buyers.

    The sums run over the rows of a region; `num` is the number of parts (items), by default those with a buyer in the log.
    """
    parts = num if num is not None else (pl.col("ever") > 0).sum().over(over)
    share = (year + 0.5) / (year.sum().over(over) + 0.5 * parts)
    pseudo = shrinkage * parts
    return ((weeks + pseudo * share) / (weeks.sum().over(over) + pseudo)).log() - share.log()


def _category_log_lift(weeks: pl.Expr, year: pl.Expr, category: str, shrinkage: float) -> pl.Expr:
    """`log_lift` of the item's category among the categories of its region."""
    of = [c.REGION, category]
    parts = pl.col(category).n_unique().over(c.REGION)
    share = (year.sum().over(of) + 0.5) / (year.sum().over(c.REGION) + 0.5 * parts)
    pseudo = shrinkage * parts
    return ((weeks.sum().over(of) + pseudo * share) / (weeks.sum().over(c.REGION) + pseudo)).log() - share.log()


def _shrunk_index(weeks: pl.Expr, year: pl.Expr, existed: pl.Expr, shrinkage: float) -> pl.Expr:
    """Log season index, item pulled to its category's leaf, leaf to parent, parent to all (which is 1); an item that did not exist takes its leaf's.

    Expected count of a part: its year's count times all weeks' count over all year's. Index: (count + k x index above) / (expected + k),
    the posterior mean of a Poisson rate under a gamma prior worth k buyers.
    """
    rate = weeks.sum().over(c.REGION) / pl.max_horizontal(year.sum().over(c.REGION), 1.0)
    index: pl.Expr = pl.lit(1.0)
    for of in ([c.REGION, _PARENT], [c.REGION, _PARENT, _LEAF]):
        index = (weeks.sum().over(of) + shrinkage * index) / (rate * year.sum().over(of) + shrinkage)
    return pl.when(existed).then((weeks + shrinkage * index) / (rate * year + shrinkage)).otherwise(index).log()


# ---- inputs ------------------------------------------------------------------------------------------------------------


def trend_features(shrinkage: float = SHRINKAGE) -> list[Feature]:
    """Inputs that depend on the cut-off alone. Constants shift usual values to around zero."""
    distinct = {weeks: pl.col(f"distinct_{weeks}w") for weeks in (1, 4, 13, YEAR_WEEKS)}
    year, users = distinct[YEAR_WEEKS], pl.col(c.USERS)

    def level(count: pl.Expr) -> pl.Expr:
        return ((count + 0.3) / users).log() + 5

    return [
        *(
            Feature(
                f"trend_lift_{weeks}w",
                log_lift(distinct[weeks], year, shrinkage=shrinkage),
                f"log lift of distinct buyers, last {weeks} weeks over last 52",
                _OF_ITEM,
            )
            for weeks in (1, 4, 13)
        ),
        *(
            Feature(f"trend_log_level_{weeks}w", level(distinct[weeks]), f"log of (distinct buyers of the last {weeks} weeks + 0.3) / users, + 5", _OF_ITEM)
            for weeks in (1, 4, 13, YEAR_WEEKS)
        ),
        *(
            Feature(
                f"trend_log_new_buyers_{weeks}w",
                level(pl.col(f"new_{weeks}w")),
                f"log of (first-time buyers of the last {weeks} weeks + 0.3) / users, + 5",
                _OF_ITEM,
            )
            for weeks in (4, 13)
        ),
        Feature(
            "trend_log_new_hazard_4w",
            ((pl.col("new_4w") + 0.3) / pl.max_horizontal(users - pl.col("ever"), 1.0)).log() + 5,
            "log of (first-time buyers of the last 4 weeks + 0.3) / users who never had it, + 5",
            _OF_ITEM,
        ),
        Feature(
            "trend_lift_4w_over_8w",
            log_lift(pl.col("buyers_4w"), pl.col("buyers_4w") + pl.col("buyers_before_4w"), shrinkage=shrinkage / 2),
            "log lift of buyer-weeks, last 4 weeks over last 8",
            _OF_ITEM,
        ),
        Feature("trend_log_age", (7.0 * pl.col("first_week")).log1p() - 4, "log of (days since the first week with a sale + 1) - 4", _OF_ITEM),
        Feature(
            "trend_log_days_since_sale",
            (7.0 * pl.col("last_week")).clip(upper_bound=400).log1p() - 2,
            "log of (days since the last week with a sale, at most 400, + 1) - 2",
            _OF_ITEM,
        ),
        Feature(
            "trend_category_lift_4w",
            _category_log_lift(distinct[4], year, _LEAF, shrinkage),
            "log lift of the category path, last 4 weeks over last 52",
            _OF_CATEGORY,
        ),
        Feature(
            "trend_parent_category_lift_4w",
            _category_log_lift(distinct[4], year, _PARENT, shrinkage),
            "the same one step up the path",
            _OF_CATEGORY,
        ),
    ]


def season_proper_features(cutoff: date, request_date: date, *, horizon_days: int = 28, shrinkage: float = SHRINKAGE) -> list[Feature]:
    """Inputs that look something up by the request date; those about last year are 0 where the log does not reach back."""
    lead = lead_days(cutoff, request_date)
    weeks_back = last_year_window(lead, horizon_days)[0] / 7
    known = pl.col("log_weeks") + 1 >= weeks_back
    last_year, year = pl.col("last_year"), pl.col("buyers_52w")
    year_before = pl.col("buyers_year_ago_4w")
    year_before_known = pl.col("log_weeks") + 1 >= YEAR_WEEKS + 4
    existed = (pl.col("ever") > 0) & (pl.col("first_week") + 1 >= weeks_back)
    window = f"request window moved back by 52 weeks, {LAST_YEAR_PAD_DAYS} days either side"
    two_years = pl.col("log_weeks") + 1 >= CALENDAR_WEEKS_NEEDED
    middle = request_date + timedelta(days=horizon_days // 2)
    angle = 2 * pi * middle.timetuple().tm_yday / 365.25

    def if_known(value: pl.Expr, condition: pl.Expr = known) -> pl.Expr:
        return pl.when(condition).then(value).otherwise(0.0)

    return [
        Feature(
            "season_last_year_lift",
            if_known(log_lift(last_year, year, shrinkage=shrinkage)),
            f"log lift of buyer-weeks, {window}, over the last 52 weeks",
            _OF_ITEM,
        ),
        Feature(
            "season_last_year_change",
            if_known(log_lift(last_year, last_year + year_before, shrinkage=shrinkage / 2), known & year_before_known),
            "log lift of that window over itself and the 4 weeks before last year's cut-off",
            _OF_ITEM,
        ),
        Feature(
            "season_last_year_log_level",
            if_known(((last_year + 0.3) / pl.col(c.USERS)).log() + 5),
            "log of (buyer-weeks of that window + 0.3) / users, + 5",
            _OF_ITEM,
        ),
        Feature(
            "season_index",
            if_known(_shrunk_index(last_year, year, existed, shrinkage)),
            "log season index of that window, item shrunk to category to parent to all",
            f"{_OF_ITEM}; {_OF_CATEGORY}",
        ),
        Feature("season_last_year_known", known.cast(pl.Float64), "1 where the log reaches back to that window", "first week of the log"),
        Feature("season_existed_last_year", if_known(existed.cast(pl.Float64)), "1 where the item had a sale before that window began", _OF_ITEM),
        Feature(
            "season_category_last_year_lift",
            if_known(_category_log_lift(last_year, year, _LEAF, shrinkage)),
            "log lift of the category path in that window",
            _OF_CATEGORY,
        ),
        Feature(
            "season_parent_category_last_year_lift",
            if_known(_category_log_lift(last_year, year, _PARENT, shrinkage)),
            "the same one step up the path",
            _OF_CATEGORY,
        ),
        Feature(
            "season_forecast_lift",
            pl.col("forecast_lift"),
            "log of (forecast units of the window + k) / (units of the last 52 weeks at that length + k); 0 without a forecast",
            "forecast made at or before the cut-off",
        ),
        Feature("season_forecast_known", pl.col("forecast_known"), "1 where the item has a forecast of its own", "forecast made at or before the cut-off"),
        Feature(
            "season_category_forecast_lift",
            pl.col("category_forecast_lift"),
            "the same for the deepest forecast category of its path",
            "forecast made at or before the cut-off",
        ),
        *(
            Feature(
                f"season_{wave}_{order}",
                if_known(pl.lit(value), two_years),
                f"{wave} of {order} cycles a year at the middle of the window; 0 where the log is shorter than two years",
                "-",
            )
            for order in (1, 2)
            for wave, value in (("sin", sin(order * angle)), ("cos", cos(order * angle)))
        ),
        Feature(
            "season_log_days_to_holiday",
            if_known(pl.col("days_to_holiday").log1p() - 3, two_years),
            f"log of (days from the request to the next holiday, at most {MAX_HOLIDAY_DISTANCE_DAYS}, + 1) - 3; 0 where the log is shorter than two years",
            "calendar",
        ),
        Feature(
            "season_holidays_in_window",
            if_known(pl.col("holidays_in_window"), two_years),
            "holidays in the window; 0 where the log is shorter than two years",
            "calendar",
        ),
        Feature("season_lead", pl.lit(lead / 84), "days from cut-off to request, over 84", "-"),
    ]


TREND_INPUTS = names(trend_features())
SEASON_PROPER_INPUTS = names(season_proper_features(date(1970, 1, 1), date(1970, 1, 1)))
SEASON_INPUTS = TREND_INPUTS + SEASON_PROPER_INPUTS


# ---- forecasts and calendar at the request date ------------------------------------------------------------------------


def _forecast_units(forecasts: pl.LazyFrame, *, cutoff: date, request_date: date, horizon_days: int) -> pl.LazyFrame:
    """Units forecast for the window, from the newest forecast made at or before the cut-off.

    Grain: one row per (level, id, region). Several models of a series are averaged. Series whose forecast covers less than half the window are left out.
    """
    period = ((pl.col(c.DATE).max() - pl.col(c.DATE).min()).dt.total_days() / (pl.col(c.DATE).n_unique() - 1)).over(c.LEVEL)
    first = (pl.col(c.DATE) - pl.lit(request_date)).dt.total_days()
    covered = (pl.min_horizontal(first + pl.col("period"), pl.lit(float(horizon_days))) - pl.max_horizontal(first, pl.lit(0))).clip(lower_bound=0)
    return (
        forecasts.filter(pl.col(c.CUTOFF) <= cutoff)
        .filter(pl.col(c.CUTOFF) == pl.col(c.CUTOFF).max())
        .group_by(c.LEVEL, c.ID, c.REGION, c.DATE)
        .agg(pl.col(c.MEAN).mean())
        .with_columns(period.fill_nan(7.0).alias("period"))
        .group_by(c.LEVEL, c.ID, c.REGION)
        .agg((pl.col(c.MEAN) * covered / pl.col("period")).sum().alias("forecast"), (covered.sum() / horizon_days).alias("covered"))
        .filter(pl.col("covered") >= 0.5)
        .select(c.LEVEL, c.ID, c.REGION, (pl.col("forecast") / pl.col("covered")).clip(lower_bound=0).alias("forecast"))
    )


def _with_forecasts(
    grid: pl.LazyFrame, forecasts: pl.LazyFrame | None, *, cutoff: date, request_date: date, horizon_days: int, shrinkage: float
) -> pl.LazyFrame:
    """Forecast columns beside the grid: of the item, and of the deepest category on its path that has a forecast; 0 without one for the row's region."""
    if forecasts is None:
        return grid.with_columns(pl.lit(0.0).alias(name) for name in _FORECAST_COLUMNS)
    units = _forecast_units(forecasts, cutoff=cutoff, request_date=request_date, horizon_days=horizon_days)
    window_weeks = horizon_days / 7

    def lift(usual: pl.Expr) -> pl.Expr:
        return ((pl.col("forecast") + shrinkage) / (usual * window_weeks + shrinkage)).log()

    known_weeks = pl.min_horizontal(pl.col("log_weeks") + 1, YEAR_WEEKS)
    item_weeks_alive = pl.min_horizontal(pl.col("first_week") + 1, YEAR_WEEKS)
    of_items = units.filter(pl.col(c.LEVEL) == c.ITEM).select(pl.col(c.ID).alias(c.ITEM_ID), c.REGION, "forecast")
    item_lifts = (
        grid.join(of_items, on=_ITEM, how="inner")
        .filter(pl.col("ever") > 0)
        .select(*_ITEM, lift(pl.col("units_52w") / item_weeks_alive).alias("forecast_lift"), pl.lit(1.0).alias("forecast_known"))
    )
    steps = pl.col(_LEAF).str.split(c.CATEGORY_SEPARATOR)
    path = (
        grid.select(_LEAF)
        .unique()
        .with_columns(pl.int_ranges(1, steps.list.len() + 1).alias("depth"))
        .explode("depth")
        .with_columns(steps.list.head(pl.col("depth")).list.join(c.CATEGORY_SEPARATOR).alias(c.ID))
    )
    usual = grid.group_by(_LEAF, c.REGION).agg(pl.col("units_52w").sum(), known_weeks.first().alias("weeks")).join(path, on=_LEAF)
    of_categories = (
        usual.group_by(c.ID, c.REGION)
        .agg(pl.col("units_52w").sum(), pl.col("weeks").first())
        .join(units.filter(pl.col(c.LEVEL) == c.CATEGORY).select(c.ID, c.REGION, "forecast"), on=[c.ID, c.REGION])
        .select(c.ID, c.REGION, lift(pl.col("units_52w") / pl.col("weeks")).alias("category_forecast_lift"))
    )
    category_lifts = path.join(of_categories, on=c.ID).sort("depth").group_by(_LEAF, c.REGION).agg(pl.col("category_forecast_lift").last())
    joined = grid.join(item_lifts, on=_ITEM, how="left", maintain_order="left").join(category_lifts, on=[_LEAF, c.REGION], how="left", maintain_order="left")
    return joined.with_columns(pl.col(_FORECAST_COLUMNS).fill_null(0.0))


def _with_holidays(grid: pl.LazyFrame, calendar: pl.LazyFrame | None, *, request_date: date, horizon_days: int) -> pl.LazyFrame:
    """Days from the request to the next holiday of the row's region, and holidays in the window; far and none without a calendar."""
    far = float(MAX_HOLIDAY_DISTANCE_DAYS)
    if calendar is None:
        return grid.with_columns(pl.lit(far).alias("days_to_holiday"), pl.lit(0.0).alias("holidays_in_window"))
    days = (pl.col(c.DATE) - pl.lit(request_date)).dt.total_days()
    coming = calendar.filter(pl.col(c.IS_HOLIDAY) & days.is_between(0, max(MAX_HOLIDAY_DISTANCE_DAYS, horizon_days)))
    of_region = coming.group_by(c.REGION).agg(
        days.min().clip(upper_bound=MAX_HOLIDAY_DISTANCE_DAYS).cast(pl.Float64).alias("days_to_holiday"),
        (days < horizon_days).sum().cast(pl.Float64).alias("holidays_in_window"),
    )
    joined = grid.join(of_region, on=c.REGION, how="left", maintain_order="left")
    return joined.with_columns(pl.col("days_to_holiday").fill_null(far), pl.col("holidays_in_window").fill_null(0.0))


# ---- the table -----------------------------------------------------------------------------------------------------------


def season(
    item_weeks: pl.LazyFrame,
    item_catalogue: pl.LazyFrame | None = None,
    *,
    cutoff: date,
    request_date: date,
    horizon_days: int = 28,
    vocabulary: pl.DataFrame | None = None,
    forecasts: pl.LazyFrame | None = None,
    calendar: pl.LazyFrame | None = None,
    shrinkage: float = SHRINKAGE,
    regions: Sequence[str] | None = None,
) -> pl.LazyFrame:
    """Network inputs of every item for the window `[request_date, request_date + horizon)`, as known at the cut-off.

    Grain: one row per (region, item_id), in the order of region and item_index; every item of the vocabulary, sold or not.
    Columns: item_id, region, item_index (null without a vocabulary), then `SEASON_INPUTS` in order (Float32, never null).

    Parameters
    ----------
    item_weeks
        `features.item_weeks.item_weeks` made at this cut-off (or before it).
    item_catalogue
        item_id and category path; without it all items share one category.
    forecasts
        Forecasts of any cut-offs; the newest made at or before this one is read.
    calendar
        `features.calendar.calendar`, whose dates hold the request and the 60 days after it.
    shrinkage
        Buyers (and units) that pull an item's lift to no change, and its season index to its category's.
    regions
        Regions wanted; all those of item_weeks otherwise.

    Raises FeatureLeakageError for a request date before the cut-off, or (at collect) for item_weeks made at a later one.
    """
    lead = lead_days(cutoff, request_date)
    item_weeks = made_by(item_weeks, cutoff, name="item_weeks")
    if regions is not None:
        item_weeks = item_weeks.filter(pl.col(c.REGION).is_in(list(regions)))
    counts = _counts(item_weeks, last_year_window(lead, horizon_days, LAST_YEAR_PAD_DAYS))
    grid = _grid(item_weeks, vocabulary).join(counts, on=_ITEM, how="left", maintain_order="left")
    never_sold = {"first_week": pl.lit(0), "last_week": pl.col("log_weeks") + 1}
    grid = grid.with_columns(pl.exclude(*_ITEM, c.ITEM_INDEX, *never_sold).fill_null(0), *(pl.col(name).fill_null(value) for name, value in never_sold.items()))
    grid = _with_categories(grid, item_catalogue)
    grid = _with_forecasts(grid, forecasts, cutoff=cutoff, request_date=request_date, horizon_days=horizon_days, shrinkage=shrinkage)
    grid = _with_holidays(grid, calendar, request_date=request_date, horizon_days=horizon_days)
    features = trend_features(shrinkage) + season_proper_features(cutoff, request_date, horizon_days=horizon_days, shrinkage=shrinkage)
    return grid.select(c.ITEM_ID, c.REGION, c.ITEM_INDEX, *float32(features))
