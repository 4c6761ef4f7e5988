import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from contracts.errors import NotEnoughHistoryError
from contracts.sections.training import ComputeConfig, OptimizerConfig
from contracts.tables import FORECASTS
from lightning_modules.forecasting import Forecasting, _build, forecast, forecast_series, pinball_loss, squared_loss
from lightning_modules.forecasting_job import ForecastJob
from lightning_modules.forecasting_windows import Series, WalkSettings, WindowWalk
from lightning_modules.jobs import TrainingRequest

MONDAY = date(2020, 1, 6)
WEEKS, HORIZON, SEASON = 90, 5, 13


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("series")
    random = np.random.default_rng(0)
    wave = 1 + 0.5 * np.sin(2 * np.pi * np.arange(WEEKS) / SEASON)
    values = [(level * wave * random.normal(1, 0.05, WEEKS)).tolist() for level in (3, 40, 500, 9)]
    values[3] = values[3][60:]
    table = pl.DataFrame({"level": ["item"] * 4, "id": list("abcd"), "region": "all", "first": [0, 0, 0, 60], "values": values})
    table.write_parquet(place / "series.parquet")
    dates = [MONDAY + timedelta(weeks=week) for week in range(WEEKS + HORIZON)]
    turn = 2 * np.pi * np.arange(len(dates)) / SEASON
    pl.DataFrame({"region": "all", "date": dates, "sin": np.sin(turn), "cos": np.cos(turn)}).write_parquet(place / "periods.parquet")
    return place


def job_of(folder: Path, **changes: object) -> ForecastJob:
    given = {
        "inputs_digest": "0123456789",
        "series": str(folder / "series.parquet"),
        "periods": str(folder / "periods.parquet"),
        "known": (70, 80),
        "horizon": HORIZON,
        "seasons": (SEASON,),
        "past": 16,
        "width": 12,
        "num_members": 1,
        "first_steps": 6,
        "later_steps": 2,
        "batch_windows": 8,
        "max_epochs": 1000.0,
    }
    return ForecastJob.model_validate({**given, **changes})


def series_of(folder: Path) -> Series:
    return Series(folder / "series.parquet", folder / "periods.parquet", HORIZON)


def module_of(job: ForecastJob, series: Series) -> Forecasting:
    torch.manual_seed(0)
    return Forecasting([_build(job, series) for _ in range(job.num_members)], job).eval()


def test_pinball_loss_by_hand_and_over_known_targets_only():
    forecast_ = torch.tensor([[[1.0, 2.0], [5.0, 5.0]]])
    target = torch.tensor([[3.0, float("nan")]])
    assert pinball_loss(forecast_, target, torch.tensor([0.1, 0.5])).item() == pytest.approx((0.1 * 2 + 0.5 * 1) / 2)


def test_squared_loss_by_hand():
    assert squared_loss(torch.tensor([[[1.0], [4.0]]]), torch.tensor([[3.0, 7.0]])).item() == pytest.approx((4 + 9) / 2)


@pytest.mark.parametrize("network", ["rnn", "gru", "nhits"])
@pytest.mark.parametrize(("loss", "outputs"), [("quantile", 5), ("mse", 1)])
def test_shapes(folder, network, loss, outputs):
    job, series = job_of(folder, network=network, loss=loss), series_of(folder)
    batch = series.windows(np.array([0, 1, 3]), np.array([50, 70, 75]), past=16, seasons=(SEASON,), known_to=72)
    assert module_of(job, series).scaled(batch).shape == (3, HORIZON, outputs)
    assert torch.isnan(batch.target[1, 2:]).all()
    assert not torch.isnan(batch.target[1, :2]).any()


@pytest.mark.parametrize("network", ["gru", "nhits"])
def test_an_untrained_network_says_level_and_season_of_then(folder, network):
    series = series_of(folder)
    job = job_of(folder, network=network)
    table = forecast_series(module_of(job, series), series, job, 80).filter(pl.col("id") == "b")
    values = series.values[1]
    truth = values[80 - 13 : 80].mean() + np.mean([values[80 - 13 * n : 85 - 13 * n] - values[80 - 13 * n - 8 : 80 - 13 * n].mean() for n in (1, 2, 3)], axis=0)
    truth += values[72:80].mean() - values[67:80].mean()
    assert table["mean"].to_numpy() == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize("network", ["rnn", "gru", "nhits"])
def test_one_batch_can_be_learned_by_heart(folder, network):
    series, job = series_of(folder), job_of(folder, network=network, dropout=0.0, loss="mse", width=32)
    module = module_of(job, series).train()
    batch = series.windows(np.array([0, 1, 2, 3]), np.array([40, 50, 60, 75]), past=16, seasons=(SEASON,), known_to=WEEKS)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    first = module.loss(batch).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = module.loss(batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 20


def test_windows_read_nothing_at_or_after_their_end(folder):
    series = series_of(folder)
    rows, ends = np.array([0, 2]), np.array([70, 70])
    before = series.windows(rows, ends, past=16, seasons=(SEASON,), known_to=70)
    series.values[:, 70:] *= 9
    after = series.windows(rows, ends, past=16, seasons=(SEASON,), known_to=70)
    for name in ("past", "seasonal", "guess", "facts", "level", "spread"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert torch.isnan(before.target).all()


def test_a_forecast_scales_with_its_series(folder):
    series, job = series_of(folder), job_of(folder, network="nhits")
    module = module_of(job, series)
    plain = forecast_series(module, series, job, 80)["mean"].to_numpy()
    series.values *= 1000
    assert forecast_series(module, series, job, 80)["mean"].to_numpy() == pytest.approx(plain * 1000, rel=1e-4)


def test_processes_share_a_step_without_overlap(folder):
    series = series_of(folder)
    settings = WalkSettings((70, 80), 16, (SEASON,), 3, 2, 1000.0, 8, 0)
    alone = WindowWalk(series, settings).draw(2, 70)
    shares = [WindowWalk(series, settings, rank=rank, world_size=2).draw(2, 70) for rank in (0, 1)]
    assert torch.equal(torch.sort(torch.cat([share.level for share in shares]))[0], torch.sort(alone.level)[0])


def test_the_walk_goes_on_where_it_was(folder):
    series = series_of(folder)
    settings = WalkSettings((70, 80), 16, (SEASON,), 3, 2, 1000.0, 8, 0)
    whole = list(WindowWalk(series, settings))
    resumed = WindowWalk(series, settings)
    resumed.load_state_dict({"done": 2})
    rest = list(resumed)
    assert [batch.ends_period for batch in whole] == [False, False, True, False, True]
    assert all(torch.equal(one.past, other.past) for one, other in zip(whole[2:], rest, strict=True))


def test_few_windows_are_not_seen_too_often(folder):
    walk = WindowWalk(series_of(folder), WalkSettings((70, 80), 16, (SEASON,), 500, 500, 2.0, 8, 0))
    windows = 3 * (70 - 4) + (70 - 60 - 4)
    assert walk.first_steps == -(-2 * windows // 8)


@pytest.mark.parametrize("network", ["rnn", "nhits"])
def test_the_stage_forecasts_every_series_at_every_cutoff(folder, tmp_path, network):
    job = job_of(folder, network=network, num_members=2)
    result = forecast(job, ComputeConfig(threads=1), tmp_path)
    table = pl.read_parquet(result.output)
    assert dict(table.schema) == dict(FORECASTS.schema)
    assert table.group_by("cutoff").agg(pl.col("id").n_unique()).sort("cutoff").rows() == [(MONDAY + timedelta(weeks=w), 4) for w in (70, 80)]
    assert table.select(FORECASTS.grain).is_unique().all()
    quantiles = table.select(pl.selectors.starts_with("q")).to_numpy()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert (quantiles >= 0).all()
    again = forecast(job, ComputeConfig(threads=1), tmp_path / "again")
    assert pl.read_parquet(again.output).equals(table)


def test_a_killed_training_goes_on_and_ends_the_same(folder, tmp_path):
    job = job_of(folder, network="gru", dropout=0.2)
    whole = forecast(job, ComputeConfig(threads=1, checkpoint_every_steps=7), tmp_path / "whole")
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copy(tmp_path / "whole" / "last.ckpt", cut)
    shutil.copytree(tmp_path / "whole" / "parts", cut / "parts")
    (cut / "parts" / "80.parquet").unlink()
    resumed = forecast(job, ComputeConfig(threads=1), cut)
    assert torch.load(cut / "last.ckpt", weights_only=True)["global_step"] == 7
    assert pl.read_parquet(resumed.output).equals(pl.read_parquet(whole.output))


def test_the_past_of_a_cutoff_decides_its_forecast_alone(folder, tmp_path):
    changed = pl.read_parquet(folder / "series.parquet").with_columns(
        pl.struct("first", "values")
        .map_elements(lambda row: [v if row["first"] + n < 70 else v * 5 for n, v in enumerate(row["values"])], return_dtype=pl.List(pl.Float64))
        .alias("values")
    )
    changed.write_parquet(tmp_path / "series.parquet")
    tables = [
        pl.read_parquet(forecast(job_of(folder, network="gru", series=str(path)), ComputeConfig(threads=1), tmp_path / name).output)
        for name, path in (("one", folder / "series.parquet"), ("two", tmp_path / "series.parquet"))
    ]
    first, second = (table.filter(pl.col("cutoff") == MONDAY + timedelta(weeks=70)) for table in tables)
    assert first.equals(second)
    assert not tables[0].equals(tables[1])


def test_too_little_history_is_said(folder, tmp_path):
    with pytest.raises(NotEnoughHistoryError, match="no series has 5 periods"):
        forecast(job_of(folder, known=(3, 80)), ComputeConfig(threads=1), tmp_path)


def test_cutoffs_must_rise(folder):
    with pytest.raises(ValueError, match="known must rise"):
        job_of(folder, known=(80, 70))


def test_the_job_survives_its_json(folder):
    request = TrainingRequest(job=job_of(folder, network="gru"))
    assert TrainingRequest.model_validate_json(request.model_dump_json()).job == request.job


def test_a_planned_promotion_is_forecast_where_it_is_told(folder, tmp_path):
    random = np.random.default_rng(1)
    promoted = random.random((12, WEEKS + HORIZON)) < 0.3
    values = 100 * (1 + promoted[:, :WEEKS]) * random.normal(1, 0.02, (12, WEEKS))
    keys = {"level": "item", "id": [f"i{number:02d}" for number in range(12)], "region": "all"}
    pl.DataFrame({**keys, "first": 0, "values": values.tolist()}).write_parquet(tmp_path / "series.parquet")
    pl.DataFrame({**keys, "promoted": promoted.astype(float).tolist()}).write_parquet(tmp_path / "planned.parquet")
    known, expected = 80, 100 * (1 + promoted[:, 80 : 80 + HORIZON])
    errors = {}
    for planned in (None, str(tmp_path / "planned.parquet")):
        settings = {"known": (known,), "first_steps": 300, "seasons": (), "batch_windows": 64, "width": 32, "network": "gru", "planned": planned}
        settings["optimizer"] = OptimizerConfig(learning_rate=1e-2, weight_decay=0.0, warm_up_steps=20)
        job = job_of(folder, series=str(tmp_path / "series.parquet"), **settings)
        place = tmp_path / ("told" if planned else "not_told")
        forecast(job, ComputeConfig(accelerator="cpu", threads=1), place)
        means = pl.read_parquet(place / "forecasts.parquet").sort("id", "date")["mean"].to_numpy().reshape(12, HORIZON)
        errors[bool(planned)] = np.abs(means - expected).mean()
    assert errors[True] < 0.5 * errors[False], errors
