from pathlib import Path

import pytest

from features.catalogue import PAGE, entries, main, render
from features.habits import HABIT_INPUTS
from features.season import SEASON_INPUTS


@pytest.fixture(scope="module")
def catalogue() -> list:
    return entries()


def test_committed_page_is_current(catalogue: list) -> None:
    assert PAGE.read_text(encoding="utf-8") == render(catalogue), "run `python -m features.catalogue`"


def test_every_described_feature_is_a_column_and_every_network_input_is_described(catalogue: list) -> None:
    described = {entry.function.__name__: [feature.name for group in entry.groups for feature in group.features] for entry in catalogue}
    for entry in catalogue:
        assert set(described[entry.function.__name__]) <= set(entry.table.columns)
    assert tuple(described["season"]) == SEASON_INPUTS
    assert tuple(described["habit_inputs"]) == HABIT_INPUTS
    assert {name for entry in catalogue if entry.function.__name__ == "demand_features" for name in entry.table.columns if "units_" in name} == set(
        described["demand_features"]
    )


def test_every_table_says_its_grain(catalogue: list) -> None:
    assert [entry.function.__name__ for entry in catalogue if "Grain" not in (entry.function.__doc__ or "")] == []


def test_check_fails_on_an_older_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "catalogue.md"
    assert main(["--check", "--page", str(page)]) == 1
    assert "Run `python -m features.catalogue`" in capsys.readouterr().err
    assert main(["--page", str(page)]) == 0
    assert main(["--check", "--page", str(page)]) == 0
