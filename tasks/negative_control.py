"""Steps of the negative control: behaviour whose seasons are destroyed, and what a model trained on it still finds of a season."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from contracts.artifacts import EvaluationRef, ValidationReport
from evaluation.negative_control import rotate_histories
from tasks.evaluate import read_evaluation
from tasks.reuse import reusable, run_each_time
from tasks.store import Store, read_table, write_table, write_text

CODE = ("evaluation/negative_control.py", "evaluation/targets.py")
NEGATIVE_CONTROL_NAME = "negative_control.json"


@task(name="rotate_histories", **reusable(*CODE, minutes=60))
def without_seasons(validated: ValidationReport, store: Store, *, seed: int) -> ValidationReport:
    """The accepted events, each user's whole history moved by a random number of days."""
    folder = store.step_folder("rotate_histories", validated.accepted, str(seed), code=CODE)
    rotated = write_table(rotate_histories(read_table(validated.accepted), seed), folder / "interactions.parquet", "interactions")
    get_run_logger().info("%s events with their seasons destroyed: %s", f"{rotated.rows:,}", rotated.path)
    return validated.model_copy(update={"accepted": rotated})


@task(name="keep_negative_control", **run_each_time(minutes=10))
def keep_negative_control(evaluation: EvaluationRef, store: Store) -> str:
    """Keep the evaluation of the control with the pipeline's store, where the next report finds it. Returns its path."""
    path = write_text(Path(evaluation.path).read_text(encoding="utf-8"), Path(store.root) / NEGATIVE_CONTROL_NAME)
    lifts = read_evaluation(str(path)).season_lifts
    rows = [
        {"list": lift.list, "lead": lift.lead_days, "lift": f"{lift.relative:+.1%} [{lift.relative_low:+.1%}, {lift.relative_high:+.1%}]"} for lift in lifts
    ]
    create_table_artifact(rows, key="negative-control", description="Season lift where there are no seasons: intervals should hold zero")
    get_run_logger().info("season lift of the control: %s", path)
    return str(path)
