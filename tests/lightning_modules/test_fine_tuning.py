"""The head: what it starts from, what it counts, that it learns, and that an interrupted job goes on."""

import math
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy

from contracts.errors import DataContractError, NotEnoughHistoryError
from contracts.sections.training import ComputeConfig
from lightning_modules import fine_tuning, trainers
from lightning_modules.event_log import EventLog
from lightning_modules.fine_tuning import RankedTargets, SampleWalk, fine_tune, list_loss, measure, ndcg, rank_lists
from lightning_modules.head import Head
from lightning_modules.jobs import FineTuneJob
from lightning_modules.pretraining import open_log
from lightning_modules.samples import Known, SampleData, known_at, pool_taste, read_sample, sample_data
from lightning_modules.warm_start import WEIGHTS, read_weights


@pytest.fixture
def loaded(fine_tune_job: FineTuneJob, tmp_path: Path) -> tuple[FineTuneJob, Known, SampleData]:
    return load(fine_tune_job, tmp_path)


def load(job: FineTuneJob, tmp_path: Path) -> tuple[FineTuneJob, Known, SampleData]:
    log = open_log(job.events, tmp_path, job.event_type_codes(), job.num_items)
    sample = job.samples[3]
    known = known_at(job, log, sample.cutoff)
    rows = log.users().to_frame().with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    tables = read_sample(job, known, sample, rows, pl.read_parquet(job.vocabulary))
    return job, known, sample_data(job, log, known, tables, pool_taste(job, known, tables.rows, tmp_path / "terms"))


def all_samples(job: FineTuneJob, log: EventLog, terms: Path) -> list[SampleData]:
    return [sample for cutoff in sorted({one.cutoff for one in job.samples}) for sample in fine_tuning._at_cutoff(job, log, cutoff, terms)[1]]


def new_head(job: FineTuneJob, sample: SampleData) -> Head:
    head = fine_tuning._new_head(job, [sample], fine_tuning._start_of_discover(job, [sample], seed=0), ())
    torch.manual_seed(0)
    for network in (head.season, head.habit):
        torch.nn.init.normal_(network.outer.weight, std=0.3)
    return head


def scores_by_hand(head: Head, job: FineTuneJob, sample: SampleData, user: int, name: str) -> dict[int, float]:
    """Score of every known item for one user, item by item."""
    number = 0 if name == "again" else 1
    pairs = {int(sample.pair_items[row]): row for row in range(int(sample.offsets[user]), int(sample.offsets[user + 1]))}
    users = torch.tensor([user])
    pool = dict(zip(sample.pool.tolist(), sample.pool_taste(users)[0], strict=True))
    rest = dict(zip(sample.rest.tolist(), sample.other_taste(users, sample.rest)[0], strict=True))
    out = {}
    for place, item in enumerate(sample.items.tolist()):
        terms = (pool | rest)[item]
        season = sample.season[place][None]
        score = float(terms @ head.taste_weights()[number]) + float(head.season(season)[0, number])
        row = pairs.get(item)
        if row is not None and bool(sample.is_seen[row]):
            habit = torch.cat([sample.habit[row].float(), season[0], sample.pair_taste[row].float()])
            score = score + float(head.habit(habit[None])) if name == "again" else -math.inf
        out[item] = score
    return out


@torch.no_grad()
def test_ranks_and_totals_equal_scoring_item_by_item(loaded: tuple[FineTuneJob, Known, SampleData]) -> None:
    job, _, sample = loaded
    job = job.model_copy(update={"num_drawn": 100})  # all the rest: totals are exact
    head = new_head(job, sample)
    users = torch.tensor([0, 3, 17])
    for ranked in rank_lists(head, job, sample, users, seed=1):
        for place, user in enumerate(users.tolist()):
            by_hand = scores_by_hand(head, job, sample, user, ranked.list_name)
            mine = ranked.rows == place
            first, last = int(sample.offsets[user]), int(sample.offsets[user + 1])
            wanted = [row for row in range(first, last) if sample.is_target[row] and (ranked.list_name == "again" or not sample.is_seen[row])]
            np.testing.assert_allclose(ranked.scores[mine].numpy(), [by_hand[int(sample.pair_items[row])] for row in wanted], atol=1e-3)
            total = math.log(sum(math.exp(score) for score in by_hand.values()))
            np.testing.assert_allclose(ranked.totals[mine].numpy(), total, atol=0.02)
            for row, rank in zip(wanted, ranked.ranks[mine].tolist(), strict=True):
                item = int(sample.pair_items[row])
                own = {int(sample.pair_items[x]) for x in range(first, last)}
                before = sum(score > by_hand[item] + 1e-4 for other, score in by_hand.items() if other in own or other in sample.pool.tolist())
                assert abs(rank - before) <= 1


@torch.no_grad()
@pytest.mark.parametrize("drawn", [2, 5])
def test_drawn_items_stand_for_the_rest_and_a_pair_of_the_users_own_for_itself(fine_tune_job: FineTuneJob, tmp_path: Path, drawn: int) -> None:
    job, _, sample = load(fine_tune_job.model_copy(update={"num_candidates": 8, "num_drawn": drawn}), tmp_path)
    assert len(sample.pool) == 8
    assert len(sample.rest) > 10
    head = new_head(job, sample)
    users = torch.arange(8)
    many = [rank_lists(head, job, sample, users, seed=seed) for seed in range(400)]
    for number, name in enumerate(job.lists):
        exact = [sum(math.exp(score) for score in scores_by_hand(head, job, sample, int(user), name).values()) for user in many[0][number].rows]
        mean = torch.stack([ranked[number].totals.exp() for ranked in many]).mean(0)
        np.testing.assert_allclose(mean.numpy(), exact, rtol=0.06)


def test_the_loss_is_worked_by_hand() -> None:
    ranked = RankedTargets(
        "again",
        scores=torch.tensor([1.0, 2.0, 0.0]),
        totals=torch.tensor([3.0, 3.0, 4.0]),
        ranks=torch.tensor([0, 10, 30]),
        rows=torch.tensor([0, 0, 1]),
        num_targets=torch.tensor([2, 1]),
    )
    loss, weight = list_loss(ranked)
    weights = [1 / math.sqrt(2), 0.5 / math.sqrt(2), 0.25]
    assert float(weight) == pytest.approx(sum(weights))
    assert float(loss) == pytest.approx(2 * weights[0] + 1 * weights[1] + 4 * weights[2])
    _, plain = list_loss(replace(ranked, list_name="discover"))
    assert float(plain) == pytest.approx(2 / math.sqrt(2) + 1)


def test_measure_is_ndcg_by_hand(loaded: tuple[FineTuneJob, Known, SampleData]) -> None:
    job, _, sample = loaded
    head = new_head(job, sample)
    found = measure(head, job, sample, np.arange(sample.num_users))
    with torch.no_grad():
        for ranked in rank_lists(head, job, sample, torch.arange(sample.num_users), seed=0):
            per_user = []
            for user in range(sample.num_users):
                ranks = ranked.ranks[ranked.rows == user].tolist()
                if ranks:
                    ideal = sum(1 / math.log2(place + 2) for place in range(min(len(ranks), 10)))
                    per_user.append(sum(1 / math.log2(rank + 2) for rank in ranks if rank < 10) / ideal)
            assert found[ranked.list_name] == pytest.approx(float(np.mean(per_user)), abs=1e-6)


def test_habit_is_zero_off_the_history(loaded: tuple[FineTuneJob, Known, SampleData]) -> None:
    job, _, sample = loaded
    head = new_head(job, sample)
    pairs = torch.arange(50)
    season = sample.season[torch.searchsorted(sample.items, sample.pair_items[pairs])]
    with torch.no_grad():
        habit = fine_tuning._habit(head, sample, pairs, sample.is_seen[pairs], season, sample.pair_taste[pairs].float())
    assert (habit[~sample.is_seen[pairs]] == 0).all()
    assert (habit[sample.is_seen[pairs]] != 0).all()


def test_the_loader_shows_every_user_once_an_epoch_and_goes_on_where_it_stopped() -> None:
    def walk(rank: int = 0, world_size: int = 1) -> SampleWalk:
        loader = SampleWalk([np.arange(7), np.array([2, 5, 9])], batch_users=3, epochs=2, seed=1)
        loader.rank, loader.world_size = rank, world_size
        return loader

    def seen(loader: SampleWalk) -> list[tuple[int, tuple[int, ...]]]:
        return [(batch.sample, tuple(batch.users.tolist())) for batch in loader]

    whole = seen(walk())
    assert len(whole) == len(walk())
    first_epoch = sorted((sample, user) for sample, users in whole[: len(whole) // 2] for user in users)
    assert first_epoch == [(0, user) for user in range(7)] + [(1, user) for user in (2, 5, 9)]
    assert (
        len(SampleWalk([np.arange(7)], batch_users=3, epochs=2, seed=1, max_steps=4))
        == len(seen(SampleWalk([np.arange(7)], batch_users=3, epochs=2, seed=1, max_steps=4)))
        == 4
    )
    later = walk()
    later.load_state_dict({"position": 5})
    assert seen(later) == whole[5:]
    halves = zip(seen(walk(0, 2)), seen(walk(1, 2)), strict=True)
    assert [(one[0], tuple(sorted(one[1] + two[1]))) for one, two in halves] == whole


def test_held_out_users_of_the_newest_cutoff_train_at_none_of_its_leads(fine_tune_job: FineTuneJob, tmp_path: Path) -> None:
    log = open_log(fine_tune_job.events, tmp_path, fine_tune_job.event_type_codes(), fine_tune_job.num_items)
    samples = all_samples(fine_tune_job, log, tmp_path / "terms")
    users, newest, held_out = fine_tuning._split(samples, seed=0)
    rows = set(newest.linear_rows[held_out].tolist())
    assert len(rows) == int(0.25 * newest.num_users) > 0
    for sample, kept in zip(samples, users, strict=True):
        trained = set(sample.linear_rows[kept].tolist())
        if sample.linear is newest.linear:
            assert not trained & rows
        else:
            assert len(kept) == sample.num_users


def test_only_windows_that_end_by_the_origin_are_learned_from(fine_tune_job: FineTuneJob, compute: ComputeConfig, tmp_path: Path) -> None:
    early = fine_tune_job.samples[0].cutoff + timedelta(days=27)
    with pytest.raises(NotEnoughHistoryError, match=rf"no sampled window ends at or before {early}; the earliest ends {early + timedelta(days=1)}"):
        fine_tune(fine_tune_job.model_copy(update={"origins": (early,)}), compute, tmp_path)


def test_a_missing_input_is_named(fine_tune_job: FineTuneJob, compute: ComputeConfig, tmp_path: Path) -> None:
    job = fine_tune_job.model_copy(update={"season_inputs": (*fine_tune_job.season_inputs, "trend_of_fashion")})
    with pytest.raises(DataContractError, match=r"season_.*columns trend_of_fashion missing; found item_id, trend_lift_4w"):
        fine_tune(job, compute, tmp_path)


def test_training_beats_the_priors(fine_tune_job: FineTuneJob, compute: ComputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[Head] = []
    monkeypatch.setattr(fine_tuning, "_export", lambda job, known, found, place: heads.extend(found))
    job = fine_tune_job.model_copy(update={"epochs": 6, "patience": 50})
    result = fine_tune(job, compute, tmp_path)
    origin = job.origins[0]
    log = open_log(job.events, tmp_path, job.event_type_codes(), job.num_items)
    samples = all_samples(job, log, tmp_path / "terms")
    _, newest, held_out = fine_tuning._split(samples, seed=job.seed)
    untrained = fine_tuning._new_head(job, samples, fine_tuning._start_of_discover(job, samples, seed=job.seed), fine_tuning.CALENDAR_INPUTS)
    before, after = measure(untrained, job, newest, held_out), measure(heads[0], job, newest, held_out)
    assert after["again"] == pytest.approx(result.metrics[f"held_out_ndcg_again_{origin}"])
    assert after["again"] > before["again"]
    assert after["discover"] == pytest.approx(before["discover"], abs=1e-4)  # stays where its search left it


def test_discover_stays_at_the_weights_its_search_found(
    fine_tune_job: FineTuneJob, compute: ComputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: dict[str, Head] = {}
    changes = {"searched": {}, "fixed": {"search_start": False}, "discover alone": {"lists": ("discover",)}}
    for name, change in changes.items():
        monkeypatch.setattr(
            fine_tuning, "_export", lambda job, known, found, place, name=name: (place.mkdir(parents=True, exist_ok=True), heads.setdefault(name, found[0]))
        )
        job = fine_tune_job.model_copy(update={"epochs": 2, "anchor_discover": 0.0, "origins": fine_tune_job.origins[:1], **change})
        figures = fine_tune(job, compute, tmp_path / name).metrics
        assert (f"steps_{job.origins[0]}" in figures) == (name != "discover alone")  # nothing is left to train
    job = fine_tune_job.model_copy(update={"origins": fine_tune_job.origins[:1]})
    log = open_log(job.events, tmp_path, job.event_type_codes(), job.num_items)
    samples = [sample for sample in all_samples(job, log, tmp_path / "terms") if sample.window_end <= job.origins[0]]
    start = fine_tuning._start_of_discover(job, samples, seed=job.seed)
    column = job.season_inputs.index("trend_lift_4w")
    for name in ("searched", "discover alone"):
        assert heads[name].taste_weights()[1].tolist() == pytest.approx(list(start.taste), abs=2e-4)
        assert heads[name].season.linear.weight[1, column].item() == pytest.approx(start.season["trend_lift_4w"], rel=1e-3)
        assert not heads[name].season.outer.weight[1].any()
    assert heads["fixed"].season.outer.weight[1].any()
    assert heads["searched"].season.outer.weight[0].any()


def test_a_head_is_fitted_after_an_encoder_on_gpus_in_bf16_shared_out(
    fine_tune_job: FineTuneJob, compute: ComputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines of `large_model.yaml`: samples lie in memory in single precision, and a head has nothing to share out."""
    monkeypatch.setattr(fine_tuning, "_export", lambda *given: None)
    job = fine_tune_job.model_copy(update={"max_steps": 2, "origins": fine_tune_job.origins[:1]})
    large = compute.model_copy(update={"accelerator": "gpu", "precision": "bf16", "strategy": "fsdp2"})
    assert fine_tune(job, large, tmp_path).metrics[f"steps_{job.origins[0]}"] == 2.0
    whole, shared_out = (trainers._strategy(large, 2, can_shard=can_shard) for can_shard in (False, True))
    assert isinstance(whole, DDPStrategy)
    assert isinstance(shared_out, ModelParallelStrategy)


def test_progress_is_of_the_whole_stage_and_never_goes_back(
    fine_tune_job: FineTuneJob, compute: ComputeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "SECONDS_BETWEEN_LINES", 0.0)
    fine_tune(fine_tune_job.model_copy(update={"epochs": 1, "num_seeds": 2}), compute, tmp_path)
    told = [float(line.split()[2]) for line in capfd.readouterr().out.splitlines() if line.startswith("progress fine_tune")]
    assert len(set(told)) > 2 * len(fine_tune_job.origins) * 2, "each head tells of its steps"
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_heads_of_an_origin_draw_other_lots_each(fine_tune_job: FineTuneJob, compute: ComputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    search = fine_tuning.find_weights
    monkeypatch.setattr(fine_tuning, "find_weights", lambda *given, **named: seeds.append(named["seed"]) or search(*given, **named))
    job = fine_tune_job.model_copy(update={"num_seeds": None, "max_steps": 1, "seed": 5})
    fine_tune(job, compute, tmp_path)
    weights = read_weights(tmp_path / job.origins[0].isoformat() / WEIGHTS)
    assert weights.described["num_heads"] == 3
    assert seeds == [5, 6, 7]
    assert not torch.equal(weights.parts["head_0"]["habit.inner.weight"], weights.parts["head_1"]["habit.inner.weight"])


@pytest.mark.parametrize(("given", "num_heads"), [({}, 3), ({"num_seeds": 2}, 2), ({"adaptation": "lora"}, 1), ({"adaptation_layer": "linear"}, 1)])
def test_an_encoder_that_is_adapted_has_one_head(fine_tune_job: FineTuneJob, given: dict[str, object], num_heads: int) -> None:
    assert FineTuneJob.model_validate({**fine_tune_job.model_dump(), "num_seeds": None, **given}).num_heads == num_heads


def test_calendar_harmonics_wait_for_two_years_of_data(fine_tune_job: FineTuneJob, tmp_path: Path) -> None:
    log = open_log(fine_tune_job.events, tmp_path, fine_tune_job.event_type_codes(), fine_tune_job.num_items)
    first = date(1970, 1, 1) + timedelta(days=log.first_day())
    assert "season_sin_1" in fine_tuning._unused_inputs(log, (first + timedelta(days=729)).toordinal())
    assert fine_tuning._unused_inputs(log, (first + timedelta(days=730)).toordinal()) == ()


def test_ndcg_is_nothing_known_where_a_user_has_no_target(loaded: tuple[FineTuneJob, Known, SampleData]) -> None:
    job, _, sample = loaded
    head = new_head(job, sample)
    values = ndcg(head, job, sample, np.arange(sample.num_users))
    is_new = (sample.is_target & ~sample.is_seen).numpy()
    owners = np.repeat(np.arange(sample.num_users), np.diff(sample.offsets.numpy()))
    assert np.array_equal(~np.isnan(values["discover"]), np.bincount(owners[is_new], minlength=sample.num_users) > 0)
    assert measure(head, job, sample, np.arange(sample.num_users))["discover"] == pytest.approx(np.nanmean(values["discover"]))


def test_a_share_of_labels_is_of_the_same_users_at_every_cutoff_and_grows_with_the_share(fine_tune_job: FineTuneJob, tmp_path: Path) -> None:
    log = open_log(fine_tune_job.events, tmp_path, fine_tune_job.event_type_codes(), fine_tune_job.num_items)
    rows = log.users().to_frame().with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))

    vocabulary = pl.read_parquet(fine_tune_job.vocabulary)
    known = {cutoff: known_at(fine_tune_job, log, cutoff) for cutoff in {sample.cutoff for sample in fine_tune_job.samples[-4:]}}

    def labelled(share: float, seed: int = 0) -> list[set[int]]:
        job = fine_tune_job.model_copy(update={"label_share": share, "seed": seed})
        return [set(read_sample(job, known[sample.cutoff], sample, rows, vocabulary).rows.tolist()) for sample in job.samples[-4:]]

    whole, half = labelled(1.0), labelled(0.5)
    drawn = set().union(*half)
    assert half == [users & drawn for users in whole]
    assert 0 < len(drawn) <= round(0.5 * len(rows))
    assert set().union(*labelled(0.1)) < drawn
    assert labelled(0.5, seed=1) != half
