"""Whether the ports that a stack needs are free, asked before anything starts."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from farthing.domain.errors import ConfigError, PortBusyError
from farthing.stack.parts import Part, PartPort

__all__ = ["check_ports"]


def check_ports(parts: Iterable[Part]) -> None:
    """Return when every port can be bound.

    Raises PortBusyError for a port that something listens on, ConfigError for two parts with one port.
    """
    wanted = [(part, port) for part in parts for port in part.ports]
    seen: dict[int, PartPort] = {}
    for _, port in wanted:
        if port.number in seen:
            raise ConfigError(
                f"{port.setting} and {seen[port.number].setting} are both {port.number}; give each its own port"
            )
        seen[port.number] = port
    for part, port in wanted:
        _check(part, port)


def _check(part: Part, port: PartPort) -> None:
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # as the servers do: connections that only linger from an earlier run are no obstacle
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortBusyError(
                    f"port {port.number}, which {part.name} needs, is taken by another process; "
                    f"free it, set {port.setting} in farthing.yaml, or move every port with --port-offset"
                ) from error
            raise ConfigError(
                f"{port.setting}: {part.name} cannot listen on {port.host}:{port.number} ({error.strerror}); "
                "choose another"
            ) from error
