"""Raw columns of a source -> the columns of `interactions`, with the rule each unusable row breaks.

Works on one batch in memory. No row is dropped here: a row that cannot be used carries `rule` (its name) and `found` (the source's own word),
and the ingest sets it aside. What is wrong with a whole column (missing, of the wrong type, read in the wrong unit) is a SourceError.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from contracts import columns as c
from contracts.errors import SourceError
from contracts.sections.source import EVENT_TYPES, CatalogueMapping, SourceConfig
from contracts.tables import INTERACTIONS, ITEM_CATALOGUE, TIMESTAMP
from sources.readers import ROW, reading, require_columns

FOUND: Final = "found"
IS_MAPPED: Final = pl.col(c.RULE).is_null()
MICROSECONDS: Final[Mapping[str, float]] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
PLAUSIBLE_YEARS: Final = (1980, 2200)  # of the middle row; single rows outside are the validation's business
STORED_TIMES: Final = (dt.datetime(1800, 1, 1, tzinfo=dt.UTC), dt.datetime(2250, 1, 1, tzinfo=dt.UTC))  # nanosecond tools fail beyond

_NUMBERS: Final = (c.QUANTITY, c.PRICE, c.VALUE)
_TEXTS: Final = (c.BASKET_ID, c.PLATFORM, c.REGION)
_MAPPED: Final = "mapped."  # prefix of columns under construction: a source may have columns of our names with other meanings


def wanted_columns(source: SourceConfig, found: Sequence[str]) -> dict[str, str]:
    """Column of ours -> column of the source, for those the mapping names; without a user id where the source has no users and no such column."""
    wanted = {ours: theirs for ours, theirs in source.columns.model_dump().items() if theirs is not None}
    if not source.has_users and wanted[c.USER_ID] not in found:
        del wanted[c.USER_ID]
    return wanted


def map_events(
    raw: pl.DataFrame,
    source: SourceConfig,
    *,
    where: str,
    key: str,
    rules: Mapping[str, pl.Expr] | None = None,
    hash_key: bytes | None = None,
) -> pl.DataFrame:
    """Columns of `interactions` for a batch of raw rows.

    Grain: one row per raw row, same order. Adds `source_file`, `source_row` (from 1), `rule` and `found` (null for usable rows). Without a natural
    `event_id` it is the first 12 digits of `key`, a dash and the row: the same content gives the same ids.

    Parameters
    ----------
    where
        Name of the file, for `source_file` and messages.
    key
        Digest of the file's content (`SourceFile.key`).
    rules
        Name -> raw rows to set aside, checked before everything else.
    hash_key
        Key of the user ids' hash; None leaves them as they are.

    A source without users (`has_users` off) may have no column of them: user ids are null then, which is no fault.

    Raises SourceError: a column is missing or of a type that cannot hold what it should.
    """
    wanted = wanted_columns(source, raw.columns)
    require_columns(raw.columns, {f"source.columns.{ours}": theirs for ours, theirs in wanted.items()}, where=where)
    _check_types(raw, wanted, where)
    times = event_times(raw[wanted[c.EVENT_TIME]], zone=source.time_zone, unit=source.time_unit, pattern=source.time_format)
    mapped: dict[str, pl.Expr | pl.Series] = {
        c.EVENT_ID: _identifier(raw, wanted[c.EVENT_ID]) if c.EVENT_ID in wanted else pl.format("{}-{}", pl.lit(key[:12]), pl.col(ROW)),
        c.USER_ID: _identifier(raw, wanted[c.USER_ID]) if c.USER_ID in wanted else pl.lit(None, pl.String),
        c.ITEM_ID: _identifier(raw, wanted[c.ITEM_ID]),
        c.EVENT_TIME: times,
        c.EVENT_TYPE: _event_type(raw, wanted.get(c.EVENT_TYPE), source),
        **{name: _number(wanted[name]) if name in wanted else pl.lit(None, pl.Float64) for name in _NUMBERS},
        **{name: _identifier(raw, wanted[name]) if name in wanted else pl.lit(None, pl.String) for name in _TEXTS},
        c.SOURCE_FILE: pl.lit(where),
        c.SOURCE_ROW: pl.col(ROW).cast(pl.Int64),
    }
    built = raw.with_columns(expression.alias(_MAPPED + name) for name, expression in mapped.items())
    faults = _faults(raw, wanted, rules or {}, has_users=source.has_users)
    broken = pl.coalesce(*(pl.when(is_broken).then(pl.lit(rule)) for rule, is_broken, _ in faults), pl.lit(None, pl.String))
    built = built.with_columns(broken.alias(_MAPPED + c.RULE))
    words = [pl.when(pl.col(_MAPPED + c.RULE) == rule).then(found) for rule, _, found in faults if found is not None]
    events = built.select(*(pl.col(_MAPPED + name).alias(name) for name in (*mapped, c.RULE)), pl.coalesce(*words, pl.lit(None, pl.String)).alias(FOUND))
    events = events.with_columns(pl.col(c.QUANTITY).fill_null(1.0))
    return events.with_columns(hash_ids(events[c.USER_ID], hash_key)) if hash_key is not None else events


def _faults(raw: pl.DataFrame, wanted: Mapping[str, str], rules: Mapping[str, pl.Expr], *, has_users: bool) -> list[tuple[str, pl.Expr, pl.Expr | None]]:
    """(rule, rows that break it, the source's word), in the order in which they are named."""
    built = {name: pl.col(_MAPPED + name) for name in INTERACTIONS.schema}
    first = [(name, broken, None) for name, broken in rules.items()]
    nulls = [(f"{name}_null", built[name].is_null(), None) for name in (c.EVENT_ID, *([c.USER_ID] if has_users else []), c.ITEM_ID)]
    time_word = pl.col(wanted[c.EVENT_TIME])
    times = [
        (f"{c.EVENT_TIME}_null", time_word.is_null(), None),
        (f"{c.EVENT_TIME}_unreadable", built[c.EVENT_TIME].is_null(), _word(raw, wanted[c.EVENT_TIME])),
        (f"{c.EVENT_TIME}_out_of_range", ~built[c.EVENT_TIME].is_between(*STORED_TIMES), _word(raw, wanted[c.EVENT_TIME])),
    ]
    kinds = [(f"unknown_{c.EVENT_TYPE}", built[c.EVENT_TYPE].is_null(), _word(raw, wanted[c.EVENT_TYPE]))] if c.EVENT_TYPE in wanted else []
    numbers = [
        (f"{name}_unreadable", pl.col(wanted[name]).is_not_null() & built[name].is_null() & _is_text(raw, wanted[name]), _word(raw, wanted[name]))
        for name in _NUMBERS
        if name in wanted
    ]
    return [*first, *nulls, *times, *kinds, *numbers]


def _word(raw: pl.DataFrame, column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String, strict=False)


def _is_text(raw: pl.DataFrame, column: str) -> pl.Expr:
    return pl.lit(raw.schema[column] == pl.String)


def _check_types(raw: pl.DataFrame, wanted: Mapping[str, str], where: str) -> None:
    for ours, theirs in wanted.items():
        found = raw.schema[theirs]
        if found == pl.Null:
            continue
        if ours == c.EVENT_TIME:
            fits, expected = (
                (found.is_temporal() and found not in {pl.Time, pl.Duration}) or found.is_numeric() or found == pl.String,
                "a timestamp, a date, an integer epoch or a text",
            )
        elif ours in _NUMBERS:
            fits, expected = found.is_numeric() or found in {pl.String, pl.Boolean}, "a number"
        else:
            fits, expected = found.is_integer() or found.is_float() or found in {pl.String, pl.Categorical, pl.Enum}, "a text or an integer"
        if not fits:
            advice = f"Point `source.columns.{ours}` at another column or convert it in the source"
            raise SourceError(f"{where}: column `{theirs}` ({ours}): expected {expected}, found {found}. {advice}.")


def _identifier(raw: pl.DataFrame, column: str) -> pl.Expr:
    """Id as text; blank is null; a float without fraction (an integer column with gaps, as pandas writes it) loses its `.0`."""
    value = pl.col(column)
    if raw.schema[column].is_float():
        whole = value.cast(pl.Int64, strict=False)
        return pl.when(value.is_finite()).then(pl.when(whole.cast(pl.Float64) == value).then(whole.cast(pl.String)).otherwise(value.cast(pl.String)))
    text = value.cast(pl.String)
    return pl.when(text.str.strip_chars() != "").then(text) if raw.schema[column] == pl.String else text


def _number(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Float64, strict=False).fill_nan(None)


def _event_type(raw: pl.DataFrame, column: str | None, source: SourceConfig) -> pl.Expr:
    """Event type in our words; null where the source's word is unknown. Without a column, `default_event_type`."""
    if column is None:
        return pl.lit(source.default_event_type)
    words = {name: name for name in EVENT_TYPES} | dict(source.event_types)
    return pl.col(column).cast(pl.String).replace_strict(words, default=None, return_dtype=pl.String)


def event_times(values: pl.Series, *, zone: str, unit: str, pattern: str | None = None) -> pl.Series:
    """Instants in UTC, microseconds; null where a value cannot be read.

    Timestamps and texts without a zone are read on the clocks of `zone`: a time that occurs twice (clocks set back) is the earlier one, a time
    that never occurs (clocks set forward) is null. Numbers are counted since 1970 in `unit`; so are texts of 9 digits or more. Other texts follow
    `pattern`, or ISO 8601 with or without a zone.
    """
    name = values.name
    if values.dtype == pl.String:
        read = _times_of_texts(values, zone, unit, pattern)
    elif values.dtype.is_numeric():
        read = _times_of_numbers(values, unit)
    elif values.dtype == pl.Date:
        read = _on_clocks(values.cast(pl.Datetime("us")), zone)
    elif isinstance(values.dtype, pl.Datetime):
        read = values.dt.cast_time_unit("us")
        read = read.dt.convert_time_zone("UTC") if values.dtype.time_zone else _on_clocks(read, zone)
    else:
        read = pl.Series(name, [None] * len(values), dtype=TIMESTAMP)
    return read.alias(name).cast(TIMESTAMP)


def _on_clocks(naive: pl.Series, zone: str) -> pl.Series:
    if zone == "UTC":
        return naive.dt.replace_time_zone("UTC")
    return naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")


def _times_of_numbers(values: pl.Series, unit: str) -> pl.Series:
    factor = MICROSECONDS[unit]
    if values.dtype.is_integer() and factor >= 1:
        largest = int((2**63 - 1) / factor)
        scaled = values.cast(pl.Int64, strict=False).to_frame().select(pl.when(pl.first().abs() < largest).then(pl.first() * int(factor))).to_series()
    elif values.dtype.is_integer():
        scaled = values.cast(pl.Int64, strict=False) // 1000
    else:
        scaled = (values.cast(pl.Float64) * factor).round().cast(pl.Int64, strict=False)
    return scaled.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _times_of_texts(values: pl.Series, zone: str, unit: str, pattern: str | None) -> pl.Series:
    if pattern is not None:
        if "%z" in pattern or "%Z" in pattern or "%:z" in pattern:
            return values.str.to_datetime(pattern, time_unit="us", time_zone="UTC", strict=False)
        return _on_clocks(_naive(values, pattern), zone)
    text = values.str.strip_chars()
    digits = text.str.contains(r"^-?\d{9,19}$")
    if digits.all() and len(text) > text.null_count():
        return _times_of_numbers(text.cast(pl.Int64, strict=False), unit)
    read = _iso_times(text, zone)
    if digits.any():
        numbers = _times_of_numbers(text.to_frame().select(pl.when(digits).then(pl.first())).to_series().cast(pl.Int64, strict=False), unit)
        read = read.zip_with(~digits.fill_null(value=False), numbers)
    return read


def _naive(values: pl.Series, pattern: str) -> pl.Series:
    """Local times of a pattern; a pattern of a day alone gives its midnight."""
    if not any(token in pattern for token in ("%H", "%I", "%T", "%R", "%c", "%s", "%r", "%X", "%+")):
        return values.str.to_date(pattern, strict=False).cast(pl.Datetime("us"))
    return values.str.to_datetime(pattern, time_unit="us", strict=False)


def _iso_times(text: pl.Series, zone: str) -> pl.Series:
    """ISO 8601: a day, or a day and a time with or without seconds, fraction and zone."""
    parts = text.to_frame("text").select(
        body=pl.col("text").str.replace(" ", "T", literal=True).str.replace(r"(?:Z|[+-]\d{2}:?\d{2})$", "", literal=False).str.strip_chars(),
        offset=pl.col("text").str.extract(r"[T ]\d{2}:?\d{2}.*?(Z|[+-]\d{2}:?\d{2})$"),
        text="text",
    )
    # A day alone ends in -05 as well: only a text with a time can carry a zone.
    body = parts.select(pl.when(pl.col("offset").is_not_null()).then(pl.col("body")).otherwise(pl.col("text").str.replace(" ", "T", literal=True))).to_series()
    naive = body.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    for other in ("%Y-%m-%dT%H:%M", "%Y-%m-%d", "%Y%m%d", "%Y%m%dT%H%M%S"):
        if naive.null_count() == body.null_count():
            break
        naive = naive.fill_null(_naive(body, other))
    offset = parts["offset"]
    if offset.null_count() == len(offset):
        return _on_clocks(naive, zone)
    minutes = _offset_minutes(offset)
    with_zone = (naive - minutes.cast(pl.Int64) * pl.Series([60_000_000]).cast(pl.Duration("us"))).dt.replace_time_zone("UTC")
    return with_zone.zip_with(offset.is_not_null(), _on_clocks(naive, zone))


def _offset_minutes(offset: pl.Series) -> pl.Series:
    hours = pl.col("offset").str.slice(1, 2).cast(pl.Int64, strict=False)
    minutes = pl.col("offset").str.slice(-2).cast(pl.Int64, strict=False)
    sign = pl.when(pl.col("offset").str.starts_with("-")).then(-1).otherwise(1)
    return offset.to_frame("offset").select(pl.when(pl.col("offset") == "Z").then(0).otherwise(sign * (hours * 60 + minutes))).to_series()


def check_time_unit(values: pl.Series, *, unit: str, where: str) -> None:
    """Raise SourceError if numbers read as `unit` lie in years nobody logs while another unit gives plausible ones.

    Seconds declared as milliseconds end up in January 1970, milliseconds declared as seconds in the year 40,000.
    """
    if values.dtype == pl.String:
        values = values.filter(values.str.contains(r"^-?\d{9,19}$")).cast(pl.Int64, strict=False)
    if not values.dtype.is_numeric():
        return
    middle = values.cast(pl.Float64).drop_nulls().drop_nans().median()
    if not isinstance(middle, float) or _is_plausible(middle, unit):
        return
    others = [other for other in MICROSECONDS if _is_plausible(middle, other)]
    if others:
        years = ", ".join(f"`{other}` gives {_year(middle, other):.0f}" for other in others)
        found = f"column `{values.name}` read as `{unit}` since 1970 lies around the year {_year(middle, unit):.0f}"
        raise SourceError(f"{where}: {found}; {years}. Set `source.time_unit: {others[0]}`.")


def _year(value: float, unit: str) -> float:
    return 1970 + value * MICROSECONDS[unit] / 1e6 / (365.2425 * 86_400) // 1


def _is_plausible(value: float, unit: str) -> bool:
    return PLAUSIBLE_YEARS[0] <= _year(value, unit) <= PLAUSIBLE_YEARS[1]


def hash_ids(ids: pl.Series, key: bytes) -> pl.Series:
    """Keyed hash (BLAKE2b, 32 hex digits) of each id; null stays null. One Python call per distinct id.

    Source: RFC 7693, keyed mode.
    """
    distinct = ids.drop_nulls().unique()
    hashes = pl.Series([hashlib.blake2b(text.encode(), key=key, digest_size=16).hexdigest() for text in distinct], dtype=pl.String)
    return ids.replace_strict(distinct, hashes, default=None, return_dtype=pl.String) if len(distinct) else ids


def hash_key(secret: str | None, *, variable: str) -> bytes:
    """Key of `hash_ids` from the secret in an environment variable.

    Raises SourceError if it is missing or shorter than 16 characters.
    """
    if secret is None or len(secret) < 16:
        found = "none" if secret is None else f"{len(secret)} characters"
        raise SourceError(
            f"source.hash_user_ids is on: expected a secret of 16 characters or more in the environment variable {variable}, found {found}. "
            "Set it, e.g. to what `openssl rand -hex 32` prints."
        )
    return hashlib.sha256(secret.encode()).digest()


def map_catalogue(raw: pl.LazyFrame, mapping: CatalogueMapping, *, time_zone: str, where: str) -> pl.DataFrame:
    """Columns of `item_catalogue` from a raw catalogue; the category path is joined by ` > `, levels without a word are left out.

    Grain: one row per item_id, the last one of the source; rows without an id are left out.
    """
    names = raw.collect_schema().names()
    category = {f"source.catalogue_columns.category[{level}]": name for level, name in enumerate(mapping.category)}
    single = {field: getattr(mapping, field) for field in (c.ITEM_ID, c.TITLE, c.TEXT, c.AVAILABLE_FROM, c.AVAILABLE_UNTIL)}
    require_columns(names, {f"source.catalogue_columns.{field}": name for field, name in single.items() if name} | category, where=where)
    with reading(where):
        table = raw.select(*dict.fromkeys([*(name for name in single.values() if name), *mapping.category])).collect()

    def instant(name: str | None) -> pl.Series | pl.Expr:
        return pl.lit(None, TIMESTAMP) if name is None else event_times(table[name], zone=time_zone, unit="s")

    def text(name: str | None) -> pl.Expr:
        return pl.lit(None, pl.String) if name is None else pl.col(name).cast(pl.String)

    return whole_catalogue(
        table.select(
            _identifier(table, mapping.item_id).alias(c.ITEM_ID),
            category_path(*(pl.col(name) for name in mapping.category)).alias(c.CATEGORY),
            text(mapping.title).alias(c.TITLE),
            text(mapping.text).alias(c.TEXT),
            instant(mapping.available_from).alias(c.AVAILABLE_FROM),
            instant(mapping.available_until).alias(c.AVAILABLE_UNTIL),
        )
    )


def category_path(*levels: pl.Expr) -> pl.Expr:
    """Levels from coarse to fine joined by ` > `; null where no level has a word."""
    if not levels:
        return pl.lit(None, pl.String)
    words = [pl.when(level.cast(pl.String).str.strip_chars() != "").then(level.cast(pl.String).str.strip_chars()) for level in levels]
    joined = pl.concat_str(words, separator=c.CATEGORY_SEPARATOR, ignore_nulls=True)
    return pl.when(joined != "").then(joined)


def whole_catalogue(items: pl.DataFrame) -> pl.DataFrame:
    """Exactly the columns of `item_catalogue`, the last row of each item_id, ordered by it."""
    have = [name for name in ITEM_CATALOGUE.schema if name in items.columns]
    missing = [pl.lit(None, kind).alias(name) for name, kind in ITEM_CATALOGUE.schema.items() if name not in items.columns]
    items = items.select(*(pl.col(name).cast(ITEM_CATALOGUE.schema[name]) for name in have), *missing).select(*ITEM_CATALOGUE.schema)
    return items.drop_nulls(c.ITEM_ID).unique(c.ITEM_ID, keep="last", maintain_order=True).sort(c.ITEM_ID)


def month_of(times: pl.Expr) -> pl.Expr:
    """`YYYY-MM` of an instant in UTC."""
    return times.dt.strftime("%Y-%m")
