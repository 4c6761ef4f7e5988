"""How the events of several histories lie in one batch, and attention that respects it.

Packed: all events of all histories end to end, [N, ...], with offsets; no padding. Linear layers run on exactly the N events. For
attention the histories are put into groups of similar length; a shorter one is padded at its end within its group, where a causal
mask hides it for free.
Padded: [B, T, ...], right-padded, as the exported graph sees one request.

Letters: N events, B histories, T steps, H heads, E width of a head, b histories of one group, t steps of one group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.attention import LONGEST, short_attention
from lightning_modules.event_log import ranges

GROUP_COST = 15_000  # what a further group costs, in pairs of steps that attention looks at for nothing
ROWS_IN_A_STEP = 8


class Layout(Protocol):
    """What an encoder block needs to know of a batch."""

    def attend(self, stacked: Tensor, *, is_causal: bool) -> Tensor:
        """Scaled dot-product attention within each history, from queries, keys and values [..., 3, H, E] to [..., H, E]."""
        ...

    def by_history(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Apply `function` to right-padded inputs [b, t, ...] and a mask of real steps [b, t], None where all are; returns it in the batch's own shape."""
        ...


@dataclass(frozen=True)
class Group:
    """Histories of similar length.

    index    [b, t]  place of each step among the packed events; a step behind its history's end points to the last event
    is_real  [b, t]  steps that are events
    """

    index: np.ndarray
    is_real: np.ndarray


@dataclass(frozen=True)
class Grid:
    """Histories of a batch end to end in R rows of T steps, the longest history's; no history is cut.

    Rows are a multiple of `ROWS_IN_A_STEP`, so that most batches have the same shape: a matrix product of a shape a CPU has not met before takes a
    multiple of its time.

    index  [R T]         event at each step, 0 where there is none
    place  [N]           step of each event
    mask   [R, 1, T, T]  1 where a step may look at another: one of its own history, none that is later
    """

    index: Tensor
    place: Tensor
    mask: Tensor


class Packed:
    """Layout of packed events. `offsets` [B+1]: where each history starts."""

    def __init__(self, offsets: np.ndarray, device: torch.device | str = "cpu") -> None:
        self.offsets = offsets
        self.num_events = int(offsets[-1])
        groups = [_group(offsets, rows) for rows in _similar(np.diff(offsets))]
        self.shapes = [group.index.shape for group in groups]
        self.is_real = [None if group.is_real.all() else torch.from_numpy(group.is_real).to(device) for group in groups]
        index = np.concatenate([group.index.ravel() for group in groups]) if groups else np.zeros(0, np.int64)
        real = np.flatnonzero(np.concatenate([group.is_real.ravel() for group in groups])) if groups else index
        place = np.empty(self.num_events, np.int64)  # of each event among the steps of all groups
        place[index[real]] = real
        lies_so_already = len(index) == self.num_events and bool((np.diff(index) == 1).all())
        self.index = None if lies_so_already else torch.from_numpy(index).to(device)
        self.place = None if lies_so_already else torch.from_numpy(place).to(device)

    @cached_property
    def grid(self) -> Grid:
        """The batch as rows of equal length."""
        return _grid(self.offsets)

    @cached_property
    def longest(self) -> int:
        """Events of the longest history."""
        return int(np.diff(self.offsets).max(initial=0))

    def attend(self, stacked: Tensor, *, is_causal: bool) -> Tensor:
        """Attention within each history: [N, 3, H, E] -> [N, H, E]."""

        def attention(inputs: Tensor, is_real: Tensor | None) -> Tensor:
            is_half_on_cpu = inputs.device.type == "cpu" and inputs.dtype == torch.bfloat16
            if is_half_on_cpu and inputs.shape[1] <= LONGEST:
                return short_attention(inputs, is_real, is_causal=is_causal)
            mask = None if is_causal or is_real is None else is_real[:, None, None, :]
            # on a CPU the fused kernel takes nine times as long in bf16 as in single precision
            q, k, v = (inputs.float() if is_half_on_cpu else inputs).permute(2, 0, 3, 1, 4).unbind(0)  # [b, H, t, E]
            with torch.autocast(inputs.device.type, enabled=False):
                mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)
            return mixed.transpose(1, 2).to(inputs.dtype)

        return self.by_history(attention, stacked)

    def by_history(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Run `function` group by group and lay the results end to end again."""
        sizes = [rows * steps for rows, steps in self.shapes]
        laid_out = [(x if self.index is None else x.index_select(0, self.index)).split(sizes) for x in inputs]
        results = [
            function(*(x.reshape(*shape, *x.shape[1:]) for x in parts), is_real).flatten(0, 1)
            for shape, is_real, *parts in zip(self.shapes, self.is_real, *laid_out, strict=True)
        ]
        together = results[0] if len(results) == 1 else torch.cat(results)
        return together if self.place is None else together.index_select(0, self.place)


@dataclass(frozen=True)
class Padded:
    """Layout of right-padded histories [B, T, ...] with their lengths [B]."""

    lengths: Tensor

    def attend(self, stacked: Tensor, *, is_causal: bool) -> Tensor:
        """Attention within each history: [B, T, 3, H, E] -> [B, T, H, E]. Steps behind the length hold rubbish; nothing real looks at them."""
        queries, keys, values = (x.transpose(1, 2) for x in stacked.unbind(-3))
        mask = None if is_causal else self._is_real(stacked)[:, None, None, :]
        return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=is_causal).transpose(1, 2)

    def by_history(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Apply `function` to the inputs as they are."""
        return function(*inputs, self._is_real(inputs[0]))

    def _is_real(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device)
        return steps[None, :] < self.lengths[:, None]


def _similar(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows of histories of similar length: the sorted lengths are cut where that saves most of attention's padding, as long as it is worth a group."""
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order].astype(np.int64)
    groups, rest = [], [slice(0, len(order))] if len(order) else []
    while rest:
        part = rest.pop()
        squares = ascending[part] ** 2
        saved = np.arange(1, len(squares)) * (squares[-1] - squares[:-1])  # pairs of steps, by a cut behind each row but the last
        cut = int(saved.argmax()) if len(saved) else 0
        if not len(saved) or saved[cut] < GROUP_COST:
            groups.append(order[part])
        else:
            rest += [slice(part.start + cut + 1, part.stop), slice(part.start, part.start + cut + 1)]
    return groups


def _grid(offsets: np.ndarray) -> Grid:
    """The longest histories first, each into the first row that has room for it."""
    lengths = np.diff(offsets)
    steps, filled = int(lengths.max()), []
    starts = np.empty(len(lengths), np.int64)
    for history in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[history])
        row = len(filled) if length == steps else next((row for row, taken in enumerate(filled) if taken + length <= steps), len(filled))
        if row == len(filled):
            filled.append(0)
        starts[history] = row * steps + filled[row]
        filled[row] += length
    rows = -(-len(filled) // ROWS_IN_A_STEP) * ROWS_IN_A_STEP
    place = ranges(starts, lengths)
    index, history_at = np.zeros(rows * steps, np.int64), np.full(rows * steps, -1, np.int32)
    index[place] = np.arange(len(place))
    history_at[place] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    history_at = history_at.reshape(rows, steps)
    mask = (history_at[:, :, None] == history_at[:, None, :]) & np.tri(steps, dtype=bool)
    return Grid(torch.from_numpy(index), torch.from_numpy(place), torch.from_numpy(mask.astype(np.float32))[:, None])


def _group(offsets: np.ndarray, rows: np.ndarray) -> Group:
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    steps = np.arange(lengths.max())
    return Group(starts[:, None] + np.minimum(steps, lengths[:, None] - 1), steps < lengths[:, None])
