"""Step `build_content`: text vectors of titles and categories; a text that was encoded before, by the same version of the encoder, is not encoded again."""

from pathlib import Path

import polars as pl
from prefect import task
from prefect.logging import get_run_logger

from contracts.artifacts import FeatureTables, text_digest
from contracts.sections.content import ContentConfig
from features.content import TEXT_DIGEST, encoded, item_vectors, item_words, text_encoder
from tasks.reuse import reusable
from tasks.store import Store, read_table, write_table

CODE = ("features/content.py",)


@task(name="build_content", **reusable(*CODE, minutes=240))
def build_content(features: FeatureTables, config: ContentConfig, store: Store) -> FeatureTables:
    """The feature tables with the text vector of every item that has words; as they were where the encoder is off or there are no words.

    Raises SourceError where the encoder's package is not installed.
    """
    logger = get_run_logger()
    if config.encoder == "none":
        return features
    encoder = text_encoder(config.encoder)
    if features.item_catalogue is None:
        logger.info("no text vectors: there is no catalogue of items (source.catalogue_uri), new items begin at nothing")
        return features
    texts = item_words(read_table(features.item_catalogue), pl.read_parquet(features.vocabulary.path))
    if texts.is_empty():
        logger.info("no text vectors: no item of the catalogue has a title or a category (source.catalogue_columns)")
        return features
    kept_in = Path(store.root) / "text_vectors" / encoder.name
    kept = _kept(kept_in)
    new = encoded(texts, kept, encoder, batch_texts=config.batch_texts)
    if new.height:
        write_table(new, kept_in / f"{text_digest(*new[TEXT_DIGEST])}.parquet", "text_vectors")
    folder = store.step_folder("build_content", features.vocabulary, features.item_catalogue, encoder.name, code=CODE)
    known = new if kept is None else pl.concat([kept, new])
    vectors = write_table(item_vectors(texts, known), folder / "content.parquet", "content")
    logger.info("text vectors of %s items by %s; %s texts encoded, the others were kept", f"{vectors.rows:,}", encoder.name, f"{new.height:,}")
    return features.model_copy(update={"content": vectors})


def _kept(folder: Path) -> pl.DataFrame | None:
    """Vectors of texts that were encoded before, by digest."""
    parts = sorted(folder.glob("*.parquet"))
    return pl.read_parquet(parts).unique(TEXT_DIGEST, keep="first", maintain_order=True) if parts else None
