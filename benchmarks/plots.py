"""Drawings of docs/benchmarks.md, made from the same rows as its tables; `benchmarks.document` writes them to docs/images/benchmarks/.

One drawing per results file that has one in `DRAWINGS`. A file says from which rows it was drawn, so that a stale one is found.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.recommender import GOALS, OURS
from evaluation.report_figures import GRID, INK, MODEL, OTHER, RIVAL, SOFT

METRIC, GAIN = "ndcg@10", "gain of ndcg@10"
MICROSECONDS = "CPU microseconds per training target"

Rows = Sequence[Mapping[str, Any]]


def drawn(name: str, rows: Rows) -> str | None:
    """SVG of the results file `name`; None where it has no drawing. The same rows give the same text."""
    if name not in DRAWINGS:
        return None
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9, "text.color": INK, "axes.labelcolor": SOFT}):
        figure = DRAWINGS[name](rows)
        return _svg(figure, digest(rows))


def digest(rows: Rows) -> str:
    """What a drawing carries to say from which rows it was made."""
    return "rows " + hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()[:16]


def gains_by_lead(rows: Rows) -> Figure:
    """Per data set and list: gain over the best of all others at each lead, beside the goal.

    Seeds averaged per user where they are; else their mean with the widest interval.
    """
    every = [row for row in rows if row["metric"] == GAIN and row["model"] == OURS and row["lead_days"] is not None]
    is_averaged = {row["dataset"] for row in every if "seeds" in row}
    gains = [row for row in every if ("seeds" in row) == (row["dataset"] in is_averaged)]
    panels = list(dict.fromkeys((row["dataset"], row["list"]) for row in gains))
    figure, all_axes = _panels(len(panels), width=3.0, height=3.1)
    for axes, (dataset, list_name) in zip(all_axes, panels, strict=True):
        here = [row for row in gains if (row["dataset"], row["list"]) == (dataset, list_name)]
        leads = sorted({row["lead_days"] for row in here})
        for place, lead in enumerate(leads):
            best = best_other([row for row in here if row["lead_days"] == lead])
            middle = 100 * sum(row["relative"] for row in best) / len(best)
            low, high = 100 * min(row["relative_low"] for row in best), 100 * max(row["relative_high"] for row in best)
            axes.errorbar(place, middle, [[middle - low], [high - middle]], color=MODEL, marker="o", markersize=5, capsize=3, linewidth=1.6)
            goal = GOALS.get((dataset, list_name, lead))
            if goal is not None:
                axes.plot([place - 0.32, place + 0.32], [100 * goal] * 2, color=RIVAL, linewidth=2, label=None if place else "goal")
        axes.axhline(0, color=SOFT, linewidth=0.8)
        axes.set_xticks(range(len(leads)), [str(lead) for lead in leads])
        axes.set_xlim(-0.6, len(leads) - 0.4)
        axes.set_xlabel("lead, days")
        axes.set_title(f"{dataset.replace('_', ' ')}\n{list_name}", loc="left", fontsize=9, color=INK)
    all_axes[0].set_ylabel("gain of NDCG@10 over the best other, %")
    all_axes[-1].legend(frameon=False)
    return figure


def best_other(gains: Rows) -> list[Mapping[str, Any]]:
    """Of the gains at one lead those over the best other model, one per seed: the model over which the mean gain is smallest."""
    others: dict[str, list[Mapping[str, Any]]] = {}
    for row in gains:
        others.setdefault(row["other"], []).append(row)
    return min(others.values(), key=lambda found: sum(row["relative"] for row in found) / len(found))


def gains_of_cells(rows: Rows) -> Figure:
    """What is lost with each cell of the ablation, at the first lead: bars to the left of what the whole recommender has."""
    found = [row for row in rows if row["metric"] == GAIN and row["lead_days"] is not None]
    lead = min(row["lead_days"] for row in found)
    lists = list(dict.fromkeys(row["list"] for row in found))
    figure, all_axes = _panels(len(lists), width=4.8, height=5.6)
    names = list(dict.fromkeys(row["other"] for row in found))
    for axes, list_name in zip(all_axes, lists, strict=True):
        here = {row["other"]: row for row in found if (row["list"], row["lead_days"]) == (list_name, lead)}
        for place, name in enumerate(names):
            if name not in here:
                continue
            low, middle, high = (100 * (1 / (1 + here[name][part]) - 1) for part in ("relative_high", "relative", "relative_low"))
            axes.barh(place, middle, color=MODEL, alpha=0.75)
            axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        axes.set_yticks(range(len(names)), names if axes is all_axes[0] else [""] * len(names))
        axes.invert_yaxis()
        axes.set_xlabel("NDCG@10 against the whole recommender, %")
        axes.set_title(f"{list_name}, lead {lead}", loc="left", fontsize=9, color=INK)
    return figure


def curve_of_labels(rows: Rows) -> Figure:
    """NDCG@10 by share of the labelled targets and by what taste has learned without a label, at the first lead."""
    found = [row for row in rows if row["metric"] == METRIC and row["lead_days"] is not None]
    lead = min(row["lead_days"] for row in found)
    lists = list(dict.fromkeys(row["list"] for row in found))
    figure, all_axes = _panels(len(lists), width=4.2, height=3.2)
    for axes, list_name in zip(all_axes, lists, strict=True):
        for arm, colour in zip(dict.fromkeys(row["model"] for row in found), (OTHER, RIVAL, SOFT, MODEL), strict=False):
            here = sorted(
                (row for row in found if (row["model"], row["list"], row["lead_days"]) == (arm, list_name, lead)), key=lambda row: float(row["label_share"])
            )
            shares = [100 * row["label_share"] for row in here]
            axes.plot(shares, [row["value"] for row in here], color=colour, marker="o", markersize=4, label=arm.removeprefix(f"{OURS}:"))
            axes.fill_between(shares, [row["ci_low"] for row in here], [row["ci_high"] for row in here], color=colour, alpha=0.2, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks([1, 10, 100], ["1", "10", "100"])
        axes.minorticks_off()
        axes.set_xlabel("labelled targets, %")
        axes.set_title(f"{list_name}, lead {lead}", loc="left", fontsize=9, color=INK)
    all_axes[0].set_ylabel("NDCG@10")
    all_axes[0].legend(frameon=False)
    return figure


def costs(rows: Rows) -> Figure:
    """CPU microseconds of a training target by encoder and library, per data set and loss."""
    found = [row for row in rows if row["metric"] == MICROSECONDS]
    panels = list(dict.fromkeys((row["dataset"], row["model"].rsplit(", ", 1)[-1]) for row in found if row["model"].endswith("softmax")))
    figure, all_axes = _panels(len(panels), width=3.4, height=3.6)
    for axes, (dataset, loss) in zip(all_axes, panels, strict=True):
        here = sorted((row for row in found if row["dataset"] == dataset and row["model"].endswith(loss)), key=lambda row: float(row["value"]))
        for place, row in enumerate(here):
            is_ours = row["model"].startswith(OURS)
            axes.barh(place, row["value"], color=MODEL if is_ours else RIVAL, alpha=0.8)
            axes.text(row["value"], place, f" {row['value']:.0f}", va="center", fontsize=8)
        axes.set_yticks(range(len(here)), [row["model"].split(", ")[0].removeprefix(f"{OURS}:") for row in here])
        axes.invert_yaxis()
        axes.set_title(f"{dataset.replace('_', ' ')}\n{loss.replace('_', ' ')}", loc="left", fontsize=9, color=INK)
        axes.set_xlabel("CPU µs a target")
        axes.margins(x=0.15)
    return figure


DRAWINGS: Mapping[str, Callable[[Rows], Figure]] = {
    "recommender": gains_by_lead,
    "ablation": gains_of_cells,
    "ablation_quick": gains_of_cells,
    "ablation_online_retail_ii": gains_of_cells,
    "ablation_online_retail_ii_quick": gains_of_cells,
    "few_labels": curve_of_labels,
    "training": costs,
    "training_online_retail_ii": costs,
}


def _panels(number: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * number, height), layout="constrained", facecolor="white")
    panels = list(figure.subplots(1, number, squeeze=False)[0])
    for axes in panels:
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=SOFT, labelsize=8, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure, panels


def _svg(figure: Figure, made_from: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Description": made_from})
    return text.getvalue()


def is_fresh(path: Path, rows: Rows) -> bool:
    """Whether a drawing was made from these rows."""
    return path.exists() and digest(rows) in path.read_text(encoding="utf-8")
