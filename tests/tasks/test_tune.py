"""The book of a search: what is kept over a stop, and which trials end early."""

import pytest

from contracts.config import PipelineConfig
from tasks.store import Store
from tasks.tune import PRUNED, TRIALS_BEFORE_PRUNING, best_first, finished_trials, next_trial, open_study, report

optuna = pytest.importorskip("optuna")

CONFIG = PipelineConfig.model_validate({"name": "shop", "source": {"dataset": "synthetic"}})
DATA = "0123456789abcdef"


def tried(study, *values: float) -> list[bool]:
    """One trial with a figure an origin, of two; whether it was over after each."""
    asked, _ = next_trial(study)
    return [report(study, asked, values[: count + 1], 2) for count in range(len(values))]


def test_search_goes_on_where_it_was(store: Store):
    for value in (0.2, 0.4):
        assert tried(open_study(CONFIG, DATA, store), value, value + 0.2) == [False, True]
    first, second = finished_trials(open_study(CONFIG, DATA, store))
    assert (first.value, first.at_origins) == (pytest.approx(0.3), pytest.approx((0.2, 0.4)))
    assert (second.number, second.value) == (1, pytest.approx(0.5))
    assert first.parameters != second.parameters


def test_trial_that_was_cut_off_is_the_next_with_the_same_parameters(store: Store):
    study = open_study(CONFIG, DATA, store)
    asked, chosen = next_trial(study)
    report(study, asked, [0.3], 2)
    again = open_study(CONFIG, DATA, store)
    assert finished_trials(again) == []
    assert next_trial(again)[1] == chosen


@pytest.mark.parametrize("changed", ["data", "configuration"])
def test_other_data_or_another_configuration_is_another_search(store: Store, changed: str):
    tried(open_study(CONFIG, DATA, store), 0.2, 0.2)
    config = CONFIG.model_copy(update={"seed": 7}) if changed == "configuration" else CONFIG
    assert finished_trials(open_study(config, DATA if changed == "configuration" else "fedcba9876543210", store)) == []
    assert len(finished_trials(open_study(CONFIG, DATA, store))) == 1


def test_trial_below_the_median_at_its_first_origin_ends_there_and_ranks_last(store: Store):
    study = open_study(CONFIG, DATA, store)
    for number in range(TRIALS_BEFORE_PRUNING):
        assert tried(study, 0.2 + number / 100, 0.1) == [False, True]
    assert tried(study, 0.19) == [True]
    assert tried(study, 0.9, 0.9) == [False, True]
    trials = best_first(finished_trials(study))
    assert trials[0].value == pytest.approx(0.9)
    assert (trials[-1].state, trials[-1].at_origins) == (PRUNED, (0.19,))
