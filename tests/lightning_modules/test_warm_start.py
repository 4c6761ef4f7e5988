"""Going on from an earlier training: known items keep their rows, new ones begin at their category, new events are learned with a share of old ones."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from contracts.errors import CheckpointMismatchError
from contracts.sections.training import ComputeConfig
from lightning_modules.fine_tuning import fine_tune, replayed
from lightning_modules.jobs import FineTuneJob, PretrainJob, Start
from lightning_modules.pretraining import open_log, plan_periods, pretrain, walk_settings
from lightning_modules.time_walk import TimeWalk
from lightning_modules.warm_start import WEIGHTS, category_means, grown_items, read_weights, rows_by_name
from tests.lightning_modules.conftest import EPOCH, NUM_ITEMS, cutoffs

NEW_ITEMS = ("i900", "i901", "i902")  # of a known kind, of a known group but a new kind, of nothing known
NEW_CATEGORIES = ("group 2 > kind 1", "group 2 > kind 7", "group 9 > kind 0")
SEEN_UNTIL, END = cutoffs()[2], cutoffs()[3]


@pytest.fixture(scope="module")
def grown(events: pl.DataFrame, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made log with three items that are bought from `SEEN_UNTIL` on, numbered before the known ones, so that a row taken by number is a wrong one."""
    folder = tmp_path_factory.mktemp("grown")
    vocabulary = pl.DataFrame({"item_id": [*NEW_ITEMS, *(f"i{x:03d}" for x in range(NUM_ITEMS))], "item_index": np.arange(1, NUM_ITEMS + 4, dtype=np.int32)})
    vocabulary.write_parquet(folder / "vocabulary.parquet")
    known = pl.read_parquet(tables / "items.parquet").with_columns(pl.format("i{}", pl.col("item_index").cast(pl.String).str.zfill(3)).alias("item_id"))
    categories = pl.concat([known.select("item_id", "category"), pl.DataFrame({"item_id": NEW_ITEMS, "category": NEW_CATEGORIES})])
    vocabulary.join(categories, on="item_id").select("item_index", "category").write_parquet(folder / "items.parquet")
    start = pl.read_parquet(tables / "vocabulary.parquet").rename({"item_index": "start_index"})
    vocabulary.join(start, on="item_id", how="left").select("item_index", "start_index").write_parquet(folder / "start.parquet")
    late = events.filter(pl.col("event_day") >= (SEEN_UNTIL - EPOCH).days).gather_every(5).with_row_index()
    bought = late.with_columns(pl.Series("item_id", [NEW_ITEMS[n % 3] for n in range(late.height)])).drop("index")
    everything = pl.concat([events, bought]).drop("item_index").join(vocabulary, on="item_id").select(events.columns)
    everything.sort("user_id", "event_day", maintain_order=True).write_parquet(folder / "events.parquet")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def weights(pretrain_job: PretrainJob, fine_tune_job: FineTuneJob, compute: ComputeConfig, trained: Path) -> Path:
    """What a training up to `SEEN_UNTIL` left; trained once."""
    place = trained / "head" / SEEN_UNTIL.isoformat() / WEIGHTS
    if not place.exists():
        pretrain(pretrain_job.model_copy(update={"cutoffs": cutoffs()[:3], "epochs": 1.0}), compute, trained / "encoder")
        fine_tune(of_first(fine_tune_job, trained), compute, trained / "head")
    return place


def of_first(job: FineTuneJob, trained: Path) -> FineTuneJob:
    update = {"pretraining": str(trained / "encoder"), "origins": (SEEN_UNTIL,), "samples": job.samples[:4], "max_steps": 8}
    return job.model_copy(update=update)


@pytest.fixture
def started(weights: Path, grown: Path) -> dict[str, object]:
    """Fields of a job that goes on from there over the grown catalogue."""
    return {
        "start": Start(weights=str(weights), items=str(grown / "start.parquet"), cutoff=SEEN_UNTIL),
        "events": str(grown / "events.parquet"),
        "num_items": NUM_ITEMS + 4,
    }


@pytest.fixture
def encoder_job(pretrain_job: PretrainJob, grown: Path, started: dict[str, object]) -> PretrainJob:
    return pretrain_job.model_copy(
        update={**started, "item_features": str(grown / "items.parquet"), "cutoffs": (SEEN_UNTIL, END), "epochs": 4 / 3, "replay": 0.25}
    )


def test_rows_of_a_grown_catalogue_worked_by_hand() -> None:
    # items: padding, a (food > fruit), b (food > fruit), c (food > bread); new: d (food > fruit), e (food > new), f (nothing)
    nodes = torch.tensor([[0.0], [10.0], [1.0], [2.0], [0.0]])  # none, food, food > fruit, food > bread, food > new
    categories = torch.tensor([[0, 0], [1, 2], [1, 2], [1, 3], [1, 2], [1, 4], [0, 0]])
    own = torch.tensor([[7.0], [0.1], [0.3], [0.8]])
    rows = grown_items(own, torch.tensor([0, 1, 2, 3, -1, -1, -1]), nodes, categories)
    assert torch.equal(rows[:4], own)
    # fruit: vectors 11.1 and 11.3, so 11.2; food: 11.1, 11.3 and 12.8, so 11.7333; of all the same
    torch.testing.assert_close(rows[4:, 0] + nodes[categories[4:]].sum(1)[:, 0], torch.tensor([11.2, 35.2 / 3, 35.2 / 3]))


def test_without_categories_a_new_item_begins_at_the_mean_of_all() -> None:
    rows = grown_items(torch.tensor([[9.0], [1.0], [3.0]]), torch.tensor([0, 1, 2, -1]), torch.zeros(1, 1), torch.zeros(4, 0, dtype=torch.long))
    assert rows[:, 0].tolist() == [9.0, 1.0, 3.0, 2.0]
    assert category_means(torch.ones(2, 1), torch.zeros(2, 0, dtype=torch.long), torch.tensor([True, False])).tolist() == [[0.0], [0.0]]


def test_rows_are_carried_over_by_name() -> None:
    rows = torch.tensor([[1.0], [2.0], [3.0]])
    assert rows_by_name(rows, ["", "play", "view"], ["", "like", "view"], fallback=0)[:, 0].tolist() == [1.0, 1.0, 3.0]
    assert rows_by_name(rows, ["", "play", "view"], ["", "like"], fallback=None)[:, 0].tolist() == [1.0, 0.0]


def test_old_items_keep_their_rows_bit_for_bit_and_new_ones_begin_at_their_category(
    encoder_job: PretrainJob, compute: ComputeConfig, trained: Path, grown: Path, tmp_path: Path
) -> None:
    pretrain(encoder_job, compute, tmp_path)
    before = load_file(trained / "encoder" / "snapshots" / f"{SEEN_UNTIL}.safetensors")
    start = load_file(tmp_path / "snapshots" / f"{SEEN_UNTIL}.safetensors")  # at the start nothing has been learned yet
    end = load_file(tmp_path / "snapshots" / f"{END}.safetensors")
    assert torch.equal(start["items.own.weight"][4:], before["items.own.weight"])
    for name, value in before.items():
        if not name.startswith("items."):
            assert torch.equal(start[name], value), name
    vectors = start["items.own.weight"] + start["items.nodes.weight"][start["items.categories"]].sum(1)
    old = before["items.own.weight"] + before["items.nodes.weight"][before["items.categories"]].sum(1)
    torch.testing.assert_close(vectors[4:], old)
    category = pl.read_parquet(grown / "items.parquet").sort("item_index")["category"]
    same_kind = torch.tensor([n + 1 for n, path in enumerate(category) if path == "group 2 > kind 1" and n >= 3])
    same_group = torch.tensor([n + 1 for n, path in enumerate(category) if path.startswith("group 2") and n >= 3])
    torch.testing.assert_close(vectors[1], vectors[same_kind].mean(0))
    torch.testing.assert_close(vectors[2], vectors[same_group].mean(0))
    torch.testing.assert_close(vectors[3], vectors[4:].mean(0))
    assert not torch.equal(end["items.own.weight"][1:4], start["items.own.weight"][1:4])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7])
def test_replay_has_its_share_of_the_visits_and_every_new_event_is_visited(encoder_job: PretrainJob, share: float, tmp_path: Path) -> None:
    job = encoder_job.model_copy(update={"replay": share, "epochs": 1 / (1 - share), "batch_events": 64})
    log = open_log(job.events, tmp_path, job.event_type_codes(), job.num_items)
    batches = list(TimeWalk(log, plan_periods(job), walk_settings(job), num_items=job.num_items))
    days = np.concatenate([batch.days.numpy() for batch in batches])
    first, last = ((day - EPOCH).days for day in (SEEN_UNTIL, END))
    wanted = pl.read_parquet(job.events).filter(pl.col("event_day").is_between(first, last - 1)).height
    assert wanted <= (days >= first).sum() <= 1.4 * wanted  # windows overlap by one event
    if share:
        assert (days < first).mean() == pytest.approx(share, abs=0.03)
    else:  # older events only as what a new one is predicted from
        assert all(batch.days[start:end].max() >= first for batch in batches for start, end in zip(batch.offsets, batch.offsets[1:], strict=False))


def test_replay_of_the_heads_users_has_its_share() -> None:
    users = [np.arange(40), np.arange(100), np.arange(100)]
    for share in (0.0, 0.2, 0.5):
        kept = replayed(users, [True, False, False], share=share, seed=1)
        assert kept[0].tolist() == list(range(40))
        older = len(kept[1]) + len(kept[2])
        assert older / (40 + older) == pytest.approx(share, abs=0.01)
        assert share == 0 or (len(kept[1]) and len(kept[2]))
        assert all(set(rows) <= set(range(100)) for rows in kept[1:])
    assert sum(map(len, replayed(users, [True, False, False], share=0.99, seed=1)[1:])) == 200  # there are no more


def test_head_begins_where_the_earlier_one_ended_and_learns_from_the_new_windows(
    encoder_job: PretrainJob, fine_tune_job: FineTuneJob, started: dict[str, object], grown: Path, weights: Path, compute: ComputeConfig, tmp_path: Path
) -> None:
    pretrain(encoder_job, compute, tmp_path / "encoder")
    job = fine_tune_job.model_copy(
        update={**started, "vocabulary": str(grown / "vocabulary.parquet"), "pretraining": str(tmp_path / "encoder"), "samples": fine_tune_job.samples[4:]}
    )
    earlier = read_weights(weights).parts["head_0"]
    fine_tune(job.model_copy(update={"origins": (SEEN_UNTIL,), "num_seeds": None}), compute, tmp_path / "nothing_new")
    fine_tune(job.model_copy(update={"origins": (END,), "anchor": 0.0}), compute, tmp_path / "new")
    same = read_weights(tmp_path / "nothing_new" / SEEN_UNTIL.isoformat() / WEIGHTS).parts["head_0"]
    moved = read_weights(tmp_path / "new" / END.isoformat() / WEIGHTS).parts["head_0"]
    assert all(torch.equal(same[name], value) for name, value in earlier.items())
    described = read_weights(tmp_path / "nothing_new" / SEEN_UNTIL.isoformat() / WEIGHTS).described
    assert described["num_heads"] == 1, "as many heads as there were, where nothing is said"
    assert torch.equal(moved["season.mean"], earlier["season.mean"])  # inputs are scaled as they were
    looks = pl.read_parquet(tmp_path / "new" / END.isoformat() / "seed_0" / "looks.parquet")
    assert looks.height > 1
    assert not torch.equal(moved["season.linear.weight"], earlier["season.linear.weight"]) or looks["held_out_ndcg_again"].arg_max() == 0
    tables = load_file(tmp_path / "new" / END.isoformat() / "networks" / "vectors.safetensors")
    assert len(tables["taste_items"]) == NUM_ITEMS + 4


def test_other_parameters_than_those_it_was_trained_with_are_refused_in_words(
    fine_tune_job: FineTuneJob, started: dict[str, object], grown: Path, compute: ComputeConfig, tmp_path: Path
) -> None:
    update = {**started, "vocabulary": str(grown / "vocabulary.parquet"), "samples": fine_tune_job.samples[4:], "origins": (END,), "season_width": 5}
    with pytest.raises(CheckpointMismatchError, match="train anew"):
        fine_tune(fine_tune_job.model_copy(update=update), compute, tmp_path)


def test_cut_offs_before_the_start_are_refused(pretrain_job: PretrainJob, started: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="lies before"):
        PretrainJob.model_validate({**pretrain_job.model_dump(), **started, "cutoffs": (date(2022, 2, 1),)})
