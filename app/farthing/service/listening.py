"""A program that listens: its socket, and its end."""

from __future__ import annotations

import signal
import socket
import sys
from types import FrameType

from farthing.domain.errors import PortBusyError

__all__ = ["bind", "end_well_on_sigterm"]


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; PortBusyError names the port and the setting that moves it."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio sends small answers at once (TCP_NODELAY) only where the socket says that it is of TCP
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a port is 0 to 65535"
        raise PortBusyError(
            f"{host}:{port} cannot be listened on ({reason}); stop what uses it or set {setting}"
        ) from error
    return listener


def end_well_on_sigterm() -> None:
    """Exit with status 0 on SIGTERM, closing what is open.

    uvicorn takes the signal while it serves, and raises it once more when it has shut down: by default that
    would kill the process before it has closed its ledger.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
