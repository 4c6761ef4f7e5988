"""The audit trail."""

import json
from datetime import UTC, datetime
from pathlib import Path

from tasks.audit import audit_trail, record_decision


def record(address: str, model: str = "shop", version: str = "1", **changes: object) -> int:
    values = {"decision": "promoted", "by": "Ada", "reasons": ("first", "second"), "figures": {"gain": 0.1}, "previous_champion": None, **changes}
    return record_decision(address, model=model, version=version, at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), **values)  # type: ignore[arg-type]


def test_trail_says_when_what_who_and_why_and_only_grows(tmp_path: Path):
    address = f"sqlite:///{tmp_path / 'audit.sqlite'}"
    assert audit_trail(address).height == 0
    assert record(address) == 1
    before = audit_trail(address)
    assert record(address, version="2", decision="rolled_back", previous_champion="1") == 2
    trail = audit_trail(address)
    assert trail[:1].equals(before)
    assert trail["at"].to_list() == ["2026-01-02T03:04:05+00:00"] * 2
    assert trail.select("version", "decision", "by", "previous_champion", "reasons").rows() == [
        ("1", "promoted", "Ada", None, "first\nsecond"),
        ("2", "rolled_back", "Ada", "1", "first\nsecond"),
    ]
    assert json.loads(trail["figures"][0]) == {"gain": 0.1}


def test_models_of_one_store_are_told_apart(tmp_path: Path):
    address = f"sqlite:///{tmp_path / 'audit.sqlite'}"
    record(address, model="shop")
    record(address, model="travel")
    assert audit_trail(address, "travel")["model"].to_list() == ["travel"]
    assert audit_trail(address).height == 2


def test_columns_have_the_same_types_with_and_without_rows(tmp_path: Path):
    address = f"sqlite:///{tmp_path / 'audit.sqlite'}"
    empty = audit_trail(address).schema
    record(address)
    assert audit_trail(address).schema == empty
