import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["ranking_metrics", "report_charts", "slices"])
def test_examples_in_docstrings_run(name):
    found = doctest.testmod(importlib.import_module(f"evaluation.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
