"""A bundle is written whole, read only when whole, and names what is wrong with it."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contracts.errors import BundleError
from features.vocabulary import grow_vocabulary
from serving.bundle import MANIFEST, bundle_ref, pack_histories, read_bundle
from tests.serving.hand_made import events, write_networks, write_small_bundle

VOCABULARY = grow_vocabulary(None, pl.LazyFrame({"item_id": ["a", "b"]}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    networks = write_networks(tmp_path / "networks", np.zeros((3, 2)), season={}, habit={})
    write_small_bundle(tmp_path / "bundle", networks, events([("u", "a", "2024-06-01"), ("u", "b", "2024-06-02")]), VOCABULARY)
    return tmp_path / "bundle"


def test_a_bundle_reads_back_and_equal_content_has_an_equal_digest(folder: Path, tmp_path: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.metadata.name == "small"
    assert bundle.table("histories")["event_day"].to_list() == [[19875, 19876]]
    again = write_small_bundle(tmp_path / "again", tmp_path / "networks", events([("u", "a", "2024-06-01"), ("u", "b", "2024-06-02")]), VOCABULARY)
    assert again.digest == bundle_ref(bundle).digest
    other = write_small_bundle(tmp_path / "other", tmp_path / "networks", events([("u", "a", "2024-06-01"), ("u", "b", "2024-06-03")]), VOCABULARY)
    assert other.digest != bundle.digest


def test_a_bundle_holds_data_only(folder: Path) -> None:
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".parquet", ".onnx", ".safetensors"}


def test_writing_again_replaces_the_folder_and_leaves_no_draft(folder: Path, tmp_path: Path) -> None:
    (folder / "leftover.txt").write_text("old")
    write_small_bundle(folder, tmp_path / "networks", events([("v", "a", "2024-06-01")]), VOCABULARY)
    assert read_bundle(folder).table("histories")["user_id"].to_list() == ["v"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "networks"]


def test_a_changed_byte_is_found(folder: Path) -> None:
    path = folder / "habits.parquet"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"habits\.parquet has sha256 .* damaged or changed.*Download the version again"):
        read_bundle(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "networks" / "season.onnx").unlink()
    with pytest.raises(BundleError, match=r"networks/season\.onnx is missing"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, r"format 99, this code reads format 1"),
        ({"files": {}}, r"vocabulary\.parquet, .* not listed"),
        ({"metadata": {"name": "x"}}, r"does not fit its format.*cutoff"),
        ({"files": {"../outside": "0"}}, r"\.\./outside"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(folder: Path, change: dict, message: str) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    if change.get("files"):
        change = {"files": values["files"] | change["files"]}
    (folder / MANIFEST).write_text(json.dumps(values | change))
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        read_bundle(tmp_path / "nowhere")
    (tmp_path / MANIFEST).write_text("{half")
    with pytest.raises(BundleError, match="is not JSON"):
        read_bundle(tmp_path)


def test_networks_that_were_not_exported_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"head\.json, vectors\.safetensors, season\.onnx, habit\.onnx missing; found no such folder"):
        write_small_bundle(tmp_path / "bundle", tmp_path / "networks", events([("u", "a", "2024-06-01")]), VOCABULARY)
    assert not (tmp_path / "bundle").exists()


def test_packing_keeps_order_and_drops_unknown_items() -> None:
    table = pl.DataFrame(
        {
            "user_id": ["u", "v", "w"],
            "item_id": [["b", "?", "a", "a"], ["?"], []],
            "event_time": [[1, 2, 3, 4], [5], []],
            "event_type": [["x", "x", "y", "x"], ["x"], []],
        },
        schema_overrides={"event_time": pl.List(pl.Datetime("us", "UTC"))},
    )
    packed = pack_histories(table, VOCABULARY)
    assert packed.rows() == [("u", [2, 1, 1], [0, 0, 0], ["x", "y", "x"])]
