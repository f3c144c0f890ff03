"""What every sender of records has to know of an intake: how it is asked, and how its answers are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from farthing.domain.errors import ConfigError

__all__ = ["Answered", "NotAsAgreedError", "TooLargeError", "answered", "intake_headers", "words_of"]

_OF_ANOTHER: Final = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
"""What reading an answer raises that is no intake's: no JSON, another shape, 1e999, too many brackets."""


class NotAsAgreedError(Exception):
    """A 200 that no intake of Farthing's gave."""


class TooLargeError(Exception):
    """The intake takes smaller bodies than this one."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What an intake did with a body's records."""

    accepted: int
    duplicate: int
    refused: list[Any]
    """The first that it found wrong, with the reason."""
    unit_prices: Mapping[str, Any] = field(default_factory=dict)
    """By engine, nano-dollars per million units; empty while nothing is settled."""


def intake_headers(token: str | None) -> dict[str, str]:
    """Headers of a body of gzip lines. Raises ConfigError for a token that no request can carry."""
    headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
    if token is not None:
        if not token or not token.isascii() or not token.isprintable():
            raise ConfigError("the intake token must be printable ASCII; check FARTHING_INTAKE_TOKEN or its file")
        headers["Authorization"] = f"Bearer {token}"
    return headers


def answered(answer: httpx.Response) -> Answered:
    """What a 200 says. Raises NotAsAgreedError where another program gave it."""
    try:
        said = answer.json()
        prices = said.get("unit_prices")
        counts = int(said["accepted"]), int(said["duplicate"]), list(said["refused"])
        return Answered(*counts, prices if isinstance(prices, dict) else {})
    except _OF_ANOTHER as error:
        raise NotAsAgreedError("answered 200, but not as Farthing's intake does; check the URL") from error


def words_of(answer: httpx.Response) -> str:
    """The intake's own explanation in one line, else the beginning of whatever answered in its place."""
    try:
        return str(answer.json()["error"])
    except _OF_ANOTHER:
        return " ".join(answer.text.split())[:200] or answer.reason_phrase
