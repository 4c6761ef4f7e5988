"""What a look finds: published lists against what users did, alarms in words, the page; and the event that starts a training."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from contracts import columns as c
from contracts.artifacts import ValidationReport
from contracts.config import PipelineConfig
from contracts.tables import RANKINGS
from sources.synthetic import event_frames
from tasks import look_for_drift as module
from tasks.look_for_drift import _drift_alarms, _quality, look_for_drift
from tasks.store import Store, write_table

CONFIG = PipelineConfig.model_validate(
    {"name": "shop", "source": {"dataset": "synthetic", "synthetic": {"num_events": 30_000, "num_users": 200, "num_items": 200, "days": 900}}}
)
DAY = date(2023, 5, 1)


def rankings(rows: list[tuple[str, int, str]], day: date, cutoff: date) -> pl.DataFrame:
    made = [
        {c.CUTOFF: cutoff, c.REQUEST_DATE: day, c.LIST: "again", c.MODEL_VERSION: "1", c.USER_ID: user, c.RANK: rank, c.ITEM_ID: item, c.SCORE: -float(rank)}
        for user, rank, item in rows
    ]
    return pl.DataFrame(made, schema=dict(RANKINGS.schema))


def event(user: str, item: str, day: date) -> dict[str, object]:
    return {c.USER_ID: user, c.ITEM_ID: item, c.EVENT_TIME: datetime(day.year, day.month, day.day, 12, tzinfo=UTC), c.EVENT_TYPE: "purchase"}


def test_published_list_is_held_against_what_its_users_then_did(tmp_path: Path):
    store = Store(root=str(tmp_path))
    before, then = DAY - timedelta(days=40), DAY + timedelta(days=3)
    log = pl.LazyFrame(
        [
            event("u", "a", before),
            event("u", "b", before),
            event("v", "a", before),
            event("u", "a", then),
            event("v", "b", then),
            event("v", "b", date(2023, 7, 1)),
        ]
    )
    published = Path(store.root) / "steps" / "publish"
    write_table(rankings([("u", 1, "a"), ("u", 2, "b"), ("v", 1, "a"), ("v", 2, "b")], DAY, DAY), published / "one" / "rankings.parquet", "rankings")
    open_window = date(2023, 6, 20)
    write_table(rankings([("u", 1, "a")], open_window, open_window), published / "two" / "rankings.parquet", "rankings")
    (row,) = _quality(CONFIG, log, date(2023, 7, 2), store).to_dicts()
    assert (row["list"], row["request_date"], row["num_users"]) == ("again", DAY, 2)
    assert row["ndcg_at_10"] == pytest.approx((1.0 + 1 / 1.5849625) / 2)  # first place; second place: 1 / log2(3)


def test_alarm_is_told_in_words_while_it_is_new_only():
    rows = {"week": [DAY, DAY + timedelta(days=7), DAY + timedelta(days=14)], "volume": [80.0, 80.0, 100.0], "volume_expected": [100.0] * 3}
    rest = {"mix_from_last_year": [0.0, 0.2, 0.0], "most_changed": [None, "tea", None]}
    drift = pl.DataFrame({**rows, **rest, "is_volume_alarm": [True, True, False], "is_mix_alarm": [False, True, False]})
    told = _drift_alarms(drift)
    assert told == [
        "week of 2023-05-08: 80 events, expected about 100 from the same weeks last year and the trend",
        "week of 2023-05-08: 20.0% of the events lie in other categories than season and trend explain, most of all tea",
    ]


@pytest.mark.parametrize("fewer", [False, True])
def test_drift_emits_the_event_that_starts_a_training_and_season_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fewer: bool):
    emitted: list[str] = []
    monkeypatch.setattr(module, "emit_event", lambda name, **given: emitted.append(name + " " + given["resource"]["prefect.resource.id"]))
    for name in ("create_link_artifact", "create_table_artifact"):
        monkeypatch.setattr(module, name, lambda *given, **named: None)
    monkeypatch.setattr(module, "get_run_logger", lambda: __import__("logging").getLogger("test"))
    monkeypatch.setattr(module, "connect", lambda *given: None)
    monkeypatch.setattr(module, "version_at", lambda *given: None)
    log = pl.concat(list(event_frames(CONFIG.source.synthetic)))
    last = log[c.EVENT_TIME].max()
    if fewer:
        keep = (pl.col(c.EVENT_TIME) < last - timedelta(days=6)) | (pl.col("event_id") % 10 < 7)
        log = log.filter(keep)
    events = write_table(log, tmp_path / "log.parquet", "interactions")
    validated = ValidationReport(accepted=events, rows_in=events.rows, rows_accepted=events.rows, rows_quarantined=0)
    found = look_for_drift.fn(CONFIG, validated, Store(root=str(tmp_path / "shop")), last.date() + timedelta(days=1))
    assert found.retrain is fewer
    assert emitted == (["perennial.monitoring.alarm perennial.pipeline.shop"] if fewer else [])
    assert ("No alarm" in Path(found.page).read_text(encoding="utf-8")) is not fewer
