"""Data without users, such as bookings: demand is forecast, registered and reported; no recommender is trained."""

import datetime as dt
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
import yaml

from tests.flows.conftest import newest_run

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


def test_run_without_users_ends_with_a_report_of_forecasts(tmp_path: Path, invoke: Callable[..., Any]):
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    first = dt.datetime(2021, 1, 4, 12, tzinfo=dt.UTC)
    rows = [
        (room, first + dt.timedelta(days=day), 1 + round(3 + 3 * math.sin(2 * math.pi * day / 364)) + place)
        for day in range(3 * 364)
        for place, room in enumerate(("suite", "twin"))
    ]
    pl.DataFrame(rows, schema=["item_id", "event_time", "quantity"], orient="row").write_csv(tmp_path / "nights.csv")
    parameters = tmp_path / "rooms.yaml"
    values = {
        "name": "rooms",
        "vertical": "travel",
        "storage_root": str(tmp_path / "stores"),
        "source": {"uri": str(tmp_path / "nights.csv"), "has_users": False, "columns": {"quantity": "quantity"}},
        "forecast": {"levels": ["item", "total"], "horizon_periods": 16, "models": ["season_trend"], "back_test_origins": 2},
    }
    parameters.write_text(yaml.safe_dump(values), encoding="utf-8")
    try:
        shown = invoke("run", str(parameters))
        assert shown.exit_code == 0, shown.output
        steps = newest_run("seasonal-training").steps
        assert steps == {step: ["Completed"] for step in ("ingest", "validate", "build_features", "forecast_demand", "register_forecasts", "report")}
        page = Path(tmp_path / "stores" / "rooms" / "report.html")
        assert f"Report: {page}" in shown.output
        text = page.read_text(encoding="utf-8")
        assert '<h2 id="decision-title">Forecasts' in text
        assert [f'data-key="mase|{level}|model"' in text for level in ("total", "item")] == [True, True]
        assert "total, the coming periods" in text
        assert "How good it is" not in text
        client = mlflow.MlflowClient()
        (version,) = client.search_model_versions("name = 'perennial-recommender-forecaster'")
        assert "report.html" in {artifact.path for artifact in client.list_artifacts(version.tags["run_id"])}
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
