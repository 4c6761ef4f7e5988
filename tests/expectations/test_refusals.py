"""Whole validations that end in an error, or in nothing to tell."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from contracts.errors import DataContractError, NotEnoughHistoryError
from contracts.sections.validation import ValidationConfig
from expectations.validation import validate_interactions
from tests.expectations.made_tables import made_events, store_table

pytestmark = pytest.mark.slow
NOW = datetime(2024, 6, 1, tzinfo=UTC)


def validate(tmp_path: Path, events: pl.DataFrame, config: ValidationConfig | None = None, **more: object):
    table = store_table(tmp_path / "stored", "interactions", events)
    return validate_interactions(table, None, config or ValidationConfig(), folder=tmp_path / "run", now=NOW, horizon_days=28, **more)


def test_good_events_are_accepted_as_they_are_stored(tmp_path: Path):
    report = validate(tmp_path, made_events())
    assert report.accepted.path == str(tmp_path / "stored")
    assert (report.rows_in, report.rows_accepted, report.rows_quarantined, report.findings) == (600, 600, 0, ())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["data_docs"]


@pytest.mark.parametrize(
    ("events", "rule", "found"),
    [
        (made_events(num_users=1), "at least 2 users", "num_users = 1"),
        (made_events(num_items=1), "at least 2 items", "num_items = 1"),
        (made_events(28 * 8), "more than the 28 days to recommend for", "span_days = 28"),
    ],
)
def test_too_few_data_stop_with_what_was_found(tmp_path: Path, events: pl.DataFrame, rule: str, found: str):
    with pytest.raises(NotEnoughHistoryError, match=rule) as caught:
        validate(tmp_path, events)
    assert found in str(caught.value)
    assert (tmp_path / "run" / "data_docs" / "index.html").exists()


def test_one_day_more_than_the_horizon_is_enough(tmp_path: Path):
    assert validate(tmp_path, made_events(28 * 8 + 1)).rows_accepted == 225


def test_too_many_bad_rows_stop_and_are_all_kept(tmp_path: Path):
    events = made_events(100).with_columns(event_type=pl.when(pl.int_range(100) < 6).then(pl.lit("hover")).otherwise("event_type"))
    with pytest.raises(DataContractError, match=r"Found 6 of 100 rows by rule: event_type_unknown 6.*quarantine") as caught:
        validate(tmp_path, events)
    assert caught.value.rule == "too_many_rows_quarantined"
    assert pl.read_parquet(tmp_path / "run" / "quarantine" / "*.parquet").height == 6


def test_nothing_but_bad_rows_is_told_as_bad_rows(tmp_path: Path):
    with pytest.raises(DataContractError, match="40 of 40 rows by rule: price_negative 40"):
        validate(tmp_path, made_events(40).with_columns(price=pl.lit(-1.0)))


def test_events_without_users_are_good_where_no_user_is_expected(tmp_path: Path):
    events = made_events().with_columns(user_id=pl.lit(None, pl.String))
    assert validate(tmp_path / "demand", events, has_users=False).rows_accepted == 600
    with pytest.raises(DataContractError, match="user_id_missing 600"):
        validate(tmp_path / "users", events)


def test_events_that_say_the_same_under_other_ids_are_a_warning(tmp_path: Path):
    events = made_events(300)
    report = validate(tmp_path, pl.concat([events, events.with_columns(pl.format("copy-{}", "event_id").alias("event_id"))]))
    assert [(found.rule, found.severity) for found in report.findings] == [("rows_repeated", "warning")]
    assert "repeated_share = 0.5" in report.findings[0].message


def test_a_category_that_left_is_a_warning(tmp_path: Path):
    events = made_events(1_200, hours_apart=8, start=datetime(2023, 4, 1, tzinfo=UTC))
    events = events.with_columns(item_id=pl.when(pl.col("event_time") < datetime(2024, 1, 1, tzinfo=UTC)).then("item_id").otherwise(pl.lit("i0")))
    table = store_table(tmp_path / "stored", "interactions", events)
    catalogue = pl.DataFrame({"item_id": [f"i{number}" for number in range(15)], "category": ["bread > rye"] + ["toys"] * 14})
    item_catalogue = store_table(tmp_path / "catalogue", "item_catalogue", catalogue)
    report = validate_interactions(table, item_catalogue, ValidationConfig(), folder=tmp_path / "run", now=NOW, horizon_days=28)
    assert [(found.rule, found.num_failed, found.example_row["category"]) for found in report.findings] == [("category_share_unusual", 2, "bread")]


def test_validations_in_threads_do_not_disturb_each_other(tmp_path: Path):
    reports, sizes = {}, (100, 150, 200)
    for size in sizes:
        (tmp_path / str(size)).mkdir()

    def run(size: int) -> None:
        bad = made_events(size, hours_apart=12).with_columns(price=pl.when(pl.int_range(size) == 7).then(-1.0).otherwise("price"))
        reports[size] = validate(tmp_path / str(size), bad)

    threads = [threading.Thread(target=run, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {size: (report.rows_in, report.quarantined_by_rule) for size, report in reports.items()} == {size: (size, {"price_negative": 1}) for size in sizes}
