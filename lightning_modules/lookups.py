"""Rows of small tables, and what depends on a day alone, at little cost on a CPU."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def rows_of(table: Tensor, index: Tensor) -> Tensor:
    """Rows of `table` [R, D] at `index` [...], [..., D]. On a CPU the gradient adds row by row, a quarter of the time of an embedding's."""
    if index.ndim == 1 and index.device.type == "cpu":
        return table.index_select(0, index)
    return functional.embedding(index, table)


def by_day(function: Callable[[Tensor], Tensor], days: Tensor) -> Tensor:
    """`function(days)`, [...] -> [..., D]; for packed events on a CPU computed once for each day from the first to the last.

    Tensors without data (an export, `plan.py`) have no first day.
    """
    if torch.compiler.is_exporting() or type(days) is not Tensor or days.ndim != 1 or days.device.type != "cpu" or not len(days):
        return function(days)
    first, last = int(days.min()), int(days.max())
    if last - first >= len(days):
        return function(days)
    return function(torch.arange(first, last + 1)).index_select(0, days - first)
