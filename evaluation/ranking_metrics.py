"""Metrics of rankings: what a user got of what they wanted, and how a list looks as a list.

All metrics are computed from the rankings table, one ranking per user. Nothing is summed inside a training loop.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import polars as pl

from contracts import columns as c

CALIBRATION_SMOOTHING: Final = 0.01  # Steck (2018), section 3.1

# name in results -> column of `score_rankings`
USER_METRICS: Final = MappingProxyType({"ndcg@10": "ndcg", "recall@10": "recall", "hit@10": "hit", "mrr@10": "mrr", "recall@20": "recall_20"})


def score_rankings(rankings: pl.DataFrame, wanted: pl.DataFrame, k: int = 10, *, by: Sequence[str] = ()) -> pl.DataFrame:
    """Score one ranking per user against the user's targets.

    Grain: one row per user_id of `wanted` (and per value of `by`), sorted; a user without a ranking scores 0.
    Columns: num_targets, ndcg (binary gain, ideal of min(k, num_targets)), recall, hit, mrr, all at `k`, and recall_20.
    `recall_20` is null where no ranking of the table is longer than `k` and `k` is less than 20.

    Parameters
    ----------
    rankings
        user_id, item_id, rank (from 1); of one list, cut-off and request date.
    wanted
        user_id, item_id: distinct targets.
    by
        Columns of `rankings` that tell several rankings of one user apart, such as the model.

    Raises ValueError if a user has an item or a rank twice in one ranking.

    Examples
    --------
    >>> import polars as pl
    >>> ranked = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "rank": [1, 2]})
    >>> score_rankings(ranked, pl.DataFrame({"user_id": ["u"], "item_id": ["b"]})).select("recall", "mrr").row(0)
    (1.0, 0.5)
    """
    ranked = rankings.select(*by, c.USER_ID, c.ITEM_ID, c.RANK)
    _check_one_ranking_per_user(ranked, by)
    return score_hits(hits(ranked, wanted), wanted, ranked.select(*by, c.RANK), k, by=by)


def hits(ranked: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """Ranked items that are targets: the rows of `ranked` whose (user_id, item_id) is wanted."""
    return ranked.join(wanted, on=[c.USER_ID, c.ITEM_ID], how="semi")


def score_hits(found: pl.DataFrame, wanted: pl.DataFrame, offered: pl.DataFrame, k: int = 10, *, by: Sequence[str] = ()) -> pl.DataFrame:
    """Score as `score_rankings` does, from `hits`; `offered` has the columns of `by` and rank, one row or more per ranking."""
    at_k = pl.col(c.RANK) <= k
    got = found.group_by(*by, c.USER_ID).agg(
        gain=(1 / (pl.col(c.RANK) + 1).log(2)).filter(at_k).sum(),
        hits=at_k.sum(),
        hits_20=(pl.col(c.RANK) <= 20).sum(),
        first=pl.col(c.RANK).filter(at_k).min(),
    )
    asked = wanted.group_by(c.USER_ID).agg(num_targets=pl.len())
    if by:
        asked = offered.select(by).unique().join(asked, how="cross")
    table = asked.join(got, on=[*by, c.USER_ID], how="left").sort(*by, c.USER_ID)
    ideal = np.concatenate([[1.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])[np.minimum(table["num_targets"].to_numpy(), k)]
    num_hits, count = pl.col("hits").fill_null(0), pl.col("num_targets")
    deepest = int(offered.select(pl.col(c.RANK).max().fill_null(0)).item())
    is_deep = deepest > k or k >= 20
    return table.select(
        *by,
        c.USER_ID,
        "num_targets",
        ndcg=pl.col("gain").fill_null(0.0) / pl.Series(ideal, dtype=pl.Float64),
        recall=num_hits / count,
        hit=(num_hits > 0).cast(pl.Float64),
        mrr=(1 / pl.col("first")).fill_null(0.0),
        recall_20=(pl.col("hits_20").fill_null(0) / count) if is_deep else pl.lit(None, pl.Float64),
    )


def coverage(rankings: pl.DataFrame, num_candidates: int, k: int = 10) -> float:
    """Share of the candidates that is recommended to anyone within the first `k` ranks."""
    return rankings.filter(pl.col(c.RANK) <= k)[c.ITEM_ID].n_unique() / num_candidates if num_candidates else 0.0


def item_popularity(past: pl.DataFrame) -> pl.DataFrame:
    """Share of the users who had an item. Grain: one row per item_id. Reads user_id and item_id of the events before the cut-off."""
    return past.group_by(c.ITEM_ID).agg(share=pl.col(c.USER_ID).n_unique() / past[c.USER_ID].n_unique())


def novelty(rankings: pl.DataFrame, popularity: pl.DataFrame, k: int = 10) -> float:
    """Mean self-information of the recommended items, bits: -log2 of the share of users who had the item before the cut-off.

    `popularity` is `item_popularity`; an item nobody had counts as half of the rarest.
    """
    ranked = rankings.filter(pl.col(c.RANK) <= k).join(popularity, on=c.ITEM_ID, how="left")
    unknown = popularity.select(pl.col("share").min() / 2).item()
    bits = ranked.select((-pl.col("share").fill_null(unknown).log(2)).mean()).item()
    return 0.0 if bits is None else float(bits)


def category_shares(table: pl.DataFrame, categories: pl.DataFrame) -> pl.DataFrame:
    """How a user's rows spread over categories.

    Grain: one row per (user_id, category). `table` has user_id and item_id; `categories` has item_id and category (coarse).
    Items without one count as a category of their own.
    """
    named = table.join(categories.select(c.ITEM_ID, c.CATEGORY), on=c.ITEM_ID, how="left").with_columns(pl.col(c.CATEGORY).fill_null(""))
    counts = named.group_by(c.USER_ID, c.CATEGORY).agg(count=pl.len())
    return counts.select(c.USER_ID, c.CATEGORY, share=pl.col("count") / pl.col("count").sum().over(c.USER_ID))


def calibration(rankings: pl.DataFrame, history_shares: pl.DataFrame, categories: pl.DataFrame, k: int = 10) -> float:
    """Mean divergence of the list's categories from the categories of the user's history, nats; 0 is the same mix.

    Kullback-Leibler divergence KL(history || list), the list smoothed by 1 % of the history. Users without history are left out.
    `history_shares` is `category_shares` of the events before the cut-off.

    Source: Steck, Calibrated Recommendations (RecSys 2018).
    """
    listed = category_shares(rankings.filter(pl.col(c.RANK) <= k), categories).rename({"share": "listed"})
    history = history_shares.join(listed.select(c.USER_ID).unique(), on=c.USER_ID, how="semi").rename({"share": "had"})
    both = history.join(listed, on=[c.USER_ID, c.CATEGORY], how="left").with_columns(pl.col("listed").fill_null(0.0))
    smoothed = (1 - CALIBRATION_SMOOTHING) * pl.col("listed") + CALIBRATION_SMOOTHING * pl.col("had")
    divergence = both.group_by(c.USER_ID).agg(kl=(pl.col("had") * (pl.col("had") / smoothed).log()).sum()).sort(c.USER_ID)["kl"].mean()
    return float(divergence) if isinstance(divergence, float) else 0.0


def _check_one_ranking_per_user(ranked: pl.DataFrame, by: Sequence[str]) -> None:
    for column in (c.ITEM_ID, c.RANK):
        key = ranked.select(*by, c.USER_ID, column)
        twice = key.filter(key.is_duplicated())
        if twice.height:
            raise ValueError(
                f"rankings: {column} {twice[column][0]!r} stands twice for user {twice[c.USER_ID][0]!r} ({twice.height:,} such rows)."
                " Filter to one model, list, cut-off and request date first."
            )
