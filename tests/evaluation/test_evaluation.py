import datetime as dt

import polars as pl
import pytest

from contracts.sections.evaluation import EvaluationConfig
from evaluation.baselines import baseline_rankings
from evaluation.bootstrap import paired_bootstrap
from evaluation.evaluation import evaluate
from evaluation.ranking_metrics import score_rankings
from evaluation.results import EvaluationResult
from evaluation.targets import targets

ORIGINS = (dt.date(2021, 3, 1), dt.date(2021, 4, 5))
TUNING = dt.date(2020, 12, 1)
CONFIG = EvaluationConfig(origins=ORIGINS, leads_days=(0, 28), num_resamples=200, tune_until=dt.date(2021, 2, 1))
NAMES = ("ease*season", "popular_all", "popular_7d", "habit_90d")


@pytest.fixture(scope="module")
def rankings(shop):
    parts = [
        baseline_rankings(shop, cutoff=cutoff, lead_days=[0, 28], horizon_days=28, lists=("again", "discover"), names=NAMES) for cutoff in (TUNING, *ORIGINS)
    ]
    table = pl.concat(parts)
    return {name: table.filter(pl.col("model_version") == name) for name in NAMES}


@pytest.fixture(scope="module")
def result(shop, rankings):
    catalogue = pl.DataFrame({"item_id": [f"i{k:02d}" for k in range(90)], "category": [f"c{k % 5} > fine" for k in range(90)]})
    return evaluate(rankings, shop, CONFIG, model="ease*season", dataset="shop", item_catalogue=catalogue, southern_regions=["AU"])


def window_scores(shop, rankings, name, origin, lead, list_name):
    wanted = targets(shop, origin, lead, 28, list_name)
    asked = pl.col("request_date") == origin + dt.timedelta(days=lead)
    return score_rankings(rankings[name].filter(asked, pl.col("cutoff") == origin, pl.col("list") == list_name), wanted)


def test_a_figure_is_the_mean_over_the_users_of_its_window(shop, rankings, result):
    scored = window_scores(shop, rankings, "habit_90d", ORIGINS[0], 28, "again")
    for metric, column in (("ndcg@10", "ndcg"), ("recall@10", "recall"), ("hit@10", "hit"), ("mrr@10", "mrr")):
        row = result.figure("habit_90d", "again", 28, metric, origin="2021-03-01")
        assert row.value == pytest.approx(scored[column].mean(), abs=1e-12)
        assert row.n == scored.height
        assert row.ci_low < row.value < row.ci_high


def test_pooled_comparison_equals_the_paired_bootstrap_over_origins_and_leads(shop, rankings, result):
    def rows(name):
        parts = [
            window_scores(shop, rankings, name, origin, lead, "discover").select("user_id", pl.lit(f"{origin} {lead}").alias("window"), value="ndcg")
            for origin in ORIGINS
            for lead in (0, 28)
        ]
        return pl.concat(parts)

    expected = paired_bootstrap(rows("ease*season"), rows("popular_all"), num_resamples=200, seed=0)
    found = result.comparison("popular_all", "discover")
    assert (found.difference, found.ci_low, found.ci_high) == pytest.approx((expected.difference, expected.ci_low, expected.ci_high), abs=1e-12)
    assert (found.relative, found.relative_low, found.num_users) == pytest.approx((expected.relative, expected.relative_low, expected.num_users))
    assert found.num_rows == sum(window_scores(shop, rankings, "popular_all", origin, lead, "discover").height for origin in ORIGINS for lead in (0, 28))


def test_tuning_windows_choose_the_baseline_and_are_not_reported(shop, rankings, result):
    assert result.origins == ORIGINS
    assert not any(row.origin == str(TUNING) for row in result.rows)
    for list_name in ("again", "discover"):
        means = {name: window_scores(shop, rankings, name, TUNING, 0, list_name)["ndcg"].mean() for name in NAMES[1:]}
        assert result.best_baseline(list_name, 0).on_tuning == max(means, key=means.get)
        reported = {name: result.figure(name, list_name, 0).value for name in NAMES[1:]}
        assert result.best_baseline(list_name, 0).with_hindsight == max(reported, key=reported.get)


def test_without_configured_origins_tuning_windows_are_still_left_out(shop, rankings):
    found = evaluate(rankings, shop, CONFIG.model_copy(update={"origins": (), "slices": False}), model="ease*season")
    assert found.origins == ORIGINS


def test_the_model_itself_is_never_the_best_baseline(result):
    assert {best.name for best in result.best_baselines} <= set(NAMES[1:])


def test_seeds_are_averaged_per_user(shop, rankings):
    config = CONFIG.model_copy(update={"slices": False})
    seeds = {"model": [rankings["ease*season"], rankings["popular_all"]], "ease*season": rankings["ease*season"], "popular_all": rankings["popular_all"]}
    found = evaluate(seeds, shop, config, model="model")
    single = [found.figure(name, "again", 0).value for name in ("ease*season", "popular_all")]
    assert found.figure("model", "again", 0).value == pytest.approx(sum(single) / 2, abs=1e-12)
    assert found.figure("model", "again", 0).n == found.figure("popular_all", "again", 0).n


def test_slices_split_the_rows_of_the_whole(result):
    whole = {list_name: result.figure("habit_90d", list_name).n for list_name in ("again", "discover")}
    for kind in ("season", "turn", "activity", "region"):
        for list_name, rows in whole.items():
            assert sum(row.num_rows for row in result.slices if (row.kind, row.list, row.model) == (kind, list_name, "habit_90d")) == rows
    seasons = {row.slice for row in result.slices if row.kind == "season"}
    assert seasons == {"spring", "autumn"}  # March to May, in both hemispheres


def test_users_without_history_are_no_part_of_the_main_figure(shop, rankings, make_events):
    cold = make_events([("new user", "i01", "2021-03-02"), ("u01", "new item", "2021-03-02")]).with_columns(region=pl.lit("GB"))
    more = pl.concat([shop, cold])
    found = evaluate(rankings, more, CONFIG, model="ease*season")
    assert found.figure("ease*season", "again", 0, origin="2021-03-01").n == window_scores(shop, rankings, "ease*season", ORIGINS[0], 0, "again").height
    cold_slices = {row.slice: row.num_users for row in found.slices if (row.kind, row.list, row.model) == ("cold", "again", "ease*season")}
    assert cold_slices == {"users without history": 1, "items without history": 1}
    window = next(row for row in found.targets if (row.origin, row.lead_days, row.list) == (ORIGINS[0], 0, "again"))
    assert (window.num_cold_users, window.num_cold_items) == (1, 1)
    assert window.share_dropped > 0


def test_shifted_rankings_give_the_season_lift(shop, rankings):
    moved = pl.concat(
        baseline_rankings(shop, cutoff=o, lead_days=[0, 28], horizon_days=28, lists=("again", "discover"), names=("ease*season",), lookup_shift_days=182)
        for o in ORIGINS
    )
    config = CONFIG.model_copy(update={"slices": False})
    found = evaluate(rankings, shop, config, model="ease*season", shifted={"ease*season": moved})
    lifts = {(lift.list, lift.lead_days): lift for lift in found.season_lifts}
    assert set(lifts) == {(list_name, lead) for list_name in ("again", "discover") for lead in (None, 0, 28)}
    assert lifts["discover", None].relative_low > 0


def test_a_result_survives_json_and_its_digest_tells_results_apart(shop, rankings, result):
    assert EvaluationResult.model_validate_json(result.model_dump_json()) == result
    again = evaluate(rankings, shop, CONFIG.model_copy(update={"slices": False}), model="ease*season", dataset="shop")
    assert again.digest == evaluate(rankings, shop, CONFIG.model_copy(update={"slices": False}), model="ease*season", dataset="shop").digest
    assert again.digest != result.digest


def test_a_missing_window_is_said_with_its_name(shop, rankings):
    gone = {**rankings, "popular_7d": rankings["popular_7d"].filter(pl.col("cutoff") != ORIGINS[1])}
    with pytest.raises(ValueError, match=r"'popular_7d' has no rankings for 4 of 8 windows, the first: cut-off 2021-04-05, lead 0 days"):
        evaluate(gone, shop, CONFIG, model="ease*season")


def test_rankings_outside_the_configuration_are_refused(shop, rankings):
    with pytest.raises(ValueError, match="none of the rankings of 'ease\\*season' is reported"):
        evaluate(rankings, shop, CONFIG.model_copy(update={"origins": (dt.date(2022, 1, 1),)}), model="ease*season")
    with pytest.raises(ValueError, match="no rankings of the model 'ours'"):
        evaluate(rankings, shop, CONFIG, model="ours")


def test_an_unknown_figure_names_the_known_ones(result):
    with pytest.raises(KeyError, match="models: ease"):
        result.figure("ours", "again")
    with pytest.raises(KeyError, match="others: habit_90d, popular_7d, popular_all"):
        result.comparison("ours", "again")
