"""References and digests."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from contracts.artifacts import TableRef, content_digest, text_digest


def write(folder: Path, **files: str) -> list[Path]:
    paths = []
    for name, text in files.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def test_digest_of_files_is_of_names_and_content_not_of_order_place_or_time(tmp_path: Path):
    here, there = write(tmp_path / "here", a="1", b="2"), write(tmp_path / "there", a="1", b="2")
    os.utime(there[0], (0, 0))
    assert content_digest(here, tmp_path / "here") == content_digest(reversed(there), tmp_path / "there")
    assert content_digest(here) != content_digest(write(tmp_path / "renamed", a="1", c="2"))
    assert content_digest(here) != content_digest(write(tmp_path / "changed", a="1", b="3"))


def test_digest_of_files_keeps_their_borders(tmp_path: Path):
    assert content_digest(write(tmp_path / "x", a="12", b="3")) != content_digest(write(tmp_path / "y", a="1", b="23"))


def test_digest_of_texts_keeps_their_borders():
    assert text_digest("ab", "c") != text_digest("a", "bc")
    assert text_digest("ab", "c") == text_digest("ab", "c")
    assert len(text_digest()) == 16


def test_parts_of_a_table_come_in_stable_order(tmp_path: Path):
    write(tmp_path / "t" / "month=2", b="")
    write(tmp_path / "t" / "month=1", z="")
    ref = TableRef(name="t", path=str(tmp_path / "t"), rows=0, columns=(), digest="d")
    assert [str(part.relative_to(tmp_path / "t")) for part in ref.parts()] == ["month=1/z.parquet", "month=2/b.parquet"]
    assert TableRef(name="t", path=str(ref.parts()[0]), rows=0, columns=(), digest="d").parts() == [ref.parts()[0]]


def test_reference_is_frozen_and_knows_its_fields():
    ref = TableRef(name="t", path="p", rows=0, columns=(), digest="d")
    with pytest.raises(ValidationError, match="frozen"):
        ref.rows = 3
    with pytest.raises(ValidationError, match="extra_forbidden"):
        TableRef(name="t", path="p", rows=0, columns=(), digest="d", size=3)
