"""How the events of several histories lie in one batch, and attention that respects it.

Packed: all events of all histories end to end, [N, ...], with offsets; no padding. Linear layers run on exactly the N events. For
attention the histories are put into groups of similar length; a shorter one is padded at its end within its group, where a causal
mask hides it for free.
Padded: [B, T, ...], right-padded, as the exported graph sees one request.

Letters: N events, B histories, T steps, H heads, E width of a head, b histories of one group, t steps of one group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

GROUP_RATIO = 1.34


class Layout(Protocol):
    """What an encoder block needs to know of a batch."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, dropout: float, is_causal: bool) -> Tensor:
        """Scaled dot-product attention within each history; all [..., H, E]."""
        ...

    def by_history(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Apply `function` to right-padded inputs [b, t, ...] and a mask of real steps [b, t], None where all are; returns it in the batch's own shape."""
        ...


@dataclass(frozen=True)
class Group:
    """Histories of similar length.

    index    [b, t]  place of each step among the packed events; a step behind its history's end points to the last event
    is_real  [b, t]  steps that are events; None where all are
    real     [n]     places of the real steps in the flat [b * t]; None where all are
    start            first packed event, where the histories lie end to end in equal length
    """

    index: Tensor
    is_real: Tensor | None
    real: Tensor | None
    start: int | None


class Packed:
    """Layout of packed events. `offsets` [B+1]: where each history starts; ascending lengths make whole groups contiguous."""

    def __init__(self, offsets: np.ndarray, device: torch.device | str = "cpu") -> None:
        self.offsets = offsets
        self.num_events = int(offsets[-1])
        self.groups = [_group(offsets, rows, device) for rows in _similar(np.diff(offsets))]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, dropout: float, is_causal: bool) -> Tensor:
        """Attention within each history: [N, H, E]."""

        def attention(q: Tensor, k: Tensor, v: Tensor, is_real: Tensor | None) -> Tensor:
            mask = None if is_causal or is_real is None else is_real[:, None, None, :]
            out = functional.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, dropout_p=dropout, is_causal=is_causal
            )
            return out.transpose(1, 2)

        return self.by_history(attention, queries, keys, values)

    def by_history(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Run `function` group by group and lay the results end to end again."""
        if len(self.groups) == 1 and self.groups[0].start is not None:
            group = self.groups[0]
            return function(*(x.reshape(*group.index.shape, *x.shape[1:]) for x in inputs), group.is_real).flatten(0, 1)
        parts, places = [], []
        for group in self.groups:
            flat = group.index.flatten()
            out = function(*(x.index_select(0, flat).reshape(*group.index.shape, *x.shape[1:]) for x in inputs), group.is_real).flatten(0, 1)
            parts.append(out if group.real is None else out.index_select(0, group.real))
            places.append(flat if group.real is None else flat.index_select(0, group.real))
        order = torch.cat(places)
        packed = torch.cat(parts)
        return torch.empty_like(packed).index_copy(0, order, packed)


@dataclass(frozen=True)
class Padded:
    """Layout of right-padded histories [B, T, ...] with their lengths [B]."""

    lengths: Tensor

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, dropout: float, is_causal: bool) -> Tensor:
        """Attention within each history: [B, T, H, E]. Steps behind the length hold rubbish; nothing real looks at them."""
        mask = None if is_causal else self._is_real(queries)[:, None, None, :]
        out = functional.scaled_dot_product_attention(
            queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, dropout_p=dropout, is_causal=is_causal
        )
        return out.transpose(1, 2)

    def by_history(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Apply `function` to the inputs as they are."""
        return function(*inputs, self._is_real(inputs[0]))

    def _is_real(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device)
        return steps[None, :] < self.lengths[:, None]


def _similar(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows of histories, put together where the longest is at most `GROUP_RATIO` times the shortest (or both are short)."""
    order = np.argsort(lengths, kind="stable")
    groups, start = [], 0
    while start < len(order):
        limit = max(lengths[order[start]] * GROUP_RATIO, 4)
        stop = int(np.searchsorted(lengths[order], limit, side="right"))
        groups.append(order[start:stop])
        start = stop
    return groups


def _group(offsets: np.ndarray, rows: np.ndarray, device: torch.device | str) -> Group:
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    steps = np.arange(lengths.max())
    is_real = steps < lengths[:, None]
    index = starts[:, None] + np.minimum(steps, lengths[:, None] - 1)
    is_block = bool(is_real.all()) and bool((np.diff(starts) == lengths[0]).all()) and (len(rows) == 1 or rows[0] < rows[-1])
    if is_real.all():
        return Group(torch.from_numpy(index).to(device), None, None, int(starts[0]) if is_block else None)
    real = torch.from_numpy(np.flatnonzero(is_real))
    return Group(torch.from_numpy(index).to(device), torch.from_numpy(is_real).to(device), real.to(device), None)
