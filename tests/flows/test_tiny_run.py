"""The whole path on the tiny data set: what each step leaves in Prefect, in MLflow and in the store; a second run; one in two processes."""

import json
import math
import subprocess
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from contracts import columns as c
from contracts.artifacts import TrainingOutcome
from contracts.tables import RANKINGS, TableContract
from serving.bundle import read_bundle
from tasks.registry import bundle_of_version
from tests.flows.conftest import FlowRun, TinyRuns, newest_run

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

ROOT = Path(__file__).parents[2]
STEPS = [
    *("ingest", "validate", "build_features", "forecast_demand", "build_season", "pretrain", "fine_tune", "compress", "find_champion"),
    *("evaluate", "register", "gate", "promote", "publish", "report"),
]
REUSED = {"validate", "build_features", "forecast_demand", "build_season", "pretrain", "fine_tune", "compress", "evaluate", "publish"}


def file_of(address: str) -> Path:
    return Path(urllib.parse.unquote(urllib.parse.urlparse(address).path))


class TestPrefect:
    def test_every_step_ran_once_and_well(self, tiny: TinyRuns):
        assert tiny.first.steps == {step: ["Completed"] for step in STEPS}

    @pytest.mark.parametrize(
        ("key", "kind"),
        [
            ("ingest-rows", "table"),
            ("validation-findings", "table"),
            ("data-docs", "markdown"),
            ("feature-tables", "table"),
            ("forecast-back-test", "table"),
            ("build-season-progress", "progress"),
            ("pretrain-progress", "progress"),
            ("fine-tune-progress", "progress"),
            ("forms", "table"),
            ("champion", "markdown"),
            ("evaluation", "table"),
            ("mlflow", "markdown"),
            ("gates", "markdown"),
            ("promotion", "markdown"),
            ("published-rankings", "table"),
            ("report", "markdown"),
        ],
    )
    def test_step_leaves_an_artifact(self, tiny: TinyRuns, key: str, kind: str):
        assert [artifact["type"] for artifact in tiny.first.artifacts if artifact["key"] == key] == [kind]

    @pytest.mark.parametrize("key", ["data-docs", "report"])
    def test_link_of_an_artifact_leads_to_a_page(self, tiny: TinyRuns, key: str):
        (text,) = [artifact["data"] for artifact in tiny.first.artifacts if artifact["key"] == key]
        page = file_of(text.split("](")[1].rstrip(")"))
        assert "<html" in page.read_text(encoding="utf-8")[:2000].lower()

    def test_progress_of_every_long_step_ended_full(self, tiny: TinyRuns):
        ended = {artifact["key"]: artifact["data"] for artifact in tiny.first.artifacts if artifact["type"] == "progress"}
        assert set(ended) >= {f"{step}-progress" for step in ("ingest", "build-features", "forecast-demand", "pretrain", "fine-tune", "evaluate", "publish")}
        assert {float(value) for value in ended.values()} == {100.0}


class TestMlflow:
    @pytest.fixture
    def runs(self, tiny: TinyRuns, registry: MlflowClient) -> dict[str, Run]:
        assert tiny.outcome.version is not None
        parent = registry.get_run(tiny.outcome.version.run_id)
        children = registry.search_runs([parent.info.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        return {"parent": parent, **{child.info.run_name: child for child in children}}

    def test_parent_is_tied_to_the_prefect_run_the_code_and_the_data(self, tiny: TinyRuns, runs: dict[str, Run]):
        tags = runs["parent"].data.tags
        assert tags["prefect.flow_run_id"] == tiny.first.id
        assert tiny.first.id in tags["prefect.flow_run_url"]
        assert runs["parent"].info.run_name == tiny.first.name
        head = subprocess.run(["git", "rev-parse", "--verify", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        assert tags["git_sha"] == (head or "unknown")
        assert runs["parent"].info.status == "FINISHED"
        used = {given.dataset.name: given.dataset.digest for given in runs["parent"].inputs.dataset_inputs}
        assert used["interactions"] == tags["data_digest"]
        assert {"item_catalogue", "vocabulary", "demand"} <= set(used)

    def test_there_is_a_finished_child_for_every_part(self, tiny: TinyRuns, runs: dict[str, Run]):
        parts = {"data", "forecast", "pre-training", "fine-tuning", "evaluation", *(f"baseline {name}" for name in tiny.config.evaluation.baselines)}
        assert set(runs) - {"parent"} == parts
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        assert all(run.data.metrics and run.data.params for run in runs.values())

    def test_children_of_training_keep_their_losses_along_time(self, registry: MlflowClient, runs: dict[str, Run]):
        losses = registry.get_metric_history(runs["pre-training"].info.run_id, "training_loss")
        assert len(losses) == 28  # one for each span between two cut-offs
        for origin in ("2022-10-01", "2023-01-31"):
            looks = registry.get_metric_history(runs["fine-tuning"].info.run_id, f"held_out_ndcg_again.{origin}.seed_0")
            assert [look.step for look in looks] == list(range(len(looks)))
            assert len(looks) > 1

    def test_figures_of_every_form_are_kept_and_the_registered_version_is_the_smallest_good_one(self, tiny: TinyRuns, runs: dict[str, Run]):
        figures = {name: value for name, value in runs["fine-tuning"].data.metrics.items() if name.startswith("form.")}
        names = ("size_mb", "latency_ms", "again.ndcg_at_10", "discover.ndcg_at_10")
        assert set(figures) == {f"form.{form}.{name}" for form in ("full", "int8", "distilled") for name in names}

        def is_good(form: str) -> bool:
            is_smaller = figures[f"form.{form}.size_mb"] < figures["form.full.size_mb"]
            return is_smaller and all(figures[f"form.{form}.{name}"] >= 0.99 * figures[f"form.full.{name}"] for name in names[2:])

        assert tiny.outcome.version is not None
        bundle = read_bundle(bundle_of_version(tiny.config.registry, tiny.config.storage_root, tiny.outcome.version.version))
        assert ("item_tables" in bundle.metadata.notes) == any(is_good(form) for form in ("int8", "distilled"))

    def test_data_docs_configuration_figures_and_report_are_kept(self, tiny: TinyRuns, registry: MlflowClient, runs: dict[str, Run], tmp_path: Path):
        def listed(name: str, folder: str | None = None) -> set[str]:
            return {artifact.path for artifact in registry.list_artifacts(runs[name].info.run_id, folder)}

        assert "data_docs/index.html" in listed("data", "data_docs")
        assert {"config.json", "report.html", "golden_requests.json"} <= listed("parent")
        assert "evaluation.json" in listed("evaluation")
        drawn = {f"figures/{name}.png" for name in ("leads_again", "leads_discover", "heat_map_demand_by_category_and_week", "forecast_total")}
        assert drawn <= listed("evaluation", "figures")
        kept = Path(registry.download_artifacts(runs["parent"].info.run_id, "config.json", str(tmp_path))).read_text(encoding="utf-8")
        assert type(tiny.config).model_validate_json(kept) == tiny.config

    def test_figures_are_those_of_the_evaluation(self, tiny: TinyRuns, runs: dict[str, Run]):
        from tasks.evaluate import read_evaluation

        assert tiny.outcome.evaluation is not None
        result = read_evaluation(tiny.outcome.evaluation.path)
        for list_name in ("again", "discover"):
            for lead in (0, 28):
                assert runs["parent"].data.metrics[f"ndcg_at_10.{list_name}.lead_{lead}"] == result.figure(result.model, list_name, lead).value
                logged = runs["baseline ease*trend"].data.metrics[f"ndcg_at_10.{list_name}.lead_{lead}.all"]
                assert logged == result.figure("ease*trend", list_name, lead).value
        assert all(math.isfinite(value) for run in runs.values() for value in run.data.metrics.values())


class TestVersions:
    def test_measured_and_refitted_version_are_linked_and_say_what_they_are(self, tiny: TinyRuns, registry: MlflowClient):
        assert tiny.outcome.version is not None
        assert tiny.outcome.evaluation is not None
        name = tiny.config.registry.model_name
        final = registry.get_model_version(name, tiny.outcome.version.version)
        measured = registry.get_model_version(name, final.tags["evaluated_version"])
        for version in (final, measured):
            assert version.tags["evaluation_digest"] == tiny.outcome.evaluation.digest
            assert version.tags["run_id"] == tiny.outcome.version.run_id
            assert {"data_digest", "git_sha", "bundle_digest", "cutoff", "kind", "trained_until", "prefect_flow_run_id"} <= set(version.tags)
            assert version.description.startswith("# tiny: taste + habit + season")
            assert "ease*trend" in version.description
        assert (measured.tags["cutoff"], final.tags["cutoff"]) == ("2022-10-01", "2023-01-31")

    @pytest.mark.parametrize("suffix", ["", "-encoder", "-forecaster"])
    def test_model_has_signature_example_tags_and_description_and_answers_its_example(self, tiny: TinyRuns, registry: MlflowClient, suffix: str):
        name = tiny.config.registry.model_name + suffix
        newest = max(registry.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version))
        assert newest.description
        assert {"git_sha", "data_digest", "bundle_digest", "run_id"} <= set(newest.tags)
        model = mlflow.pyfunc.load_model(f"models:/{name}/{newest.version}")
        signature = model.metadata.signature
        assert signature is not None
        assert signature.inputs is not None
        assert signature.outputs is not None
        assert model.input_example is not None
        assert len(model.predict(model.input_example)) == 1

    def test_nothing_stored_is_a_pickle(self, tiny: TinyRuns):
        stored = [path for path in (Path(tiny.config.storage_root) / "mlflow" / "artifacts").rglob("*") if path.is_file()]
        assert len(stored) > 50
        assert not [path for path in stored if path.suffix in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}]
        assert not [path for path in stored if path.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05", b"\x80\x02")]

    def test_champion_answers_users_and_raw_histories_with_parts_that_add_up(self, tiny: TinyRuns, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        model = mlflow.pyfunc.load_model(f"models:/{tiny.config.registry.model_name}@champion")
        assert tiny.outcome.version is not None
        golden = json.loads(Path(tiny.outcome.version.golden_requests).read_text(encoding="utf-8"))
        known = golden[0]["items"]
        history = [{"item_id": known[0], "event_time": "2023-01-15T10:00:00", "event_type": "purchase"}]
        asked = [
            golden[0]["request"],
            {**golden[0]["request"], "exclude": known[:2], "k": 3},
            {"date": "2023-07-03", "history": history, "k": 5},
            {"date": "2023-07-03", "user_id": "nobody we know", "k": 5},
        ]
        answers = model.predict(asked)
        assert [len(answer.items) for answer in answers] == [10, 3, 5, 5]
        assert [item.item_id for item in answers[0].items] == known
        assert not {item.item_id for item in answers[1].items} & set(known[:2])
        for answer in answers:
            scores = [item.score for item in answer.items]
            assert scores == sorted(scores, reverse=True)
            assert np.allclose([item.taste + item.habit + item.season for item in answer.items], scores, atol=1e-4)
        assert all(item.habit == 0 for item in answers[3].items)

    def test_gates_passed_and_the_first_champion_was_promoted_by_itself(self, tiny: TinyRuns, registry: MlflowClient):
        from tasks.audit import audit_trail
        from tasks.store import audit_address, store_of

        assert tiny.outcome.promotion is not None
        assert tiny.outcome.version is not None
        assert tiny.outcome.promotion.promoted
        assert any("against ease*trend" in reason or "against habit_90d" in reason for reason in tiny.outcome.promotion.reasons)
        trail = audit_trail(audit_address(store_of(tiny.config)), tiny.config.registry.model_name)
        first = trail.filter(pl.col("version") == tiny.outcome.version.version)["decision"].to_list()
        assert first[:2] == ["challenger", "promoted"]
        tags = registry.get_model_version(tiny.config.registry.model_name, tiny.outcome.version.version).tags
        assert (tags["gate_quality"], tags["gate_servability"]) == ("passed", "passed")
        assert tags["promoted_by"].startswith("automatic")


class TestReport:
    @pytest.fixture
    def page(self, tiny: TinyRuns) -> str:
        assert tiny.outcome.report is not None
        return Path(tiny.outcome.report).read_text(encoding="utf-8")

    def test_gates_stand_with_their_figures_below_the_decision(self, page: str):
        assert ">Promoted to champion</h2>" in page
        assert [f'<h3>{name} gate <span class="state">open</span></h3>' in page for name in ("Quality", "Servability")] == [True, True]
        assert "forecast: MASE" in page
        assert "golden requests answered as recorded" in page

    def test_forecasts_name_their_model_and_stand_beside_last_year(self, page: str):
        assert "forecast by chosen" not in page
        assert "forecast by the theta method." in page
        assert 'data-key="mase|category|model"' in page

    def test_season_lift_is_shown(self, page: str):
        assert 'data-key="lift|again|None"' in page


def test_published_rankings_hold_the_contract_for_every_user(tiny: TinyRuns):
    assert tiny.outcome.published is not None
    assert tiny.outcome.version is not None
    rankings = pl.read_parquet(tiny.outcome.published.path)
    contract: TableContract = RANKINGS
    assert dict(rankings.schema) == dict(contract.schema)
    assert rankings.select(contract.grain).is_duplicated().sum() == 0
    assert rankings[c.MODEL_VERSION].unique().to_list() == [tiny.outcome.version.version]
    assert rankings[c.REQUEST_DATE].unique().to_list() == [pl.Series(["2023-01-31"]).str.to_date()[0]]
    counts = rankings.group_by(c.LIST, c.USER_ID).len()
    assert counts.filter(pl.col(c.LIST) == "again")["len"].unique().to_list() == [tiny.config.publish.k]
    assert counts.filter(pl.col(c.LIST) == "again").height > 200
    findings = list((Path(tiny.outcome.published.path).parent / "validation").rglob("*"))
    assert findings


class TestSecondRun:
    def test_unchanged_steps_are_reused_and_the_others_ask_again(self, tiny: TinyRuns):
        assert {step for step, states in tiny.second.steps.items() if states == ["Cached"]} == REUSED
        assert {step for step, states in tiny.second.steps.items() if states == ["Completed"]} == set(STEPS) - REUSED
        assert tiny.second.seconds < tiny.first.seconds / 2

    def test_command_line_shows_figures_decision_and_ends_with_0(self, tiny: TinyRuns):
        assert tiny.exit_code == 0, tiny.printed
        words = " ".join(tiny.printed.split())
        assert "again: NDCG@10 [95 % interval], cut-offs 2022-10-01" in words
        assert all(name in words for name in ("perennial", "ease*trend", "habit_90d", "lead 28 days"))
        assert f"Version {tiny.outcome.version.version}: promoted to champion" in words  # type: ignore[union-attr]

    def test_no_version_is_made_twice_and_no_row_stored_twice(self, tiny: TinyRuns, registry: MlflowClient):
        digests = [version.tags["bundle_digest"] for version in registry.search_model_versions(f"name = '{tiny.config.registry.model_name}-encoder'")]
        assert len(digests) == len(set(digests))
        stored = pl.scan_parquet(Path(tiny.config.storage_root) / "tiny" / "ingest" / "interactions" / "**" / "*.parquet")
        assert stored.select(pl.len()).collect().item() == tiny.config.source.synthetic.num_events


@pytest.mark.usefixtures("tiny")
class TestAfterwards:
    """What the command line answers once there is a champion."""

    def test_validate_counts_rows_and_shows_the_data_docs(self, tiny: TinyRuns, invoke: Callable[..., Any]):
        shown = invoke("validate", str(tiny.parameters))
        assert shown.exit_code == 0, shown.output
        assert "20,000 rows in, 20,000 accepted, 0 quarantined" in shown.output
        assert newest_run("validate-only").steps == {"ingest": ["Completed"], "validate": ["Cached"]}

    def test_features_run_alone_on_what_is_stored(self, tiny: TinyRuns, invoke: Callable[..., Any]):
        shown = invoke("features", str(tiny.parameters))
        assert shown.exit_code == 0, shown.output
        assert "27 cut-offs from 2021-03-02 to 2023-01-31" in shown.output
        assert newest_run("features-only").steps["build_features"] == ["Cached"]

    def test_recommend_explains_each_score_and_tells_of_a_user_it_does_not_know(self, tiny: TinyRuns, invoke: Callable[..., Any]):
        shown = invoke("recommend", str(tiny.parameters), "--user", "nobody", "--date", "2023-07-03", "--k", "4", "--explain")
        assert shown.exit_code == 0, shown.output
        rows = [line.split() for line in shown.output.splitlines() if line.split()[:1] and line.split()[0] in {"1", "2", "3", "4"}]
        assert len(rows) == 4
        for row in rows:
            score, *parts = map(float, row[-4:])
            assert abs(score - sum(parts)) < 0.03
        assert "nobody is unknown" in shown.output

    def test_audit_and_report_show_what_was_decided(self, tiny: TinyRuns, invoke: Callable[..., Any]):
        assert "promoted" in invoke("audit", str(tiny.parameters)).output
        shown = invoke("report", str(tiny.parameters))
        assert shown.exit_code == 0
        assert file_of("".join(shown.output.split())).is_file()

    def test_evaluate_measures_a_registered_version_alone(self, tiny: TinyRuns, invoke: Callable[..., Any]):
        measured = tiny.outcome.version.evaluated_version  # type: ignore[union-attr]
        shown = invoke("evaluate", str(tiny.parameters), "--version", str(measured))
        assert shown.exit_code == 0, shown.output
        assert "NDCG@10" in shown.output
        steps = newest_run("evaluate-version").steps
        assert steps["build_features"] == ["Cached"]
        assert "fine_tune" not in steps

    def test_path_up_to_the_evaluation_runs_without_the_registry(self, tiny: TinyRuns):
        from flows.partial_runs import train_and_measure

        versions = mlflow.MlflowClient().search_model_versions("")
        evaluation = train_and_measure(tiny.config)
        steps = newest_run("train-and-measure").steps
        assert steps["fine_tune"] == ["Cached"]
        assert not {"register", "gate", "promote"} & set(steps)
        assert Path(evaluation.path).is_file()
        assert len(mlflow.MlflowClient().search_model_versions("")) == len(versions)

    def test_negative_control_is_trained_apart_and_shown_by_the_next_report(self, tiny: TinyRuns):
        from flows.partial_runs import negative_control
        from tasks.store import store_of
        from tasks.write_report import read_negative_control

        store = store_of(tiny.config)
        assert read_negative_control(store) == ()
        short = {  # fewer cut-offs and no encoder: where the control goes is looked at here, not what it finds
            "features": tiny.config.features.model_copy(update={"cutoff_every_days": 91}),
            "forecast": tiny.config.forecast.model_copy(update={"enabled": False}),
            "pretraining": tiny.config.pretraining.model_copy(update={"enabled": False}),
        }
        negative_control(tiny.config.model_copy(update=short))
        lifts = read_negative_control(store)
        assert {(lift.list, lift.lead_days) for lift in lifts} >= {("again", None), ("discover", None)}
        kept = next((Path(store.root) / "negative_control" / "steps" / "rotate_histories").glob("*/interactions.parquet"))
        assert pl.scan_parquet(kept).select(pl.len()).collect().item() == tiny.config.source.synthetic.num_events
        steps = newest_run("negative-control").steps
        assert steps["validate"] == ["Cached"]
        assert steps["rotate_histories"] == steps["fine_tune"] == ["Completed"]


class TestTwoProcesses:
    def test_flow_ran_once_and_every_step_once_afresh(self, two_processes: tuple[FlowRun, TrainingOutcome, int]):
        run, _, added = two_processes
        assert added == 1
        assert run.steps == {step: ["Completed"] for step in STEPS}

    def test_training_used_two_processes(self, tiny: TinyRuns, two_processes: tuple[FlowRun, TrainingOutcome, int]):
        results = [json.loads(path.read_text(encoding="utf-8")) for path in (Path(tiny.config.storage_root) / "tiny" / "steps").glob("*/*/result.json")]
        assert {(result["stage"], result["world_size"]) for result in results} >= {("pretrain", 2), ("fine_tune", 2)}

    def test_figures_are_near_those_of_one_process_over_the_same_users(self, tiny: TinyRuns, two_processes: tuple[FlowRun, TrainingOutcome, int]):
        from tasks.evaluate import read_evaluation

        assert tiny.outcome.evaluation is not None
        assert two_processes[1].evaluation is not None
        one, two = read_evaluation(tiny.outcome.evaluation.path), read_evaluation(two_processes[1].evaluation.path)
        for list_name, tolerance in (("again", 0.05), ("discover", 0.08)):
            for lead in (0, 28):
                of_one, of_two = one.figure(one.model, list_name, lead), two.figure(two.model, list_name, lead)
                assert of_one.n == of_two.n
                assert abs(of_one.value - of_two.value) < tolerance

    def test_it_was_compared_with_the_champion_on_windows_neither_had_seen(self, tiny: TinyRuns, two_processes: tuple[FlowRun, TrainingOutcome, int]):
        from tasks.evaluate import read_evaluation

        evaluation = two_processes[1].evaluation
        assert evaluation is not None
        assert evaluation.champion_version == tiny.outcome.version.version  # type: ignore[union-attr]
        assert evaluation.against_champion is not None
        against = read_evaluation(evaluation.against_champion)
        assert against.champion == f"champion (version {evaluation.champion_version})"
        assert against.digest == evaluation.digest
