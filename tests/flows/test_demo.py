"""What the demo prints of an evaluation and of a recommender."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from evaluation.results import Comparison, EvaluationResult, MetricRow
from features.vocabulary import grow_vocabulary
from flows.demo import print_evaluation, print_season_contrast
from tests.serving.test_recommender import shop_with


def figures() -> EvaluationResult:
    """Two models at two leads and over both."""
    leads = (0, 28, None)
    interval = {"ci_low": 0.41, "ci_high": 0.43}
    about = {"list": "again", "metric": "ndcg@10"}
    rows = [
        MetricRow(dataset="shop", model=model, lead_days=lead, origin="all", value=0.42, n=9, **about, **interval)
        for model in ("perennial", "ease*trend")
        for lead in leads
    ]
    gain = {
        "value": 0.42,
        "other_value": 0.21,
        "difference": 0.21,
        "relative": 1.034,
        "relative_low": 0.989,
        "relative_high": 1.082,
        "num_users": 9,
        "num_rows": 9,
    }
    compared = [Comparison(lead_days=lead, model="perennial", other="ease*trend", **about, **interval, **gain) for lead in leads]
    return EvaluationResult(
        dataset="shop",
        model="perennial",
        champion=None,
        baselines=("ease*trend",),
        horizon_days=28,
        origins=(date(2024, 6, 1),),
        rows=tuple(rows),
        comparisons=tuple(compared),
        best_baselines=(),
        digest="e1",
    )


@pytest.mark.parametrize(("width", "num_tables"), [(150, 1), (80, 2)])
def test_figures_of_a_model_stay_on_one_line_however_narrow_the_terminal(tmp_path: Path, width: int, num_tables: int) -> None:
    (tmp_path / "evaluation.json").write_text(figures().model_dump_json(), encoding="utf-8")
    console = Console(record=True, width=width)
    print_evaluation(SimpleNamespace(path=str(tmp_path / "evaluation.json")), console)
    lines = console.export_text().splitlines()
    of_baseline = [line for line in lines if "ease*trend" in line]
    assert len(of_baseline) == num_tables
    assert sum(line.count("0.4200 [0.4100, 0.4300]") for line in of_baseline) == 2
    assert sum(line.count("+103.4% [+98.9%, +108.2%]") for line in of_baseline) == 2
    assert ["lead 28 days" in line for line in lines].count(True) == 1


def test_the_contrast_of_two_dates_names_what_sold_then_a_year_ago(tmp_path: Path) -> None:
    kinds = {"plum": "2023-07-04", "wrap": "2023-12-05", "bread": "2024-03-01", "milk": "2024-06-01"}
    bought = [(f"u{number}", item, day) for item, day in kinds.items() for number in range(30)]
    vocabulary = grow_vocabulary(None, pl.LazyFrame({"item_id": list(kinds)}))
    catalogue = pl.DataFrame({"item_id": list(kinds), "title": [f"{item.title()}, 1 lb" for item in kinds]})
    shop = shop_with(
        tmp_path,
        bought=bought,
        vocabulary=vocabulary,
        catalogue=catalogue,
        season={"season_last_year_lift": (1.0, 1.0)},
        linear=np.ones((5, 2)),
    )
    console = Console(record=True, width=200)
    print_season_contrast(shop, "GB", console)
    _, july, december = console.export_text().strip().splitlines()
    assert july.strip().startswith("a week in July: Plum +")
    assert december.strip().startswith("the first week of December: Wrap +")
