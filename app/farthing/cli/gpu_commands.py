"""The command of GPUs: gpus. It imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from farthing.cli.options import Config, Output, OutputOption

__all__ = ["gpus"]

AGENT_PORT = 9466


def gpus(
    config: Config = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once; so does an output that is no terminal.")] = False,
    output: OutputOption = Output.table,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two pictures.")] = 1.0,
    url: Annotated[
        str | None,
        typer.Option(help="Base URL of a service or an agent to read from; default: farthing serve of the settings."),
    ] = None,
    agent: Annotated[
        bool, typer.Option("--agent", help="Read the GPUs of this host and send what was read to the service at --url.")
    ] = False,
    host: Annotated[str, typer.Option(help="With --agent: where its own /metrics is served.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --agent: its port.")] = AGENT_PORT,
) -> None:
    """Show GPUs live beside the engines on them: power, memory, throttling, tokens a second, cost an hour, J a token.

    Where no service answers, the GPUs of this host are read. With --agent nothing is shown: GPUs are read and sent.

    Examples:
      farthing gpus
      farthing gpus --once --output json
      farthing gpus --agent --url http://farthing:9464
    """
    from farthing.settings import load_settings

    settings = load_settings(config)
    if agent:
        from farthing.service.gpu_agent import run_agent

        if once or output is not Output.table:
            raise typer.BadParameter("--once and --output show GPUs; --agent shows nothing, see its /metrics")
        run_agent(settings, url, host, port)
        return
    from farthing.cli.gpus import show_gpus

    show_gpus(settings, url, output.value, interval_seconds=interval, once=once)
