"""Going on from an earlier training: its weights, carried over to a catalogue that has grown.

A fine-tuning leaves `weights.safetensors` beside its networks: taste as pre-trained, what adapts it, and the heads, under their names in torch. A later
training begins there. An item that was known keeps its own row, bit for bit; a new one with content begins with the own rows of its nearest known items by
content (its words and its category come on top); a new one without begins at the mean vector of the known items of its category (the deepest level of its
path that has any; of all items where none has). Nodes of the category tree and types of events are carried over by name.

Letters: I items, L levels of the category path, D width, E width of a text vector.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from contracts import columns as c
from contracts.errors import CheckpointMismatchError
from lightning_modules.content import nearest
from lightning_modules.jobs import Start
from lightning_modules.taste import Taste

WEIGHTS = "weights.safetensors"
START_INDEX = "start_index"
NEIGHBOURS = 10
LEAST_COSINE = 0.4
FORMAT = 1
TASTE, ADAPTATION, HEAD = "taste", "adaptation", "head_"


@dataclass(frozen=True)
class StartWeights:
    """What an earlier training left: tensors by part and name, and what it says of itself (encoder, nodes, event types)."""

    path: Path
    parts: Mapping[str, Mapping[str, Tensor]]
    described: Mapping[str, Any]

    @property
    def has_encoder(self) -> bool:
        """Whether taste had an encoder."""
        return TASTE in self.parts

    def fill(self, module: nn.Module, part: str) -> None:
        """Give a module the weights of a part. Raises CheckpointMismatchError where names or shapes are others."""
        try:
            module.load_state_dict(dict(self.parts.get(part, {})))
        except RuntimeError as error:
            raise self.mismatch(f"{part}: {error}") from error

    def mismatch(self, what: str) -> CheckpointMismatchError:
        """Error in words: the parameters changed since."""
        return CheckpointMismatchError(
            f"{self.path}: {what}. The parameters of the model are others than those it was trained with: set them back, or train anew."
        )


def save_weights(
    path: Path, *, taste: nn.Module | None, adaptation: nn.Module | None, heads: Sequence[nn.Module], nodes: Sequence[str], event_types: Sequence[str]
) -> None:
    """Write what a later training goes on from; `nodes` are the names of the category nodes, the first that of number 1."""
    parts: dict[str, nn.Module | None] = {TASTE: taste, ADAPTATION: adaptation, **{f"{HEAD}{number}": head for number, head in enumerate(heads)}}
    tensors = {
        f"{part}.{name}": value.detach().cpu().contiguous().clone() for part, module in parts.items() if module for name, value in module.state_dict().items()
    }
    described = {"format": FORMAT, "nodes": list(nodes), "event_types": list(event_types), "num_heads": len(heads)}
    draft = path.with_suffix(".part")
    save_file(tensors, draft, metadata={"described": json.dumps(described)})
    draft.replace(path)


def read_weights(path: Path | str) -> StartWeights:
    """Read what `save_weights` wrote. Raises CheckpointMismatchError for a format this code does not read."""
    parts: dict[str, dict[str, Tensor]] = {}
    with safe_open(str(path), framework="pt") as stored:
        described = json.loads((stored.metadata() or {}).get("described", "{}"))
        if described.get("format") != FORMAT:
            raise CheckpointMismatchError(f"{path}: format {described.get('format')!r}, this code reads format {FORMAT}. Train anew.")
        for key in stored.keys():  # noqa: SIM118 - not a dict
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = stored.get_tensor(key)
    return StartWeights(Path(path), parts, described)


def start_taste(taste: Taste, start: Start, *, nodes: Sequence[str], event_types: Sequence[str]) -> None:
    """Give a new network the weights of the earlier one: known rows as they were, new items at their category.

    Raises CheckpointMismatchError where the network is built otherwise, or where `start.items` names a row the earlier table does not have.
    """
    weights = read_weights(start.weights)
    if not weights.has_encoder:
        raise weights.mismatch("the earlier training had no encoder")
    state = dict(weights.parts[TASTE])
    state["items.nodes.weight"] = rows_by_name(state["items.nodes.weight"], ["", *weights.described["nodes"]], ["", *nodes], fallback=None)
    earlier = weights.described["event_types"]
    alike = [name if name in earlier else name.partition(c.PLATFORM_SEPARATOR)[0] for name in event_types]  # on a new platform: as without one
    state["events.types.weight"] = rows_by_name(state["events.types.weight"], ["", *earlier], ["", *alike], fallback=0)
    state["items.categories"] = taste.items.categories
    start_index = start_rows(start, taste.items.own.num_embeddings)
    if int(start_index.max()) >= len(state["items.own.weight"]):
        raise weights.mismatch(f"{start.items} names row {int(start_index.max())}, the item table has {len(state['items.own.weight'])}")
    if "items.of_content.weight" in state and taste.items.of_content is None:
        raise weights.mismatch("the earlier training knew the content of items, there is none now (content.encoder)")
    if "items.of_content.weight" not in state and taste.items.of_content is not None:
        raise weights.mismatch("the earlier training knew no content of items, now there is one (content.encoder)")
    state["items.own.weight"] = grown_items(
        state["items.own.weight"],
        start_index,
        state["items.nodes.weight"],
        taste.items.categories,
        taste.items.content,
        state.get("items.of_content.weight"),
    )
    StartWeights(weights.path, {TASTE: state}, weights.described).fill(taste, TASTE)


def start_rows(start: Start, num_items: int) -> Tensor:
    """Row of each item in the earlier table, [I]; -1 for a new one. Row 0 is padding then and now."""
    table = pl.read_parquet(start.items, columns=[c.ITEM_INDEX, START_INDEX]).drop_nulls()
    rows = torch.full((num_items,), -1)
    rows[0] = 0
    rows[torch.from_numpy(table[c.ITEM_INDEX].to_numpy().astype("int64"))] = torch.from_numpy(table[START_INDEX].to_numpy().astype("int64"))
    return rows


def grown_items(own: Tensor, start_index: Tensor, nodes: Tensor, categories: Tensor, content: Tensor | None = None, of_content: Tensor | None = None) -> Tensor:
    """Own rows of a grown catalogue, [I, D].

    own          [I0, D]  rows of the earlier table
    start_index  [I]      row of each item in it, -1 for a new item
    nodes        [N, D]   rows of the category tree, the new table
    categories   [I, L]   nodes on each item's path, 0 where there is none
    content      [I, E]   text vectors, zeros where there are none; `of_content` [D, E] what is learned of them
    """
    is_known = start_index >= 0
    rows = torch.zeros(len(start_index), own.shape[1], dtype=own.dtype)
    rows[is_known] = own[start_index[is_known]]
    path = nodes[categories].sum(-2) if categories.shape[1] else torch.zeros_like(rows)
    if content is not None and of_content is not None:
        path = path + content.to(rows.dtype) @ of_content.T
    is_new = ~is_known
    rows[is_new] = (category_means(rows + path, categories, is_known) - path)[is_new]
    return rows if content is None else _like_neighbours(rows, content, is_known)


def _like_neighbours(rows: Tensor, content: Tensor, is_known: Tensor) -> Tensor:
    """The same own rows, those of new items with words being the means of their nearest known items', where these are alike enough."""
    table = content.numpy()
    has_words = np.abs(table).max(1) > 0
    known = np.flatnonzero(is_known.numpy() & has_words)
    new = np.flatnonzero(~is_known.numpy() & has_words)
    places, shares = nearest(table, new, known, number=NEIGHBOURS, least_cosine=LEAST_COSINE)
    has_any = shares.any(1)
    means = torch.einsum("nk,nkd->nd", torch.from_numpy(shares[has_any]).to(rows.dtype), rows[torch.from_numpy(known[places[has_any]])])
    return rows.index_copy(0, torch.from_numpy(new[has_any]), means)


def category_means(vectors: Tensor, categories: Tensor, is_known: Tensor) -> Tensor:
    """For each item the mean vector of the known items under the deepest node of its path that has any, [I, D]; padding is left out."""
    is_known = is_known.clone()
    is_known[0] = False
    if not is_known.any():
        return torch.zeros_like(vectors)
    means = vectors[is_known].mean(0, keepdim=True).repeat(len(vectors), 1)
    for level in range(categories.shape[1]):
        node = categories[:, level]
        size = int(node.max()) + 1
        sums = torch.zeros(size, vectors.shape[1], dtype=vectors.dtype).index_add(0, node[is_known], vectors[is_known])
        counts = torch.bincount(node[is_known], minlength=size)
        counts[0] = 0  # no category at this level
        has_any = counts[node] > 0
        means[has_any] = (sums / counts.clamp(min=1)[:, None])[node[has_any]]
    return means


def rows_by_name(rows: Tensor, names: Sequence[str], wanted: Sequence[str], *, fallback: int | None) -> Tensor:
    """Rows of a table whose rows have `names`, in the order `wanted`; a name that is new gets the row `fallback`, or zeros."""
    place = {name: number for number, name in enumerate(names)}
    found = torch.zeros(len(wanted), rows.shape[1], dtype=rows.dtype)
    for number, name in enumerate(wanted):
        source = place.get(name, fallback)
        if source is not None:
            found[number] = rows[source]
    return found
