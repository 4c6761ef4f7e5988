"""Vectors of all items as they are stored: full precision, eight bits, or product-quantised. `serving.shortlist` finds those that matter to a user.

Letters: I items by position, R numbers of a vector, M parts of a vector, C centroids of a part.

Eight bits: a row is stored as int8 with one scale.

Product quantisation: a vector is cut into M parts and each is stored as the number of the nearest of 256 centroids, M bytes an item (as RecJPQ, Petrov and
Macdonald 2024, arXiv 2312.06165, whose codes are learned with the model; these are fitted afterwards).
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

SCALE_SUFFIX: Final = ".scale"
CENTROIDS_SUFFIX: Final = ".centroids"
CENTROIDS: Final = 256
FITTED_ON: Final = 20_000
LEVELS: Final = 127


class ItemTable(Protocol):
    """Vectors of all items by position."""

    @property
    def has_row(self) -> NDArray[np.bool_]:
        """Items that have a vector, [I]; the others' is zero."""
        ...

    @property
    def width(self) -> int:
        """Numbers of a vector, R."""
        ...

    def rows(self, positions: Integers) -> Floats:
        """Vectors of some items, [N] -> [N, R]."""
        ...


class FloatTable:
    """Full precision, one numpy array."""

    def __init__(self, table: NDArray[Any], positions: Integers) -> None:
        self.has_row, self._table = _by_position(np.asarray(table, np.float32), positions)
        self.width = self._table.shape[-1]

    def rows(self, positions: Integers) -> Floats:
        """Vectors of some items, [N] -> [N, R]."""
        return np.asarray(self._table[positions], np.float32)


class CompactTable:
    """Eight bits a number, one scale an item."""

    def __init__(self, table: NDArray[np.int8], scales: Floats, positions: Integers) -> None:
        self.has_row, self._table = _by_position(table, positions)
        self.width = self._table.shape[-1]
        _, self._scales = _by_position(scales, positions)

    def whole_rows(self, positions: Integers) -> tuple[NDArray[np.int8], Floats]:
        """Stored numbers [N, R] and scales [N] of some items."""
        return self._table[positions], self._scales[positions]

    def rows(self, positions: Integers) -> Floats:
        """Vectors of some items, [N] -> [N, R]."""
        return np.asarray(self._table[positions] * self._scales[positions, None], np.float32)


class QuantisedTable:
    """M bytes an item: the numbers of its parts' centroids."""

    def __init__(self, codes: NDArray[np.uint8], centroids: Floats, positions: Integers) -> None:
        self.has_row, by_item = _by_position(codes, positions)
        self._codes = np.ascontiguousarray(by_item.T)  # [M, I]
        self._centroids = centroids  # [M, C, R / M]
        self.width = centroids.shape[0] * centroids.shape[2]

    def rows(self, positions: Integers) -> Floats:
        """Vectors of some items, [N] -> [N, R]."""
        parts = [centroids[codes[positions]] for codes, centroids in zip(self._codes, self._centroids, strict=True)]
        return np.where(self.has_row[positions, None], np.concatenate(parts, axis=1), 0).astype(np.float32)


def item_table(tables: Mapping[str, NDArray[Any]], name: str, positions: Integers) -> ItemTable | None:
    """The named table of `vectors.safetensors` in order of position; None where the model has none."""
    if name not in tables:
        return None
    if name + CENTROIDS_SUFFIX in tables:
        return QuantisedTable(tables[name], tables[name + CENTROIDS_SUFFIX].astype(np.float32), positions)
    if name + SCALE_SUFFIX in tables:
        return CompactTable(tables[name], tables[name + SCALE_SUFFIX], positions)
    return FloatTable(tables[name], positions)


def compact(table: NDArray[Any]) -> tuple[NDArray[np.int8], Floats]:
    """Rows as int8 and their scales: `table` is about `values * scales[:, None]`, off by at most half a scale."""
    largest = np.abs(table).max(axis=1, initial=0)
    scales = np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)
    return np.rint(table / scales[:, None]).astype(np.int8), scales


def quantise(table: Floats, *, bytes_per_item: int = 16, seed: int = 0) -> tuple[NDArray[np.uint8], Floats]:
    """Codes [I, M] and centroids [M, C, R / M] of a table [I, R]: k-means of each part, fitted on at most 20,000 rows.

    Raises ValueError where the width is no multiple of `bytes_per_item`.
    """
    from sklearn.cluster import KMeans

    num_items, width = table.shape
    if width % bytes_per_item:
        raise ValueError(f"bytes_per_item: expected a divisor of the width {width} of the item vectors, found {bytes_per_item}")
    sample = np.random.default_rng(seed).permutation(num_items)[:FITTED_ON]
    codes, centroids = [], []
    for part in np.split(table.astype(np.float32), bytes_per_item, axis=1):
        fitted = KMeans(min(CENTROIDS, len(np.unique(part[sample], axis=0))), n_init=1, max_iter=20, random_state=seed).fit(part[sample])
        codes.append(fitted.predict(part).astype(np.uint8))
        centroids.append(np.zeros((CENTROIDS, part.shape[1]), np.float32))
        centroids[-1][: fitted.n_clusters] = fitted.cluster_centers_
    return np.stack(codes, axis=1), np.stack(centroids)


def _by_position(table: NDArray[Any], positions: Integers) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Rows in order of position; items beyond the table (newer than the vectors) get zeros and are marked."""
    known = positions < len(table)
    ordered = np.zeros((len(positions), *table.shape[1:]), table.dtype)
    ordered[known] = table[positions[known]]
    return known, ordered
