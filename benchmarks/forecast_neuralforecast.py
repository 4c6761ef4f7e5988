"""N-HiTS of neuralforecast for the benchmark, in an environment of its own: it brings ray and much else that the project does not need.

    python -m venv ~/.cache/perennial/neuralforecast
    ~/.cache/perennial/neuralforecast/bin/pip install neuralforecast polars pyarrow

`benchmarks.forecast` finds it there, or where NEURALFORECAST_PYTHON names an interpreter, and calls this file with a folder. There lie `history.parquet`
(cutoff, unique_id, ds, y: for each cut-off what was known then) and `ask.json`; it leaves `forecasts.parquet` (cutoff, unique_id, ds, mean).
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl

HOME = Path.home() / ".cache" / "perennial" / "neuralforecast" / "bin" / "python"
STEPS, WINDOWS = 1_000, 256  # steps as by default; the default of 1,024 windows a step would take hours for all sets

FREQUENCIES = {"day": "1d", "week": "1w", "month": "1mo"}


def interpreter() -> Path | None:
    """Python of the environment that holds neuralforecast, None where there is none."""
    path = Path(os.environ.get("NEURALFORECAST_PYTHON", HOME))
    return path if path.exists() else None


def ask(folder: Path, history: pl.DataFrame, *, horizon: int, frequency: str, python: Path, steps: int = STEPS) -> tuple[pl.DataFrame, dict[str, float]]:
    """Forecasts of every cut-off (cutoff, unique_id, ds, mean), and their CPU seconds, steps and windows; kept in `folder`, where they are read again."""
    done = folder / "forecasts.parquet"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        history.write_parquet(folder / "history.parquet")
        (folder / "ask.json").write_text(json.dumps({"horizon": horizon, "frequency": FREQUENCIES[frequency], "steps": steps}))
        subprocess.run([python, __file__, folder], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return pl.read_parquet(done), json.loads((folder / "cost.json").read_text())


def answer(folder: Path) -> None:
    """The other side, inside that environment: default settings but for the windows, a past of four horizons, each cut-off trained anew."""
    from neuralforecast import NeuralForecast
    from neuralforecast.models import NHITS

    asked = json.loads((folder / "ask.json").read_text())
    parts = []
    started = time.process_time()
    for (cutoff,), known in pl.read_parquet(folder / "history.parquet").group_by("cutoff", maintain_order=True):
        model = NHITS(
            h=asked["horizon"],
            input_size=4 * asked["horizon"],
            max_steps=asked["steps"],
            windows_batch_size=WINDOWS,
            start_padding_enabled=True,
            accelerator="cpu",
            enable_progress_bar=False,
            logger=False,
            enable_checkpointing=False,
        )
        learner = NeuralForecast(models=[model], freq=asked["frequency"])
        learner.fit(known.drop("cutoff"))
        parts.append(
            learner.predict().select(pl.lit(cutoff).alias("cutoff"), "unique_id", pl.col("ds").cast(pl.Date), pl.col("NHITS").cast(pl.Float64).alias("mean"))
        )
    (folder / "cost.json").write_text(json.dumps({"cpu_seconds": round(time.process_time() - started, 1), "steps": asked["steps"], "windows": WINDOWS}))
    pl.concat(parts).write_parquet(folder / "forecasts.parquet")


if __name__ == "__main__":
    answer(Path(sys.argv[1]))
