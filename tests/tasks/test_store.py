"""Outputs of steps: whole or not there, and named by what went into them."""

from pathlib import Path

import polars as pl
import pytest

from contracts.artifacts import TableRef
from contracts.config import PipelineConfig
from tasks import store as store_module
from tasks.store import Store, audit_address, code_version, fresh_folder, read_table, reuse_digest, store_of, table_reference, write_table, write_text

TABLE = pl.DataFrame({"item_id": ["a", "b"], "units": [1.0, 2.0]})


def test_table_is_written_and_read_back_with_its_reference(tmp_path: Path):
    ref = write_table(TABLE.lazy(), tmp_path / "deep" / "demand.parquet", "demand")
    assert (ref.name, ref.rows, ref.columns) == ("demand", 2, ("item_id", "units"))
    assert read_table(ref).collect().equals(TABLE)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["demand.parquet"]


def test_same_rows_have_the_same_digest_anywhere_and_other_rows_another(tmp_path: Path):
    first, again = (write_table(TABLE, tmp_path / folder / "t.parquet", "t") for folder in ("x", "y"))
    other = write_table(TABLE.with_columns(pl.col("units") + 1), tmp_path / "z" / "t.parquet", "t")
    assert first.digest == again.digest != other.digest


def test_failed_write_leaves_the_old_table(tmp_path: Path):
    path = tmp_path / "t.parquet"
    write_table(TABLE, path, "t")
    failing = TABLE.lazy().select(pl.col("item_id").str.to_integer(strict=True))
    with pytest.raises(pl.exceptions.PolarsError):
        write_table(failing, path, "t")
    assert pl.read_parquet(path).equals(TABLE)


def test_folder_of_parts_is_one_table(tmp_path: Path):
    for month, rows in (("2024-02", TABLE[1:]), ("2024-01", TABLE[:1])):
        write_table(rows, tmp_path / "interactions" / f"month={month}" / "part.parquet", "part")
    ref = table_reference(tmp_path / "interactions", "interactions")
    assert ref.rows == 2
    assert pl.concat([pl.read_parquet(part, hive_partitioning=False) for part in ref.parts()]).equals(TABLE)


def test_text_is_replaced_whole(tmp_path: Path):
    path = write_text("first", tmp_path / "a" / "report.html")
    assert write_text("second: ü", path).read_text(encoding="utf-8") == "second: ü"
    assert [left.name for left in path.parent.iterdir()] == ["report.html"]


def test_leftovers_of_an_attempt_are_gone(tmp_path: Path):
    write_text("half", tmp_path / "step" / "deep" / "part.tmp")
    assert list(fresh_folder(tmp_path / "step").iterdir()) == []


class TestStepFolder:
    @pytest.fixture(autouse=True)
    def source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for folder in ("features", "evaluation", "contracts"):
            write_text("x = 1\n", tmp_path / "source" / folder / "code.py")
        monkeypatch.setattr(store_module, "CODE_ROOT", tmp_path / "source")
        return tmp_path / "source"

    @staticmethod
    def ref(digest: str) -> TableRef:
        return TableRef(name="demand", path="p", rows=1, columns=(), digest=digest)

    def test_same_inputs_and_code_give_the_same_folder(self, store: Store):
        first = store.step_folder("forecast", self.ref("d1"), None, "7", code=("features",))
        assert first == store.step_folder("forecast", self.ref("d1"), None, "7", code=("features",))
        assert first.is_dir()
        assert first.parent == Path(store.root) / "steps" / "forecast"

    def test_other_content_another_order_or_a_missing_input_give_another_folder(self, store: Store):
        inputs = [(self.ref("d1"), "7"), (self.ref("d2"), "7"), ("7", self.ref("d1")), (self.ref("d1"), None), (self.ref("d1"),)]
        assert len({store.step_folder("s", *given, code=()) for given in inputs}) == len(inputs)

    @pytest.mark.parametrize(("changed", "is_other"), [("features", True), ("contracts", True), ("evaluation", False)])
    def test_changed_source_counts_where_the_step_runs_it(self, source: Path, changed: str, *, is_other: bool):
        before = reuse_digest("x", code=("features",))
        write_text("x = 2\n", source / changed / "code.py")
        assert (reuse_digest("x", code=("features",)) != before) == is_other

    def test_a_single_file_counts_and_its_neighbours_do_not(self, source: Path):
        write_text("x = 1\n", source / "features" / "other.py")
        before = reuse_digest("x", code=("features/code.py",))
        write_text("x = 2\n", source / "features" / "other.py")
        assert reuse_digest("x", code=("features/code.py",)) == before
        write_text("x = 2\n", source / "features" / "code.py")
        assert reuse_digest("x", code=("features/code.py",)) != before

    def test_source_is_found_in_subfolders_and_a_renamed_file_counts(self, source: Path):
        before = code_version(("features",))
        write_text("", source / "features" / "deep" / "more.py")
        added = code_version(("features",))
        (source / "features" / "deep" / "more.py").rename(source / "features" / "deep" / "other.py")
        assert len({before, added, code_version(("features",))}) == 3


class TestPlace:
    @staticmethod
    def config(storage_root: str) -> PipelineConfig:
        return PipelineConfig.model_validate({"name": "mine", "storage_root": storage_root, "source": {"dataset": "synthetic"}})

    def test_store_lies_below_the_storage_root_by_the_pipeline_s_name(self, tmp_path: Path):
        store = store_of(self.config(str(tmp_path)))
        assert (Path(store.root), Path(store.storage_root)) == (tmp_path / "mine", tmp_path)
        assert audit_address(store) == f"sqlite:///{tmp_path / 'audit.sqlite'}"

    def test_storage_root_reads_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("STORES_OF_TEST", str(tmp_path))
        assert Path(store_of(self.config("${STORES_OF_TEST}/deep")).root) == tmp_path / "deep" / "mine"
        monkeypatch.delenv("STORES_OF_TEST")
        with pytest.raises(ValueError, match=r"storage_root .*STORES_OF_TEST.* is not set"):
            store_of(self.config("${STORES_OF_TEST}/deep"))

    def test_a_store_made_anew_is_another_store(self, store: Store):
        first = store.identity()
        assert store.identity() == first
        fresh_folder(Path(store.root))
        assert store.identity() != first
