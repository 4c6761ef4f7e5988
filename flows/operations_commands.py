"""Commands of `perennial` for those who run it: up, down, deploy, review, promote, rollback, monitor, update."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

operations = typer.Typer()
console = Console()

Parameters = Annotated[Path, typer.Argument(help="Parameter file (YAML), or the name of a ready one.", show_default=False)]
Folder = Annotated[Path, typer.Option(help="Folder of the installation: its database, files, logs and secrets.")]
Version = Annotated[str, typer.Option(help="Number of the version in MLflow.")]
Who = Annotated[str, typer.Option("--by", help="Your name; kept in the record.")]


@operations.command()
def up(
    folder: Folder = Path(".perennial"),
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow.")] = 5000,
    bridge_port: Annotated[int, typer.Option(help="Port of the webhook bridge.")] = 8090,
    postgres_port: Annotated[int, typer.Option(help="Port of PostgreSQL.")] = 5433,
) -> None:
    """Start a real installation on this machine (loopback only): PostgreSQL, Prefect, a worker, MLflow, the webhook bridge."""
    with _said_plainly():
        from flows.local_installation import Installation, Ports, start

        ports = Ports(prefect=prefect_port, mlflow=mlflow_port, bridge=bridge_port, postgres=postgres_port)
        installation = Installation.at(folder, ports)
        start(installation, lambda line: console.print(escape(line), soft_wrap=True))
        console.print(f"\nfor this shell:  source {installation.folder / 'environment.sh'}", soft_wrap=True)
        lines = [f"export {name}='{value}'" for name, value in installation.client_environment().items()]
        path = installation.folder / "environment.sh"
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@operations.command()
def down(folder: Folder = Path(".perennial")) -> None:
    """End the services of `perennial up`; everything they stored stays."""
    with _said_plainly():
        from flows.local_installation import stop

        stop(folder, lambda line: console.print(escape(line)))


@operations.command()
def deploy(
    parameters: Parameters,
    work_pool: Annotated[str, typer.Option(help="perennial-process, perennial-docker or perennial-kubernetes.")] = "perennial-process",
) -> None:
    """Put the schedules and forms of a pipeline on the Prefect server that PREFECT_API_URL names."""
    config = _load(parameters)
    with _said_plainly():
        from flows.deploy import deploy as apply

        console.print("deployed: " + ", ".join(apply(config, work_pool=work_pool)))


@operations.command()
def update(parameters: Parameters) -> None:
    """The daily update: new and late files, a short training that goes on from the champion, measured and registered."""
    config = _load(parameters)
    with _said_plainly():
        from flows.daily_update import daily_update

        outcome = daily_update(config)
        console.print(f"events up to {outcome.fresh.tables.end} (exclusive); months read again: {', '.join(outcome.fresh.read_again) or 'none'}")
        if outcome.version is None or outcome.promotion is None:
            console.print("the champion is up to date")
            return
        console.print(f"version {outcome.version.version}; champion: version {outcome.promotion.champion_version}")
        for reason in outcome.promotion.reasons:
            console.print(f"  {escape(reason)}")


@operations.command()
def monitor(parameters: Parameters) -> None:
    """Look for drift, drops in quality and stale data; writes a page."""
    config = _load(parameters)
    with _said_plainly():
        from flows.monitor import monitor as look

        found = look(config)
        for alarm in found.alarms:
            console.print(f"alarm: {escape(alarm)}", style="red")
        console.print(f"{len(found.alarms)} alarms. Page: {found.page}", soft_wrap=True)


@operations.command()
def review(
    parameters: Parameters,
    version: Version,
    decision: Annotated[str, typer.Option(help="approved or rejected.")],
    by: Who,
    note: Annotated[str, typer.Option(help="Why; kept in the record.")] = "",
) -> None:
    """Decide about a version, as the tag `review` in MLflow does; promotion follows by webhook, schedule or `perennial promote`."""
    if decision not in {"approved", "rejected"}:
        raise typer.BadParameter(f"--decision: expected approved or rejected, found {decision!r}")
    config = _load(parameters)
    with _said_plainly():
        from tasks.registry import connect
        from tasks.review import review_version
        from tasks.store import store_of

        store = store_of(config)
        client = connect(config.registry, store.storage_root)
        subject = review_version(client, config.registry, store, version, decision=decision, reviewer=by, note=note)  # type: ignore[arg-type]
        console.print(f"{subject}: {decision}")


@operations.command()
def promote(parameters: Parameters, version: Version) -> None:
    """Make an approved version champion after everything is checked again; says every reason where it is not done."""
    config = _load(parameters)
    with _said_plainly():
        from flows.promotion import promote_reviewed

        outcome = promote_reviewed(version, config.registry.model_name, _storage_root(config), _tracking_uri(config))
        for reason in outcome.reasons:
            console.print(f"  {escape(reason)}")
        console.print(f"champion: version {outcome.champion_version}")
        if not outcome.promoted:
            raise typer.Exit(1)


@operations.command()
def rollback(
    parameters: Parameters,
    by: Who,
    reason: Annotated[str, typer.Option(help="What is wrong with the version that serves; kept in the record.")],
    version: Annotated[str | None, typer.Option(help="The champion you mean; another one serves: nothing happens.")] = None,
) -> None:
    """The previous champion serves again; the one that serves now is withdrawn for good."""
    config = _load(parameters)
    with _said_plainly():
        from flows.rollback import rollback as roll_back

        done = roll_back(by, reason, version, config.registry.model_name, _storage_root(config), _tracking_uri(config))
        console.print(f"version {done.withdrawn} withdrawn, version {done.champion} serves")


def _load(parameters: Path):
    from flows.command_line import _load as load

    config = load(parameters)
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if address and config.registry.tracking_uri is None and address.startswith("http"):
        return config.model_copy(update={"registry": config.registry.model_copy(update={"tracking_uri": address})})
    return config


def _said_plainly():
    from flows.command_line import _readable_errors

    return _readable_errors()


def _storage_root(config) -> str:
    from tasks.store import store_of

    return store_of(config).storage_root


def _tracking_uri(config) -> str | None:
    return config.registry.tracking_uri
