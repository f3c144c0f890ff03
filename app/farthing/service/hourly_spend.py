"""Settled spend hour by hour, read from the ledger's hourly sums: what budgets, forecasts and anomalies are made of.

What tenants, projects and models spend is what they bear: charged and aborted work. An engine's spend is all of its
bill, and so is that of everything together, less what no engine has: that is booked when a month is closed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from farthing.domain import conventions as c
from farthing.domain.clock import HOUR, utc
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.service.scope import hour_of

__all__ = ["BORNE", "Calendar", "HourlySpend", "Key", "settled_through"]

BORNE = (c.CHARGED, c.ABORTED)
"""Accounts of what a tenant, a project and a model bear."""
RECENT_HOURS = 48
"""Hours that are read again at every refresh: within them windows still settle."""
WHOLE_HOURS = 6
"""After so many hours everything is read again: a late record may move money within an older hour."""
STALE_HOURS = 6
"""An engine that has settled nothing for so long does not keep later hours from being complete."""

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Calendar:
    """The hours since the epoch, in UTC, at which the days and months around a moment begin."""

    now: int
    today: int
    yesterday: int
    month: int
    last_month: int
    history: int
    """First hour of the month before the last."""
    next_month: int

    @classmethod
    def at(cls, now_ns: int) -> Calendar:
        """Around a UTC moment in nanoseconds."""
        moment = utc(now_ns)
        today = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        month = today.replace(day=1)
        last = (month - timedelta(days=1)).replace(day=1)
        before = (last - timedelta(days=1)).replace(day=1)
        following = (month + timedelta(days=32)).replace(day=1)
        starts = (moment, today, today - timedelta(days=1), month, last, before, following)
        return cls(*map(hour_of, starts))

    @property
    def month_name(self) -> str:
        """The month as the books name it: 2026-11."""
        return f"{utc(self.month * HOUR):%Y-%m}"


def settled_through(ledger: Ledger, now_ns: int) -> int:
    """The first hour that is not complete: every engine that is being costed has settled all hours before it.

    An engine that has settled nothing for six hours is not waited for; its silence is told by its own checks.
    """
    now = now_ns // HOUR
    w, b = t.window_hours.c, t.boots.c
    running = sa.select(b.engine).where(b.closed_ns.is_(None))
    last = sa.select(w.engine, sa.func.max(w.hour)).where(w.hour >= now - STALE_HOURS, w.engine.in_(running))
    hours = [int(hour) for _, hour in ledger.select(last.group_by(w.engine))]
    return min([now, *hours])


class HourlySpend:
    """Nano-dollars by hour and key over a span that ends now; ``refresh`` reads what may have changed."""

    def __init__(self, ledger: Ledger, keys: Sequence[str], accounts: Sequence[str]) -> None:
        self._ledger = ledger
        self._keys = tuple(keys)
        self._accounts = tuple(accounts)
        self._hours: dict[int, dict[Key, int]] = {}
        self._known: dict[Key, Key] = {}
        self._start: int | None = None
        self._read_at = 0
        self.first_hour: int | None = None
        """The first hour in the books at all; None while they are empty."""

    def refresh(self, start_hour: int, now_hour: int) -> None:
        """Hold the hours from one on; all of them are read when the span moves back, and every few hours."""
        whole = self._start is None or start_hour < self._start or now_hour >= self._read_at + WHOLE_HOURS
        since = start_hour if whole else max(start_hour, now_hour - RECENT_HOURS)
        hours = self._read(since)
        kept = {} if whole else {hour: sums for hour, sums in self._hours.items() if start_hour <= hour < since}
        self._hours = kept | hours
        self._start = start_hour
        if whole:
            self._read_at = now_hour
        if whole or self.first_hour is None:
            # empty books have no first hour until something settles
            ((first,),) = self._ledger.select(sa.select(sa.func.min(t.cost_hours.c.hour)))
            self.first_hour = None if first is None else int(first)

    def hours(self) -> Iterator[tuple[int, Mapping[Key, int]]]:
        """(hour, key -> nano-dollars) of every hour with a line, oldest first."""
        return iter(sorted(self._hours.items()))

    def sums(self, start_hour: int, end_hour: int) -> Counter[Key]:
        """Nano-dollars by key of the hours [start, end)."""
        total: Counter[Key] = Counter()
        for hour, amounts in self._hours.items():
            if start_hour <= hour < end_hour:
                for key, nano in amounts.items():
                    total[key] += nano
        return total

    def series(self, pick: Callable[[Key], Key | None], end_hour: int) -> dict[Key, tuple[int, list[int]]]:
        """Name -> (first hour, nano-dollars of every hour from there to before ``end_hour``), for names that have any.

        ``pick`` gives the name that a key counts for, or None. Within the span an hour without a line cost nothing.
        """
        found: defaultdict[Key, dict[int, int]] = defaultdict(dict)
        names = {key: pick(key) for key in self._known}
        for hour, amounts in self._hours.items():
            if hour >= end_hour:
                continue
            for key, nano in amounts.items():
                name = names[key]
                if name is not None:
                    hours = found[name]
                    hours[hour] = hours.get(hour, 0) + nano
        return {
            name: (min(hours), [hours.get(hour, 0) for hour in range(min(hours), end_hour)])
            for name, hours in found.items()
        }

    def _read(self, since: int) -> dict[int, dict[Key, int]]:
        o = t.cost_hours.c
        columns = [o[key] for key in self._keys]
        query = sa.select(o.hour, *columns, sa.func.sum(o.nano))
        query = query.where(o.hour >= since, o.account.in_(self._accounts)).group_by(o.hour, *columns)
        hours: defaultdict[int, dict[Key, int]] = defaultdict(dict)
        for row in self._ledger.select(query):
            key = tuple(row[1:-1])
            hours[int(row[0])][self._known.setdefault(key, key)] = int(row[-1])
        return dict(hours)
