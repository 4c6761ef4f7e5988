"""Taste: vectors of items and events, a sequence encoder over a history, and the token of the request.

Letters: N events (or B, T when padded), M requests, D width, I items, L levels of the category path, F features of a request.
An item's vector is its own row plus the rows of its category path plus what is learned of its text vector, so an item without history begins
at its category and its content. E is the width of text vectors.
"""

import math

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts import columns as c
from contracts.sections.training import EncoderConfig
from lightning_modules.bert import BERT
from lightning_modules.dropout import dropout
from lightning_modules.gpt import GPT
from lightning_modules.gru import GRU
from lightning_modules.hstu import HSTU
from lightning_modules.layouts import Layout, Padded
from lightning_modules.ligr import LiGR
from lightning_modules.lookups import by_day, rows_of
from lightning_modules.rnn import RNN
from lightning_modules.transformer_xl import TransformerXL

DAYS_PER_YEAR = 365.2425
ROW_STD = 0.03
YEAR_HARMONICS = 3
WEEK_HARMONICS = 2
CALENDAR_FEATURES = 2 * (YEAR_HARMONICS + WEEK_HARMONICS)
REQUEST_FEATURES = CALENDAR_FEATURES + 3
GAP_BOUNDS = (1, 2, 3, 5, 7, 10, 14, 21, 28, 42, 60, 90, 180, 364)
ENCODERS = {"gpt": GPT, "bert": BERT, "transformer_xl": TransformerXL, "hstu": HSTU, "ligr": LiGR, "gru": GRU, "rnn": RNN}
WITH_FEED_FORWARD = ("gpt", "bert", "transformer_xl", "ligr")


def build_encoder(kind: str, *, width: int, num_blocks: int, num_heads: int, dropout: float, max_history: int, feed_forward: int = 4) -> nn.Module:
    """Sequence encoder by name. All have `forward(x, steps, days, layout)` and see the same packed batches.

    `feed_forward` is the inner width of a block's network as a multiple of `width`; encoders without such a network take no notice of it.

    Raises ValueError that lists the known kinds.
    """
    if kind not in ENCODERS:
        raise ValueError(f"encoder.kind: found {kind!r}, known: {', '.join(sorted(ENCODERS))}")
    inner = {"feed_forward": feed_forward} if kind in WITH_FEED_FORWARD else {}
    return ENCODERS[kind](width=width, num_blocks=num_blocks, num_heads=num_heads, dropout=dropout, max_history=max_history, **inner)


def calendar(days: Tensor) -> Tensor:
    """Harmonics of the year and of the week for days since 1970-01-01: [...] -> [..., CALENDAR_FEATURES]."""
    year = days.float() * (2 * math.pi / DAYS_PER_YEAR)
    week = (days % 7).float() * (2 * math.pi / 7)
    angles = torch.stack([k * year for k in range(1, YEAR_HARMONICS + 1)] + [k * week for k in range(1, WEEK_HARMONICS + 1)], -1)
    return torch.cat([angles.sin(), angles.cos()], -1)


class ItemVectors(nn.Module):
    """Vectors of items: own row, plus the rows of the category path, plus a linear map of the content where there is any.

    The map begins small and at random, so that items alike in words begin alike; what words mean for taste is learned from items with a history.
    """

    def __init__(self, categories: Tensor, num_items: int, width: int, content: Tensor | None = None) -> None:
        super().__init__()
        self.own = nn.Embedding(num_items, width)
        num_nodes = int(categories.max()) + 1 if categories.numel() else 1
        self.nodes = nn.Embedding(num_nodes, width, padding_idx=0)
        self.register_buffer("categories", categories)  # [I, L], 0 = none
        self.has_categories = bool(categories.numel()) and num_nodes > 1
        # beside its category or content an item's own row begins at nothing: random rows of rare items would be noise in every list
        nn.init.normal_(self.own.weight, std=0.0 if self.has_categories or content is not None else ROW_STD)
        nn.init.normal_(self.nodes.weight, std=ROW_STD)
        with torch.no_grad():
            self.nodes.weight[0] = 0.0
        self.of_content = None if content is None else nn.Linear(content.shape[1], width, bias=False)
        if self.of_content is not None:
            nn.init.normal_(self.of_content.weight, std=ROW_STD)
        self.register_buffer("content", content, persistent=False)  # [I, E], zeros = no words; too large to be in every snapshot

    def forward(self, items: Tensor) -> Tensor:
        """Vectors of items [...], [..., D]."""
        own = rows_of(self.own.weight, items)
        if self.of_content is not None:
            own = own + self.of_content(self.content[items].to(own.dtype))
        return own + self.nodes(self.categories[items]).sum(-2) if self.has_categories else own

    @torch.no_grad()
    def fold_content(self) -> None:
        """Put what content says into the own rows and forget it: the same vectors from a smaller network, to be served."""
        if self.of_content is not None:
            self.own.weight += self.of_content(self.content.to(self.own.weight.dtype))
            self.of_content = self.content = None

    def all(self) -> Tensor:
        """Every vector, [I, D]."""
        return self(torch.arange(self.own.num_embeddings, device=self.own.weight.device))


class EventVectors(nn.Module):
    """What an encoder sees of an event besides its item: type, days since the event before, calendar."""

    def __init__(self, num_event_types: int, width: int) -> None:
        super().__init__()
        self.types = nn.Embedding(num_event_types + 1, width)
        self.gaps = nn.Embedding(len(GAP_BOUNDS) + 1, width)
        self.calendar = nn.Linear(CALENDAR_FEATURES, width, bias=False)
        bucket_of_gap = torch.bucketize(torch.arange(GAP_BOUNDS[-1] + 1), torch.tensor(GAP_BOUNDS), right=True)
        self.register_buffer("bucket_of_gap", bucket_of_gap, persistent=False)
        self.register_buffer("calendar_used", torch.ones(CALENDAR_FEATURES))
        for table in (self.types.weight, self.gaps.weight, self.calendar.weight):
            nn.init.normal_(table, std=0.02)

    def forward(self, types: Tensor, gaps: Tensor, days: Tensor) -> Tensor:
        """types, gaps, days [...] -> [..., D]."""
        bucket = self.bucket_of_gap[gaps.clamp(0, GAP_BOUNDS[-1])]
        pairs = (self.types.weight[:, None] + self.gaps.weight).flatten(0, 1)  # a row for each type with each gap
        of_day = by_day(self._calendar, days)
        return rows_of(pairs, types * len(self.gaps.weight) + bucket) + of_day

    def _calendar(self, days: Tensor) -> Tensor:
        with torch.autocast(days.device.type, enabled=False):  # a few rows: the product in bf16 would be of a new shape in each batch
            return self.calendar(calendar(days) * self.calendar_used)


class RequestToken(nn.Module):
    """Turns the state after a history into a query for a date."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(width + REQUEST_FEATURES, 2 * width)
        self.output = nn.Linear(2 * width, width)
        self.register_buffer("calendar_used", torch.ones(CALENDAR_FEATURES))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, state: Tensor, request_days: Tensor, lead_days: Tensor, since_days: Tensor) -> Tensor:
        """Query [M, D] from the state [M, D] and the request; the others are [M]."""
        since, lead = since_days.float(), lead_days.float()
        features = torch.cat(
            [by_day(calendar, request_days) * self.calendar_used, torch.log1p(lead)[:, None], torch.log1p(since)[:, None], (since < 1).float()[:, None]], -1
        )
        return state + self.output(functional.silu(self.inputs(torch.cat([state, features.to(state.dtype)], -1))))


class Taste(nn.Module):
    """Item vectors, encoder and request token; `query . item` is the taste of a user at a date for an item."""

    def __init__(
        self,
        encoder: nn.Module,
        categories: Tensor,
        *,
        num_items: int,
        num_event_types: int,
        width: int,
        dropout: float,
        max_history: int,
        content: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.items = ItemVectors(categories, num_items, width, content)
        self.events = EventVectors(num_event_types, width)
        self.encoder = encoder
        self.request = RequestToken(width)
        self.beginning = nn.Parameter(torch.zeros(1, width))
        if not encoder.is_causal:
            self.mask = nn.Parameter(0.02 * torch.randn(1, width))  # stands for an item that is asked for
        self.dropout, self.max_history = dropout, max_history

    def forget_year(self) -> None:
        """Leave the harmonics of the year out: with less than two years of data they only tell one month of the past from another."""
        for part in (self.events, self.request):
            part.calendar_used[:YEAR_HARMONICS] = 0.0
            part.calendar_used[YEAR_HARMONICS + WEEK_HARMONICS : 2 * YEAR_HARMONICS + WEEK_HARMONICS] = 0.0

    def forget_request(self) -> None:
        """Leave the calendar of the request's date out."""
        self.request.calendar_used.zero_()

    def states(self, vectors: Tensor, types: Tensor, gaps: Tensor, days: Tensor, steps: Tensor, layout: Layout) -> Tensor:
        """State after each event, [..., D]; `vectors` are the item vectors of the events."""
        # small rows would drown in what the blocks add: as in SASRec (arXiv 1808.09781), they go in times the root of the width
        x = dropout(vectors * math.sqrt(vectors.shape[-1]) + self.events(types, gaps, days), self.dropout, self.training)
        return self.encoder(x, steps, days, layout)

    def forward(self, items: Tensor, event_days: Tensor, event_types: Tensor, lengths: Tensor, request_day: Tensor, lead_days: Tensor) -> Tensor:
        """Queries of right-padded histories: what is exported for serving.

        items, event_days, event_types  [B, T]
        lengths, request_day, lead_days [B]      length 0: nothing is known of the user
        returns                         [B, D]
        """
        vectors = self.items(items)
        if not self.encoder.is_causal:
            vectors, event_days, event_types = self._with_request(vectors, event_days, event_types, lengths, request_day)
        gaps = torch.cat([torch.zeros_like(event_days[:, :1]), event_days[:, 1:] - event_days[:, :-1]], 1)
        steps = torch.arange(event_days.shape[1], device=items.device)[None].expand_as(event_days)
        rows = torch.arange(items.shape[0], device=items.device)
        last = (lengths - 1).clamp(min=0)
        is_known = (lengths > 0)[:, None]
        since = torch.where(is_known[:, 0], request_day - event_days[rows, last], torch.zeros_like(request_day))
        if self.encoder.is_causal:
            state = self.states(vectors, event_types, gaps, event_days, steps, Padded(lengths))[rows, last]
        else:
            state = self.states(vectors, event_types, gaps, event_days, steps, Padded(lengths + 1))[rows, lengths]
        return self.request(torch.where(is_known, state, self.beginning), request_day, lead_days, since)

    def _with_request(self, vectors: Tensor, days: Tensor, types: Tensor, lengths: Tensor, request_day: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same histories with one more event behind each: the request, its item masked. Shapes [B, T + 1, D] and [B, T + 1]."""
        steps = torch.arange(days.shape[1] + 1, device=days.device)
        is_request = steps[None, :] == lengths[:, None]  # [B, T + 1]
        vectors = torch.where(is_request[..., None], self.mask, functional.pad(vectors, (0, 0, 0, 1)))
        days = torch.where(is_request, request_day[:, None], functional.pad(days, (0, 1)))
        return vectors, days, torch.where(is_request, torch.zeros_like(days), functional.pad(types, (0, 1)))


def build_taste(config: EncoderConfig, categories: Tensor, *, num_items: int, num_event_types: int, content: Tensor | None = None) -> Taste:
    """Taste with the configured encoder; `content` [I, E] are text vectors of items, zeros where there are none."""
    encoder = build_encoder(
        config.kind,
        width=config.width,
        num_blocks=config.num_blocks,
        num_heads=config.num_heads,
        dropout=config.dropout,
        max_history=config.max_history,
        feed_forward=config.feed_forward,
    )
    return Taste(
        encoder,
        categories,
        num_items=num_items,
        num_event_types=num_event_types,
        width=config.width,
        dropout=config.dropout,
        max_history=config.max_history,
        content=content,
    )


def category_nodes(item_features: str | None, num_items: int) -> Tensor:
    """Numbers of the nodes on each item's category path, [I, L]; 0 where a path is shorter or unknown.

    Every prefix of a path is a node; nodes are numbered from 1 in alphabetical order (`category_names`).
    """
    if item_features is None:
        return torch.zeros(num_items, 0, dtype=torch.long)
    prefixes, names = _prefixes(item_features)
    nodes = np.zeros((num_items, len(prefixes)), np.int64)
    for level, prefix in enumerate(prefixes):
        nodes[prefix[c.ITEM_INDEX].to_numpy(), level] = names.search_sorted(prefix["prefix"]).to_numpy().astype(np.int64) + 1
    return torch.from_numpy(nodes)


def category_names(item_features: str | None) -> list[str]:
    """Names of the nodes, the first that of number 1."""
    return [] if item_features is None else _prefixes(item_features)[1].to_list()


def _prefixes(item_features: str) -> tuple[list[pl.DataFrame], pl.Series]:
    """For each level the prefix of every path that reaches it (item_index, prefix), and the sorted names of all."""
    table = pl.read_parquet(item_features, columns=[c.ITEM_INDEX, c.CATEGORY]).drop_nulls()
    parts = table.with_columns(pl.col(c.CATEGORY).str.split(c.CATEGORY_SEPARATOR))
    depth = int(parts[c.CATEGORY].list.len().max() or 0)  # type: ignore[arg-type]
    prefixes = [
        parts.filter(pl.col(c.CATEGORY).list.len() >= level).select(c.ITEM_INDEX, prefix=pl.col(c.CATEGORY).list.head(level).list.join(c.CATEGORY_SEPARATOR))
        for level in range(1, depth + 1)
    ]
    return prefixes, pl.concat(prefixes)["prefix"].unique().sort() if prefixes else pl.Series([], dtype=pl.String)
