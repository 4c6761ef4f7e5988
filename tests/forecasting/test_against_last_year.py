import datetime as dt

import polars as pl
import pytest

from contracts.sections.forecast import ForecastConfig
from forecasting.against_last_year import error_against_last_year

FIRST = dt.date(2020, 1, 6)
CONFIG = ForecastConfig(horizon_periods=4, levels=("total", "category"), season_periods=(4,))
UNITS = (10.0, 20.0, 30.0, 40.0)


def week(number):
    return FIRST + dt.timedelta(days=7 * number)


def demand(weeks=20, growth=2.0):
    """A season of four weeks that grows by `growth` from one to the next: last year is always wrong by as much."""
    return pl.LazyFrame(
        [
            {"level": level, "id": name, "region": "all", "date": week(number), "units": UNITS[number % 4] + growth * (number // 4), "is_observed": True}
            for level, name in (("total", "total"), ("category", "tea"))
            for number in range(weeks)
        ]
    )


def forecasts(cutoff, errors):
    rows = [
        {"cutoff": cutoff, "level": level, "id": name, "region": "all", "date": week(number), "model": "chosen", "mean": UNITS[number % 4] + 8.0 + error}
        for (level, name), error in errors.items()
        for number in range(16, 20)
    ]
    return pl.DataFrame(rows)


def test_errors_are_scaled_and_last_year_stands_beside_them():
    found = error_against_last_year(forecasts(week(16), {("total", "total"): 1.0, ("category", "tea"): 0.5}), demand(), cutoffs=[week(16)], config=CONFIG)
    assert found is not None
    # last year misses by the growth of one season, which is the scale too: 1; the forecasts miss by 1 and by a half of two units
    assert found.by_level == {"category": (pytest.approx(0.25), pytest.approx(1.0)), "total": (pytest.approx(0.5), pytest.approx(1.0))}
    assert (found.chosen, found.last_year) == (pytest.approx(0.375), pytest.approx(1.0))


def test_only_the_cutoffs_asked_for_are_judged_and_only_periods_that_came():
    errors = {("total", "total"): 1.0, ("category", "tea"): 1.0}
    both = pl.concat([forecasts(week(16), errors), forecasts(week(16), dict.fromkeys(errors, 99.0)).with_columns(cutoff=pl.lit(week(12)))])
    found = error_against_last_year(both, demand(weeks=18), cutoffs=[week(16)], config=CONFIG)
    assert found is not None
    assert found.chosen == pytest.approx(0.5)


@pytest.mark.parametrize("weeks", [16, 20])
def test_nothing_is_said_where_nothing_has_come(weeks):
    cutoffs = [week(16)] if weeks == 16 else []
    assert error_against_last_year(forecasts(week(16), {("total", "total"): 1.0}), demand(weeks=weeks), cutoffs=cutoffs, config=CONFIG) is None
