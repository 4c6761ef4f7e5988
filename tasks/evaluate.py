"""Step `evaluate`: the protocol - origins, leads, two lists, slices, intervals; baselines and the champion beside the recommender."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import polars as pl
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import BundleRef, Bundles, ChampionRef, EvaluationRef, FeatureTables, ValidationReport
from contracts.errors import BundleError, NotEnoughHistoryError
from contracts.sections.evaluation import EvaluationConfig, RegistryConfig
from contracts.sections.features import FeaturesConfig
from contracts.sections.validation import ValidationConfig
from evaluation.baselines import baseline_rankings
from evaluation.evaluation import evaluate as evaluate_rankings
from evaluation.new_items import items_without_history, new_item_targets
from evaluation.origins import evaluation_origins, leads_that_fit, tuning_origins
from evaluation.results import EvaluationResult
from evaluation.season_lift import SHIFT_DAYS
from evaluation.targets import known_before
from expectations.validation import validate_table
from serving.bundle import bundle_ref, read_bundle
from serving.recommender import Recommender
from tasks.progress import Progress, progress_of
from tasks.registry import CHAMPION, bundle_of_version, connect, registry_faults, version_at
from tasks.reuse import reusable, run_each_time
from tasks.store import SCORER, Store, read_table, write_table, write_text

CODE = ("evaluation", "features", "expectations", *SCORER)
OURS = "perennial"
DEEPEST_RANK = 20
READ = (c.CUTOFF, c.REQUEST_DATE, c.LIST, c.USER_ID, c.ITEM_ID, c.RANK)  # all that a measure reads of a ranking


@task(name="find_champion", **run_each_time(minutes=30))
def find_champion(bundles: Bundles, registry: RegistryConfig, store: Store) -> ChampionRef | None:
    """The version that serves now, with its data; None where there is none yet, or where it is the very model this run made."""
    client = connect(registry, store.storage_root)
    serving = version_at(client, registry.model_name, CHAMPION)
    if serving is None or serving.tags.get("bundle_digest") == bundles.final.digest:
        reason = "there is none yet" if serving is None else f"version {serving.version} is the very model of this run"
        create_markdown_artifact(f"No champion to compare with: {reason}. The best baseline of each list stands in.", key="champion")
        return None
    numbers = (str(serving.version), serving.tags.get("evaluated_version", str(serving.version)))
    bundle, measured = (bundle_ref(read_bundle(bundle_of_version(registry, store.storage_root, number))) for number in numbers)
    create_markdown_artifact(f"Version {numbers[0]} of {registry.model_name} serves now; its data end {measured.cutoff}.", key="champion")
    return ChampionRef(version=numbers[0], bundle=bundle, measured=measured)


@task(name="evaluate", **reusable(*CODE, minutes=240))
def evaluate(
    bundles: Bundles,
    champion: ChampionRef | None,
    validated: ValidationReport,
    features: FeatureTables,
    config: EvaluationConfig,
    features_config: FeaturesConfig,
    target_events: tuple[str, ...],
    store: Store,
    *,
    validation: ValidationConfig,
    name: str,
    seed: int,
) -> EvaluationRef:
    """Rank at every origin and lead with what was known then, and measure all models on the same targets."""
    folder = store.step_folder("evaluate", bundles, champion, validated.accepted, config, features_config, ",".join(target_events), code=CODE)
    interactions = read_table(validated.accepted)
    first_day, last_day = date.fromisoformat(features.first_day), date.fromisoformat(features.end) - timedelta(days=1)
    windows = evaluation_origins(first_day, last_day, config)
    with progress_of("evaluate") as report_progress:
        catalogue = read_table(features.item_catalogue).select(c.ITEM_ID, c.CATEGORY).collect() if features.item_catalogue else None
        of_new_items = _NewItems(interactions, catalogue, config, target_events) if config.slices and catalogue is not None else None
        ours, shifted, new_items = _ours(bundles.evaluated, windows, config, report_progress, of_new_items)
        rankings = write_table(ours, folder / "rankings.parquet", "rankings")
        validate_table(rankings, validation, folder=folder / "validation")
        report_progress(0.4, "baselines")
        others = _baselines(interactions, {**tuning_origins(first_day, config), **windows}, config, target_events, report_progress)
        report_progress(0.8, "figures and intervals")

        def measured(rankings: dict[str, pl.DataFrame], settings: EvaluationConfig, champion_name: str | None = None) -> EvaluationResult:
            return evaluate_rankings(
                rankings,
                interactions,
                settings,
                model=OURS,
                dataset=name,
                champion=champion_name,
                shifted={OURS: shifted} if shifted is not None else None,
                target_events=target_events,
                item_catalogue=catalogue,
                new_items=new_items,
                season_names=features_config.season_names,
                seed=seed,
            )

        result = measured({OURS: ours, **others}, config)
        against = _against_champion(champion, ours, interactions, windows, config, measured) if champion else None
        write_text(result.model_dump_json(indent=1), folder / "evaluation.json")
        if against:
            write_text(against.model_dump_json(indent=1), folder / "against_champion.json")
        reference = EvaluationRef(
            path=str(folder / "evaluation.json"),
            against_champion=str(folder / "against_champion.json") if against else None,
            digest=against.digest if against else result.digest,
            rankings=rankings,
            champion_version=champion.version if champion else None,
        )
    create_table_artifact(table_of(result), key="evaluation", description="NDCG@10, pooled over origins")
    get_run_logger().info("evaluated %s origins at leads %s: %s", len(windows), config.leads_days, reference.path)
    return reference


@task(name="evaluate", **run_each_time(minutes=240))
def evaluate_registered(
    version: str,
    validated: ValidationReport,
    features: FeatureTables,
    config: EvaluationConfig,
    features_config: FeaturesConfig,
    registry: RegistryConfig,
    target_events: tuple[str, ...],
    store: Store,
    *,
    validation: ValidationConfig,
    name: str,
    seed: int,
) -> EvaluationRef:
    """Measure a registered version (number or alias) at the newest origin at or after its cut-off; the version it was refitted from where there is none.

    Raises NotEnoughHistoryError where the data hold no whole window after the version's cut-off.
    """
    client = connect(registry, store.storage_root)
    with registry_faults():
        found = version_at(client, registry.model_name, version) if not version.isdigit() else client.get_model_version(registry.model_name, version)
    if found is None:
        raise BundleError(f"{registry.model_name}: no version at {version!r}. Give a version number or one of the aliases champion, challenger.")
    numbers = dict.fromkeys((str(found.version), found.tags.get("evaluated_version", str(found.version))))
    last_day = date.fromisoformat(features.end) - timedelta(days=1)
    for number in numbers:
        bundle = bundle_ref(read_bundle(bundle_of_version(registry, store.storage_root, number)))
        origin = date.fromisoformat(bundle.cutoff)
        leads = leads_that_fit(origin, last_day, config)
        if leads:
            break
    else:
        raise NotEnoughHistoryError(
            f"{registry.model_name} version {version}: its data end {origin}; no window of {config.horizon_days} days after it lies in the data."
        )
    settings = config.model_copy(update={"origins": (origin,), "leads_days": leads, "tune_until": None})
    bundles = Bundles(evaluated={bundle.cutoff: bundle}, final=bundle)
    return evaluate.fn(bundles, None, validated, features, settings, features_config, target_events, store, validation=validation, name=name, seed=seed)


def _against_champion(
    champion: ChampionRef,
    ours: pl.DataFrame,
    interactions: pl.LazyFrame,
    windows: dict[date, tuple[int, ...]],
    config: EvaluationConfig,
    measured: Callable[[dict[str, pl.DataFrame], EvaluationConfig, str], EvaluationResult],
) -> EvaluationResult | None:
    """Both models on the origins that neither has seen. The champion knows what users did up to the origin, as it does in service.

    The version that serves is asked where its cut-off allows; else the one it was refitted from. None where both have seen every origin.
    """
    for bundle in (champion.bundle, champion.measured):
        fair = {origin: leads for origin, leads in windows.items() if origin >= date.fromisoformat(bundle.cutoff)}
        if fair:
            break
    else:
        return None
    name = f"champion (version {champion.version})"
    recommender = Recommender.load(bundle.path, version=name)
    parts = []
    for origin, leads in fair.items():
        since = interactions.filter((pl.col(c.EVENT_TIME).dt.date() >= recommender.cutoff) & (pl.col(c.EVENT_TIME).dt.date() < origin))
        newer = since.select(c.USER_ID, c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE, c.PLATFORM).collect()
        users = ours.filter(pl.col(c.CUTOFF) == origin)[c.USER_ID].unique().sort().to_list()
        questions = [recommender.question(origin + timedelta(days=lead), list_name=list_name, k=DEEPEST_RANK) for lead in leads for list_name in config.lists]
        tables = recommender.rank_each(questions, users, histories=newer if newer.height else None)
        parts += [table.with_columns(pl.lit(origin).alias(c.CUTOFF)) for table in tables]
    mine = ours.filter(pl.col(c.CUTOFF).is_in(list(fair)))
    return measured({OURS: mine, name: pl.concat(parts)}, config.model_copy(update={"origins": tuple(fair), "season_lift": False}), name)


def average_over_seeds(
    references: Sequence[EvaluationRef], validated: ValidationReport, config: EvaluationConfig, target_events: tuple[str, ...], *, name: str, seed: int
) -> EvaluationResult:
    """Evaluations of one model trained with several seeds as one: figures of a user are averaged over the seeds before intervals are taken."""
    tables = [read_table(reference.rankings).collect() for reference in references if reference.rankings]
    asked = tables[0].select(c.CUTOFF, lead=(pl.col(c.REQUEST_DATE) - pl.col(c.CUTOFF)).dt.total_days()).unique().sort(c.CUTOFF, "lead")
    windows = {origin: tuple(part["lead"]) for (origin,), part in asked.partition_by(c.CUTOFF, as_dict=True, maintain_order=True).items()}
    interactions = read_table(validated.accepted)
    others = _baselines(interactions, windows, config, target_events, lambda share, text="": None)
    settings = config.model_copy(update={"season_lift": False, "slices": False, "tune_until": None})
    return evaluate_rankings({OURS: tables, **others}, interactions, settings, model=OURS, dataset=name, target_events=target_events, seed=seed)


def read_evaluation(path: str) -> EvaluationResult:
    """A stored evaluation."""
    return EvaluationResult.model_validate_json(Path(path).read_text(encoding="utf-8"))


def table_of(result: EvaluationResult) -> list[dict[str, str]]:
    """One row per list and model: the main metric per lead with its interval, best first."""
    rows = []
    for list_name in result.lists:
        ranked = sorted(result.models, key=lambda model: -result.figure(model, list_name).value)
        for model in ranked:
            figures = {lead: result.figure(model, list_name, lead) for lead in result.leads}
            rows.append(
                {"list": list_name, "model": model, **{f"lead {lead}": f"{f.value:.3f} [{f.ci_low:.3f}, {f.ci_high:.3f}]" for lead, f in figures.items()}}
            )
    return rows


@dataclass(frozen=True)
class _NewItems:
    """What is needed to rank items without history among themselves."""

    interactions: pl.LazyFrame
    catalogue: pl.DataFrame
    config: EvaluationConfig
    target_events: tuple[str, ...]

    def ranked(self, recommender: Recommender, origin: date, leads: tuple[int, ...]) -> list[pl.DataFrame]:
        """One ranking for each list and lead, of the users who chose such an item in that window; none where there are none."""
        known = known_before(self.interactions, origin)
        offered = items_without_history(self.interactions, origin, self.catalogue, known=known)
        tables = []
        for lead in leads if offered.height else ():
            wanted = new_item_targets(
                self.interactions, origin, lead, self.config.horizon_days, "again", offered, target_events=self.target_events, known=known
            )
            users = wanted[c.USER_ID].unique(maintain_order=True).to_list()
            if not users:
                continue
            questions = [
                recommender.question(origin + timedelta(days=lead), list_name=list_name, k=DEEPEST_RANK, candidates=offered[c.ITEM_ID])
                for list_name in self.config.lists
            ]
            tables += recommender.rank_each(questions, users)
        return tables


def _ours(
    bundles: dict[str, BundleRef], windows: dict[date, tuple[int, ...]], config: EvaluationConfig, progress: Progress, of_new_items: _NewItems | None
) -> tuple[pl.DataFrame, pl.DataFrame | None, pl.DataFrame | None]:
    """Rankings at every origin, lead and list; for the season lift the same with look-ups by date half a year off; and those of items without history."""
    shifts = (0, SHIFT_DAYS) if config.season_lift else (0,)
    parts: dict[int, list[pl.DataFrame]] = {shift: [] for shift in shifts}
    of_new: list[pl.DataFrame] = []
    for number, (origin, leads) in enumerate(windows.items()):
        progress(0.4 * number / len(windows), f"lists of {OURS} at {origin}")
        recommender = Recommender.load(bundles[origin.isoformat()].path, version=OURS)
        asked = [(shift, lead, list_name) for shift in shifts for lead in leads for list_name in config.lists]
        questions = [
            recommender.question(origin + timedelta(days=lead), list_name=list_name, k=DEEPEST_RANK, lookup_shift_days=shift)
            for shift, lead, list_name in asked
        ]
        for (shift, _, _), table in zip(asked, recommender.rank_each(questions), strict=True):
            parts[shift].append(table)
        if of_new_items:
            of_new += of_new_items.ranked(recommender, origin, leads)
    return pl.concat(parts[0]), pl.concat(parts[SHIFT_DAYS]) if config.season_lift else None, pl.concat(of_new) if of_new else None


def _baselines(
    interactions: pl.LazyFrame, windows: dict[date, tuple[int, ...]], config: EvaluationConfig, target_events: tuple[str, ...], progress: Progress
) -> dict[str, pl.DataFrame]:
    events = interactions.select(c.USER_ID, c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE).collect()
    tables: dict[str, list[pl.DataFrame]] = {name: [] for name in config.baselines}
    for number, (origin, leads) in enumerate(windows.items()):
        progress(0.4 + 0.4 * number / len(windows), f"baselines at {origin}")
        ranked = baseline_rankings(
            events,
            cutoff=origin,
            lead_days=leads,
            horizon_days=config.horizon_days,
            lists=config.lists,
            names=config.baselines,
            k=DEEPEST_RANK,
            target_events=target_events,
        )
        for (name,), table in ranked.select(c.MODEL_VERSION, *READ).partition_by(c.MODEL_VERSION, as_dict=True, include_key=False).items():
            tables[name].append(table)
    return {name: pl.concat(parts) for name, parts in tables.items()}
