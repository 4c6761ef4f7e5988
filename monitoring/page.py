"""The page of the monitoring: one HTML file without foreign parts; every curve over the weeks with its seasons shaded, alarms marked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from pathlib import Path
from typing import Final

WIDTH: Final = 1000
HEIGHT: Final = 220
LEFT: Final = 56
BOTTOM: Final = 28
SHADES: Final = ("#0a5c9e", "#0a7b5f", "#e3a008", "#b4540a", "#7a4fa3", "#566073")
STYLE: Final = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Curve:
    """Values over dates; None leaves a gap. `expected` is drawn dashed."""

    name: str
    points: Sequence[tuple[date, float | None]]
    is_expected: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves on one pair of axes, with a limit and the dates of alarms."""

    title: str
    caption: str
    curves: Sequence[Curve]
    alarms: Sequence[date] = ()
    limit: float | None = None
    as_percent: bool = False


def render_page(
    *, name: str, day: date, alarms: Sequence[str], freshness: Sequence[tuple[str, str]], charts: Sequence[Chart], seasons: Mapping[date, str]
) -> str:
    """The whole page. `seasons` names the season of each day the charts may show."""
    names = list(dict.fromkeys(seasons.values()))
    colours = {season: SHADES[place % len(SHADES)] for place, season in enumerate(names)}
    found = "".join(f"<li>{escape(alarm)}</li>" for alarm in alarms)
    state = (
        f'<div class="state alarm"><strong>{len(alarms)} alarms</strong><ul>{found}</ul></div>'
        if alarms
        else '<div class="state"><strong>No alarm</strong></div>'
    )
    legend = "".join(f'<span><span class="swatch" style="background:{colours[season]}"></span>{escape(season.replace("_", " "))}</span>' for season in names)
    ages = "".join(f"<li>{escape(what)}: {escape(value)}</li>" for what, value in freshness)
    body = "".join(_figure(chart, seasons, colours) for chart in charts if any(value is not None for curve in chart.curves for _, value in curve.points))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>Monitoring of {escape(name)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>'
        f"<h1>Monitoring of {escape(name)}</h1><p>{day:%-d %B %Y}</p>{state}<h2>Freshness</h2><ul>{ages}</ul>"
        f'<div class="legend" aria-label="seasons">{legend}</div>{body}</body></html>\n'
    )


def _figure(chart: Chart, seasons: Mapping[date, str], colours: Mapping[str, str]) -> str:
    days = sorted({day for curve in chart.curves for day, _ in curve.points})
    values = [value for curve in chart.curves for _, value in curve.points if value is not None]
    high = max([*values, chart.limit or 0.0]) * 1.08 or 1.0
    first, span = days[0], max((days[-1] - days[0]).days, 1)

    def x(day: date) -> float:
        return LEFT + (day - first).days / span * (WIDTH - LEFT - 8)

    def y(value: float) -> float:
        return 8 + (1 - value / high) * (HEIGHT - BOTTOM - 8)

    def shown(value: float) -> str:
        return (
            f"{value:.0%}" if chart.as_percent and high > 0.05 else (f"{value:.1%}" if chart.as_percent else (f"{value:,.0f}" if high > 20 else f"{value:.2f}"))
        )

    parts = [_shade(first, days[-1], x, seasons, colours)]
    for share in (0.0, 0.5, 1.0):
        level = high * share / 1.08
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(level) + 4:.1f}" text-anchor="end">{shown(level)}</text>')
    parts += [f'<text x="{x(month):.1f}" y="{HEIGHT - 8}">{month:%b %Y}</text>' for month in _quarters(first, days[-1])]
    if chart.limit is not None:
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(chart.limit):.1f}" y2="{y(chart.limit):.1f}"/>')
    for curve in chart.curves:
        css = "line expected" if curve.is_expected else "line"
        for run in _runs(curve.points):
            path = " ".join(f"{x(day):.1f},{y(value):.1f}" for day, value in run)
            parts.append(f'<polyline class="{css}" data-curve="{escape(curve.name, quote=True)}" points="{path}"/>')
            if len(run) == 1:
                parts.append(f'<circle class="point" cx="{x(run[0][0]):.1f}" cy="{y(run[0][1]):.1f}" r="3"/>')
    parts += [f'<circle class="alarm-mark" data-alarm="{day}" cx="{x(day):.1f}" cy="14" r="5"><title>alarm, {day}</title></circle>' for day in chart.alarms]
    label = escape(f"{chart.title}; alarms: {', '.join(map(str, chart.alarms)) or 'none'}", quote=True)
    return (
        f'<h2>{escape(chart.title)}</h2><figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        f"<figcaption>{escape(chart.caption)}</figcaption></figure>"
    )


def _shade(first: date, last: date, x: Callable[[date], float], seasons: Mapping[date, str], colours: Mapping[str, str]) -> str:
    parts, start = [], first
    day = first
    while day <= last:
        following = day + timedelta(days=1)
        if following > last or seasons.get(following) != seasons.get(start):
            season = seasons.get(start)
            if season is not None:
                width = max(x(min(following, last)) - x(start), 0.5)
                parts.append(
                    f'<rect class="season" data-season="{escape(season, quote=True)}" x="{x(start):.1f}" y="8" width="{width:.1f}" '
                    f'height="{HEIGHT - BOTTOM - 8}" fill="{colours[season]}" opacity="0.12"><title>{escape(season)}</title></rect>'
                )
            start = following
        day = following
    return "".join(parts)


def _runs(points: Sequence[tuple[date, float | None]]) -> list[list[tuple[date, float]]]:
    runs: list[list[tuple[date, float]]] = [[]]
    for day, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((day, value))
    return [run for run in runs if run]


def _quarters(first: date, last: date) -> list[date]:
    step = 3 if (last - first).days < 1_200 else 6
    months = [date(year, month, 1) for year in range(first.year, last.year + 1) for month in range(1, 13, step)]
    return [month for month in months if first <= month <= last - timedelta(days=40)]
