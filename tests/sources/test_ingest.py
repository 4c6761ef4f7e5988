"""Every row is taken in once, set aside with its rule, or deleted; whatever comes again, late, twice or half."""

import datetime as dt
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import polars as pl
import pytest

from contracts.artifacts import IngestReport, content_digest
from contracts.errors import SourceError
from contracts.sections.source import SourceConfig
from sources import ingest as ingest_module
from sources.ingest import ingest
from sources.mapping import hash_ids, hash_key
from sources.readers import find
from tests.sources.conftest import NOW, SECRET, Ingest, set_aside, stored
from tests.sources.workbook import workbook

HEADER = "user_id,item_id,event_time"
ROOT = Path(__file__).parents[2]
WriteCsv = Callable[..., Path]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _adds_up(report: IngestReport) -> bool:
    return report.rows_in == report.rows_accepted + report.rows_quarantined + report.rows_deleted + report.rows_known


def test_rows_go_to_their_month_in_order_of_time_with_ties_as_in_the_source(take_in: Ingest, write_csv: WriteCsv):
    path = write_csv("a.csv", HEADER, "u,late,2024-02-01", "u,z,2024-01-05", "u,a,2024-01-05", "u,first,2024-01-01", "u,m,2024-01-05")
    report = take_in(path)
    assert [part.parent.name for part in report.interactions.parts()] == ["month=2024-01", "month=2024-02"]
    assert stored(report)["item_id"].to_list() == ["first", "z", "a", "m", "late"]
    assert report.changed_months == ("2024-01", "2024-02")
    assert report.watermark == "2024-02-01T00:00:00+00:00"
    assert (report.rows_in, report.rows_accepted) == (5, 5)
    assert report.interactions.digest == content_digest(report.interactions.parts(), Path(report.interactions.path))


def test_order_does_not_depend_on_how_many_rows_are_read_at_a_time(tmp_path: Path, write_csv: WriteCsv, monkeypatch: pytest.MonkeyPatch):
    rows = [f"u{n % 7},i{n},2024-0{1 + n % 3}-0{1 + n % 2}" for n in range(60)]
    path = write_csv("a.csv", HEADER, *rows)
    digests = []
    for size in (7, 100_000):
        monkeypatch.setattr(ingest_module, "ROWS_PER_BATCH", size)
        digests.append(ingest(SourceConfig(uri=str(path)), tmp_path / str(size), environment={}, now=NOW).interactions.digest)
    assert digests[0] == digests[1]


def test_bad_rows_are_set_aside_with_rule_file_row_and_word(take_in: Ingest, write_csv: WriteCsv):
    path = write_csv("a.csv", f"{HEADER},kind", "u,i,2024-01-01,view", ",i,2024-01-01,view", "u,i,soon,view", "u,i,2024-01-01,stare")
    report = take_in(path, columns={"event_type": "kind"})
    assert set_aside(report).select("rule", "source_file", "source_row", "found").rows() == [
        ("user_id_null", "a.csv", 2, None),
        ("event_time_unreadable", "a.csv", 3, "soon"),
        ("unknown_event_type", "a.csv", 4, "stare"),
    ]
    assert report.quarantined_by_rule == {"event_time_unreadable": 1, "unknown_event_type": 1, "user_id_null": 1}
    assert _adds_up(report)
    assert stored(report)["source_row"].to_list() == [1]


def test_same_content_again_changes_nothing_whatever_its_name(take_in: Ingest, write_csv: WriteCsv, store: Path):
    path = write_csv("a.csv", HEADER, "u,i,2024-01-01", "u,,2024-01-01")
    take_in(path)
    before = _files(store)
    again = take_in(path)
    assert (again.rows_in, again.rows_known, again.changed_months) == (2, 2, ())
    path.rename(path.with_name("b.csv"))
    renamed = take_in(path.with_name("b.csv"))
    assert (renamed.rows_in, renamed.rows_known) == (2, 2)
    assert _files(store) == before


def test_copy_beside_the_original_counts_once(take_in: Ingest, write_csv: WriteCsv):
    for name in ("a.csv", "b.csv"):
        path = write_csv(name, HEADER, "u,i,2024-01-01")
    report = take_in(path.parent)
    assert (report.rows_in, report.rows_accepted, report.rows_known) == (2, 1, 1)


def test_late_events_go_to_their_month_and_other_months_stay(take_in: Ingest, write_csv: WriteCsv, store: Path):
    first = write_csv("2024-02.csv", HEADER, "u,jan,2024-01-20", "u,feb,2024-02-20")
    take_in(first.parent)
    february = (store / "interactions/month=2024-02/part.parquet").read_bytes()
    write_csv("2024-03.csv", HEADER, "u,late,2024-01-10", "u,tie,2024-01-20", "u,mar,2024-03-01")
    report = take_in(first.parent)
    assert report.changed_months == ("2024-01", "2024-03")
    assert stored(report)["item_id"].to_list() == ["late", "jan", "tie", "feb", "mar"]
    assert (store / "interactions/month=2024-02/part.parquet").read_bytes() == february
    assert (report.rows_in, report.rows_accepted, report.rows_known) == (5, 3, 2)


def test_log_that_grew_goes_on_where_it_stopped(take_in: Ingest, write_csv: WriteCsv):
    rows = ["u,a,2024-01-01", "u,b,2024-01-02", ",c,2024-01-03"]
    take_in(write_csv("log.csv", HEADER, *rows[:1]))
    report = take_in(write_csv("log.csv", HEADER, *rows))
    assert stored(report)["item_id"].to_list() == ["a", "b"]
    assert stored(report)["source_row"].to_list() == [1, 2]
    assert (report.rows_in, report.rows_accepted, report.rows_quarantined, report.rows_known) == (3, 1, 1, 1)
    longer = take_in(write_csv("log.csv", HEADER, *rows, "u,d,2024-01-04"))
    assert (longer.rows_in, longer.rows_accepted, longer.rows_known) == (4, 1, 3)


def test_last_line_that_was_cut_off_is_not_taken_for_growth(take_in: Ingest, write_csv: WriteCsv):
    path = write_csv("log.csv", HEADER, "u,a,2024-01-01")
    path.write_text(path.read_text(encoding="utf-8").removesuffix("\n"), encoding="utf-8")
    take_in(path)
    path.write_text(path.read_text(encoding="utf-8") + "T12:00\nu,b,2024-01-02\n", encoding="utf-8")
    with pytest.raises(SourceError, match="ingested before with other content"):
        take_in(path)


def test_changed_file_is_refused_unless_its_rows_are_said_to_be_new(take_in: Ingest, write_csv: WriteCsv, store: Path):
    path = write_csv("latest.csv", HEADER, "u,a,2024-01-01")
    take_in(path)
    before = _files(store)
    write_csv("latest.csv", HEADER, "u,b,2024-01-02")
    with pytest.raises(SourceError, match=r"latest\.csv: was ingested before with other content \(1 rows\).*source\.changed_files"):
        take_in(path)
    assert _files(store) == before
    assert stored(take_in(path, changed_files="add"))["item_id"].to_list() == ["a", "b"]


def test_natural_ids_repeated_in_a_source_are_set_aside_and_known_ones_passed_over(take_in: Ingest, write_csv: WriteCsv):
    """Also over months, files and passes: the row that comes first stays."""
    mapping = {"columns": {"event_id": "id"}}
    first = write_csv("1.csv", f"id,{HEADER}", "1,u,a,2024-01-05", "2,u,b,2024-02-01", "1,u,again,2024-03-01")
    report = take_in(first.parent, **mapping)
    assert stored(report)["item_id"].to_list() == ["a", "b"]
    assert report.quarantined_by_rule == {"duplicate_event_id": 1}
    assert set_aside(report).select("item_id", "rule", "source_row").rows() == [("again", "duplicate_event_id", 3)]
    write_csv("2.csv", f"id,{HEADER}", "3,u,c,2024-01-01", "2,u,changed,2024-01-01", "3,u,again,2024-01-01")
    report = take_in(first.parent, **mapping)
    assert stored(report)["item_id"].to_list() == ["c", "a", "b"]
    assert (report.rows_in, report.rows_accepted, report.rows_quarantined, report.rows_known) == (6, 1, 1, 4)


def test_repeated_ids_are_found_in_several_passes_too(take_in: Ingest, write_csv: WriteCsv, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ingest_module, "IDS_PER_PASS", 7)
    rows = [f"{n % 40},u,i{n},2024-01-{1 + n % 28:02d}" for n in range(60)]
    report = take_in(write_csv("a.csv", f"id,{HEADER}", *rows), columns={"event_id": "id"})
    assert (report.rows_accepted, report.rows_quarantined) == (40, 20)
    assert set(stored(report)["item_id"]) == {f"i{n}" for n in range(40)}


def test_replaced_file_with_natural_ids_brings_only_its_new_rows(take_in: Ingest, write_csv: WriteCsv):
    mapping = {"columns": {"event_id": "id"}}
    take_in(write_csv("dump.csv", f"id,{HEADER}", "1,u,a,2024-01-01"), **mapping)
    report = take_in(write_csv("dump.csv", f"id,{HEADER}", "2,u,b,2023-12-31", "1,u,a,2024-01-01"), **mapping)
    assert stored(report)["item_id"].to_list() == ["b", "a"]
    assert (report.rows_accepted, report.rows_known) == (1, 1)


def test_deletions_reach_new_rows_stored_months_and_the_quarantine(take_in: Ingest, write_csv: WriteCsv, store: Path):
    first = write_csv("in/1.csv", HEADER, "gone,a,2024-01-01", "stays,b,2024-01-02", "gone,c,2024-02-01", "gone,d,never", "stays,e,never")
    take_in(first.parent)
    deletions = write_csv("deletions.csv", "user_id,requested_at", "gone,2024-03-01")
    write_csv("in/2.csv", HEADER, "gone,f,2024-01-03", "stays,g,2024-01-04", "gone,h,never")
    report = take_in(first.parent, deletions_uri=str(deletions))
    assert stored(report)["item_id"].to_list() == ["b", "g"]
    assert set_aside(report)["item_id"].to_list() == ["e"]
    assert not (store / "interactions/month=2024-02/part.parquet").exists()
    assert (report.rows_in, report.rows_accepted, report.rows_deleted, report.rows_known, report.rows_erased) == (8, 1, 2, 5, 3)
    assert b"gone" not in b"".join(_files(store).values())
    assert take_in(first.parent, deletions_uri=str(deletions)).changed_months == ()


def test_one_row_erased_and_one_added_still_rewrites_the_month(take_in: Ingest, write_csv: WriteCsv):
    first = write_csv("in/1.csv", HEADER, "gone,a,2024-01-01", "stays,b,2024-01-02")
    take_in(first.parent)
    write_csv("in/2.csv", HEADER, "stays,c,2024-01-03")
    report = take_in(first.parent, deletions_uri=str(write_csv("deletions.csv", "user_id", "gone")))
    assert stored(report)["item_id"].to_list() == ["b", "c"]


def test_hashed_ids_are_all_that_is_ever_written(take_in: Ingest, write_csv: WriteCsv, store: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither parts nor quarantine nor what lies in `.staging` on the way nor copies of remote files hold an id in clear."""
    written: list[bytes] = []
    publish = ingest_module._publish
    monkeypatch.setattr(ingest_module, "_publish", lambda *args: (written.extend(_files(store).values()), publish(*args)))
    raw = write_csv(
        "a.csv", f"id,{HEADER}", "1,visible-user,a,2024-01-01", "1,visible-user,b,2024-01-01", "2,visible-user,c,never", "3,visible-gone,d,2024-01-01"
    )
    deletions = write_csv("deletions.csv", "user_id", "visible-gone")
    fsspec.filesystem("memory").pipe("/hashed/a.csv", raw.read_bytes())
    report = take_in("memory://hashed/a.csv", hash_user_ids=True, columns={"event_id": "id"}, deletions_uri=str(deletions))
    expected = hash_ids(pl.Series(["visible-user"]), hash_key(SECRET["PERENNIAL_HASH_KEY"], variable="K"))[0]
    assert stored(report)["user_id"].to_list() == [expected]
    assert set_aside(report)["user_id"].to_list() == [expected, expected]
    assert (report.rows_deleted, report.rows_quarantined) == (1, 2)
    assert len(written) > 3
    assert b"visible" not in b"".join([*written, *_files(store).values()])


def test_hashing_without_a_secret_is_refused_before_anything_is_read(take_in: Ingest, store: Path):
    with pytest.raises(SourceError, match="environment variable PERENNIAL_HASH_KEY, found none"):
        take_in("nowhere.csv", hash_user_ids=True, environment={})
    assert not (store / "interactions").exists()


def test_another_key_reads_everything_again_or_says_what_is_gone(take_in: Ingest, write_csv: WriteCsv):
    first = write_csv("in/1.csv", HEADER, "u,a,2024-01-01")
    write_csv("in/2.csv", HEADER, "u,b,2024-02-01")
    old = stored(take_in(first.parent, hash_user_ids=True))
    other = {"PERENNIAL_HASH_KEY": "quite another secret"}
    new = stored(take_in(first.parent, hash_user_ids=True, environment=other))
    assert new["item_id"].to_list() == ["a", "b"]
    assert set(new["user_id"]).isdisjoint(old["user_id"])
    first.unlink()
    with pytest.raises(SourceError, match=r"1 of the files they came from are gone \(first `1\.csv`\)"):
        take_in(first.parent, hash_user_ids=True)


def test_another_configuration_reads_everything_again(take_in: Ingest, write_csv: WriteCsv, store: Path):
    path = write_csv("a.csv", f"{HEADER},kind", "u,a,2024-01-31 23:30:00,view", "u,b,2024-03-01,stare")
    take_in(path, columns={"event_type": "kind"})
    report = take_in(path, columns={"event_type": "kind"}, time_zone="America/New_York", event_types={"stare": "view"})
    assert [time.isoformat() for time in stored(report)["event_time"]] == ["2024-02-01T04:30:00+00:00", "2024-03-01T05:00:00+00:00"]
    assert (report.rows_accepted, report.quarantined) == (2, None)
    assert not (store / "interactions/month=2024-01").joinpath("part.parquet").exists()


def test_catalogue_is_joined_from_what_is_new_and_what_was_known(take_in: Ingest, write_csv: WriteCsv):
    events = write_csv("a.csv", HEADER, "u,1,2024-01-01")
    options = {"catalogue_columns": {"item_id": "sku", "category": ["high", "low"], "title": "name"}}
    first = write_csv("items.csv", "sku,high,low,name", "1,Food,Bread,Roll", "2,Food,,Old")
    take_in(events, catalogue_uri=str(first), **options)
    write_csv("items.csv", "sku,high,low,name", "2,Food,,New", "3,,,Third")
    report = take_in(events, catalogue_uri=str(first), **options)
    assert report.item_catalogue is not None
    assert pl.read_parquet(report.item_catalogue.path).select("item_id", "category", "title").rows() == [
        ("1", "Food > Bread", "Roll"),
        ("2", "Food", "New"),
        ("3", None, "Third"),
    ]


def test_zip_and_workbook_sheets_are_sources_of_their_own(take_in: Ingest, tmp_path: Path):
    sheets = {"2023": [HEADER.split(","), ["u", "a", dt.datetime(2023, 5, 1, 10)]], "2024": [HEADER.split(","), ["u", "b", dt.datetime(2024, 5, 1, 10)]]}
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        archive.writestr("log.xlsx", workbook(sheets))
    events = stored(take_in(tmp_path / "raw.zip"))
    assert events.select("item_id", "source_file", "source_row").rows() == [("a", "raw.zip!log.xlsx#2023", 1), ("b", "raw.zip!log.xlsx#2024", 1)]
    assert events["event_time"].dt.year().to_list() == [2023, 2024]


def test_hive_key_can_be_mapped(take_in: Ingest, write_csv: WriteCsv):
    for region in ("GB", "AU"):
        path = write_csv(f"in/country={region}/a.csv", HEADER, "u,i,2024-01-01")
    events = stored(take_in(path.parents[1], columns={"region": "country"}))
    assert events.select("region", "source_file").rows() == [("AU", "country=AU/a.csv"), ("GB", "country=GB/a.csv")]
    assert events["event_id"].n_unique() == 2


def test_file_none_of_whose_rows_can_be_used_is_a_fault_of_the_configuration(take_in: Ingest, write_csv: WriteCsv, store: Path):
    path = write_csv("a.csv", HEADER, *["u,i,31.12.2024"] * 100)
    with pytest.raises(SourceError, match=r"none of 100 rows can be used: event_time_unreadable 100, first '31\.12\.2024' in row 1\. Set `source\.time_f"):
        take_in(path)
    assert not (store / "interactions").exists()


@pytest.mark.parametrize("lines", [(HEADER,), (HEADER, ",,")])
def test_source_without_one_usable_row_is_refused(take_in: Ingest, write_csv: WriteCsv, lines: tuple[str, ...]):
    with pytest.raises(SourceError, match=r"expected events, found . rows, none of which can be used"):
        take_in(write_csv("a.csv", *lines))


def test_fault_in_the_second_file_leaves_the_store_as_it_was(take_in: Ingest, write_csv: WriteCsv, store: Path):
    first = write_csv("in/1.csv", HEADER, "u,a,2024-01-01")
    take_in(first.parent)
    before = _files(store)
    write_csv("in/2.csv", HEADER, "u,b,2024-01-02")
    (first.parent / "3.csv").write_bytes(f"{HEADER}\nu,caf\xe9,2024-01-03\n".encode("latin-1"))
    with pytest.raises(SourceError, match="expected UTF-8") as error:
        take_in(first.parent)
    assert error.value.step == "ingest"
    assert _files(store) == before


def test_line_with_more_fields_than_the_header_names_the_separator(take_in: Ingest, write_csv: WriteCsv):
    with pytest.raises(SourceError, match=r"a\.csv: cannot be read to its end: .*source\.csv_separator"):
        take_in(write_csv("a.csv", HEADER, "u,i,2024-01-01,surplus"))


def test_unit_is_checked_at_ingest(take_in: Ingest, write_csv: WriteCsv):
    with pytest.raises(SourceError, match=r"Set `source\.time_unit: s`"):
        take_in(write_csv("a.csv", HEADER, "u,i,1709298307"), time_unit="ms")


def test_progress_rises_to_one(write_csv: WriteCsv, store: Path):
    told: list[tuple[str, float]] = []
    for number in range(3):
        path = write_csv(f"in/{number}.csv", HEADER, f"u,i{number},2024-0{1 + number}-01")
    ingest(SourceConfig(uri=str(path.parent)), store, environment={}, now=NOW, progress=lambda what, share: told.append((what, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any("2.csv: 1 rows" in what for what, _ in told)


_KILL = """
import os, signal, sys
from pathlib import Path
replace, calls = Path.replace, []
def dying(self, target):
    calls.append(target)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = dying
if sys.argv[3] == "0":
    import sources.ingest
    sources.ingest._write_part = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
import datetime as dt
from contracts.sections.source import SourceConfig
from sources.ingest import ingest
ingest(SourceConfig(uri=sys.argv[1]), Path(sys.argv[2]), environment={}, now=dt.datetime(2025, 1, 1, tzinfo=dt.UTC))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dies_at_move", [0, 2])
def test_ingest_killed_in_the_middle_ends_as_if_it_had_not_been(tmp_path: Path, write_csv: WriteCsv, dies_at_move: int):
    """Killed while writing the first part (0), or after the first of three moves (2): the next ingest ends with the same bytes as an undisturbed one."""
    path = write_csv("in/1.csv", HEADER, "u,a,2024-01-01", "u,b,2024-02-01")
    config, broken, whole = SourceConfig(uri=str(path.parent)), tmp_path / "broken", tmp_path / "whole"
    for folder in (broken, whole):
        ingest(config, folder, environment={}, now=NOW)
    before = _files(broken)
    write_csv("in/2.csv", HEADER, "u,c,2024-01-02", "u,d,2024-02-02")
    command = [sys.executable, "-c", _KILL, str(path.parent), str(broken), str(dies_at_move)]
    environment = {**os.environ, "POLARS_MAX_THREADS": "1", "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, check=False, env=environment, timeout=60).returncode == -signal.SIGKILL
    if dies_at_move == 0:
        visible = {name: content for name, content in _files(broken).items() if not name.startswith(".staging")}
        assert visible == before
    ingest(config, broken, environment={}, now=NOW)
    expected = ingest(config, whole, environment={}, now=NOW)
    assert _files(broken) == _files(whole)
    assert stored(expected)["item_id"].to_list() == ["a", "c", "b", "d"]


def test_own_parts_can_be_a_source(take_in: Ingest, write_csv: WriteCsv, store: Path, tmp_path: Path):
    """The stored table read back as a source keeps its rows; its folder key `month` and its `source_row` do not get in the way."""
    take_in(write_csv("a.csv", HEADER, "u,a,2024-01-01", "u,b,2024-02-01"))
    assert len(find(str(store / "interactions"))) == 2
    report = ingest(SourceConfig(uri=str(store / "interactions")), tmp_path / "second", environment={}, now=NOW)
    assert stored(report)["item_id"].to_list() == ["a", "b"]
