"""What the demo prints of a recommender."""

from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

from features.vocabulary import grow_vocabulary
from flows.demo import print_season_contrast
from tests.serving.test_recommender import shop_with


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
