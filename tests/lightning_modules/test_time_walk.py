"""The walk through time: every event a target once a pass, nothing from the future, the same for any number of processes."""

import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from lightning_modules.event_log import EventLog, prepare_event_log
from lightning_modules.time_walk import Batch, Period, TimeWalk, WalkSettings, uniform

CODES = {"purchase": 1, "view": 2}


@pytest.fixture
def log(events: pl.DataFrame, tables: Path, tmp_path: Path) -> EventLog:
    prepare_event_log(str(tables / "events.parquet"), tmp_path / "log", CODES, num_items=40)
    return EventLog(tmp_path / "log")


def settings(**given: object) -> WalkSettings:
    values = {
        "max_history": 8,
        "batch_events": 100,
        "num_negatives": 5,
        "epochs": 1.0,
        "replay": 0.0,
        "objective": "next_item",
        "horizon_days": 28,
        "leads_days": (0, 28),
        "repeat_weight": 1.0,
        "even_share": 0.5,
        "seed": 3,
    }
    return WalkSettings(**(values | given))


def walk(log: EventLog, ends: list[int], **given: object) -> TimeWalk:
    rank, world_size = given.pop("rank", 0), given.pop("world_size", 1)
    starts = [None, *ends[:-1]]
    periods = [Period(start, end, str(end)) for start, end in zip(starts, ends, strict=True)]
    return TimeWalk(log, periods, settings(**given), num_items=40, rank=rank, world_size=world_size)


def targets_of(batch: Batch) -> list[tuple[int, int, int, int]]:
    """(item, request day, lead, days since) of each target."""
    return list(zip(batch.targets.tolist(), batch.request_days.tolist(), batch.lead_days.tolist(), batch.since.tolist(), strict=True))


WORKERS = """
import sys
import warnings
from pathlib import Path
from torch.utils.data import DataLoader, IterableDataset
from lightning_modules.event_log import EventLog
from tests.lightning_modules.test_time_walk import targets_of, walk

class Readable(IterableDataset):
    def __init__(self, walk):
        self.walk = walk

    def __iter__(self):
        return iter(self.walk)

warnings.simplefilter("ignore")
log = EventLog(Path(sys.argv[1]))
one, other = (walk(log, [log.first_day() + end for end in (150, 250, 400)], epochs=2.0, replay=0.25) for _ in range(2))
alone, shared = list(one), list(DataLoader(Readable(other), batch_size=None, num_workers=3))
assert len({batch.period for batch in alone}) == 3
assert [(batch.period, batch.number) for batch in shared] == [(batch.period, batch.number) for batch in alone]
assert [targets_of(batch) for batch in shared] == [targets_of(batch) for batch in alone]
"""


def test_workers_share_the_batches_and_keep_their_order(log: EventLog, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, tmp_path / "log"], capture_output=True, text=True, check=False
    )  # workers are forks: of a small process
    assert done.returncode == 0, done.stderr[-2_000:]


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from lightning_modules.event_log import EventLog
from tests.lightning_modules.test_time_walk import walk

def resident():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))

walk(EventLog(Path(sys.argv[1])), [2_000], batch_events=2_048, max_history=64, repeat_weight=0.0).held_out(1_990, 2_000)  # what is loaded at first use
before = resident()
made = walk(EventLog(Path(sys.argv[2])), [1_000, 2_000], batch_events=2_048, max_history=64)
most = 0
for number, batch in enumerate(made):
    if number % 50 == 0:
        most = max(most, resident())
print(most - before)
"""


@pytest.mark.slow
def test_memory_of_a_walk_does_not_grow_with_the_events(tmp_path: Path) -> None:
    users, grown = 2_000, {}
    for name, per_user in (("small", 100), ("large", 3_000)):
        days = np.tile(np.sort(np.random.default_rng(0).integers(0, 2_000, per_user)), users)
        table = {"user_id": np.repeat(np.arange(users), per_user), "item_index": np.random.default_rng(1).integers(1, 40, users * per_user), "event_day": days}
        frame = pl.DataFrame(table).with_columns(pl.col("user_id").cast(pl.String), pl.col("item_index", "event_day").cast(pl.Int32), event_type=pl.lit("view"))
        frame.sort("user_id", maintain_order=True).write_parquet(tmp_path / f"{name}.parquet")
        prepare_event_log(str(tmp_path / f"{name}.parquet"), tmp_path / name, CODES, num_items=40)
    for name in ("small", "large"):
        done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / "small", tmp_path / name], capture_output=True, text=True, check=True)
        grown[name] = int(done.stdout) / 1024
    more = (tmp_path / "large" / "events.arrow").stat().st_size - (tmp_path / "small" / "events.arrow").stat().st_size
    assert more > 50 * 2**20
    assert grown["large"] - grown["small"] < 12, grown  # MiB: a window of 64 events takes some 50 bytes while a period is planned


def test_the_log_holds_the_events_in_order(log: EventLog, events: pl.DataFrame) -> None:
    stored = log.take(np.arange(events.height))
    np.testing.assert_array_equal(stored.items, events["item_index"])
    np.testing.assert_array_equal(stored.days, events["event_day"])
    np.testing.assert_array_equal(stored.types, events["event_type"].replace_strict(CODES))
    assert log.users().to_list() == events["user_id"].unique(maintain_order=True).to_list()


def test_shards_end_where_users_end_and_change_nothing(events: pl.DataFrame, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.event_log.SHARD_ROWS", 700)
    monkeypatch.setattr("lightning_modules.event_log.READ_ROWS", 250)
    prepare_event_log(str(tables / "events.parquet"), tmp_path / "log", CODES, num_items=40)
    log = EventLog(tmp_path / "log")
    assert len(log.shards) > 3
    assert np.isin(log.starts, log.offsets).all()
    np.testing.assert_array_equal(log.take(np.arange(events.height)[::-1]).items, events["item_index"].reverse())
    day = int(events["event_day"].median())
    known = events.filter(pl.col("event_day") < day).group_by("user_id").len()
    counted = pl.DataFrame({"user_id": log.users(), "len": log.ends_before(day) - np.asarray(log.offsets[:-1])}).filter(pl.col("len") > 0)
    assert dict(counted.rows()) == dict(known.rows())


def test_every_event_is_a_target_once_a_pass(log: EventLog, events: pl.DataFrame) -> None:
    batches = list(walk(log, [10**6]))
    counts = np.bincount(np.concatenate([batch.targets.numpy() for batch in batches]), minlength=40)
    wanted = np.bincount(events["item_index"], minlength=40)
    np.testing.assert_array_equal(counts, wanted)


def test_a_second_pass_moves_the_borders_and_still_covers_every_event(log: EventLog, events: pl.DataFrame) -> None:
    batches = list(walk(log, [10**6], epochs=3.0))
    counts = np.bincount(np.concatenate([batch.targets.numpy() for batch in batches]), minlength=40)
    assert (counts >= np.bincount(events["item_index"], minlength=40)).all()
    assert counts.sum() == pytest.approx(3 * events.height, rel=0.2)


def test_windows_come_in_another_order_in_each_pass_and_with_each_seed(log: EventLog) -> None:
    def places(seed: int) -> list[np.ndarray]:
        """Mean place of each user's windows in each of three passes."""
        there = walk(log, [10**6], seed=seed)
        starts = np.concatenate([windows.starts for windows in there.batches(0, 4.0)])
        size = sum(len(windows.starts) for windows in there.batches(0, 1.0))
        users = np.searchsorted(log.offsets, starts, side="right") - 1
        return [np.bincount(part, np.arange(size), log.num_users) / np.bincount(part, minlength=log.num_users) for part in users[: 3 * size].reshape(3, size)]

    np.testing.assert_array_equal(places(3), places(3))
    alike = np.corrcoef([np.arange(log.num_users), *places(3), *places(4)]) - np.eye(7)  # the order of the log, three passes, three with another seed
    assert np.abs(alike).max() < 0.5  # the same order twice: nearly 0.9 and more


def test_batches_hold_no_padding_and_at_most_the_asked_number_of_events(log: EventLog) -> None:
    for batch in walk(log, [10**6]):
        assert len(batch.items) == batch.offsets[-1] <= 100
        assert np.diff(batch.offsets).max() <= 8


def test_a_period_sees_nothing_at_or_after_its_end(log: EventLog, events: pl.DataFrame) -> None:
    low, high = int(events["event_day"].quantile(0.4)), int(events["event_day"].quantile(0.8))
    for objective in ("next_item", "window_item"):
        for batch in walk(log, [low, high], objective=objective, replay=0.5, epochs=3.0):
            assert int(batch.days.max()) < (low, high)[batch.period]
            assert int(batch.request_days.max()) < (low, high)[batch.period]


def test_the_future_changes_nothing_in_earlier_periods(log: EventLog, events: pl.DataFrame, tmp_path: Path) -> None:
    low = int(events["event_day"].quantile(0.5))
    changed = events.with_columns(
        pl.when(pl.col("event_day") >= low).then((pl.col("item_index") + 1) % 40).otherwise(pl.col("item_index")).cast(pl.Int32).alias("item_index")
    )
    changed.write_parquet(tmp_path / "changed.parquet")
    prepare_event_log(str(tmp_path / "changed.parquet"), tmp_path / "changed", CODES, num_items=40)
    other = EventLog(tmp_path / "changed")
    for one, two in zip(walk(log, [low], epochs=2.0), walk(other, [low], epochs=2.0), strict=True):
        assert targets_of(one) == targets_of(two)
        assert one.negatives.tolist() == two.negatives.tolist()


def test_a_new_period_covers_its_new_events_and_replays_old_ones(log: EventLog, events: pl.DataFrame) -> None:
    low = int(events["event_day"].quantile(0.7))
    num_new = (events["event_day"] >= low).sum()
    late = [batch for batch in walk(log, [low, 10**6], epochs=8.0, replay=0.5) if batch.period == 1]
    new_targets = sum(int((batch.days[batch.sources.clamp(min=1) - 1] + batch.since + 28 >= low).sum()) for batch in late)
    total = sum(len(batch.targets) for batch in late)
    assert total == pytest.approx(8 * num_new, rel=0.25)
    assert 0.3 < new_targets / total < 0.9


def test_the_source_of_a_target_is_the_state_after_the_event_before_it(log: EventLog) -> None:
    for batch in walk(log, [10**6]):
        source = batch.sources.numpy()
        after = source > 0
        following = batch.items.numpy()[source[after]]  # event n + 1 in the batch follows event n = source - 1
        np.testing.assert_array_equal(following, batch.targets.numpy()[after])


def test_requests_are_made_between_the_last_event_and_the_target(log: EventLog) -> None:
    for batch in walk(log, [10**6]):
        after = batch.sources > 0
        last = batch.days[batch.sources[after] - 1]
        assert ((batch.request_days[after] - last) == batch.since[after]).all()
        assert (batch.since >= 0).all()
        assert (batch.lead_days <= batch.since).all()


def test_window_targets_lie_in_their_window(log: EventLog) -> None:
    number = 0
    for batch in walk(log, [10**6], objective="window_item"):
        last = batch.days[batch.sources - 1]
        assert (batch.sources > 0).all()
        assert (batch.request_days + 27 >= last + 1).all()
        number += len(batch.targets)
    assert number > 1000


def test_masked_items_are_hidden_where_they_are_asked_for(log: EventLog) -> None:
    shares = []
    for batch in walk(log, [10**6], objective="masked_item"):
        at = batch.sources - 1
        assert batch.is_masked.sum() == len(at)
        assert batch.is_masked[at].all()
        assert torch.equal(batch.items[at], batch.targets)
        assert torch.equal(batch.since + (batch.days[at] - batch.request_days), batch.gaps[at].float())
        ends = torch.from_numpy(batch.offsets[1:] - 1)
        assert batch.is_masked[ends].all()  # the last event of a history is always asked for, as in a request
        shares.append(float(batch.is_masked.float().mean()))
    assert 0.25 < np.mean(shares) < 0.4  # a fifth, and one of each eight


def test_without_weight_for_repeats_only_first_events_are_targets(log: EventLog, events: pl.DataFrame) -> None:
    batches = list(walk(log, [10**6], repeat_weight=0.0))
    counts = np.bincount(np.concatenate([batch.targets.numpy() for batch in batches]), minlength=40)
    first = events.unique(["user_id", "item_index"], keep="first")
    np.testing.assert_array_equal(counts, np.bincount(first["item_index"], minlength=40))


def test_two_processes_share_each_batch_without_counting_anything_twice(log: EventLog) -> None:
    for objective in ("next_item", "window_item"):
        whole = list(walk(log, [10**6], objective=objective))
        halves = zip(walk(log, [10**6], objective=objective, rank=0, world_size=2), walk(log, [10**6], objective=objective, rank=1, world_size=2), strict=True)
        for one, (first, second) in zip(whole, halves, strict=True):
            assert sorted(targets_of(one)) == sorted(targets_of(first) + targets_of(second))
            assert one.negatives.tolist() == first.negatives.tolist() == second.negatives.tolist()


@pytest.mark.parametrize("objective", ["next_item", "window_item", "masked_item"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_batch_says_whose_its_windows_are(objective: str, world_size: int, log: EventLog, events: pl.DataFrame) -> None:
    middle = int(events["event_day"].median())
    of_user = {user: (items, days) for user, items, days in events.group_by("user_id").agg("item_index", "event_day").rows()}
    names, num_again = log.users(), 0
    for rank in range(world_size):
        there = walk(log, [middle, 10**6], objective=objective, epochs=3.0, replay=0.5, rank=rank, world_size=world_size)
        for batch in [*there, *there.held_out(middle, 10**6)]:
            users = batch.to("cpu").users
            assert users.dtype == torch.int64
            assert len(users) == len(batch.offsets) - 1
            for user, start, stop in zip(users.tolist(), batch.offsets[:-1], batch.offsets[1:], strict=True):
                items, days = batch.items[start:stop].tolist(), batch.days[start:stop].tolist()
                own_items, own_days = of_user[names[user]]
                assert any(own_items[i : i + len(items)] == items and own_days[i : i + len(days)] == days for i in range(len(own_items)))
            num_again += len(users) - len(users.unique())
    assert num_again > 10  # windows of one user in one batch


def test_the_walk_goes_on_at_the_next_unseen_batch(log: EventLog, events: pl.DataFrame) -> None:
    middle = int(events["event_day"].median())
    whole = [targets_of(batch) for batch in walk(log, [middle, 10**6])]
    for stop in (1, 7, len(whole) - 2):
        first = walk(log, [middle, 10**6])
        taken = [targets_of(batch) for batch in islice(first, stop)]
        state = first.state_dict()
        second = walk(log, [middle, 10**6])
        second.load_state_dict(state)
        assert taken + [targets_of(batch) for batch in second] == whole


def test_leaving_a_period_early_shortens_the_later_ones(log: EventLog, events: pl.DataFrame) -> None:
    middle = int(events["event_day"].median())
    full = [batch.period for batch in walk(log, [middle, 10**6], epochs=4.0)]
    early = walk(log, [middle, 10**6], epochs=4.0)
    periods = []
    for batch in early:
        periods.append(batch.period)
        if len(periods) == full.count(0) // 4:
            early.end_period_early(batch.share_done)
    assert periods.count(0) == full.count(0) // 4
    assert periods.count(1) < full.count(1) / 2


def test_a_period_left_early_stays_left_where_the_walk_is_taken_up(log: EventLog, events: pl.DataFrame) -> None:
    middle = int(events["event_day"].median())

    def seen(batches: Iterable[Batch]) -> list[tuple[int, int, float, list[int]]]:
        return [(batch.period, batch.number, batch.share_done, batch.items.tolist()) for batch in batches]

    first = walk(log, [middle, 10**6], epochs=4.0, replay=0.3)
    undisturbed = iter(first)
    *_, last = islice(undisturbed, 7)
    first.end_period_early(last.share_done)
    second = walk(log, [middle, 10**6], epochs=4.0, replay=0.3)
    second.load_state_dict(first.state_dict())
    rest = seen(undisturbed)
    assert rest[0][:2] == (1, 0)
    assert seen(second) == rest
    assert seen(islice(second, 1))[0][:2] == (0, 0)  # the stop holds for its period alone


def test_chance_depends_on_position_and_key_alone_and_is_even() -> None:
    drawn = uniform(np.arange(20_000), (1, 2))
    np.testing.assert_array_equal(uniform(np.array([7, 5]), (1, 2)), drawn[[7, 5]])
    assert (uniform(np.arange(100), (1, 3)) != drawn[:100]).all()
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert np.histogram(drawn, 10, (0, 1))[0].min() > 1_800
