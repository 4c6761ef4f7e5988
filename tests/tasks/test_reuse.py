"""When a finished step is taken again, when a failed one is tried again, and what steps hand on."""

import ast
import inspect
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from prefect import Task
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from pydantic import BaseModel

from contracts.artifacts import Reference, TableRef
from contracts.errors import DataContractError, SourceError, TransientError
from contracts.sections.features import FeaturesConfig
from contracts.sections.forecast import ForecastConfig
from contracts.sections.training import FineTuningConfig
from flows import seasonal_training
from tasks import evaluate, fine_tune, publish
from tasks import store as store_module
from tasks.reuse import is_fresh, reusable, run_each_time
from tasks.store import CODE_ROOT, SCORER, Store, fresh_folder, write_text

STEPS = {step.name: step for step in vars(seasonal_training).values() if isinstance(step, Task)}
ASKS_THE_WORLD = {"ingest", "find_champion", "register", "register_forecasts", "gate", "promote", "report"}


def key(store: Store, *, step: str = "build", code: tuple[str, ...] = ("features",), **inputs: Any) -> str:
    options = reusable(*code)
    return str(options["cache_key_fn"](SimpleNamespace(task=SimpleNamespace(name=step)), {"store": store, **inputs}))


def table(digest: str = "d1", path: str = "p") -> TableRef:
    return TableRef(name="demand", path=path, rows=1, columns=(), digest=digest)


def test_key_is_the_same_for_equal_inputs_however_they_are_passed(store: Store):
    assert key(store, a=table(), b=FeaturesConfig(country="GB")) == key(store, b=FeaturesConfig(country="GB"), a=table())


def test_key_changes_with_step_content_configuration_argument_and_store(store: Store):
    other = Store(root=store.root + "2")
    keys = [
        key(store, a=table(), n=1),
        key(store, a=table(), n=1, step="other"),
        key(store, a=table("d2"), n=1),
        key(store, a=table(), n=2),
        key(store, a=table(), n=None),
        key(store, a=(table(), table("d2")), n=1),
        key(store, a=FeaturesConfig(country="GB"), n=1),
        key(store, a=FeaturesConfig(country="US"), n=1),
        key(other, a=table(), n=1),
    ]
    assert len(set(keys)) == len(keys)


def test_key_changes_with_the_content_of_a_side_table_the_configuration_names(store: Store, tmp_path: Path):
    table_file = tmp_path / "planned.parquet"
    config = ForecastConfig(planned_uri=str(table_file))
    keys, digests = [], []
    for content in ("not there yet", "a", "b"):
        if content != "not there yet":
            table_file.write_text(content, encoding="utf-8")
        keys.append(key(store, a=config))
        digests.append(store.step_folder("forecast", config, code=("forecasting",)))
    assert len(set(keys)) == len(set(digests)) == 3


def test_key_changes_with_the_source_of_the_step(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "CODE_ROOT", tmp_path)
    keys = []
    for folder in ("contracts", "tasks", "features", "serving"):
        write_text("x = 1\n", tmp_path / folder / "code.py")
        keys.append(key(store, a=1))
    assert len(set(keys)) == 3
    assert keys[2] == keys[3]  # serving is not among this step's folders


@pytest.mark.parametrize("name", ["build_features", "forecast_demand", "build_season", "build_content", "pretrain"])
def test_another_head_finds_everything_before_fine_tuning_made(name: str):
    assert FineTuningConfig not in get_type_hints(STEPS[name].fn).values()
    assert FineTuningConfig in get_type_hints(STEPS["fine_tune"].fn).values()


def imported(file: Path) -> set[Path]:
    """Files of ours below serving/ that a file of ours imports, and what those import."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        tree = ast.parse(waiting.pop().read_text(encoding="utf-8"))
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        files = {CODE_ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("serving.")} - found
        found |= files
        waiting += files
    return found


def test_what_decides_a_score_is_the_recommender_and_all_it_imports_of_serving():
    recommender = CODE_ROOT / "serving" / "recommender.py"
    assert {CODE_ROOT / name for name in SCORER} == {recommender} | imported(recommender)


@pytest.mark.parametrize("module", [fine_tune, evaluate, publish], ids=lambda module: module.__name__)
def test_steps_that_rank_are_made_again_when_a_score_changes_and_not_when_a_page_does(module: ModuleType):
    named = {name for name in module.CODE if name.startswith("serving")}
    assert named == {"serving/bundle.py"} if module is fine_tune else named == set(SCORER)
    assert all((CODE_ROOT / name).exists() for name in module.CODE)


def test_results_of_a_store_that_was_deleted_are_not_taken(store: Store):
    before = key(store, a=1)
    fresh_folder(Path(store.root))
    assert key(store, a=1) != before


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [
        (TransientError("x"), True),
        (SourceError("x"), False),
        (DataContractError("x", table="t", rule="r", num_failed=1), False),
        (ValueError("x"), False),
        (OSError("x"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_may_pass_by_itself_is_tried_again(error: Exception, *, is_tried_again: bool):
    state = SimpleNamespace(result=lambda *, raise_on_failure: error)
    for options in (reusable(), run_each_time()):
        assert options["retry_condition_fn"](None, None, state) is is_tried_again


def test_fresh_follows_the_setting_of_the_run():
    assert not is_fresh()
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        assert is_fresh()


@pytest.mark.parametrize("name", STEPS)
def test_every_step_has_retries_for_transient_faults_and_a_time_limit(name: str):
    step = STEPS[name]
    assert step.retries >= 3
    assert step.retry_condition_fn is reusable()["retry_condition_fn"]
    assert 0 < float(step.timeout_seconds or 0) <= 24 * 3600


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_reused_unless_they_ask_the_world(name: str):
    step = STEPS[name]
    assert (step.cache_key_fn is None) == (name in ASKS_THE_WORLD)
    assert bool(step.persist_result) == (name not in ASKS_THE_WORLD)
    assert step.result_serializer == ("json" if step.persist_result else None)


@pytest.mark.parametrize("name", STEPS)
def test_steps_hand_on_references_and_settings_never_frames(name: str):
    hints = get_type_hints(STEPS[name].fn)
    answered = [kind for kind in (get_args(hints["return"]) or (hints["return"],)) if kind is not type(None)]
    assert all(kind is str or issubclass(kind, Reference) for kind in answered)
    for given in inspect.signature(STEPS[name].fn).parameters:
        kinds = [kind for kind in (get_args(hints[given]) or (hints[given],)) if kind not in (type(None), Ellipsis)]
        assert all(kind in (str, int, float, bool) or issubclass(kind, BaseModel) for kind in kinds), given
