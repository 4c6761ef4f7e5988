"""Bad interactions: each kind is set aside under its rule, the rest goes on, and everything is told. One validation, looked at from many sides."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from contracts.artifacts import Finding, TableRef, ValidationReport
from contracts.errors import DataContractError, FeatureLeakageError, NotEnoughHistoryError
from contracts.sections.validation import ValidationConfig
from expectations.validation import raise_if_critical, validate_interactions
from tests.expectations.made_tables import made_events, store_table

NOW = datetime(2024, 6, 1, tzinfo=UTC)
START = datetime(2024, 1, 1, tzinfo=UTC)

# What is wrong with an event -> the rules it breaks, in the suite's order.
BROKEN: dict[str, tuple[dict[str, object], list[str]]] = {
    "no event id": ({"event_id": None}, ["event_id_missing"]),
    "no user": ({"user_id": None}, ["user_id_missing"]),
    "empty user": ({"user_id": ""}, ["user_id_empty"]),
    "no item": ({"item_id": None}, ["item_id_missing"]),
    "no time": ({"event_time": None}, ["event_time_missing"]),
    "milliseconds read as seconds": ({"event_time": datetime(1970, 1, 20, tzinfo=UTC)}, ["event_time_too_early"]),
    "in the future": ({"event_time": NOW + timedelta(hours=24, microseconds=1)}, ["event_time_in_future"]),
    "no type": ({"event_type": None}, ["event_type_missing"]),
    "unknown type": ({"event_type": "what's this"}, ["event_type_unknown"]),
    "price not a number": ({"price": float("nan")}, ["number_not_finite"]),
    "endless quantity": ({"quantity": float("inf")}, ["number_not_finite"]),
    "nothing bought": ({"quantity": 0.0}, ["quantity_not_positive"]),
    "negative price": ({"price": -0.01}, ["price_negative"]),
    "price of a house": ({"price": 2e6}, ["price_too_high"]),
    "repeated id": ({"event_id": "e0"}, ["event_id_repeated"]),
    "no user, negative price": ({"user_id": None, "price": -1.0}, ["user_id_missing", "price_negative"]),
}
GOOD = {"just in time": {"event_time": NOW + timedelta(hours=24)}, "free": {"price": 0.0}, "without price and quantity": {"price": None, "quantity": None}}


def changed(number: int, changes: dict[str, object]) -> pl.DataFrame:
    event = made_events(1).with_columns(event_id=pl.lit(f"x{number}"))
    return event.with_columns(pl.lit(value).cast(event.schema[column]).alias(column) for column, value in changes.items())


@dataclass(frozen=True)
class Validated:
    stored: TableRef
    report: ValidationReport
    folder: Path


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Validated:
    folder = tmp_path_factory.mktemp("validation")
    # 60 events a day, on the last day 300
    events = made_events(60 * 90, hours_apart=24 / 60, start=START)
    rush = made_events(240, hours_apart=0.01, start=START + timedelta(days=89, hours=1)).with_columns(pl.format("rush-{}", "event_id").alias("event_id"))
    odd = pl.concat([changed(number, changes) for number, changes in enumerate([*(changes for changes, _ in BROKEN.values()), *GOOD.values()])])
    odd = pl.concat([odd, rush]).with_columns(source_file=pl.lit("raw.csv"), source_row=pl.int_range(pl.len(), dtype=pl.Int64))
    stored = store_table(folder / "stored", "interactions", events.with_columns(source_file=pl.lit("old.csv"), source_row=pl.lit(0, pl.Int64)), odd)
    items = pl.DataFrame({"item_id": [*(f"i{number}" for number in range(13)), ""], "category": ["food"] * 10 + [None] * 4})
    catalogue = store_table(folder / "catalogue", "item_catalogue", items)
    report = validate_interactions(stored, catalogue, ValidationConfig(), folder=folder / "run", now=NOW, horizon_days=28)
    return Validated(stored, report, folder / "run")


def finding(report: ValidationReport, rule: str) -> Finding:
    return next(found for found in report.findings if found.rule == rule)


def test_no_row_is_lost(validated: Validated):
    report = validated.report
    assert report.rows_in == validated.stored.rows == report.rows_accepted + report.rows_quarantined
    assert report.rows_quarantined == len(BROKEN) == sum(report.quarantined_by_rule.values())
    assert report.accepted.rows == report.rows_accepted
    before = pl.read_parquet(validated.stored.parts())
    after = pl.concat([pl.read_parquet(report.accepted.parts()), pl.read_parquet(report.quarantined.parts()).select(before.columns)])
    assert sorted(map(str, after.rows())) == sorted(map(str, before.rows()))


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_event_is_set_aside_with_the_rules_it_broke(validated: Validated, what: str):
    rules = BROKEN[what][1]
    kept = pl.read_parquet(validated.report.quarantined.parts()).filter(pl.col("source_row") == list(BROKEN).index(what)).row(0, named=True)
    assert kept["broken_rules"].split(", ") == rules
    assert kept["rule"] == rules[0]
    assert kept["source_file"] == "raw.csv"


def test_events_at_the_edge_of_a_rule_are_accepted_in_their_order(validated: Validated):
    first = len(BROKEN)
    accepted = pl.read_parquet(validated.report.accepted.parts())["event_id"].to_list()
    assert accepted[5_400:5_404] == [f"x{first}", f"x{first + 1}", f"x{first + 2}", "rush-e0"]


def test_a_finding_says_rule_count_example_place_and_what_to_do(validated: Validated):
    found = finding(validated.report, "price_negative")
    assert (found.table, found.severity, found.num_failed) == ("interactions", "warning", 2)
    assert found.example_row is not None
    assert found.example_row["price"] == "-0.01"
    for part in (f"2 of {validated.stored.rows:,} rows", "`price_negative`", "zero or more", "quarantine", "event_id=x12", "leave them out"):
        assert part in found.message


def test_items_without_catalogue_entry_and_unusual_days_are_warnings(validated: Validated):
    items, volume = finding(validated.report, "item_not_in_catalogue"), finding(validated.report, "volume_unusual")
    assert items.severity == volume.severity == "warning"
    assert (items.num_failed, items.example_row["item_id"]) == (2, "i13")
    assert (volume.example_row["num_events"], volume.example_row["expected"]) == ("300", "60.0")
    assert volume.num_failed == 1 + 21  # the rush, then days without events as long as most weeks before had some


def test_the_catalogue_is_looked_at_beside_the_events(validated: Validated):
    found = {found.rule: found for found in validated.report.findings if found.table == "item_catalogue"}
    assert {rule: (one.severity, one.num_failed) for rule, one in found.items()} == {"item_id_empty": ("warning", 1), "category_missing": ("warning", 1)}
    assert "1 of 14 rows" in found["item_id_empty"].message
    assert "Set aside" not in found["item_id_empty"].message


def test_the_data_docs_stand_alone_and_show_every_rule(validated: Validated):
    index = Path(validated.report.data_docs)
    assert index == validated.folder / "data_docs" / "index.html"
    pages = list(index.parent.rglob("*.html"))
    assert {page.suffix for page in index.parent.rglob("*") if page.is_file()} == {".html"}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text), page
        assert all((page.parent / link).exists() for link in re.findall(r'href="([^"#]+\.html)', text)), page
    shown = index.read_text(encoding="utf-8")
    assert shown.count('<td class="mark ') == validated.report.num_expectations
    assert "event_type_unknown" in shown


def test_nothing_but_results_is_left_in_the_folder(validated: Validated):
    assert sorted(path.name for path in validated.folder.iterdir()) == ["data_docs", "interactions", "quarantine"]


def test_an_exception_inside_an_expectation_is_critical(tmp_path: Path):
    from expectations.engine import load_great_expectations, open_run
    from expectations.suites.rules import rule

    gx = load_great_expectations()
    broken = gx.expectations.ExpectColumnValuesToNotBeNull(column="gone", **rule("gone_missing", "It is there.", advice="Look.", severity="warning"))
    fine = gx.expectations.ExpectColumnValuesToNotBeNull(column="here", **rule("here_missing", "It is there.", advice="Look.", severity="warning"))
    with open_run(tmp_path) as run:
        run.connection.execute("CREATE TABLE made AS SELECT 1 AS here")
        found = run.check("made", gx.ExpectationSuite(name="made", expectations=[broken, fine]))
    assert [(outcome.rule, outcome.success, outcome.severity) for outcome in found] == [("gone_missing", False, "critical"), ("here_missing", True, "warning")]
    assert '"gone"' in found[0].error


def report_with(*findings: tuple[str, str]) -> ValidationReport:
    table = TableRef(name="interactions", path="p", rows=9, columns=(), digest="d")
    found = tuple(
        Finding(table="interactions", rule=rule, severity=severity, num_failed=3, message=f"interactions: {rule}.", example_row={"user_id": "u"})
        for rule, severity in findings
    )
    return ValidationReport(accepted=table, rows_in=9, rows_accepted=9, rows_quarantined=0, findings=found, data_docs="docs/index.html")


def test_warnings_go_on():
    raise_if_critical(report_with(("price_negative", "warning")))


def test_a_critical_finding_stops_with_table_rule_count_and_example():
    with pytest.raises(DataContractError, match=r"interactions: too_many_rows_quarantined\. Data Docs: docs/index\.html") as caught:
        raise_if_critical(report_with(("price_negative", "warning"), ("too_many_rows_quarantined", "critical")))
    error = caught.value
    assert (error.table, error.rule, error.num_failed, error.example_row, error.step) == (
        "interactions",
        "too_many_rows_quarantined",
        3,
        {"user_id": "u"},
        "validate",
    )


def test_too_few_data_are_told_apart_and_come_after_wrong_data():
    with pytest.raises(NotEnoughHistoryError, match="too_few_users"):
        raise_if_critical(report_with(("too_few_users", "critical"), ("history_shorter_than_horizon", "critical")))
    with pytest.raises(DataContractError, match="too_many_rows_quarantined"):
        raise_if_critical(report_with(("too_few_users", "critical"), ("too_many_rows_quarantined", "critical")))


def test_a_feature_that_knows_the_future_is_a_leak():
    with pytest.raises(FeatureLeakageError, match="history_reaches_cutoff"):
        raise_if_critical(report_with(("history_reaches_cutoff", "critical")))
