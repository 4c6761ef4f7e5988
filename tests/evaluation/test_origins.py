import datetime as dt

import pytest

from contracts.errors import NotEnoughHistoryError
from contracts.sections.evaluation import EvaluationConfig
from evaluation.origins import evaluation_origins, is_tuning_window, tuning_origins

FIRST, LAST = dt.date(2020, 1, 1), dt.date(2021, 6, 30)


def test_the_latest_origins_hold_every_lead():
    origins = evaluation_origins(FIRST, LAST, EvaluationConfig(leads_days=(0, 56), num_origins=2))
    # 28 days of window and 56 of lead end with the last day of the data
    assert origins == {dt.date(2021, 3, 11): (0, 56), dt.date(2021, 4, 8): (0, 56)}


def test_a_configured_origin_keeps_the_leads_that_fit():
    config = EvaluationConfig(origins=(dt.date(2021, 6, 3), dt.date(2021, 5, 1)), leads_days=(0, 28))
    assert evaluation_origins(FIRST, LAST, config) == {dt.date(2021, 5, 1): (0, 28), dt.date(2021, 6, 3): (0,)}


def test_too_little_data_is_said_with_what_to_do():
    with pytest.raises(NotEnoughHistoryError, match=r"run from 2021-06-01 to 2021-06-30.*Shorten evaluation.horizon_days"):
        evaluation_origins(dt.date(2021, 6, 1), LAST, EvaluationConfig())


def test_tuning_windows_end_by_tune_until_and_every_lead_has_some():
    config = EvaluationConfig(leads_days=(0, 28, 84), tune_until=dt.date(2021, 4, 1))
    origins = tuning_origins(FIRST, config)
    assert {lead for leads in origins.values() for lead in leads} == {0, 28, 84}
    assert all(is_tuning_window(origin, lead, config) for origin, leads in origins.items() for lead in leads)
    assert max(origins) == dt.date(2021, 3, 4)
    assert not is_tuning_window(dt.date(2021, 3, 5), 0, config)


def test_without_tune_until_there_is_no_tuning():
    assert tuning_origins(FIRST, EvaluationConfig()) == {}
    assert not is_tuning_window(FIRST, 0, EvaluationConfig())
