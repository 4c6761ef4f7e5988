"""Step `build_features`: calendar, demand levels, histories and habits, nothing of them at or after its cut-off."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import FeatureTables, TableRef, ValidationReport
from contracts.sections.evaluation import EvaluationConfig
from contracts.sections.features import FeaturesConfig
from contracts.sections.forecast import ForecastConfig
from contracts.sections.validation import ValidationConfig
from evaluation.origins import evaluation_origins
from expectations.validation import validate_tables
from features.calendar import calendar
from features.cutoffs import sample_pairs, training_cutoffs
from features.demand import demand, demand_features, frequency_of_items
from features.habits import habit_inputs, habits
from features.histories import histories, training_events
from features.item_weeks import item_weeks
from features.training_targets import training_targets
from features.vocabulary import grow_vocabulary
from tasks.progress import progress_of
from tasks.reuse import reusable
from tasks.store import Store, read_table, write_table

CODE = ("features", "evaluation/origins.py", "expectations")
CALENDAR_YEARS_AHEAD = 2


@task(name="build_features", **reusable(*CODE, minutes=240))
def build_features(
    validated: ValidationReport,
    features: FeaturesConfig,
    forecast: ForecastConfig,
    evaluation: EvaluationConfig,
    store: Store,
    *,
    target_events: tuple[str, ...],
    leads_days: tuple[int, ...],
    has_users: bool,
    validation: ValidationConfig,
) -> FeatureTables:
    """Write every table that is known at the cut-offs of training, evaluation and serving, and check those that serve.

    Of fine-tuning only the target events and the leads are asked for, so that other settings of the head find the tables made.
    """
    item_catalogue = validated.item_catalogue
    labels = f"{target_events} {leads_days}"
    folder = store.step_folder("build_features", validated.accepted, item_catalogue, features, forecast, evaluation, labels, code=CODE)
    interactions = read_table(validated.accepted)
    catalogue = read_table(item_catalogue) if item_catalogue else None
    first_day, end = _span(interactions)
    with progress_of("build_features") as report_progress:
        report_progress(0.0, "calendar and demand")
        tables = FeatureTables(
            first_day=first_day.isoformat(),
            end=end.isoformat(),
            cutoffs=(end.isoformat(),),
            origins=(),
            vocabulary=_vocabulary(interactions, catalogue, folder, store),
            item_catalogue=item_catalogue,
            training_events=None,
            calendar=_calendar(interactions, features, first_day, end, folder),
            demand=write_table(
                demand(
                    interactions,
                    catalogue,
                    frequency=forecast.frequency,
                    levels=forecast.levels,
                    end=end,
                    by_region=features.use_regions,
                    clip_quantile=features.clip_quantile,
                ),
                folder / "demand.parquet",
                "demand",
            ),
        )
        report_progress(0.02, "lags, averages and season index of every series")
        tables = tables.model_copy(update={"demand_features": _demand_features(interactions, catalogue, tables, features, folder)})
        if not has_users:
            validate_tables([tables.vocabulary, tables.demand], validation, folder=folder / "validation")
            return _with_forecast_cutoffs(tables, forecast)
        origins = sorted(evaluation_origins(first_day, end - timedelta(days=1), evaluation))
        grid = training_cutoffs(first_day, end, every_days=features.cutoff_every_days, first_after_days=features.first_cutoff_after_days)
        cutoffs = sorted({*grid, *origins})
        pairs = sample_pairs(cutoffs, leads_days, horizon_days=evaluation.horizon_days, known_until=end)
        vocabulary = pl.read_parquet(tables.vocabulary.path)
        wanted = interactions.filter(pl.col(c.EVENT_TYPE).is_in(target_events))
        weeks, habit_tables, history_tables, targets, samples = {}, {}, {}, {}, {}
        for number, cutoff in enumerate(cutoffs):
            name = cutoff.isoformat()
            report_progress((number + 0.5) / (len(cutoffs) + 1), f"what was known on {name}")
            weeks[name] = write_table(item_weeks(wanted, cutoff, by_region=features.use_regions), folder / "item_weeks" / f"{name}.parquet", "item_weeks")
            habit_tables[name] = write_table(habits(wanted, cutoff, features.habit_half_lives_days), folder / "habits" / f"{name}.parquet", "habits")
            if cutoff in origins or cutoff == end:
                history_tables[name] = write_table(histories(interactions, cutoff, features.max_history), folder / "histories" / f"{name}.parquet", "histories")
            for lead in [lead for of_pair, lead in pairs if of_pair == cutoff]:
                key = f"{name}/{lead}"
                targets[key], samples[key] = write_sample(wanted, habit_tables[name], cutoff, lead, features, target_events, evaluation, folder)
        events = write_table(training_events(interactions, vocabulary), folder / "training_events.parquet", "training_events")
        report_progress((len(cutoffs) + 0.5) / (len(cutoffs) + 1), "checks")
        newest = end.isoformat()
        serving = [tables.vocabulary, tables.demand, weeks[newest], habit_tables[newest], history_tables[newest]]
        validate_tables(serving, validation, folder=folder / "validation")
    result = tables.model_copy(
        update={
            "cutoffs": tuple(day.isoformat() for day in cutoffs),
            "origins": tuple(day.isoformat() for day in origins),
            "training_events": events,
            "item_weeks": weeks,
            "habits": habit_tables,
            "histories": history_tables,
            "targets": targets,
            "habit_samples": samples,
        }
    )
    _tell(result)
    return result


def write_sample(
    wanted: pl.LazyFrame,
    known: TableRef,
    cutoff: date,
    lead: int,
    features: FeaturesConfig,
    target_events: tuple[str, ...],
    evaluation: EvaluationConfig,
    folder: Path,
) -> tuple[TableRef, TableRef]:
    """Targets of one (cut-off, lead), and the habit inputs of the users who have any; `wanted` are the target events, `known` the habits at the cut-off."""
    place = f"{cutoff.isoformat()}_{lead}.parquet"
    rows = training_targets(wanted, cutoff, lead, evaluation.horizon_days, target_events)
    targets = write_table(rows, folder / "targets" / place, "targets")
    present = read_table(targets).select(c.USER_ID).unique()
    inputs = habit_inputs(
        read_table(known).join(present, on=c.USER_ID, how="semi"),
        cutoff + timedelta(days=lead),
        cutoff=cutoff,
        horizon_days=evaluation.horizon_days,
        half_lives_days=features.habit_half_lives_days,
    )
    return targets, write_table(inputs.select(c.USER_ID, c.ITEM_ID, pl.col("^habit_.*$")), folder / "samples" / place, "habit_inputs")


def _span(interactions: pl.LazyFrame) -> tuple[date, date]:
    """First day of the log and the exclusive end: the day after the last event."""
    times = interactions.select(pl.col(c.EVENT_TIME).min().dt.date().alias("first"), pl.col(c.EVENT_TIME).max().dt.date().alias("last")).collect()
    return times["first"].item(), times["last"].item() + timedelta(days=1)


def _vocabulary(interactions: pl.LazyFrame, catalogue: pl.LazyFrame | None, folder: Path, store: Store) -> TableRef:
    """Ids keep their number from run to run: the vocabulary of the store grows and never shrinks."""
    kept = Path(store.root) / "vocabulary.parquet"
    ids = interactions.select(c.ITEM_ID)
    if catalogue is not None:
        ids = pl.concat([ids, catalogue.select(c.ITEM_ID)])
    grown = grow_vocabulary(pl.read_parquet(kept) if kept.exists() else None, ids)
    write_table(grown, kept, "vocabulary")
    return write_table(grown, folder / "vocabulary.parquet", "vocabulary")


def _demand_features(interactions: pl.LazyFrame, catalogue: pl.LazyFrame | None, tables: FeatureTables, config: FeaturesConfig, folder: Path) -> TableRef:
    """Lags, moving averages, growth, last year's window and season index: of the forecast levels, and of every item on a grid its number allows."""
    items = demand(
        interactions,
        catalogue,
        frequency=frequency_of_items(tables.vocabulary.rows, weekly_above_items=config.weekly_above_items),
        levels=["item"],
        end=date.fromisoformat(tables.end),
        by_region=config.use_regions,
        clip_quantile=config.clip_quantile,
    )
    groups = read_table(tables.demand).filter(pl.col(c.LEVEL) != c.ITEM)
    table = demand_features(
        pl.concat([groups, items]),
        catalogue,
        lag_days=config.lag_days,
        moving_average_days=config.moving_average_days,
        shrinkage_units=config.shrinkage_units,
        calendar=read_table(tables.calendar),
    )
    return write_table(table, folder / "demand_features.parquet", "demand_features")


def _calendar(interactions: pl.LazyFrame, features: FeaturesConfig, first_day: date, end: date, folder: Path) -> TableRef:
    if features.use_regions:
        found = interactions.select(pl.col(c.REGION).drop_nulls().unique().sort()).collect()[c.REGION].to_list()
        regions = {region: features.region_countries.get(region, features.country) for region in found}
    else:
        regions = {}
    table = calendar(
        first_day,
        end + timedelta(days=366 * CALENDAR_YEARS_AHEAD),
        regions={c.ALL_REGIONS: features.country, **regions},
        fourier_order=features.fourier_order,
        season_names=features.season_names,
        pay_days=pl.read_parquet(features.pay_days_uri) if features.pay_days_uri else None,
        school_terms=pl.read_parquet(features.school_terms_uri) if features.school_terms_uri else None,
    )
    return write_table(table, folder / "calendar.parquet", "calendar")


def _with_forecast_cutoffs(tables: FeatureTables, forecast: ForecastConfig) -> FeatureTables:
    """Demand-only data: the end, and as many earlier cut-offs as the back-test asks for."""
    step = timedelta(days=forecast.horizon_periods * (7 if forecast.frequency == "week" else 1))
    end, first = date.fromisoformat(tables.end), date.fromisoformat(tables.first_day)
    earlier = [end - step * number for number in range(1, forecast.back_test_origins + 1)]
    return tables.model_copy(update={"cutoffs": tuple(sorted(day.isoformat() for day in [*earlier, end] if day > first + step))})


def _tell(tables: FeatureTables) -> None:
    rows = [
        {"table": ref.name, "rows": f"{ref.rows:,}", "columns": len(ref.columns)}
        for ref in (
            tables.vocabulary,
            tables.calendar,
            tables.demand,
            tables.training_events,
            *(group[tables.end] for group in (tables.item_weeks, tables.habits, tables.histories)),
        )
        if ref
    ]
    create_table_artifact(rows, key="feature-tables", description=f"{len(tables.cutoffs)} cut-offs from {tables.cutoffs[0]} to {tables.end}")
    get_run_logger().info(
        "%s cut-offs, %s items, %s events",
        len(tables.cutoffs),
        f"{tables.vocabulary.rows:,}",
        f"{tables.training_events.rows if tables.training_events else 0:,}",
    )
