"""One self-contained HTML page about one run: the decision and its reasons first, then what they rest on.

No script and no request: style and drawings are in the page. Every drawn value stands in a table beside the drawing.
`ReportData` is what a flow fills, `PageData` where demand was forecast and no recommender was trained; `evaluation/report_panels.py` makes
their panels from tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from pydantic import Field

from contracts.artifacts import Finding, GateResult, Reference
from evaluation import report_charts as charts
from evaluation.gates import PromotionDecision
from evaluation.report_charts import Line, Mark, RowOfMarks, attribute, signed, signed_percent
from evaluation.report_panels import Example, ForecastPanel, HeatMap, LevelError
from evaluation.results import POOLED, EvaluationResult, MetricRow, SeasonLift, SliceRow

METRIC_COLUMNS: Final = ("ndcg@10", "recall@10", "hit@10", "mrr@10", "recall@20", "coverage@10", "novelty@10", "calibration@10")
LIST_TITLES: Final[Mapping[str, str]] = {"again": "Again: the whole list, repeats included", "discover": "Discover: only what is new to the user"}
SLICE_TITLES: Final[Mapping[str, str]] = {
    "season": "By season of the window",
    "turn": "Around the turn of a season",
    "activity": "By the user's number of events",
    "region": "By region",
    "platform": "By platform",
    "item_age": "Targets by age of the item",
    "item_season": "Targets by how seasonal the item is",
    "cold": "Without history",
}
LIFT_CAPTION: Final = "Season lift: gain of the right date over look-ups made half a year off, with everything else untouched."
CONTROL_CAPTION: Final = (
    "Negative control: season lift of the same model, trained and measured on behaviour whose seasons were destroyed. "
    "Its intervals should hold zero; a lift here would be leakage or over-fitting."
)
HOW_MEASURED: Final = (
    "Figures follow the protocol: what is known ends at the cut-off; a user counts with one target or more; means over users; paired bootstrap with users as "
    "clusters, 95 % intervals; ties fall to the smaller item id. Drawn values stand in the table beside each drawing."
)
NEW_ITEMS: Final = (
    "Candidates are all items of the catalogue without an event before the cut-off, and no others; the two lists above never offer them unless the catalogue "
    "declares them available. By chance: the expected figure of an order drawn at random."
)
HOW_FORECAST: Final = (
    "A forecast knows nothing after its cut-off. Errors are means of absolute errors over each series' usual step to its value a season earlier (MASE), "
    "on periods after the cut-off, which chose no model. Drawn values stand in the table beside each drawing."
)
METRIC_NAMES: Final[Mapping[str, str]] = {
    "ndcg@10": "NDCG@10",
    "recall@10": "Recall@10",
    "hit@10": "Hit@10",
    "mrr@10": "MRR@10",
    "recall@20": "Recall@20",
    "coverage@10": "Coverage",
    "novelty@10": "Novelty, bits",
    "calibration@10": "Calibration, nats",
}


class DataQuality(Reference):
    """What ingest and validation did with the rows; `rows_in` is the sum of the others."""

    rows_in: int
    rows_accepted: int
    rows_quarantined: int
    rows_deleted: int = 0
    rows_known: int = Field(default=0, description="seen in an earlier ingest")
    quarantined_by_rule: Mapping[str, int] = {}
    num_expectations: int = 0
    findings: tuple[Finding, ...] = ()
    data_docs: str | None = Field(default=None, description="address of the Data Docs, absolute or relative to the report")


class PageData(Reference):
    """What a report shows of any run: data, the year in demand, forecasts. Empty panels are left out of the page."""

    title: str = Field(description="what was run, e.g. the configuration's name")
    created: str = Field(default="", description="when, in words; the page never reads a clock")
    quality: DataQuality | None = None
    heat_maps: tuple[HeatMap, ...] = ()
    forecasts: tuple[ForecastPanel, ...] = ()
    forecast_errors: tuple[LevelError, ...] = Field(default=(), description="errors on periods that came after the cut-offs, level by level")
    facts: Mapping[str, str] = Field(default={}, description="name -> value of the footer: commit, run, digests, seconds")
    links: Mapping[str, str] = Field(default={}, description="label -> address: MLflow run, Prefect run, configuration")


class ReportData(PageData):
    """Everything the report of a trained recommender shows; a short one needs only a title and the first two fields here."""

    evaluation: EvaluationResult
    decision: PromotionDecision
    model_label: str = Field(default="", description="how the model is called on the page; its name in the evaluation if empty")
    negative_control: tuple[SeasonLift, ...] = Field(default=(), description="season lifts of a model trained and measured on behaviour without seasons")
    examples: tuple[Example, ...] = Field(default=(), description="shown side by side, two at a time: the same user asked for two dates")


def render_report(data: ReportData) -> str:
    """Render the page of a trained recommender as one HTML text."""
    facts = {"evaluation digest": data.evaluation.digest, **data.facts}
    return _page(data, _masthead(data.title, _spans(data)), _decision(data), _sections(data), facts, HOW_MEASURED)


def render_forecast_report(data: PageData) -> str:
    """Render the page of forecasts without a recommender as one HTML text."""
    told = _masthead(data.title, [f"{len(data.forecast_errors)} levels" if data.forecast_errors else "", data.created])
    return _page(data, told, _forecast_verdict(data), _shared_sections(data), data.facts, HOW_FORECAST)


def _page(data: PageData, masthead: str, decision: str, told: Iterator[tuple[str, str, str]], facts: Mapping[str, str], how: str) -> str:
    sections = [section for section in told if section[2]]
    return Template(_template()).substitute(
        title=escape(data.title),
        masthead=masthead,
        decision=decision,
        navigation="".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title, _ in sections),
        sections="".join(_section(key, title, body) for key, title, body in sections),
        footer=_footer(facts, data.links),
        how=escape(how),
    )


def _section(key: str, title: str, body: str) -> str:
    return f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{escape(title)}</h2>{body}</section>'


@cache
def _template() -> str:
    return files("evaluation").joinpath("report_template.html").read_text(encoding="utf-8")


def _sections(data: ReportData) -> Iterator[tuple[str, str, str]]:
    """Key, title and body of each section; an empty body is left out."""
    yield "figures", "How good it is", _figures(data)
    yield "leads", "Further ahead", _leads(data)
    yield "slices", "Season by season", _slices(data)
    *first, last = _shared_sections(data)
    yield from first
    yield "examples", "Lists at two dates", _examples(data.examples)
    yield last


def _shared_sections(data: PageData) -> Iterator[tuple[str, str, str]]:
    yield "calendar", "The year in demand", "".join(charts.heat_map(panel) for panel in data.heat_maps)
    fans = f'<div class="panels">{"".join(charts.fan(panel) + charts.parts_of_series(panel) for panel in data.forecasts)}</div>' if data.forecasts else ""
    yield "forecast", "Forecast against actual", _forecast_errors(data.forecast_errors) + fans
    yield "data", "The data behind it", _quality(data.quality) if data.quality else ""


# the head of the page


def _masthead(title: str, facts: Sequence[str]) -> str:
    return f'<h1>{escape(title)}</h1><p class="meta">' + "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact) + "</p>"


def _spans(data: ReportData) -> list[str]:
    result = data.evaluation
    first, last = min(result.origins), max(result.origins)
    span = f"cut-off {first:%-d %b %Y}" if first == last else f"{len(result.origins)} cut-offs, {first:%-d %b %Y} to {last:%-d %b %Y}"
    leads = "leads " + ", ".join(map(str, result.leads)) + " days"
    return [result.dataset, span, leads, f"windows of {result.horizon_days} days", data.created]


def _decision(data: ReportData) -> str:
    decision = data.decision
    waits = not decision.promoted and all(gate.passed for gate in decision.gates) and bool(decision.gates)
    state, headline = ("good", "Promoted to champion") if decision.promoted else ("wait", "Waits for review") if waits else ("bad", "Not promoted")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in decision.reasons)
    gates = "".join(_gate(gate) for gate in decision.gates)
    headlines = "".join(_headline_figure(data, list_name) for list_name in data.evaluation.lists)
    kicker = f'<p class="kicker">Decision on {escape(_label(data, data.evaluation.model))}</p>'
    words = f'<div>{kicker}<h2 id="decision-title">{headline}</h2><ul class="reasons">{reasons}</ul></div>'
    verdict = f'<div class="verdict"><span class="seal" aria-hidden="true"></span>{words}</div>'
    section = f'<section class="decision {state}" aria-labelledby="decision-title">{verdict}<div class="tiles">{headlines}</div></section>'
    return section + (f'<div class="gates">{gates}</div>' if gates else "")


def _forecast_verdict(data: PageData) -> str:
    """Whether the forecasts beat last year's values, in the place of a decision: nothing is promoted."""
    errors = data.forecast_errors
    better = [error for error in errors if error.chosen < error.last_year]
    state, headline = ("good", "Forecasts beat last year") if errors and len(better) == len(errors) else ("wait", "Forecasts made")
    said = [f"{error.level}: MASE {error.chosen:.3f} against {error.last_year:.3f} of last year's values, by {error.models}" for error in errors]
    said = said or ["No period after an earlier cut-off has come yet, so the forecasts cannot be judged."]
    tiles = "".join(
        f'<div class="tile"><p class="tile-name">{escape(error.level.capitalize())} <span>MASE</span></p>'
        f'<p class="tile-value" {attribute(f"tile|{error.level}", error.chosen)}>{error.chosen:.3f}</p>'
        f'<p class="tile-gain {"up" if error.chosen < error.last_year else "down"}">{signed_percent(error.chosen / error.last_year - 1)} '
        f"<span>against last year's values</span></p></div>"
        for error in errors
        if error.last_year
    )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in (*said, "These data name no users: demand is forecast, no recommender is trained."))
    words = f'<div><p class="kicker">Demand forecast</p><h2 id="decision-title">{headline}</h2><ul class="reasons">{reasons}</ul></div>'
    verdict = f'<div class="verdict"><span class="seal" aria-hidden="true"></span>{words}</div>'
    return f'<section class="decision {state}" aria-labelledby="decision-title">{verdict}<div class="tiles">{tiles}</div></section>'


def _gate(gate: GateResult) -> str:
    failed = [f'<li class="failed"><b>failed</b> {escape(reason)}</li>' for reason in gate.failures]
    passed = [f'<li class="passed"><b>passed</b> {escape(reason)}</li>' for reason in gate.reasons[len(gate.failures) :]]
    state, word = ("good", "open") if gate.passed else ("bad", "shut")
    heading = f'<h3>{escape(gate.name.capitalize())} gate <span class="state">{word}</span></h3>'
    return f'<article class="gate {state}">{heading}<ul>{"".join(failed + passed)}</ul></article>'


def _headline_figure(data: ReportData, list_name: str) -> str:
    result = data.evaluation
    value = result.figure(result.model, list_name).value
    other = _opponent(result, list_name)
    beside = ""
    if other:
        gain = result.comparison(other, list_name)
        beside = (
            f'<p class="tile-gain {_direction(gain.ci_low, gain.ci_high)}">{signed_percent(gain.relative)} <span>against {escape(_label(data, other))} '
            f"({signed_percent(gain.relative_low)} to {signed_percent(gain.relative_high)})</span></p>"
        )
    return (
        f'<div class="tile"><p class="tile-name">{escape(list_name.capitalize())} <span>{METRIC_NAMES[result.main_metric]}</span></p>'
        f'<p class="tile-value" {attribute(f"tile|{list_name}", value)}>{value:.3f}</p>{beside}</div>'
    )


def _direction(low: float, high: float) -> str:
    return "up" if low > 0 else "down" if high < 0 else "level"


def _opponent(result: EvaluationResult, list_name: str) -> str | None:
    if result.champion:
        return result.champion
    return result.best_baseline(list_name).name if result.baselines else None


def _label(data: ReportData, model: str) -> str:
    return data.model_label or model if model == data.evaluation.model else model


# figures


def _figures(data: ReportData) -> str:
    return "".join(f"<h3>{escape(LIST_TITLES.get(name, name))}</h3>{_gains(data, name)}{_metric_table(data, name)}" for name in data.evaluation.lists)


def _gains(data: ReportData, list_name: str) -> str:
    """How far the model lies above each other model, with the interval."""
    result = data.evaluation
    compared = sorted(
        (row for row in result.comparisons if (row.list, row.lead_days, row.metric) == (list_name, None, result.main_metric)), key=lambda row: row.difference
    )
    if not compared:
        return ""
    opponent = _opponent(result, list_name)
    rows = [
        RowOfMarks(
            label=_label(data, row.other),
            marks=(Mark(f"gain|{list_name}|{row.other}", row.difference, row.ci_low, row.ci_high, "model", "gain"),),
            text=f"{signed(row.difference)} ({signed_percent(row.relative)})",
            is_emphasised=row.other == opponent,
        )
        for row in compared
    ]
    table = charts.table(
        ["against", "gain", "95 % interval", "relative", "95 % interval", "users"],
        [
            [
                escape(_label(data, row.other)),
                charts.cell(f"gain|{list_name}|{row.other}", row.difference, signed(row.difference)),
                f"{signed(row.ci_low)} to {signed(row.ci_high)}",
                signed_percent(row.relative),
                f"{signed_percent(row.relative_low)} to {signed_percent(row.relative_high)}",
                f"{row.num_users:,}",
            ]
            for row in compared
        ],
        f"Gain in {METRIC_NAMES[result.main_metric]}, list {list_name}",
    )
    summary = f"Gain in {METRIC_NAMES[result.main_metric]} over each other model for list {list_name}, all leads and cut-offs pooled"
    return charts.figure(
        charts.rows_of_marks(rows, f"{summary}, with 95 % intervals", zero=True), table, f"{summary}. A bar clear of the zero line is a gain that counts."
    )


def _metric_table(data: ReportData, list_name: str) -> str:
    """All metrics of all models, leads pooled; figures of lists are means over the windows."""
    result = data.evaluation
    metrics = [metric for metric in METRIC_COLUMNS if any(row.metric == metric and row.list == list_name for row in result.rows)]
    opponent = _opponent(result, list_name)
    body = []
    for model in result.models:
        cells = [_model_cell(data, model, opponent)]
        for metric in metrics:
            found = [row for row in result.rows if (row.model, row.list, row.metric) == (model, list_name, metric)]
            pooled = [row for row in found if row.lead_days is None and row.origin == POOLED]
            cells.append(_value_with_interval(pooled[0]) if pooled else _mean_over_windows(found) if found else "")
        body.append(cells)
    table = charts.table(
        ["model", *(METRIC_NAMES[metric] for metric in metrics)], body, f"All metrics, list {list_name}", emphasised=result.model, first_column=result.models
    )
    return charts.scroller(table, f"All metrics, list {list_name}")


def _mean_over_windows(rows: Sequence[MetricRow]) -> str:
    mean = sum(row.value for row in rows) / len(rows)
    return f"{mean:.2%}" if rows[0].metric.startswith("coverage") else f"{mean:.2f}"


def _model_cell(data: ReportData, model: str, opponent: str | None) -> str:
    mark = ' <span class="chip rival">to beat</span>' if model == opponent else ""
    return f"{escape(_label(data, model))}{mark}"


def _value_with_interval(row: MetricRow) -> str:
    low, high = (row.ci_low if row.ci_low is not None else row.value), (row.ci_high if row.ci_high is not None else row.value)
    return f"{row.value:.3f}<small>{low:.3f} to {high:.3f}</small>"


def _leads(data: ReportData) -> str:
    return "".join(_lead_curves(data, list_name) for list_name in data.evaluation.lists)


def _lead_curves(data: ReportData, list_name: str) -> str:
    """The main metric over leads: the model with its band, what is to be beaten, and the others behind."""
    result = data.evaluation
    opponent = _opponent(result, list_name)
    rows = [row for row in result.rows if (row.list, row.metric, row.origin) == (list_name, result.main_metric, POOLED) and row.lead_days is not None]
    leads = sorted({row.lead_days for row in rows if row.lead_days is not None})
    lines = []
    for model in (*reversed(result.baselines), *([result.champion] if result.champion else []), result.model):
        role = "model" if model == result.model else "rival" if model == opponent else "other"
        at = {row.lead_days: row for row in rows if row.model == model}
        points = [
            (float(lead), Mark(f"lead|{list_name}|{lead}|{model}", at[lead].value, at[lead].ci_low, at[lead].ci_high, role, _label(data, model)))
            for lead in leads
            if lead in at
        ]
        lines.append(Line(_label(data, model), role, points))
    lines.sort(key=lambda line: ("other", "rival", "model").index(line.role))
    best_first = sorted(result.models, key=lambda model: -_mean(row.value for row in rows if row.model == model))
    table = charts.table(
        ["model", *(f"{lead} days" for lead in leads)],
        [
            [
                _model_cell(data, model, opponent),
                *(
                    charts.cell(f"lead|{list_name}|{row.lead_days}|{model}", row.value, _value_with_interval(row))
                    for row in sorted(rows, key=_lead)
                    if row.model == model
                ),
            ]
            for model in best_first
        ],
        f"{METRIC_NAMES[result.main_metric]} over leads, list {list_name}",
        emphasised=result.model,
        first_column=best_first,
    )
    title = f"{list_name.capitalize()}: {METRIC_NAMES[result.main_metric]} by days between the cut-off and the window"
    chart = charts.lines(lines, title, x_title="lead, days", x_ticks=[(float(lead), str(lead)) for lead in leads])
    caption = f"{escape(title)}. The band is the 95 % interval of {escape(_label(data, result.model))}; grey lines are the other baselines."
    return f'<figure class="beside"><div>{chart}<figcaption>{caption}</figcaption></div>{charts.scroller(table, title)}</figure>'


def _lead(row: MetricRow) -> int:
    return row.lead_days or 0


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _slices(data: ReportData) -> str:
    result = data.evaluation
    kinds = [kind for kind in SLICE_TITLES if any(row.kind == kind for row in result.slices)]
    first = "".join(_slice_chart(data, kind) for kind in kinds if kind == "season")
    others = "".join(f"<details><summary>{escape(SLICE_TITLES[kind])}</summary>{_slice_chart(data, kind)}</details>" for kind in kinds if kind != "season")
    lifts = [lift for lift in result.season_lifts if lift.model == result.model]
    control = charts_of_lifts(data.negative_control, "control", CONTROL_CAPTION) if data.negative_control else ""
    return first + (charts_of_lifts(lifts, "lift", LIFT_CAPTION) if lifts else "") + control + others + _new_items(data)


def _new_items(data: ReportData) -> str:
    """Items without history, ranked among themselves, beside an order drawn at random."""
    result = data.evaluation
    if not result.new_items:
        return ""
    rows = [
        [
            escape(row.list),
            escape(_label(data, row.model)),
            f"{row.num_users:,}",
            f"{row.value:.4f}",  # among tens of thousands of candidates a good figure is small
            f"{row.ci_low:.4f} to {row.ci_high:.4f}",
        ]
        for row in result.new_items
    ]
    title = "Items without history, ranked among themselves"
    table = charts.table(["list", "order", "users", METRIC_NAMES[result.main_metric], "95 % interval"], rows, title)
    return f"<details><summary>{title}</summary><figure>{table}<figcaption>{NEW_ITEMS}</figcaption></figure></details>"


def _slice_chart(data: ReportData, kind: str) -> str:
    result = data.evaluation
    parts = []
    for list_name in result.lists:
        opponent = _opponent(result, list_name)
        of_list = [row for row in result.slices if (row.kind, row.list) == (kind, list_name)]
        names = list(dict.fromkeys(row.slice for row in of_list))
        pairs = [(name, [row for model in (opponent, result.model) for row in of_list if (row.slice, row.model) == (name, model)]) for name in names]
        if not pairs:
            continue
        rows = [
            RowOfMarks(label=name, note=f"{found[-1].num_users:,} users", marks=tuple(_slice_mark(data, row) for row in found), text=_slice_gain(found))
            for name, found in pairs
        ]
        title = f"{list_name.capitalize()}, {SLICE_TITLES[kind][:1].lower()}{SLICE_TITLES[kind][1:]}"
        table = charts.table(
            ["group", "users", _label(data, result.model), *([_label(data, opponent)] if opponent else []), "gain"],
            [
                [
                    escape(name),
                    f"{found[-1].num_users:,}",
                    *(charts.cell(_slice_key(row), row.value, f"{row.value:.3f}") for row in reversed(found)),
                    _slice_gain(found),
                ]
                for name, found in pairs
            ],
            title,
        )
        legend = [("model", _label(data, result.model)), *([("rival", _label(data, opponent))] if opponent else [])]
        chart = charts.rows_of_marks(rows, f"{title}: {METRIC_NAMES[result.main_metric]} of the model and of what is to be beaten", zero=False, key=legend)
        parts.append(charts.figure(chart, table, f"{title}: {METRIC_NAMES[result.main_metric]} with 95 % intervals, leads and cut-offs pooled."))
    return f'<div class="panels">{"".join(parts)}</div>'


def _slice_key(row: SliceRow) -> str:
    return f"slice|{row.kind}|{row.list}|{row.slice}|{row.model}"


def _slice_mark(data: ReportData, row: SliceRow) -> Mark:
    return Mark(_slice_key(row), row.value, row.ci_low, row.ci_high, "model" if row.model == data.evaluation.model else "rival", _label(data, row.model))


def _slice_gain(found: Sequence[SliceRow]) -> str:
    gains = [row.relative for row in found if row.relative is not None]
    return signed_percent(gains[0]) if gains else ""


def charts_of_lifts(lifts: Sequence[SeasonLift], key: str, caption: str) -> str:
    """Season lifts on one scale, list by list and lead by lead."""
    rows = [
        RowOfMarks(
            label=f"{lift.list}, {'all leads' if lift.lead_days is None else f'lead {lift.lead_days} days'}",
            marks=(Mark(f"{key}|{lift.list}|{lift.lead_days}", lift.relative, lift.relative_low, lift.relative_high, "model", "season lift"),),
            text=signed_percent(lift.relative),
            is_emphasised=lift.lead_days is None,
        )
        for lift in lifts
    ]
    table = charts.table(
        ["list and lead", "season lift", "95 % interval", "users"],
        [
            [
                escape(row.label),
                charts.cell(row.marks[0].key, lift.relative, signed_percent(lift.relative)),
                f"{signed_percent(lift.relative_low)} to {signed_percent(lift.relative_high)}",
                f"{lift.num_users:,}",
            ]
            for row, lift in zip(rows, lifts, strict=True)
        ],
        caption.split(":", maxsplit=1)[0],
    )
    return charts.figure(charts.rows_of_marks(rows, caption, zero=True, percent=True), table, caption)


# forecasts, examples and data


def _forecast_errors(errors: Sequence[LevelError]) -> str:
    """Error of each level beside that of last year's values."""
    if not errors:
        return ""
    names = {"model": "forecast", "rival": "last year's values"}
    rows = [
        RowOfMarks(
            label=error.level,
            note=f"{error.num_series:,} series",
            marks=tuple(
                Mark(f"mase|{error.level}|{role}", value, None, None, role, names[role])
                for role, value in (("rival", error.last_year), ("model", error.chosen))
            ),
            text=f"{error.chosen:.3f} ({error.last_year:.3f})",
        )
        for error in errors
    ]
    table = charts.table(
        ["level", "series", "forecast", "last year's values", "by"],
        [
            [
                escape(error.level),
                f"{error.num_series:,}",
                charts.cell(f"mase|{error.level}|model", error.chosen, f"{error.chosen:.3f}"),
                charts.cell(f"mase|{error.level}|rival", error.last_year, f"{error.last_year:.3f}"),
                escape(error.models),
            ]
            for error in errors
        ],
        "Forecast error by level",
    )
    caption = "Forecast error (MASE, smaller is better) on the periods after the cut-offs, beside last year's values on the same periods."
    return charts.figure(charts.rows_of_marks(rows, caption, zero=False, key=list(names.items())), table, caption)


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    pairs = [examples[start : start + 2] for start in range(0, len(examples), 2)]
    return charts.legend([("taste", "taste"), ("habit", "habit"), ("season", "season"), ("sum", "score")]) + "".join(
        f'<div class="panels">{"".join(charts.parts_of_scores(example, [other for other in pair if other is not example]) for example in pair)}</div>'
        for pair in pairs
    )


def _quality(quality: DataQuality) -> str:
    kinds = [
        ("accepted", quality.rows_accepted, "good"),
        ("quarantined", quality.rows_quarantined, "bad"),
        ("deleted on request", quality.rows_deleted, "wait"),
        ("known already", quality.rows_known, "other"),
    ]
    shown = [(name, rows, css) for name, rows, css in kinds if rows or name in {"accepted", "quarantined"}]
    table = charts.table(
        ["rows", "count", "share"],
        [
            ["in", charts.plain_number(quality.rows_in), ""],
            *([name, charts.cell(f"rows|{name}", rows, f"{rows:,}"), f"{rows / max(quality.rows_in, 1):.2%}"] for name, rows, _ in shown),
        ],
        "Rows of the source",
    )
    bar = charts.share_bar([(f"rows|{name}", name, rows, css) for name, rows, css in shown], quality.rows_in)
    rules = ""
    if quality.quarantined_by_rule:
        ordered = sorted(quality.quarantined_by_rule.items(), key=lambda rule: -rule[1])
        rules = charts.scroller(
            charts.table(["rule", "rows in quarantine"], [[escape(rule), f"{rows:,}"] for rule, rows in ordered], "Quarantine by rule"), "Quarantine by rule"
        )
    findings = "".join(
        f'<li class="{"failed" if finding.severity == "critical" else "warned"}"><b>{escape(finding.severity)}</b> <code>{escape(finding.table)}</code> '
        f"{escape(finding.message)} <small>{escape(finding.rule)}, {finding.num_failed:,} rows</small></li>"
        for finding in quality.findings
    )
    said = f"{quality.num_expectations:,} expectations checked, {len(quality.findings):,} finding{'' if len(quality.findings) == 1 else 's'}."
    docs = f' <a href="{escape(quality.data_docs, quote=True)}">Open the Data Docs</a>' if quality.data_docs else ""
    return f"{charts.figure(bar, table, f'{quality.rows_in:,} rows came in.', is_open=True)}{rules}<p>{said}{docs}</p>" + (
        f'<ul class="findings">{findings}</ul>' if findings else ""
    )


def _footer(facts: Mapping[str, str], addresses: Mapping[str, str]) -> str:
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    links = "".join(f'<li><a href="{escape(address, quote=True)}">{escape(label)}</a></li>' for label, address in addresses.items())
    return f"<dl>{listed}</dl>" + (f'<ul class="links">{links}</ul>' if links else "")
