"""Which requests an audit trail has already, and at what cost: read from the trail at each start, and nowhere else.

Nothing that lies in the folder besides the trail is believed, so nobody can make Farthing forget a request there.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from farthing.audit.chain import digest, encoded, link
from farthing.audit.disk import open_file
from farthing.audit.reading import not_whole, read_anchors, records
from farthing.audit.records import REQUEST
from farthing.books.moments import moment_ns
from farthing.domain.conventions import PHASES
from farthing.domain.errors import AuditError
from farthing.ledger.partitions import DAY
from farthing.service.audit_source import EVER, PLACE_NANO, PLACES, Key

__all__ = [
    "BOOT_DONE",
    "CLOSED",
    "OPENED",
    "REACHED",
    "TOKEN_ADDED",
    "TOKEN_CHANGED",
    "TOKEN_REMOVED",
    "WENT_BACK",
    "AuditIndex",
    "Seen",
    "Sums",
    "Written",
    "of_full_disk",
]

BOOT_DONE, OPENED, CLOSED = "boot_closed", "audit_opened", "audit_closed"
TOKEN_ADDED, TOKEN_CHANGED, TOKEN_REMOVED = "token_added", "token_changed", "token_removed"
REACHED, WENT_BACK = "ledger_reached", "ledger_went_back"
"""Kinds of events that say more than that they were."""
FILE = "index.db"
"""Its name for the moment until it is open; then it has none."""
AT_ONCE = 5_000
"""Records of the trail that are read into the index in one transaction."""
RESTS = 1.0
"""How long it rests after those, by what they took: costing and intake share the interpreter."""
_SCHEMA = """
CREATE TABLE written (
    boot TEXT NOT NULL, process INTEGER NOT NULL, sequence INTEGER NOT NULL, ended_ns INTEGER NOT NULL,
    first INTEGER NOT NULL, prefill INTEGER NOT NULL, decode INTEGER NOT NULL, vision INTEGER NOT NULL,
    PRIMARY KEY (boot, process, sequence)
) WITHOUT ROWID;
"""
_INSERT = (
    "INSERT INTO written VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
    "prefill = excluded.prefill, decode = excluded.decode, vision = excluded.vision"
)
Written = tuple[int, tuple[int, ...]]
"""The first record of a request, and its nano-dollars by phase as told last."""
Sums = dict[int, tuple[int, ...]]
"""Day (since the epoch, UTC) -> how many requests ended on it, what they cost by phase, and that by place."""
Seen = dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]]
"""(kind, key) of an event that was told -> a token's scopes and tenants as told last, empty for all others."""


class _Said(msgspec.Struct):
    """What the index needs of a record."""

    kind: str
    at: str = ""
    boot: str = ""
    process: int = 0
    sequence: int = 0
    ended: str = ""
    prefill_nano: int = 0
    decode_nano: int = 0
    vision_nano: int = 0
    key: str | None = None
    of: str = ""
    scopes: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    last_record: int | None = None
    requests: int = 0
    cost_nano: int = 0


_decoder = msgspec.json.Decoder(_Said)


class AuditIndex:
    """A database that nobody else can open: its file has no name any more. Ends early where ``stopping`` is set.

    Raises AuditError when it cannot be read or written; it is ``is_broken`` then, and a new one has to be made.
    """

    def __init__(self, folder: Path, stopping: threading.Event) -> None:
        self._folder = folder
        self._stopping = stopping
        self.is_broken = False
        self.closed: dict[str, Sums] = {}
        """Boots that records say are closed -> their sums; no more than that is kept of their requests.

        Empty where requests were told after that: which of them were told before, sums do not show."""
        self.ends: dict[str, tuple[int, int]] = {}
        """Boots that records say are closed -> how many requests and nano-dollars the last of those says."""
        self.seen: Seen = {}
        self.opened_at = ""
        """When the last opening says that it was, as records have it."""
        self.last_id = 0
        """The ledger's last record when that was looked at last."""
        self.reached_ns = 0
        """UTC nanoseconds when the trail told of that last."""
        self._n, self._digest = 0, ""
        with self._told():
            self._db = _private(folder / FILE)

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    # ---- reading -------------------------------------------------------------------------------

    def sums(self, boot: str, after_ns: int, until_ns: int) -> Sums:
        """As ``AuditSource.sums``, of what is written."""
        added = ", ".join(f"sum({phase})" for phase in PHASES)
        added += f", sum((({' + '.join(PHASES)}) % {PLACE_NANO}) * ((sequence + process) % {PLACES}))"
        which = "WHERE boot = ? AND ended_ns > ? AND ended_ns <= ? GROUP BY 1"
        query = f"SELECT ended_ns / {DAY}, count(*), {added} FROM written {which}"  # noqa: S608 - names of ours  # nosec B608
        with self._told():
            return {row[0]: tuple(row[1:]) for row in self._db.execute(query, (boot, after_ns, until_ns))}

    def written(self, boot: str, keys: Iterable[Key]) -> dict[Key, Written]:
        """What is written of some requests of a boot."""
        query = f"SELECT first, {', '.join(PHASES)} FROM written WHERE boot = ? AND process = ? AND sequence = ?"  # noqa: S608 - names of ours  # nosec B608
        found: dict[Key, Written] = {}
        with self._told():
            for key in keys:
                row = self._db.execute(query, (boot, *key)).fetchone()
                if row is not None:
                    found[key] = (row[0], tuple(row[1:]))
        return found

    # ---- writing -------------------------------------------------------------------------------

    def is_of_trail(self, last_n: int) -> bool:
        """Whether all that is known is of this trail, which ends with a record: the folder may have been put back."""
        if self._n == 0 or self._n > last_n:
            return self._n == 0
        with closing(records(self._folder, self._n - 1)) as found:
            number, body = next(found, (0, b""))
        return number == self._n and digest(body) == self._digest

    def follow(self, last_n: int) -> bool:
        """Read what the trail has up to its last record; False where it was stopped before.

        Days that are over have to be as their anchors say; raises AuditError where one is not.
        """
        with self._told():
            for some in self._read(self._n):
                self._take(((n, _decoder.decode(body)) for n, body in some), *some[-1])
        if self._stopping.is_set():
            return False
        if self._n != last_n:
            raise not_whole(self._folder, f"ends with record {self._n}, and with {last_n} when it was opened")
        return True

    def recall(self, boots: Collection[str]) -> None:
        """Know the requests of closed boots again."""
        for boot in boots:
            self.closed.pop(boot, None)
        with self._told():
            # the first record of each is told by its corrections
            self._db.executemany("DELETE FROM written WHERE boot = ?", [(boot,) for boot in boots])
            for some in self._read(0) if boots else ():
                said = ((n, _decoder.decode(body)) for n, body in some)
                self._insert([_row(n, one) for n, one in said if one.kind == REQUEST and one.boot in boots])

    def take(self, first_n: int, contents: Sequence[Mapping[str, Any]]) -> None:
        """Note records that were written, the first of them with a number."""
        last_n = first_n + len(contents) - 1
        said = ((n, msgspec.convert(one, _Said)) for n, one in enumerate(contents, start=first_n))
        with self._told():
            self._take(said, last_n, encoded({"n": last_n, **contents[-1]}))

    # ---- inside --------------------------------------------------------------------------------

    def _read(self, after: int) -> Iterator[list[tuple[int, bytes]]]:
        """The records after a number, some at once, with rests; fewer where it is stopped."""
        with closing(_whole(self._folder, after)) as found:
            while not self._stopping.is_set():
                began = time.monotonic()
                some = list(islice(found, AT_ONCE))
                if not some:
                    return
                yield some
                self._stopping.wait((time.monotonic() - began) * RESTS)

    def _insert(self, rows: list[tuple[str | int, ...]]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(_INSERT, rows)
        self._db.execute("COMMIT")
        rows.clear()

    def _take(self, some: Iterable[tuple[int, _Said]], last_n: int, last: bytes) -> None:
        """Note some records, each with its number; ``last`` is the JSON of the last."""
        rows: list[tuple[str | int, ...]] = []
        for n, said in some:
            if said.kind == REQUEST:
                rows.append(_row(n, said))
                if said.boot in self.closed:
                    self.closed[said.boot] = {}
            elif said.kind == BOOT_DONE:
                self._insert(rows)
                self._close_boot(said.boot)
                self.ends[said.boot] = (said.requests, said.cost_nano)
            else:
                self._note(said)
            if said.last_record is not None:
                self.last_id, self.reached_ns = said.last_record, _nanoseconds(said.at)
        self._insert(rows)
        self._n, self._digest = last_n, digest(last)

    def _close_boot(self, boot: str) -> None:
        if boot not in self.closed:
            self.closed[boot] = self.sums(boot, -1, EVER)
        self._db.execute("DELETE FROM written WHERE boot = ?", (boot,))

    def _note(self, said: _Said) -> None:
        if said.kind == OPENED:
            self.opened_at = said.at
        elif said.kind == TOKEN_REMOVED:
            self.seen.pop((said.of, said.key or ""), None)
        elif said.key is not None:
            kind = TOKEN_ADDED if said.kind == TOKEN_CHANGED else said.kind
            self.seen[kind, said.key] = (said.scopes, said.tenants)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self.is_broken = True
            raise AuditError(f"audit trail {self._folder / FILE}: {error}; it is made anew") from error
        except (msgspec.MsgspecError, ValueError, ArithmeticError) as error:
            self.is_broken = True
            raise not_whole(self._folder, f"has a record that says something else than it has to ({error})") from error
        except BaseException:
            self.is_broken = True
            raise


def of_full_disk(error: Exception) -> bool:
    """Whether a trail or its index could not be written for want of room."""
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def _private(path: Path) -> sqlite3.Connection:
    """An empty database whose file only this process has: it is gone with it."""
    for end in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    os.close(open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # nothing is ever rolled back: after any failure it is made anew
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=OFF", "synchronous=OFF"):
            db.execute(f"PRAGMA {pragma}")
        db.executescript(_SCHEMA)
        path.unlink()
    except BaseException:
        db.close()
        raise
    return db


def _whole(folder: Path, after: int) -> Generator[tuple[int, bytes], None, None]:
    """(number, JSON) of the records after a number: all of them, and those of days that are over as anchors say.

    The day that goes on was read by the writer. Raises AuditError where it is not so.
    """
    anchors = read_anchors(folder, ())
    days = {int(anchor.content["first_n"]): anchor.content for anchor in anchors.days.values()}
    removed = anchors.days.get(anchors.removed)
    expected = max(after, 0 if removed is None else int(removed.content["last_n"])) + 1
    day, hash_ = None, ""
    for n, body in records(folder, after):
        if n != expected:
            raise not_whole(folder, f"has record {n} where {expected} was expected")
        expected += 1
        if n in days:
            day, hash_ = days[n], str(days[n]["previous"])
        if day is not None:
            hash_ = link(hash_, digest(body))
            if n == day["last_n"]:
                if hash_ != day["last"]:
                    raise not_whole(folder, f"was altered on {day['day']}")
                day = None
        yield n, body


def _row(n: int, said: _Said) -> tuple[str | int, ...]:
    costs = (getattr(said, f"{phase}_nano") for phase in PHASES)
    return (said.boot, said.process, said.sequence, _nanoseconds(said.ended), n, *costs)


def _nanoseconds(stamped: str) -> int:
    """Nanoseconds since the epoch of a time as records have it."""
    whole, _, fraction = stamped.removesuffix("Z").partition(".")
    return _whole_second(whole) + int(fraction)


@lru_cache(maxsize=1_024)
def _whole_second(stamped: str) -> int:
    """Many records have the same."""
    return moment_ns(datetime.fromisoformat(f"{stamped}+00:00"))
