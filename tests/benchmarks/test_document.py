"""Sections of docs/benchmarks.md: what a reader sees of the rows."""

import pytest

from benchmarks import document as generated
from benchmarks.document import ablation, against_goals, labels, peers, recommender


def row(**given: object) -> dict[str, object]:
    return {"dataset": "set", "list": "again", "lead_days": 0, "origin": "all", "metric": "ndcg@10", "ci_low": None, "ci_high": None, **given}


def test_few_labels_stand_beside_each_other_with_what_is_gained_over_labels_alone() -> None:
    arms = [
        row(model="labels alone", value=0.2, ci_low=0.1, ci_high=0.3, label_share=0.01),
        row(model="encoder", value=0.25, ci_low=0.2, ci_high=0.3, label_share=0.01),
        row(model="encoder", other="labels alone", metric="gain of ndcg@10", value=0.25, label_share=0.01)
        | {"relative": 0.25, "relative_low": -0.1, "relative_high": 0.5},
    ]
    assert labels({"rows": arms}).splitlines()[-1] == "| again | 0 | 1% | 0.2000 [0.1000, 0.3000] | 0.2500 [0.2000, 0.3000] | +25.0 [-10.0, +50.0] |"


def test_a_missed_goal_is_said_loudly() -> None:
    text = against_goals({"rows": [row(model="m", value=0.1, n=5, goal=0.15, reached=False), row(model="m", value=0.2, n=5, goal=0.15, reached=True)]})
    assert text.splitlines()[-2:] == ["| set | m | ndcg@10 | 0.1 | 5 | 0.15, **not reached** |", "| set | m | ndcg@10 | 0.2 | 5 | 0.15, reached |"]


def test_peers_say_how_their_training_ended() -> None:
    cell = row(model="replay:sasrec", value=0.1, origin="2017-11-01", epochs=4, stopped="cap of 60 CPU seconds")
    text = peers({"rows": [cell, cell | {"list": "discover"}, row(model="replay:sasrec", value=0.1)]})
    assert text.splitlines()[-1] == "* set, replay:sasrec: 2017-11-01: 4 epochs, cap of 60 CPU seconds"
    assert "| replay:sasrec | 0.1000 |" in text


def gain(other: str, relative: float, **given: object) -> dict[str, object]:
    about = {"model": "perennial", "other": other, "metric": "gain of ndcg@10", "seed": 0, "value": relative}
    return row(**about | {"relative": relative, "relative_low": relative - 0.02, "relative_high": relative + 0.02} | given)


def test_a_gain_over_the_best_other_stands_beside_its_goal() -> None:
    given = {"dataset": "complete_journey"}
    rows = [gain("ease", 0.5), gain("habit_90d", 0.03), gain("habit_90d", 0.06, seed=1), gain("ease", 0.5, seed=1), gain("ease", 0.05, lead_days=28)]
    text = recommender({"rows": [{**one, **given} for one in rows]})
    assert "| complete_journey | again | 0 | habit_90d |  | +3.0 [+1.0, +5.0]; +6.0 [+4.0, +8.0] | +4 %, reached |" in text
    assert "| complete_journey | again | 28 | ease |  | +5.0 [+3.0, +7.0] | +4 %, reached |" in text
    assert "+4 %, **not reached** |" in recommender({"rows": [{**gain("ease", 0.05), "relative_low": -0.01, **given}]})
    assert "+4 %, **not reached** |" in recommender({"rows": [{**gain("ease", 0.03), **given}]})


def test_seeds_averaged_per_user_decide_where_they_were_measured() -> None:
    given = {"dataset": "complete_journey"}
    rows = [{**gain("ease", value, seed=seed), **given} for seed, value in enumerate((0.01, 0.06))]
    averaged = {**gain("ease", 0.05), **given, "seed": None, "seeds": 2}
    assert "| ease | +5.0 [+3.0, +7.0] | +1.0 [-1.0, +3.0]; +6.0 [+4.0, +8.0] | +4 %, reached |" in recommender({"rows": [*rows, averaged]})
    assert "+4 %, **not reached** |" in recommender({"rows": [*rows, averaged | {"relative_low": -0.01}]})


def test_a_cell_of_the_ablation_stands_beside_what_all_components_gain() -> None:
    rows = [row(model="all", value=0.4), row(model="without season", value=0.3), gain("without season", 0.25)]
    assert ablation({"rows": rows}).splitlines()[-2:] == ["| all | 0.4000 |  |", "| without season | 0.3000 | +25.0 [+23.0, +27.0] |"]


def test_the_documents_say_what_the_results_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(generated.sys, "argv", ["document", "--check"])
    assert generated.main() == 0, capsys.readouterr().out
    monkeypatch.setattr(generated, "document", lambda: "typed by hand")
    assert generated.main() == 1
