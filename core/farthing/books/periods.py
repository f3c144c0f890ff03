"""Accounting periods: calendar months in UTC, named ``2026-11``."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from farthing.domain.clock import SECOND, utc
from farthing.domain.errors import PeriodError

__all__ = ["bounds", "following", "parse_period", "period_of", "posting_period"]

_PERIOD = re.compile(r"^\d{4}-(0[1-9]|1[0-2])$")


def parse_period(text: str) -> str:
    """The period of a text such as ``2026-11``; PeriodError names anything else."""
    if not _PERIOD.match(text):
        raise PeriodError(f"period {text!r}: give a month as YYYY-MM, for example 2026-11")
    return text


def period_of(wall_ns: int) -> str:
    """The period that holds a UTC moment."""
    return f"{utc(wall_ns):%Y-%m}"


def following(period: str) -> str:
    """The period after one."""
    year, month = int(period[:4]), int(period[5:])
    return f"{year + month // 12:04d}-{month % 12 + 1:02d}"


def bounds(period: str) -> tuple[int, int]:
    """First UTC nanosecond of a period, and of the one after it."""
    return _first(period), _first(following(period))


def posting_period(service: str, closed_through: str | None) -> str:
    """Where work of a service period is posted: there, or in the first open period once it is closed."""
    if closed_through is None or service > closed_through:
        return service
    return following(closed_through)


def _first(period: str) -> int:
    return int(datetime(int(period[:4]), int(period[5:]), 1, tzinfo=UTC).timestamp()) * SECOND
