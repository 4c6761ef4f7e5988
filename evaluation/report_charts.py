"""Drawings of the report as HTML fragments: positions in per cent, so that they fit any width, and text that stays readable on a phone.

Every drawn value carries `data-key` and `data-value`; the table beside the drawing carries the same pair.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from evaluation.report_panels import Example, ExampleItem, ForecastPanel, ForecastPeriod, HeatMap

HEAT_STEPS: Final = 9
DENSE_FROM: Final = 60  # periods of a fan chart beyond which its marks are small
FAN_LINES: Final = (("actual", "actual"), ("forecast", "mean"))  # role -> field of a period
HEAT_LIMIT: Final = 1.6  # binary orders of magnitude from the average at which the colour is full


@dataclass(frozen=True)
class Mark:
    """One drawn value with its interval."""

    key: str
    value: float
    low: float | None
    high: float | None
    role: str
    name: str


@dataclass(frozen=True)
class RowOfMarks:
    """One line of a chart of rows: a label, one or two marks on a common scale, and the figure in words."""

    label: str
    marks: tuple[Mark, ...]
    text: str = ""
    note: str = ""
    is_emphasised: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a line chart: points (x, mark)."""

    name: str
    role: str
    points: Sequence[tuple[float, Mark]] = field(default_factory=list)


def attribute(key: str, value: float) -> str:
    """Attributes by which a drawn value is found again."""
    return f'data-key="{escape(key, quote=True)}" data-value="{float(value)!r}"'


def signed(value: float) -> str:
    """Difference with its sign, four decimals."""
    return f"{value:+.4f}".replace("-", "\u2212")


def signed_percent(value: float) -> str:
    """Relative difference with its sign; beyond tenfold as a factor."""
    if value > 9.995:
        return f"\u00d7{value + 1:,.0f}" if value < 1e6 else "\u221e"
    return f"{value:+.1%}".replace("-", "\u2212").replace("%", "\u202f%")


def plain_number(value: float) -> str:
    """Count or amount with thousands apart and no more digits than help."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover a range; the first is at or below `low`, the last at or above `high`.

    Examples
    --------
    >>> ticks(0.03, 0.41)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    """
    is_flat = high - low <= 1e-9 * max(abs(low), abs(high))  # such as a season that is 1 but for rounding
    high = low + (abs(low) or 1.0) if is_flat else high
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * k, 12) + 0.0 for k in range(first, last + 1)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, *, emphasised: str | None = None, first_column: Sequence[str] = ()) -> str:
    """Table of finished cells; a cell that starts with `<td` is taken as it is. `first_column` names rows, to emphasise one."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = []
    for place, cells in enumerate(rows):
        css = ' class="ours"' if emphasised is not None and first_column and first_column[place] == emphasised else ""
        others = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells[1:])
        body.append(f'<tr{css}><th scope="row">{cells[0]}</th>{others}</tr>')
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def cell(key: str, value: float, text: str) -> str:
    """Cell of a table whose value is also drawn."""
    return f"<td {attribute(key, value)}>{text}</td>"


def scroller(content: str, label: str) -> str:
    """Let wide content scroll by itself, reachable by keyboard."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label, quote=True)}">{content}</div>'


def figure(chart: str, numbers: str, caption: str, *, is_open: bool = False) -> str:
    """Drawing, caption, and its numbers to unfold."""
    return (
        f"<figure>{chart}<figcaption>{escape(caption)}</figcaption>"
        f'<details class="numbers"{" open" if is_open else ""}><summary>The numbers</summary>{scroller(numbers, caption)}</details></figure>'
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Legend of (role, name)."""
    return '<ul class="legend">' + "".join(f'<li><span class="swatch {role}" aria-hidden="true"></span>{escape(name)}</li>' for role, name in entries) + "</ul>"


# rows of marks on one scale


def rows_of_marks(rows: Sequence[RowOfMarks], label: str, *, zero: bool, key: Sequence[tuple[str, str]] = (), percent: bool = False) -> str:
    """Draw one line per row on a scale that holds zero; `zero` marks it as the line that counts. `key` is the legend."""
    ends = [end for row in rows for mark in row.marks for end in (mark.value, mark.low, mark.high) if end is not None]
    scale = ticks(min([0.0, *ends]), max([0.0, *ends]), 4)
    left, span = scale[0], scale[-1] - scale[0]

    def at(value: float) -> float:
        return 100 * (value - left) / span

    grid = "".join(f'<i style="left:{at(tick):.3f}%"{" class=zero" if zero and tick == 0 else ""}></i>' for tick in scale)
    lines = "".join(_row(row, at, grid) for row in rows)
    axis = "".join(f'<span style="left:{at(tick):.3f}%">{_tick_text(tick, percent=percent)}</span>' for tick in scale)
    drawn = f'{lines}<div class="row axis"><span class="row-label"></span><span class="track">{axis}</span><span class="row-text"></span></div>'
    return f'{legend(key) if key else ""}<div class="rows" role="img" aria-label="{escape(_spoken(rows, label), quote=True)}">{drawn}</div>'


def _row(row: RowOfMarks, at: Callable[[float], float], grid: str) -> str:
    marks = "".join(_mark_with_whisker(mark, at) for mark in row.marks)
    note = f"<small>{escape(row.note)}</small>" if row.note else ""
    css = " emphasised" if row.is_emphasised else ""
    name, text = f'<span class="row-label">{escape(row.label)}{note}</span>', f'<span class="row-text">{escape(row.text)}</span>'
    return f'<div class="row{css}">{name}<span class="track">{grid}{marks}</span>{text}</div>'


def _mark_with_whisker(mark: Mark, at: Callable[[float], float]) -> str:
    whisker = ""
    if mark.low is not None and mark.high is not None:
        whisker = f'<span class="whisker {mark.role}" style="left:{at(mark.low):.3f}%;width:{at(mark.high) - at(mark.low):.3f}%"></span>'
    return whisker + _drawn(f"mark {mark.role}", f"left:{at(mark.value):.3f}%", _hint(mark), mark.key, mark.value)


def _drawn(css: str, style: str, hint: str, key: str, value: float, tag: str = "span") -> str:
    """One drawn value: where it is, what a pointer is told, and the value itself."""
    return f'<{tag} class="{css}" style="{style}" title="{escape(hint, quote=True)}" {attribute(key, value)}></{tag}>'


def _hint(mark: Mark) -> str:
    bounds = f" ({mark.low:.4f} to {mark.high:.4f})" if mark.low is not None and mark.high is not None else ""
    return f"{mark.name}: {mark.value:.4f}{bounds}"


def _spoken(rows: Sequence[RowOfMarks], label: str) -> str:
    said = "; ".join(f"{row.label} " + ", ".join(f"{mark.name} {mark.value:.3f}" for mark in row.marks) for row in rows)
    return f"{label}: {said}"


def _tick_text(tick: float, *, percent: bool = False) -> str:
    if percent:
        text = f"{tick:.0%}"
    elif abs(tick) < 10_000:
        text = f"{tick:g}"
    else:
        text = f"{tick / 1_000:g}k" if abs(tick) < 1_000_000 else f"{tick / 1_000_000:g}M"
    return text.replace("-", "\u2212")


# lines over a number


def lines(series: Sequence[Line], label: str, *, x_title: str, x_ticks: Sequence[tuple[float, str]]) -> str:
    """Draw lines from the back to the front: `other` grey, `rival` and `model` with their names at the right, the model with its band."""
    marks = [mark for line in series for _, mark in line.points]
    scale = ticks(min(mark.value for mark in marks), max(mark.high if mark.high is not None and mark.role == "model" else mark.value for mark in marks))
    first, last = min(x for x, _ in x_ticks), max(x for x, _ in x_ticks)

    def across(x: float) -> float:
        return 3 + 94 * (x - first) / (last - first) if last > first else 50.0

    def up(value: float) -> float:
        return 100 * (1 - (value - scale[0]) / (scale[-1] - scale[0]))

    drawn = "".join(_band(line, across, up) + _path(line.role, [(across(x), up(mark.value)) for x, mark in line.points]) for line in series)
    points = "".join(
        _drawn(f"mark {line.role}", f"left:{across(x):.3f}%;top:{up(mark.value):.3f}%", _hint(mark), mark.key, mark.value)
        for line in series
        for x, mark in line.points
    )
    shown = [(line.role, line.name) for line in reversed(series) if line.role != "other"] + [("other", "other baselines")] * any(
        line.role == "other" for line in series
    )
    spoken = "; ".join(
        f"{line.name} " + ", ".join(f"{mark.value:.3f} at {x:g}" for x, mark in line.points) for line in reversed(series) if line.role != "other"
    )
    across_axis = "".join(f'<span style="left:{across(x):.3f}%">{escape(text)}</span>' for x, text in x_ticks)
    return legend(shown) + _plot(drawn, points, [(up(tick), _tick_text(tick)) for tick in scale], across_axis, f"{label}: {spoken}", x_title)


def _plot(drawn: str, points: str, y_ticks: Sequence[tuple[float, str]], x_axis: str, label: str, x_title: str, *, css: str = "plot") -> str:
    """Frame of a chart with two axes. The drawing is stretched to the frame; lines keep their width, marks and text are not stretched."""
    grid = "".join(f'<i style="top:{top:.3f}%"></i>' for top, _ in y_ticks)
    y_axis = "".join(f'<span style="top:{top:.3f}%">{text}</span>' for top, text in y_ticks)
    return (
        f'<div class="{css}" role="img" aria-label="{escape(label, quote=True)}"><div class="y-axis">{y_axis}</div><div class="canvas">{grid}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>{points}</div><div class="x-axis">{x_axis}</div>'
        f'<p class="x-title">{escape(x_title)}</p></div>'
    )


def _path(role: str, points: Sequence[tuple[float, float]]) -> str:
    return f'<polyline class="{role}" points="{" ".join(f"{x:.3f},{y:.3f}" for x, y in points)}"/>' if len(points) > 1 else ""


def _area(role: str, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]]) -> str:
    return f'<polygon class="{role}" points="{" ".join(f"{x:.3f},{y:.3f}" for x, y in [*upper, *reversed(lower)])}"/>'


def _band(line: Line, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    bounds = [(x, mark.low, mark.high) for x, mark in line.points if mark.low is not None and mark.high is not None]
    if line.role != "model" or len(bounds) < 2:
        return ""
    return _area("band", [(across(x), up(high)) for x, _, high in bounds], [(across(x), up(low)) for x, low, _ in bounds])


# forecast


def fan(panel: ForecastPanel) -> str:
    """Draw what came, what was forecast, and the 80 % and 95 % intervals."""
    periods = panel.periods
    values = [value for period in periods for value in (period.actual, period.mean, period.low_95, period.high_95) if value is not None]
    scale = ticks(min([0.0, *values]), max([0.0, *values]))
    count = len(periods)

    def across(place: float) -> float:
        return 2 + 96 * place / (count - 1) if count > 1 else 50.0

    def up(value: float) -> float:
        return 100 * (1 - (value - scale[0]) / (scale[-1] - scale[0]))

    def line(name: str) -> list[tuple[float, float]]:
        return [(across(place), up(value)) for place, period in enumerate(periods) if (value := getattr(period, name)) is not None]

    cut = next((place for place, period in enumerate(periods) if period.date >= panel.cutoff), count)
    bands = "".join(
        _area(role, line(high), line(low)) for role, low, high in (("wide", "low_95", "high_95"), ("narrow", "low_80", "high_80")) if len(line(low)) > 1
    )
    edge = f'<line class="cutoff" x1="{across(cut - 0.5):.3f}" x2="{across(cut - 0.5):.3f}" y1="0" y2="100"/>'
    drawn = bands + edge + _path("forecast", line("mean")) + _path("actual", line("actual"))
    points = "".join(
        _drawn(
            f"mark {role}",
            f"left:{across(place):.3f}%;top:{up(value):.3f}%",
            f"{period.date}: {role} {plain_number(value)}",
            _fan_key(panel, role, period),
            value,
        )
        for role, name in FAN_LINES
        for place, period in enumerate(periods)
        if (value := getattr(period, name)) is not None
    )
    step = max(1, math.ceil(count / 5))
    labelled = [place for place in range(step // 2, count, step) if across(place) < 95]
    day = "%b %Y" if count > DENSE_FROM else "%-d %b"
    x_axis = "".join(f'<span style="left:{across(place):.3f}%">{periods[place].date:{day}}</span>' for place in labelled)
    title = f"{panel.title}: forecast against actual, {panel.unit}"
    chart = legend([("actual", "actual"), ("forecast", "forecast"), ("narrow", "80 % interval"), ("wide", "95 % interval")])
    chart += _plot(
        drawn,
        points,
        [(up(tick), _tick_text(tick)) for tick in scale],
        x_axis,
        f"{title}; {_fan_in_words(periods)}",
        f"cut-off {panel.cutoff:%-d %b %Y}, dashed",
        css="plot dense" if count > DENSE_FROM else "plot",
    )
    rows = [[f"{period.date}", *(_fan_cell(panel, period, role, name) for role, name in FAN_LINES), *_bounds(period)] for period in periods]
    numbers = table(["period", *(role for role, _ in FAN_LINES), "80 % interval", "95 % interval"], rows, title)
    by = f" by {panel.model}" if panel.model else ""
    return figure(f"<h3>{escape(panel.title)}</h3>{chart}", numbers, f"Demand, {panel.unit} per period, forecast{by}.")


def parts_of_series(panel: ForecastPanel) -> str:
    """Draw the parts of a series one below the other, each on its own scale; empty where it was not taken apart."""
    if not panel.parts:
        return ""
    count = len(panel.part_dates)
    step = max(1, math.ceil(count / 5))
    x_axis = "".join(
        f'<span style="left:{100 * place / max(count - 1, 1):.3f}%">{panel.part_dates[place]:%b %Y}</span>'
        for place in range(step // 2, count, step)
        if place < 0.95 * count
    )
    strips = []
    for part in panel.parts:
        scale = ticks(min(part.values), max(part.values), 3)
        points = [(100 * place / max(count - 1, 1), 100 * (1 - (value - scale[0]) / (scale[-1] - scale[0]))) for place, value in enumerate(part.values)]
        told = f"{part.name} of {panel.title}: {plain_number(min(part.values))} to {plain_number(max(part.values))}"
        y_ticks = [(100 * (1 - (tick - scale[0]) / (scale[-1] - scale[0])), _tick_text(tick)) for tick in (scale[0], scale[-1])]
        strips.append(
            f"<h4>{escape(part.name)}</h4>" + _plot(_path("actual", points), "", y_ticks, x_axis if part is panel.parts[-1] else "", told, "", css="plot strip")
        )
    rows = [[f"{day}", *(plain_number(part.values[place]) for part in panel.parts)] for place, day in enumerate(panel.part_dates)]
    numbers = table(["period", *(part.name for part in panel.parts)], rows, f"Parts of {panel.title}")
    said = f"What {panel.title} is made of up to the cut-off: the trend, in {panel.unit}, times the other parts; 1 is usual."
    return figure(f"<h3>{escape(panel.title)}, taken apart</h3>{''.join(strips)}", numbers, said)


def _fan_key(panel: ForecastPanel, role: str, period: ForecastPeriod) -> str:
    return f"fan|{panel.title}|{role}|{period.date}"


def _fan_cell(panel: ForecastPanel, period: ForecastPeriod, role: str, name: str) -> str:
    value = getattr(period, name)
    return "" if value is None else cell(_fan_key(panel, role, period), value, plain_number(value))


def _bounds(period: ForecastPeriod) -> list[str]:
    pairs = [(period.low_80, period.high_80), (period.low_95, period.high_95)]
    return [f"{plain_number(low)} to {plain_number(high)}" if low is not None and high is not None else "" for low, high in pairs]


def _fan_in_words(periods: Sequence[ForecastPeriod]) -> str:
    bounded = [(p.low_95, p.actual, p.high_95) for p in periods]
    both = [(low, actual, high) for low, actual, high in bounded if low is not None and actual is not None and high is not None]
    inside = sum(low <= actual <= high for low, actual, high in both)
    return f"{inside} of {len(both)} periods after the cut-off lie within the 95 % interval" if both else "nothing has come yet"


# heat map


def heat_map(panel: HeatMap) -> str:
    """Draw weeks across and categories down; blue is below the category's average, orange above."""
    if not panel.rows:
        return ""
    width = len(panel.columns)
    rows = "".join(_heat_row(panel, name, values) for name, values in zip(panel.rows, panel.values, strict=True))
    months = [(place, day) for place, day in enumerate(panel.columns) if place == 0 or day.month != panel.columns[place - 1].month]
    labelled = [(place, day) for place, day in months if place + 2 <= width and (place > 0 or day.day < 15)]
    axis = "".join(f'<span style="left:{100 * place / width:.3f}%">{day:%b}</span>' for place, day in labelled)
    steps = "".join(f'<i class="heat h{step}"></i>' for step in range(HEAT_STEPS))
    scale = f'<p class="heat-scale"><span>\u2153 of its average</span>{steps}<span>3 times</span></p>'
    peaks = "; ".join(f"{name} strongest in the week of {panel.columns[_peak(values)]:%-d %B}" for name, values in zip(panel.rows, panel.values, strict=True))
    axis_row = f'<div class="heat-row axis"><span class="row-label"></span><span class="cells-axis">{axis}</span></div>'
    spoken = escape(f"{panel.title}: {peaks}", quote=True)
    chart = f'{scale}<div class="heat-map" style="--weeks:{width}" role="img" aria-label="{spoken}">{rows}{axis_row}</div>'
    numbers = table(
        ["category", *(f"{day:%-d %b %y}" for day in panel.columns)],
        [
            [escape(name), *(cell(_heat_key(panel, name, place), value, f"{value:.2f}") if value is not None else "" for place, value in enumerate(values))]
            for name, values in zip(panel.rows, panel.values, strict=True)
        ],
        panel.title,
    )
    return figure(chart, numbers, f"{panel.title}: units of a week over the category's average week. Categories in the order of their strongest week.")


def _heat_row(panel: HeatMap, name: str, values: Sequence[float | None]) -> str:
    cells = "".join(_heat_cell(panel, name, place, value) for place, value in enumerate(values))
    return f'<div class="heat-row"><span class="row-label" title="{escape(name, quote=True)}">{escape(name)}</span><span class="cells">{cells}</span></div>'


def _heat_cell(panel: HeatMap, name: str, place: int, value: float | None) -> str:
    if value is None:
        return '<i class="heat none"></i>'
    return _drawn(f"heat h{heat_step(value)}", "", f"{name}, week of {panel.columns[place]}: {value:.2f}", _heat_key(panel, name, place), value, tag="i")


def _heat_key(panel: HeatMap, name: str, place: int) -> str:
    return f"heat|{name}|{panel.columns[place]}"


def heat_step(value: float) -> int:
    """Colour step of a level, 0 (a third of the average or less) to 8 (three times or more); 4 is the average.

    Examples
    --------
    >>> [heat_step(level) for level in (0.0, 0.5, 1.0, 2.0, 9.0)]
    [0, 2, 4, 6, 8]
    """
    middle = HEAT_STEPS // 2
    orders = math.log2(value) if value > 0 else -HEAT_LIMIT
    return round(middle + middle * max(-1.0, min(1.0, orders / HEAT_LIMIT)))


def _peak(values: Sequence[float | None]) -> int:
    return max(range(len(values)), key=lambda place: values[place] or 0.0)


# parts of scores


def parts_of_scores(example: Example, others: Sequence[Example]) -> str:
    """Draw one list: each item's taste, habit and season stacked from zero, negative parts to the left, the sum as a tick."""
    elsewhere = {item.item_id for other in others for item in other.items}
    low = min([0.0, *(sum(min(part, 0.0) for _, part in _parts(item)) for item in example.items)])
    high = max([0.0, *(sum(max(part, 0.0) for _, part in _parts(item)) for item in example.items)])
    left, span = low, (high - low) or 1.0
    key = f"parts|{example.list}|{example.request_date}"
    rows = "".join(f'<li class="item">{_item_name(item, _only_here(item, elsewhere, others))}{_stack(item, key, left, span)}</li>' for item in example.items)
    numbers = table(
        ["item", "score", "taste", "habit", "season"],
        [
            [
                f"{item.rank}. {escape(item.title)}",
                cell(f"{key}|{item.rank}|score", item.score, f"{item.score:.3f}"),
                *(cell(f"{key}|{item.rank}|{name}", part, signed(part)) for name, part in _parts(item)),
            ]
            for item in example.items
        ],
        f"{example.title}, {example.request_date:%-d %B %Y}",
    )
    facts = (f"{example.request_date:%-d %B %Y}", f"list {example.list}", f"user {example.user}")
    heading = f'<h3>{escape(example.title[:1].upper() + example.title[1:])}</h3><p class="meta">{"".join(f"<span>{escape(fact)}</span>" for fact in facts)}</p>'
    caption = "Parts of each score; they add up to the tick. Those left of the line count against the item."
    return figure(f'{heading}<ol class="items">{rows}</ol>', numbers, caption)


def _item_name(item: ExampleItem, chip: str) -> str:
    says_more = item.category and not item.title.casefold().startswith(item.category.casefold())
    category = f"<small>{escape(item.category)}</small>" if says_more else ""
    return f'<span class="item-name"><b>{item.rank}</b> {escape(item.title)}{category}{chip}</span>'


def _parts(item: ExampleItem) -> tuple[tuple[str, float], ...]:
    return (("taste", item.taste), ("habit", item.habit), ("season", item.season))


def _only_here(item: ExampleItem, elsewhere: set[str], others: Sequence[Example]) -> str:
    return ' <span class="chip season">only at this date</span>' if others and item.item_id not in elsewhere else ""


def _stack(item: ExampleItem, key: str, left: float, span: float) -> str:
    def at(value: float) -> float:
        return 100 * (value - left) / span

    right_end, left_end = 0.0, 0.0
    bars = []
    for name, part in _parts(item):
        start = right_end if part >= 0 else left_end + part
        right_end, left_end = (right_end + part, left_end) if part >= 0 else (right_end, left_end + part)
        style = f"left:{at(start):.3f}%;width:{100 * abs(part) / span:.3f}%"
        bars.append(_drawn(f"bar {name}", style, f"{name} {signed(part)}", f"{key}|{item.rank}|{name}", part))
    spoken = f"{item.title}: score {item.score:.2f}, " + ", ".join(f"{name} {part:+.2f}" for name, part in _parts(item))
    zero = f'<i class="zero" style="left:{at(0):.3f}%"></i>'
    tick = _drawn("sum", f"left:{at(item.score):.3f}%", f"score {item.score:.3f}", f"{key}|{item.rank}|score", item.score)
    return f'<span class="stack" role="img" aria-label="{escape(spoken, quote=True)}">{zero}{"".join(bars)}{tick}</span>'


# shares


def share_bar(parts: Sequence[tuple[str, str, int, str]], total: int) -> str:
    """Draw parts of a whole as one bar; each part is (key, name, count, role)."""
    bars = "".join(_drawn(f"share {role}", f"width:{100 * count / max(total, 1):.4f}%", f"{name}: {count:,}", key, count) for key, name, count, role in parts)
    spoken = ", ".join(f"{name} {count:,}" for _, name, count, _ in parts)
    return (
        legend([(role, f"{name} {count:,}") for _, name, count, role in parts])
        + f'<div class="shares" role="img" aria-label="{escape(spoken, quote=True)}">{bars}</div>'
    )
