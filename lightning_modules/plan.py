"""What pre-training will take, known before it is started: memory of each device, steps, and roughly how long.

Two steps of the real network, its loss and its optimiser run on tensors without data (`FakeTensorMode`): every operation is seen, nothing
is computed. What they would hold is counted byte by byte; their time is the sum over operations of what the machine's arithmetic or its
memory would need. So a new encoder, loss or switch needs no formula here.
"""

import math
import time
import weakref
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from contracts import columns as c
from contracts.sections.training import ComputeConfig
from lightning_modules.event_log import EVENT_DAY, EventLog, prepare_event_log
from lightning_modules.jobs import PretrainJob
from lightning_modules.pretraining import Pretraining, plan_periods, recompute_blocks, walk_settings
from lightning_modules.taste import ItemVectors, build_taste
from lightning_modules.time_walk import Batch, Period, TimeWalk
from lightning_modules.trainers import use_bf16

FLOAT = 4
LOG_ROW = 10  # bytes of an event in the memory-mapped log
SAMPLER_ROW = 24  # bytes of an item in the sampler of negatives
FEWEST_EVENTS = 50_000
GATHERS = ("embedding", "index_select", "gather", "index")  # read some rows of what they are given, not all of it
KEPT_BY_ALLOCATOR = 1.06  # glibc keeps freed blocks; of what a step makes anew more, since training asks it to (`trainers.keep_freed_memory`)
KEPT_OF_ACTIVATIONS = 1.3  # both by tests/lightning_modules/test_plan.py
GATHERED_BLOCKS = 2  # FSDP2 holds the block that is computed and the next one


@dataclass(frozen=True)
class DataSize:
    """How much there is to learn from, over how many `days`. `num_nodes` rows of categories, on paths of at most `depth`; text vectors of `content_width`."""

    num_items: int
    num_events: int
    num_users: int
    days: int = 730
    num_event_types: int = 1
    num_nodes: int = 0
    depth: int = 3
    content_width: int = 0

    @property
    def events_of_a_user(self) -> float:
        """Mean length of a history."""
        return max(self.num_events / max(self.num_users, 1), 1.0)


@dataclass(frozen=True)
class Machine:
    """One device as it works, not as its data sheet says; `link_bytes` between devices, both ways."""

    name: str
    flops: float
    memory_bytes: float
    link_bytes: float
    seconds_per_operation: float
    seconds_per_step: float


GPU = Machine("a data-centre GPU at 150 TFLOP/s, 1.5 TB/s, linked at 100 GB/s", 150e12, 1.5e12, 100e9, 8e-6, 5e-3)


@dataclass(frozen=True)
class Plan:
    """What pre-training takes. Bytes are those of one device.

    weights, gradients, optimizer_states  at rest between steps; `item_table` of them belongs to rows of items and categories
    gathered      FSDP2: weights and gradients that are whole while they are computed with
    activations   the rest at the fullest moment of a step: what the backward pass waits for, its intermediate results, text vectors of items
    loading       events (memory-mapped) and the sampler of negatives, host memory
    saving        whole weights and optimiser states, host memory of the first process while a checkpoint is written, beyond the above
    """

    parameters: int
    item_parameters: int
    weights: int
    gradients: int
    optimizer_states: int
    item_table: int
    gathered: int
    activations: int
    loading: int
    saving: int
    world_size: int
    strategy: str
    events_of_a_step: int
    steps: int
    step_seconds: float
    machine: str

    @property
    def device_bytes(self) -> int:
        """Bytes of one device at the fullest moment of a step."""
        return self.weights + self.gradients + self.optimizer_states + self.gathered + self.activations

    @property
    def process_bytes(self) -> int:
        """Growth of one process's resident memory where the device is the CPU: device, loading and saving share one memory."""
        saving = self.weights + self.gradients + self.optimizer_states + self.saving
        in_a_step = KEPT_BY_ALLOCATOR * (self.device_bytes - self.activations) + KEPT_OF_ACTIVATIONS * self.activations
        return int(max(in_a_step, KEPT_BY_ALLOCATOR * saving) + KEPT_BY_ALLOCATOR * self.loading)

    @property
    def seconds(self) -> float:
        """Time of all steps, without early stopping."""
        return self.steps * self.step_seconds


def plan_pretraining(job: PretrainJob, compute: ComputeConfig, size: DataSize, machine: Machine, *, events: pl.DataFrame | None = None) -> Plan:
    """Plan of a job. `events` are all events of some users (columns of `training_events`); where there are none, users are made up."""
    world = compute.devices * compute.num_nodes
    batch, events_of_a_step, steps = _walk(job, size, world, made_up_events(job, size) if events is None else events)
    traced = _trace(job, compute, size, batch, machine)
    is_sharded = compute.strategy == "fsdp2" and world > 1
    shares = world if is_sharded else 1
    weights = FLOAT * traced.parameters
    gathered = FLOAT * (2 * traced.root_parameters + (GATHERED_BLOCKS + 1) * traced.block_parameters) if is_sharded else 0
    on_cpu = _is_cpu(compute)
    return Plan(
        parameters=traced.parameters,
        item_parameters=traced.item_parameters,
        weights=weights // shares,
        gradients=weights // shares,
        optimizer_states=traced.optimizer_states // shares,
        item_table=(2 * weights + traced.optimizer_states) * traced.item_parameters // (traced.parameters * shares),
        gathered=gathered,
        activations=max(traced.peak - 2 * weights - traced.optimizer_states, 0),
        loading=LOG_ROW * size.num_events + SAMPLER_ROW * size.num_items,
        saving=weights + traced.optimizer_states if is_sharded or not on_cpu else 0,
        world_size=world,
        strategy="fsdp2" if is_sharded else "ddp" if world > 1 else "one process",
        events_of_a_step=events_of_a_step,
        steps=steps,
        step_seconds=traced.seconds + machine.seconds_per_step + _exchange_seconds(weights, world, machine),
        machine=machine.name,
    )


def measured_machine(threads: int) -> Machine:
    """The CPU here: arithmetic and memory tried for about a third of a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left, table = torch.randn(768, 768), torch.randn(8_000_000)
        operation = torch.randn(8)
        flops = 2 * 768**3 / _seconds_of(lambda: left @ left)
        memory = 2 * FLOAT * len(table) / _seconds_of(lambda: table.mul_(1.0))
        small = _seconds_of(lambda: operation.add_(1.0))
    finally:
        torch.set_num_threads(before)
    return Machine(f"this CPU, {threads} threads, as measured now", flops, memory, 2e9, 2 * small + 2e-6, 4e-3)


def _seconds_of(work: Any) -> float:
    work()
    times = []
    until = time.perf_counter() + 0.1
    while time.perf_counter() < until or len(times) < 3:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _exchange_seconds(weights: int, world: int, machine: Machine) -> float:
    """Gradients of all weights once around the ring."""
    return 2 * (world - 1) / world * weights / machine.link_bytes


def _is_cpu(compute: ComputeConfig) -> bool:
    return compute.accelerator == "cpu" or (compute.accelerator == "auto" and not torch.cuda.is_available())


@dataclass(frozen=True)
class _Traced:
    parameters: int
    item_parameters: int
    root_parameters: int
    block_parameters: int
    optimizer_states: int
    peak: int
    seconds: float


def _trace(job: PretrainJob, compute: ComputeConfig, size: DataSize, batch: Batch, machine: Machine) -> _Traced:
    """Two steps without data: the second one finds the optimiser's states in place."""
    trace = StepTrace(machine)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, trace:
        module = Pretraining(_empty_taste(job, size), job)
        if compute.activation_checkpointing:
            recompute_blocks(module.taste)
        optimizer = module.configure_optimizers()
        batch = replace(batch, **{name: fake.from_tensor(value) for name, value in vars(batch).items() if isinstance(value, Tensor)})
        for step in range(2):
            trace.peak, trace.seconds = trace.held, 0.0
            _step(module, optimizer, batch, use_bf16=use_bf16(compute, has_wide_layers=True))
            if step == 0:
                module.on_before_optimizer_step(optimizer)
        states = sum(_bytes(value) for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
        blocks = list(getattr(module.taste.encoder, "blocks", []))
        largest = max((_count(block) for block in blocks), default=0)
        total = _count(module)
        return _Traced(
            parameters=total,
            item_parameters=_count(module.taste.items),
            root_parameters=total - sum(_count(block) for block in blocks),
            block_parameters=largest,
            optimizer_states=states,
            peak=trace.peak,
            seconds=trace.seconds,
        )


def _step(module: Pretraining, optimizer: torch.optim.Optimizer, batch: Batch, *, use_bf16: bool) -> None:
    """As Lightning does it: the gradients of the step before live through the forward pass."""
    with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
        loss = module.objective(batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _empty_taste(job: PretrainJob, size: DataSize) -> Any:
    content = torch.zeros(size.num_items, size.content_width, dtype=torch.float16) if size.content_width else None
    no_categories = torch.zeros(size.num_items, 0, dtype=torch.long)
    taste = build_taste(job.encoder, no_categories, num_items=size.num_items, num_event_types=size.num_event_types, content=content)
    if size.num_nodes:
        items: ItemVectors = taste.items
        items.nodes = nn.Embedding(size.num_nodes + 1, job.encoder.width, padding_idx=0)
        items.categories = torch.zeros(size.num_items, size.depth, dtype=torch.long)
        items.has_categories = True
    return taste


class StepTrace(TorchDispatchMode):
    """Sees every operation: `held` bytes now, `peak` the most so far, `seconds` the machine would need."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine
        self.held, self.peak, self.seconds = 0, 0, 0.0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run the operation and write down what its results hold."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        is_new = [self._see(tensor) for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        if any(is_new) or func._schema.is_mutable:
            self.seconds += self._seconds(func, args, kwargs, result)
        return result

    def _see(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return False
        self._sizes[key] = storage.nbytes()
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._forget, key)
        return True

    def _forget(self, key: int) -> None:
        self.held -= self._sizes.pop(key, 0)

    def _seconds(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> float:
        name = func._overloadpacket.__name__
        read = [] if name in GATHERS else [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        written = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        moved = sum(_bytes(tensor) for tensor in [*read, *written])
        return self.machine.seconds_per_operation + max(self._flops(func, name, args, kwargs, result) / self.machine.flops, moved / self.machine.memory_bytes)

    @staticmethod
    def _flops(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> float:
        if name == "_scaled_dot_product_flash_attention_for_cpu":
            return 4.0 * args[0].numel() * args[1].shape[-2]
        if name == "_scaled_dot_product_flash_attention_for_cpu_backward":
            return 10.0 * args[0].numel() * args[2].shape[-2]
        counted = flop_registry.get(func._overloadpacket)
        return float(counted(*args, **kwargs, out_val=result)) if counted else 0.0


def _walk(job: PretrainJob, size: DataSize, world: int, events: pl.DataFrame) -> tuple[Batch, int, int]:
    """A full batch as far as the events reach, this process's share of it; events of a batch; steps of the whole walk.

    The walk over some users is planned as it would be over all, and counts as often as they go into all.
    """
    with TemporaryDirectory() as place:
        folder = Path(place)
        events.write_parquet(folder / "events.parquet")
        prepare_event_log(str(folder / "events.parquet"), folder / "events", job.event_type_codes(), size.num_items)
        log, settings = EventLog(folder / "events"), walk_settings(job)
        everything = Period(None, int(events[EVENT_DAY].max()) + 1, None)  # type: ignore[arg-type]
        batch = next(iter(TimeWalk(log, [everything], settings, num_items=size.num_items, world_size=world)))
        walk = TimeWalk(log, plan_periods(job), settings, num_items=size.num_items, world_size=world)
        periods = [walk.batches(number, job.epochs) for number in range(len(walk.periods))]
        windows = [windows for period in periods for windows in period]
        visited = sum(found.num_events for found in windows)
        mean_window = visited / max(sum(len(found.starts) for found in windows), 1)
    of_a_step = job.batch_events - mean_window / 2  # what no window fits into any more
    last = 0.5 * sum(1 for period in periods if period)
    return batch, int(of_a_step), math.ceil(visited * size.num_events / events.height / of_a_step + last)


def made_up_events(job: PretrainJob, size: DataSize) -> pl.DataFrame:
    """Some batches of events: histories of the mean length, spread as a geometric distribution spreads them, items drawn evenly."""
    generator = np.random.default_rng(0)
    wanted = min(max(4 * job.batch_events, FEWEST_EVENTS), max(size.num_events, 2))
    lengths = generator.geometric(1 / size.events_of_a_user, max(int(wanted / size.events_of_a_user), 1))
    number = int(lengths.sum())
    days = (job.cutoffs[-1] - date(1970, 1, 1)).days - 1 - generator.integers(0, size.days, number)
    return pl.DataFrame(
        {
            c.USER_ID: np.char.mod("u%09d", np.repeat(np.arange(len(lengths)), lengths)),
            c.ITEM_INDEX: generator.integers(0, size.num_items, number).astype(np.int32),
            EVENT_DAY: days.astype(np.int32),
            c.EVENT_TYPE: [job.event_types[0]] * number,
        }
    ).sort(c.USER_ID, EVENT_DAY, maintain_order=True)
