"""Step `register_forecasts`: the back-test of the newest cut-off as metrics, the data as inputs; the model itself is tested by the tiny run."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from mlflow import MlflowClient

from contracts.artifacts import ForecastTables, ValidationReport
from contracts.config import PipelineConfig
from tasks import register_forecasts as step
from tasks.store import write_table
from tests.tasks.made_features import bare_features


def test_back_test_of_the_newest_cutoff_and_the_data_are_logged(client: MlflowClient, registry_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    test = pl.DataFrame(
        {
            "cutoff": [date(2024, 1, 1)] * 2 + [date(2024, 2, 1)] * 3,
            "level": ["total"] * 5,
            "model": ["seasonal_naive", "mstl", "seasonal_naive", "mstl", "theta"],
            "mase": [9.0, 9.0, 1.2, 0.8, None],
            "chosen": [True, False, False, True, False],
        }
    )
    table = write_table(test, tmp_path / "back_test.parquet", "back_test")
    accepted, demand = (write_table(pl.DataFrame({"x": [name]}), tmp_path / f"{name}.parquet", name) for name in ("accepted", "demand"))
    features = bare_features(table, demand=demand, first_day="2023-01-01", end="2024-02-01")
    registered: dict[str, object] = {}

    def log_forecaster(_client: object, name: str, run_id: str, forecasts: ForecastTables, **told: object) -> str:
        registered.update(name=name, run_id=run_id, forecasts=forecasts, **told)
        return "7"

    monkeypatch.setattr(step, "log_forecaster", log_forecaster)
    monkeypatch.setattr(step, "get_run_logger", lambda: SimpleNamespace(info=lambda *_: None))
    monkeypatch.setattr(step, "flow_run", SimpleNamespace(name="forecasts-of-today", id="of-this-test"))
    config = PipelineConfig.model_validate({"name": "shop", "storage_root": registry_root, "source": {"dataset": "synthetic"}})
    validated = ValidationReport(accepted=accepted, rows_in=1, rows_accepted=1, rows_quarantined=0)
    tables = ForecastTables(forecasts=table, back_test=table, choices=table)
    assert step.register_forecasts.fn(config, validated, features, tables) == "7"
    parent = client.get_run(str(registered["run_id"]))
    (child,) = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert child.data.metrics == {"mase.total.seasonal_naive": 1.2, "mase.total.mstl": 0.8}
    assert child.data.params["horizon_periods"] == "16"
    assert {(one.dataset.name, one.dataset.digest) for one in parent.inputs.dataset_inputs} == {(one.name, one.digest) for one in (accepted, demand)}
    assert registered["tags"]["cutoff"] == "2024-02-01"
    assert parent.info.status == "FINISHED"
