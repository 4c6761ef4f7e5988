from datetime import date

import polars as pl
import pytest

from forecasting.measures import coverage, judged, mase, mean_pinball, measure, pinball, rmse, smape, wape
from forecasting.panel import build_panel

ROWS = pl.DataFrame(
    {
        "units": [10.0, 0.0, 6.0, 0.0],
        "mean": [8.0, 2.0, 6.0, 0.0],
        "scale": [2.0, 2.0, 4.0, 4.0],
        "q025": [4.0, 0.0, 6.5, 0.0],
        "q100": [9.0, 0.0, 6.5, 0.0],
        "q500": [9.0, 1.0, 7.0, 0.0],
        "q900": [12.0, 3.0, 8.0, 0.0],
        "q975": [13.0, 4.0, 9.0, 0.0],
    }
)


def value(expression: pl.Expr) -> float:
    return ROWS.select(expression).item()


def test_mase_by_hand():
    assert value(mase()) == pytest.approx((2 / 2 + 2 / 2 + 0 + 0) / 4)


def test_wape_by_hand():
    assert value(wape()) == pytest.approx(4 / 16)


def test_wape_of_nothing_sold_is_null():
    assert ROWS.filter(pl.col("units") == 0).select(wape()).item() is None


def test_smape_by_hand():
    assert value(smape()) == pytest.approx((2 / 9 + 2 / 1 + 0 + 0) / 4)


def test_rmse_by_hand():
    assert value(rmse()) == pytest.approx((8 / 4) ** 0.5)


def test_pinball_by_hand():
    assert value(pinball(0.1)) == pytest.approx((0.1 * 1 + 0 + 0.9 * 0.5 + 0) / 4)
    assert value(pinball(0.9)) == pytest.approx((0.1 * 2 + 0.1 * 3 + 0.1 * 2 + 0) / 4)


def test_mean_pinball_is_the_mean_over_quantiles_and_rows_in_units_of_scale():
    by_quantile = [
        0.025 * 6 / 2 + 0.975 * 0.5 / 4,
        0.1 * 1 / 2 + 0.9 * 0.5 / 4,
        0.5 * 1 / 2 + 0.5 * 1 / 2 + 0.5 * 1 / 4,
        0.1 * 2 / 2 + 0.1 * 3 / 2 + 0.1 * 2 / 4,
        0.025 * 3 / 2 + 0.025 * 4 / 2 + 0.025 * 3 / 4,
    ]
    assert value(mean_pinball()) == pytest.approx(sum(by_quantile) / 5 / 4)


def test_coverage_counts_the_ends():
    assert value(coverage(80)) == pytest.approx(3 / 4)
    assert value(coverage(95)) == pytest.approx(3 / 4)


def weekly(name: str, values: list[float | None]) -> pl.DataFrame:
    dates = pl.date_range(date(2020, 1, 6), date(2030, 1, 1), "1w", eager=True).head(len(values))
    return pl.DataFrame({"level": "item", "id": name, "region": "all", "date": dates, "units": pl.Series(values, dtype=pl.Float64)})


def forecast_rows(name: str, cutoff: date, means: list[float]) -> pl.DataFrame:
    dates = pl.date_range(cutoff, date(2030, 1, 1), "1w", eager=True).head(len(means))
    quantiles = {column: pl.Series(means) for column in ("q025", "q100", "q500", "q900", "q975")}
    return pl.DataFrame(
        {"cutoff": [cutoff] * len(means), "level": "item", "id": name, "region": "all", "date": dates, "model": "chosen", "mean": means, **quantiles}
    )


def test_rows_are_judged_by_the_scale_of_their_own_past_and_numbered_by_step():
    panel = build_panel(weekly("a", [1, 3, 1, 3, 100, 7]), "week")
    rows = judged(forecast_rows("a", date(2020, 2, 3), [90.0, 9.0, 1.0]), panel, ())
    assert rows.select("units", "scale", "step").rows() == [(100.0, 2.0, 1), (7.0, 2.0, 2)]


def test_filled_periods_are_not_judged():
    panel = build_panel(weekly("a", [1, 3, 1, 3, None, 7]), "week")
    rows = judged(forecast_rows("a", date(2020, 2, 3), [90.0, 9.0]), panel, ())
    assert rows["step"].to_list() == [2]


def test_measures_by_step_and_by_season_by_hand():
    demand = weekly("a", [1, 3] * 6 + [2.0] * 2)  # the week of 23 March holds 3, those of 30 March and 6 April 2
    forecasts = pl.concat([forecast_rows("a", date(2020, 3, 23), [3.0, 4.0]), forecast_rows("a", date(2020, 3, 30), [2.0, 6.0])])
    rows = judged(forecasts.with_columns(q100=pl.col("mean") - 1), build_panel(demand, "week"), ())
    by_step = measure(rows, by=("step",))
    assert by_step["step"].to_list() == [1, 2]
    scale = {row["cutoff"]: row["scale"] for row in rows.iter_rows(named=True)}
    first, second = scale[date(2020, 3, 23)], scale[date(2020, 3, 30)]
    assert by_step["mase"].to_list() == pytest.approx([(0 / first + 0 / second) / 2, (2 / first + 4 / second) / 2])
    assert by_step["coverage_80"].to_list() == [1.0, 0.0]
    seasons = rows.with_columns(season=pl.when(pl.col("date") < date(2020, 4, 1)).then(pl.lit("Q1")).otherwise(pl.lit("Q2")))
    by_season = measure(seasons, by=("season",))
    assert by_season.select("season", "num_rows", "rmse").rows() == [("Q1", 3, pytest.approx((4 / 3) ** 0.5)), ("Q2", 1, 4.0)]


def test_measures_agree_with_utilsforecast():
    losses = pytest.importorskip("utilsforecast.losses")
    import numpy as np

    random = np.random.default_rng(5)
    demand = pl.concat([weekly("a", random.gamma(3, 10, 60).tolist()), weekly("b", random.gamma(2, 5, 60).tolist())])
    panel = build_panel(demand, "week", (13,))
    cutoff = date(2020, 1, 6).fromordinal(date(2020, 1, 6).toordinal() + 7 * 50)
    forecasts = pl.concat([forecast_rows(name, cutoff, random.gamma(3, 10, 10).tolist()) for name in ("a", "b")])
    forecasts = forecasts.with_columns(q100=pl.col("mean") * 0.6, q900=pl.col("mean") * 1.7)
    ours = measure(judged(forecasts, panel, (13,)), by=("id",))

    frame = forecasts.join(demand, on=["level", "id", "region", "date"]).select(unique_id="id", ds="date", y="units", model="mean", low="q100", high="q900")
    train = demand.filter(pl.col("date") < cutoff).select(unique_id="id", ds="date", y="units")
    expected = {
        "mase": losses.mase(frame, ["model"], seasonality=13, train_df=train),
        "smape": losses.smape(frame, ["model"]),
        "rmse": losses.rmse(frame, ["model"]),
        "wape": losses.nd(frame, ["model"]),
        "coverage_80": losses.coverage(frame.rename({"low": "model-lo-80", "high": "model-hi-80"}), ["model"], level=80),
    }
    for name, table in expected.items():
        theirs = table.sort("unique_id")["model"].to_numpy()
        assert ours[name].to_numpy() == pytest.approx(theirs * (2 if name == "smape" else 1)), name
    q90 = losses.quantile_loss(frame, {"high": "high"}, q=0.9).sort("unique_id")["high"].to_numpy()
    assert judged(forecasts, panel, (13,)).group_by("id", maintain_order=True).agg(pinball(0.9))["pinball_q900"].to_numpy() == pytest.approx(q90)
