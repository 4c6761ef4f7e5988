"""Typed result of an evaluation; serialises to JSON.

EvaluationResult
|-- rows             one figure each, in the grammar of all benchmarks
|-- comparisons      the model against each other model on the same users, pooled over origins
|-- best_baselines   which baseline is to be beaten, fixed on tuning windows and with hindsight
|-- slices           figures of groups, with the model's gain over its opponents
|-- new_items        figures of items without history, ranked among themselves, and of an order drawn at random
|-- season_lifts     what knowing the date is worth
`-- targets          what users wanted per window, and what of it was dropped
"""

from datetime import date

from pydantic import Field

from contracts.artifacts import Reference, text_digest

POOLED = "all"


class MetricRow(Reference):
    """One figure. `origin` is an ISO date or `all` (pooled over origins); `lead_days` is null where leads are pooled too."""

    dataset: str
    model: str
    list: str
    lead_days: int | None
    origin: str
    metric: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = Field(description="rows the mean is over: users, once per origin and lead")
    seed: int | None = Field(default=None, description="null: seeds averaged per user first")


class Comparison(Reference):
    """The model against another on the same users and windows; `relative` figures are shares of the other's value."""

    list: str
    lead_days: int | None
    metric: str
    model: str
    other: str
    value: float
    other_value: float
    difference: float
    ci_low: float
    ci_high: float
    relative: float
    relative_low: float
    relative_high: float
    num_users: int
    num_rows: int

    @property
    def is_gain(self) -> bool:
        """The interval lies above zero."""
        return self.ci_low > 0


class BestBaseline(Reference):
    """The baseline to beat for a list and lead (null: leads pooled)."""

    list: str
    lead_days: int | None
    on_tuning: str | None
    with_hindsight: str

    @property
    def name(self) -> str:
        """The one fixed before the reported windows where there is one."""
        return self.on_tuning or self.with_hindsight


class SliceRow(Reference):
    """One model's figure for a group, pooled over origins and leads; `relative` is the evaluated model's gain over this one."""

    kind: str
    slice: str
    list: str
    model: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    num_users: int
    num_rows: int
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None


class SeasonLift(Reference):
    """Relative gain of the right date over look-ups made half a year off; leads pooled where `lead_days` is null."""

    list: str
    lead_days: int | None
    model: str
    metric: str
    relative: float
    relative_low: float
    relative_high: float
    num_users: int


class WindowTargets(Reference):
    """What users wanted in one window."""

    origin: date
    lead_days: int
    list: str
    num_users: int
    num_targets: int
    num_candidates: int
    share_dropped: float
    num_cold_users: int
    num_cold_items: int


class EvaluationResult(Reference):
    """How good a model is beside its baselines and, where there is one, the champion."""

    dataset: str
    model: str
    champion: str | None
    baselines: tuple[str, ...]
    main_metric: str = "ndcg@10"
    horizon_days: int
    origins: tuple[date, ...]
    rows: tuple[MetricRow, ...]
    comparisons: tuple[Comparison, ...]
    best_baselines: tuple[BestBaseline, ...]
    slices: tuple[SliceRow, ...] = ()
    new_items: tuple[SliceRow, ...] = ()
    season_lifts: tuple[SeasonLift, ...] = ()
    targets: tuple[WindowTargets, ...] = ()
    digest: str = Field(description="sha256 over everything above, 16 hex digits: what an approval is bound to")

    def figure(self, model: str, list_name: str, lead_days: int | None = None, metric: str | None = None, origin: str = POOLED) -> MetricRow:
        """Give one figure; pooled over leads and origins where they are not named. Raises KeyError with the known models and leads."""
        metric = metric or self.main_metric
        for row in self.rows:
            if (row.model, row.list, row.lead_days, row.metric, row.origin) == (model, list_name, lead_days, metric, origin):
                return row
        raise KeyError(
            f"no {metric} of {model!r} for list {list_name!r}, lead {lead_days}, origin {origin}; models: {', '.join(self.models)}; leads: {self.leads}"
        )

    def comparison(self, other: str, list_name: str, lead_days: int | None = None, metric: str | None = None) -> Comparison:
        """Give the model's comparison with another; leads pooled where none is named. Raises KeyError with the known others."""
        metric = metric or self.main_metric
        for row in self.comparisons:
            if (row.other, row.list, row.lead_days, row.metric) == (other, list_name, lead_days, metric):
                return row
        raise KeyError(
            f"no comparison with {other!r} for list {list_name!r}, lead {lead_days}, {metric}; others: {', '.join(sorted({r.other for r in self.comparisons}))}"
        )

    def best_baseline(self, list_name: str, lead_days: int | None = None) -> BestBaseline:
        """Give the baseline to beat. Raises KeyError where the list or lead was not evaluated."""
        for row in self.best_baselines:
            if (row.list, row.lead_days) == (list_name, lead_days):
                return row
        raise KeyError(f"no best baseline for list {list_name!r}, lead {lead_days}; evaluated: {[(r.list, r.lead_days) for r in self.best_baselines]}")

    @property
    def models(self) -> tuple[str, ...]:
        """The model first, then the champion, then the baselines."""
        return (self.model, *([self.champion] if self.champion else []), *self.baselines)

    @property
    def lists(self) -> tuple[str, ...]:
        """Lists in the order of the configuration."""
        return tuple(dict.fromkeys(row.list for row in self.rows))

    @property
    def leads(self) -> tuple[int, ...]:
        """Evaluated leads, days, ascending."""
        return tuple(sorted({row.lead_days for row in self.rows if row.lead_days is not None}))


def evaluation_digest(fields: dict[str, object]) -> str:
    """Digest of a result's fields; the order in which they are given does not count."""
    return text_digest(*(f"{name}={_text(fields[name])}" for name in sorted(fields)))


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(_text(part) for part in value) + "]"
    return value.model_dump_json() if isinstance(value, Reference) else repr(value)
