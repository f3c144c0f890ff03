"""The commands of dashboards: list, render, diff, push. They import what they need when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farthing.cli.options import Config, Output, OutputOption

__all__ = ["dashboard_group"]

dashboard_group = typer.Typer(
    name="dashboards", help="See Grafana's dashboards, write them out, compare and push them.", no_args_is_help=True
)

Uids = Annotated[
    list[str] | None, typer.Argument(metavar="[UID]...", help="Only these, as `farthing dashboards list` names them.")
]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Add a tag to every dashboard, as often as needed.")]
FolderOption = Annotated[str, typer.Option(help="Title or UID of the folder in Grafana; empty: the top.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="File with a service account's token; default: the environment's GRAFANA_TOKEN."),
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds that one answer of Grafana may take.")]
FOLDER = "Farthing"
TIMEOUT_SECONDS = 10.0


@dashboard_group.command("list")
def list_dashboards(config: Config = None, output: OutputOption = Output.table) -> None:
    """Print every dashboard: its UID, title, how many panels and queries it has, and what it shows.

    Example: farthing dashboards list --output csv
    """
    from farthing.cli.dashboards import print_dashboards
    from farthing.settings import load_settings

    print_dashboards(load_settings(config), output.value)


@dashboard_group.command("render")
def render(
    uids: Uids = None,
    directory: Annotated[
        Path | None, typer.Option("--directory", "-d", help="Write one file each into it; default: print them.")
    ] = None,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="As ConfigMaps that the sidecar of Grafana's Helm chart finds.")
    ] = False,
    namespace: Annotated[
        str | None, typer.Option(help="With --kubernetes: their namespace; default: kubectl's.")
    ] = None,
    folder: Annotated[str, typer.Option(help="With --kubernetes: the folder that they ask for; empty: none.")] = FOLDER,
    tag: Tags = None,
    config: Config = None,
) -> None:
    """Write the dashboards of these settings as JSON, or as Kubernetes ConfigMaps.

    Printed, one dashboard is its JSON and several are a JSON array; ConfigMaps are YAML documents.

    Examples:
      farthing dashboards render --directory /var/lib/grafana/dashboards
      farthing dashboards render --kubernetes --namespace monitoring
      farthing dashboards render farthing-fleet
    """
    from farthing.cli.dashboards import print_rendered
    from farthing.settings import load_settings

    print_rendered(
        load_settings(config),
        uids or [],
        directory=directory,
        kubernetes=kubernetes,
        namespace=namespace,
        folder=folder,
        tags=tag or [],
    )


@dashboard_group.command("diff")
def diff(
    uids: Uids = None,
    url: Annotated[str | None, typer.Option(help="Base URL of the Grafana to compare with.")] = None,
    directory: Annotated[
        Path | None, typer.Option("--directory", "-d", help="Compare with the .json files in it instead.")
    ] = None,
    tag: Tags = None,
    token_file: TokenFile = None,
    timeout: Timeout = TIMEOUT_SECONDS,
    config: Config = None,
    output: OutputOption = Output.table,
) -> None:
    """Show panel by panel what differs between a Grafana, or a directory, and what these settings render.

    Lines with a minus are what is there, lines with a plus what would take its place. Exit status 1 when something
    differs.

    Examples:
      farthing dashboards diff --url https://grafana.example
      farthing dashboards diff --directory dashboards/generated
    """
    from farthing.cli.dashboards import run_diff
    from farthing.settings import load_settings

    if (url is None) == (directory is None):
        raise typer.BadParameter("give --url or --directory, and one of them")
    raise typer.Exit(
        run_diff(
            load_settings(config),
            uids or [],
            url=url,
            directory=directory,
            tags=tag or [],
            token_file=token_file,
            timeout_seconds=timeout,
            output=output.value,
        )
    )


@dashboard_group.command("push")
def push(
    url: Annotated[str, typer.Option(help="Base URL of the Grafana, with its sub-path if it has one.")],
    uids: Uids = None,
    folder: FolderOption = FOLDER,
    tag: Tags = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace dashboards that are there and differ; else they are refused.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    token_file: TokenFile = None,
    timeout: Timeout = TIMEOUT_SECONDS,
    config: Config = None,
    output: OutputOption = Output.table,
) -> None:
    """Put the dashboards into a Grafana, version 10 or newer, over its HTTP API; those that are there as rendered stay.

    The folder is made where there is none. The token, of a service account with the role Editor, comes from the
    environment's GRAFANA_TOKEN or from a file.

    Examples:
      farthing dashboards push --url https://grafana.example --dry-run
      farthing dashboards push --url https://grafana.example --folder LLM --tag team-llm --overwrite
    """
    from farthing.cli.dashboard_push import run_push
    from farthing.settings import load_settings

    run_push(
        load_settings(config),
        uids or [],
        url=url,
        folder=folder,
        tags=tag or [],
        overwrite=overwrite,
        dry_run=dry_run,
        token_file=token_file,
        timeout_seconds=timeout,
        output=output.value,
    )
