"""Step `pretrain` around its training process: unfinished work is kept for the next try, and forgotten when asked."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from contracts.artifacts import FeatureTables, JobResult, Snapshots
from contracts.sections.training import ComputeConfig, PretrainingConfig
from lightning_modules.jobs import PretrainJob
from tasks import pretrain as step
from tasks.store import Store, write_table


@pytest.fixture
def features(tmp_path: Path) -> FeatureTables:
    events = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "item_index": [1, 2], "event_type": ["view", "purchase"]})
    vocabulary = write_table(pl.DataFrame({"item_id": ["a", "b"], "item_index": [1, 2]}), tmp_path / "vocabulary.parquet", "vocabulary")
    return FeatureTables(
        first_day="2024-01-01",
        end="2024-03-01",
        cutoffs=("2024-02-01", "2024-03-01"),
        origins=("2024-02-01",),
        vocabulary=vocabulary,
        item_catalogue=None,
        training_events=write_table(events, tmp_path / "events.parquet", "training_events"),
        calendar=vocabulary,
        demand=vocabulary,
    )


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What each training found in its folder; each leaves a checkpoint."""
    seen: list[list[str]] = []

    def train(job: Any, folder: Path, *_: object) -> JobResult:
        seen.append(sorted(path.name for path in folder.iterdir()))
        (folder / "last.ckpt").write_text("weights", encoding="utf-8")
        return JobResult(stage="pretrain", output=str(folder), metrics={"loss": 1.0}, seconds=1.0, job_digest=job.digest())

    monkeypatch.setattr(step, "run_training", train)
    monkeypatch.setattr(step, "get_run_logger", lambda: SimpleNamespace(info=lambda *_: None))
    return seen


def train(features: FeatureTables, store: Store, config: PretrainingConfig | None = None, *, seed: int = 0) -> Snapshots:
    settings = config or PretrainingConfig()
    return step.pretrain.fn(features, settings, ComputeConfig(), store, leads_days=(0, 28), horizon_days=28, seed=seed)


def test_types_on_their_platforms_are_kinds_of_their_own_the_rarest_left_out(features: FeatureTables, tmp_path: Path):
    kinds = [f"view@{number:03d}" for number in range(300)] + [f"view@{number:03d}" for number in range(255)]
    events = write_table(pl.DataFrame({"event_type": kinds}), tmp_path / "kinds.parquet", "training_events")
    found = step.event_types(features.model_copy(update={"training_events": events}))
    assert found == tuple(f"view@{number:03d}" for number in range(255))
    job = PretrainJob(inputs_digest="0" * 8, events="", num_items=1, event_types=found[:2], cutoffs=("2024-01-01",))
    assert job.event_type_codes() == {"view@000": 1, "view@001": 2, "view": 1}  # an event without a platform is taken for one on the first


def test_second_try_finds_what_the_first_left(features: FeatureTables, store: Store, found: list[list[str]]):
    first = train(features, store)
    assert train(features, store) == first
    assert found == [[], ["last.ckpt"]]
    assert first.cutoffs == features.cutoffs


def test_fresh_run_starts_from_nothing(features: FeatureTables, store: Store, found: list[list[str]]):
    train(features, store)
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        train(features, store)
    assert found == [[], []]


def test_another_seed_or_setting_trains_in_a_folder_of_its_own(features: FeatureTables, store: Store, found: list[list[str]]):
    digests = [train(features, store).digest, train(features, store, seed=1).digest, train(features, store, PretrainingConfig(batch_events=64)).digest]
    assert found == [[], [], []]
    assert len(set(digests)) == 3


def test_changed_categories_of_the_same_items_are_trained_on_anew(features: FeatureTables, store: Store, found: list[list[str]], tmp_path: Path):
    digests = []
    for category in ("food > tea", "food > coffee"):
        table = pl.DataFrame({"item_id": ["a", "b"], "category": [category, None]}, schema={"item_id": pl.String, "category": pl.String})
        catalogue = write_table(table, tmp_path / f"{category}.parquet", "item_catalogue")
        digests.append(train(features.model_copy(update={"item_catalogue": catalogue}), store).digest)
    assert len({train(features, store).digest, *digests}) == 3


def test_pretraining_that_is_off_starts_no_process(features: FeatureTables, store: Store, found: list[list[str]]):
    snapshots = train(features, store, PretrainingConfig(enabled=False))
    assert (snapshots.folder, snapshots.cutoffs, found) == (None, (), [])


def test_job_knows_the_items_and_the_event_types_of_the_data(features: FeatureTables):
    assert step.num_items(features) == 3  # two items and the padding
    assert step.event_types(features) == ("purchase", "view")
