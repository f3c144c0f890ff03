"""Devices in the ledger: their samples in the inbox, and when each of them was there.

Presence is kept apart from samples, which are pruned, and knows how far it was read: taking a record twice, or in
another order, changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farthing.domain.clock import SECOND
from farthing.domain.conventions import DEVICE_BOOT
from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger import tables as t
from farthing.ledger.database import advisory_lock, transaction
from farthing.ledger.repository import Ledger

__all__ = [
    "DEVICE_KIND",
    "PRESENCE_GAP_NS",
    "Presence",
    "device_history",
    "device_records",
    "energy_before",
    "extend",
    "last_read",
    "merged",
    "presences",
    "start_of",
]

DEVICE_KIND = "device"
"""Kind of the inbox's records of samples."""
PRESENCE_GAP_NS = 60 * SECOND
"""A device that nothing was read of for longer was not there."""
_LAST_RUN = "9" * 20
"""No collector begins later than that many nanoseconds after the epoch."""


@dataclass(frozen=True, slots=True)
class Presence:
    """One stay of a device: UTC nanoseconds of its first and last sample."""

    uuid: str
    first_ns: int
    last_ns: int
    host: str
    name: str
    """As the driver spells it."""
    kind: str
    parent: str = ""
    pod: str = ""
    read_id: int = 0
    """The last record that is in it."""

    @property
    def identity(self) -> tuple[str, str, str, str, str]:
        """What a source says of the device; each has stays of its own, which overlap those of others."""
        return self.host, self.name, self.kind, self.parent, self.pod


def presences(connection: Connection) -> list[Presence]:
    """Every stay of every device, by device and time."""
    p = t.gpu_presence.c
    return [
        Presence(**row._mapping) for row in connection.execute(sa.select(t.gpu_presence).order_by(p.uuid, p.first_ns))
    ]


def extend(ledger: Ledger, seen: Sequence[Presence]) -> dict[str, list[Presence]]:
    """Add what was seen of devices to what is known of them, in one transaction; returns the stays they are in."""
    by_uuid: defaultdict[str, list[Presence]] = defaultdict(list)
    for one in seen:
        by_uuid[one.uuid].append(one)
    p = t.gpu_presence.c
    with transaction(ledger.engine, write=True) as connection:
        advisory_lock(connection, "presence")
        known: defaultdict[str, list[Presence]] = defaultdict(list)
        for uuid, new in by_uuid.items():
            # only those that they may go on with, or that begin with them
            since_ns = min(one.first_ns for one in new) - PRESENCE_GAP_NS
            until_ns = max(one.last_ns for one in new) + PRESENCE_GAP_NS
            near = (p.uuid == uuid, p.first_ns <= until_ns, p.last_ns >= since_ns)
            known[uuid] += [
                Presence(**row._mapping) for row in connection.execute(sa.select(t.gpu_presence).where(*near))
            ]
        found = {uuid: merged([*known[uuid], *new]) for uuid, new in by_uuid.items()}
        before = {(one.uuid, one.first_ns): one for stays in known.values() for one in stays}
        after = {(one.uuid, one.first_ns): one for stays in found.values() for one in stays}
        for uuid, first_ns in before.keys() - after.keys():
            connection.execute(sa.delete(t.gpu_presence).where(p.uuid == uuid, p.first_ns == first_ns))
        if new_rows := [asdict(one) for key, one in after.items() if key not in before]:
            connection.execute(sa.insert(t.gpu_presence), new_rows)
        changed = [one for key, one in after.items() if before.get(key, one) != one]
        if changed:
            update = sa.update(t.gpu_presence).where(p.uuid == sa.bindparam("of"), p.first_ns == sa.bindparam("since"))
            values: dict[str, Any] = {name: sa.bindparam(name) for name in _VALUES}
            rows = [
                {"of": one.uuid, "since": one.first_ns, **{name: getattr(one, name) for name in _VALUES}}
                for one in changed
            ]
            connection.execute(update.values(values), rows)
    return found


_VALUES = ("last_ns", "host", "name", "kind", "parent", "pod", "read_id")


def merged(stays: Iterable[Presence]) -> list[Presence]:
    """One device's stays in the order of time, those of one identity that go on with one another made one.

    Their union, with gaps of a minute closed, is the same in whatever order they come.
    """
    begun: dict[int, Presence] = {}
    open_: dict[tuple[str, ...], Presence] = {}
    for stay in sorted(stays, key=lambda one: (one.first_ns, one.identity, one.last_ns)):
        # two that tell it from one moment on are one row: the first is believed
        last = open_.get(stay.identity)
        if last is None or stay.first_ns > last.last_ns + PRESENCE_GAP_NS:
            last = begun.get(stay.first_ns, stay)
        longer = max(last.last_ns, stay.last_ns)
        longer_stay = replace(last, last_ns=longer, read_id=max(last.read_id, stay.read_id))
        begun[last.first_ns] = open_[last.identity] = longer_stay
    return list(begun.values())


def device_records(ledger: Ledger, after_id: int, through_id: int, limit: int = 5_000) -> list[tuple[int, RawRecord]]:
    """Up to ``limit`` records of samples in order of arrival, after a record's id and up to another's."""
    r = t.records.c
    wanted = (r.id > after_id, r.id <= through_id, r.kind == DEVICE_KIND)
    query = sa.select(t.records).where(*wanted).order_by(r.id).limit(limit)
    return [(int(row.id), _raw(row)) for row in ledger.select(query)]


def device_history(ledger: Ledger, uuid: str, since_ns: int) -> list[RawRecord]:
    """A device's records that reach beyond a UTC moment, in no order."""
    r = t.records.c
    prefix = f"{DEVICE_BOOT}{uuid}/"
    query = sa.select(t.records).where(
        # runs are numbers, so these bounds hold whatever the database's order of letters is
        r.boot >= f"{prefix}0",
        r.boot <= f"{prefix}{_LAST_RUN}",
        r.kind == DEVICE_KIND,
        r.event_ns >= since_ns,
    )
    return [_raw(row) for row in ledger.select(query) if row.boot.startswith(prefix)]


def start_of(connection: Connection, boot: str) -> bytes | None:
    """The record of a boot's start, as received; None when it is not there."""
    r = t.records.c
    query = sa.select(r.line).where(r.boot == boot, r.kind == "started").order_by(r.process, r.sequence).limit(1)
    line = connection.execute(query).scalar()
    return None if line is None else bytes(line)


def energy_before(ledger: Ledger, boot: str, reach_ns: int) -> tuple[int, int] | None:
    """Where a boot's samples have to be read again from, and the energy of its windows that begin before.

    That is the first posted window that ends within ``reach_ns`` (nanoseconds) before the last one's end, on the boot's
    monotonic clock; None where all of them do.
    """
    w = t.windows.c
    ((first, last),) = ledger.select(sa.select(sa.func.min(w.start_ns), sa.func.max(w.end_ns)).where(w.boot == boot))
    if last is None or last - first <= reach_ns:
        return None
    since = ledger.select(sa.select(sa.func.min(w.end_ns)).where(w.boot == boot, w.end_ns >= last - reach_ns))[0][0]
    query = sa.select(sa.func.coalesce(sa.func.sum(w.energy_mj), 0)).where(w.boot == boot, w.start_ns < since)
    return int(since), int(ledger.select(query)[0][0])


def _raw(row: sa.Row[tuple[object, ...]]) -> RawRecord:
    return RawRecord(RecordKey(row.boot, row.process, row.sequence), row.kind, row.event_ns, bytes(row.line))


def last_read(connection: Connection) -> int:
    """The last record of samples that presence knows of."""
    return int(connection.execute(sa.select(sa.func.max(t.gpu_presence.c.read_id))).scalar() or 0)
