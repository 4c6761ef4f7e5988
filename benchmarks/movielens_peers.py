"""RecTools, RePlay and RecBole on MovieLens-100K beside ours: `python -m benchmarks.movielens_peers [--peers NAME ...]`.

The first, the middle and the last of the cuts of benchmarks.further_sets (60, 70, 80 %), the same windows, what a user has seen removed. Each peer is
fitted as in benchmarks.recommender_peers: in an environment of its own, to its own early stopping or a cap of CPU seconds, one seed, one thread. RecBole
takes part here alone: an event costs it a hundred times what it costs the others.

Writes benchmarks/results/movielens_peers.json. A finished cell (cut, peer) with the NDCG@10 of each user is kept below
benchmarks/results/cells/movielens_peers/. Ours are the cells of benchmarks.further_sets; where these are not there the peers stand alone.
"""

import argparse
import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks import further_sets
from benchmarks.machine import RESULTS, ROOT, about_cells, command_of, kept_cell, write_results
from benchmarks.recommender import short
from benchmarks.recommender_peers import PEERS, SETTINGS, PeerFailedError, accepted, digest_of, ranked_by
from contracts import columns as c
from contracts.config import PipelineConfig
from evaluation.bootstrap import mean_interval
from evaluation.ranking_metrics import score_rankings
from evaluation.targets import targets

CELLS = RESULTS / "cells" / "movielens_peers"
DATASET = "movielens_100k"
ALL = (*PEERS, "recbole:sasrec")
ROWS_AT_ONCE = 1_024  # of RecBole, which has a row for each event


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=ALL, default=list(ALL), help="peers")
    parser.add_argument("--storage", default=str(ROOT / ".perennial" / "benchmarks"), help="folder of intermediate tables")
    asked = parser.parse_args()
    os.environ.setdefault("PERENNIAL_DATA", str((ROOT / ".." / "shared" / "data").resolve()))
    configs = list(further_sets.configs_of(DATASET, asked.storage))[::2]
    if not configs:
        sys.exit(f"{DATASET}: its data are not there (see python -m benchmarks.further_sets --help)")
    cells: dict[str, dict[str, dict[str, Any]]] = {config.name: {} for config in configs}
    for config, peer in ((config, peer) for config in configs for peer in asked.peers):
        try:
            cells[config.name][peer] = measured_cell(config, peer)
        except PeerFailedError as error:  # the others go on
            print(f"{config.name}, {peer}: {error}", file=sys.stderr, flush=True)
    flat = [cell for of_cut in cells.values() for cell in of_cut.values()]
    whole = [peer for peer in asked.peers if all(peer in of_cut for of_cut in cells.values())]
    rows = [row for cell in flat for row in cell["rows"]] + beside_ours(configs, cells, whole)
    print(write_results("movielens_peers", command=command_of("movielens_peers"), rows=rows, **about_cells(flat)))


def measured_cell(config: PipelineConfig, peer: str) -> dict[str, Any]:
    """NDCG@10 of a peer at a cut, and that of each user; read where it was measured before."""
    settings = {**SETTINGS, "batch_rows": ROWS_AT_ONCE} if peer == "recbole:sasrec" else SETTINGS
    return kept_cell(
        CELLS / f"{config.name}-{peer.replace(':', '-')}-{digest_of(config.name, peer, str(window_of(config)), settings)}.json",
        lambda: measured(config, peer, settings),
    )


def window_of(config: PipelineConfig) -> tuple[date, int]:
    """First day and days of a cut's window."""
    return config.evaluation.origins[0], config.evaluation.horizon_days


def measured(config: PipelineConfig, peer: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Row and users of a peer fitted on what lies before the cut. Raises PeerFailedError."""
    interactions = accepted(config)
    origin, days = window_of(config)
    ranked, cost = ranked_by(peer, interactions, config, origin, settings)
    if ranked is None:
        raise PeerFailedError(cost["failed"])
    wanted = targets(interactions, origin, 0, days, "discover", target_events=config.fine_tuning.target_events)
    scored = score_rankings(ranked.filter(pl.col(c.LIST) == "discover"), wanted).select(c.USER_ID, value="ndcg")
    found = mean_interval(scored)
    row = {
        "dataset": config.name,
        "model": peer,
        "list": "discover",
        "lead_days": 0,
        "origin": str(origin),
        "metric": further_sets.METRIC,
        "value": found.value,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "n": scored.height,
        "seed": settings["seed"],
        **{name: cost[name] for name in ("epochs", "stopped", "cpu_seconds")},
    }
    users = {user: round(value, 6) for user, value in scored.iter_rows()}
    print(config.name, peer, cost, round(found.value, 4), flush=True)
    return {"users": {peer: users}, "validation": cost["validation"], "rows": [short(row)]}


def beside_ours(configs: list[PipelineConfig], cells: dict[str, dict[str, dict[str, Any]]], peers: list[str]) -> list[dict[str, Any]]:
    """Ours and each peer over the cuts together, and what ours gains over each on the same users; nothing where ours are not kept."""
    merged = []
    for config in configs:
        ours = further_sets.CELLS / f"{further_sets.name_of(config)}.json"
        if not ours.exists():
            print(f"{config.name}: no cell of ours, {ours.name}; run python -m benchmarks.further_sets --data {DATASET}", file=sys.stderr)
            return []
        users = {peer: cells[config.name][peer]["users"][peer] for peer in peers}
        merged.append(
            {"window": [str(window_of(config)[0]), window_of(config)[1]], "users": {**json.loads(Path(ours).read_text(encoding="utf-8"))["users"], **users}}
        )
    return further_sets.pooled(DATASET, merged, peers)


if __name__ == "__main__":
    main()
