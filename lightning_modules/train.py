"""Entry of a training process: `python -m lightning_modules.train job.json`.

Alone it is one process; under `python -m torch.distributed.run` it is each rank. The job's folder is that of `job.json`; `result.json` is
written there, in one move, by the first process when all is done.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from contracts.artifacts import JobResult
from contracts.sections.training import ComputeConfig
from lightning_modules.distillation import distil
from lightning_modules.fine_tuning import fine_tune
from lightning_modules.forecasting import forecast
from lightning_modules.jobs import TrainingRequest
from lightning_modules.pretraining import pretrain
from lightning_modules.trainers import process_rank

RESULT = "result.json"

Stage = Callable[[Any, ComputeConfig, Path], JobResult]
STAGES: dict[str, Stage] = {"pretrain": pretrain, "fine_tune": fine_tune, "forecast": forecast, "distil": distil}


def run(path: Path) -> JobResult:
    """Run the job of `path` and leave `result.json` beside it."""
    request = TrainingRequest.model_validate_json(path.read_text(encoding="utf-8"))
    torch.set_num_threads(request.compute.threads)
    result = STAGES[request.job.stage](request.job, request.compute, path.parent)
    result = result.model_copy(update={"job_digest": request.job.digest()})
    if process_rank() == 0:
        draft = path.with_name(f"{RESULT}.part")
        draft.write_text(result.model_dump_json(indent=1), encoding="utf-8")
        draft.replace(path.with_name(RESULT))
    return result


def main() -> None:
    """Run the job named on the command line; told to end (SIGTERM) the process leaves its checkpoint and exits with 143."""
    try:
        run(Path(sys.argv[1]))
    except SIGTERMException:  # a SystemExit without a code: it would look like success
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
