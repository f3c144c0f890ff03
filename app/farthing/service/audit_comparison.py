"""Comparing an audit trail with the ledger that it is written from: what one of them has and the other does not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import sqlalchemy as sa

from farthing.audit.reading import days_in, records
from farthing.audit.records import REQUEST
from farthing.audit.verify import Problem
from farthing.books.moments import moment_ns
from farthing.domain.clock import HOUR
from farthing.domain.conventions import PHASES
from farthing.domain.errors import AuditError
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.service.audit_index import OPENED
from farthing.service.audit_source import AuditedBoot, AuditSource, Key, pages

__all__ = ["Compared", "compare"]

AT_ONCE = 10_000
"""Requests that are read at once."""
LARGEST = 2**63
"""What no number of a request comes to."""
NAMED = 3
"""Requests that are named of all that are wrong in the same way."""
LEDGER = "ledger"
"""Stands for a file where a problem is not of one."""
_SCHEMA = """
PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
CREATE TABLE written (
    boot TEXT, process INTEGER, sequence INTEGER, n INTEGER, costs TEXT,
    PRIMARY KEY (boot, process, sequence)
) WITHOUT ROWID;
"""
_PUT = "INSERT INTO written VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET costs = excluded.costs"
_OF_BOOT = "SELECT process, sequence, n, costs FROM written WHERE boot = ? ORDER BY process, sequence"
_IS_THERE = "SELECT 1 FROM written WHERE boot = ? LIMIT 1"
_BOOTS = "SELECT boot, count(*), min(n) FROM written GROUP BY boot"
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Compared:
    """What a comparison found."""

    requests: int = 0
    """That both have, at the same cost."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Booked(NamedTuple):
    """A request as the ledger has it."""

    key: Key
    request_id: str
    ended_ns: int
    costs: str


class _Written(NamedTuple):
    """A request as the trail has it."""

    key: Key
    n: int
    """Its first record."""
    costs: str
    """As told last."""


_Pair = tuple[_Booked | None, _Written | None]
"""A request as the ledger and as the trail has it; one of them may be None."""


class _Wrong:
    """Requests of a boot that are wrong in one way: how many, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.names: list[str] = []

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if len(self.names) < NAMED:
            self.names.append(name)

    def __str__(self) -> str:
        return ", ".join(self.names) + (", ..." if self.count > len(self.names) else "")


def compare(folder: Path, ledger: Ledger, window_seconds: int, now_ns: int, progress: Progress) -> Compared:
    """Compare the requests that a trail has to have with the ledger's, boot by boot; nothing is verified.

    It has to have those that ended after the day (UTC) that an opening looked back to, or, where days were removed
    since, after the first that it has. What is not settled, or ended in the hour before ``now_ns`` (UTC), may still be
    written or corrected, and is counted in a note. Where that leaves nothing to compare, it is a problem. Memory does
    not grow with either of them; the trail's requests go through a database in the folder for temporary files. Raises
    AuditError and LedgerError for what cannot be read.
    """
    found = Compared()
    days = days_in(folder)
    if not days:
        _tell_of_none(found, ledger, now_ns)
        return found
    source = AuditSource(ledger, window_seconds)
    # before the trail is read: what settles meanwhile is in one of them alone
    settled = {boot.boot: (boot, source.settled_until(boot)) for boot in source.boots()}
    try:
        with TemporaryDirectory() as place, closing(sqlite3.connect(Path(place) / "requests.db")) as written:
            since = _read(folder, written, progress) or date.fromisoformat(days[0])
            _compare(found, ledger, written, settled, since=since, now_ns=now_ns, progress=progress)
    except (sqlite3.Error, OSError) as error:
        what = f"cannot be compared with the ledger in the folder for temporary files ({error})"
        raise AuditError(f"audit trail {folder}: {what}; make room there, or name another in TMPDIR") from error
    return found


# ---- inside ------------------------------------------------------------------------------------------


def _tell_of_none(found: Compared, ledger: Ledger, now_ns: int) -> None:
    """A trail of no day is one that has just begun, if the ledger has no more than that."""
    older = sa.select(sa.func.count()).select_from(t.requests).where(t.requests.c.ended_wall_ns <= now_ns - HOUR)
    count = ledger.select(older)[0][0]
    if count:
        what = f"{count} requests are older than an hour, and the trail has no record at all"
        found.problems.append(Problem(LEDGER, None, None, what))
    else:
        found.notes.append("the trail has no day that could be compared with the ledger")


def _compare(
    found: Compared,
    ledger: Ledger,
    written: sqlite3.Connection,
    settled: Mapping[str, tuple[AuditedBoot, int]],
    *,
    since: date,
    now_ns: int,
    progress: Progress,
) -> None:
    seals = sa.select(t.seals.c.boot).where(t.seals.c.table_name == t.requests.name)
    pruned = {row.boot for row in ledger.select(seals)}
    since_ns = max(0, moment_ns(since))
    if since_ns > now_ns:
        what = f"the trail looks back to {since}, which is to come: what it does not have of before that is not found"
        found.problems.append(Problem(LEDGER, None, None, what))
    pending = 0
    for at, (boot, until_ns) in enumerate(settled.values(), start=1):
        if boot.boot not in pruned:
            rows = written.execute(_OF_BOOT, (boot.boot,))
            # whatever the trail has is compared, however old it is
            is_there = written.execute(_IS_THERE, (boot.boot,)).fetchone()
            booked = _booked(ledger, boot.boot, 0 if is_there else since_ns)
            both = _pairs(booked, (_Written((row[0], row[1]), *row[2:]) for row in rows))
            pending += _compare_boot(found, boot, both, since_ns, min(until_ns, now_ns - HOUR))
        progress("boots", at, len(settled))
    for name, count, first in written.execute(_BOOTS):
        if name in pruned:
            found.notes.append(f"{count} requests of boot {name} were pruned from the ledger, and not compared")
        elif name not in settled:
            what = f"{count} requests of boot {name} are in the trail, and the ledger has no such boot"
            found.problems.append(Problem(LEDGER, None, first, what))
    if pending:
        why = "they are not settled, or ended in the last hour"
        found.notes.append(f"{pending} requests are not in the trail yet as they are in the ledger: {why}")
    found.notes.append(f"{found.requests} requests that ended since {since} are the ledger's, at its costs")


def _read(folder: Path, written: sqlite3.Connection, progress: Progress) -> date | None:
    """Put the trail's requests into a database, each with its last costs.

    Returns how far its openings looked back, at the most; None where its first record is gone.
    """
    written.executescript(_SCHEMA)
    found = records(folder)
    done, is_whole = 0, False
    since: date | None = None
    while some := list(islice(found, AT_ONCE)):
        is_whole = is_whole or some[0][0] == 1
        rows = []
        for n, body in some:
            row = _written(n, body)
            if isinstance(row, date):
                since = min(since or row, row)
            elif row is not None:
                rows.append(row)
        written.executemany(_PUT, rows)
        done += len(some)
        progress("requests", done, done)
    written.commit()
    return since if is_whole else None


def _written(n: int, body: bytes) -> tuple[str, int, int, int, str] | date | None:
    """A request's record as a row, that of an opening as the day that it looked back to, None for any other."""
    try:
        said = json.loads(body)
        if said["kind"] == OPENED:
            return date.fromisoformat(said["at"][:10]) - timedelta(days=said["retention_days"])
        if said["kind"] != REQUEST:
            return None
        costs = [int(said[f"{phase}_nano"]) for phase in PHASES]
        process, sequence, boot = int(said["process"]), int(said["sequence"]), str(said["boot"])
        # half a surrogate is in no text of a database
        boot.encode("utf-8")
        if max(abs(process), abs(sequence)) >= LARGEST:
            raise ValueError("its numbers are larger than any of a request")
        return (boot, process, sequence, n, " ".join(map(str, costs)))
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise AuditError(f"audit trail: record {n} is none of Farthing's: its form is another") from error


def _booked(ledger: Ledger, boot: str, since_ns: int) -> Iterator[_Booked]:
    """Requests of a boot that ended after a time, in the order of their keys."""
    q = t.requests.c
    key, costs = (q.process, q.sequence), (q[f"{phase}_nano"] for phase in PHASES)
    query = sa.select(*key, q.request_id, q.ended_wall_ns, *costs).where(q.boot == boot, q.ended_wall_ns > since_ns)
    for rows in pages(ledger, query, key, (-1, -1), AT_ONCE):
        for row in rows:
            yield _Booked((row[0], row[1]), row[2], int(row[3]), " ".join(map(str, row[4:])))


def _pairs(booked: Iterator[_Booked], written: Iterator[_Written]) -> Iterator[_Pair]:
    """Requests by the order of their keys, as the ledger and as the trail has them."""
    there, here = next(booked, None), next(written, None)
    while there is not None or here is not None:
        if there is None or (here is not None and here.key < there.key):
            yield None, here
            here = next(written, None)
        elif here is not None and here.key == there.key:
            yield there, here
            there, here = next(booked, None), next(written, None)
        else:
            yield there, None
            there = next(booked, None)


def _compare_boot(
    found: Compared,
    boot: AuditedBoot,
    both: Iterator[_Pair],
    since_ns: int,
    reach_ns: int,
) -> int:
    """Compare a boot's requests; returns how many that ended after ``reach_ns`` are not the same yet.

    Those that ended until ``since_ns`` the trail need not have.
    """
    missing, other, extra = _Wrong(), _Wrong(), _Wrong()
    pending = 0
    for there, here in both:
        if there is None:
            extra.add(f"record {here.n}" if here else "none")
        elif here is not None and here.costs == there.costs:
            found.requests += 1
        elif here is None and there.ended_ns <= since_ns:
            continue
        elif there.ended_ns > reach_ns:
            pending += 1
        elif here is None:
            missing.add(there.request_id)
        else:
            other.add(f"{there.request_id} (record {here.n})")
    for wrong, what in (
        (missing, "are not in the trail"),
        (other, "have other costs in the trail"),
        (extra, "are in the trail alone"),
    ):
        if wrong.count:
            text = f"{wrong.count} requests of boot {boot.boot} of engine {boot.engine} {what}: {wrong}"
            found.problems.append(Problem(LEDGER, None, None, text))
    return pending
