"""Under which name an engine is booked: its probe and its scraper must mean the same one, or it is billed twice."""

from __future__ import annotations

from collections.abc import Sequence

from farthing.settings import EngineSettings

__all__ = ["addresses_of", "booked_name"]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


def booked_name(reported: str, engines: Sequence[EngineSettings], hostname: str) -> str:
    """The configured engine that a sender's name means, else the name itself.

    That is the engine of this name; failing that, the only one whose URL has the host and port that a probe
    without a name calls itself by. A loopback URL means this machine, called ``hostname``.
    """
    if any(engine.name == reported for engine in engines):
        return reported
    meant = [engine.name for engine in engines if reported.lower() in addresses_of(engine, hostname)]
    return meant[0] if len(meant) == 1 else reported


def addresses_of(engine: EngineSettings, hostname: str) -> set[str]:
    """What a probe of an engine calls itself that has no name: the host and port of the engine's URL."""
    host, port = (engine.url.host or "").lower(), engine.url.port
    hosts = {host, hostname.lower()} if host in _LOOPBACK else {host}
    return {f"{name}:{port}" for name in hosts}
