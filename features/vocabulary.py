"""Ids of items as small integers that never change their meaning."""

import polars as pl

from contracts import columns as c


def grow_vocabulary(known: pl.DataFrame | None, item_ids: pl.LazyFrame) -> pl.DataFrame:
    """Vocabulary of the known items and, after them, the new ones in sorted order.

    Grain: one row per item_id, sorted by item_index (Int32, from 1; 0 is padding).
    An item keeps the index it once got, so weights trained with an old vocabulary stay valid for the items they know.
    Nulls are left out; `item_ids` may repeat.

    Examples
    --------
    >>> first = grow_vocabulary(None, pl.LazyFrame({"item_id": ["b", "a"]}))
    >>> grow_vocabulary(first, pl.LazyFrame({"item_id": ["aa", "b"]})).rows()
    [('a', 1), ('b', 2), ('aa', 3)]
    """
    found = item_ids.select(pl.col(c.ITEM_ID).cast(pl.String)).drop_nulls().unique()
    if known is None:
        known = pl.DataFrame(schema={c.ITEM_ID: pl.String, c.ITEM_INDEX: pl.Int32})
    highest = known[c.ITEM_INDEX].max()
    first_new = (highest if isinstance(highest, int) else 0) + 1
    new = found.join(known.lazy(), on=c.ITEM_ID, how="anti").sort(c.ITEM_ID).with_row_index(c.ITEM_INDEX, offset=first_new)
    return pl.concat([known.sort(c.ITEM_INDEX).select(c.ITEM_ID, c.ITEM_INDEX), new.select(c.ITEM_ID, pl.col(c.ITEM_INDEX).cast(pl.Int32)).collect()])
