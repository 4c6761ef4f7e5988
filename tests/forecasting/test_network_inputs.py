"""What a network is told of each series beforehand."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from contracts.errors import DataContractError
from forecasting.network_inputs import planned_table
from forecasting.panel import Panel, build_panel

MONDAY = date(2024, 1, 1)


@pytest.fixture
def panel() -> Panel:
    weeks = [MONDAY + timedelta(weeks=number) for number in range(4)]
    rows = [{"level": "item", "id": item, "region": "all", "date": week, "units": 1.0, "is_observed": True} for item in "ab" for week in weeks]
    return build_panel(pl.DataFrame(rows), "week")


def planned(*rows: tuple[str, date, float, bool]) -> pl.DataFrame:
    return pl.DataFrame([{"level": "item", "id": item, "date": day, "price": price, "promoted": promoted} for item, day, price, promoted in rows])


def test_planned_inputs_lie_on_the_periods_of_history_and_horizon(panel: Panel):
    found = planned_table(panel, 2, planned(("a", MONDAY + timedelta(days=9), 2.0, False), ("a", MONDAY + timedelta(weeks=4), 4.0, True)))
    assert found["id"].to_list() == ["a", "b"]
    price, promoted = (np.array(found[name].to_list()) for name in ("price", "promoted"))
    assert price.shape == (2, 6)
    # a: nothing, then 2 from the second week, 4 from the fifth; about the mean of the known (14 / 5)
    expected = np.array([0, -0.8, -0.8, -0.8, 1.2, 1.2])
    spread = np.concatenate([expected, np.zeros(6)]).std()
    np.testing.assert_allclose(price[0], expected / spread)
    assert promoted[0, 3] < 0 < promoted[0, 4]
    np.testing.assert_array_equal(price[1], 0, "a series without a plan is as usual")


def test_rows_outside_the_periods_are_not_read(panel: Panel):
    inside = planned(("a", MONDAY, 2.0, False), ("a", MONDAY + timedelta(weeks=5, days=6), 4.0, True))
    outside = planned(("a", MONDAY - timedelta(days=1), 99.0, True), ("a", MONDAY + timedelta(weeks=6), 99.0, True))
    assert planned_table(panel, 2, pl.concat([inside, outside])).equals(planned_table(panel, 2, inside))


def test_a_table_without_a_key_or_a_number_is_refused(panel: Panel):
    with pytest.raises(DataContractError, match=r"expected level, id, date and at least one numeric column, found level, id, price"):
        planned_table(panel, 2, pl.DataFrame({"level": ["item"], "id": ["a"], "price": [1.0]}))
    with pytest.raises(DataContractError, match="planned_uri"):
        planned_table(panel, 2, pl.DataFrame({"level": ["item"], "id": ["a"], "date": [MONDAY], "note": ["sale"]}))
