"""What `perennial plan` shows: how much there is to learn from, and what pre-training on it will take."""

import math
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from contracts import columns as c
from contracts.config import PipelineConfig
from contracts.sections.content import TEXT_VECTOR_WIDTHS
from contracts.sections.training import ComputeConfig
from lightning_modules.event_log import EVENT_DAY
from lightning_modules.jobs import PretrainJob
from lightning_modules.plan import GPU, DataSize, Machine, Plan, measured_machine, plan_pretraining
from tasks.store import store_of

EVENTS_LOOKED_AT = 200_000
LAST_DAY = date(2020, 12, 31)


def stored_size(config: PipelineConfig) -> tuple[DataSize, pl.DataFrame] | None:
    """Size of the newest stored features of a pipeline, and all events of some of its users; None where none are stored."""
    steps = Path(store_of(config).root) / "steps"
    found = sorted(steps.glob("build_features/*/training_events.parquet"), key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    events = pl.scan_parquet(found[-1])
    whole = events.select(
        rows=pl.len(),
        users=pl.col(c.USER_ID).n_unique(),
        types=pl.col(c.EVENT_TYPE).n_unique(),
        days=pl.col(EVENT_DAY).max() - pl.col(EVENT_DAY).min() + 1,
    ).collect()
    rows, users, types, days = whole.row(0)
    one_in = math.ceil(rows / EVENTS_LOOKED_AT)
    some = events.filter(pl.col(c.USER_ID).hash(0) % one_in == 0).select(c.USER_ID, c.ITEM_INDEX, EVENT_DAY, c.EVENT_TYPE).collect()
    vocabulary = pl.scan_parquet(found[-1].with_name("vocabulary.parquet"))
    num_items = int(vocabulary.select(pl.col(c.ITEM_INDEX).max()).collect().item()) + 1
    return DataSize(num_items=num_items, num_events=rows, num_users=users, days=days, num_event_types=types), some


def plan_of(config: PipelineConfig, size: DataSize, *, events: pl.DataFrame | None = None, tflops: float | None = None, link_gb: float | None = None) -> Plan:
    """Plan of the pre-training of a pipeline on data of this size."""
    machine = _machine(config.compute, tflops, link_gb)
    last = LAST_DAY if events is None else date(1970, 1, 1) + timedelta(days=int(events[EVENT_DAY].max()))  # type: ignore[arg-type]
    first = size.days - config.features.first_cutoff_after_days
    cutoffs = tuple(sorted(last + timedelta(days=1 - back) for back in range(0, max(first, 1), config.features.cutoff_every_days)))
    job = PretrainJob.from_config(
        config.pretraining,
        inputs_digest="planned only",
        seed=config.seed,
        events="",
        num_items=size.num_items,
        event_types=tuple(f"type_{number}" for number in range(size.num_event_types)),
        cutoffs=cutoffs,
        leads_days=config.fine_tuning.leads_days,
        horizon_days=config.evaluation.horizon_days,
    )
    size = replace(size, content_width=TEXT_VECTOR_WIDTHS[config.content.encoder])
    return plan_pretraining(job, config.compute, size, machine, events=events)


def _machine(compute: ComputeConfig, tflops: float | None, link_gb: float | None) -> Machine:
    machine = measured_machine(compute.threads) if compute.accelerator == "cpu" or (compute.accelerator == "auto" and tflops is None) else GPU
    changed = {"flops": tflops * 1e12 if tflops else machine.flops, "link_bytes": link_gb * 1e9 if link_gb else machine.link_bytes}
    name = machine.name if tflops is None and link_gb is None else f"{machine.name}; arithmetic and link as given"
    return Machine(name, changed["flops"], machine.memory_bytes, changed["link_bytes"], machine.seconds_per_operation, machine.seconds_per_step)


def print_plan(config: PipelineConfig, size: DataSize, plan: Plan, console: Console) -> None:
    """Parameters, memory of each device, steps and time."""
    encoder, compute = config.pretraining.encoder, config.compute
    console.print(
        f"{size.num_events:,} events of {size.num_users:,} users, {size.num_items:,} items, {size.days:,} days\n"
        f"{encoder.kind}, width {encoder.width}, {encoder.num_blocks} blocks: {plan.parameters:,} parameters, {plan.item_parameters:,} of them rows of items\n"
        f"{plan.world_size} device{'s' * (plan.world_size > 1)} ({plan.strategy}), precision {compute.precision}, "
        f"activation checkpointing {'on' if compute.activation_checkpointing else 'off'}",
        soft_wrap=True,
    )
    table = Table("memory of each device", "MiB")
    table.columns[1].justify = "right"
    rows = {
        "weights": plan.weights,
        "gradients": plan.gradients,
        "optimiser states": plan.optimizer_states,
        "  of these three, item table": plan.item_table,
        "gathered whole while computed with": plan.gathered,
        "activations": plan.activations,
        "together": plan.device_bytes,
    }
    for name, value in rows.items():
        table.add_row(name, f"{value / 2**20:,.0f}", end_section=name == "activations")
    console.print(table)
    console.print(
        f"memory of a process on the CPU, with loading and saving: {plan.process_bytes / 2**20:,.0f} MiB beside about 600 MiB of libraries\n"
        f"host memory of the first process while it saves: {plan.saving / 2**20:,.0f} MiB\n"
        f"{plan.steps:,} steps of {plan.events_of_a_step:,} events, about {plan.step_seconds:.3g} s each: {_duration(plan.seconds)} "
        "if no early stopping ends it sooner\n"
        f"time reckoned for {plan.machine}",
        soft_wrap=True,
        highlight=False,
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3600:.1f} h"
