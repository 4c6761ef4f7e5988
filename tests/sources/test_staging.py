"""A change to a folder happens wholly or not at all, wherever the process dies."""

import json
from pathlib import Path

import pytest

from contracts.errors import TransientError
from sources import staging

BEFORE = {"a/part": "old", "b/part": "old", "gone": "old", "manifest": "1"}
AFTER = {"a/part": "new", "b/part": "old", "c/part": "new", "manifest": "2"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def _content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock" and staging.STAGING not in path.parts
    }


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _change(folder: Path) -> None:
    _write(staging.begin(folder), {"a/part": "new", "c/part": "new", "manifest": "2"})
    staging.commit(folder, ["a/part", "c/part", "manifest"], removals=["gone"])


def test_killed_at_any_file_operation_the_old_or_the_new_state_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Counts the operations of one undisturbed change, then dies at each of them in turn."""
    operations = ("replace", "rename", "unlink", "write_text")

    def counted(limit: int) -> list[str]:
        calls: list[str] = []

        def wrap(name: str):
            original = getattr(Path, name)

            def call(self: Path, *args: object, **options: object):
                calls.append(name)
                if len(calls) == limit:
                    raise Killed
                return original(self, *args, **options)

            return call

        for name in operations:
            monkeypatch.setattr(Path, name, wrap(name))
        return calls

    outcomes = []
    for limit in range(1, 30):
        folder = tmp_path / str(limit)
        _write(folder, BEFORE)
        with monkeypatch.context() as patch:
            monkeypatch = patch
            counted(limit)
            try:
                _change(folder)
                finished = True
            except Killed:
                finished = False
        was_decided = staging.recover(folder)
        state = _content(folder)
        assert state in (BEFORE, AFTER)
        assert not (folder / staging.STAGING).exists()
        outcomes.append((was_decided, state == AFTER))
        if finished:
            break
    assert finished
    assert (False, False) in outcomes, "no death before the decision was tried"
    assert (True, True) in outcomes, "no death after the decision was tried"


def test_decided_change_is_not_discarded(tmp_path: Path):
    _write(tmp_path, BEFORE)
    aside = staging.begin(tmp_path)
    _write(aside, {"a/part": "new", "commit.json": json.dumps({"moves": ["a/part"], "removals": []})})
    staging.discard(tmp_path)
    assert staging.recover(tmp_path)
    assert _content(tmp_path)["a/part"] == "new"


def test_second_writer_is_refused(tmp_path: Path):
    with staging.exclusive(tmp_path), pytest.raises(TransientError, match="another ingest is writing here"), staging.exclusive(tmp_path):
        pass
    with staging.exclusive(tmp_path):
        pass
