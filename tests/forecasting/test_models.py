"""The candidates one by one: those of statsforecast say what it says, the own ones what can be worked out by hand; none falls over a short or odd series."""

import numpy as np
import pytest

from forecasting.models import MODELS, SHORTEST_SERIES, forecast_mean, season_trend

SEASON = 12
PAST = np.random.default_rng(0).poisson(50 * (1 + 0.4 * np.sin(2 * np.pi * np.arange(60) / SEASON)), (2, 60)).astype(float)
SPARSE = np.where(np.random.default_rng(1).random((2, 60)) < 0.3, 6.0, 0.0)


def theirs(model: object, past: np.ndarray, horizon: int) -> np.ndarray:
    return np.stack([np.maximum(model.forecast(y=row, h=horizon)["mean"], 0.0) for row in past])


@pytest.mark.parametrize("name", ["mstl", "auto_ets", "theta", "croston", "tsb"])
def test_models_of_statsforecast_say_what_it_says(name):
    from statsforecast.models import MSTL, TSB, AutoETS, CrostonSBA, Theta

    model, past = {
        "mstl": (MSTL(season_length=[SEASON], trend_forecaster=AutoETS(model="ZZN")), PAST),
        "auto_ets": (AutoETS(season_length=SEASON), PAST),
        "theta": (Theta(season_length=SEASON), PAST),
        "croston": (CrostonSBA(), SPARSE),
        "tsb": (TSB(alpha_d=0.1, alpha_p=0.1), SPARSE),
    }[name]
    assert forecast_mean(name, past, 6, (SEASON,)) == pytest.approx(theirs(model, past, 6))


def test_rare_demand_is_forecast_at_its_rate():
    every_fourth = np.where(np.arange(80) % 4 == 3, 8.0, 0.0)[None]
    assert forecast_mean("croston", every_fourth, 4, ()) == pytest.approx(np.full((1, 4), 8 / 4 * 0.95), rel=1e-3)  # SBA takes off half of its 0.1
    gone = np.concatenate([every_fourth, np.zeros((1, 60))], axis=1)
    assert forecast_mean("tsb", gone, 4, ()).max() < 0.1


def test_own_models_by_hand():
    past = np.array([[1.0, 2.0, 3.0, 4.0] * 4])
    assert forecast_mean("seasonal_naive", past, 6, (4,)).tolist() == [[1, 2, 3, 4, 1, 2]]
    assert forecast_mean("recent_mean", past, 2, (4,)).tolist() == [[2.5, 2.5]]
    assert forecast_mean("season_trend", past, 4, (4,)) == pytest.approx(past[:, :4])
    assert forecast_mean("season_trend_additive", past, 4, (4,)) == pytest.approx(past[:, :4])
    doubled = np.array([[1.0, 2.0, 3.0, 4.0] * 4 + [2.0, 4.0, 6.0, 8.0] * 2])
    assert forecast_mean("season_level", doubled, 4, (8,)) == pytest.approx(np.array([[4.0, 8.0, 12.0, 16.0]]))


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("held", [0, 1, SHORTEST_SERIES - 1, 20])
def test_a_short_series_gets_a_finite_answer_beside_a_long_one(name, held):
    past = PAST.copy()
    past[0, : 60 - held] = np.nan
    mean = forecast_mean(name, past, 30, (SEASON,))
    assert mean.shape == (2, 30)
    assert np.isfinite(mean[0]).all() == (held > 0)
    assert np.isfinite(mean[1]).all()
    assert (mean[1] >= 0).all()


def test_a_series_its_library_refuses_keeps_the_simpler_forecast(monkeypatch):
    from statsforecast.models import Theta

    honest = Theta.forecast

    def refuses_the_first(self: object, y: np.ndarray, h: int) -> object:
        if y[0] == PAST[0, 0]:
            raise ZeroDivisionError
        return honest(self, y=y, h=h)

    expected = forecast_mean("theta", PAST, 6, (SEASON,))[1]
    monkeypatch.setattr(Theta, "forecast", refuses_the_first)
    mean = forecast_mean("theta", PAST, 6, (SEASON,))
    assert mean[0] == pytest.approx(season_trend(PAST, 6, (SEASON,))[0])
    assert mean[1] == pytest.approx(expected)


def test_an_unknown_model_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="unknown model `prophet`; known: auto_ets, autoregression, croston"):
        forecast_mean("prophet", PAST, 6, ())
