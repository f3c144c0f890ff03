"""What requests cost, asked of ``farthing serve`` by their ids; unknown where it does not answer."""

from __future__ import annotations

import http.client
import json
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Cost", "Farthing"]

TIMEOUT_SECONDS = 5.0
"""For one answer: a cached answer waits for it, and is worth more than its price."""
PAUSE_SECONDS = 0.5

log = logging.getLogger(__name__)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would take the token along, to whatever host it names."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None: nothing follows it."""


_opener = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class Cost:
    """Of one request, in nano-dollars; None: unknown, or not settled yet."""

    estimate_nano: int | None
    settled_nano: int | None
    phases: dict[str, int] = field(default_factory=dict)


class Farthing:
    """The service at ``url``, which a token may be needed for."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._complained = False

    def cost(self, request_id: str) -> Cost | None:
        """What is known of a request's cost now; None while nothing is, and where nobody answers, which is logged."""
        try:
            found = self._asked(request_id)
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
            if not self._complained:  # once, until it answers again
                log.warning("costs are unknown: Farthing does not answer (%s)", _reason(error))
            self._complained = True
            return None
        self._complained = False
        return found

    def settled(self, request_id: str, deadline: float) -> Cost | None:
        """The same, once it is settled or the deadline (of the monotonic clock) has passed."""
        while True:
            cost = self.cost(request_id)
            if (cost is not None and cost.settled_nano is not None) or time.monotonic() > deadline:
                return cost
            time.sleep(PAUSE_SECONDS)

    def _asked(self, request_id: str) -> Cost | None:
        asked = urllib.request.Request(  # noqa: S310 - the address that the user gave
            f"{self._url}/api/v1/trace/{urllib.parse.quote(request_id, safe='')}", headers=self._headers
        )
        try:
            with _opener.open(asked, timeout=TIMEOUT_SECONDS) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:  # its record is on its way
                return None
            raise
        for request in found["requests"]:
            if request["request_id"] == request_id:
                phases = {phase["phase"]: _nano(phase["nano"]) for phase in request["phases"]}
                settled = _nano(request["cost_nano"]) if request["state"] == "settled" and phases else None
                estimate = request["estimate_nano"]
                return Cost(None if estimate is None else _nano(estimate), settled, phases)
        return None


def _nano(amount: Any) -> int:
    """An amount of money; raises TypeError for anything but an integer."""
    if type(amount) is not int:
        raise TypeError
    return amount


def _reason(error: Exception) -> str:
    """Without a word of what was answered."""
    return f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
