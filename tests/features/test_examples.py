"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import features

MODULES = sorted(module.name for module in pkgutil.iter_modules(features.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"features.{name}")).failed == 0


def test_there_are_examples() -> None:
    assert sum(doctest.testmod(importlib.import_module(f"features.{name}")).attempted for name in MODULES) >= 6
