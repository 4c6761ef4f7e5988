"""What a run prints at its end: figures beside the baselines, a decision, lists at two dates, where to look next."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from contracts.artifacts import EvaluationRef, RegisteredVersion, TrainingOutcome
from contracts.config import PipelineConfig
from contracts.errors import BundleError
from evaluation.results import EvaluationResult
from serving.recommender import Recommender
from tasks.audit import audit_trail
from tasks.evaluate import read_evaluation
from tasks.examples import example_dates, example_user, item_titles
from tasks.registry import CHAMPION, bundle_of_version, connect, version_at
from tasks.store import audit_address, store_of

CONTRASTED = 5  # items each way
WIDE = 1_000  # columns that any table fits


def show_demo(config: PipelineConfig, outcome: TrainingOutcome, console: Console) -> None:
    """The outcome, then ten recommendations for one household in July and at Thanksgiving."""
    _show_figures(outcome, console)
    recommender = load_champion(config, otherwise=outcome.version)
    user = example_user(recommender)
    for occasion, day in example_dates(recommender.cutoff, config.features.country).items():
        console.print(f"\n[bold]Household {user}, {occasion} ({day}), asked at the end of the data ({recommender.cutoff})[/bold]")
        print_list(recommender, user, day, list_name="again", k=10, explain=True, console=console)
    print_season_contrast(recommender, config.features.country, console)
    _where_next(config, outcome, recommender, user, console)


def show_outcome(config: PipelineConfig, outcome: TrainingOutcome, console: Console) -> None:
    """Figures and decision of a run, and where its report is."""
    _show_figures(outcome, console)
    if outcome.report:
        console.print(f"\nReport: {_near(outcome.report)}", soft_wrap=True)


def _show_figures(outcome: TrainingOutcome, console: Console) -> None:
    if outcome.evaluation:
        print_evaluation(outcome.evaluation, console)
    if outcome.promotion:
        verdict = (
            "promoted to champion"
            if outcome.promotion.promoted
            else ("challenger, waits for a review" if outcome.promotion.challenger else "refused by its gates")
        )
        console.print(f"\n[bold]Version {outcome.version.version if outcome.version else '?'}: {verdict}[/bold]")
        for reason in outcome.promotion.reasons:
            console.print(f"  {escape(reason)}")
    if outcome.forecasts and not outcome.evaluation:
        console.print(f"{outcome.forecasts.forecasts.rows:,} rows of forecasts: {outcome.forecasts.forecasts.path}")


def print_evaluation(evaluation: EvaluationRef, console: Console) -> None:
    """NDCG@10 per list, model and lead with its interval; the recommender's gain over each with its interval. Where all leads are too wide, one by one."""
    result = read_evaluation(evaluation.path)
    for list_name in result.lists:
        whole = _evaluation_table(result, list_name, result.leads)
        if Measurement.get(console, console.options.update(max_width=WIDE), whole).maximum <= console.width:
            console.print(whole)
        else:
            console.print(*(_evaluation_table(result, list_name, (lead,)) for lead in result.leads))


def print_season_lifts(evaluation: EvaluationRef, console: Console) -> None:
    """What knowing the date is worth, per list and lead, with its interval."""
    for lift in read_evaluation(evaluation.path).season_lifts:
        where = "all leads" if lift.lead_days is None else f"lead {lift.lead_days} days"
        console.print(f"season lift, {lift.list}, {where}: {lift.relative:+.1%} [{lift.relative_low:+.1%}, {lift.relative_high:+.1%}]", markup=False)


def _evaluation_table(result: EvaluationResult, list_name: str, leads: Sequence[int]) -> Table:
    origins = ", ".join(map(str, result.origins))
    table = Table(title=f"{list_name}: NDCG@10 [95 % interval], cut-offs {origins}", title_justify="left")
    table.add_column("model")
    for lead in leads:
        table.add_column(f"lead {lead} days", justify="right")
        table.add_column("gain", justify="right")
    for model in sorted(result.models, key=lambda name: -result.figure(name, list_name).value):
        cells = []
        for lead in leads:
            figure = result.figure(model, list_name, lead)
            cells.append(f"{figure.value:.4f} [{figure.ci_low:.4f}, {figure.ci_high:.4f}]")
            compared = None if model == result.model else result.comparison(model, list_name, lead)
            cells.append(f"{compared.relative:+.1%} [{compared.relative_low:+.1%}, {compared.relative_high:+.1%}]" if compared else "")
        table.add_row(escape(model), *map(escape, cells), style="bold green" if model == result.model else "")
    return table


def load_champion(config: PipelineConfig, *, otherwise: RegisteredVersion | None = None) -> Recommender:
    """The recommender that serves; `otherwise` a version to look at where none was promoted yet. Raises BundleError where there is neither."""
    store = store_of(config)
    client = connect(config.registry, store.storage_root)
    champion = version_at(client, config.registry.model_name, CHAMPION) or otherwise
    if champion is None:
        raise BundleError(f"{config.registry.model_name}: no champion yet. Run the pipeline, and review the challenger or set registry.auto_promote.")
    number = str(champion.version)
    return Recommender.load(bundle_of_version(config.registry, store.storage_root, number), version=number)


def print_list(recommender: Recommender, user: str, request_date: date, *, list_name: str, k: int, explain: bool, console: Console) -> None:
    """One list as a table, each score split into its parts where asked."""
    rankings = recommender.rank([user], request_date=request_date, list_name=list_name, k=k)
    names = item_titles(recommender)
    table = Table(box=None, pad_edge=False)
    for heading in ("rank", "item", "what", "score", *(("taste", "habit", "season") if explain else ())):
        table.add_column(heading, justify="left" if heading in {"item", "what"} else "right")
    for row in rankings.iter_rows(named=True):
        parts = [f"{row[part]:+.2f}" for part in ("taste", "habit", "season")] if explain else []
        table.add_row(str(row["rank"]), row["item_id"], escape(names.get(row["item_id"], "")), f"{row['score']:.2f}", *parts)
    console.print(table)
    if user not in recommender.users:
        console.print(f"user {escape(user)} is unknown: this is the seasonal answer", style="yellow")


def print_season_contrast(recommender: Recommender, country: str, console: Console) -> None:
    """The items that two dates tell apart most, by the season part alone, among the most bought ones."""
    (first, one), (second, other) = example_dates(recommender.cutoff, country).items()
    pool = recommender.networks.pool
    change = recommender.question(one).season[pool] - recommender.question(other).season[pool]
    names = item_titles(recommender)
    console.print("\n[bold]What the date alone changes[/bold] (season of one minus season of the other, most bought items)")
    for occasion, order, sign in ((first, np.argsort(-change, kind="stable"), 1), (second, np.argsort(change, kind="stable"), -1)):
        items = ((recommender.item_ids[int(pool[place])], sign * change[place]) for place in order)
        shown: dict[str, str] = {}
        for item, value in items:
            kind = names.get(item, item).split(",")[0]  # one of each kind, whatever its sizes
            shown.setdefault(kind, f"{kind} {value:+.2f}")
            if len(shown) == CONTRASTED:
                break
        console.print(escape(f"  {occasion}: {'; '.join(shown.values())}"), soft_wrap=True)


def print_audit(config: PipelineConfig, console: Console) -> None:
    """Every decision about this pipeline's model."""
    table = Table()
    trail = audit_trail(audit_address(store_of(config)), config.registry.model_name)
    for heading in ("at", "version", "decision", "by", "previous_champion", "reasons"):
        table.add_column(heading)
    for row in trail.iter_rows(named=True):
        table.add_row(*(escape(str(row[heading] or "")) for heading in ("at", "version", "decision", "by", "previous_champion", "reasons")))
    console.print(table)


def _where_next(config: PipelineConfig, outcome: TrainingOutcome, recommender: Recommender, user: str, console: Console) -> None:
    console.print("\n[bold]Where to look next[/bold]")
    console.print(f"  report      {_near(outcome.report or '')}", soft_wrap=True)
    console.print("  web pages   make ui    (Prefect: runs, steps, artifacts; MLflow: models, figures, Data Docs)")
    if outcome.published:
        console.print(f"  rankings    {_near(outcome.published.path)} ({outcome.published.rows:,} rows)", soft_wrap=True)
    day = next(iter(example_dates(recommender.cutoff, config.features.country).values()))
    console.print(f"  ask         .venv/bin/perennial recommend {config.name} --user {user} --date {day} --explain", soft_wrap=True)


def _near(path: str) -> str:
    """A path as seen from here, absolute where it lies elsewhere."""
    found = Path(path).resolve()
    return str(found.relative_to(Path.cwd())) if found.is_relative_to(Path.cwd()) else str(found)
