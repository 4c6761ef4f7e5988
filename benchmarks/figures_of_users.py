"""Figures of users that a cell keeps, so that gains of a later run are paired with them though the rankings are gone from the storage.

A cell's `users` are a text for each window (list, origin, lead): NDCG@10 of its users in the order of their ids, in parts of `DIGITS`. The ids are those
of the window's targets, which the data say again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import date
from typing import Any

import polars as pl

from contracts import columns as c
from contracts.config import PipelineConfig
from contracts.sections.evaluation import ListName
from evaluation.bootstrap import mean_interval, paired_bootstrap
from evaluation.ranking_metrics import score_rankings
from evaluation.targets import known_before, targets
from flows.local_environment import use_local_stores

METRIC = "ndcg@10"
DIGITS = 10_000
ORIGIN = "origin"

Window = tuple[ListName, date, int]  # list, origin, lead


def wanted_of(config: PipelineConfig) -> Iterator[tuple[Window, pl.DataFrame]]:
    """Targets (user_id, item_id) of each window of the protocol, from the data as the pipeline cleans them; windows without any are left out."""
    use_local_stores(config.storage_root)
    from flows.partial_runs import validate_only

    _, validated = validate_only(config)
    return windows_of(pl.scan_parquet(validated.accepted.parts()), config)


def windows_of(interactions: pl.DataFrame | pl.LazyFrame, config: PipelineConfig) -> Iterator[tuple[Window, pl.DataFrame]]:
    """`wanted_of` from events at hand."""
    settings = config.evaluation
    for origin in settings.origins:
        known = known_before(interactions, origin)
        for lead, list_name in ((lead, list_name) for lead in settings.leads_days for list_name in settings.lists):
            asked = {"target_events": config.fine_tuning.target_events, "known": known}
            wanted = targets(interactions, origin, lead, settings.horizon_days, list_name, **asked)
            if not wanted.is_empty():
                yield (list_name, origin, lead), wanted


def figures_of_users(rankings: pl.DataFrame, asked: Iterable[tuple[Window, pl.DataFrame]]) -> dict[str, str]:
    """NDCG@10 of each user of a window, users in order; of windows that were ranked."""
    days = rankings.with_columns(lead=(pl.col(c.REQUEST_DATE) - pl.col(c.CUTOFF)).dt.total_days())
    parts = days.partition_by(c.LIST, c.CUTOFF, "lead", as_dict=True)
    scored = {window: score_rankings(parts[window], wanted).sort(c.USER_ID)["ndcg"] for window, wanted in asked if window in parts}
    return {key_of(window): " ".join(str(round(DIGITS * value)) for value in values) for window, values in scored.items()}


def key_of(window: Window) -> str:
    list_name, origin, lead = window
    return f"{list_name} {origin} {lead}"


def tables_of(asked: Iterable[tuple[Window, pl.DataFrame]], cells: Mapping[str, Mapping[str, Any]]) -> dict[str, pl.DataFrame]:
    """Figures of users of each cell: list, origin, lead_days, user_id, value. Raises ValueError where a cell holds another number of users than are asked."""
    tables: dict[str, list[pl.DataFrame]] = {name: [] for name in cells}
    for window, wanted in asked:
        key, users = key_of(window), wanted[c.USER_ID].unique().sort()
        about = [pl.lit(value).alias(column) for column, value in zip((c.LIST, ORIGIN, c.LEAD_DAYS), window, strict=True)]
        for name, cell in cells.items():
            values = [int(value) / DIGITS for value in cell["users"].get(key, "").split()]
            if values and len(values) != len(users):
                raise ValueError(f"cell {name!r}, {key}: figures of {len(values):,} users, {len(users):,} are asked: its data have changed. Remove the cell.")
            if values:
                tables[name].append(pl.DataFrame({c.USER_ID: users, "value": values}).with_columns(about))
    return {name: pl.concat(parts) for name, parts in tables.items()}


def gains(config: PipelineConfig, tables: Mapping[str, pl.DataFrame], ours: str) -> list[dict[str, Any]]:
    """One cell's table against every other on the same users: paired differences with their intervals, of each lead and of all."""
    rows = []
    for about, here in _lists_and_leads(config, tables[ours]):
        for other in (name for name in tables if name != ours):
            found = paired_bootstrap(tables[ours].filter(here), tables[other].filter(here), config.evaluation.num_resamples, config.seed)
            rows.append({**about, "metric": f"gain of {METRIC}", "seed": config.seed, "model": ours, "other": other, "value": found.relative, **asdict(found)})
    return rows


def figures(config: PipelineConfig, tables: Mapping[str, pl.DataFrame]) -> list[dict[str, Any]]:
    """Means over users and origins with their intervals, of each table, of each lead and of all."""
    rows = []
    for name, table in tables.items():
        for about, here in _lists_and_leads(config, table):
            of_users = table.filter(here)
            found = asdict(mean_interval(of_users, config.evaluation.num_resamples, config.seed))
            rows.append({**about, "model": name, "metric": METRIC, **{key: found[key] for key in ("value", "ci_low", "ci_high")}, "n": of_users.height})
    return rows


def _lists_and_leads(config: PipelineConfig, table: pl.DataFrame) -> Iterator[tuple[dict[str, Any], pl.Expr]]:
    for list_name in table[c.LIST].unique().sort():
        of_list = pl.col(c.LIST) == list_name
        for lead in (None, *table.filter(of_list)[c.LEAD_DAYS].unique().sort()):
            about = {"dataset": config.name, "list": list_name, "lead_days": lead, ORIGIN: "all"}
            yield about, of_list if lead is None else of_list & (pl.col(c.LEAD_DAYS) == lead)
