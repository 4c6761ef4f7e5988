"""Step `update_features`: what is known at the end of the log and at the newest window, from monthly parts; only months that changed are read again."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import FeatureTables, Reference, TableRef, ValidationReport, content_digest, text_digest
from contracts.sections.evaluation import EvaluationConfig
from contracts.sections.features import FeaturesConfig
from contracts.sections.training import FineTuningConfig
from features.calendar import calendar
from features.demand import demand
from features.habits import habits
from features.histories import histories, kinds_of_events
from features.item_weeks import item_weeks
from features.monthly_parts import history_part, purchase_part
from features.vocabulary import grow_vocabulary
from tasks.reuse import reusable
from tasks.store import Store, code_version, read_table, write_table

CODE = ("features",)
CALENDAR_DAYS_AHEAD = 366


class FreshTables(Reference):
    """Tables at the end of the log (`tables.end`) and at the newest whole window (`tables.origins`), and which months were read for them."""

    tables: FeatureTables
    purchases: TableRef
    months: tuple[str, ...]
    read_again: tuple[str, ...]


@task(name="update_features", **reusable(*CODE, minutes=120))
def update_features(
    validated: ValidationReport, features: FeaturesConfig, fine_tuning: FineTuningConfig, evaluation: EvaluationConfig, store: Store
) -> FreshTables:
    """Bring the parts of touched months up to date and make histories, habits and item weeks from all parts; equal to those made from the whole log."""
    folder = store.step_folder("update_features", validated.accepted, features, fine_tuning, evaluation, code=CODE)
    months, read_again = _monthly_parts(validated.accepted, features, fine_tuning.target_events, store)
    purchases = write_table(pl.concat([pl.scan_parquet(parts / "purchases.parquet") for parts in months.values()]), folder / "purchases.parquet", "purchases")
    span = (
        read_table(validated.accepted).select(pl.col(c.EVENT_TIME).min().dt.date().alias("first"), pl.col(c.EVENT_TIME).max().dt.date().alias("last")).collect()
    )
    first_day, end = span["first"].item(), span["last"].item() + timedelta(days=1)
    origin = end - timedelta(days=max(evaluation.leads_days) + evaluation.horizon_days)
    cutoffs = [day for day in (origin, end) if day > first_day]
    known = {day.isoformat(): _known_at(day, purchases, months, validated.accepted, features, folder) for day in cutoffs}
    tables = FeatureTables(
        first_day=first_day.isoformat(),
        end=end.isoformat(),
        cutoffs=tuple(known),
        origins=tuple(known)[:-1],
        vocabulary=_vocabulary(validated, store, folder),
        item_catalogue=validated.item_catalogue,
        training_events=None,
        calendar=write_table(
            calendar(first_day, end + timedelta(days=CALENDAR_DAYS_AHEAD), regions={c.ALL_REGIONS: features.country}, season_names=features.season_names),
            folder / "calendar.parquet",
            "calendar",
        ),
        demand=write_table(
            demand(read_table(purchases), None, frequency="day", levels=["total"], end=end, clip_quantile=features.clip_quantile),
            folder / "demand.parquet",
            "demand",
        ),
        item_weeks={day: found["item_weeks"] for day, found in known.items()},
        habits={day: found["habits"] for day, found in known.items()},
        histories={day: found["histories"] for day, found in known.items()},
    )
    get_run_logger().info("%s months, read again: %s", len(months), ", ".join(read_again) or "none")
    create_table_artifact([{"month": month, "read again": month in read_again} for month in months], key="updated-months", description=f"Events up to {end}")
    return FreshTables(tables=tables, purchases=purchases, months=tuple(months), read_again=read_again)


def _monthly_parts(accepted: TableRef, features: FeaturesConfig, target_events: tuple[str, ...], store: Store) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Folder of the parts of each month, oldest first, and the months that had to be read."""
    by_month: dict[str, list[Path]] = {}
    for path in accepted.parts():
        by_month.setdefault(path.parent.name.removeprefix("month="), []).append(path)
    kept, read_again = {}, []
    for month, files in sorted(by_month.items()):
        digest = text_digest(content_digest(files), ",".join(target_events), str(features.max_history), code_version(CODE))
        folder = kept[month] = Path(store.root) / "months" / month / digest
        if not (folder / "histories.parquet").exists():
            rows = pl.scan_parquet(files)
            write_table(purchase_part(rows, target_events), folder / "purchases.parquet", "purchases")
            write_table(history_part(rows, features.max_history), folder / "histories.parquet", "histories")
            read_again.append(month)
    return kept, tuple(read_again)


def _known_at(cutoff: date, purchases: TableRef, months: dict[str, Path], accepted: TableRef, features: FeaturesConfig, folder: Path) -> dict[str, TableRef]:
    name = f"{cutoff.isoformat()}.parquet"
    bought = read_table(purchases)
    # the month of the cut-off is read as it is: its part holds the newest events of the whole month
    current = cutoff.strftime("%Y-%m")
    past = [pl.scan_parquet(parts / "histories.parquet") for month, parts in months.items() if month < current]
    running = [path for path in accepted.parts() if path.parent.name.removeprefix("month=") >= current]
    rows = [*past, *(kinds_of_events(pl.scan_parquet(path)) for path in running)]
    return {
        "item_weeks": write_table(item_weeks(bought, cutoff, by_region=features.use_regions), folder / "item_weeks" / name, "item_weeks"),
        "habits": write_table(habits(bought, cutoff, features.habit_half_lives_days), folder / "habits" / name, "habits"),
        "histories": write_table(histories(pl.concat(rows), cutoff, features.max_history), folder / "histories" / name, "histories"),
    }


def _vocabulary(validated: ValidationReport, store: Store, folder: Path) -> TableRef:
    """Numbers of items as training gave them, new items after them; the store's own vocabulary grows only in training."""
    kept = Path(store.root) / "vocabulary.parquet"
    ids = read_table(validated.accepted).select(c.ITEM_ID)
    if validated.item_catalogue:
        ids = pl.concat([ids, read_table(validated.item_catalogue).select(c.ITEM_ID)])
    return write_table(grow_vocabulary(pl.read_parquet(kept) if kept.exists() else None, ids), folder / "vocabulary.parquet", "vocabulary")
