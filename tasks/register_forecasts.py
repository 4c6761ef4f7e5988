"""Step `register_forecasts` of the forecast flow when it runs alone: the table and its back-test as a model in MLflow."""

from prefect import task
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from contracts import columns as c
from contracts.artifacts import FeatureTables, ForecastTables, ValidationReport
from contracts.config import PipelineConfig
from tasks.registry import ChildRun, connect, log_child, log_data_sets, log_forecaster, start_parent
from tasks.reuse import run_each_time
from tasks.store import read_table, store_of


@task(name="register_forecasts", **run_each_time(minutes=30))
def register_forecasts(config: PipelineConfig, validated: ValidationReport, features: FeatureTables, forecasts: ForecastTables) -> str:
    """Log the data, the back-test of the newest cut-off and the forecasts; the version of the registered forecaster."""
    registry = config.registry
    client = connect(registry, store_of(config).storage_root)
    run_id = start_parent(client, registry.experiment, name=flow_run.name or config.name, tags={"prefect.flow_run_id": flow_run.id or ""})
    log_data_sets(client, run_id, [validated.accepted, features.demand])
    test = read_table(forecasts.back_test).collect()
    newest = test.filter(test[c.CUTOFF] == test[c.CUTOFF].max()).drop_nulls("mase") if test.height else test
    metrics = {f"mase.{row[c.LEVEL]}.{row[c.MODEL]}": row["mase"] for row in newest.to_dicts()}
    parameters = {key: str(value) for key, value in config.forecast.model_dump().items()}
    log_child(client, run_id, ChildRun("forecast", params=parameters, metrics=metrics))
    version = log_forecaster(
        client,
        f"{registry.model_name}-forecaster",
        run_id,
        forecasts,
        description=f"Demand of {config.name} by {config.forecast.frequency}, {config.forecast.horizon_periods} periods from {features.end}: "
        f"mean and quantiles of {', '.join(config.forecast.levels)}, each with the model its back-test chose.",
        tags={"data_digest": validated.accepted.digest, "run_id": run_id, "cutoff": features.end, "prefect_flow_run_id": flow_run.id or ""},
    )
    client.set_terminated(run_id)
    get_run_logger().info("forecaster version %s", version)
    return version
