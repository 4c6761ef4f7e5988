"""Contracts of the stored tables."""

import pytest

from contracts import columns
from contracts.tables import QUANTILES, TABLES, TableContract, quantile_column

NAMES = {value for name, value in vars(columns).items() if name.isupper() and isinstance(value, str)}


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_grain_and_required_columns_are_columns_and_have_a_name_of_their_own(table: TableContract):
    assert set(table.grain) <= set(table.required) <= set(table.schema)
    assert set(table.schema) - {quantile_column(quantile) for quantile in QUANTILES} <= NAMES


def test_quantile_columns_sort_as_the_quantiles_do():
    made = [quantile_column(quantile) for quantile in QUANTILES]
    assert made == ["q025", "q100", "q500", "q900", "q975"]
    assert made == sorted(made)
