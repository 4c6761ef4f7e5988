"""Data that cannot be used, through the command line: each ends with its exit code and says what was found, where, and what to try."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from contracts.errors import TransientError
from tests.flows.conftest import newest_run

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]

FIRST = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
WRONG, BROKEN = 2, 3


def events(num_days: int = 90, users: tuple[str, ...] = ("u1", "u2", "u3"), items: tuple[str, ...] = ("i1", "i2", "i3")) -> pl.DataFrame:
    """One purchase a day by each user."""
    rows = [(user, items[(day + place) % len(items)], FIRST + dt.timedelta(days=day)) for day in range(num_days) for place, user in enumerate(users)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "event_time"], orient="row")


def no_file(path: Path) -> None:
    path.with_name("orders_2024.csv").write_text("", encoding="utf-8")


def truncated(path: Path) -> None:
    events().write_parquet(path)
    path.write_bytes(path.read_bytes()[:-40])


FAULTS: dict[str, tuple[str, Callable[[Path], object], int, str]] = {
    "good": ("csv", lambda path: events().write_csv(path), 0, "270 rows in, 270 accepted"),
    "no such file": ("csv", no_file, WRONG, "no such file"),
    "empty file": ("csv", lambda path: path.write_text("", encoding="utf-8"), WRONG, "empty"),
    "truncated parquet": ("parquet", truncated, WRONG, "events.parquet"),
    "not utf-8": ("csv", lambda path: path.write_bytes(b"user_id,item_id,event_time\nj\xfcrgen,i1,2024-01-01\n"), WRONG, "UTF-8"),
    "missing column": ("csv", lambda path: events().rename({"item_id": "item_ids"}).write_csv(path), WRONG, "item_ids"),
    "one user only": ("csv", lambda path: events(users=("u1",)).write_csv(path), BROKEN, "Found num_users = 1."),
    "one item only": ("csv", lambda path: events(items=("i1",)).write_csv(path), BROKEN, "Found num_items = 1."),
    "less history than the horizon": ("csv", lambda path: events(20).write_csv(path), BROKEN, "28"),
    "null users": ("csv", lambda path: events().with_columns(pl.lit(None, pl.String).alias("user_id")).write_csv(path), WRONG, "user_id_null 270"),
}


def wrong_type(path: Path) -> None:
    events().with_columns(pl.concat_list("item_id")).write_parquet(path)


def in_seconds(path: Path) -> None:
    events().with_columns(pl.col("event_time").dt.epoch("s")).write_csv(path)


def with_one_bad(**bad: pl.Expr) -> Callable[[Path], object]:
    """A log whose first event is replaced; the others are good."""

    def write(path: Path) -> None:
        is_first = pl.int_range(pl.len()) == 0
        table = events().with_columns(event_type=pl.lit("purchase"), price=pl.lit(2.5))
        table.with_columns(pl.when(is_first).then(value.cast(table.schema[name])).otherwise(pl.col(name)).alias(name) for name, value in bad.items()).write_csv(
            path
        )

    return write


def doubled(path: Path) -> None:
    pl.concat([events(), events()]).write_csv(path)


def with_catalogue(path: Path) -> None:
    events().write_csv(path)
    pl.DataFrame({"item_id": ["i1"], "category": ["tea"]}).write_csv(path.with_name("catalogue.csv"))


def in_year(year: int) -> pl.Expr:
    return pl.lit(dt.datetime(year, 1, 1, tzinfo=dt.UTC))


MAPPED = {"columns": {"event_type": "event_type", "price": "price"}}

# name -> ending, writer, more of `source`, exit code, what is said
MORE: dict[str, tuple[str, Callable[[Path], object], dict[str, Any], int, tuple[str, ...]]] = {
    "wrong type": ("parquet", wrong_type, {}, WRONG, ("column `item_id` (item_id): expected a text or an integer, found List(String)",)),
    "seconds declared milliseconds": ("csv", in_seconds, {"time_unit": "ms"}, WRONG, ("source.time_unit", "1970")),
    "unknown time zone": ("csv", lambda path: events().write_csv(path), {"time_zone": "Europe/Pari"}, WRONG, ("time_zone",)),
    "without zone": ("csv", lambda path: events().with_columns(pl.col("event_time").dt.replace_time_zone(None)).write_csv(path), {}, 0, ("270 accepted",)),
    "in the future": ("csv", with_one_bad(event_time=in_year(2200)), MAPPED, 0, ("269 accepted, 1 quarantined", "event_time_in_future: 1")),
    "beyond any clock": ("csv", with_one_bad(event_time=in_year(2999)), MAPPED, 0, ("270 rows in, 269 accepted, 1 quarantined", "event_time_out_of_range: 1")),
    "unknown event type": (
        "csv",
        with_one_bad(event_type=pl.lit("teleport")),
        MAPPED,
        0,
        ("270 rows in, 269 accepted, 1 quarantined", "unknown_event_type: 1"),
    ),
    "negative price": ("csv", with_one_bad(price=pl.lit(-1.0)), MAPPED, 0, ("269 accepted, 1 quarantined", "quarantined by price_negative: 1")),
    "duplicated rows": ("csv", doubled, {}, 0, ("540 accepted", "warning: rows_repeated: interactions", "source.columns.event_id")),
    "items absent from the catalogue": ("csv", with_catalogue, {"catalogue_uri": "catalogue.csv"}, 0, ("item_not_in_catalogue",)),
}


@pytest.mark.parametrize("name", MORE)
def test_bad_rows_are_set_aside_or_remarked_on_and_bad_columns_end_the_call(name: str, tmp_path: Path, invoke: Callable[..., Any]):
    ending, write, more, exit_code, said = MORE[name]
    write(tmp_path / f"events.{ending}")
    if "catalogue_uri" in more:
        more = {**more, "catalogue_uri": str(tmp_path / "catalogue.csv"), "catalogue_columns": {"item_id": "item_id", "category": ["category"]}}
    parameters = tmp_path / "mine.yaml"
    source = {"uri": str(tmp_path / f"events.{ending}"), **more}
    parameters.write_text(yaml.safe_dump({"name": "mine", "storage_root": str(tmp_path / "stores"), "source": source}), encoding="utf-8")
    shown = invoke("validate", str(parameters))
    assert shown.exit_code == exit_code, shown.output
    words = " ".join(shown.output.split())
    assert [text for text in said if text not in words] == [], words
    assert "Traceback" not in shown.output


@pytest.fixture(params=FAULTS, ids=str)
def fault(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, int, str]:
    ending, write, exit_code, said = FAULTS[request.param]
    write(tmp_path / f"events.{ending}")
    parameters = tmp_path / "mine.yaml"
    parameters.write_text(
        yaml.safe_dump({"name": "mine", "storage_root": str(tmp_path / "stores"), "source": {"uri": str(tmp_path / f"events.{ending}")}}), encoding="utf-8"
    )
    return parameters, exit_code, said


def test_fault_in_the_data_ends_with_its_code_and_in_words(fault: tuple[Path, int, str], invoke: Callable[..., Any]):
    parameters, exit_code, said = fault
    shown = invoke("validate", str(parameters))
    assert shown.exit_code == exit_code, shown.output
    assert said in " ".join(shown.output.split())
    assert "Traceback" not in shown.output
    assert {state for states in newest_run("validate-only").steps.values() for state in states} <= {"Completed", "Failed"}


def test_run_stops_before_any_feature_is_built(tmp_path: Path, invoke: Callable[..., Any]):
    events(users=("u1",)).write_csv(tmp_path / "events.csv")
    parameters = tmp_path / "mine.yaml"
    parameters.write_text(
        yaml.safe_dump({"name": "mine", "storage_root": str(tmp_path / "stores"), "source": {"uri": str(tmp_path / "events.csv")}}), encoding="utf-8"
    )
    assert invoke("run", str(parameters)).exit_code == BROKEN
    assert newest_run("seasonal-training").steps == {"ingest": ["Completed"], "validate": ["Failed"]}


@pytest.mark.parametrize(("error", "calls"), [(TransientError("MLflow does not answer"), 3), (ValueError("ours"), 1)], ids=["transient", "terminal"])
def test_only_a_fault_that_may_pass_is_tried_again(error: Exception, calls: int):
    from prefect import flow, task

    from tasks.reuse import run_each_time

    tried: list[int] = []

    @task(name="stumbling", **{**run_each_time(minutes=1), "retry_delay_seconds": 0})
    def stumbling() -> str:
        tried.append(1)
        if len(tried) < 3:
            raise error
        return "done"

    @flow(name="stumbling-flow")
    def stumbling_flow() -> str:
        return stumbling()

    if calls == 1:
        with pytest.raises(ValueError, match="ours"):
            stumbling_flow()
    else:
        assert stumbling_flow() == "done"
    assert len(tried) == calls
