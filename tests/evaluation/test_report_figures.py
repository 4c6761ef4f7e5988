"""The report's drawings as pictures."""

import struct
from pathlib import Path

import pytest

from evaluation.report_figures import _lead_curves, draw_figures


@pytest.fixture(scope="module")
def drawn(report_data, tmp_path_factory) -> list[Path]:
    return draw_figures(report_data.evaluation, report_data.heat_maps, report_data.forecasts, tmp_path_factory.mktemp("figures"))


def test_each_list_heat_map_and_forecast_is_a_picture_of_its_own(drawn):
    assert [path.name for path in drawn] == ["leads_again.png", "leads_discover.png", "heat_map_demand_by_category_and_week.png", "forecast_all_items.png"]
    for path in drawn:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", content[16:24])
        assert width > 900
        assert height > 250


def test_curves_show_the_figures_of_the_evaluation(report_data):
    result = report_data.evaluation
    axes = _lead_curves(result, "again").axes[0]
    ours = next(line for line in axes.get_lines() if line.get_label() == result.model)
    assert list(ours.get_xdata()) == [0, 28]
    assert list(ours.get_ydata()) == [result.figure(result.model, "again", lead).value for lead in (0, 28)]
    assert len(axes.get_lines()) == len(result.models)


def test_the_same_figures_give_the_same_bytes(report_data, drawn, tmp_path):
    again = draw_figures(report_data.evaluation, (), (), tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in drawn[:2]]
