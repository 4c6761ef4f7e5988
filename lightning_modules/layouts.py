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
LONGEST_AT_ONCE = 64
FEWEST_STEPS = 1024


class Layout(Protocol):
    """What an encoder block needs to know of a batch."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, is_causal: bool) -> Tensor:
        """Scaled dot-product attention within each history; all [..., H, E]."""
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

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, is_causal: bool) -> Tensor:
        """Attention within each history: [N, H, E]."""

        def attention(q: Tensor, k: Tensor, v: Tensor, is_real: Tensor | None) -> Tensor:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [b, H, t, E]
            mask = None if is_causal or is_real is None else is_real[:, None, None, :]
            if q.device.type == "cpu" and q.dtype == torch.bfloat16:
                return _attention_in_bf16(q, k, v, mask, is_causal=is_causal).transpose(1, 2)
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal).transpose(1, 2)

        return self.by_history(attention, queries, keys, values)

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

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, is_causal: bool) -> Tensor:
        """Attention within each history: [B, T, H, E]. Steps behind the length hold rubbish; nothing real looks at them."""
        mask = None if is_causal else self._is_real(queries)[:, None, None, :]
        out = functional.scaled_dot_product_attention(
            queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, is_causal=is_causal
        )
        return out.transpose(1, 2)

    def by_history(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Apply `function` to the inputs as they are."""
        return function(*inputs, self._is_real(inputs[0]))

    def _is_real(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device)
        return steps[None, :] < self.lengths[:, None]


def _attention_in_bf16(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
    """Attention [b, H, t, E] on a CPU whose fused kernel takes nine times as long in bf16 as in single precision.

    Many short histories: two products in bf16 with the softmax between them in single precision, about half the time of the fused kernel in single
    precision. Long ones would need t x t scores of every history at once, and a handful are not worth so many calls; both take that kernel.
    """
    steps = queries.shape[2]
    if steps > LONGEST_AT_ONCE or queries.shape[0] * steps < FEWEST_STEPS:
        with torch.autocast("cpu", enabled=False):
            mixed = functional.scaled_dot_product_attention(queries.float(), keys.float(), values.float(), attn_mask=mask, is_causal=is_causal)
        return mixed.to(queries.dtype)
    scores = (queries @ keys.transpose(2, 3)).float() * queries.shape[3] ** -0.5
    if is_causal:
        scores = scores + torch.full((steps, steps), -torch.inf).triu(1)
    elif mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, -1).to(values.dtype) @ values


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


def _group(offsets: np.ndarray, rows: np.ndarray) -> Group:
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    steps = np.arange(lengths.max())
    return Group(starts[:, None] + np.minimum(steps, lengths[:, None] - 1), steps < lengths[:, None])
