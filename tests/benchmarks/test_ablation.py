"""The ablation: its cells, what each changes, that a finished one is not measured again, and the paired gains."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from benchmarks import ablation, figures_of_users
from benchmarks.recommender import parameters_of
from contracts.config import PipelineConfig
from evaluation import baselines
from evaluation.evaluation import evaluate
from flows import partial_runs

LEADS = (0, 28)


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    return parameters_of("complete_journey", str(tmp_path), quick=True)


def test_cells_hold_each_component_alone_each_pair_and_all() -> None:
    names = list(ablation.variants())
    assert names[:5] == ["all", "taste", "habit", "trend", "season"]
    assert names[5:11] == ["taste + habit", "taste + trend", "taste + season", "habit + trend", "habit + season", "trend + season"]
    assert ablation.variants()["habit + season"]["leave_out"] == ("taste", "trend")
    assert ablation.variants()["without trend"]["leave_out"] == ("trend",)


def test_a_cell_changes_what_its_name_says(config: PipelineConfig) -> None:
    found = {name: ablation.variant_of(config, change) for name, change in ablation.variants().items()}
    assert [found["all"].pretraining.enabled, found["all"].fine_tuning.leave_out, len(found["all"].fine_tuning.linear)] == [True, (), 2]
    assert not found["without encoder"].pretraining.enabled
    (ease,) = found["EASE instead of the encoder"].fine_tuning.linear
    assert (ease.ridge, ease.floor, ease.half_life_days) == (baselines.EASE_REGULARISATION, baselines.EASE_LOG_FLOOR, None)
    assert not found["EASE instead of the encoder"].pretraining.enabled
    assert [found["without linear terms"].pretraining.enabled, found["without linear terms"].fine_tuning.linear] == [True, ()]
    assert not found["without calendar of the request"].pretraining.request_calendar
    texts = {one.model_dump_json() for one in found.values()}
    assert len(texts) == len(found)  # no two cells are the same
    for one in found.values():
        PipelineConfig.model_validate(one.model_dump())


def rankings_of(config: PipelineConfig, items: str) -> pl.DataFrame:
    (origin,) = config.evaluation.origins
    return pl.DataFrame(
        [
            {"cutoff": origin, "request_date": origin, "list": name, "user_id": f"u{user}", "item_id": item, "rank": rank}
            for name in ("again", "discover")
            for user in range(20)
            for rank, item in enumerate(items, start=1)
        ],
        schema_overrides={"rank": pl.Int32},
    )


def test_finished_cells_are_read_and_gains_are_paired(config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"leads_days": (0,)})})
    (origin,) = config.evaluation.origins
    # every user buys "a" in the window; "b" and "c" are sold before it, and "a" too: all are candidates
    past, window = datetime(2017, 3, 1, tzinfo=UTC), datetime(origin.year, origin.month, origin.day + 2, tzinfo=UTC)
    rows = [(f"u{user}", item, past) for user in range(20) for item in "bc"] + [("u99", "a", past)] + [(f"u{user}", "a", window) for user in range(20)]
    rows.append(("u98", "c", datetime(2017, 12, 31, tzinfo=UTC)))
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "event_time"], orient="row").with_columns(event_type=pl.lit("purchase"))
    events.with_columns(pl.col("event_time").dt.cast_time_unit("us")).write_parquet(tmp_path / "events.parquet")
    made: list[tuple[str, ...]] = []

    def measured(asked: PipelineConfig) -> Any:
        made.append(asked.fine_tuning.leave_out)
        path = tmp_path / f"rankings_{len(made)}.parquet"
        rankings_of(asked, "bac" if "trend" in asked.fine_tuning.leave_out else "abc").write_parquet(path)
        return SimpleNamespace(path="none", rankings=SimpleNamespace(path=str(path)))

    monkeypatch.setattr(ablation, "CELLS", tmp_path / "cells")
    for module in (ablation, figures_of_users):
        monkeypatch.setattr(module, "use_local_stores", lambda *given: None)
    monkeypatch.setattr(partial_runs, "train_and_measure", measured)
    monkeypatch.setattr("tasks.evaluate.read_evaluation", lambda path: SimpleNamespace(rows=[]))
    accepted = SimpleNamespace(parts=lambda: [tmp_path / "events.parquet"])
    monkeypatch.setattr(partial_runs, "validate_only", lambda asked: (None, SimpleNamespace(accepted=accepted)))
    cells = {}
    for _ in range(2):  # the second time both are read
        cells = {name: ablation.measured_cell(name, ablation.variant_of(config, ablation.variants()[name])) for name in ("all", "without trend")}
    assert made == [(), ("trend",)]
    found = {row["list"]: row for row in ablation.gains_over_cells(config, cells) if row["lead_days"] == 0}
    # "a" is first with all and second without trend: 1 against 1 / log2(3)
    assert found["discover"]["other"] == "without trend"
    assert found["discover"]["relative"] == pytest.approx(1 / 0.6309 - 1, abs=1e-3)
    assert found["discover"]["ci_low"] > 0
    # the same as from rankings, which are needed no more
    tables = {name: pl.read_parquet(tmp_path / f"rankings_{number}.parquet") for number, name in enumerate(cells, start=1)}
    settings = ablation.variant_of(config, {}).evaluation
    result = evaluate(tables, events, settings, model="all", target_events=config.fine_tuning.target_events, seed=config.seed)
    expected = [one.model_dump() for one in result.comparisons if one.metric == "ndcg@10"]
    for name in ("lead_days", "list", "other", "num_users"):
        assert [row[name] for row in ablation.gains_over_cells(config, cells)] == [row[name] for row in expected]
    for name in ("difference", "ci_low", "ci_high", "relative", "relative_low", "relative_high"):
        assert [row[name] for row in ablation.gains_over_cells(config, cells)] == pytest.approx([row[name] for row in expected], abs=2e-4)
    for path in tmp_path.glob("rankings_*.parquet"):
        path.unlink()
    ablation.measured_cell("without trend", ablation.variant_of(config, ablation.variants()["without trend"]))
    assert len(made) == 2
    cells["all"]["users"] = {key: value.rsplit(" ", 1)[0] for key, value in cells["all"]["users"].items()}
    with pytest.raises(ValueError, match=r"cell 'all', again .*: figures of 19 users, 20 are asked"):
        ablation.gains_over_cells(config, cells)
