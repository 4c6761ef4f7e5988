"""Adaptation: what fine-tuning may change of the encoder, besides its weight in a list.

The encoder differs from cut-off to cut-off (a snapshot each), so what is learned is a *change*, the same for all snapshots: weights of a
snapshot + change. It is learned on early snapshots and carried over to the one that is exported. A change starts at nothing, and weight
decay pulls it back there. Rows of items never change: they are what serving holds in its tables.

    frozen  no change                       (default: queries are computed once for each sample)
    lora    of every matrix of the encoder and the request token a product of two of rank R. Source: Hu et al. 2021, arXiv 2106.09685
    full    of every weight of the encoder and the request token

Behind the encoder there may be a layer on its query: linear, attention over the vectors of the history's items, or a gated mixture of linear
layers (Jacobs et al. 1991, doi 10.1162/neco.1991.3.1.79). Each starts as the identity.

Letters: B users, T events, D width, R rank, E experts, C shared candidates, M pairs, K terms of taste.
"""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from contracts.sections.training import AdaptationLayer, AdaptedWeights
from lightning_modules.event_log import EventLog
from lightning_modules.samples import Known, SampleData, padded_histories
from lightning_modules.taste import Taste

NEVER = -1e9
NUM_EXPERTS = 4
USERS_AT_ONCE = 256
ADAPTED = ("encoder.", "request.")


@dataclass(frozen=True)
class Histories:
    """Histories of a sample's users as the encoder of its cut-off sees them: positions in the log behind the last event, and lengths [U]."""

    taste: Taste
    log: EventLog
    ends: np.ndarray
    lengths: np.ndarray
    request_day: int
    lead_days: int

    def inputs(self, users: Tensor) -> tuple[Tensor, ...]:
        """Arguments of `Taste.forward` for some users."""
        chosen = users.numpy()
        lengths = self.lengths[chosen]
        items, days, types = padded_histories(self.log, self.ends[chosen], lengths)
        day = torch.full((len(chosen),), self.request_day)
        return items, days, types, torch.from_numpy(lengths), day, torch.full((len(chosen),), float(self.lead_days))


def histories_at(known: Known, log: EventLog, rows: np.ndarray, lead_days: int) -> Histories:
    """Histories of users (rows of the log) at a cut-off; the weights of its snapshot are frozen."""
    assert known.taste is not None
    known.taste.requires_grad_(requires_grad=False)
    ends, begin = log.ends_before(known.day)[rows], np.asarray(log.offsets[:-1])[rows]
    return Histories(known.taste, log, ends, np.minimum(ends - begin, known.taste.max_history), known.day + lead_days, lead_days)


class LinearLayer(nn.Module):
    """query + A query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.added = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.added.weight)

    def forward(self, query: Tensor, vectors: Tensor, is_real: Tensor) -> Tensor:
        """From query [B, D] to [B, D]; the history is not looked at."""
        return query + self.added(query)


class AttentionLayer(nn.Module):
    """query + A (mean of the history's item vectors, weighted by attention)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.asked, self.added = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        nn.init.eye_(self.asked.weight)
        nn.init.zeros_(self.added.weight)

    def forward(self, query: Tensor, vectors: Tensor, is_real: Tensor) -> Tensor:
        """From query [B, D], vectors [B, T, D] and is_real [B, T] to [B, D]."""
        scores = (vectors @ self.asked(query)[..., None])[..., 0] / math.sqrt(query.shape[-1])
        weights = scores.masked_fill(~is_real, NEVER).softmax(-1) * is_real
        return query + self.added((weights[..., None] * vectors).sum(1))


class GatedMixture(nn.Module):
    """query + mean of A_e query over the experts e, weighted by a gate that reads the query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, NUM_EXPERTS)
        self.experts = nn.Parameter(torch.zeros(NUM_EXPERTS, width, width))

    def forward(self, query: Tensor, vectors: Tensor, is_real: Tensor) -> Tensor:
        """From query [B, D] to [B, D]; the history is not looked at."""
        shares = self.gate(query).softmax(-1)
        return query + torch.einsum("be,edc,bc->bd", shares, self.experts, query)


LAYERS: dict[str, type[nn.Module]] = {"linear": LinearLayer, "attention": AttentionLayer, "gated_mixture": GatedMixture}


class Adaptation(nn.Module):
    """The change of the encoder's weights, and the layer behind it."""

    def __init__(self, taste: Taste, *, weights: AdaptedWeights, layer: AdaptationLayer, rank: int) -> None:
        super().__init__()
        self.weights = weights
        width = taste.items.own.embedding_dim
        self.layer = LAYERS[layer](width) if layer != "none" else None
        self.names = [name for name, value in taste.named_parameters() if name.startswith(ADAPTED) and (weights == "full" or _is_matrix(taste, name, value))]
        shapes = {name: value.shape for name, value in taste.named_parameters()}
        if weights == "frozen":
            self.names = []
        if weights == "lora":
            self.down = nn.ParameterList(torch.randn(rank, shapes[name][1]) / math.sqrt(shapes[name][1]) for name in self.names)
            self.up = nn.ParameterList(torch.zeros(shapes[name][0], rank) for name in self.names)
        if weights == "full":
            self.changed = nn.ParameterList(torch.zeros(shapes[name]) for name in self.names)

    def changes(self) -> dict[str, Tensor]:
        """Name of a weight of taste -> what is added to it."""
        if self.weights == "lora":
            return {name: up @ down for name, up, down in zip(self.names, self.up, self.down, strict=True)}
        return dict(zip(self.names, self.changed, strict=True)) if self.weights == "full" else {}

    def queries(self, sample: SampleData, users: Tensor) -> Tensor:
        """Adapted queries of some users of a sample, [B, D]."""
        histories = sample.histories
        assert histories is not None
        if not self.names and not isinstance(self.layer, AttentionLayer):
            query = sample.queries[users]
            return query if self.layer is None else self.layer(query, query[:, None], query[:, :1] > 0)
        inputs = histories.inputs(users)
        taste = histories.taste
        query = sample.queries[users]
        if self.names:
            state = dict(taste.named_parameters())
            query = functional_call(taste, {name: state[name] + change for name, change in self.changes().items()}, inputs)
        return query if self.layer is None else self.layer(query, taste.items(inputs[0]), _is_real(inputs[0], inputs[3]))

    @torch.no_grad()
    def applied(self, sample: SampleData, users: np.ndarray) -> SampleData:
        """The sample with adapted queries of some users, and the terms of taste of their pairs."""
        blocks = torch.from_numpy(users).split(USERS_AT_ONCE)
        queries = sample.queries.index_copy(0, torch.from_numpy(users), torch.cat([self.queries(sample, block) for block in blocks]))
        rows = torch.repeat_interleave(torch.arange(sample.num_users), sample.offsets.diff())
        places = torch.isin(rows, torch.from_numpy(users)).nonzero()[:, 0]
        pair_taste = sample.pair_taste.clone()
        for block in places.split(65_536):
            pair_taste[block, 0] = (queries[rows[block]] * sample.vectors_of(sample.pair_items[block])).sum(1).half()
        return replace(sample, queries=queries, pair_taste=pair_taste)


class AdaptedTaste(nn.Module):
    """Taste with its change added and the layer behind it: what is exported. Called as `Taste` is."""

    def __init__(self, taste: Taste, adaptation: Adaptation) -> None:
        super().__init__()
        self.taste, self.layer = copy.deepcopy(taste), copy.deepcopy(adaptation.layer)
        self.max_history = taste.max_history
        weights = dict(self.taste.named_parameters())
        with torch.no_grad():
            for name, change in adaptation.changes().items():
                weights[name] += change

    @property
    def items(self) -> nn.Module:
        """Vectors of items, as they were."""
        return self.taste.items

    def forward(self, items: Tensor, event_days: Tensor, event_types: Tensor, lengths: Tensor, request_day: Tensor, lead_days: Tensor) -> Tensor:
        """Queries [B, D] of right-padded histories [B, T]."""
        query = self.taste(items, event_days, event_types, lengths, request_day, lead_days)
        return query if self.layer is None else self.layer(query, self.taste.items(items), _is_real(items, lengths))


def with_queries(sample: SampleData, queries: Tensor, rows: Tensor, items: Tensor, shared: Tensor, own: Tensor, taste: Tensor) -> tuple[Tensor, Tensor]:
    """Terms of taste of pairs [M, K] and of users for shared candidates [B, C, K], the encoder's (the first) by these queries [B, D]."""
    first = (queries[rows] * sample.vectors_of(items)).sum(1, keepdim=True)
    scores = queries @ sample.vectors_of(shared).T
    return torch.cat([first, own[:, 1:]], 1), torch.cat([scores[..., None], taste[..., 1:]], -1)


def _is_real(items: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(items.shape[1], device=items.device)[None, :] < lengths[:, None]


def _is_matrix(taste: Taste, name: str, value: Tensor) -> bool:
    owner = taste.get_submodule(name.rpartition(".")[0])
    return value.ndim == 2 and isinstance(owner, nn.Linear | nn.RNNBase)
