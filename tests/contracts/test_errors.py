"""The tree of errors."""

import re

import pytest

from contracts import errors
from contracts.errors import DataContractError, PipelineError, TrainingFailedError, TransientError

CLASSES = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}


def test_drawn_tree_names_every_error_and_no_other():
    assert set(re.findall(r"\b\w+Error\b", errors.__doc__ or "")) == set(CLASSES)


@pytest.mark.parametrize("kind", [kind for kind in CLASSES.values() if kind is not PipelineError], ids=lambda kind: kind.__name__)
def test_errors_are_siblings_below_one_base(kind: type[PipelineError]):
    assert kind.__bases__ == (PipelineError,)


def test_only_the_drawn_one_is_retried():
    assert re.findall(r"(\w+Error)[^\n]*\(retried\)", errors.__doc__ or "") == [TransientError.__name__]


def test_what_broke_stays_readable_without_parsing_the_text():
    broken = DataContractError("text", table="interactions", rule="price_range", num_failed=3, example_row={"price": -1.0}, step="validate")
    assert (broken.table, broken.rule, broken.num_failed, broken.example_row, broken.step) == ("interactions", "price_range", 3, {"price": -1.0}, "validate")
    failed = TrainingFailedError("text", exit_code=9, last_lines=["a", "b"])
    assert (failed.exit_code, failed.last_lines) == (9, ("a", "b"))
