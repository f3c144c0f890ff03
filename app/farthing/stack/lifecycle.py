"""``farthing up``, ``down`` and ``status``: containers where a Docker engine answers, else the native stack."""

from __future__ import annotations

from rich.console import Console

from farthing.domain.errors import StackError
from farthing.settings import Settings
from farthing.stack.compose import checkout, down_compose, up_compose
from farthing.stack.container import compose_command, docker_engine_answers
from farthing.stack.native import StackStatus, down_native, native_status, up_native
from farthing.stack.report import say

__all__ = ["down", "stack_status", "up"]


def up(settings: Settings, *, native: bool | None, detach: bool, port_offset: int, console: Console) -> int:
    """Start the stack and return the exit status, 0 after a clean stop.

    ``native``: True without Docker, False with Compose, None Compose if a Docker engine answers and native if not.
    """
    if native is None:
        native = not (docker_engine_answers() and compose_command() is not None and checkout() is not None)
        say(console, "starting the native stack" if native else "starting the Compose stack")
    elif not native and not docker_engine_answers():
        raise StackError("no Docker engine answers; start one, or use --native")
    start = up_native if native else up_compose
    return start(settings, detach=detach, port_offset=port_offset, console=console)


def down(settings: Settings, *, console: Console) -> int:
    """Stop whatever runs from the settings' state folder and return 0; nothing running is no error."""
    if down_compose(settings, console=console):
        return 0
    return down_native(settings, console=console)


def stack_status(settings: Settings) -> StackStatus:
    """What runs natively from the settings' state folder."""
    return native_status(settings)
