"""Events in an object store that speaks S3, found by its address alone: endpoint and keys come from the usual AWS variables."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import boto3
import polars as pl
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from contracts.errors import SourceError
from contracts.sections.source import SourceConfig
from sources.ingest import ingest
from tests.sources.conftest import NOW, stored

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of an empty bucket behind a server on this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="shop")
    s3fs.S3FileSystem.clear_instance_cache()
    yield "shop"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def put(key: str, content: bytes) -> None:
    boto3.client("s3").put_object(Bucket="shop", Key=key, Body=content)


def parquet(*days: str) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"user_id": ["u"] * len(days), "item_id": ["i"] * len(days), "event_time": days}).write_parquet(buffer)
    return buffer.getvalue()


def test_hive_folders_of_parquet_are_taken_in_and_a_new_object_is_found_next_time(bucket: str, tmp_path: Path):
    put("events/region=GB/a.parquet", parquet("2024-01-01", "2024-01-02"))
    put("events/region=FR/a.parquet", parquet("2024-02-01"))
    first = ingest(SourceConfig.model_validate({"uri": f"s3://{bucket}/events", "columns": {"region": "region"}}), tmp_path, environment={}, now=NOW)
    assert stored(first).select("region", pl.col("event_time").dt.date().cast(pl.String)).sort("event_time").rows() == [
        ("GB", "2024-01-01"),
        ("GB", "2024-01-02"),
        ("FR", "2024-02-01"),
    ]
    put("events/region=FR/b.parquet", parquet("2024-03-01"))
    again = ingest(SourceConfig.model_validate({"uri": f"s3://{bucket}/events", "columns": {"region": "region"}}), tmp_path, environment={}, now=NOW)
    assert (again.rows_in, again.rows_known, again.rows_accepted) == (4, 3, 1)


def test_one_csv_object_and_a_glob_are_read(bucket: str, tmp_path: Path):
    put("csv/1.csv", b"user_id,item_id,event_time\nu,a,2024-01-01\n")
    put("csv/2.csv", b"user_id,item_id,event_time\nu,b,2024-01-02\n")
    one = ingest(SourceConfig(uri=f"s3://{bucket}/csv/1.csv"), tmp_path / "one", environment={}, now=NOW)
    both = ingest(SourceConfig(uri=f"s3://{bucket}/csv/*.csv"), tmp_path / "both", environment={}, now=NOW)
    assert (one.rows_accepted, both.rows_accepted) == (1, 2)


def test_an_object_that_is_not_there_is_told_by_its_address(bucket: str, tmp_path: Path):
    with pytest.raises(SourceError, match=r"s3://shop/none\.csv: no such file"):
        ingest(SourceConfig(uri=f"s3://{bucket}/none.csv"), tmp_path, environment={}, now=NOW)
