"""Stored forms of vectors: close to full precision, in order of position."""

import numpy as np
import pytest

from serving.item_tables import CompactTable, FloatTable, QuantisedTable, compact, item_table, quantise


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(500, 48)) * rng.gamma(1.0, size=(500, 1))).astype(np.float32)


def test_rows_come_in_order_of_position(table: np.ndarray) -> None:
    order = np.random.default_rng(2).permutation(500)
    np.testing.assert_array_equal(FloatTable(table, order).rows(np.array([7, 3])), table[order[[7, 3]]])


def test_eight_bits_are_off_by_at_most_half_a_scale(table: np.ndarray) -> None:
    values, scales = compact(table)
    found = CompactTable(values, scales, np.arange(500))
    assert (np.abs(found.rows(np.arange(500)) - table) <= scales[:, None] * 0.5001).all()
    stored, of_rows = found.whole_rows(np.array([9, 2]))
    np.testing.assert_array_equal(stored * of_rows[:, None], found.rows(np.array([9, 2])))


def test_a_row_of_zeros_and_items_newer_than_the_table_are_zero(table: np.ndarray) -> None:
    table = table.copy()
    table[4] = 0
    for found in (FloatTable(table, np.array([4, 600, 1])), CompactTable(*compact(table), np.array([4, 600, 1]))):
        assert np.abs(found.rows(np.arange(3))).max(axis=1).astype(bool).tolist() == [False, False, True]
        assert found.has_row.tolist() == [True, False, True]


def test_the_stored_form_decides(table: np.ndarray) -> None:
    values, scales = compact(table)
    assert isinstance(item_table({"x": table}, "x", np.arange(500)), FloatTable)
    assert isinstance(item_table({"x": values, "x.scale": scales}, "x", np.arange(500)), CompactTable)
    assert item_table({}, "x", np.arange(500)) is None


def test_quantised_vectors_are_near_and_each_part_is_one_of_its_centroids(table: np.ndarray) -> None:
    codes, centroids = quantise(table, bytes_per_item=table.shape[1] // 2)
    assert codes.dtype == np.uint8
    found = QuantisedTable(codes, centroids, np.arange(len(table)))
    decoded = found.rows(np.arange(len(table)))
    np.testing.assert_array_equal(decoded[9, 4:6], centroids[2, codes[9, 2]])
    assert np.square(decoded - table).sum() < 0.5 * np.square(table - table.mean(axis=0)).sum()


def test_a_width_that_cannot_be_cut_is_refused(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected a divisor of the width"):
        quantise(table, bytes_per_item=table.shape[1] + 1)
