"""What a report covers: whole hours, and whose work. Reports read hourly sums: times are rounded down to the hour."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from farthing.domain.clock import HOUR, SECOND, utc
from farthing.domain.errors import ConfigError

__all__ = ["FILTERS", "Scope", "hour_of", "hour_text", "parse_moment", "shortened"]

FILTERS = ("tenant", "project", "model", "engine")

_DURATION = re.compile(r"([0-9]{1,4000})([smhdw])")
_QUOTED = 100
_UNIT = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""No ledger reaches further back."""
_END = datetime(9999, 12, 31, tzinfo=UTC)
"""Nor further ahead; the hours after it could not be named."""


def parse_moment(text: str, now: datetime, option: str = "--since") -> datetime:
    """The moment that an option names.

    ``text`` is a duration before now (``90m``, ``24h``, ``7d``, ``2w``), ``today``, ``month``, ``all``, or a UTC date
    or time. Raises ConfigError naming what was given.
    """
    found = _DURATION.fullmatch(text)
    if found:
        try:
            return max(_BEGINNING, now - timedelta(**{_UNIT[found.group(2)]: int(found.group(1))}))
        except OverflowError:
            return _BEGINNING
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"today": midnight, "month": midnight.replace(day=1), "all": _BEGINNING}
    if text in named:
        return named[text]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{option} {shortened(text)}: give a duration (24h, 7d), today, month, all, or a date such as 2026-11-01"
        ) from error
    return min(_END, max(_BEGINNING, moment.replace(tzinfo=moment.tzinfo or UTC)))


def shortened(text: str) -> str:
    """What somebody gave, quoted, and cut where it is long."""
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")


def hour_of(moment: datetime) -> int:
    """The hour that a moment lies in, counted since the epoch in UTC."""
    return int(moment.timestamp()) * SECOND // HOUR


def hour_text(hour: int) -> str:
    """The first minute of an hour, for people."""
    return f"{utc(hour * HOUR):%Y-%m-%d %H:%M}"


@dataclass(frozen=True, slots=True)
class Scope:
    """Hours [start, end) since the epoch, and whose work; None is no limit.

    ``tenants`` are those whom the asker may see, whatever else is asked for.
    """

    start_hour: int = 0
    end_hour: int | None = None
    tenant: str | None = None
    project: str | None = None
    model: str | None = None
    engine: str | None = None
    tenants: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        since: datetime,
        until: datetime | None = None,
        filters: Mapping[str, str | None] | None = None,
        tenants: frozenset[str] | None = None,
    ) -> Scope:
        """The hours from the one that ``since`` lies in to before the one that ``until`` lies in."""
        return cls(hour_of(since), None if until is None else hour_of(until), **(filters or {}), tenants=tenants)

    @property
    def filters(self) -> dict[str, str]:
        """The names that narrow it, by what they name."""
        named = ((key, getattr(self, key)) for key in FILTERS)
        return {key: name for key, name in named if name is not None}

    def hours(self, columns: Any) -> list[sa.ColumnElement[bool]]:
        """Conditions on the hour of a table of hourly sums."""
        found: list[sa.ColumnElement[bool]] = [columns.hour >= self.start_hour]
        if self.end_hour is not None:
            found.append(columns.hour < self.end_hour)
        return found

    def where(self, columns: Any) -> list[sa.ColumnElement[bool]]:
        """Conditions on a table of hourly sums that says whose they are."""
        found = [*self.hours(columns), *(columns[key] == name for key, name in self.filters.items())]
        return found if self.tenants is None else [*found, columns.tenant.in_(sorted(self.tenants))]
