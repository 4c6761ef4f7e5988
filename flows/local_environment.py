"""Settings of a run on one machine: stores below the storage root, patience for the first start, no telemetry, and an orderly end.

Read before Prefect is imported. A variable that is already set is left alone, so a server, a worker or a person decides.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """The process was asked to end by a signal other than Ctrl-C; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def orderly_end() -> Iterator[None]:
    """Raise Terminated where a signal would end the process at once.

    Prefect ends its temporary server, and a step its training process, only when this process unwinds. While it does, further signals are ignored.
    """

    def unwind(number: int, frame: FrameType | None) -> None:
        for other in ENDING_SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Terminated(number)

    before = {number: signal.signal(number, unwind) for number in ENDING_SIGNALS}
    try:
        yield
    except Terminated:
        raise  # further signals stay ignored until the process is gone
    except BaseException:
        _restore(before)
        raise
    else:
        _restore(before)


def _restore(before: dict[signal.Signals, object]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)  # type: ignore[arg-type]


def use_local_stores(storage_root: str, *, verbose: bool = False) -> None:
    """Point Prefect at a home below `storage_root` unless a server is configured."""
    if "PREFECT_API_URL" not in os.environ:
        home = Path(storage_root).resolve() / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("PREFECT_HOME", str(home))
    for name, value in {
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if verbose else "CRITICAL",  # the command says in words what failed
        "PREFECT_LOCAL_STORAGE_PATH": str(Path(storage_root).resolve() / "results"),
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # a bar for every file copied would stand among those of the steps
        "MLFLOW_LOGGING_LEVEL": "INFO" if verbose else "WARNING",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "OMP_NUM_THREADS": str(min(os.cpu_count() or 1, 2)),
    }.items():
        os.environ.setdefault(name, value)
