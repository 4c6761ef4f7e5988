"""Smaller data sets by the product's own path: `python -m benchmarks.further_sets [--data NAME ...]`.

flickr_trips, steam   the last origin that leaves 90 days, a window of 90 days, both lists
movielens_100k        cut on the days at which 60, 65, 70, 75 and 80 % of the interactions have happened; the window holds the next 20 %; what a
                      user has seen is removed (list discover); the five cuts are pooled, a user at several of them is drawn with all of his rows

Beside the usual baselines, the best of which is chosen on windows before the origin. Flickr and Steam are read from the folder in PERENNIAL_DATA
(default ../shared/data), MovieLens-100K from the wheel of recbole, fetched by pip; what is not there is left out and said so.

Writes benchmarks/results/further_sets.json. A finished cell (data set, cut) is kept below benchmarks/results/cells/further_sets/, named by the digest
of its parameters and of the code.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.interactions import read
from benchmarks.machine import RESULTS, ROOT, about_cells, command_of, kept_cell, write_results
from benchmarks.recommender import PARAMETERS, add_run_arguments, digest_of, on_threads, short
from contracts import columns as c
from contracts.config import PipelineConfig
from evaluation.bootstrap import mean_interval, paired_bootstrap
from evaluation.ranking_metrics import score_rankings
from evaluation.targets import targets
from flows.local_environment import use_local_stores

CELLS = RESULTS / "cells" / "further_sets"
DATA_SETS = ("flickr_trips", "steam", "movielens_100k")
WINDOW_DAYS = 90
CUTS = (0.60, 0.65, 0.70, 0.75, 0.80)
SHARE_OF_WINDOW = 0.20
METRIC = "ndcg@10"
OURS, POPULAR = "perennial", "popular_7d"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="data sets")
    add_run_arguments(parser)
    asked = parser.parse_args()
    os.environ.setdefault("PERENNIAL_DATA", str((ROOT / ".." / "shared" / "data").resolve()))
    rows: list[dict[str, Any]] = []
    used: list[dict[str, Any]] = []
    for name in asked.data:
        configs = [on_threads(config, asked.threads) for config in configs_of(name, asked.storage)]
        if not configs:
            print(f"{name} left out: its data are not there (see --help)", file=sys.stderr)
        cells = [measured_cell(config) for config in configs]
        rows += [row for cell in cells for row in cell["rows"]]
        used += cells
        if len(cells) > 1:
            rows += pooled(name, cells)
    print(write_results("further_sets", command=command_of("further_sets"), rows=rows, **about_cells(used)))


# ---- parameters ----------------------------------------------------------------------------------------------------------------


def configs_of(name: str, storage: str) -> Iterator[PipelineConfig]:
    """Parameters of each cut of a data set; none where its data are not there."""
    folder = Path(os.environ["PERENNIAL_DATA"])
    if name == "flickr_trips" and (folder / "flickr_poi_trips").is_dir():
        visits = pl.read_parquet(folder / "flickr_poi_trips" / "visits.parquet", columns=["start_time"])["start_time"]
        yield with_window(PipelineConfig.from_yaml(PARAMETERS / "flickr_trips.yaml"), storage, last_window(visits.max()), WINDOW_DAYS)
    if name == "steam" and (folder / "steam_au_reviews").is_dir():
        reviews = pl.read_parquet(folder / "steam_au_reviews" / "reviews.parquet").filter(~pl.col("year_imputed"))
        games = pl.read_parquet(folder / "steam_au_reviews" / "games.parquet").drop_nulls("id").unique("id", keep="first", maintain_order=True)
        events = reviews.select(c.USER_ID, pl.col("item_id").cast(pl.String), event_time="date")
        genre = pl.col("genres").list.first().fill_null("none")
        tables = kept(name, storage, events, games.select(item_id=pl.col("id").cast(pl.String), category=genre, title=pl.col("title").fill_null("")))
        yield with_window(table_config(name, *tables, leads=True), storage, last_window(events["event_time"].max()), WINDOW_DAYS)
    if name == "movielens_100k" and (found := read(name)) is not None:
        tables = kept(name, storage, found.select(c.USER_ID, c.ITEM_ID, c.EVENT_TIME), None)
        for share in CUTS:
            origin, days = window_of(found[c.EVENT_TIME], share)
            config = with_window(table_config(name, *tables, leads=False), storage, origin, days)
            yield PipelineConfig.model_validate({**config.model_dump(), "name": f"{name}_{share:.0%}".replace("%", "")})


def last_window(last: Any) -> date:
    """The last origin that leaves a whole window."""
    day: date = last.date() if hasattr(last, "date") else last
    return day + timedelta(days=1 - WINDOW_DAYS)


def window_of(times: pl.Series, share: float) -> tuple[date, int]:
    """The day on which a share of the events has happened, and the days until the next fifth has: only what lies before the day is known."""
    ordered = times.sort()
    origin = ordered[int(share * len(ordered))].date()
    end = ordered[min(int((share + SHARE_OF_WINDOW) * len(ordered)), len(ordered) - 1)].date()
    if share + SHARE_OF_WINDOW >= 1:
        end += timedelta(days=1)
    return origin, (end - origin).days


def kept(name: str, storage: str, events: pl.DataFrame, catalogue: pl.DataFrame | None) -> tuple[str, str | None]:
    """Addresses of the tables, as files below the storage."""
    folder = Path(storage) / "further_sets" / name
    folder.mkdir(parents=True, exist_ok=True)
    events.write_parquet(folder / "events.parquet")
    if catalogue is None:
        return str(folder / "events.parquet"), None
    catalogue.write_parquet(folder / "catalogue.parquet")
    return str(folder / "events.parquet"), str(folder / "catalogue.parquet")


def table_config(name: str, events: str, catalogue: str | None, *, leads: bool) -> PipelineConfig:
    """Parameters of a table of ratings; without leads only `discover` is asked, and cut-offs come every week (the data last months)."""
    mapped = {"category": ["category"], "title": "title"} if catalogue else {}
    return PipelineConfig.model_validate(
        {
            "name": name,
            "vertical": "content",
            "source": {"dataset": "table", "uri": events, "catalogue_uri": catalogue, "catalogue_columns": mapped, "default_event_type": "rating"},
            "features": {} if leads else {"cutoff_every_days": 7, "first_cutoff_after_days": 21},
            "forecast": {"enabled": False},
            "fine_tuning": {"target_events": ["rating"]},
            "evaluation": {"lists": ["again", "discover"] if leads else ["discover"]},
        }
    )


def with_window(config: PipelineConfig, storage: str, origin: date, days: int) -> PipelineConfig:
    """One origin, lead 0, a window of so many days; what chooses the best baseline lies before the origin."""
    values = config.model_dump()
    values["storage_root"] = storage
    values["evaluation"] |= {"origins": [origin], "leads_days": [0], "horizon_days": days, "tune_until": origin, "season_lift": False, "slices": False}
    values["evaluation"]["lists"] = ["again", "discover"] if values["name"] == "flickr_trips" else values["evaluation"]["lists"]
    values["fine_tuning"]["leads_days"] = [0]
    return PipelineConfig.model_validate(values)


# ---- measuring -----------------------------------------------------------------------------------------------------------------


def measured_cell(config: PipelineConfig) -> dict[str, Any]:
    """Rows of one cut, and NDCG@10 of each user with ours and with the popular items of a week; read where it was measured before."""
    return kept_cell(CELLS / f"{name_of(config)}.json", lambda: measured(config))


def name_of(config: PipelineConfig) -> str:
    """Name of a cut's cell, wherever its tables lie and on however many threads it is trained."""
    return f"{config.name}-{digest_of(config.model_copy(update={'source': config.source.model_copy(update={'uri': None, 'catalogue_uri': None})}))}"


def measured(config: PipelineConfig) -> dict[str, Any]:
    """Rows, window and users of a cut, trained and measured."""
    use_local_stores(config.storage_root)
    from flows.partial_runs import train_and_measure, validate_only
    from tasks.evaluate import read_evaluation

    reference = train_and_measure(config)
    result = read_evaluation(reference.path)
    rows: list[dict[str, Any]] = [{**row.model_dump(), "seed": config.seed} for row in result.rows if row.metric == METRIC and row.origin == "all"]
    rows += [
        {**one.model_dump(), "dataset": config.name, "metric": f"gain of {one.metric}", "value": one.relative, "seed": config.seed, "origin": "all"}
        for one in result.comparisons
        if one.metric == METRIC
    ]
    rows += [{**best.model_dump(), "dataset": config.name, "metric": "best baseline", "origin": "all"} for best in result.best_baselines]
    assert reference.rankings is not None
    _, validated = validate_only(config)
    users = scores_of_users(config, pl.read_parquet(reference.rankings.path), pl.scan_parquet(validated.accepted.parts()).collect())
    window = [str(config.evaluation.origins[0]), config.evaluation.horizon_days]
    return {"window": window, "users": users, "rows": [short(row) for row in rows]}


def scores_of_users(config: PipelineConfig, ours: pl.DataFrame, interactions: pl.DataFrame) -> dict[str, dict[str, float]]:
    """NDCG@10 in `discover` of each user, for ours and for the popular items of the last week."""
    from evaluation.baselines import baseline_rankings

    settings = config.evaluation
    origin = settings.origins[0]
    asked = {"target_events": config.fine_tuning.target_events}
    wanted = targets(interactions, origin, 0, settings.horizon_days, "discover", **asked)
    popular = baseline_rankings(
        interactions, cutoff=origin, lead_days=(0,), horizon_days=settings.horizon_days, lists=("discover",), names=(POPULAR,), k=10, **asked
    )
    tables = {OURS: ours.filter(pl.col(c.LIST) == "discover", pl.col(c.CUTOFF) == origin), POPULAR: popular}
    return {
        name: {user: round(value, 6) for user, value in score_rankings(table, wanted).select(c.USER_ID, "ndcg").iter_rows()} for name, table in tables.items()
    }


def pooled(name: str, cells: list[dict[str, Any]], others: Sequence[str] = (POPULAR,)) -> list[dict[str, Any]]:
    """Ours and others over all cuts together, and the paired gain over each; the same user of several cuts is drawn once."""
    tables = {
        model: pl.DataFrame(
            [(user, cell["window"][0], value) for cell in cells for user, value in cell["users"][model].items()],
            schema=[c.USER_ID, "origin", "value"],
            orient="row",
        )
        for model in (OURS, *others)
    }
    about = {"dataset": name, "list": "discover", "lead_days": 0, "origin": "all"}
    rows = []
    for model, table in tables.items():
        found = mean_interval(table)
        rows.append({**about, "model": model, "metric": METRIC, "value": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high, "n": table.height})
    for other in others:
        gain = paired_bootstrap(tables[OURS], tables[other])
        compared = {"relative": gain.relative, "relative_low": gain.relative_low, "relative_high": gain.relative_high}
        compared |= {"difference": gain.difference, "ci_low": gain.ci_low, "ci_high": gain.ci_high}
        rows.append({**about, "model": OURS, "other": other, "metric": f"gain of {METRIC}", "value": gain.relative, **compared})
    return [short(row) for row in rows]


if __name__ == "__main__":
    main()
