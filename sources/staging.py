"""Changes to a folder of files that happen wholly or not at all, whatever is killed when.

New files are written into `.staging/`. `commit` makes them durable, then writes a journal of the moves: from that moment the change is decided.
The moves follow; a process that dies before the journal leaves the old files untouched, one that dies after it is finished by whoever
calls `recover` next (every ingest does so first).
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from contracts.errors import TransientError

STAGING: Final = ".staging"
_JOURNAL: Final = "commit.json"
_LOCK: Final = ".lock"


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder for one writer; a second one is refused, for now: steps try again. The hold ends with the process, also if it is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TransientError(f"{folder}: another ingest is writing here. Wait for it to end, or use another `storage_root`.") from error
        yield


def recover(folder: Path) -> bool:
    """Finish a change that was decided but not carried out, throw away one that was not. True if there was one to finish."""
    staging = folder / STAGING
    is_decided = (staging / _JOURNAL).exists()
    if is_decided:
        _carry_out(folder)
    else:
        discard(folder)
    return is_decided


def discard(folder: Path) -> None:
    """Throw away a change that was not decided; leave a decided one to `recover`."""
    if not (folder / STAGING / _JOURNAL).exists():
        shutil.rmtree(folder / STAGING, ignore_errors=True)


def begin(folder: Path) -> Path:
    """Empty staging folder."""
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def commit(folder: Path, moves: Sequence[str], removals: Sequence[str] = ()) -> None:
    """Move the staged files `moves` (paths relative to staging and folder alike, in this order) into place and remove `removals`."""
    staging = folder / STAGING
    for name in moves:
        _sync(staging / name)
    aside = staging / f"{_JOURNAL}.part"
    aside.write_text(json.dumps({"moves": list(moves), "removals": list(removals)}), encoding="utf-8")
    _sync(aside)
    aside.rename(staging / _JOURNAL)
    _sync(staging)
    _carry_out(folder)


def _carry_out(folder: Path) -> None:
    staging = folder / STAGING
    journal = json.loads((staging / _JOURNAL).read_text(encoding="utf-8"))
    for name in journal["removals"]:
        (folder / name).unlink(missing_ok=True)
    for name in journal["moves"]:
        staged, target = staging / name, folder / name
        if staged.exists():  # else it was moved before the process died
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(target)
            _sync(target.parent)
    (staging / _JOURNAL).unlink()
    shutil.rmtree(staging, ignore_errors=True)


def _sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
