"""Step `forecast_demand` around the training of its networks: kept for the next try, and forgotten when asked."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from contracts.errors import DataContractError
from contracts.sections.forecast import ForecastConfig
from contracts.sections.training import ComputeConfig
from contracts.sections.validation import ValidationConfig
from contracts.tables import FORECASTS
from tasks import forecast_demand as step
from tasks.store import Store, write_table
from tests.tasks.made_features import bare_features


def test_fresh_run_trains_networks_again_from_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = write_table(pl.DataFrame({"x": [1]}), tmp_path / "t.parquet", "demand")
    features = bare_features(table, demand=table, first_day="2024-01-01", end="2024-03-01")
    found: list[list[str]] = []

    def trained(_features: object, _config: object, _compute: object, folder: Path, *_: object) -> None:
        found.append(sorted(path.name for path in folder.iterdir()))
        (folder / "nhits").mkdir(exist_ok=True)

    nothing = SimpleNamespace(forecasts=pl.DataFrame({"x": [1]}), back_test=pl.DataFrame({"cutoff": [1], "mase": [1.0]}), choices=pl.DataFrame({"x": [1]}))
    replaced: dict[str, Any] = {
        "_network_forecasts": trained,
        "forecast": lambda *_, **__: nothing,
        "validate_table": lambda *_, **__: None,
        "create_table_artifact": lambda *_, **__: None,
        "get_run_logger": lambda: SimpleNamespace(info=lambda *_: None),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(step, name, value)

    def run() -> None:
        step.forecast_demand.fn(features, ForecastConfig(), store, compute=ComputeConfig(), validation=ValidationConfig(), seed=0)

    run()
    run()
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
        run()
    assert [names[:1] for names in found] == [[], ["back_test.parquet"], []]
    assert "nhits" in found[1]


def test_forecasts_that_break_their_contract_stop_the_step(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The suite of the forecasts is asked: here a 10 % quantile lies above the 90 % one."""
    table = write_table(pl.DataFrame({"x": [1]}), tmp_path / "t.parquet", "demand")
    features = bare_features(table, demand=table, first_day="2024-01-01", end="2024-03-01")
    row = {"cutoff": date(2024, 3, 1), "level": "total", "id": "total", "region": "all", "date": date(2024, 3, 4), "model": "chosen", "mean": 5.0}
    crossed = pl.DataFrame([{**row, "q025": 1.0, "q100": 9.0, "q500": 5.0, "q900": 8.0, "q975": 9.5}]).select(FORECASTS.schema.keys())
    made = SimpleNamespace(forecasts=crossed, back_test=pl.DataFrame({"cutoff": [1], "mase": [1.0]}), choices=pl.DataFrame({"x": [1]}))
    monkeypatch.setattr(step, "forecast", lambda *_, **__: made)
    monkeypatch.setattr(step, "get_run_logger", lambda: SimpleNamespace(info=lambda *_: None))
    with pytest.raises(DataContractError, match="forecasts"):
        step.forecast_demand.fn(features, ForecastConfig(), store, compute=ComputeConfig(), validation=ValidationConfig(), seed=0)
