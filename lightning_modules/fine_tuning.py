"""Fine-tuning: the head is fitted on target events of sampled cut-offs, and its networks are exported for serving.

The loss of a list is the cross-entropy of each user's targets over the candidates: the pool of the cut-off, some other items drawn at random
(weighted up for those not drawn) and the user's own history and targets.

Letters: B users, C shared candidates of the step (pool first), M pairs of these users, E the most pairs of one user outside the shared
ones, K terms of taste.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor

from contracts import columns as c
from contracts.artifacts import JobResult
from contracts.errors import NotEnoughHistoryError
from contracts.sections.training import ComputeConfig
from lightning_modules.adaptation import Adaptation, AdaptedTaste, histories_at, with_queries
from lightning_modules.event_log import EventLog
from lightning_modules.export import export_networks
from lightning_modules.head import Head, build_head
from lightning_modules.jobs import FineTuneJob, ListName
from lightning_modules.pretraining import DAYS_FOR_YEAR, ENCODER, open_log
from lightning_modules.samples import EPOCH, Known, SampleData, known_at, pool_taste, read_sample, sample_data
from lightning_modules.starting_weights import Weights, find_weights
from lightning_modules.taste import Taste
from lightning_modules.trainers import Checkpoints, ProgressLines, build_optimizer, build_trainer, checkpoint_to_resume, process_rank, say
from lightning_modules.warm_start import ADAPTATION, HEAD, WEIGHTS, read_weights, save_weights

NEVER = -1e9
TOP = 10
RANKS = 100
RANK_SCALE = {"again": 10.0}  # discover: every target counts
STATISTICS_ROWS = 20_000
CHECK_USERS = 1_024
HELD_OUT_SHARE = 0.25
CHECKS = 6
WARM_UP = 0.1
ENCODER_WEIGHT = {"again": 0.02, "discover": 0.05}
FIRST_LINEAR_WEIGHT = {"again": 0.5, "discover": 0.5}
OTHER_LINEAR_WEIGHT = {"again": 0.02, "discover": 0.5}
WHERE_SAMPLES_LIE = {"accelerator": "cpu", "precision": "32"}  # a head is small: its samples would travel to a GPU, and be put together from two precisions
Share = tuple[float, float]  # of the stage: where it begins and ends, 0 to 1

CALENDAR_INPUTS = ("season_sin_1", "season_cos_1", "season_sin_2", "season_cos_2")


@dataclass
class UserBatch:
    """Some users of one sample: which sample, their rows, the seed of the step's drawn candidates."""

    sample: int
    users: Tensor
    seed: int
    fraction: float
    is_last: bool


class SampleWalk:
    """Loader over (sample, users): every user of every training sample once in an epoch, in an order seeded by epoch; resumes at the next unseen batch."""

    def __init__(self, users: list[np.ndarray], *, batch_users: int, epochs: int, seed: int, max_steps: int = 10**9) -> None:
        self.users, self.batch_users, self.epochs, self.seed, self.max_steps = users, batch_users, epochs, seed, max_steps
        self.rank, self.world_size = 0, 1
        self.position = 0

    @property
    def batches_in_epoch(self) -> int:
        """Batches of one epoch."""
        return sum(-(-len(users) // self.batch_users) for users in self.users)

    def __len__(self) -> int:
        """Batches of all epochs, at most `max_steps`."""
        return min(self.batches_in_epoch * self.epochs, self.max_steps)

    def state_dict(self) -> dict[str, Any]:
        """Batches consumed; the same for every rank."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.position = state["position"]

    def __iter__(self) -> Iterator[UserBatch]:
        """Batches from the present position on; starting again after the end begins anew."""
        while self.position < len(self):
            epoch, first = divmod(self.position, self.batches_in_epoch)
            for sample, users in self._epoch(epoch)[first : len(self) - epoch * self.batches_in_epoch]:
                self.position += 1
                mine = users[self.rank :: self.world_size]
                yield UserBatch(sample, torch.from_numpy(mine), self.seed * 1_000_003 + self.position, self.position / len(self), self.position == len(self))
        self.position = 0

    def _epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        generator = np.random.default_rng([self.seed, epoch])
        batches = []
        for sample, users in enumerate(self.users):
            order = generator.permutation(users)
            batches += [(sample, np.sort(order[start : start + self.batch_users])) for start in range(0, len(users), self.batch_users)]
        return [batches[number] for number in generator.permutation(len(batches))]


class FineTuning(lightning.LightningModule):
    """Loss and optimiser of the head."""

    def __init__(
        self, head: Head, job: FineTuneJob, samples: list[SampleData], label: str = "", adaptation: Adaptation | None = None, share: Share = (0.0, 1.0)
    ) -> None:
        super().__init__()
        self.head, self.job, self.samples, self.label, self.adaptation, self.share = head, job, samples, label, adaptation, share
        self.start = [value.detach().clone() for value in head.anchored()]

    def training_step(self, batch: UserBatch, batch_idx: int) -> Tensor:
        """Sum over lists of the mean loss of the step's targets, over all processes."""
        sample = self.samples[batch.sample]
        queries = self.adaptation.queries(sample, batch.users) if self.adaptation else None
        ranked = rank_lists(self.head, self.job, sample, batch.users, seed=batch.seed, queries=queries, lists=self.job.trained_lists)
        parts = [list_loss(found) for found in ranked]
        pull = torch.tensor([self.job.anchor, self.job.anchor_discover])
        total = sum(((value - start).square().sum(1) * pull).sum() for value, start in zip(self.head.anchored(), self.start, strict=True))
        total = total + 0.0 * sum(parameter.sum() for parameter in self.parameters())
        for loss, weight in parts:
            share = weight if self.trainer.world_size == 1 else self.trainer.strategy.reduce(weight.clone(), reduce_op="sum") / self.trainer.world_size
            total = total + loss / share.clamp(min=1e-9)
        return total

    def on_train_batch_start(self, batch: UserBatch, batch_idx: int) -> None:
        """Warm up over the first tenth, then follow a cosine to nothing."""
        cosine = 0.5 + 0.5 * math.cos(math.pi * (batch.fraction - WARM_UP) / (1 - WARM_UP))
        share = batch.fraction / WARM_UP if batch.fraction < WARM_UP else cosine
        for group in self.optimizers().param_groups:
            group["lr"] = self.job.optimizer.learning_rate * max(share, 0.01) * group.get("share", 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimiser of the head; what changes the encoder is learned at a rate of its own."""
        optimizer = build_optimizer(list(self.head.named_parameters()), self.job.optimizer, undecayed=("bias", "raw_weights"))
        if self.adaptation:
            optimizer.add_param_group({"params": list(self.adaptation.parameters()), "share": self.job.adaptation_rate})
        return optimizer

    def progress(self, batch: UserBatch) -> tuple[float, str, float]:
        """Fraction of the whole stage: this head's walk within its share."""
        low, high = self.share
        return low + (high - low) * batch.fraction, f"{self.label},", 0.0


class NewestCutoff(lightning.Callback):
    """Look at held-out users of the newest sampled cut-off; keep the best weights, end where they stop getting better."""

    def __init__(self, sample: SampleData, users: np.ndarray, job: FineTuneJob, *, every_steps: int) -> None:
        self.sample, self.users, self.job, self.every_steps = sample, users, job, every_steps
        self.figures: list[dict[str, float]] = []
        self.best: dict[str, Tensor] | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: FineTuning) -> None:
        """Look once before the first step: the priors are what training must beat."""
        if not self.figures:
            self._look(pl_module)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: FineTuning, outputs: Any, batch: UserBatch, batch_idx: int) -> None:
        """Look every `every_steps` steps and after the last."""
        if not len(self.users) or (trainer.global_step % self.every_steps and not batch.is_last):
            return
        self._look(pl_module)
        if len(self.figures) - 1 - int(np.argmax(self.scores())) >= self.job.patience:
            trainer.should_stop = True

    def scores(self) -> list[float]:
        """One number for each look: mean over the lists that are trained of the log of NDCG@10, so that they count by relative gain."""
        lists = self.job.trained_lists
        return [sum(math.log(figures[name] + 1e-6) for name in lists) / len(lists) for figures in self.figures]

    def _look(self, pl_module: FineTuning) -> None:
        if not len(self.users):
            return
        users = self.users[:CHECK_USERS]
        sample = pl_module.adaptation.applied(self.sample, users) if pl_module.adaptation else self.sample
        figures = measure(pl_module.head, self.job, sample, users)
        self.figures.append(figures)
        if self.scores()[-1] >= max(self.scores()):
            self.best = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Figures and best weights so far."""
        return {"figures": self.figures, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.figures, self.best = list(state_dict["figures"]), state_dict["best"]


@dataclass(frozen=True)
class RankedTargets:
    """Targets of some users in one list; T targets.

    scores, totals  [T]  score of the target; log of the sum of exponentials over the user's candidates
    ranks           [T]  candidates before it, at most `RANKS`
    rows            [T]  place of the user in the batch
    num_targets     [B]  targets of each user
    """

    list_name: str
    scores: Tensor
    totals: Tensor
    ranks: Tensor
    rows: Tensor
    num_targets: Tensor


def rank_lists(
    head: Head,
    job: FineTuneJob,
    sample: SampleData,
    users: Tensor,
    *,
    seed: int,
    queries: Tensor | None = None,
    lists: Sequence[ListName] | None = None,
) -> list[RankedTargets]:
    """Score the candidates of some users for every list, or for some `lists`, and find their targets; `queries` [B, D] stand for the sample's own."""
    starts, counts = sample.offsets[users], sample.offsets[users + 1] - sample.offsets[users]
    rows = torch.repeat_interleave(torch.arange(len(users)), counts)
    before = counts.cumsum(0) - counts
    pairs = torch.arange(int(counts.sum())) + torch.repeat_interleave(starts - before, counts)
    items, is_seen, is_target = sample.pair_items[pairs], sample.is_seen[pairs], sample.is_target[pairs]
    shared, log_weights = _candidates(sample, job.num_drawn, seed)
    place = _places(sample, shared, items)  # [M], -1 where a pair's item is not among the shared candidates
    slots = _slots(rows, place < 0, len(users))

    season_rows = sample.season[torch.searchsorted(sample.items, torch.cat([shared, items]))]
    season = head.season(season_rows)  # [C + M, 2]
    own_taste = sample.pair_taste[pairs].float()
    taste = torch.cat([sample.pool_taste(users), sample.other_taste(users, shared[len(sample.pool) :])], 1)  # [B, C, K]
    if queries is not None:
        own_taste, taste = with_queries(sample, queries, rows, items, shared, own_taste, taste)
    weights = head.taste_weights()
    habit = _habit(head, sample, pairs, is_seen, season_rows[len(shared) :], own_taste)

    is_shared = place >= 0
    mass = log_weights.expand(len(users), -1).clone()  # [B, C]; a drawn item that is among the user's own stands for itself alone
    mass[rows[is_shared], place[is_shared]] = 0.0

    ranked = []
    for name in lists or job.lists:
        number = 0 if name == "again" else 1
        scores = taste @ weights[number] + season[: len(shared), number]  # [B, C]
        own = own_taste @ weights[number] + season[len(shared) :, number] + (habit if number == 0 else 0.0)  # [M]
        wanted = is_target if number == 0 else is_target & ~is_seen
        if number == 1:
            own = own.masked_fill(is_seen, NEVER)
        scores = scores.index_put((rows[is_shared], place[is_shared]), own[is_shared])
        others = scores.new_full((len(users), int(slots.max()) + 1 if len(slots) else 1), NEVER).index_put((rows[~is_shared], slots), own[~is_shared])  # [B, E]
        totals = torch.logsumexp(torch.cat([scores + mass, others], 1), 1)
        before_it = torch.cat([scores[:, : len(sample.pool)], others], 1).detach()
        best = before_it.topk(min(RANKS, before_it.shape[1]), 1).values  # [B, RANKS]
        targets = wanted.nonzero()[:, 0]
        ranks = (best[rows[targets]] > own[targets].detach()[:, None]).sum(1)
        num_targets = torch.bincount(rows[targets], minlength=len(users))
        ranked.append(RankedTargets(name, own[targets], totals[rows[targets]], ranks, rows[targets], num_targets))
    return ranked


def list_loss(ranked: RankedTargets) -> tuple[Tensor, Tensor]:
    """Weighted sum of the targets' cross-entropies, and the sum of the weights.

    A user's targets together weigh about the square root of their number, so that big baskets neither rule nor vanish; in `again` each
    weighs 1 / (1 + rank / scale), since most of what a user buys is beyond any list of ten.
    """
    weights = ranked.num_targets.clamp(min=1).float().rsqrt()[ranked.rows]
    if ranked.list_name in RANK_SCALE:
        weights = weights / (1 + ranked.ranks / RANK_SCALE[ranked.list_name])
    return ((ranked.totals - ranked.scores) * weights).sum(), weights.sum()


def measure(head: Head, job: FineTuneJob, sample: SampleData, users: np.ndarray) -> dict[str, float]:
    """NDCG@10 of each list over the users who have targets in it, candidates being the pool and each user's own pairs."""
    return {
        name: float(np.nan_to_num(values[~np.isnan(values)].mean() if (~np.isnan(values)).any() else 0.0))
        for name, values in ndcg(head, job, sample, users).items()
    }


@torch.no_grad()
def ndcg(head: Head, job: FineTuneJob, sample: SampleData, users: np.ndarray) -> dict[str, np.ndarray]:
    """NDCG@10 of each list for each user [U], NaN where the user has no target in it."""
    found: dict[str, list[Tensor]] = {name: [] for name in job.lists}
    ideal = torch.cat([torch.zeros(1), (1 / torch.log2(torch.arange(2.0, TOP + 2))).cumsum(0)])
    for block in torch.from_numpy(users).split(job.batch_users):
        for ranked in rank_lists(head, job, sample, block, seed=0):
            gain = torch.where(ranked.ranks < TOP, 1 / torch.log2(ranked.ranks + 2.0), torch.zeros(()))
            per_user = torch.zeros(len(block)).index_add(0, ranked.rows, gain) / ideal[ranked.num_targets.clamp(max=TOP)].clamp(min=1e-9)
            found[ranked.list_name].append(per_user.masked_fill(ranked.num_targets == 0, math.nan))
    return {name: torch.cat(values).numpy() for name, values in found.items()}


def _habit(head: Head, sample: SampleData, pairs: Tensor, is_seen: Tensor, season_rows: Tensor, own_taste: Tensor) -> Tensor:
    """Habit of each pair [M], 0 where the item is not of the history."""
    seen = is_seen.nonzero()[:, 0]
    inputs = torch.cat([sample.habit[pairs[seen]].float(), season_rows[seen], own_taste[seen]], 1)
    return torch.zeros(len(pairs)).index_copy(0, seen, head.habit(inputs)[:, 0])


def _candidates(sample: SampleData, num_drawn: int, seed: int) -> tuple[Tensor, Tensor]:
    """Shared candidates of a step [C], the pool and others at random, and the log weight of each [C]: a drawn item stands for those not drawn."""
    drawn = min(num_drawn, len(sample.rest))
    if not drawn:
        return sample.pool, torch.zeros(len(sample.pool))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.unique(sample.rest[torch.randint(0, len(sample.rest), (drawn,), generator=generator)])
    log_weight = math.log(len(sample.rest) / len(chosen))
    return torch.cat([sample.pool, chosen]), torch.cat([torch.zeros(len(sample.pool)), torch.full((len(chosen),), log_weight)])


def _places(sample: SampleData, shared: Tensor, items: Tensor) -> Tensor:
    """Place of each item among the shared candidates, -1 where it is not."""
    order = shared.argsort()
    rising = shared[order]
    near = torch.searchsorted(rising, items).clamp(max=len(shared) - 1)
    return torch.where(rising[near] == items, order[near], -1)


def _slots(rows: Tensor, is_other: Tensor, num_users: int) -> Tensor:
    """Number of each other pair within its user, from 0."""
    mine = rows[is_other]
    counts = torch.bincount(mine, minlength=num_users)
    return torch.arange(len(mine)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)


def fine_tune(job: FineTuneJob, compute: ComputeConfig, folder: Path) -> JobResult:
    """Run a fine-tuning job in `folder`, or what is left of it: one head for each origin, exported to `<origin>/networks`.

    One that goes on from earlier weights (`job.start`) begins with those heads, and leaves them as they are where no window is new to them.

    Raises NotEnoughHistoryError where no sample's window ends at or before an origin.
    """
    started = time.monotonic()
    compute = compute.model_copy(update=WHERE_SAMPLES_LIE)
    log = open_log(job.events, folder, job.event_type_codes(), job.num_items)
    terms = folder / f"terms_{process_rank()}"
    cutoffs = sorted({sample.cutoff for sample in job.samples} | set(job.origins))
    samples: list[SampleData] = []
    metrics: dict[str, float] = {}
    world_size = 1
    for number, cutoff in enumerate(cutoffs):
        share = _part((0.0, 1.0), number, len(cutoffs))
        say("fine_tune", share[0], f"cut-off {number + 1} of {len(cutoffs)} ({cutoff})")
        known, found = _at_cutoff(job, log, cutoff, terms)
        samples += found
        if cutoff not in job.origins:
            continue
        usable = [sample for sample in samples if sample.window_end <= cutoff]
        if job.start and not any(sample.window_end > job.start.cutoff for sample in usable):
            usable = []
        elif not usable:
            raise _no_sample(samples, cutoff)
        figures, world_size = _fit_and_export(job, log, usable, known, compute, folder / cutoff.isoformat(), share)
        metrics |= {f"{name}_{cutoff}": value for name, value in figures.items()}
    shutil.rmtree(terms, ignore_errors=True)
    say("fine_tune", 1.0, f"{len(job.origins) * _num_heads(job)} heads")
    return JobResult(stage=job.stage, output=str(folder), metrics=metrics, seconds=time.monotonic() - started, world_size=world_size)


def _at_cutoff(job: FineTuneJob, log: EventLog, cutoff: date, terms: Path) -> tuple[Known, list[SampleData]]:
    """Taste at a cut-off, and its samples; their linear terms are written below `terms`."""
    log_rows = log.users().to_frame().with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    vocabulary = pl.read_parquet(job.vocabulary, columns=[c.ITEM_ID, c.ITEM_INDEX])
    known = known_at(job, log, cutoff)
    tables = [read_sample(job, known, sample, log_rows, vocabulary) for sample in job.samples if sample.cutoff == cutoff]
    tables = [table for table in tables if len(table.rows)]
    samples: list[SampleData] = []
    if tables:
        linear = pool_taste(job, known, np.unique(np.concatenate([table.rows for table in tables])), terms)
        samples = [sample_data(job, log, known, table, linear) for table in tables]
        if known.taste and job.adapts:
            samples = [replace(s, histories=histories_at(known, log, t.rows, t.sample.lead_days)) for s, t in zip(samples, tables, strict=True)]
    return replace(known, histories=()), samples


def _no_sample(samples: list[SampleData], origin: date) -> NotEnoughHistoryError:
    earliest = min((sample.window_end for sample in samples), default=None)
    return NotEnoughHistoryError(
        f"fine-tuning: no sampled window ends at or before {origin}; the earliest ends {earliest}. "
        "Sample earlier cut-offs (features.cutoff_every_days, features.first_cutoff_after_days) or give more history."
    )


def _fit_and_export(
    job: FineTuneJob, log: EventLog, samples: list[SampleData], known: Known, compute: ComputeConfig, place: Path, share: Share
) -> tuple[dict[str, float], int]:
    """The heads of one origin, fitted and exported to `place/networks`: figures of the last, and the number of processes."""
    figures: dict[str, float] = {}
    heads, world_size = [], 1
    number, unused = sorted(job.origins).index(known.cutoff), _unused_inputs(log, known.cutoff.toordinal())
    num_heads = _num_heads(job)
    labels = [f"head {number * num_heads + seed + 1} of {len(job.origins) * num_heads} ({known.cutoff})" for seed in range(num_heads)]
    starts: list[Weights] = []
    if samples and not job.start:
        for seed, label in enumerate(labels):
            say("fine_tune", share[0], f"{label}, where discover begins")
            starts.append(_start_of_discover(job, samples, seed=job.seed + seed))
        if known.taste and job.use_encoder == "if_it_adds" and not any(start.taste[0] for start in starts):
            job, known = job.model_copy(update={"pretraining": None}), replace(known, taste=None, item_vectors=None)
            samples, starts = _without_encoder(samples), [replace(start, taste=start.taste[1:]) for start in starts]
    taste, adaptation = known.taste, None
    for seed, label in enumerate(labels):
        part = _part(share, seed, num_heads)
        if samples:
            start, fit_folder = starts[seed] if starts else None, place / f"seed_{seed}"
            head, adaptation, figures, world_size = _fit(
                job, samples, compute, fit_folder, seed=job.seed + seed, label=label, unused=unused, start=start, share=part
            )
        else:
            head, adaptation = _started_head(job, seed, has_encoder=taste is not None).eval(), _new_adaptation(job, taste)
        heads.append(head)
        if adaptation and known.taste:
            known = replace(known, taste=AdaptedTaste(known.taste, adaptation))
    if process_rank() == 0:
        _export(job, known, heads, place)
        nodes = json.loads((Path(job.pretraining) / ENCODER).read_text())["nodes"] if job.pretraining else []
        save_weights(place / WEIGHTS, taste=taste, adaptation=adaptation, heads=heads, nodes=nodes, event_types=job.event_types)
    if starts:
        figures = figures | {"encoder_weight": float(np.mean([start.taste[0] for start in starts])) if taste else 0.0}
    return figures, world_size


def _num_heads(job: FineTuneJob) -> int:
    """Heads that are averaged: as many as asked for; where it is not said, as many as an earlier training left, or the default."""
    return int(read_weights(job.start.weights).described["num_heads"]) if job.start and job.num_seeds is None else job.num_heads


def _without_encoder(samples: list[SampleData]) -> list[SampleData]:
    """The same samples with linear terms of taste only."""
    nothing = torch.zeros(1, 0)
    return [replace(s, queries=s.queries[:, :0], taste_items=nothing, pair_taste=s.pair_taste[:, 1:], histories=None) for s in samples]


def _part(share: Share, number: int, of: int) -> Share:
    """One of several equal parts of a share of the stage."""
    low, high = share
    return low + (high - low) * number / of, low + (high - low) * (number + 1) / of


def _fit(
    job: FineTuneJob,
    samples: list[SampleData],
    compute: ComputeConfig,
    folder: Path,
    *,
    seed: int,
    label: str,
    unused: tuple[str, ...],
    start: Weights | None,
    share: Share = (0.0, 1.0),
) -> tuple[Head, Adaptation | None, dict[str, float], int]:
    """One head, and what it changes of the encoder: trained on all samples but some users of the newest, which say when to stop.

    `start` is where discover begins; none where all goes on from earlier weights.
    """
    lightning.seed_everything(seed, verbose=False)
    users, newest, held_out = _split(samples, seed)
    if job.start:
        users = replayed(users, [sample.window_end > job.start.cutoff for sample in samples], share=job.replay, seed=seed)
    walk = SampleWalk(users, batch_users=job.batch_users, epochs=job.epochs, seed=seed, max_steps=job.max_steps)
    histories = samples[0].histories
    adaptation = _new_adaptation(job, histories.taste) if histories else None
    head = _new_head(job, samples, start, unused) if start else _started_head(job, seed - job.seed, has_encoder=bool(samples[0].queries.shape[1]))
    if not job.trained_lists:
        return head.eval(), adaptation, {}, 1
    module = FineTuning(head, job, samples, label, adaptation, share)
    check = NewestCutoff(newest, held_out, job, every_steps=max(len(walk) // CHECKS, 1))
    trainer = build_trainer(
        compute, folder, [ProgressLines("fine_tune"), check, Checkpoints(folder, compute.checkpoint_every_steps)], gradient_clip=job.optimizer.gradient_clip
    )
    walk.rank, walk.world_size = trainer.global_rank, trainer.world_size
    trainer.fit(module, walk, ckpt_path=checkpoint_to_resume(folder))
    if check.best is not None:
        module.load_state_dict(check.best)
    if trainer.is_global_zero and check.figures:
        folder.mkdir(parents=True, exist_ok=True)
        pl.DataFrame([{f"held_out_ndcg_{name}": value for name, value in look.items()} for look in check.figures]).write_parquet(folder / "looks.parquet")
    best = check.figures[int(np.argmax(check.scores()))] if check.figures else {}
    figures = {f"held_out_ndcg_{name}": value for name, value in best.items()}
    return module.head.eval(), module.adaptation, {**figures, "steps": float(trainer.global_step)}, trainer.world_size


def _split(samples: list[SampleData], seed: int) -> tuple[list[np.ndarray], SampleData, np.ndarray]:
    """Users of each sample that train; the newest sample and its users that do not, at any lead of that cut-off."""
    newest = max(range(len(samples)), key=lambda number: samples[number].window_end)
    order = np.random.default_rng([seed, 7]).permutation(samples[newest].num_users)
    held_out = np.sort(order[: int(HELD_OUT_SHARE * len(order))])
    rows = samples[newest].linear_rows[held_out]
    same_cutoff = [sample.linear is samples[newest].linear for sample in samples]
    users = [
        np.flatnonzero(~np.isin(sample.linear_rows, rows)) if same else np.arange(sample.num_users) for sample, same in zip(samples, same_cutoff, strict=True)
    ]
    return users, samples[newest], held_out


def replayed(users: list[np.ndarray], is_new: list[bool], *, share: float, seed: int) -> list[np.ndarray]:
    """The users of each sample that train: all of the new ones, and of the older ones as many, drawn at random, as make up `share` of all."""
    number = round(sum(len(rows) for rows, new in zip(users, is_new, strict=True) if new) * share / (1 - share))
    older = np.concatenate([np.full(len(rows), place) for place, rows in enumerate(users) if not is_new[place]] or [np.zeros(0, np.int64)])
    drawn = np.random.default_rng([seed, 8]).permutation(len(older))[:number]
    is_drawn = np.zeros(len(older), bool)
    is_drawn[drawn] = True
    return [rows if is_new[place] else rows[is_drawn[older == place]] for place, rows in enumerate(users)]


def _new_adaptation(job: FineTuneJob, taste: Taste | None) -> Adaptation | None:
    """What may change of the encoder: nothing yet, or as an earlier training left it."""
    if taste is None or not job.adapts:
        return None
    adaptation = Adaptation(taste, weights=job.adaptation, layer=job.adaptation_layer, rank=job.lora_rank)
    if job.start:
        read_weights(job.start.weights).fill(adaptation, ADAPTATION)
    return adaptation


def _started_head(job: FineTuneJob, number: int, *, has_encoder: bool) -> Head:
    """The head of an earlier training; shapes come from the job, everything else from its weights."""
    assert job.start is not None
    num_season, num_terms = len(job.season_inputs), has_encoder + len(job.linear)
    num_habit = len(job.habit_inputs) + num_season + num_terms
    head = build_head(
        season_inputs=job.season_inputs,
        habit_inputs=job.habit_inputs,
        unused_inputs=(),
        season_prior={},
        season_slopes={},
        habit_prior={},
        habit_bias=0.0,
        season_width=job.season_width,
        habit_width=job.habit_width,
        season_statistics=(torch.zeros(num_season), torch.zeros(num_season)),
        habit_statistics=(torch.zeros(num_habit), torch.zeros(num_habit)),
        taste_weights=torch.ones(2, num_terms),
    )
    read_weights(job.start.weights).fill(head, f"{HEAD}{number}")
    return head


def _start_of_discover(job: FineTuneJob, samples: list[SampleData], *, seed: int) -> Weights:
    """Where discover begins: the weights its search finds, which sees no user held out; without search the fixed ones, without that list no encoder."""
    has_encoder = bool(samples[0].queries.shape[1])
    taste = _fixed_taste(job, "discover", has_encoder=has_encoder)
    if "taste" in job.leave_out or "discover" not in job.lists:
        taste = [0.0] * len(taste)
    read = [name for name in job.season_prior if name in job.season_inputs and name.partition("_")[0] not in job.leave_out]
    start = Weights(tuple(taste), {name: job.season_prior[name][1] for name in read}, {name: both[1] for name, both in job.season_slopes.items()})
    if not job.search_start or "discover" not in job.lists:
        return start
    users, _, _ = _split(samples, seed)
    return find_weights(samples, users, start, job.season_inputs, has_encoder=has_encoder, seed=seed)


def _fixed_taste(job: FineTuneJob, name: ListName, *, has_encoder: bool) -> list[float]:
    linear = [FIRST_LINEAR_WEIGHT[name], *[OTHER_LINEAR_WEIGHT[name]] * len(job.linear[1:])][: len(job.linear)]
    return [ENCODER_WEIGHT[name]] * has_encoder + linear


def _new_head(job: FineTuneJob, samples: list[SampleData], start: Weights, unused: tuple[str, ...]) -> Head:
    chosen = samples[:: max(len(samples) // 6, 1)]
    again = _fixed_taste(job, "again", has_encoder=bool(samples[0].queries.shape[1]))
    return build_head(
        season_inputs=job.season_inputs,
        habit_inputs=job.habit_inputs,
        unused_inputs=unused,
        season_prior={name: (both[0], start.season.get(name, both[1])) for name, both in job.season_prior.items()},
        season_slopes={name: (job.season_slopes.get(name, (0.0, 0.0))[0], slope) for name, slope in start.slopes.items()},
        habit_prior=job.habit_prior,
        habit_bias=job.habit_bias,
        season_width=job.season_width,
        habit_width=job.habit_width,
        season_statistics=_statistics([sample.season[torch.searchsorted(sample.items, sample.pool)] for sample in chosen]),
        habit_statistics=_statistics([_habit_rows(sample, seed=number) for number, sample in enumerate(chosen)]),
        taste_weights=torch.tensor([again, list(start.taste)]),
        leave_out=job.leave_out,
    )


def _habit_rows(sample: SampleData, *, seed: int) -> Tensor:
    """Some inputs of the habit network, as many as `STATISTICS_ROWS`."""
    seen = sample.is_seen.nonzero()[:, 0]
    rows = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed))[:STATISTICS_ROWS]]
    season = sample.season[torch.searchsorted(sample.items, sample.pair_items[rows])]
    return torch.cat([sample.habit[rows].float(), season, sample.pair_taste[rows].float()], 1)


def _statistics(tables: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each column."""
    rows = torch.cat(tables)
    if len(rows) < 2:
        return torch.zeros(rows.shape[1]), torch.zeros(rows.shape[1])
    return rows.mean(0), rows.std(0)


def _unused_inputs(log: EventLog, origin: int) -> tuple[str, ...]:
    """Calendar harmonics are left out with less than two years of data: a network could only tell the sampled cut-offs apart by them."""
    return CALENDAR_INPUTS if origin - EPOCH.toordinal() - log.first_day() < DAYS_FOR_YEAR else ()


def _export(job: FineTuneJob, known: Known, heads: list[Head], place: Path) -> None:
    shutil.rmtree(place / "networks", ignore_errors=True)
    draft = place / "networks.part"
    shutil.rmtree(draft, ignore_errors=True)
    export_networks(job, known, heads, draft)
    draft.rename(place / "networks")
