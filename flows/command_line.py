"""The command `perennial`: run the path or one step of it, ask for recommendations, look at what was made.

Exit codes: 0 done, 1 the run failed, 2 the call or the parameters are wrong, 3 the data broke a critical rule,
130 Ctrl-C, 128 and the number of the signal where another one ended the run.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from contracts.config import PipelineConfig
from contracts.errors import DataContractError, NotEnoughHistoryError, PipelineError, SourceError
from flows.local_environment import Terminated, orderly_end, use_local_stores
from flows.operations_commands import operations
from tasks.store import store_of

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Keeps a recommender in step with the calendar. Start with `perennial demo`, or copy deployments/parameters/generic.yaml and `perennial run` it.",
)
app.add_typer(operations)
console = Console()
problems = Console(stderr=True)

DEMO = "complete_journey.yaml"

Parameters = Annotated[Path, typer.Argument(help="Parameter file (YAML), or the name of a ready one such as complete_journey.", show_default=False)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do every step again, also those whose input, configuration and code did not change.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of every step.")]


@app.command()
def demo(fresh: Fresh = False, verbose: Verbose = False) -> None:
    """The whole path on a year of groceries (Complete Journey), then recommendations for summer and for Thanksgiving."""
    config = _load(Path(DEMO), verbose=verbose)
    with _readable_errors():
        from flows.demo import show_demo
        from flows.seasonal_training import seasonal_training

        show_demo(config, seasonal_training(config, fresh=fresh), console)


@app.command()
def run(parameters: Parameters, fresh: Fresh = False, verbose: Verbose = False) -> None:
    """Run the whole path: ingest, validate, features, forecast, train, evaluate, register, promote, publish."""
    config = _load(parameters, verbose=verbose)
    with _readable_errors():
        from flows.demo import show_outcome
        from flows.seasonal_training import seasonal_training

        show_outcome(config, seasonal_training(config, fresh=fresh), console)


@app.command()
def validate(parameters: Parameters, verbose: Verbose = False) -> None:
    """Ingest and validate only; says what was set aside and why."""
    config = _load(parameters, verbose=verbose)
    with _readable_errors():
        from flows.partial_runs import validate_only

        ingested, report = validate_only(config)
        quarantined = ingested.rows_quarantined + report.rows_quarantined
        console.print(f"{report.rows_in + ingested.rows_quarantined:,} rows in, {report.rows_accepted:,} accepted, {quarantined:,} quarantined")
        for rule, count in (*ingested.quarantined_by_rule.items(), *report.quarantined_by_rule.items()):
            console.print(f"  quarantined by {rule}: {count:,}")
        for finding in report.findings:
            console.print(f"  {finding.severity}: {finding.rule}: {escape(finding.message)}", soft_wrap=True)
        console.print(f"Data Docs: {report.data_docs}")


@app.command()
def plan(
    parameters: Parameters,
    items: Annotated[int | None, typer.Option(min=1, help="Items of the catalogue; default: as stored by an earlier `perennial features`.")] = None,
    events: Annotated[int | None, typer.Option(min=1, help="Events; default: as stored.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Users; default: as stored, or a thirtieth of the events.")] = None,
    days: Annotated[int, typer.Option(min=1, help="Days from the first event to the last, where nothing is stored.")] = 730,
    categories: Annotated[int, typer.Option(min=0, help="Nodes of the category paths.")] = 0,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="Arithmetic of a device as it works, TFLOP/s; default: measured on a CPU, 150 on a GPU.")
    ] = None,
    link_gb: Annotated[
        float | None, typer.Option(min=0.001, help="Link between devices, GB/s; default: 2 between processes on a CPU, 100 between GPUs.")
    ] = None,
) -> None:
    """Say what pre-training will take before it is started: parameters, memory of each device, steps, time. Starts nothing."""
    config = _load(parameters)
    if not config.pretraining.enabled:
        console.print("pretraining.enabled is false: nothing to plan")
        return
    from dataclasses import replace

    from flows.plan_of_training import DataSize, plan_of, print_plan, stored_size

    stored = stored_size(config)
    if stored is not None and items is None and events is None and users is None:
        size, some = replace(stored[0], num_nodes=categories), stored[1]
    elif items is None or events is None:
        raise typer.BadParameter(f"no features are stored for {config.name}: give --items and --events, or run `perennial features {parameters}` first")
    else:
        size, some = DataSize(items, events, users or max(events // 30, 1), days=days, num_nodes=categories), None
    print_plan(config, size, plan_of(config, size, events=some, tflops=tflops, link_gb=link_gb), console)


@app.command()
def features(parameters: Parameters, verbose: Verbose = False) -> None:
    """Ingest, validate and build the feature tables only."""
    config = _load(parameters, verbose=verbose)
    with _readable_errors():
        from flows.partial_runs import features_only

        tables = features_only(config)
        for ref in (tables.vocabulary, tables.calendar, tables.demand, tables.training_events):
            if ref:
                console.print(f"{ref.name:>16}  {ref.rows:>12,} rows  {ref.path}")
        console.print(f"{len(tables.cutoffs)} cut-offs from {tables.cutoffs[0]} to {tables.end} (exclusive end of the data)")


@app.command()
def forecast(
    parameters: Annotated[Path, typer.Argument(help="Parameter file, or the name of a ready one.")] = Path(DEMO),
    item: Annotated[
        str | None, typer.Option(help="Item, category path or `total` to show; an item without a forecast of its own shows its category's.")
    ] = None,
    weeks: Annotated[int, typer.Option(min=1, max=520, help="Weeks ahead to show, at most the horizon of the parameter file.")] = 12,
    plot: Annotated[Path | None, typer.Option(help="PNG to draw: the last two years, the fan, and trend, seasons and holidays apart.")] = None,
    fresh: Fresh = False,
    verbose: Verbose = False,
) -> None:
    """Forecast demand alone and register it; with --item, show one series instead and register nothing."""
    config = _load(parameters, verbose=verbose)
    if plot is not None and item is None:
        raise typer.BadParameter("--plot: name the series to draw with --item")
    with _readable_errors():
        from flows.demand_forecast import demand_forecast, forecast_of, print_forecast, print_levels

        features, forecasts = demand_forecast(config, fresh=fresh, registered=item is None)
        if item is None:
            print_levels(forecasts, console)
            return
        try:
            rows = forecast_of(features, forecasts, config, name=item, weeks=weeks, plot=plot)
        except ValueError as error:
            raise typer.BadParameter(f"--item: {error}") from error
        print_forecast(rows, console, weeks=weeks, frequency=config.forecast.frequency)
        if plot is not None:
            console.print(f"drawn: {plot}", soft_wrap=True)


@app.command()
def evaluate(
    parameters: Parameters,
    version: Annotated[str | None, typer.Option(help="Registered version or alias to evaluate; default: the champion.")] = None,
    verbose: Verbose = False,
) -> None:
    """Evaluate a registered version on the newest windows it has not seen."""
    config = _load(parameters, verbose=verbose)
    with _readable_errors():
        from flows.demo import print_evaluation
        from flows.partial_runs import evaluate_version

        print_evaluation(evaluate_version(config, version or "champion"), console)


@app.command("negative-control")
def negative_control(parameters: Parameters, verbose: Verbose = False) -> None:
    """Train and measure once more on behaviour without seasons; the next report shows that no season is found there. Takes as long as a run."""
    config = _load(parameters, verbose=verbose)
    with _readable_errors():
        from flows.demo import print_season_lifts
        from flows.partial_runs import negative_control as run_control

        print_season_lifts(run_control(config), console)


@app.command()
def recommend(
    parameters: Parameters,
    user: Annotated[str, typer.Option(help="User id as stored; unknown users get the seasonal answer.")],
    day: Annotated[str, typer.Option("--date", help="First day of the week the list is for, ISO date.")],
    k: Annotated[int, typer.Option(min=1, max=1000, help="Items.")] = 10,
    list_name: Annotated[str, typer.Option("--list", help="again: anything; discover: only what is new to the user.")] = "again",
    explain: Annotated[bool, typer.Option("--explain", help="Show taste, habit and season of each score.")] = False,
) -> None:
    """Recommend with the champion: for one user and any date from the end of the data on."""
    config = _load(parameters)
    with _readable_errors():
        from flows.demo import load_champion, print_list

        try:
            request_date = date.fromisoformat(day)
        except ValueError as error:
            raise typer.BadParameter(f"--date: expected a day such as 2018-07-02, found {day!r}") from error
        print_list(load_champion(config), user, request_date, list_name=list_name, k=k, explain=explain, console=console)


@app.command()
def report(parameters: Parameters) -> None:
    """Print where the newest report is."""
    config = _load(parameters)
    path = Path(store_of(config).root) / "report.html"
    if not path.exists():
        problems.print(f"no report at {path}; run `perennial run {parameters}` first", soft_wrap=True)
        raise typer.Exit(1)
    console.print(path.resolve().as_uri())


@app.command()
def audit(parameters: Parameters) -> None:
    """List every decision about a model: who, when, why."""
    config = _load(parameters)
    with _readable_errors():
        from flows.demo import print_audit

        print_audit(config, console)


@app.command()
def ui(
    parameters: Annotated[Path, typer.Argument(help="Parameter file whose stores are shown.")] = Path(DEMO),
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect's pages.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's pages.")] = 5000,
) -> None:
    """Serve the web pages of Prefect and MLflow over the stores of a run (loopback only); Ctrl-C ends both."""
    config = _load(parameters)
    from flows.web_pages import serve_pages

    raise typer.Exit(serve_pages(config, prefect_port=prefect_port, mlflow_port=mlflow_port, console=console))


@app.command()
def serve(
    parameters: Annotated[Path, typer.Argument(help="Parameter file whose champion answers.")] = Path(DEMO),
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the page and the API.")] = 8080,
) -> None:
    """Answer requests with the champion and open its page (loopback only); Ctrl-C ends it."""
    config = _load(parameters)
    with _readable_errors():
        from flows.service_page import serve_page

        serve_page(config, port=port, console=console)


def _load(parameters: Path, *, verbose: bool = False) -> PipelineConfig:
    """Read a parameter file; a bare name is looked up among the ready ones."""
    ready = Path(__file__).resolve().parents[1] / "deployments" / "parameters"
    found = next((path for path in (parameters, ready / parameters.name, ready / f"{parameters.name}.yaml") if path.is_file()), None)
    if found is None:
        problems.print(f"no parameter file {parameters}; ready ones: {', '.join(sorted(path.stem for path in ready.glob('*.yaml')))}", style="red")
        raise typer.Exit(2)
    try:
        config = PipelineConfig.from_yaml(found)
        use_local_stores(store_of(config).storage_root, verbose=verbose)
    except ValueError as error:
        problems.print(escape(str(error)), style="red")
        raise typer.Exit(2) from error
    return config


@contextmanager
def _readable_errors() -> Iterator[None]:
    """An error of ours is a message and an exit code, not a traceback."""
    try:
        with orderly_end():
            yield
    except (DataContractError, NotEnoughHistoryError) as error:
        problems.print(escape(str(error)), style="red")
        raise typer.Exit(3) from error
    except SourceError as error:
        problems.print(escape(str(error)), style="red")
        raise typer.Exit(2) from error
    except PipelineError as error:
        problems.print(escape(str(error)), style="red")
        raise typer.Exit(1) from error
    except Terminated as error:
        raise typer.Exit(128 + error.number) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(130) from error


if __name__ == "__main__":
    sys.exit(app())
