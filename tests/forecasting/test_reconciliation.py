from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from contracts.sections.forecast import ForecastConfig
from forecasting.forecast import forecast_demand
from forecasting.reconciliation import add_up, children_of

KEYS = pl.DataFrame(
    [
        ("total", "total", "all"),
        ("category", "home", "all"),
        ("category", "home > light", "all"),
        ("category", "garden", "all"),
        ("item", "lamp", "all"),
        ("item", "candle", "all"),
        ("item", "rake", "all"),
    ],
    schema=["level", "id", "region"],
    orient="row",
)
CATEGORIES = {"lamp": "home > light", "candle": "home > light", "rake": "garden"}


def test_the_tree_follows_category_paths():
    groups = children_of(KEYS, CATEGORIES)
    assert groups == {(0, "tree"): [1, 3], (1, "tree"): [2], (2, "tree"): [4, 5], (3, "tree"): [6]}


def test_items_without_a_known_category_stand_below_the_total():
    assert children_of(KEYS, {})[0, "tree"] == [1, 3, 4, 5, 6]


def test_equal_trust_shares_the_gap_by_hand():
    groups = {(0, "tree"): [1, 2]}
    history = np.array([[5.0], [2.0], [3.0]])
    result = add_up(np.array([[12.0], [4.0], [5.0]]), np.ones(3), groups, history)
    assert result[:, 0] == pytest.approx([11.0, 5.0, 6.0])


def test_a_sure_forecast_moves_less():
    groups = {(0, "tree"): [1, 2]}
    result = add_up(np.array([[12.0], [4.0], [5.0]]), np.array([1.0, 1.0, 4.0]), groups, np.array([[5.0], [2.0], [3.0]]))
    assert result[:, 0] == pytest.approx([11.5, 4.5, 7.0])


def test_what_the_children_never_held_is_kept_as_a_rest():
    history = np.array([[10.0] * 8, [2.0] * 8, [3.0] * 8])
    result = add_up(np.array([[10.0], [2.0], [3.0]]), np.ones(3), {(0, "tree"): [1, 2]}, history)
    assert result[:, 0] == pytest.approx([10.0, 2.0, 3.0], abs=1e-4)


def test_nothing_falls_below_zero_and_sums_still_hold():
    groups = {(0, "tree"): [1, 2]}
    result = add_up(np.array([[1.0], [0.5], [9.0]]), np.array([1e-3, 9.0, 1.0]), groups, np.array([[5.0], [2.0], [3.0]]))
    assert (result >= 0).all()
    assert result[0, 0] == pytest.approx(result[1:, 0].sum(), abs=1e-5)


def test_agrees_with_hierarchicalforecast():
    methods = pytest.importorskip("hierarchicalforecast.methods")
    random = np.random.default_rng(3)
    summing = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
    base = summing @ random.gamma(9, 4, (3, 4)) + random.normal(0, 2, (6, 4))
    misses = random.normal(0, [[3], [2], [1], [1], [2], [1]], (6, 40))
    insample = summing @ random.gamma(5, 4, (3, 40))
    theirs = methods.MinTrace(method="wls_var").fit_predict(S=summing, y_hat=base, y_insample=insample, y_hat_insample=insample + misses)["mean"]
    variance = np.mean(misses**2, axis=1)
    groups = {(0, "tree"): [1, 2], (1, "tree"): [3, 4], (2, "tree"): [5]}
    ours = add_up(base, variance, groups, summing @ random.gamma(5, 4, (3, 30)))
    assert ours == pytest.approx(theirs, rel=1e-3)


def weekly(level: str, name: str, region: str, values: np.ndarray) -> pl.DataFrame:
    first = date(2022, 1, 3)
    days = [first + timedelta(weeks=week) for week in range(len(values))]
    return pl.DataFrame({"level": level, "id": name, "region": region, "date": days, "units": values})


def test_forecasts_of_levels_and_regions_add_up():
    random = np.random.default_rng(8)
    items = {(name, region): random.poisson(20, 40).astype(float) for name in ("lamp", "candle", "rake") for region in ("north", "south")}
    sums = {name: items[name, "north"] + items[name, "south"] for name in ("lamp", "candle", "rake")}
    rows = [weekly("item", name, region, values) for (name, region), values in items.items()]
    rows += [weekly("item", name, "all", values) for name, values in sums.items()]
    for region, of in (("all", sums), *((r, {n: items[n, r] for n in sums}) for r in ("north", "south"))):
        rows += [weekly("category", "home", region, of["lamp"] + of["candle"]), weekly("category", "garden", region, of["rake"])]
        rows += [weekly("total", "total", region, of["lamp"] + of["candle"] + of["rake"])]
    config = ForecastConfig(
        horizon_periods=4, levels=("item", "category", "total"), season_periods=(13,), models=("seasonal_naive", "recent_mean", "season_trend")
    )
    result = forecast_demand(
        pl.concat(rows), cutoffs=[date(2022, 1, 3) + timedelta(weeks=40)], config=config, item_categories={"lamp": "home", "candle": "home", "rake": "garden"}
    ).forecasts
    by_level = result.group_by("level", "region", "date").agg(pl.col("mean").sum()).pivot("level", index=["region", "date"], values="mean")
    assert by_level["item"].to_numpy() == pytest.approx(by_level["total"].to_numpy(), rel=1e-6)
    assert by_level["category"].to_numpy() == pytest.approx(by_level["total"].to_numpy(), rel=1e-6)
    by_region = result.filter(pl.col("level") == "total").pivot("region", index="date", values="mean")
    assert (by_region["north"] + by_region["south"]).to_numpy() == pytest.approx(by_region["all"].to_numpy(), rel=1e-6)
    ordered = result.select(pl.selectors.starts_with("q")).to_numpy()
    assert (np.diff(ordered, axis=1) >= -1e-9).all()
