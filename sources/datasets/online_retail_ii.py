"""UCI Online Retail II: two years of a British gift-ware web shop.

Reads the zip or the workbook as UCI publishes it (two sheets that overlap by nine days), the older single-year workbook, or Parquet and CSV
copies of them. Times are the shop's wall clock and are kept as they stand. Source: D. Chen, doi 10.24432/C5CG6D, CC BY 4.0.
"""

import datetime as dt
from typing import Final

import polars as pl

from contracts import columns as c
from contracts.sections.source import ColumnMapping, SourceConfig
from sources.datasets.declaration import Declaration, filled, rename_known
from sources.readers import TABLE

PUBLISHED_AT: Final = "https://archive.ics.uci.edu/static/public/502/online+retail+ii.zip"
_NAMES: Final = {
    "Invoice": "invoice",
    "InvoiceNo": "invoice",
    "StockCode": "stock_code",
    "Description": "description",
    "Quantity": "quantity",
    "InvoiceDate": "invoice_date",
    "Price": "price",
    "UnitPrice": "price",
    "Customer ID": "customer_id",
    "CustomerID": "customer_id",
    "Country": "country",
}
_FIRST_SHEET: Final = "#Year 2009-2010"
_SECOND_SHEET_STARTS: Final = dt.datetime(2010, 12, 1, 8, 26)  # noqa: DTZ001  (wall clock, as in the file)

# The log has no categories; these are read from the titles, first match wins: the occasion, where there is one, else the use.
_CATEGORIES: Final = (
    ("Occasion > Christmas", r"christmas|xmas|advent|santa|snow|reindeer|robin|angel|nativity|bauble|tinsel|stocking|noel|rudolph|sleigh|wreath"),
    ("Warmth", r"hot water bottle|hand warmer|scarf|glove|slipper|blanket|throw|hottie"),
    ("Occasion > Easter", r"easter|bunny|chick|\begg"),
    ("Occasion > Valentine", r"valentine|cupid|\blove\b"),
    ("Occasion > Birthday", r"birthday"),
    ("Occasion > Party", r"party|bunting|balloon|garland|confetti|streamer|invit|paper chain"),
    ("Occasion > Cards and wrap", r"\bcards?\b|\bwrap|gift tag|ribbon|gift bag|tissue"),
    ("Outdoors > Garden", r"garden|parasol|watering|plant|flower pot|herb|bird ?(house|feeder|table)|windmill|bench|lantern"),
    ("Outdoors > Picnic and beach", r"picnic|beach|umbrella|\brain|deck ?chair|cool ?bag|water bottle|travel|luggage|passport"),
    ("Kitchen > Baking", r"cake|baking|cookie|pastry|muffin|jelly mould|recipe|spoons?|whisk|apron|oven"),
    ("Kitchen > Table", r"mug|cup|plate|bowl|teapot|tea |jug|cutlery|napkin|coaster|doil|tray|glass\b|beaker|saucer|coffee|egg cup|butter dish"),
    ("Kitchen > Storage", r"\bjars?\b|\btins?\b|bread|pantry|biscuit|kitchen|bottle|lunch box|snack"),
    ("Bags", r"\bbags?\b|shopper|purse|rucksack|backpack|tote|wallet"),
    ("Jewellery", r"necklace|bracelet|earring|\bring\b|brooch|bangle|jewel|\bhair|pendant|charm|bead"),
    ("Home > Light and candles", r"light|candle|lamp|incense|chandelier"),
    ("Home > Signs and walls", r"sign\b|block word|clock|frame|picture|wall|mirror|canvas|\bart\b|chalkboard|letter|memoboard|black ?board"),
    ("Home > Furniture and textiles", r"cushion|doormat|curtain|cabinet|drawer|stool|chair|table|rug|quilt|hook|hanger|knob|door|towel|bath|soap|rack|pegs"),
    ("Stationery", r"pencil|pens?\b|notebook|stationery|paper|eraser|sticker|tape|book|journal|calendar|magnet|stamp|sewing|craft|knit"),
    ("Toys and children", r"spinning top|crayon|colouring|modelling clay|bingo|ladders|paint set|glider|dinosaur|chalk stick|sporting"),
    (
        "Toys and children",
        r"toy|game|child|baby|doll|puzzle|skittle|jigsaw|playhouse|soldier|spaceboy|circus|robot|kite|teddy|skipping|kids",
    ),
    ("Home > Decoration", r"decoration|heart|ornament|hanging|flower|vase|box|basket|holder|trinket|bird|butterfly|star|wicker|zinc|metal"),
)


def declare(source: SourceConfig) -> Declaration:
    """Lines of known customers with positive quantity and price and a five-digit stock code: no postage, manual lines, vouchers, cancellations."""
    return Declaration(
        filled(
            source,
            uri=PUBLISHED_AT,
            columns=ColumnMapping(
                user_id="customer_id", item_id="item_code", event_time="invoice_date", quantity="quantity", price="price", basket_id="invoice", region="country"
            ),
        ),
        prepare=_prepare,
        rules={
            "repeated_in_next_sheet": pl.col(TABLE).str.ends_with(_FIRST_SHEET) & (pl.col("invoice_date").cast(pl.String) >= str(_SECOND_SHEET_STARTS)),
            "no_customer": pl.col("customer_id").is_null(),
            "quantity_not_positive": pl.col("quantity").cast(pl.Float64, strict=False) <= 0,
            "price_not_positive": pl.col("price").cast(pl.Float64, strict=False) <= 0,
            "no_product": ~pl.col("stock_code").str.contains(r"^\d{5}").fill_null(value=False),
        },
        catalogue_of_events=_catalogue,
    )


def _prepare(raw: pl.LazyFrame) -> pl.LazyFrame:
    renamed = rename_known(raw, _NAMES).with_columns(pl.col("stock_code").cast(pl.String), pl.col("invoice").cast(pl.String))
    return renamed.with_columns(item_code=pl.col("stock_code").str.to_uppercase())


def _catalogue(lines: pl.LazyFrame) -> pl.LazyFrame:
    """The description most lines of an item carry; notes of the warehouse (lower case, `?`) lose against it."""
    named = lines.filter(pl.col("stock_code").str.contains(r"^\d{5}") & (pl.col("price").cast(pl.Float64, strict=False) > 0)).select(
        pl.col("item_code").alias(c.ITEM_ID), pl.col("description").str.strip_chars().str.replace_all(r"\s+", " ").alias("words")
    )
    counted = named.drop_nulls().group_by(c.ITEM_ID, "words").len().sort(c.ITEM_ID, "len", "words", descending=[False, True, False])
    titles = counted.group_by(c.ITEM_ID, maintain_order=True).agg(pl.col("words").first())
    return titles.select(c.ITEM_ID, category_of(pl.col("words")).alias(c.CATEGORY), _sentence(pl.col("words")).alias(c.TITLE))


def category_of(words: pl.Expr) -> pl.Expr:
    """Category path of a title, `Other` where no word tells."""
    lower = words.str.to_lowercase()
    return pl.coalesce(*(pl.when(lower.str.contains(pattern)).then(pl.lit(path)) for path, pattern in _CATEGORIES), pl.lit("Other"))


def _sentence(words: pl.Expr) -> pl.Expr:
    return words.str.slice(0, 1).str.to_uppercase() + words.str.slice(1).str.to_lowercase()
