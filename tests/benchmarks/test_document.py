"""Sections of docs/benchmarks.md: what a reader sees of the rows."""

import pytest

from benchmarks import document as generated
from benchmarks.document import ablation, against_goals, heading, labels, negative_control, peers, recommender, training, tuned_baselines


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


def test_goals_of_training_stand_first_and_a_missed_one_is_said_loudly() -> None:
    ours, theirs, loss = "perennial:gpt with SASRec's inner width", "RePlay 0.22.0 SASRec", "full_softmax"
    ratio = {"model": f"{ours}, {loss}", "metric": "microseconds, ratio to RePlay measured in turn", "lowest": 0.36, "highest": 0.5, "rounds": 3, "goal": 0.4}
    rows = [
        row(**ratio, value=0.35, reached=True),
        row(**ratio, value=0.45, reached=False),
        row(model="quick", metric="share of loading in a step", value=0.01),
        row(model="slow", metric="share of loading in a step", value=0.11),
        row(model="1,000,000 events into histories", metric="seconds", value=2.5),
        row(model="20,000 users x 20,000 items ranked and scored", metric="seconds", value=9.5),
        row(model="20,000 users x 20,000 items ranked and scored", metric="CPU seconds", value=99),
        row(model="full softmax, 1,000,000 items x 4,096 targets", metric="GiB beyond queries and items", value=0.7),
        *(row(model=f"{ours}, {loss}", metric="NDCG@10 after equal targets", value=value) for value in (0.1, 0.2)),
        row(model=f"{theirs}, {loss}", metric="NDCG@10 after equal targets", value=0.16),
        row(model=f"{theirs}, sampled_softmax", metric="NDCG@10 after equal targets", value=0.9),
        row(model=f"{ours}, {loss}", metric="difference of NDCG@10 after equal targets, mean over seeds", value=-0.01, ci_low=-0.03, ci_high=0.01),
    ]
    both = "0.1500 against 0.1600, difference -0.0100 [-0.0300, 0.0100]"
    goals, measured = training({"rows": rows}).split("\n\n")
    assert goals.splitlines()[2:] == [
        f"| set | {ours}, {loss} | microseconds, ratio to RePlay measured in turn, at most 0.4 | 0.35 (0.36-0.5 over 3 rounds) | reached |",
        f"| set | {ours}, {loss} | microseconds, ratio to RePlay measured in turn, at most 0.4 | 0.45 (0.36-0.5 over 3 rounds) | **not reached** |",
        "| set | slow | share of loading in a step, at most 0.1 | 0.11 | **not reached** |",
        "| set | 1,000,000 events into histories | seconds, at most 2 | 2.5 | **not reached** |",
        "| set | 20,000 users x 20,000 items ranked and scored | seconds, at most 10 | 9.5 | reached |",
        "| set | full softmax, 1,000,000 items x 4,096 targets | GiB beyond queries and items, at most 1.5 | 0.7 | reached |",
        f"| set | {ours}, {loss} | NDCG@10 after equal targets, no less than {theirs} | {both} | **not reached** |",
    ]
    assert len(measured.splitlines()) == 2 + len(rows)


def test_a_season_where_there_is_none_is_said_loudly() -> None:
    lift = {"metric": "season lift of ndcg@10", "relative": 0.01, "relative_high": 0.02}
    rows = [row(**lift, relative_low=-0.01, seed=1, holds_zero=True), row(**lift, relative_low=0.002, lead_days=None, seed=0, holds_zero=False)]
    text = negative_control({"rows": rows})
    assert text.splitlines()[2:] == ["| set | again | all | 0 | +1.0 [+0.2, +2.0] | **no** |", "| set | again | 0 | 1 | +1.0 [-1.0, +2.0] | yes |"]


def test_a_heading_names_the_commits_that_measured_and_what_they_took() -> None:
    head = {"command": "python -m it", "date": "2026-11-28T10:00:00", "git_sha": "c" * 12, "machine": "a machine"}
    assert heading(head) == "`python -m it`, 2026-11-28, commit cccccccccccc, a machine"
    assert heading({"machine": "a machine", "made": "2026-11-28"}) == "2026-11-28, commit not recorded, a machine"
    of_cells = head | {"measured_by": ["a" * 12 + "+", "b" * 12]}
    assert "2026-11-28, measured by commits aaaaaaaaaaaa+, bbbbbbbbbbbb, collected by cccccccccccc, a machine" in heading(of_cells)
    assert "2026-11-28, measured by commit cccccccccccc, a machine" in heading(head | {"measured_by": ["c" * 12]})
    assert "commit cccccccccccc, a machine" in heading(head | {"measured_by": []})  # nothing was kept
    assert heading(head | {"seconds": 720.0, "most_seconds": 1_200}).endswith("a machine, 12 minutes in all (at most 20 minutes: kept)")
    assert heading(head | {"seconds": 39_600.0, "most_seconds": 36_000}).endswith("a machine, 11.0 hours in all (at most 10.0 hours: **not kept**)")
    assert heading(head | {"seconds": 60.0}).endswith("a machine, 1 minutes in all")


def test_peers_say_how_their_training_ended() -> None:
    cell = row(model="replay:sasrec", value=0.1, origin="2017-11-01", epochs=4, stopped="cap of 60 CPU seconds")
    text = peers({"rows": [cell, cell | {"list": "discover"}, row(model="replay:sasrec", value=0.1)]})
    assert text.splitlines()[-1] == "* set, replay:sasrec: 2017-11-01: 4 epochs, cap of 60 CPU seconds"
    assert "| replay:sasrec | 0.1000 |" in text


def test_a_tuned_baseline_is_named_with_what_it_had_where_it_was_chosen() -> None:
    tried = [row(model=name, value=value, metric="tuning ndcg@10", origin="tuning") for name, value in (("habit_45d", 0.3), ("habit_90d", 0.2))]
    text = tuned_baselines({"rows": [*tried, row(model="best, tuned", value=0.4, chosen="habit_45d"), row(model="perennial", value=0.5)]})
    assert text.splitlines()[-1] == "| set | again | 0 | best, tuned: habit_45d | 0.3000 |"
    assert "| best, tuned | 0.4000 |" in text


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
