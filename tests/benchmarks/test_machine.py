"""What benchmarks write beside their rows: cells that are measured once, their commits and seconds, and a command without a machine's folders."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks import few_labels, leave_one_out, machine, negative_control, planted_season, recommender, warm_start
from benchmarks.machine import about_cells, command_of, kept_cell, write_results


def test_a_command_names_no_folder_of_the_machine_and_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["--data", "steam", "flickr_trips", "--storage", "/home/me/x", "--quick", "--stored", "--threads", "1", "--seeds", "2"]
    monkeypatch.setattr(machine.sys, "argv", ["/home/me/further_sets.py", *typed])
    assert command_of("further_sets") == "python -m benchmarks.further_sets --data steam flickr_trips --quick --seeds 2"


def test_a_cell_is_measured_once_and_says_by_what_commit_and_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cell = iter([10.0, 12.54]), tmp_path / "deep" / "cell.json"
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(machine, "git_sha", lambda: "abc")
    found = [kept_cell(cell, lambda: {"places": "0-", "rows": [{"value": 1.0}]}) for _ in range(2)]
    assert found[0] == found[1] == json.loads(cell.read_text())
    assert {name: found[0][name] for name in ("git_sha", "seconds", "places", "rows")} == {
        "git_sha": "abc",
        "seconds": 2.5,
        "places": "0-",
        "rows": [{"value": 1.0}],
    }
    assert [path.name for path in cell.parent.iterdir()] == ["cell.json"]


def test_a_cell_that_is_not_whole_is_measured_again(tmp_path: Path) -> None:
    cell = tmp_path / "cell.json"
    kept_cell(cell, lambda: {"rows": [1]})
    assert kept_cell(cell, lambda: {"rows": [2]}, is_whole=lambda found: found["rows"] == [2])["rows"] == [2]
    assert kept_cell(cell, lambda: {"rows": [3]}, is_whole=lambda found: found["rows"] == [2])["rows"] == [2]


def test_cells_name_their_commits_and_their_seconds_only_where_all_know_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, old = {"git_sha": "b", "seconds": 2.0}, {"git_sha": "a", "seconds": 3.5}, {"git_sha": "b"}
    assert about_cells([first, second]) == {"measured_by": ["a", "b"], "seconds": 5.5}
    assert about_cells([first, second, old]) == {"measured_by": ["a", "b"]}
    assert about_cells([]) == {"measured_by": []}
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    head = json.loads(write_results("it", command="python", rows=[], **about_cells([first])).read_text())
    assert (head["measured_by"], head["seconds"], head["command"]) == (["b"], 2.0, "python")


def test_the_recommender_names_the_commits_of_its_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommender, "CELLS", tmp_path)
    monkeypatch.setattr(machine, "git_sha", lambda: "of the cell")
    config = recommender.parameters_of("complete_journey", str(tmp_path), quick=True)
    name = recommender.name_of(config)
    assert recommender.kept(name, lambda: [{"value": 0.12345678}]) == [{"value": 0.123457}]
    heads = recommender.stored_cells([name, "not kept"])
    assert [head["git_sha"] for head in heads] == ["of the cell"]
    written: dict[str, Any] = {}
    monkeypatch.setattr(recommender, "write_results", lambda name, **given: written.update(given, name=name))
    monkeypatch.setattr(machine.sys, "argv", ["recommender", "--quick", "--data", "complete_journey", "--storage", str(tmp_path)])
    recommender.main()
    assert (written["name"], written["command"]) == ("recommender_quick", "python -m benchmarks.recommender --quick --data complete_journey")
    assert (written["rows"], written["measured_by"], written["most_seconds"]) == ([{"value": 0.123457}], ["of the cell"], 1_200)
    assert written["seconds"] >= 0


def test_a_finished_negative_control_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(negative_control, "CELLS", tmp_path / "negative_control")
    monkeypatch.setattr(negative_control, "measured", lambda config: made.append(config.name) or [{"value": 0.1, "holds_zero": True}])
    for threads in (1, 2):
        config = recommender.on_threads(recommender.parameters_of("complete_journey", str(tmp_path), quick=True), threads)
        assert negative_control.measured_cell(config) == [{"value": 0.1, "holds_zero": True}]
    assert made == ["complete_journey"]
    assert [path.name for path in (tmp_path / "negative_control").iterdir()] == [f"{negative_control.name_of(config)}.json"]


def test_an_arm_with_few_labels_is_measured_once_and_needs_its_rankings_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    config = few_labels.config_of("complete_journey", str(tmp_path), few_labels.WITHOUT, 0.1)
    about = {"cutoff": config.evaluation.origins[0], "request_date": config.evaluation.origins[0], "list": "again", "user_id": "u"}
    ranked = pl.DataFrame([{**about, "item_id": "b", "rank": 1}, {**about, "item_id": "a", "rank": 2}], schema_overrides={"rank": pl.Int32})

    def measured(asked: Any, head_seed: int) -> Any:
        made.append(head_seed)
        ranked.write_parquet(tmp_path / "rankings.parquet")
        return SimpleNamespace(path="none", rankings=SimpleNamespace(path=str(tmp_path / "rankings.parquet")))

    monkeypatch.setattr(few_labels, "CELLS", tmp_path / "cells")
    monkeypatch.setattr(few_labels, "use_local_stores", lambda *given: None)
    wanted = pl.DataFrame({"user_id": ["u"], "item_id": ["a"]})
    monkeypatch.setattr(few_labels, "wanted_of", lambda config: iter([(("again", config.evaluation.origins[0], 0), wanted)]))
    monkeypatch.setattr("flows.partial_runs.train_and_measure", measured)
    monkeypatch.setattr("tasks.evaluate.read_evaluation", lambda path: SimpleNamespace(rows=[]))
    for _ in range(2):
        found = few_labels.measured_cell(few_labels.WITHOUT, 0.1, config, 3)
        (tmp_path / "rankings.parquet").unlink(missing_ok=True)
    assert (found["users"], found["rows"], made) == ({f"again {config.evaluation.origins[0]} 0": "6309"}, [], [3])


def test_a_finished_training_of_leave_one_out_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def scores(events: Any, attributes: Any, *, epochs: float, seed: int) -> Any:
        made.append(seed)
        return {"user": ["u", "v"], "ndcg": np.array([1.0, 0.0])}, 0.5

    monkeypatch.setattr(leave_one_out, "CELLS", tmp_path)
    monkeypatch.setattr(leave_one_out, "read", lambda folder: None)
    monkeypatch.setattr(leave_one_out, "fitted_scores", scores)
    for _ in range(2):
        found = leave_one_out.measured_cell(tmp_path, leave_one_out.WITHOUT, epochs=1, seed=4)
    assert (found["places"], found["rows"][0]["value"], found["rows"][0]["seed"], made) == ("0-", 0.5, 4, [4])


def test_a_finished_training_on_the_planted_season_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    asked = pl.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"], "gap_days": [40.0, 1.0]})
    monkeypatch.setattr(planted_season, "CELLS", tmp_path / "cells")
    monkeypatch.setattr(planted_season, "use_local_stores", lambda *given: None)
    monkeypatch.setattr("flows.partial_runs.train_only", lambda config: made.append(config.seed) or SimpleNamespace(final=None))
    monkeypatch.setattr(planted_season, "rank_at_own_date", lambda *given: pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "rank": [1]}))
    for _ in range(2):
        found = planted_season.measured_cell(asked.drop("gap_days"), asked, str(tmp_path), 5)
    assert (found["places"], [row["value"] for row in found["rows"]], made) == ("0-", [0.5, 1.0], [5])


def test_a_finished_warm_start_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(warm_start, "CELLS", tmp_path / "cells")
    monkeypatch.setattr(warm_start, "use_local_stores", lambda *given: None)
    monkeypatch.setattr("prefect.flow", lambda do, name: lambda config: made.append(name) or [{"value": 0.5}])
    for _ in range(2):
        found = warm_start.measured_cell(warm_start.parameters_of("linear", str(tmp_path / "storage")), "linear")
    assert (found["rows"], len(made)) == ([{"dataset": "complete_journey", "taste": "linear", "seed": 0, "value": 0.5}], 1)
