"""Step `report`: one HTML page for a person - the decision, the figures, the year, the forecast, example lists, the data."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.logging import get_run_logger

from contracts import columns as c
from contracts.artifacts import Bundles, EvaluationRef, FeatureTables, ForecastTables, IngestReport, PromotionOutcome, RegisteredVersion, ValidationReport
from contracts.config import PipelineConfig
from contracts.sections.forecast import ForecastConfig
from evaluation.gates import PromotionDecision
from evaluation.report import DataQuality, PageData, ReportData, render_forecast_report, render_report
from evaluation.report_figures import draw_figures
from evaluation.report_panels import Example, ForecastPanel, LevelError, SeriesPart, example_of, forecast_panel, level_errors, season_heat_map
from evaluation.results import SeasonLift
from forecasting.against_last_year import error_against_last_year
from forecasting.forecast import panel_of
from forecasting.plot import PERIODS_A_YEAR, YEARS_SHOWN, decompose, part_name
from serving.recommender import Recommender
from tasks.evaluate import read_evaluation
from tasks.examples import example_dates, example_user, item_titles
from tasks.negative_control import NEGATIVE_CONTROL_NAME
from tasks.registry import ChildRun, child_of, connect, log_to_run, run_of_version
from tasks.reuse import run_each_time
from tasks.store import Store, fresh_folder, read_table, write_text

NUM_FORECAST_PANELS = 4
REPORT_NAME = "report.html"
FIGURES = "figures"


@task(name="report", **run_each_time(minutes=30))
def write_report(
    config: PipelineConfig,
    store: Store,
    ingested: IngestReport,
    validated: ValidationReport,
    features: FeatureTables,
    forecasts: ForecastTables | None,
    bundles: Bundles,
    evaluation: EvaluationRef,
    version: RegisteredVersion,
    promotion: PromotionOutcome,
) -> str:
    """Render the page, keep it with the store and with the MLflow run (its main figures as pictures too), and link it from Prefect. Returns its path."""
    recommender = Recommender.load(bundles.final.path)
    data = ReportData(
        **_shared(config, ingested, validated, features, forecasts),
        model_label="perennial",
        evaluation=read_evaluation(evaluation.against_champion or evaluation.path),
        decision=decision_of(promotion),
        negative_control=read_negative_control(store),
        examples=tuple(_examples(config, recommender)),
        facts={
            "version": f"{version.name} {version.version}",
            "MLflow run": version.run_id,
            "evaluation": evaluation.digest,
            "data": validated.accepted.digest,
            "data until": features.end,
            "seed": str(config.seed),
        },
    )
    client = connect(config.registry, store.storage_root)
    folder = fresh_folder(Path(store.root) / FIGURES)
    draw_figures(data.evaluation, data.heat_maps, data.forecasts, folder)
    log_to_run(client, child_of(client, version.run_id, "evaluation") or version.run_id, ChildRun("figures", artifacts=[folder]))
    return _keep(render_report(data), version.run_id, config, store)


@task(name="report", **run_each_time(minutes=30))
def write_forecast_report(
    config: PipelineConfig,
    store: Store,
    ingested: IngestReport,
    validated: ValidationReport,
    features: FeatureTables,
    forecasts: ForecastTables,
    forecaster: str,
) -> str:
    """The page of data without users: the year in demand, the forecasts and their errors, the data. Returns its path."""
    client = connect(config.registry, store.storage_root)
    name = f"{config.registry.model_name}-forecaster"
    run_id = run_of_version(client, name, forecaster)
    facts = {"version": f"{name} {forecaster}", "MLflow run": run_id, "data": validated.accepted.digest, "data until": features.end, "seed": str(config.seed)}
    data = PageData(**_shared(config, ingested, validated, features, forecasts), facts=facts)
    return _keep(render_forecast_report(data), run_id, config, store)


def _keep(page: str, run_id: str, config: PipelineConfig, store: Store) -> str:
    path = write_text(page, Path(store.root) / REPORT_NAME)
    log_to_run(connect(config.registry, store.storage_root), run_id, ChildRun("report", artifacts=[path]))
    create_link_artifact(path.resolve().as_uri(), key="report", link_text="Report")
    get_run_logger().info("report: %s", path.resolve().as_uri())
    return str(path)


def _shared(
    config: PipelineConfig, ingested: IngestReport, validated: ValidationReport, features: FeatureTables, forecasts: ForecastTables | None
) -> dict[str, Any]:
    """What any report shows: the data, the year in demand, forecasts with their errors."""
    demand = read_table(features.demand).collect()
    return {
        "title": config.name.replace("_", " ").title(),
        "created": f"{datetime.now(UTC):%-d %B %Y, %H:%M} UTC",
        "quality": DataQuality(
            rows_in=validated.rows_in + ingested.rows_quarantined,
            rows_accepted=validated.rows_accepted,
            rows_quarantined=ingested.rows_quarantined + validated.rows_quarantined,
            quarantined_by_rule={**ingested.quarantined_by_rule, **validated.quarantined_by_rule},
            num_expectations=validated.num_expectations,
            findings=validated.findings,
            data_docs=Path(validated.data_docs).resolve().as_uri() if validated.data_docs else None,
        ),
        "heat_maps": (season_heat_map(demand),),
        "forecasts": tuple(_forecasts(demand, features, forecasts, config.forecast)) if forecasts else (),
        "forecast_errors": _errors(features, forecasts, config.forecast) if forecasts else (),
    }


def read_negative_control(store: Store) -> tuple[SeasonLift, ...]:
    """Season lifts of the store's newest negative control; none where it was never run."""
    path = Path(store.root) / NEGATIVE_CONTROL_NAME
    return read_evaluation(str(path)).season_lifts if path.exists() else ()


def _judged_cutoffs(features: FeatureTables) -> list[date]:
    """Cut-offs whose forecasts can be judged: those evaluated, or, without users, all before the end."""
    return [date.fromisoformat(day) for day in features.origins or features.cutoffs[:-1]]


def _errors(features: FeatureTables, forecasts: ForecastTables, config: ForecastConfig) -> tuple[LevelError, ...]:
    cutoffs = _judged_cutoffs(features)
    error = error_against_last_year(read_table(forecasts.forecasts).collect(), read_table(features.demand), cutoffs=cutoffs, config=config)
    if error is None or forecasts.choices is None:
        return ()
    return level_errors(error.by_level, read_table(forecasts.choices).collect(), cutoffs=cutoffs)


def decision_of(promotion: PromotionOutcome) -> PromotionDecision:
    """The decision with its gates. What a gate's card says is not said again, but what shut a gate is said first."""
    of_gates = {f"{gate.name}: {reason}" for gate in promotion.gates for reason in gate.reasons}
    shut = tuple(f"{gate.name}: {reason}" for gate in promotion.gates for reason in gate.failures)
    passed = () if shut or not promotion.gates else (f"{' and '.join(gate.name for gate in promotion.gates)} gates passed",)
    others = tuple(reason for reason in promotion.reasons if reason not in of_gates)
    return PromotionDecision(promoted=promotion.promoted, reasons=(*shut, *passed, *others), gates=promotion.gates)


def _forecasts(demand: pl.DataFrame, features: FeatureTables, forecasts: ForecastTables, config: ForecastConfig) -> list[ForecastPanel]:
    """Fan charts of the total and the largest coarse categories over their last two years, at the last cut-off that can be judged, beside what came.

    The total is also taken apart into trend, seasons and holidays.
    Where forecasts are all there is, those from the end of the data on come first.
    """
    table = read_table(forecasts.forecasts).collect()
    choices = read_table(forecasts.choices).collect() if forecasts.choices else None
    judged, end = _judged_cutoffs(features)[-1:], date.fromisoformat(features.end)
    coarse = demand.filter(pl.col(c.LEVEL) == c.CATEGORY, ~pl.col(c.ID).str.contains(c.CATEGORY_SEPARATOR, literal=True), pl.col(c.REGION) == c.ALL_REGIONS)
    largest = coarse.group_by(c.ID).agg(pl.col(c.UNITS).sum()).sort(c.UNITS, c.ID, descending=[True, False])[c.ID].head(NUM_FORECAST_PANELS - 1).to_list()
    wanted = [("total", "total"), *((c.CATEGORY, name) for name in largest)]
    panels = []
    for cutoff in judged if features.origins else [end, *judged]:
        known = table.filter(pl.col(c.CUTOFF) == cutoff)
        for level, name in wanted:
            if known.filter(pl.col(c.LEVEL) == level, pl.col(c.ID) == name).height:
                of_all = demand.filter(pl.col(c.REGION) == c.ALL_REGIONS)
                title = f"{name}, the coming periods" if cutoff == end else name
                before = YEARS_SHOWN * PERIODS_A_YEAR[config.frequency]
                panel = forecast_panel(of_all, known, level=level, id=name, cutoff=cutoff, num_periods_before=before, title=title, choices=choices)
                panels.append(panel if level != c.TOTAL else _with_parts(panel, of_all, features, config))
    return panels


def _with_parts(panel: ForecastPanel, demand: pl.DataFrame, features: FeatureTables, config: ForecastConfig) -> ForecastPanel:
    """The total beside its trend, seasons and holidays, as known at the cut-off."""
    series = panel_of(demand.lazy().filter(pl.col(c.LEVEL) == c.TOTAL, pl.col(c.DATE) < panel.cutoff), config)
    parts = decompose(series, 0, seasons=config.season_periods, calendar=read_table(features.calendar).collect())
    shown = parts.tail(YEARS_SHOWN * PERIODS_A_YEAR[config.frequency])
    names = [name for name in shown.columns if name not in {c.DATE, c.UNITS}]
    told = tuple(SeriesPart(name=part_name(name, config.frequency), values=tuple(shown[name])) for name in names)
    return panel.model_copy(update={"part_dates": tuple(shown[c.DATE]), "parts": told})


def _examples(config: PipelineConfig, recommender: Recommender) -> list[Example]:
    user, names = example_user(recommender), item_titles(recommender)
    examples = []
    for list_name in recommender.lists:
        for occasion, day in example_dates(recommender.cutoff, config.features.country).items():
            rankings = recommender.rank([user], request_date=day, list_name=list_name, k=10)
            examples.append(
                example_of(rankings, user=user, list_name=list_name, request_date=day, title=occasion, item_catalogue=recommender.item_catalogue, names=names)
            )
    return examples
