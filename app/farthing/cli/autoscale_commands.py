"""The commands of autoscaling: render. They import what they need when they run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from farthing.cli.options import Config, LedgerUrl

__all__ = ["autoscale_group"]


class Kind(StrEnum):
    """What is rendered."""

    keda = "keda"
    hpa = "hpa"
    adapter = "adapter"


autoscale_group = typer.Typer(
    name="autoscale",
    help="Scale deployments on queue, KV cache and promises, at what a cold start costs.",
    no_args_is_help=True,
)


@autoscale_group.callback()
def _group() -> None:
    """A group has its commands below it, also while there is only one."""


@autoscale_group.command("render")
def render(
    kind: Annotated[
        Kind, typer.Argument(help="KEDA's ScaledObjects, HorizontalPodAutoscalers, or prometheus-adapter's rules.")
    ] = Kind.keda,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    config: Config = None,
    ledger: LedgerUrl = None,
) -> None:
    """Print what Kubernetes scales the deployments of the settings by; starts are costed from the ledger.

    Example: farthing autoscale render keda --model llama-8b
    """
    from farthing.cli.autoscale import print_autoscaling
    from farthing.settings import load_settings

    print_autoscaling(load_settings(config), kind.value, model, ledger)
