import numpy as np
import polars as pl
import pytest

from evaluation import bootstrap
from evaluation.bootstrap import average_seeds, mean_interval, paired_bootstrap, resampled_sums


def scores(values, origin="o1"):
    return pl.DataFrame({"user_id": [f"u{k:03d}" for k in range(len(values))], "origin": [origin] * len(values), "value": values})


@pytest.fixture
def pair():
    generator = np.random.default_rng(3)
    other = generator.random(200)
    return scores(other + 0.05 + 0.02 * generator.standard_normal(200)), scores(other)


def test_a_clear_gain_lies_above_zero_although_the_means_overlap(pair):
    ours, other = pair
    gain = paired_bootstrap(ours, other)
    assert gain.is_gain
    assert 0.045 < gain.ci_low < gain.difference < gain.ci_high < 0.055
    assert mean_interval(ours).ci_low < mean_interval(other).ci_high  # unpaired, one could not tell


def test_the_two_sides_mirror_each_other(pair):
    ours, other = pair
    gain, loss = paired_bootstrap(ours, other), paired_bootstrap(other, ours)
    assert (gain.difference, gain.ci_low, gain.ci_high) == pytest.approx((-loss.difference, -loss.ci_high, -loss.ci_low))


def test_relative_gain_is_the_difference_over_the_other(pair):
    ours, other = pair
    gain = paired_bootstrap(ours, other)
    assert gain.relative == pytest.approx(ours["value"].mean() / other["value"].mean() - 1)
    assert gain.relative_low < gain.relative < gain.relative_high


def test_an_opponent_without_any_score_is_beaten_without_bound():
    assert paired_bootstrap(scores([0.5, 0.2]), scores([0.0, 0.0])).relative > 1e9
    assert paired_bootstrap(scores([0.0, 0.0]), scores([0.0, 0.0])).relative == 0.0


def test_users_are_drawn_with_all_their_rows():
    generator = np.random.default_rng(0)
    once = scores(generator.standard_normal(100))
    copied = pl.concat([once, *(once.with_columns(origin=pl.lit(f"o{k}")) for k in range(2, 10))])
    alone, repeated = mean_interval(once), mean_interval(copied)
    # nine copies of the same users tell no more than one
    assert (repeated.ci_low, repeated.ci_high) == pytest.approx((alone.ci_low, alone.ci_high))


def test_interval_holds_the_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(7)
    inside = 0
    for seed in range(120):
        found = mean_interval(scores(generator.exponential(size=80)), num_resamples=300, seed=seed)
        inside += found.ci_low <= 1.0 <= found.ci_high
    assert 0.87 <= inside / 120 <= 0.99


def test_chunks_do_not_change_the_draws(monkeypatch, pair):
    values = np.random.default_rng(1).random((200, 2))
    whole = resampled_sums(values, 50, seed=4)
    monkeypatch.setattr(bootstrap, "CHUNK_VALUES", 1_400)
    np.testing.assert_allclose(resampled_sums(values, 50, seed=4), whole, rtol=1e-12)


def test_row_order_does_not_matter(pair):
    ours, other = pair
    assert paired_bootstrap(ours.reverse(), other) == paired_bootstrap(ours, other)


def test_different_users_are_no_pair(pair):
    ours, other = pair
    with pytest.raises(ValueError, match="199 rows of ours and 200 of the other share 199 keys"):
        paired_bootstrap(ours.head(199), other)


def test_seeds_are_averaged_per_user():
    averaged = average_seeds([scores([0.0, 1.0]), scores([1.0, 1.0])])
    assert averaged["value"].to_list() == [0.5, 1.0]


@pytest.mark.shared_data
def test_difference_equals_the_reference(protocol, pair):
    ours, other = pair
    value, low, high = protocol.paired_bootstrap(ours, other)
    gain = paired_bootstrap(ours, other)
    assert gain.difference == pytest.approx(value, abs=1e-9)
    # the reference draws users in the order of a hash table, so its ends move by Monte-Carlo noise
    assert (gain.ci_low, gain.ci_high) == pytest.approx((low, high), abs=3e-4)


def test_a_gain_that_may_be_none_is_no_gain():
    generator = np.random.default_rng(2)
    other = generator.random(50)
    found = paired_bootstrap(scores(other + 0.3 * generator.standard_normal(50) + 0.02), scores(other))
    assert found.ci_low < 0 < found.difference < found.ci_high
    assert not found.is_gain


def test_a_mean_is_over_rows_however_many_a_user_has():
    constant = pl.concat([scores([1.0] * 30), *(scores([1.0] * 5, origin=f"o{k}") for k in range(2, 9))])
    found = mean_interval(constant)
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((1.0, 1.0, 1.0), abs=1e-12)
