"""A feature is a named expression that says what it is; tables, network inputs and the catalogue are lists of them."""

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True, eq=False)
class Feature:
    """One column: its expression, what it holds in a line, and how far back it looks."""

    name: str
    expression: pl.Expr
    says: str
    looks_back: str


def float32(features: Iterable[Feature]) -> list[pl.Expr]:
    """Expressions of network inputs, in order, cast to Float32 under their names."""
    return [feature.expression.cast(pl.Float32).alias(feature.name) for feature in features]


def names(features: Iterable[Feature]) -> tuple[str, ...]:
    """Column names, in order."""
    return tuple(feature.name for feature in features)
