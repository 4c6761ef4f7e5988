"""Eight-bit tables: close to full precision, and the same to the last bit whoever is scored beside."""

import numpy as np
import pytest

from serving.item_tables import CompactTable, FloatTable, QuantisedTable, compact, item_table, quantise


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(500, 48)) * rng.gamma(1.0, size=(500, 1))).astype(np.float32)


def test_full_precision_is_the_plain_product(table: np.ndarray) -> None:
    queries = np.random.default_rng(1).normal(size=(3, 48)).astype(np.float32)
    order = np.random.default_rng(2).permutation(500)
    np.testing.assert_allclose(FloatTable(table, order).products(queries), queries @ table[order].T, rtol=1e-5, atol=1e-5)


def test_eight_bits_are_off_by_little_and_keep_the_order_at_the_top(table: np.ndarray) -> None:
    queries = np.random.default_rng(1).normal(size=(50, 48)).astype(np.float32)
    values, scales = compact(table)
    exact, found = queries @ table.T, CompactTable(values, scales, np.arange(500), threads=1).products(queries)
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()
    recall = np.mean([len(set(np.argsort(-a)[:10]) & set(np.argsort(-b)[:10])) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall >= 0.97


def test_eight_bits_do_not_depend_on_who_is_scored_beside(table: np.ndarray) -> None:
    queries = np.random.default_rng(1).normal(size=(9, 48)).astype(np.float32) * np.logspace(-3, 3, 9, dtype=np.float32)[:, None]
    found = CompactTable(*compact(table), np.arange(500), threads=1)
    together = found.products(queries)
    assert all((found.products(queries[row : row + 1])[0] == together[row]).all() for row in range(9))


def test_largest_values_do_not_overflow_the_integer_sums() -> None:
    table, queries = np.full((3, 300), 1.0, np.float32), np.full((1, 300), -5.0, np.float32)
    table[1] *= -1
    np.testing.assert_allclose(CompactTable(*compact(table), np.arange(3), threads=1).products(queries), [[-1500, 1500, -1500]], rtol=1e-3)


def test_a_row_of_zeros_and_items_newer_than_the_table_score_nothing(table: np.ndarray) -> None:
    table = table.copy()
    table[4] = 0
    for found in (FloatTable(table, np.array([4, 600, 1])), CompactTable(*compact(table), np.array([4, 600, 1]), threads=1)):
        products = found.products(np.ones((1, 48), np.float32))[0]
        assert products[0] == products[1] == 0
        assert products[2] != 0
        assert found.has_row.tolist() == [True, False, True]


def test_the_stored_form_decides(table: np.ndarray) -> None:
    values, scales = compact(table)
    assert isinstance(item_table({"x": table}, "x", np.arange(500), threads=1), FloatTable)
    assert isinstance(item_table({"x": values, "x.scale": scales}, "x", np.arange(500), threads=1), CompactTable)
    assert item_table({}, "x", np.arange(500), threads=1) is None


def test_quantised_table_scores_as_its_decoded_vectors(table: np.ndarray) -> None:
    codes, centroids = quantise(table, bytes_per_item=table.shape[1] // 2)
    assert codes.dtype == np.uint8
    found = QuantisedTable(codes, centroids, np.arange(len(table)))
    decoded = found.rows(np.arange(len(table)))
    queries = np.random.default_rng(2).normal(size=(3, table.shape[1])).astype(np.float32)
    np.testing.assert_allclose(found.products(queries), queries @ decoded.T, atol=1e-4)
    assert np.square(decoded - table).sum() < 0.5 * np.square(table - table.mean(axis=0)).sum()
    np.testing.assert_array_equal(found.products(queries)[1], found.products(queries[1:2])[0])


def test_a_width_that_cannot_be_cut_is_refused(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected a divisor of the width"):
        quantise(table, bytes_per_item=table.shape[1] + 1)
