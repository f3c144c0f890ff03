"""The ``farthing`` command. Commands import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from farthing.cli.alert_commands import alert_group
from farthing.cli.audit_commands import audit_group
from farthing.cli.autoscale_commands import autoscale_group
from farthing.cli.backup_commands import backup, restore
from farthing.cli.book_commands import explain, periods, statements
from farthing.cli.dashboard_commands import dashboard_group
from farthing.cli.gpu_commands import gpus
from farthing.cli.ledger_commands import ledger_group
from farthing.cli.options import Config, Output, OutputOption
from farthing.cli.secret_commands import secret_group
from farthing.cli.token_commands import token_group
from farthing.cli.trace_commands import trace
from farthing.domain.errors import FarthingError

__all__ = ["app", "main"]

app = typer.Typer(
    name="farthing",
    help="Exact cost and observability for language and vision-language models that you serve yourself.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class By(StrEnum):
    """What a report groups by."""

    tenant = "tenant"
    project = "project"
    tier = "tier"
    model = "model"
    engine = "engine"
    account = "account"
    phase = "phase"
    hour = "hour"
    day = "day"
    month = "month"


class SpendBy(StrEnum):
    """Whose spend is shown."""

    tenant = "tenant"
    project = "project"
    model = "model"
    engine = "engine"


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"farthing {installed('farthing')}")
        raise typer.Exit


@app.command()
def serve(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Listen here instead of serve.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Listen here instead of serve.port.")] = None,
) -> None:
    """Take records in, keep the books, serve /metrics and the page.

    Example: farthing serve --config farthing.yaml
    """
    from farthing.service.server import serve as run
    from farthing.settings import load_settings
    from farthing.stack.backup_restore import refuse_half_restored_ledger

    settings = load_settings(config)
    refuse_half_restored_ledger(settings)
    update = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    run(settings.model_copy(update={"serve": settings.serve.model_copy(update=update)}))


@app.command()
def replay(
    source: Annotated[str, typer.Argument(metavar="DIR|NAME", help="A recording's folder, or a packaged one's name.")],
    config: Config = None,
    offline: Annotated[bool, typer.Option("--offline", help="Cost it all at once and print the result.")] = False,
    ledger: Annotated[str | None, typer.Option(help="With --offline: also write records and books here (URL).")] = None,
    output: OutputOption = Output.table,
    speed: Annotated[float, typer.Option(min=0.01, help="Times real time.")] = 1.0,
    lead: Annotated[float, typer.Option(min=0.0, help="Seconds of the recording to deliver at once.")] = 0.0,
    loop: Annotated[bool, typer.Option("--loop", help="Start again when it ends, as a new boot.")] = False,
    host: Annotated[str, typer.Option(help="Where the recorded metrics are served.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Their port; default stack.replay_port.")] = None,
    to: Annotated[str | None, typer.Option(help="Intake's base URL; default: farthing serve of the settings.")] = None,
    engine_name: Annotated[str | None, typer.Option(help="Instance name; default: the recording's.")] = None,
) -> None:
    """Play a recorded engine: live through intake, or --offline through costing as fast as it goes.

    Examples:
      farthing replay h100-llama8b-vllm0.26 --offline --output json
      farthing replay h100-qwen2vl7b-vllm0.26 --speed 2
    """
    from farthing.cli.replay import replay_live, replay_offline
    from farthing.settings import load_settings

    settings = load_settings(config)
    if offline:
        raise typer.Exit(replay_offline(source, settings, ledger, output.value))
    if ledger is not None or output is not Output.table:
        raise typer.BadParameter("--ledger and --output go with --offline")
    replay_live(source, settings, speed=speed, lead=lead, loop=loop, host=host, port=port, to=to, engine=engine_name)


@app.command()
def report(
    config: Config = None,
    since: Annotated[str, typer.Option(help="24h, 7d, today, month, all, or a UTC date or time.")] = "24h",
    until: Annotated[
        str | None, typer.Option(help="Where it ends, like --since; default: with what is settled.")
    ] = None,
    by: Annotated[By, typer.Option(help="What to group by.")] = By.tenant,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    project: Annotated[str | None, typer.Option(help="Only this project.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    engine: Annotated[str | None, typer.Option(help="Only this engine.")] = None,
    output: OutputOption = Output.table,
    ledger: Annotated[str | None, typer.Option(help="Ledger URL instead of the settings'.")] = None,
    url: Annotated[str | None, typer.Option(help="Ask the Farthing that is served there instead of a ledger.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="With --url: file with a token; default $FARTHING_TOKEN.")
    ] = None,
) -> None:
    """Print settled cost of whole hours; every report foots to the bill. Times are rounded down to the hour.

    Examples:
      farthing report --since month --by tenant
      farthing report --since 2026-10-01 --until 2026-11-01 --by day --tenant acme
      farthing report --url https://farthing.example --token-file token --since month
    """
    filters = {"tenant": tenant, "project": project, "model": model, "engine": engine}
    if url is not None:
        from farthing.cli.report_remote import print_remote_report

        if ledger is not None or config is not None:
            raise typer.BadParameter("--url asks a service that has settings and a ledger of its own")
        asked = {"since": since, "until": until, "by": by.value, **filters, "output": output.value}
        print_remote_report(url, token_file, asked)
        return
    if token_file is not None:
        raise typer.BadParameter("--token-file goes with --url")
    from farthing.cli.report import print_report
    from farthing.settings import load_settings

    print_report(load_settings(config), since, until, by.value, filters, output.value, ledger)


@app.command()
def spend(
    config: Config = None,
    by: Annotated[SpendBy, typer.Option(help="Whose spend.")] = SpendBy.tenant,
    show: Annotated[
        str | None, typer.Option(help="One table: spend, daily, monthly, budgets, idle or anomalies.")
    ] = None,
    output: OutputOption = Output.table,
    ledger: Annotated[str | None, typer.Option(help="Ledger URL instead of the settings'.")] = None,
) -> None:
    """Print spend of today, the month and its forecast, what is left of budgets, and anomalies. Months are UTC's.

    Examples:
      farthing spend --by project
      farthing spend --show daily --output csv
    """
    from farthing.cli.spend import print_spend
    from farthing.settings import load_settings

    print_spend(load_settings(config), by.value, show, output.value, ledger)


@app.command()
def kpis(
    config: Config = None,
    since: Annotated[str, typer.Option(help="24h, 7d, today, month, all, or a UTC date or time.")] = "month",
    until: Annotated[str | None, typer.Option(help="Where it ends, like --since; default: now.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Where the period to compare with begins; default: the same span of the month before."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    project: Annotated[str | None, typer.Option(help="Only this project.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    engine: Annotated[str | None, typer.Option(help="Only this engine.")] = None,
    documents: Annotated[
        bool, typer.Option("--documents", help="Count documents and images also beyond 100,000 requests.")
    ] = False,
    show: Annotated[str | None, typer.Option(help="One table: units, shares or variance.")] = None,
    output: OutputOption = Output.table,
    ledger: Annotated[str | None, typer.Option(help="Ledger URL instead of the settings'.")] = None,
) -> None:
    """Print unit costs, parts of the bill, and how much of its change is usage and how much is rate.

    Examples:
      farthing kpis
      farthing kpis --since 2026-11-01 --until 2026-12-01 --against 2026-10-01 --model llama-8b
    """
    from farthing.cli.spend import print_kpis
    from farthing.settings import load_settings

    filters = {"tenant": tenant, "project": project, "model": model, "engine": engine}
    print_kpis(load_settings(config), since, until, against, filters, documents, show, output.value, ledger)


@app.command()
def prices(
    config: Config = None,
    at: Annotated[str | None, typer.Option(help="Only what applies at this UTC date or time.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Print prices, capacity and exchange rates with dates, kinds and sources; gaps are shown as unpriced.

    Example: farthing prices --at 2026-11-01 --output csv
    """
    from farthing.cli.prices import print_prices
    from farthing.settings import load_settings

    print_prices(load_settings(config), output.value, at)


@app.command()
def check(config: Config = None, output: OutputOption = Output.table) -> None:
    """Check configuration, prices, ledger and engines: what is degraded, and why. Exit status 4 when an engine is away.

    Example: farthing check --config farthing.yaml
    """
    from farthing.cli.check import run_check
    from farthing.settings import load_settings

    raise typer.Exit(run_check(load_settings(config), output.value))


@app.command()
def status(config: Config = None, output: OutputOption = Output.table) -> None:
    """Show what runs and the state of every engine's books.

    Example: farthing status
    """
    from farthing.cli.status import run_status
    from farthing.settings import load_settings

    raise typer.Exit(run_status(load_settings(config), output.value))


@app.command()
def up(
    config: Config = None,
    native: Annotated[
        bool | None,
        typer.Option("--native/--compose", help="Without Docker, or with; default: Compose if an engine answers."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running and return.")] = False,
    port_offset: Annotated[int, typer.Option(help="Add this to every port, to run a second stack.")] = 0,
) -> None:
    """Start Prometheus, Alertmanager, Farthing and, without engines of your own, a replayed H100.

    Example: farthing up --native
    """
    from rich.console import Console

    from farthing.settings import load_settings
    from farthing.stack.lifecycle import up as start

    raise typer.Exit(
        start(
            load_settings(config), native=native, detach=detach, port_offset=port_offset, console=Console(stderr=True)
        )
    )


@app.command()
def down(config: Config = None) -> None:
    """Stop what ``farthing up`` started.

    Example: farthing down
    """
    from rich.console import Console

    from farthing.settings import load_settings
    from farthing.stack.lifecycle import down as stop

    raise typer.Exit(stop(load_settings(config), console=Console(stderr=True)))


app.command()(gpus)
app.command()(trace)
app.add_typer(periods)
app.add_typer(statements)
app.command()(explain)
app.command()(backup)
app.command()(restore)
app.add_typer(ledger_group)
app.add_typer(audit_group)
app.add_typer(alert_group)
app.add_typer(autoscale_group)
app.add_typer(dashboard_group)
app.add_typer(secret_group)
app.add_typer(token_group)


@app.command()
def generate(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit status 1 when a file is stale.")] = False,
    root: Annotated[Path, typer.Option(help="The checkout to write into.")] = Path(),
    target: Annotated[
        str, typer.Option(help="Only the rules, for one Prometheus: debian (2.42) or current (3.x); else everything.")
    ] = "",
) -> None:
    """Write rules, dashboards, compose configuration and reference pages from code.

    Example: farthing generate --check
    """
    from farthing.cli.generate import generate as run

    raise typer.Exit(run(check, root, target))


def main() -> None:
    """Run the command line; a FarthingError is one line on stderr and its own exit status."""
    try:
        app()
    except FarthingError as error:
        typer.echo(f"farthing: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our output went away, as `head` does
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()
