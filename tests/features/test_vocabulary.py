import polars as pl

from features.vocabulary import grow_vocabulary


def ids(*items: str | None) -> pl.LazyFrame:
    return pl.LazyFrame({"item_id": list(items)}, schema={"item_id": pl.String})


def test_first_vocabulary_is_sorted_and_leaves_zero_for_padding() -> None:
    vocabulary = grow_vocabulary(None, ids("b", "a", "b", None))
    assert vocabulary.rows() == [("a", 1), ("b", 2)]
    assert vocabulary.schema["item_index"] == pl.Int32


def test_old_items_keep_their_index_and_new_ones_follow_in_sorted_order() -> None:
    known = grow_vocabulary(None, ids("m", "k"))
    assert grow_vocabulary(known, ids("z", "a", "m")).rows() == [("k", 1), ("m", 2), ("a", 3), ("z", 4)]


def test_items_that_vanish_keep_their_place() -> None:
    known = grow_vocabulary(None, ids("a", "b"))
    assert grow_vocabulary(known, ids()).rows() == known.rows()


def test_growing_does_not_depend_on_row_order() -> None:
    known = grow_vocabulary(None, ids("c"))
    assert grow_vocabulary(known, ids("b", "a", "d")).equals(grow_vocabulary(known.reverse(), ids("d", "b", "a")))
