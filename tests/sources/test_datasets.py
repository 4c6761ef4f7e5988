"""Ready data sets: their published shapes, their cleaning, and (where the data are at hand) the events of the protocol."""

import datetime as dt
import importlib.util
import io
import json
import zipfile
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from contracts.artifacts import IngestReport
from contracts.errors import SourceError
from contracts.sections.source import SourceConfig
from sources.datasets import declare
from sources.datasets.online_retail_ii import category_of
from sources.ingest import ingest
from tests.sources.conftest import NOW, set_aside, stored
from tests.sources.workbook import workbook

SHARED = Path(__file__).parents[3] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason=f"no {SHARED}: the shared data sets are not part of the repository")


def _take_in(folder: Path, dataset: str, environment: dict[str, str] | None = None, **options: object) -> IngestReport:
    source = SourceConfig.model_validate({"dataset": dataset, **options})
    return ingest(source, folder / "store", environment=environment or {}, now=NOW)


def _protocol() -> ModuleType:
    spec = importlib.util.spec_from_file_location("protocol", SHARED / "protocol" / "protocol.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _as_protocol(report: IngestReport) -> pl.DataFrame:
    return stored(report).select("user_id", "item_id", time=pl.col("event_time").dt.replace_time_zone(None))


def _catalogue(report: IngestReport) -> pl.DataFrame:
    assert report.item_catalogue is not None
    return pl.read_parquet(report.item_catalogue.path)


@pytest.fixture(scope="module")
def complete_journey(tmp_path_factory: pytest.TempPathFactory) -> IngestReport:
    return _take_in(tmp_path_factory.mktemp("complete_journey"), "complete_journey")


@pytest.mark.slow
def test_complete_journey_is_all_lines_with_a_positive_quantity(complete_journey: IngestReport):
    assert complete_journey.rows_in == 1_469_307
    assert complete_journey.quarantined_by_rule == {"quantity_not_positive": complete_journey.rows_quarantined}
    events = stored(complete_journey)
    assert events.height == complete_journey.rows_accepted
    assert events["quantity"].min() > 0
    assert events["user_id"].n_unique() == 2_469
    assert events["event_time"].is_sorted()
    tied = events.filter(pl.col("event_time") == pl.col("event_time").shift(1))
    assert tied.height > 100_000
    assert events.filter((pl.col("event_time") == pl.col("event_time").shift(1)) & (pl.col("source_row") <= pl.col("source_row").shift(1))).is_empty()


@pytest.mark.slow
def test_complete_journey_price_is_that_of_one_unit(complete_journey: IngestReport):
    from sources.datasets.complete_journey import data_folder

    raw = pl.read_parquet(data_folder() / "transactions.parquet").filter(pl.col("quantity") > 0)
    spent = stored(complete_journey).select((pl.col("price") * pl.col("quantity")).sum()).item()
    assert spent == pytest.approx(raw["sales_value"].sum(), rel=1e-9)


@pytest.mark.slow
def test_complete_journey_catalogue_names_every_product(complete_journey: IngestReport):
    items = _catalogue(complete_journey)
    assert items.height == 92_331
    assert stored(complete_journey).join(items, on="item_id", how="anti").height == 32  # lines of products the package's own table does not list
    (row,) = items.filter(pl.col("item_id") == "26093").select("category", "title").rows()
    assert row == ("PASTRY > BREAD > BREAD:ITALIAN/FRENCH", "Bread:Italian/French, own brand")
    assert items["title"].null_count() == 0


@pytest.mark.slow
@pytest.mark.shared_data
@needs_shared
def test_complete_journey_equals_the_protocols_events(complete_journey: IngestReport):
    assert _as_protocol(complete_journey).equals(_protocol().events("complete_journey", SHARED / "data"))


@pytest.mark.slow
@pytest.mark.shared_data
@needs_shared
def test_online_retail_equals_the_protocols_events(tmp_path: Path):
    report = _take_in(tmp_path, "online_retail_ii", {"PERENNIAL_DATA": str(SHARED / "data")}, uri="${PERENNIAL_DATA}/online_retail_ii")
    assert _as_protocol(report).equals(_protocol().events("online_retail_ii", SHARED / "data"))
    assert report.rows_in == 1_044_847
    items = _catalogue(report)
    assert items.filter(pl.col("item_id") == "85123A").select("title", "category").rows() == [
        ("White hanging heart t-light holder", "Home > Light and candles")
    ]


_RETAIL = ["Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country"]
_FIRST_SHEET = [
    _RETAIL,
    [489434, 85048, "CHRISTMAS GLASS BALL 20 LIGHTS", 12, dt.datetime(2009, 12, 1, 7, 45), 6.95, 13085, "United Kingdom"],
    [489434, "79323p", "PINK CHERRY LIGHTS", 12, dt.datetime(2009, 12, 1, 7, 45), 6.75, 13085, "United Kingdom"],
    ["C489449", 22087, "PAPER BUNTING", -12, dt.datetime(2009, 12, 1, 10, 33), 2.95, 16321, "Australia"],
    [489450, "POST", "POSTAGE", 1, dt.datetime(2009, 12, 1, 10, 36), 18.0, 16321, "Australia"],
    [489464, 21733, "85123a mixed", 9, dt.datetime(2009, 12, 1, 10, 52), 0.0, 14590, "United Kingdom"],
    [489465, 22087, "PAPER BUNTING", 3, dt.datetime(2009, 12, 1, 10, 55), 2.95, None, "United Kingdom"],
    [536365, 22752, "SET 7 BABUSHKA NESTING BOXES", 2, dt.datetime(2010, 12, 1, 8, 26), 7.65, 17850, "United Kingdom"],
]
_SECOND_SHEET = [_RETAIL, [536365, 22752, "SET 7 BABUSHKA NESTING BOXES", 2, dt.datetime(2010, 12, 1, 8, 26), 7.65, 17850, "United Kingdom"]]


def test_online_retail_as_published_is_a_zip_with_a_workbook_of_two_sheets_that_overlap(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "online+retail+ii.zip", "w") as archive:
        archive.writestr("online_retail_II.xlsx", workbook({"Year 2009-2010": _FIRST_SHEET, "Year 2010-2011": _SECOND_SHEET}))
    report = _take_in(tmp_path, "online_retail_ii", uri=str(tmp_path / "online+retail+ii.zip"))
    assert stored(report).select("user_id", "item_id", "event_time", "quantity", "price", "basket_id", "region").rows() == [
        ("13085", "85048", dt.datetime(2009, 12, 1, 7, 45, tzinfo=dt.UTC), 12.0, 6.95, "489434", "United Kingdom"),
        ("13085", "79323P", dt.datetime(2009, 12, 1, 7, 45, tzinfo=dt.UTC), 12.0, 6.75, "489434", "United Kingdom"),
        ("17850", "22752", dt.datetime(2010, 12, 1, 8, 26, tzinfo=dt.UTC), 2.0, 7.65, "536365", "United Kingdom"),
    ]
    assert set_aside(report)["rule"].to_list() == ["quantity_not_positive", "no_product", "price_not_positive", "no_customer", "repeated_in_next_sheet"]
    assert _catalogue(report).select("item_id", "title").rows() == [
        ("22087", "Paper bunting"),
        ("22752", "Set 7 babushka nesting boxes"),
        ("79323P", "Pink cherry lights"),
        ("85048", "Christmas glass ball 20 lights"),
    ]


def test_online_retail_categories_prefer_the_occasion():
    titles = [
        "CHRISTMAS GLASS BALL 20 LIGHTS",
        "CHICK GREY HOT WATER BOTTLE",
        "WHITE HANGING HEART T-LIGHT HOLDER",
        "JUMBO BAG RED RETROSPOT",
        "PARTY CONE",
        "???",
    ]
    expected = ["Occasion > Christmas", "Warmth", "Home > Light and candles", "Bags", "Occasion > Party", "Other"]
    assert pl.DataFrame({"title": titles}).select(category_of(pl.col("title"))).to_series().to_list() == expected


def test_amazon_rating_files_without_a_header_are_given_one(tmp_path: Path):
    (tmp_path / "ratings.csv").write_text("A1,B00,5.0,1369699200\nA2,B00,1.0,1355443200\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"no header line, found `A1,B00,5\.0,1369699200`\. Set `source\.csv_columns"):
        _take_in(tmp_path, "amazon_reviews", uri=str(tmp_path / "ratings.csv"))
    report = _take_in(tmp_path, "amazon_reviews", uri=str(tmp_path / "ratings.csv"), csv_columns=["user_id", "item_id", "rating", "timestamp"])
    assert stored(report).select("user_id", "value", "source_row").rows() == [("A2", 1.0, 2), ("A1", 5.0, 1)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Beauty.csv", "user_id,parent_asin,rating,timestamp\nA1,B00,5.0,1369699200000\nA2,B00,1.0,1355443200000\n"),
        (
            "reviews_2014.jsonl",
            "".join(
                json.dumps({"reviewerID": user, "asin": "B00", "overall": stars, "unixReviewTime": time, "helpful": [0, 0]}) + "\n"
                for user, stars, time in (("A1", 5.0, 1369699200), ("A2", 1.0, 1355443200))
            ),
        ),
        (
            "reviews_2023.jsonl",
            "".join(
                json.dumps({"user_id": user, "asin": "B00-red", "parent_asin": "B00", "rating": stars, "timestamp": time}) + "\n"
                for user, stars, time in (("A1", 5.0, 1369699200000), ("A2", 1.0, 1355443200000))
            ),
        ),
    ],
)
def test_amazon_reviews_are_read_in_every_published_shape(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content, encoding="utf-8")
    events = stored(_take_in(tmp_path, "amazon_reviews", uri=str(tmp_path / name)))
    assert events.select("user_id", "item_id", "event_time", "event_type", "value").rows() == [
        ("A2", "B00", dt.datetime(2012, 12, 14, tzinfo=dt.UTC), "rating", 1.0),
        ("A1", "B00", dt.datetime(2013, 5, 28, tzinfo=dt.UTC), "rating", 5.0),
    ]


def test_amazon_catalogue_joins_its_category_list(tmp_path: Path):
    (tmp_path / "ratings.csv").write_text("reviewerID,asin,overall,unixReviewTime\nA1,B00,5.0,1369699200\n", encoding="utf-8")
    (tmp_path / "meta.jsonl").write_text(json.dumps({"parent_asin": "B00", "title": "Soap", "categories": ["Beauty", "Bath"]}) + "\n", encoding="utf-8")
    items = _catalogue(_take_in(tmp_path, "amazon_reviews", uri=str(tmp_path / "ratings.csv"), catalogue_uri=str(tmp_path / "meta.jsonl")))
    assert items.select("item_id", "category", "title").rows() == [("B00", "Beauty > Bath", "Soap")]


def test_hotel_bookings_are_demand_by_day_of_arrival(tmp_path: Path):
    """As published: no arrival date, its parts instead."""
    header = "hotel,is_canceled,lead_time,arrival_date_year,arrival_date_month,arrival_date_day_of_month,stays_in_weekend_nights,stays_in_week_nights"
    rows = [
        "City Hotel,0,10,2016,July,1,0,0,GBR,TA/TO,A ,80.5",
        "Resort Hotel,1,3,2016,July,2,1,1,PRT,Direct,C,50",
        "City Hotel,0,3,2016,August,12,2,5,PRT,Direct,A,99",
    ]
    (tmp_path / "hotel_bookings.csv").write_text("\n".join([f"{header},country,distribution_channel,reserved_room_type,adr", *rows, ""]), encoding="utf-8")
    report = _take_in(tmp_path, "hotel_bookings", uri=str(tmp_path))
    assert stored(report).select("user_id", "item_id", "event_time", "quantity", "price", "value", "region").rows() == [
        ("booking-1", "City Hotel, room A", dt.datetime(2016, 7, 1, tzinfo=dt.UTC), 1.0, 80.5, 10.0, "GBR"),
        ("booking-3", "City Hotel, room A", dt.datetime(2016, 8, 12, tzinfo=dt.UTC), 7.0, 99.0, 3.0, "PRT"),
    ]
    assert report.quarantined_by_rule == {"cancelled": 1}
    assert not declare(SourceConfig(dataset="hotel_bookings", uri="a"), tmp_path).source.has_users


@pytest.mark.slow
@pytest.mark.shared_data
@needs_shared
@pytest.mark.parametrize(
    ("dataset", "uri", "catalogue_uri", "rows_in", "by_rule"),
    [
        ("flickr_trips", "flickr_poi_trips/visits.parquet", "flickr_poi_trips/pois.parquet", 26_827, {"before_the_service_opened": 368}),
        ("amazon_reviews", "amazon_beauty_5core_ts/interactions.parquet", "amazon_beauty_5core_ts/items.parquet", 198_502, {}),
        ("hotel_bookings", "hotel_booking_demand", None, 119_390, {"cancelled": 44_224}),
    ],
)
def test_shared_copies_are_read_whole(tmp_path: Path, dataset: str, uri: str, catalogue_uri: str | None, rows_in: int, by_rule: dict[str, int]):
    addresses = {"uri": f"${{DATA}}/{uri}"} | ({"catalogue_uri": f"${{DATA}}/{catalogue_uri}"} if catalogue_uri else {})
    report = _take_in(tmp_path, dataset, {"DATA": str(SHARED / "data")}, **addresses)
    assert (report.rows_in, report.quarantined_by_rule) == (rows_in, by_rule)
    assert stored(report).join(_catalogue(report), on="item_id", how="anti").is_empty()


def test_data_sets_that_are_not_shipped_ask_for_their_address(tmp_path: Path):
    for dataset in ("amazon_reviews", "flickr_trips", "hotel_bookings"):
        with pytest.raises(SourceError, match=r"source\.uri is missing: .* are not shipped"):
            declare(SourceConfig.model_validate({"dataset": dataset}), tmp_path)


def test_data_set_reads_the_same_after_its_configuration_travelled_as_json(tmp_path: Path):
    source = SourceConfig(dataset="flickr_trips", uri="a.parquet")
    travelled = SourceConfig.model_validate_json(source.model_dump_json())
    assert declare(travelled, tmp_path).source == declare(source, tmp_path).source
    assert declare(travelled, tmp_path).source.columns.event_time == "start_time"


def test_parquet_copy_without_a_column_names_the_column(tmp_path: Path):
    stream = io.BytesIO()
    pl.DataFrame({"invoice": ["1"], "description": ["x"], "quantity": [1], "invoice_date": [dt.datetime(2010, 1, 1)], "price": [1.0]}).write_parquet(stream)
    (tmp_path / "retail.parquet").write_bytes(stream.getvalue())
    with pytest.raises(SourceError, match=r"retail\.parquet: column `stock_code` missing"):
        _take_in(tmp_path, "online_retail_ii", uri=str(tmp_path / "retail.parquet"))
