"""The commands of alerts: list, test. They import what they need when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from farthing.cli.options import Config, Output, OutputOption

__all__ = ["alert_group"]


alert_group = typer.Typer(
    name="alerts", help="See which alerts there are; try out whom they reach.", no_args_is_help=True
)


@alert_group.command("list")
def list_alerts(config: Config = None, output: OutputOption = Output.table) -> None:
    """Print every alert: how bad, whose, from which threshold on, for how long, and its runbook.

    Example: farthing alerts list --output csv
    """
    from farthing.cli.alerts import print_alerts
    from farthing.settings import load_settings

    print_alerts(load_settings(config), output.value)


@alert_group.command("test")
def try_alert(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The alert, as `farthing alerts list` names it.")],
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="NAME=VALUE", help="Set a label, as often as needed.")
    ] = None,
    alertmanager: Annotated[str | None, typer.Option(help="Its base URL; default: the stack's.")] = None,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for the messages to go out.")] = 30.0,
    config: Config = None,
    output: OutputOption = Output.table,
) -> None:
    """Fire an alert through the running Alertmanager, marked as a test; say whom it reached, and resolve it.

    Exit status 1 when a message failed, was held back, or did not go out in time.

    Example: farthing alerts test LLMTimeToFirstTokenHigh --label tier=interactive
    """
    from farthing.cli.alerts import run_alert_test
    from farthing.settings import load_settings

    raise typer.Exit(
        run_alert_test(
            load_settings(config), name, label or [], url=alertmanager, wait_seconds=wait, output=output.value
        )
    )
