"""Dates of price entries as integer nanoseconds UTC, and calendar months."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, date, datetime

from farthing.domain.clock import SECOND

__all__ = ["add_months", "moment_ns", "moment_text", "period_text"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = 1_000


def moment_ns(day: date) -> int:
    """Nanoseconds since the epoch of a UTC datetime, or of a date's midnight UTC; naive datetimes are UTC."""
    if isinstance(day, datetime):
        moment = day.replace(tzinfo=UTC) if day.tzinfo is None else day.astimezone(UTC)
    else:
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds * _MICROSECOND


def moment_text(wall_ns: int) -> str:
    """``2026-10-01`` for a midnight UTC, else ``2026-10-01T13:30:00Z``, to the second."""
    moment = datetime.fromtimestamp(wall_ns // SECOND, tz=UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return text.removesuffix("T00:00:00Z") if wall_ns % SECOND == 0 else text


def period_text(start_ns: int, end_ns: int | None) -> str:
    """``from 2026-10-01 until 2026-11-01``, or ``from 2026-10-01 on``."""
    last = "on" if end_ns is None else f"until {moment_text(end_ns)}"
    return f"from {moment_text(start_ns)} {last}"


def add_months(day: date, months: int) -> date:
    """The same day ``months`` calendar months later, or the last of that month where it is shorter."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, monthrange(year, month + 1)[1]))
