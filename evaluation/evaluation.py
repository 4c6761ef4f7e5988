"""The protocol end to end: rankings in, figures with intervals and paired comparisons out. The rule is docs/protocol.md."""

import datetime as dt
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from contracts import columns as c
from contracts.sections.evaluation import EvaluationConfig, ListName
from evaluation import ranking_metrics
from evaluation.bootstrap import PairedDifference, interval, paired_difference, resampled_sums
from evaluation.new_items import BY_CHANCE, KIND, SLICE, items_without_history, ndcg_by_chance, new_item_targets
from evaluation.origins import is_tuning_window
from evaluation.ranking_metrics import USER_METRICS, hits, score_hits, score_rankings
from evaluation.results import POOLED, BestBaseline, Comparison, EvaluationResult, MetricRow, SeasonLift, SliceRow, WindowTargets, evaluation_digest
from evaluation.slices import SeasonNames, item_slices, user_slices
from evaluation.targets import Interactions, Known, Population, before, known_before, target_counts, targets, within

Rankings = Mapping[str, pl.DataFrame | Sequence[pl.DataFrame]]

MAIN_METRIC = "ndcg@10"
SEED = "seed"


@dataclass(frozen=True, order=True)
class Window:
    """One question of the protocol: a list, asked at a cut-off for a window that starts `lead_days` later."""

    origin: dt.date
    lead_days: int
    list: ListName

    @property
    def request_date(self) -> dt.date:
        """First day of the window."""
        return self.origin + dt.timedelta(days=self.lead_days)


@dataclass(frozen=True)
class _Data:
    interactions: pl.LazyFrame
    config: EvaluationConfig
    target_events: Sequence[str] | None
    available: pl.DataFrame | None
    known_by_origin: dict[dt.date, Known] = field(default_factory=dict)
    events_by_window: dict[tuple[dt.date, int], pl.DataFrame] = field(default_factory=dict)

    def wanted(self, window: Window, population: Population = "warm") -> pl.DataFrame:
        return targets(
            self.events(window),
            window.origin,
            window.lead_days,
            self.config.horizon_days,
            window.list,
            target_events=self.target_events,
            population=population,
            known=self.known(window.origin),
        )

    def events(self, window: Window) -> pl.DataFrame:
        """Target events of a window, collected once for both lists and all populations."""
        key = (window.origin, window.lead_days)
        if key not in self.events_by_window:
            events = within(self.interactions, window.origin, window.lead_days, self.config.horizon_days, self.target_events)
            self.events_by_window[key] = events.select(c.USER_ID, c.ITEM_ID, c.EVENT_TIME, *([c.EVENT_TYPE] if self.target_events else [])).collect()
        return self.events_by_window[key]

    def known(self, origin: dt.date) -> Known:
        if origin not in self.known_by_origin:
            self.known_by_origin[origin] = known_before(self.interactions, origin, self.available)
        return self.known_by_origin[origin]


def evaluate(
    rankings: Rankings,
    interactions: Interactions,
    config: EvaluationConfig,
    *,
    model: str,
    dataset: str = "interactions",
    champion: str | None = None,
    shifted: Rankings | None = None,
    target_events: Sequence[str] | None = None,
    available: pl.DataFrame | None = None,
    item_catalogue: pl.DataFrame | None = None,
    new_items: pl.DataFrame | None = None,
    season_names: SeasonNames | None = None,
    southern_regions: Sequence[str] = (),
    seed: int = 0,
) -> EvaluationResult:
    """Evaluate a model beside its baselines and the champion on the same targets.

    Parameters
    ----------
    rankings
        Model name -> rankings table (`contracts.tables.RANKINGS`; `model_version` is not read), or one table per seed, whose scores are averaged per
        user first. Every name but `model` and `champion` is a baseline. Windows are found in the columns cutoff, request_date and list.
    interactions
        All events, those of the windows too.
    config
        Windows that end by `tune_until` only choose the best baseline. With `origins`, other cut-offs are not reported.
    shifted
        Rankings whose look-ups by date were made half a year off (evaluation/season_lift.py), by the same names; gives the season lifts.
    available
        item_id: candidates beside the items with an event before the cut-off.
    item_catalogue
        item_id, category; gives calibration.
    new_items
        The model's rankings whose candidates are the items of the catalogue without history (evaluation/new_items.py); gives their slice.
    season_names, southern_regions
        Names of the slices by season; half a year apart in the given regions.

    Raises ValueError where a model has no rankings for a window that is reported.
    """
    data = _Data(interactions.lazy(), config, target_events, available)
    tables = {name: _by_window(table) for name, table in rankings.items()}
    baselines = tuple(name for name in rankings if name not in {model, champion})
    reported, tuning = _windows(tables, model, config)
    _check_complete(tables, reported)
    wanted = {window: data.wanted(window) for window in reported}
    scores = pl.concat([_scores(tables, window, wanted[window]) for window in reported])
    order = [model, *([champion] if champion else []), *baselines]
    rows, comparisons = _figures(scores, order, dataset, config, seed)
    rows += list(_list_figures(tables, reported, data, order, dataset, item_catalogue))
    fields: dict[str, object] = {
        "dataset": dataset,
        "model": model,
        "champion": champion,
        "baselines": baselines,
        "horizon_days": config.horizon_days,
        "origins": tuple(sorted({window.origin for window in reported})),
        "rows": tuple(rows),
        "comparisons": tuple(comparisons),
        "best_baselines": tuple(_best_baselines(tables, baselines, tuning, data, rows)),
        "slices": tuple(_slices(tables, scores, wanted, data, order, season_names, southern_regions, seed)) if config.slices else (),
        "season_lifts": tuple(_season_lifts(tables, shifted, wanted, config, seed)) if shifted else (),
        "targets": tuple(_window_targets(data, reported)),
    }
    if new_items is not None and item_catalogue is not None:
        fields["new_items"] = tuple(_new_items(_by_window(new_items), reported, data, item_catalogue, model, seed))
    return EvaluationResult.model_validate({**fields, "digest": evaluation_digest(fields)})


# rankings -> one scored row per user


def _by_window(tables: pl.DataFrame | Sequence[pl.DataFrame]) -> dict[Window, pl.DataFrame]:
    """Split one model's rankings by window, with the seed as a column."""
    seeds = [tables] if isinstance(tables, pl.DataFrame) else list(tables)
    table = pl.concat(
        frame.select(c.CUTOFF, c.REQUEST_DATE, c.LIST, c.USER_ID, c.ITEM_ID, pl.col(c.RANK).cast(pl.Int32), pl.lit(seed, pl.Int32).alias(SEED))
        for seed, frame in enumerate(seeds)
    )
    parts = table.partition_by(c.CUTOFF, c.REQUEST_DATE, c.LIST, as_dict=True, include_key=False)
    return {Window(cutoff, (request_date - cutoff).days, list_name): part for (cutoff, request_date, list_name), part in parts.items()}


def _windows(tables: Mapping[str, dict[Window, pl.DataFrame]], model: str, config: EvaluationConfig) -> tuple[list[Window], list[Window]]:
    """Windows that are reported, and those that choose the best baseline."""
    if model not in tables:
        raise ValueError(f"evaluate: no rankings of the model {model!r}; rankings of: {', '.join(tables)}")
    inside = [w for w in {w for parts in tables.values() for w in parts} if w.list in config.lists and w.lead_days in config.leads_days]
    tuning = sorted(w for w in inside if is_tuning_window(w.origin, w.lead_days, config))
    reported = sorted(w for w in inside if w in tables[model] and w not in tuning and (not config.origins or w.origin in config.origins))
    if not reported:
        found = sorted({f"{w.origin} lead {w.lead_days} {w.list}" for w in tables[model]})
        asked = (
            f"origins {[str(o) for o in config.origins] or 'any'}, leads {list(config.leads_days)}, lists {list(config.lists)}, tune_until {config.tune_until}"
        )
        raise ValueError(f"evaluate: none of the rankings of {model!r} is reported by the configuration ({asked}); found: {'; '.join(found[:8])}")
    return reported, tuning


def _check_complete(tables: Mapping[str, dict[Window, pl.DataFrame]], reported: Sequence[Window]) -> None:
    for name, parts in tables.items():
        missing = [window for window in reported if window not in parts]
        if missing:
            first = missing[0]
            raise ValueError(
                f"evaluate: {name!r} has no rankings for {len(missing)} of {len(reported)} windows, the first: cut-off {first.origin},"
                f" lead {first.lead_days} days, list {first.list}. Models are compared on the same windows; rank there, or leave {name!r} out."
            )


def _together(tables: Mapping[str, dict[Window, pl.DataFrame]], window: Window) -> pl.DataFrame:
    """Rankings of all models for one window, the model as a column."""
    return pl.concat(parts[window].with_columns(pl.lit(name).alias(c.MODEL)) for name, parts in tables.items() if window in parts)


def _scores(tables: Mapping[str, dict[Window, pl.DataFrame]], window: Window, wanted: pl.DataFrame) -> pl.DataFrame:
    """Score all models on one window, seeds averaged.

    Grain: one row per (model, user_id); columns of `score_rankings` beside origin, lead_days and list.
    """
    together = _together(tables, window)
    return _seeds_averaged(score_rankings(together, wanted, by=[c.MODEL, SEED]), _offered(together), window)


def _offered(together: pl.DataFrame) -> pl.DataFrame:
    """Deepest rank of each model and seed."""
    return together.group_by(c.MODEL, SEED).agg(pl.col(c.RANK).max())


def _seeds_averaged(scored: pl.DataFrame, offered: pl.DataFrame, window: Window) -> pl.DataFrame:
    # a model whose lists end at rank 10 says nothing about rank 20
    deepest = offered.group_by(c.MODEL).agg(is_deep=pl.col(c.RANK).max() >= 20)
    deep = scored.join(deepest, on=c.MODEL, how="left").with_columns(pl.when("is_deep").then("recall_20").alias("recall_20"))
    averaged = deep.group_by(c.MODEL, c.USER_ID).agg(pl.col(*USER_METRICS.values()).mean()).sort(c.MODEL, c.USER_ID)
    return averaged.with_columns(
        pl.lit(window.origin).alias("origin"), pl.lit(window.lead_days, pl.Int32).alias(c.LEAD_DAYS), pl.lit(window.list).alias(c.LIST)
    )


# scored rows -> figures with intervals


@dataclass(frozen=True)
class _Resampled:
    """Sums per user and per resample of one group of scored rows.

    values  [U, M * K + 1]   sums of each model's metrics, and the number of rows
    drawn   [R, M * K + 1]
    """

    models: Sequence[str]
    values: npt.NDArray[np.float64]
    drawn: npt.NDArray[np.float64]
    metrics: Sequence[str]

    @property
    def num_rows(self) -> int:
        return int(self.values[:, -1].sum())

    def column(self, model: str, metric: str) -> int:
        return self.models.index(model) * len(self.metrics) + self.metrics.index(metric)

    def mean(self, model: str, metric: str) -> tuple[float, float, float]:
        """Mean and interval; NaN where a model has no such figure."""
        at = self.column(model, metric)
        total = self.values.sum(0)
        low, high = interval(self.drawn[:, at] / self.drawn[:, -1])
        return float(total[at] / total[-1]), low, high

    def difference(self, model: str, other: str, metric: str) -> PairedDifference:
        at = [self.column(model, metric), self.column(other, metric), -1]
        return paired_difference(self.values[:, at], self.drawn[:, at])


def _resampled(scores: pl.DataFrame, models: Sequence[str], metrics: Sequence[str], config: EvaluationConfig, seed: int) -> _Resampled:
    names = [USER_METRICS[metric] for metric in metrics]
    sums = scores.group_by(c.MODEL, c.USER_ID).agg(
        *(pl.when(pl.col(n).is_null().any()).then(None).otherwise(pl.col(n).sum()).alias(n) for n in names), rows=pl.len()
    )
    by_model = sums.sort(c.USER_ID).partition_by(c.MODEL, as_dict=True)
    first = by_model[(models[0],)]
    matrices = [by_model[(name,)].select(pl.col(names).cast(pl.Float64).fill_null(float("nan"))).to_numpy() for name in models]
    values = np.hstack([*matrices, first.select(pl.col("rows").cast(pl.Float64)).to_numpy()])
    return _Resampled(models, values, resampled_sums(values, config.num_resamples, seed), metrics)


def _figures(scores: pl.DataFrame, models: Sequence[str], dataset: str, config: EvaluationConfig, seed: int) -> tuple[list[MetricRow], list[Comparison]]:
    """Figures per (list, lead, origin), pooled over origins, and pooled over leads too; comparisons for the pooled ones."""
    rows: list[MetricRow] = []
    comparisons: list[Comparison] = []
    metrics = list(USER_METRICS)
    for list_name, lead_days, origin, group in _groups(scores, config):
        resampled = _resampled(group, models, metrics, config, seed)
        for name in models:
            for metric in metrics:
                value, low, high = resampled.mean(name, metric)
                if not np.isnan(value):
                    row = MetricRow(
                        dataset=dataset,
                        model=name,
                        list=list_name,
                        lead_days=lead_days,
                        origin=origin,
                        metric=metric,
                        value=value,
                        ci_low=low,
                        ci_high=high,
                        n=resampled.num_rows,
                    )
                    rows.append(row)
        if origin == POOLED:
            comparisons += [
                _comparison(resampled, list_name, lead_days, metric, models[0], other)
                for other in models[1:]
                for metric in metrics
                if not np.isnan(resampled.mean(other, metric)[0] + resampled.mean(models[0], metric)[0])
            ]
    return rows, comparisons


def _groups(scores: pl.DataFrame, config: EvaluationConfig) -> Iterator[tuple[ListName, int | None, str, pl.DataFrame]]:
    for list_name in config.lists:
        of_list = scores.filter(pl.col(c.LIST) == list_name)
        if of_list.is_empty():
            continue
        yield list_name, None, POOLED, of_list
        for lead_days in sorted(of_list[c.LEAD_DAYS].unique()):
            of_lead = of_list.filter(pl.col(c.LEAD_DAYS) == lead_days)
            yield list_name, lead_days, POOLED, of_lead
            for origin in sorted(of_lead["origin"].unique()):
                yield list_name, lead_days, origin.isoformat(), of_lead.filter(pl.col("origin") == origin)


def _comparison(resampled: _Resampled, list_name: str, lead_days: int | None, metric: str, model: str, other: str) -> Comparison:
    difference = resampled.difference(model, other, metric)
    total = resampled.values.sum(0)
    return Comparison(
        list=list_name,
        lead_days=lead_days,
        metric=metric,
        model=model,
        other=other,
        value=float(total[resampled.column(model, metric)] / total[-1]),
        other_value=float(total[resampled.column(other, metric)] / total[-1]),
        difference=difference.difference,
        ci_low=difference.ci_low,
        ci_high=difference.ci_high,
        relative=difference.relative,
        relative_low=difference.relative_low,
        relative_high=difference.relative_high,
        num_users=difference.num_users,
        num_rows=resampled.num_rows,
    )


def _list_figures(
    tables: Mapping[str, dict[Window, pl.DataFrame]],
    reported: Sequence[Window],
    data: _Data,
    models: Sequence[str],
    dataset: str,
    item_catalogue: pl.DataFrame | None,
) -> Iterator[MetricRow]:
    """Coverage, novelty and calibration of the lists of each window; the first seed's lists."""
    for origin in sorted({window.origin for window in reported}):
        past = before(data.interactions, origin).select(c.USER_ID, c.ITEM_ID).collect()
        popularity = ranking_metrics.item_popularity(past)
        num_candidates = data.known(origin).items.height
        categories = None if item_catalogue is None else item_catalogue.select(c.ITEM_ID, _coarsest(item_catalogue))
        shares = None if categories is None else ranking_metrics.category_shares(past, categories)
        for window in reported:
            if window.origin != origin:
                continue
            for name in models:
                ranked = tables[name][window].filter(pl.col(SEED) == 0)
                figures = {"coverage@10": ranking_metrics.coverage(ranked, num_candidates), "novelty@10": ranking_metrics.novelty(ranked, popularity)}
                if categories is not None and shares is not None:
                    figures["calibration@10"] = ranking_metrics.calibration(ranked, shares, categories)
                users = ranked[c.USER_ID].n_unique()
                for metric, value in figures.items():
                    yield MetricRow(
                        dataset=dataset, model=name, list=window.list, lead_days=window.lead_days, origin=str(origin), metric=metric, value=value, n=users
                    )


def _coarsest(item_catalogue: pl.DataFrame) -> pl.Expr:
    if c.CATEGORY not in item_catalogue.columns:
        return pl.lit(None, pl.String).alias(c.CATEGORY)
    return pl.col(c.CATEGORY).str.split(c.CATEGORY_SEPARATOR).list.first()


# which baseline is to be beaten


def _best_baselines(
    tables: Mapping[str, dict[Window, pl.DataFrame]], baselines: Sequence[str], tuning: Sequence[Window], data: _Data, rows: Sequence[MetricRow]
) -> Iterator[BestBaseline]:
    if not baselines:
        return
    complete = [window for window in tuning if all(window in tables[name] for name in baselines)]
    scored = [_scores({name: tables[name] for name in baselines}, window, data.wanted(window)) for window in complete]
    tuned = pl.concat(scored) if scored else None
    pooled = [row for row in rows if row.metric == MAIN_METRIC and row.origin == POOLED and row.model in baselines]
    for list_name, lead_days in dict.fromkeys((row.list, row.lead_days) for row in pooled):
        values = {row.model: row.value for row in pooled if (row.list, row.lead_days) == (list_name, lead_days)}
        yield BestBaseline(
            list=list_name, lead_days=lead_days, on_tuning=_best_on_tuning(tuned, list_name, lead_days), with_hindsight=max(values, key=values.__getitem__)
        )


def _best_on_tuning(tuned: pl.DataFrame | None, list_name: str, lead_days: int | None) -> str | None:
    """Name the baseline with the highest mean; where no tuning window has this lead, over all leads."""
    if tuned is None:
        return None
    of_list = tuned.filter(pl.col(c.LIST) == list_name)
    of_lead = of_list if lead_days is None else of_list.filter(pl.col(c.LEAD_DAYS) == lead_days)
    means = (of_list if of_lead.is_empty() else of_lead).group_by(c.MODEL).agg(pl.col(USER_METRICS[MAIN_METRIC]).mean().alias("value"))
    return None if means.is_empty() else str(means.sort("value", c.MODEL, descending=[True, False])[c.MODEL][0])


# groups


def _slices(
    tables: Mapping[str, dict[Window, pl.DataFrame]],
    scores: pl.DataFrame,
    wanted: Mapping[Window, pl.DataFrame],
    data: _Data,
    models: Sequence[str],
    season_names: SeasonNames | None,
    southern_regions: Sequence[str],
    seed: int,
) -> Iterator[SliceRow]:
    dates = {(window.origin, window.lead_days): window.request_date for window in wanted}
    of_users = pl.concat(
        user_slices(data.interactions, origin, day, data.config.horizon_days, season_names=season_names, southern_regions=southern_regions).with_columns(
            pl.lit(origin).alias("origin"), pl.lit(lead, pl.Int32).alias(c.LEAD_DAYS)
        )
        for (origin, lead), day in dates.items()
    )
    ndcg = scores.select(c.MODEL, c.USER_ID, "origin", c.LEAD_DAYS, c.LIST, USER_METRICS[MAIN_METRIC])
    groups_of_users = of_users.partition_by("kind", "slice", as_dict=True, include_key=False)
    groups_of_items = pl.concat(_item_slice_scores(tables, wanted, data)).partition_by("kind", "slice", as_dict=True)
    for (kind, name), list_name in itertools.product(sorted({*groups_of_users, *groups_of_items}), sorted(set(scores[c.LIST]))):
        members = groups_of_users.get((kind, name))
        all_lists = groups_of_items[kind, name] if members is None else ndcg.join(members, on=["origin", c.LEAD_DAYS, c.USER_ID], how="inner")
        group = all_lists.filter(pl.col(c.LIST) == list_name)
        if group.is_empty():
            continue
        resampled = _resampled(group, models, [MAIN_METRIC], data.config, seed)
        for model in models:
            yield _slice_row(resampled, model, kind=kind, name=name, list_name=list_name)


def _slice_row(resampled: _Resampled, model: str, *, kind: str, name: str, list_name: ListName) -> SliceRow:
    """Figure of a model on a slice, and the gain of the first model over it."""
    value, low, high = resampled.mean(model, MAIN_METRIC)
    first = resampled.models[0]
    gain = resampled.difference(first, model, MAIN_METRIC) if model != first else None
    return SliceRow(
        kind=kind,
        slice=name,
        list=list_name,
        model=model,
        metric=MAIN_METRIC,
        value=value,
        ci_low=low,
        ci_high=high,
        num_users=len(resampled.values),
        num_rows=resampled.num_rows,
        relative=gain.relative if gain else None,
        relative_low=gain.relative_low if gain else None,
        relative_high=gain.relative_high if gain else None,
    )


def _item_slice_scores(tables: Mapping[str, dict[Window, pl.DataFrame]], wanted: Mapping[Window, pl.DataFrame], data: _Data) -> Iterator[pl.DataFrame]:
    """Scores on targets of one group of items at a time, and of users and items without history."""
    groups = {origin: item_slices(data.interactions, origin).partition_by("kind", "slice", as_dict=True) for origin in {window.origin for window in wanted}}
    for window, pairs in wanted.items():
        of_window = {key: pairs.join(items, on=c.ITEM_ID, how="semi") for key, items in groups[window.origin].items()}
        of_window["cold", "users without history"] = data.wanted(window, "cold_users")
        of_window["cold", "items without history"] = data.wanted(window, "cold_items")
        together = _together(tables, window)
        offered = _offered(together)
        found = hits(together, pl.concat([pairs, of_window["cold", "users without history"], of_window["cold", "items without history"]]))
        for (kind, name), part in of_window.items():
            if part.height:
                scored = score_hits(hits(found, part), part, offered, by=[c.MODEL, SEED])
                yield _seeds_averaged(scored, offered, window).with_columns(pl.lit(kind).alias("kind"), pl.lit(name).alias("slice"))


def _new_items(
    rankings: Mapping[Window, pl.DataFrame], reported: Sequence[Window], data: _Data, item_catalogue: pl.DataFrame, model: str, seed: int
) -> Iterator[SliceRow]:
    """Figures of items without history, ranked among themselves, beside what an order drawn at random would get; pooled over windows."""
    parts = []
    for window in reported:
        known = data.known(window.origin)
        offered = items_without_history(data.interactions, window.origin, item_catalogue, known=known)
        wanted = new_item_targets(
            data.events(window),
            window.origin,
            window.lead_days,
            data.config.horizon_days,
            window.list,
            offered,
            target_events=data.target_events,
            known=known,
        )
        if wanted.is_empty() or window not in rankings:
            continue
        scored = score_rankings(rankings[window], wanted, by=[SEED]).group_by(c.USER_ID).agg(pl.col("ndcg", "num_targets").mean()).sort(c.USER_ID)
        chance = ndcg_by_chance(scored["num_targets"].to_numpy().astype(np.int64), offered.height)
        for name, values in ((model, scored["ndcg"]), (BY_CHANCE, pl.Series("ndcg", chance))):
            parts.append(scored.select(c.USER_ID, pl.lit(name).alias(c.MODEL), pl.lit(window.list).alias(c.LIST), values.alias("ndcg")))
    together = pl.concat(parts) if parts else pl.DataFrame(schema={c.LIST: pl.String})
    for (list_name,), group in together.partition_by(c.LIST, as_dict=True, maintain_order=True).items():
        resampled = _resampled(group, (model, BY_CHANCE), [MAIN_METRIC], data.config, seed)
        for name in (model, BY_CHANCE):
            yield _slice_row(resampled, name, kind=KIND, name=SLICE, list_name=list_name)


# the rest


def _season_lifts(
    tables: Mapping[str, dict[Window, pl.DataFrame]], shifted: Rankings, wanted: Mapping[Window, pl.DataFrame], config: EvaluationConfig, seed: int
) -> Iterator[SeasonLift]:
    """Lift of each model that has shifted rankings, on the windows both have."""
    for model, table in shifted.items():
        moved, right = _by_window(table), tables.get(model, {})
        both = [window for window in wanted if window in moved and window in right]
        if not both:
            continue
        scores = pl.concat(_scores({"right": right, "moved": moved}, window, wanted[window]) for window in both)
        for list_name, lead_days, origin, group in _groups(scores, config):
            if origin != POOLED:
                continue
            lift = _resampled(group, ["right", "moved"], [MAIN_METRIC], config, seed).difference("right", "moved", MAIN_METRIC)
            yield SeasonLift(
                list=list_name,
                lead_days=lead_days,
                model=model,
                metric=MAIN_METRIC,
                relative=lift.relative,
                relative_low=lift.relative_low,
                relative_high=lift.relative_high,
                num_users=lift.num_users,
            )


def _window_targets(data: _Data, reported: Sequence[Window]) -> Iterator[WindowTargets]:
    for window in reported:
        counts = target_counts(
            data.events(window),
            window.origin,
            window.lead_days,
            data.config.horizon_days,
            window.list,
            target_events=data.target_events,
            known=data.known(window.origin),
        )
        yield WindowTargets(
            origin=window.origin,
            lead_days=window.lead_days,
            list=window.list,
            num_users=counts.num_users,
            num_targets=counts.num_targets,
            num_candidates=data.known(window.origin).items.height,
            share_dropped=counts.share_dropped,
            num_cold_users=counts.num_cold_users,
            num_cold_items=counts.num_cold_items,
        )
