"""The suites of the other tables: a good table passes whole, each fault is found by its rule."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from contracts.artifacts import TableRef, ValidationReport
from contracts.errors import DataContractError, FeatureLeakageError
from contracts.sections.validation import ValidationConfig
from contracts.tables import TABLES
from expectations.quarantine import table_ref
from expectations.table_checks import TABLE_CHECKS
from expectations.validation import validate_table, validate_tables
from tests.expectations.made_tables import store_table

CUTOFF = date(2024, 3, 4)
WEEKS = [CUTOFF - timedelta(days=7 * ago) for ago in (4, 3, 2, 1)]

GOOD: dict[str, pl.DataFrame] = {
    "vocabulary": pl.DataFrame({"item_id": ["a", "b"], "item_index": [1, 2]}),
    "demand": pl.DataFrame(
        {
            "level": ["item"] * 4 + ["category"] * 3,
            "id": ["a"] * 4 + ["food"] * 3,
            "region": ["all"] * 7,
            "date": [*WEEKS, *WEEKS[1:]],
            "units": [1.0, 0.0, 2.0, 3.5, 1.0, 2.0, 3.0],
            "buyers": [1, 0, 2, 3, 1, 2, 3],
            "is_observed": [True] * 7,
        }
    ),
    "habits": pl.DataFrame(
        {
            "user_id": ["u", "u"],
            "item_id": ["a", "b"],
            "cutoff": [CUTOFF] * 2,
            "decayed_14d": [0.5, 0.0],
            "baskets": [2, 1],
            "first_day": [19_000, 19_700],
            "last_day": [19_785, 19_700],  # 2024-03-03, the day before the cut-off
            "days": [[19_000, 19_785], [19_700]],
            "user_trips": [2, 2],
            "user_last_day": [19_785, 19_785],
        }
    ),
    "season": pl.DataFrame({"item_id": ["a", "b"], "region": ["all"] * 2, "trend_lift_4w": [0.1, -0.2], "season_lead": [0.0, 0.0]}),
    "histories": pl.DataFrame(
        {
            "user_id": ["u", "v"],
            "cutoff": [CUTOFF] * 2,
            "item_id": [["a", "b"], ["a"]],
            "event_time": [[datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 3, 23, 59, tzinfo=UTC)], [datetime(2024, 1, 1, tzinfo=UTC)]],
            "event_type": [["view", "view"], ["view"]],
        }
    ),
    "item_weeks": pl.DataFrame(
        {
            "item_id": ["a", "a"],
            "region": ["all"] * 2,
            "weeks_ago": [0, 3],
            "buyers": [2, 1],
            "first_buyers": [1, 1],
            "last_buyers": [2, 0],
            "units": [2.0, 5.0],
            "users": [9, 9],
            "cutoff": [CUTOFF] * 2,
        }
    ),
    "forecasts": pl.DataFrame(
        {
            "cutoff": [CUTOFF] * 2,
            "level": ["total"] * 2,
            "id": ["total"] * 2,
            "region": ["all"] * 2,
            "date": [CUTOFF - timedelta(days=6), CUTOFF + timedelta(days=1)],  # a cut-off inside a week
            "model": ["theta"] * 2,
            "mean": [5.0, 6.0],
            **{column: [value, value] for column, value in (("q025", 1.0), ("q100", 2.0), ("q500", 5.0), ("q900", 8.0), ("q975", 8.0))},
        }
    ),
    "rankings": pl.DataFrame(
        {
            "cutoff": [CUTOFF] * 4,
            "request_date": [CUTOFF] * 4,
            "list": ["again"] * 4,
            "model_version": ["1"] * 4,
            "user_id": ["u", "u", "v", "v"],
            "rank": [1, 2, 1, 2],
            "item_id": ["a", "b", "b", "a"],
            "score": [3.0, 1.0, 2.0, 2.0],
            "taste": [1.0, 0.5, 2.0, 1.0],
            "habit": [1.5, 0.0, 0.0, 0.0],
            "season": [0.5, 0.5, 0.0, 1.0],
        }
    ),
    "item_catalogue": pl.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "category": ["x", "x", "y"],
            "available_from": [datetime(2024, 1, 1, tzinfo=UTC)] * 3,
            "available_until": [None, datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)],
        }
    ),
}

FIRST = pl.int_range(pl.len()) == 0


def first(column: str, value: object) -> pl.Expr:
    """The column with its first row changed."""
    return pl.when(FIRST).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)


FAULTS = [
    ("vocabulary", first("item_index", 2), "item_index_repeated"),
    ("vocabulary", first("item_index", 0), "item_index_not_positive"),
    ("vocabulary", first("item_id", "b"), "row_repeated"),
    ("vocabulary", first("item_id", None), "item_id_missing"),
    ("demand", first("units", -1.0), "units_negative"),
    ("demand", first("units", float("nan")), "number_not_finite"),
    ("demand", first("level", "brand"), "level_unknown"),
    ("demand", first("date", date(2024, 1, 1)), "period_missing"),
    ("demand", first("date", WEEKS[1]), "row_repeated"),
    ("habits", first("last_day", 19_786), "habit_reaches_cutoff"),
    ("habits", first("user_last_day", 19_786), "habit_reaches_cutoff"),
    ("habits", first("first_day", 19_786), "first_day_after_last"),
    ("habits", first("baskets", 0), "baskets_not_positive"),
    ("habits", first("decayed_14d", -0.5), "decayed_14d_negative"),
    ("season", first("trend_lift_4w", None), "trend_lift_4w_missing"),
    ("season", first("trend_lift_4w", float("inf")), "number_not_finite"),
    ("histories", first("cutoff", date(2024, 3, 3)), "history_reaches_cutoff"),
    ("histories", pl.col("event_time").list.reverse(), "history_unordered"),
    ("histories", pl.col("item_id").list.head(1), "history_lengths_differ"),
    ("histories", pl.col("item_id", "event_time", "event_type").list.head(0), "history_empty"),
    ("item_weeks", first("weeks_ago", -1), "demand_reaches_cutoff"),
    ("item_weeks", first("last_buyers", 3), "more_first_buyers_than_buyers"),
    ("forecasts", first("date", CUTOFF - timedelta(days=7)), "forecast_before_cutoff"),
    ("forecasts", first("q900", 4.0), "quantiles_cross"),
    ("forecasts", first("mean", -0.1), "forecast_negative"),
    ("rankings", first("rank", 3), "ranks_have_gaps"),
    ("rankings", first("item_id", "b"), "item_twice_in_list"),
    ("rankings", first("list", "similar"), "list_unknown"),
    ("rankings", first("request_date", date(2024, 3, 3)), "request_before_cutoff"),
    ("rankings", first("habit", 9.0), "parts_do_not_add_up"),
    ("rankings", [first("score", 0.5), first("habit", -1.0)], "list_not_best_first"),
]


def validate(folder: Path, name: str, frame: pl.DataFrame) -> ValidationReport:
    return validate_table(stored(folder, name, frame), ValidationConfig(max_quarantined_share=0.5), folder=folder / "run")


def stored(folder: Path, name: str, frame: pl.DataFrame) -> TableRef:
    if name in TABLES:
        return store_table(folder / name, name, frame)
    (folder / name).mkdir(parents=True)
    frame.write_parquet(folder / name / "a.parquet")
    return table_ref(name, folder / name)


def test_every_table_with_a_contract_or_a_suite_is_tried_here():
    assert set(GOOD) == set(TABLE_CHECKS) >= set(TABLES) - {"interactions"}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_a_good_table_passes_whole(tmp_path: Path, name: str):
    report = validate(tmp_path, name, GOOD[name])
    assert report.findings == ()
    assert report.accepted.path == str(tmp_path / name)
    assert report.num_expectations >= 4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault", "rule"), FAULTS, ids=[f"{name}-{rule}" for name, _, rule in FAULTS])
def test_a_fault_is_found_by_its_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: pl.Expr, rule: str):
    monkeypatch.setattr("expectations.validation.build_data_docs", lambda *_, **__: Path("docs"))  # half of the time, and tried elsewhere
    with pytest.raises((DataContractError, FeatureLeakageError), match=rf"{name}: .*`{rule}`") as caught:
        validate(tmp_path, name, GOOD[name].with_columns(fault))
    assert isinstance(caught.value, FeatureLeakageError) == rule.endswith("reaches_cutoff")


@pytest.mark.slow
def test_bad_catalogue_entries_are_set_aside_and_the_first_of_two_is_kept(tmp_path: Path):
    catalogue = pl.DataFrame(
        {
            "item_id": ["a", "a", None, "", "b", "c", "d"],
            "category": ["x", "y", "x", "x", None, "x", "x"],
            "available_from": [datetime(2024, 1, 2, tzinfo=UTC)] * 7,
            "available_until": [datetime(2024, 1, 3, tzinfo=UTC)] * 5 + [datetime(2024, 1, 1, tzinfo=UTC), None],
        }
    )
    report = validate_table(stored(tmp_path, "item_catalogue", catalogue), ValidationConfig(max_quarantined_share=0.6), folder=tmp_path / "run")
    assert pl.read_parquet(report.accepted.parts()).select("item_id", "category").rows() == [("a", "x"), ("b", None), ("d", "x")]
    assert report.quarantined_by_rule == {"available_until_before_from": 1, "item_id_empty": 1, "item_id_missing": 1, "item_id_repeated": 1}
    assert [found.rule for found in report.findings][-1] == "category_missing"
    assert {found.severity for found in report.findings} == {"warning"}


@pytest.mark.slow
def test_too_many_bad_catalogue_entries_stop(tmp_path: Path):
    catalogue = GOOD["item_catalogue"].with_columns(item_id=pl.lit("a"))
    with pytest.raises(DataContractError, match="Found 2 of 3 rows by rule: item_id_repeated 2"):
        validate(tmp_path, "item_catalogue", catalogue)


@pytest.mark.slow
def test_several_tables_share_one_run_and_references_of_one_name_are_one_table(tmp_path: Path):
    later = GOOD["habits"].with_columns(cutoff=CUTOFF + timedelta(days=28))
    tables = [
        stored(tmp_path / "first", "habits", GOOD["habits"]),
        stored(tmp_path / "second", "habits", later),
        stored(tmp_path / "first", "season", GOOD["season"]),
        stored(tmp_path / "second", "season", GOOD["season"]),  # the same items at another lead
    ]
    reports = validate_tables(tables, ValidationConfig(), folder=tmp_path / "run")
    assert {name: (report.rows_in, report.findings) for name, report in reports.items()} == {"habits": (4, ()), "season": (4, ())}
    assert len({report.data_docs for report in reports.values()}) == 1
    with pytest.raises(DataContractError, match=r"habits: 2 of 4 rows .*`row_repeated`"):
        validate_tables([tables[0], stored(tmp_path / "third", "habits", GOOD["habits"])], ValidationConfig(), folder=tmp_path / "run")


def test_a_table_without_a_suite_is_an_error_that_lists_the_known(tmp_path: Path):
    with pytest.raises(ValueError, match="no suite for table `targets`; known: item_catalogue, vocabulary"):
        validate(tmp_path, "targets", pl.DataFrame({"user_id": ["u"]}))
