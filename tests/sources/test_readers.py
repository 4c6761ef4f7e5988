"""Whatever an address names becomes rows, or a message that says what was expected, found and to be tried."""

import gzip
import io
import zipfile
from pathlib import Path

import fsspec
import polars as pl
import pytest

from contracts.errors import SourceError, TransientError
from sources.readers import find, open_files, require_columns, scan, shown
from tests.sources.workbook import workbook

ROWS = pl.DataFrame({"user_id": ["a", "b", "c"], "amount": ["1", "2", "3"]})


def _bytes(frame: pl.DataFrame, file_format: str) -> bytes:
    stream = io.BytesIO()
    getattr(frame, f"write_{file_format}")(stream)
    return stream.getvalue()


@pytest.mark.parametrize(("name", "file_format"), [("a.csv", "csv"), ("a.parquet", "parquet"), ("a.arrow", "ipc"), ("a.ndjson", "ndjson")])
def test_every_format_reads_the_same_rows(tmp_path: Path, name: str, file_format: str):
    (tmp_path / name).write_bytes(_bytes(ROWS, file_format))
    assert scan(str(tmp_path / name)).collect().equals(ROWS)


def test_workbook_gives_the_rows_of_all_sheets(tmp_path: Path):
    (tmp_path / "a.xlsx").write_bytes(workbook({"2020": [["user_id", "amount"], ["a", 1], ["b", 2]], "2021": [["user_id", "amount"], ["c", 3]]}))
    table = scan(str(tmp_path / "a.xlsx")).collect()
    assert table["user_id"].to_list() == ["a", "b", "c"]
    assert table["amount"].to_list() == [1, 2, 3]


def test_csv_columns_stay_text_with_their_leading_zeros(tmp_path: Path):
    (tmp_path / "a.csv").write_text("sku\n007\n", encoding="utf-8")
    assert scan(str(tmp_path / "a.csv")).collect()["sku"].to_list() == ["007"]


def test_csv_may_be_packed_and_have_its_own_separator(tmp_path: Path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"x;y\n1;2\n"))
    assert scan(str(tmp_path / "a.csv.gz"), csv_separator=";").collect().rows() == [("1", "2")]


def test_csv_without_a_header_takes_the_names_given(tmp_path: Path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n", encoding="utf-8")
    assert scan(str(tmp_path / "a.csv"), csv_columns=["x", "y"]).collect().rows(named=True) == [{"x": "1", "y": "2"}, {"x": "3", "y": "4"}]
    with pytest.raises(SourceError, match="3 != 2 in file"):
        scan(str(tmp_path / "a.csv"), csv_columns=["x", "y", "z"])


def test_glob_and_folder_are_read_in_order_of_names_without_hidden_files(tmp_path: Path):
    for name, value in (("b.csv", "2"), ("a.csv", "1"), (".c.csv", "3"), ("_d.csv", "4"), ("notes.md", "5")):
        (tmp_path / name).write_text(f"x\n{value}\n", encoding="utf-8")
    assert scan(str(tmp_path)).collect()["x"].to_list() == ["1", "2"]
    assert scan(str(tmp_path / "?.csv")).collect()["x"].to_list() == ["1", "2"]


def test_hive_folders_become_columns(tmp_path: Path):
    for region in ("GB", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / f"region={region}").mkdir()
        ROWS.head(1).write_parquet(tmp_path / f"region={region}" / "part.parquet")
    assert scan(str(tmp_path)).collect().sort("region", nulls_last=True)["region"].to_list() == ["GB", None]


def test_memory_address_reads_files_folders_and_globs():
    memory = fsspec.filesystem("memory")
    memory.pipe("/readers/day=1/a.csv", b"x\n1\n")
    memory.pipe("/readers/day=2/a.csv", b"x\n2\n")
    assert scan("memory://readers").collect().rows() == [("1", "1"), ("2", "2")]
    assert scan("memory://readers/day=2/a.csv").collect()["x"].to_list() == ["2"]
    assert scan("memory://readers/*/a.csv").collect().rows() == [("1", "1"), ("2", "2")]
    with pytest.raises(SourceError, match=r"memory://readers/b\.csv: no such file"):
        scan("memory://readers/b.csv")


def test_web_address_opens_the_zip_behind_it(web: tuple[str, Path]):
    address, folder = web
    with zipfile.ZipFile(folder / "online+retail.zip", "w") as archive:
        archive.writestr("data/one.csv", "x\n1\n")
        archive.writestr("data/two.csv", "x\n2\n")
        archive.writestr("readme.md", "not data")
    assert scan(f"{address}/online+retail.zip").collect()["x"].to_list() == ["1", "2"]
    with pytest.raises(SourceError, match="no such file"):
        scan(f"{address}/missing.csv")


def test_silent_web_server_is_an_error_that_may_pass():
    with pytest.raises(TransientError, match=r"http://127\.0\.0\.1:9/a\.csv: the store did not answer"):
        scan("http://127.0.0.1:9/a.csv")


def test_copies_of_remote_files_lie_only_where_asked(tmp_path: Path):
    fsspec.filesystem("memory").pipe("/scratch/a.csv", b"x\n1\n")
    (place,) = find("memory://scratch/a.csv")
    (in_memory,) = open_files(place)
    (on_disk,) = open_files(place, scratch=tmp_path)
    assert isinstance(in_memory.content, bytes)
    assert on_disk.content == next(tmp_path.rglob("a.csv"))
    assert in_memory.key == on_disk.key


def test_key_follows_content_and_hive_values_not_names(tmp_path: Path):
    for name, text in (("a.csv", "x\n1\n"), ("b.csv", "x\n1\n"), ("c.csv", "x\n2\n"), ("region=GB/a.csv", "x\n1\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    keys = {file.name: file.key for place in find(str(tmp_path)) for file in open_files(place)}
    assert keys["a.csv"] == keys["b.csv"]
    assert len(set(keys.values())) == 3


def test_variables_are_filled_from_the_mapping_or_named(tmp_path: Path):
    ROWS.write_parquet(tmp_path / "a.parquet")
    assert scan("${DATA}/a.parquet", environment={"DATA": str(tmp_path)}).collect().height == 3
    with pytest.raises(SourceError, match=r"environment variable DATA, found none\. Set it"):
        scan("${DATA}/a.parquet")


def test_no_such_file_names_the_nearest(tmp_path: Path):
    (tmp_path / "orders.csv").write_text("x\n1\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"order\.csv: no such file.*nearest `orders\.csv`"):
        scan(str(tmp_path / "order.csv"))
    with pytest.raises(SourceError, match="no such folder"):
        scan(str(tmp_path / "nowhere" / "order.csv"))


def test_folder_without_data_says_what_it_looked_for(tmp_path: Path):
    (tmp_path / "notes.md").write_text("hello", encoding="utf-8")
    with pytest.raises(SourceError, match=r"expected data files \(\.csv.*found none"):
        scan(str(tmp_path))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.arrow", "a.xlsx"])
def test_empty_file_is_refused(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match=rf"{name}: expected rows, found an empty file \(0 bytes\)"):
        scan(str(tmp_path / name))


def test_truncated_parquet_is_recognised(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(_bytes(ROWS, "parquet")[:-7])
    with pytest.raises(SourceError, match=r"truncated Parquet, .* fetch or write it again"):
        scan(str(tmp_path / "a.parquet"))


def test_damaged_files_of_all_formats_name_the_file(tmp_path: Path):
    for name, content in (("a.arrow", _bytes(ROWS, "ipc")[:-9]), ("a.parquet", b"x\n1\n"), ("a.xlsx", b"x\n1\n"), ("a.zip", b"PK\x03\x04 cut off")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=rf"^{name}: "):
            scan(str(tmp_path / name)).collect()


def test_csv_that_is_not_utf8_names_the_line(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"name\nplain\ncaf\xe9\n")
    with pytest.raises(SourceError, match=r"a\.csv: expected UTF-8, found byte 0xe9 in line 3\. Convert it, e\.g\. `iconv -f windows-1252"):
        scan(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_bytes("name\nx\n".encode("utf-16"))
    with pytest.raises(SourceError, match=r"in line 1.*iconv -f utf-16"):
        scan(str(tmp_path / "a.csv"))


def test_unknown_ending_asks_for_the_format(tmp_path: Path):
    (tmp_path / "a.dat").write_text("x\n1\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"source\.file_format"):
        scan(str(tmp_path / "a.dat"))
    assert scan(str(tmp_path / "a.dat"), file_format="csv").collect().rows() == [("1",)]


def test_missing_column_names_the_nearest_one():
    with pytest.raises(SourceError, match=r"column `customer` missing, nearest `customer_id` \(set `source\.columns\.user_id`\); have 2 columns"):
        require_columns(["customer_id", "at"], {"source.columns.user_id": "customer"}, where="a.csv")


def test_addresses_are_shown_without_credentials():
    assert shown("https://user:secret@host/a.csv?token=secret") == "https://host/a.csv"
