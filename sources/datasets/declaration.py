"""What a data set says about itself; the mapping, the ingest and the tests read nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import polars as pl

from contracts.sections.source import SourceConfig

NO_RULES: Final[Mapping[str, pl.Expr]] = MappingProxyType({})


def unchanged(raw: pl.LazyFrame) -> pl.LazyFrame:
    """The raw rows as they are."""
    return raw


@dataclass(frozen=True)
class Declaration:
    """How one log of behaviour is read.

    source               addresses, mapping, zone and units, filled in
    prepare              raw rows -> raw rows, same number and order: renames and derived columns
    rules                name -> expression over prepared rows: rows the data set's own cleaning sets aside
    catalogue            prepared rows of `source.catalogue_uri` -> columns of `item_catalogue`; None: `source.catalogue_columns` say it
    catalogue_of_events  prepared rows of the events -> columns of `item_catalogue`, for logs that carry titles
    is_regenerated       the files can always be had again: another configuration simply starts over
    """

    source: SourceConfig
    prepare: Callable[[pl.LazyFrame], pl.LazyFrame] = unchanged
    rules: Mapping[str, pl.Expr] = field(default_factory=lambda: NO_RULES)
    catalogue: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None
    catalogue_of_events: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None
    is_regenerated: bool = False


def filled(source: SourceConfig, **values: object) -> SourceConfig:
    """`source` with `values` where it still has the defaults (which fields were set is lost when a configuration travels as JSON)."""
    fields = SourceConfig.model_fields
    return source.model_copy(update={name: value for name, value in values.items() if getattr(source, name) == fields[name].get_default()})


def rename_known(raw: pl.LazyFrame, names: Mapping[str, str]) -> pl.LazyFrame:
    """Rename those columns of `names` (published name -> ours) that are there and whose new name is free."""
    have = raw.collect_schema().names()
    return raw.rename({old: new for old, new in names.items() if old in have and new not in have})
