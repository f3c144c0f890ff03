"""Waiting until every part of a stack is ready, or saying which one is not and why."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from farthing.domain.errors import StackError

__all__ = ["Awaited", "PartFailedError", "is_ready", "last_lines", "wait_until_ready"]

POLL_SECONDS = 0.25
PROBE_SECONDS = 2.0
TAIL_BYTES = 64 * 1024


class PartFailedError(StackError):
    """A part did not become ready; ``log`` holds the reason, where there is a file with it."""

    def __init__(self, message: str, log: Path | None) -> None:
        super().__init__(message if log is None else f"{message}; its log is {log}")
        self.log = log


@dataclass(frozen=True, slots=True)
class Awaited:
    """A part that must answer, and its log."""

    name: str
    url: str
    log: Path | None = None


def wait_until_ready(
    awaited: Sequence[Awaited],
    *,
    patience_seconds: float,
    stop: threading.Event,
    waiting_for: Callable[[Sequence[str]], None],
    check: Callable[[Sequence[Awaited]], None],
    tls: ssl.SSLContext | bool = True,
) -> bool:
    """True once every part answers on its URL; False when ``stop`` was set meanwhile.

    ``waiting_for`` is told the names still missing after each round; ``check`` raises PartFailedError when waiting
    for them is pointless; ``tls`` is what is believed of those that speak it. Raises PartFailedError after
    ``patience_seconds``.
    """
    missing = list(awaited)
    until = time.monotonic() + patience_seconds
    # proxies of the environment have no business with loopback
    with httpx.Client(trust_env=False, timeout=PROBE_SECONDS, verify=tls) as client:
        while not stop.is_set():
            missing = [part for part in missing if not is_ready(part.url, client)]
            waiting_for([part.name for part in missing])
            if not missing:
                return True
            check(missing)
            if time.monotonic() > until:
                names = ", ".join(part.name for part in missing)
                raise PartFailedError(
                    f"not ready after {patience_seconds:g} s: {names} ({missing[0].url} did not answer)",
                    missing[0].log,
                )
            stop.wait(POLL_SECONDS)
    return False


def is_ready(url: str, client: httpx.Client) -> bool:
    """Whether ``url`` answers with success."""
    try:
        with client.stream("GET", url) as answer:
            return answer.is_success
    except httpx.HTTPError:
        return False


def last_lines(path: Path, count: int = 15) -> tuple[str, ...]:
    """The last lines of a log; none when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return tuple(file.read().decode(errors="replace").splitlines()[-count:])
    except OSError:
        return ()
