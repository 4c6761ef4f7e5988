"""Raw columns become the columns of `interactions`; what cannot be used carries the name of its rule."""

import datetime as dt
import hashlib

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import SourceError
from contracts.sections.source import CatalogueMapping, SourceConfig
from contracts.tables import INTERACTIONS, ITEM_CATALOGUE
from sources.mapping import category_path, check_time_unit, event_times, hash_ids, hash_key, map_catalogue, map_events
from sources.readers import ROW

KEY = "0123456789abcdef" * 2


def _source(**options: object) -> SourceConfig:
    return SourceConfig.model_validate({"uri": "a.csv", **options})


def _map(rows: dict[str, list[object]], **options: object) -> pl.DataFrame:
    raw = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "event_time": ["2024-03-01"]} | rows).with_row_index(ROW, offset=1)
    return map_events(raw, _source(**options), where="a.csv", key=KEY)


def _utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def test_rows_get_the_columns_and_types_of_interactions():
    events = _map({})
    assert dict(events.select(*INTERACTIONS.schema).schema) == dict(INTERACTIONS.schema)
    assert events.row(0, named=True) | {"found": None} == {
        "event_id": "0123456789ab-1",
        "user_id": "u",
        "item_id": "i",
        "event_time": _utc("2024-03-01"),
        "event_type": "purchase",
        "quantity": 1.0,
        "price": None,
        "value": None,
        "basket_id": None,
        "platform": None,
        "region": None,
        "source_file": "a.csv",
        "source_row": 1,
        "rule": None,
        "found": None,
    }


def test_own_names_of_the_source_do_not_get_in_the_way():
    """A source column that has one of our names but another meaning must not be read for ours."""
    events = _map({"price": [99.0], "unit": [3.0], "rule": ["x"]}, columns={"price": "unit"})
    assert events["price"].to_list() == [3.0]
    assert events["rule"].to_list() == [None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-03-01", "2024-03-01T00:00:00"),
        ("20240301", "2024-03-01T00:00:00"),
        ("2024-03-01 13:05", "2024-03-01T13:05:00"),
        ("2024-03-01T13:05:07", "2024-03-01T13:05:07"),
        ("2024-03-01 13:05:07.25", "2024-03-01T13:05:07.250000"),
        ("2024-03-01T13:05:07Z", "2024-03-01T13:05:07"),
        ("2024-03-01 13:05:07+02:00", "2024-03-01T11:05:07"),
        ("2024-03-01T13:05-0130", "2024-03-01T14:35:00"),
        ("1709298307", "2024-03-01T13:05:07"),
        ("tomorrow", None),
        ("2024-02-30", None),
        (None, None),
    ],
)
def test_texts_are_read_as_iso_8601_or_as_an_epoch(text: str | None, expected: str | None):
    """Each text alone, and among others: a column may mix them."""
    expected_time = None if expected is None else _utc(expected)
    for column in ([text], [text, "2024-01-01", "2024-01-01T00:00:00+01:00", "1700000000"]):
        assert event_times(pl.Series(column, dtype=pl.String), zone="UTC", unit="s")[0] == expected_time


@settings(max_examples=40)
@given(st.datetimes(dt.datetime(1980, 1, 1), dt.datetime(2100, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_every_iso_text_with_an_offset_is_read_back(moment: dt.datetime, offset_minutes: int):
    aware = moment.replace(tzinfo=dt.timezone(dt.timedelta(minutes=offset_minutes)))
    assert event_times(pl.Series([aware.isoformat()]), zone="Asia/Tokyo", unit="s")[0] == aware


def test_times_without_a_zone_are_read_on_the_clocks_of_the_configured_zone():
    """Berlin: set forward on 2024-03-31 (02:30 never occurs), set back on 2024-10-27 (02:30 occurs twice, the earlier is taken)."""
    texts = ["2024-01-15 12:00:00", "2024-07-15 12:00:00", "2024-10-27 02:30:00", "2024-03-31 02:30:00", "2024-07-15 12:00:00Z"]
    expected = ["2024-01-15T11:00", "2024-07-15T10:00", "2024-10-27T00:30", None, "2024-07-15T12:00"]
    times = event_times(pl.Series(texts), zone="Europe/Berlin", unit="s").to_list()
    assert times == [None if text is None else _utc(text) for text in expected]
    naive = pl.Series([dt.datetime(2024, 7, 15, 12)])
    assert event_times(naive, zone="Europe/Berlin", unit="s")[0] == _utc("2024-07-15T10:00")
    assert event_times(pl.Series([dt.date(2024, 7, 15)]), zone="Europe/Berlin", unit="s")[0] == _utc("2024-07-14T22:00")


def test_timestamps_with_a_zone_keep_their_instant():
    times = pl.Series([_utc("2024-07-15T12:00")]).dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ns")
    assert event_times(times, zone="Europe/Berlin", unit="s")[0] == _utc("2024-07-15T12:00")


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)])
def test_epochs_are_counted_in_the_declared_unit(unit: str, factor: int):
    for numbers in (pl.Series([1_709_298_307 * factor]), pl.Series([float(1_709_298_307 * factor)])):
        assert event_times(numbers, zone="UTC", unit=unit)[0] == _utc("2024-03-01T13:05:07")


def test_pattern_of_the_configuration_is_followed():
    assert event_times(pl.Series(["01.03.24 13h05"]), zone="UTC", unit="s", pattern="%d.%m.%y %Hh%M")[0] == _utc("2024-03-01T13:05")
    assert event_times(pl.Series(["03/01/2024"]), zone="UTC", unit="s", pattern="%m/%d/%Y")[0] == _utc("2024-03-01")
    assert event_times(pl.Series(["01.03.2024 13:05 +0200"]), zone="UTC", unit="s", pattern="%d.%m.%Y %H:%M %z")[0] == _utc("2024-03-01T11:05")


def test_seconds_where_milliseconds_are_declared_say_the_years_and_the_unit():
    for values in (pl.Series("at", [1_709_298_307] * 3), pl.Series("at", ["1709298307"] * 3)):
        with pytest.raises(SourceError, match=r"`at` read as `ms` since 1970 lies around the year 1970; `s` gives 2024\. Set `source\.time_unit: s`"):
            check_time_unit(values, unit="ms", where="a.csv")


def test_milliseconds_where_seconds_are_declared_say_the_unit():
    with pytest.raises(SourceError, match=r"around the year 56135; `ms` gives 2024"):
        check_time_unit(pl.Series("at", [1_709_298_307_000]), unit="s", where="a.csv")


def test_right_unit_and_hopeless_numbers_are_left_to_the_rows():
    check_time_unit(pl.Series("at", [1_709_298_307]), unit="s", where="a.csv")
    check_time_unit(pl.Series("at", [7]), unit="s", where="a.csv")
    check_time_unit(pl.Series("at", ["2024-01-01"]), unit="s", where="a.csv")


@pytest.mark.parametrize(
    ("columns", "rule", "found"),
    [
        ({"user_id": [None]}, "user_id_null", None),
        ({"user_id": ["  "]}, "user_id_null", None),
        ({"item_id": [None]}, "item_id_null", None),
        ({"id": [None]}, "event_id_null", None),
        ({"event_time": [None]}, "event_time_null", None),
        ({"event_time": ["31.12.2024"]}, "event_time_unreadable", "31.12.2024"),
        ({"event_time": [9_000_000_000_000]}, "event_time_out_of_range", "9000000000000"),
        ({"event_time": [2**62]}, "event_time_unreadable", str(2**62)),
        ({"kind": ["wishlist"]}, "unknown_event_type", "wishlist"),
        ({"kind": [None]}, "unknown_event_type", None),
        ({"units": ["many"]}, "quantity_unreadable", "many"),
        ({"cost": ["1,50"]}, "price_unreadable", "1,50"),
    ],
)
def test_unusable_row_carries_its_rule_and_the_word_found(columns: dict[str, list[object]], rule: str, found: str | None):
    row = {"id": ["1"], "kind": ["view"], "units": ["1"], "cost": ["1.5"]} | columns
    mapping = {"event_id": "id", "event_type": "kind", "quantity": "units", "price": "cost"}
    events = _map(row, columns=mapping)
    assert events.select("rule", "found").rows() == [(rule, found)]


def test_rules_of_the_data_set_come_first_and_bring_no_word_of_another_rule():
    raw = pl.DataFrame({ROW: [1], "user_id": ["u"], "item_id": ["i"], "event_time": ["never"]})
    events = map_events(raw, _source(), where="a.csv", key=KEY, rules={"by_hand": pl.col("user_id") == "u"})
    assert events.select("rule", "found").rows() == [("by_hand", None)]


def test_event_types_are_translated_and_our_own_words_are_known():
    events = _map(
        {name: [value] * 3 for name, value in (("user_id", "u"), ("item_id", "i"), ("event_time", "2024-03-01"))} | {"kind": ["seen", "purchase", "SEEN"]},
        columns={"event_type": "kind"},
        event_types={"seen": "view"},
    )
    assert events["event_type"].to_list() == ["view", "purchase", None]
    assert events["rule"].to_list() == [None, None, "unknown_event_type"]


def test_ids_read_as_decimals_lose_the_fraction_they_never_had():
    events = _map({"user_id": [13085.0], "item_id": [7], "basket": [1.5]}, columns={"basket_id": "basket"})
    assert events.select("user_id", "item_id", "basket_id").rows() == [("13085", "7", "1.5")]


def test_not_a_number_is_no_value():
    assert _map({"cost": [float("nan")]}, columns={"price": "cost"})["price"].to_list() == [None]


@pytest.mark.parametrize(
    ("columns", "mapping", "message"),
    [
        ({"user_id": [["u"]]}, {}, r"column `user_id` \(user_id\): expected a text or an integer, found List\(String\)"),
        ({"event_time": [True]}, {}, r"column `event_time` \(event_time\): expected a timestamp, a date, an integer epoch or a text, found Boolean"),
        ({"event_time": [dt.time(12)]}, {}, "expected a timestamp"),
        ({"cost": [dt.date(2024, 1, 1)]}, {"price": "cost"}, r"column `cost` \(price\): expected a number, found Date"),
    ],
)
def test_column_of_the_wrong_type_is_refused(columns: dict[str, list[object]], mapping: dict[str, str], message: str):
    with pytest.raises(SourceError, match=message):
        _map(columns, columns=mapping)


def test_users_may_be_missing_where_the_source_has_none():
    raw = pl.DataFrame({ROW: [1], "item_id": ["i"], "event_time": ["2024-03-01"]})
    events = map_events(raw, _source(has_users=False), where="a.csv", key=KEY)
    assert events.select("user_id", "item_id", "rule").rows() == [(None, "i", None)]
    assert _map({"user_id": [None]}, has_users=False)["rule"].to_list() == [None]
    with pytest.raises(SourceError, match="column `user_id` missing"):
        map_events(raw, _source(), where="a.csv", key=KEY)


def test_missing_column_is_refused_with_the_parameter_to_set():
    with pytest.raises(SourceError, match=r"column `usr_id` missing, nearest `user_id` \(set `source\.columns\.user_id`\)"):
        _map({}, columns={"user_id": "usr_id"})


def test_hash_is_keyed_blake2b_and_leaves_nulls():
    key = hash_key("sixteen letters!", variable="K")
    expected = hashlib.blake2b(b"u", key=hashlib.sha256(b"sixteen letters!").digest(), digest_size=16).hexdigest()
    assert hash_ids(pl.Series(["u", None, "u", "v"]), key).to_list()[:3] == [expected, None, expected]
    assert hash_ids(pl.Series(["u"]), hash_key("another sixteen letters", variable="K"))[0] != expected
    for secret in (None, "short"):
        with pytest.raises(SourceError, match="16 characters or more in the environment variable K"):
            hash_key(secret, variable="K")


def test_category_path_leaves_out_levels_without_a_word():
    frame = pl.DataFrame({"a": ["Food", "Food", None], "b": [" Bread ", None, ""]}, schema={"a": pl.String, "b": pl.String})
    assert frame.select(category_path(pl.col("a"), pl.col("b"))).to_series().to_list() == ["Food > Bread", "Food", None]


def test_catalogue_has_one_row_per_item_the_last_one():
    raw = pl.LazyFrame({"sku": [2, 1, 1], "name": ["b", "old", "new"], "since": ["2024-01-01", None, "2024-02-01"], "group": ["x", "y", "z"]})
    mapping = CatalogueMapping(item_id="sku", title="name", category=("group",), available_from="since")
    items = map_catalogue(raw, mapping, time_zone="UTC", where="items.csv")
    assert dict(items.schema) == dict(ITEM_CATALOGUE.schema)
    assert items.select("item_id", "category", "title", "available_from").rows() == [("1", "z", "new", _utc("2024-02-01")), ("2", "x", "b", _utc("2024-01-01"))]
    with pytest.raises(SourceError, match=r"items\.csv: column `label` missing"):
        map_catalogue(raw, CatalogueMapping(item_id="sku", title="label"), time_zone="UTC", where="items.csv")


def test_unknown_zone_and_event_type_are_faults_of_the_configuration():
    with pytest.raises(ValueError, match=r"source\.time_zone 'Mars/Base' is not a known zone"):
        _source(time_zone="Mars/Base")
    with pytest.raises(ValueError, match="event_types"):
        _source(event_types={"seen": "glance"})
