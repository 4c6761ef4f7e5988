"""What is known of a date before anything is sold: its place in the year, holidays, moving feasts, seasons, pay days, school terms.

Phases come from the date, never from a row's position. `calendar` is the table, `calendar_vector` the same knowledge as numbers for a network.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from math import pi

import holidays
import numpy as np
import polars as pl
from dateutil.easter import EASTER_ORTHODOX, easter  # type: ignore[import-untyped]
from hijridate import Hijri
from lunardate import LunarDate  # type: ignore[import-untyped]
from numpy.typing import NDArray

from contracts import columns as c

YEAR_DAYS = 365.25
MAX_DISTANCE_DAYS = 400
_DAY_OF_YEAR_SHIFT = 182  # half a year: what January is to the north, July is to the south

# ISO 3166 codes of countries whose summer is around January; those astride the equator follow the hemisphere most people live in.
SOUTHERN_COUNTRIES = frozenset({
    "AO", "AR", "AS", "AU", "BI", "BO", "BR", "BW", "CC", "CD", "CG", "CK", "CL", "CX", "EC", "FJ", "FK", "GA", "GS", "ID", "KI", "KM", "LS", "MG", "MU",
    "MW", "MZ", "NA", "NC", "NR", "NU", "NZ", "PE", "PF", "PG", "PN", "PY", "RE", "RW", "SB", "SC", "SH", "SZ", "TF", "TK", "TL", "TO", "TV", "TZ", "UY",
    "VU", "WF", "WS", "YT", "ZA", "ZM", "ZW",
})  # fmt: skip

# Lakshmi Puja in India, the evening of the new moon of Kartika. The rule needs local sunset, so the dates stand as a table.
_DIWALI = {
    2009: (10, 17), 2010: (11, 5), 2011: (10, 26), 2012: (11, 13), 2013: (11, 3), 2014: (10, 23), 2015: (11, 11), 2016: (10, 30),
    2017: (10, 19), 2018: (11, 7), 2019: (10, 27), 2020: (11, 14), 2021: (11, 4), 2022: (10, 24), 2023: (11, 12), 2024: (10, 31),
    2025: (10, 20), 2026: (11, 8), 2027: (10, 29), 2028: (10, 17), 2029: (11, 5), 2030: (10, 26), 2031: (11, 14), 2032: (11, 2),
}  # fmt: skip


# ---- feasts ------------------------------------------------------------------------------------------------------------


def _nth_weekday(year: int, month: int, weekday: int, nth: int) -> date:
    """The nth (from 1) given weekday (Monday is 0) of a month."""
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))


def _hijri(year: int, month: int, day: int) -> list[date]:
    """Gregorian dates in `year` of a day of the Umm al-Qura calendar; none, one or two."""
    around = range(int((year - 622) * 33 / 32) - 1, int((year - 622) * 33 / 32) + 3)
    days = [Hijri(hijri_year, month, day).to_gregorian() for hijri_year in around if 1343 <= hijri_year <= 1500]
    return [date(found.year, found.month, found.day) for found in days if found.year == year]


def feast_dates(year: int) -> dict[str, list[date]]:
    """Feasts whose date moves or that move demand everywhere: name -> dates in this calendar year.

    Easter by its computus, Chinese New Year by the lunisolar calendar, Ramadan and the Eids by Umm al-Qura (local sightings differ by a day),
    Diwali as kept in India (2009 to 2032). Thanksgiving is the United States' one.
    """
    thanksgiving = _nth_weekday(year, 11, 3, 4)
    sunday = easter(year)
    return {
        "new_year": [date(year, 1, 1)],
        "chinese_new_year": [LunarDate(year, 1, 1).to_solar_date()] if 1900 <= year < 2100 else [],
        "valentines_day": [date(year, 2, 14)],
        "easter": [sunday],
        "orthodox_easter": [easter(year, EASTER_ORTHODOX)],
        "mothers_day_uk": [sunday - timedelta(days=21)],
        "mothers_day": [_nth_weekday(year, 5, 6, 2)],
        "ramadan": _hijri(year, 9, 1),
        "eid_al_fitr": _hijri(year, 10, 1),
        "eid_al_adha": _hijri(year, 12, 10),
        "diwali": [date(year, *_DIWALI[year])] if year in _DIWALI else [],
        "halloween": [date(year, 10, 31)],
        "singles_day": [date(year, 11, 11)],
        "thanksgiving": [thanksgiving],
        "black_friday": [thanksgiving + timedelta(days=1)],
        "christmas": [date(year, 12, 25)],
    }


FEASTS = tuple(feast_dates(2020))


def days_from_feast(name: str) -> str:
    """Column of the signed distance to a feast: `days_from_easter` is -3 three days before it."""
    return f"days_from_{name}"


def _nearest(days: NDArray[np.int64], marks: Sequence[date]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Days since the last and to the next mark, MAX_DISTANCE_DAYS where there is none; 0 on the mark."""
    at = np.sort(np.array([mark.toordinal() for mark in marks], dtype=np.int64))
    far = MAX_DISTANCE_DAYS
    padded = np.concatenate([[days.min() - far], at, [days.max() + far]])
    following = np.searchsorted(padded, days, "left")
    preceding = np.searchsorted(padded, days, "right") - 1
    return np.minimum(days - padded[preceding], far), np.minimum(padded[following] - days, far)


def _signed_distance(days: NDArray[np.int64], marks: Sequence[date]) -> NDArray[np.int64]:
    since, to = _nearest(days, marks)
    return np.where(since <= to, since, -to)


# ---- parts of the table ------------------------------------------------------------------------------------------------


def is_southern(country: str) -> bool:
    """Whether a country (ISO code, with or without subdivision: `AU-NSW`) has its summer around January."""
    return country.split("-", maxsplit=1)[0].upper() in SOUTHERN_COUNTRIES


def country_holidays(country: str, first: date, last: date) -> dict[date, str]:
    """Public holidays of a country or subdivision (`US`, `US-NY`) with their names, in English where the library has them.

    Raises ValueError for a country the holiday library does not know.
    """
    code, _, subdivision = country.upper().partition("-")
    try:
        found = holidays.country_holidays(code, subdiv=subdivision or None, years=range(first.year, last.year + 1), language="en_US")
    except NotImplementedError as error:
        raise ValueError(f"features.region_countries: expected an ISO country code such as US, GB or US-NY, found {country!r}: {error}") from error
    return {day: name for day, name in sorted(found.items()) if first <= day <= last}


def season_of(day_of_year: int, season_names: Mapping[str, tuple[int, int]], *, southern: bool = False) -> str | None:
    """Name of the part of the year a day lies in; first match wins, a part may wrap over New Year, the south is shifted by half a year.

    Examples
    --------
    >>> season_of(15, {"winter": (335, 59), "summer": (152, 243)})
    'winter'
    >>> season_of(15, {"winter": (335, 59), "summer": (152, 243)}, southern=True)
    'summer'
    """
    day = (day_of_year + _DAY_OF_YEAR_SHIFT - 1) % 365 + 1 if southern else day_of_year
    for name, (first, last) in season_names.items():
        if first <= day <= last or (first > last and (day >= first or day <= last)):
            return name
    return None


def fourier_terms(order: int, column: str = c.DATE) -> list[pl.Expr]:
    """`year_sin_k` and `year_cos_k`, k cycles in 365.25 days, anchored to 1970-01-01: equal for equal dates of any table."""
    angle = 2 * pi * pl.col(column).cast(pl.Int32) / YEAR_DAYS
    return [
        wave
        for k in range(1, order + 1)
        for wave in ((k * angle).sin().cast(pl.Float32).alias(f"year_sin_{k}"), (k * angle).cos().cast(pl.Float32).alias(f"year_cos_{k}"))
    ]


def _region_dates(table: pl.DataFrame, column: str, region: str) -> list[date]:
    of_region = table if c.REGION not in table.columns else table.filter(pl.col(c.REGION).is_null() | pl.col(c.REGION).is_in([region, c.ALL_REGIONS]))
    return [day for day in of_region[column].to_list() if day is not None]


def calendar(
    first: date,
    last: date,
    *,
    regions: Mapping[str, str],
    fourier_order: int = 4,
    season_names: Mapping[str, tuple[int, int]] | None = None,
    pay_days: pl.DataFrame | None = None,
    school_terms: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Everything a date says by itself, per region.

    Grain: one row per (region, date), both ends included, sorted.

    weekday (1 Monday .. 7), day_of_month, day_of_year, iso_week, month     Int16
    year_sin_k, year_cos_k                                                   harmonics of 365.25 days, anchored to the date
    holiday, is_holiday, days_to_holiday, days_since_holiday                 public holidays of the region's country; 0 on the day, at most 400
    days_from_<feast>                                                        signed distance to the nearest one, negative before it
    feast                                                                    name of the day's feast, null on other days
    season, is_southern                                                      named part of the year; countries of the south are shifted by half a year
    is_pay_day, days_to_pay_day, is_school_term                              from the optional tables; null without them

    Parameters
    ----------
    regions
        Region -> ISO code of the country (or country-subdivision) whose holidays it keeps, e.g. {"all": "US"}.
    season_names
        Name -> first and last day of year in the north; may wrap over New Year.
    pay_days
        Columns date and, optionally, region.
    school_terms
        Columns first_day, last_day and, optionally, region.

    Raises ValueError for an unknown country or `last` before `first`.
    """
    if last < first:
        raise ValueError(f"calendar: expected last >= first, found {first} to {last}")
    years = range(first.year - 1, last.year + 2)
    feasts = {name: [day for year in years for day in feast_dates(year)[name]] for name in FEASTS}
    dates = pl.DataFrame({c.DATE: pl.date_range(first, last, "1d", eager=True)})
    days = np.array([day.toordinal() for day in dates[c.DATE]], dtype=np.int64)
    name_of = {day: name for name in reversed(FEASTS) for day in feasts[name]}
    date_column = pl.col(c.DATE)
    common = dates.with_columns(
        date_column.dt.weekday().cast(pl.Int16).alias("weekday"),
        date_column.dt.day().cast(pl.Int16).alias("day_of_month"),
        date_column.dt.ordinal_day().cast(pl.Int16).alias("day_of_year"),
        date_column.dt.week().cast(pl.Int16).alias("iso_week"),
        date_column.dt.month().cast(pl.Int16).alias("month"),
        *fourier_terms(fourier_order),
        *(pl.Series(days_from_feast(name), _signed_distance(days, feasts[name]), dtype=pl.Int16) for name in FEASTS),
        pl.Series("feast", [name_of.get(day) for day in dates[c.DATE]], dtype=pl.String),
    )
    return pl.concat(_of_region(common, days, region, regions[region], season_names or {}, pay_days, school_terms) for region in sorted(regions))


def _of_region(
    common: pl.DataFrame,
    days: NDArray[np.int64],
    region: str,
    country: str,
    season_names: Mapping[str, tuple[int, int]],
    pay_days: pl.DataFrame | None,
    school_terms: pl.DataFrame | None,
) -> pl.DataFrame:
    first, last = common[c.DATE][0], common[c.DATE][-1]
    margin = timedelta(days=MAX_DISTANCE_DAYS)
    named = country_holidays(country, first - margin, last + margin)
    since, to = _nearest(days, list(named))
    southern = is_southern(country)
    seasons = [season_of(day, season_names, southern=southern) for day in common["day_of_year"]]
    columns: list[pl.Series | pl.Expr] = [
        pl.Series(c.REGION, [region] * len(days), dtype=pl.String),
        pl.Series("holiday", [named.get(day) for day in common[c.DATE]], dtype=pl.String),
        pl.Series(c.IS_HOLIDAY, to == 0),
        pl.Series("days_to_holiday", to, dtype=pl.Int16),
        pl.Series("days_since_holiday", since, dtype=pl.Int16),
        pl.Series(c.SEASON, seasons, dtype=pl.String),
        pl.Series("is_southern", [southern] * len(days)),
    ]
    if pay_days is not None:
        _, to_pay = _nearest(days, _region_dates(pay_days, c.DATE, region))
        columns += [pl.Series("is_pay_day", to_pay == 0), pl.Series("days_to_pay_day", to_pay, dtype=pl.Int16)]
    else:
        columns += [pl.lit(None, dtype=pl.Boolean).alias("is_pay_day"), pl.lit(None, dtype=pl.Int16).alias("days_to_pay_day")]
    if school_terms is not None:
        terms = list(zip(_region_dates(school_terms, "first_day", region), _region_dates(school_terms, "last_day", region), strict=True))
        columns.append(pl.Series("is_school_term", [any(begin <= day <= end for begin, end in terms) for day in common[c.DATE]], dtype=pl.Boolean))
    else:
        columns.append(pl.lit(None, dtype=pl.Boolean).alias("is_school_term"))
    table = common.with_columns(columns)
    return table.select(c.REGION, c.DATE, pl.exclude(c.REGION, c.DATE))


# ---- for a network ------------------------------------------------------------------------------------------------------

VECTOR_HARMONICS = 4
CALENDAR_VECTOR_SIZE = 2 * VECTOR_HARMONICS + 2 + 2 * len(FEASTS)
_FEAST_REACH_DAYS = 14  # demand for a feast builds up over about two weeks


def calendar_vector(dates: Sequence[date] | NDArray[np.datetime64] | pl.Series) -> NDArray[np.float32]:
    """Dates as small fixed vectors: `[N, CALENDAR_VECTOR_SIZE]`, every number within -1..1.

    Four harmonics of the year, one of the week, and for every feast exp(-days / 14) to the next and since the last one.
    The same for all regions; nothing is learned or looked up in data, so any date of 1925 to 2076 can be asked.
    """
    days = np.asarray(dates, dtype="datetime64[D]").astype(np.int64)
    if not len(days):
        return np.zeros((0, CALENDAR_VECTOR_SIZE), np.float32)
    yearly = 2 * pi * np.outer(days, np.arange(1, VECTOR_HARMONICS + 1)) / YEAR_DAYS
    weekly = 2 * pi * days[:, None] / 7
    ordinals = days + date(1970, 1, 1).toordinal()
    first, last = date.fromordinal(int(ordinals.min())), date.fromordinal(int(ordinals.max()))
    feasts = [feast_dates(year) for year in range(first.year - 1, last.year + 2)]
    distances = [distance for name in FEASTS for distance in _nearest(ordinals, [day for of_year in feasts for day in of_year[name]])]
    nearness = np.exp(-np.stack(distances, axis=1) / _FEAST_REACH_DAYS)
    return np.concatenate([np.sin(yearly), np.cos(yearly), np.sin(weekly), np.cos(weekly), nearness], axis=1).astype(np.float32)
