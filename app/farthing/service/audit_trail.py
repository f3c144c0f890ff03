"""Writes the audit trail beside costing: whatever the ledger has settled and the trail does not have yet.

It reads the ledger alone, so a kill at any moment loses nothing and doubles nothing, and what it cannot write now it
writes later. No failure of it reaches intake or costing; it is counted, shown and logged once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool

from farthing.audit.chain import day_of
from farthing.audit.records import event, request, stamp
from farthing.audit.writer import AuditWriter
from farthing.domain.clock import HOUR
from farthing.domain.conventions import PHASES
from farthing.domain.errors import AuditError, LedgerError
from farthing.domain.model import AuditView
from farthing.ledger.partitions import DAY
from farthing.ledger.repository import Ledger
from farthing.service.access_tokens import Tokens
from farthing.service.audit_index import BOOT_DONE, CLOSED, OPENED, REACHED, WENT_BACK, AuditIndex, of_full_disk
from farthing.service.audit_source import EVER, AuditedBoot, AuditSource, Done, Key
from farthing.service.audit_tokens import TokenStates
from farthing.settings import Settings
from farthing.settings_audit import read_keys

__all__ = ["AuditTrail", "rest_seconds"]

_log = logging.getLogger(__name__)

PASS_SECONDS = 5.0
"""How often it looks for what settled; more seldom where a look takes long, so that it takes ``SHARE`` of the time."""
SHARE = 0.05
RESTS = 3.0
"""How long it rests after some requests, by what they took: costing shares the interpreter, and the first look may find
a year of them."""
COMPARE_SECONDS = 600.0
"""How often costs that are written already are compared with the ledger's: late records change some."""
ADMINISTRATION_SECONDS = 60.0
"""How often tokens, prices and closings are looked for, and the longest rest."""
FAR_NS = HOUR
"""A boot that has come so far at once is compared by itself: others would be read again for it."""
REACHED_NS = HOUR
"""How often it says how far the ledger has come, which a ledger that went back is known by after a kill."""


def rest_seconds(took: float) -> float:
    """How long a look rests that took so many seconds; never so long that a token or a closing is told late."""
    return min(ADMINISTRATION_SECONDS, max(PASS_SECONDS, took / SHARE))


class _Reach(NamedTuple):
    """How far a boot's requests are written, and how far they are settled: UTC nanoseconds."""

    boot: AuditedBoot
    cursor: int
    until: int


@dataclass(slots=True)
class _Open:
    """What is there while the trail can be written."""

    writer: AuditWriter
    index: AuditIndex
    cursors: dict[str, int] = field(default_factory=dict)
    """Boot -> UTC nanoseconds up to where the requests that ended are written."""


class AuditTrail:
    """The trail of a service. ``update`` does all that is due, and is called by one thread at a time.

    ``clock_ns`` is UTC, ``monotonic`` seconds. Raises ConfigError when the keys of the settings cannot be read.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        folder: Path,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = AuditSource(ledger, settings.costing.window_seconds)
        self._settings = settings
        self._folder = folder
        self._keys = read_keys(settings.audit.key_file)
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._open: _Open | None = None
        self._index: AuditIndex | None = None
        self._tokens = TokenStates(settings.tokens_file)
        self._done: set[str] = set()
        """Boots whose requests are all in the trail for good."""
        self._opening: Mapping[str, Any] | None = None
        self._compare_at = self._administration_at = 0.0
        self._failures = 0
        self._complaint = ""
        self._was_full = False
        """The last failure was one of a full disk."""
        self._written = 0
        self._told: Sequence[Mapping[str, Any]] = ()

    def view(self) -> AuditView:
        """How it is."""
        return AuditView(self._written, self._failures, not self._complaint)

    async def run(self) -> None:
        """Update now and then, until cancelled."""
        while True:
            began = self._monotonic()
            await run_in_threadpool(self.update)
            await asyncio.sleep(rest_seconds(self._monotonic() - began))

    def update(self) -> None:
        """Write what is due. Whatever goes wrong is counted, and logged when it is news."""
        with self._lock:
            self._try(self._update)

    def note_tokens(self, tokens: Tokens) -> None:
        """Let the trail tell that callers are let in by these tokens from now on; any thread may."""
        self._tokens.note(tokens)

    def stop(self) -> None:
        """Let an update that is under way end soon; what it did not come to is written after the next start."""
        self._stopping.set()

    def close(self) -> None:
        """Say that the trail ends for now, and let others write it."""
        self.stop()
        with self._lock:
            if self._open is not None:
                said = {"last_record": self._open.index.last_id}
                self._try(lambda: self._write([event(CLOSED, self._clock_ns(), **said)]))
            self._let_go()
            self._forget()

    # ---- inside --------------------------------------------------------------------------------

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (AuditError, LedgerError) as error:
            self._was_full = of_full_disk(error)
            self._fail(str(error))
        except Exception:
            self._fail("")
            _log.exception("audit trail cannot be written; it is tried again, and nothing is lost")
        else:
            if self._complaint:
                _log.info("audit trail %s: is written again", self._folder)
            self._complaint = ""

    def _fail(self, complaint: str) -> None:
        self._failures += 1
        # once: a disk may be full for hours
        if complaint and complaint != self._complaint:
            _log.error("%s", complaint)
        self._complaint = complaint or "see the log"
        self._let_go()

    def _let_go(self) -> None:
        if self._open is not None:
            self._told = self._open.writer.untold
            self._open.writer.close()
        self._open = None
        if self._index is not None and self._index.is_broken:
            self._forget()

    def _forget(self) -> None:
        if self._index is not None:
            self._index.close()
        self._index = None
        self._done.clear()

    def _update(self) -> None:
        if self._open is None:
            self._open = self._opened()
            self._compare_at = self._administration_at = 0.0
        if self._open is None:
            return
        now = self._monotonic()
        if now >= self._administration_at:
            self._write_administration()
            self._administration_at = now + ADMINISTRATION_SECONDS
        compare, horizon = now >= self._compare_at, self._horizon()
        advanced: dict[str, _Reach] = {}
        for boot in self._source.boots():
            if self._stopping.is_set():
                return
            if boot.boot not in self._done and not (boot.is_over and boot.covered_ns <= horizon):
                self._look_at(boot, horizon, advanced, compare=compare)
        self._write_ended(advanced)
        if compare:
            self._compare_at = now + COMPARE_SECONDS
            # of now: a clock that was far ahead may have been set right meanwhile
            self._open.writer.remove_before(day_of(self._horizon()))

    def _opened(self) -> _Open | None:
        """The trail, once its records are read; None where that was stopped."""
        audit = self._settings.audit
        writer = AuditWriter(
            self._folder, clock_ns=self._clock_ns, keys=self._keys, fsync=audit.fsync, untold=self._told
        )
        try:
            if self._was_full:
                self._make_room(writer)
            was, self._written = self._written, writer.n
            if self._index is not None and not self._index.is_of_trail(writer.n):
                self._forget()
            if self._index is None:
                self._index = AuditIndex(self._folder, self._stopping)
            if not (self._index.follow(writer.n) and self._confirmed(self._index)):
                writer.close()
                return None
        except BaseException:
            writer.close()
            raise
        self._open = _Open(writer, self._index)
        begins = writer.n == 0 and (was > 0 or self._opening is None)
        tried = self._opening
        opening = self._new_opening(begins=begins) if begins or tried is None else tried
        self._opening = opening
        if tried is None or self._index.opened_at != tried["at"]:
            # once: a disk may be full for hours
            self._write([opening])
        return self._open

    def _make_room(self, writer: AuditWriter) -> None:
        """Remove what is old before anything is written; nobody has read it yet, so what is altered stays."""
        try:
            writer.remove_before(day_of(self._horizon()), whole=True)
        finally:
            # some of that is told now, and what was cut off for it has to be
            self._told = writer.untold

    def _new_opening(self, *, begins: bool) -> Mapping[str, Any]:
        """The event of an opening; one that ``begins`` a trail says since when the ledger has requests."""
        audit = self._settings.audit
        said = {"version": version("farthing"), "retention_days": audit.retention_days, "signed": bool(self._keys)}
        since = self._source.since() if begins else None
        if since is not None:
            said["ledger_since"] = stamp(since)
            _log.warning(
                "audit trail %s: begins anew, and the ledger has requests since %s; where there was a trail here "
                "before, somebody took it away: compare farthing audit anchors that were kept elsewhere",
                *(self._folder, said["ledger_since"]),
            )
        return event(OPENED, self._clock_ns(), **said)

    def _confirmed(self, index: AuditIndex) -> bool:
        """Look at no closed boot any more whose requests are all there; no word of the trail is taken for that.

        Of the others, also where the trail has more than the ledger, requests are read from the trail again, to be
        compared one by one. False where it was stopped.
        """
        doubted, horizon = set(), self._horizon()
        for boot in self._source.boots():
            began = self._monotonic()
            told = index.closed.get(boot.boot)
            if told is None or boot.boot in self._done:
                continue
            there = self._source.sums(boot.boot, horizon, EVER) if boot.is_closed else None
            if there is not None and all(told.get(day) == sums for day, sums in there.items()):
                self._done.add(boot.boot)
            else:
                doubted.add(boot.boot)
            self._stopping.wait((self._monotonic() - began) * RESTS)
            if self._stopping.is_set():
                return False
        index.recall(doubted)
        return not self._stopping.is_set()

    def _horizon(self) -> int:
        """UTC nanoseconds before which nothing is kept: the beginning of a day."""
        return (self._clock_ns() // DAY - self._settings.audit.retention_days) * DAY

    def _write(self, contents: Sequence[Mapping[str, Any]]) -> None:
        if not contents or self._open is None:
            return
        first = self._open.writer.append(contents)
        self._written = self._open.writer.n
        self._open.index.take(first, contents)

    # ---- requests ------------------------------------------------------------------------------

    def _look_at(self, boot: AuditedBoot, horizon: int, advanced: dict[str, _Reach], *, compare: bool) -> None:
        """Write a boot's requests that are new or changed, where ``compare`` says so, and where that is due anyway.

        Of others only how far they have come is noted in ``advanced``: what settled since is read of all together.
        """
        opened, until = self._opened_now(), self._source.settled_until(boot)
        if not until:
            return
        cursor = opened.cursors.get(boot.boot)
        if cursor is None or boot.is_closed or until - cursor > FAR_NS:
            self._write_changes(boot, horizon, until)
            cursor = opened.cursors[boot.boot] = until
        elif compare:
            self._write_changes(boot, horizon, cursor)
        if until > cursor:
            advanced[boot.boot] = _Reach(boot, cursor, until)
        if boot.is_closed and not self._stopping.is_set():
            days = opened.index.sums(boot.boot, horizon, EVER).values()
            costs = sum(sum(day[1 : 1 + len(PHASES)]) for day in days)
            said = {"boot": boot.boot, "engine": boot.engine, "requests": sum(day[0] for day in days)}
            if opened.index.ends.get(boot.boot) != (said["requests"], costs):
                self._write([event(BOOT_DONE, self._clock_ns(), **said, cost_nano=costs)])
            self._done.add(boot.boot)
            del opened.cursors[boot.boot]

    def _write_ended(self, advanced: Mapping[str, _Reach]) -> None:
        """Write what ended between where boots were and where they are."""
        if not advanced:
            return
        since, until = (min(one.cursor for one in advanced.values()), max(one.until for one in advanced.values()))
        for some in self._source.ended(since, until):
            found: dict[str, list[Key]] = {}
            for boot, key, ended_ns in some:
                reach = advanced.get(boot)
                if reach is not None and reach.cursor < ended_ns <= reach.until:
                    found.setdefault(boot, []).append(key)
            for boot, keys in found.items():
                self._write_requests(advanced[boot].boot, keys)
            if self._stopping.is_set():
                # the next start compares, and finds what is missing
                return
        self._opened_now().cursors.update((boot, reach.until) for boot, reach in advanced.items())

    def _write_changes(self, boot: AuditedBoot, since: int, until: int) -> None:
        """Write requests that ended between two times and are missing, or whose cost is another than was told."""
        index = self._opened_now().index
        here, there = index.sums(boot.boot, since, until), self._source.sums(boot.boot, since, until)
        for day in sorted(day for day, sums in there.items() if here.get(day) != sums):
            begin, end = max(since, day * DAY - 1), min(until, (day + 1) * DAY - 1)
            for costs in self._source.costs(boot.boot, begin, end):
                known = index.written(boot.boot, costs)
                self._write_requests(
                    boot, [key for key, cost in costs.items() if key not in known or known[key][1] != cost]
                )
                if self._stopping.is_set():
                    return

    def _write_requests(self, boot: AuditedBoot, keys: Iterable[Key]) -> None:
        """Write requests; those that are written already as corrections, where their cost is another now."""
        index, currency = self._opened_now().index, self._settings.currency
        for some in self._source.named(boot, keys):
            began, now = self._monotonic(), self._clock_ns()
            known = index.written(boot.boot, ((one.process, one.sequence) for one in some))
            contents = []
            for one in some:
                first, cost = known.get((one.process, one.sequence), (None, None))
                if cost != one.cost_nano:
                    contents.append(request(one, now, currency, first))
            self._write(contents)
            self._stopping.wait((self._monotonic() - began) * RESTS)
            if self._stopping.is_set():
                return

    def _opened_now(self) -> _Open:
        if self._open is None:  # never: every caller has opened it
            raise AuditError(f"audit trail {self._folder}: is not open")
        return self._open

    # ---- administration ------------------------------------------------------------------------

    def _write_administration(self) -> None:
        index, now, horizon = self._opened_now().index, self._clock_ns(), self._horizon()
        for tokens in self._tokens.untold():
            self._write_done(self._tokens.changes(tokens, index.seen))
        self._write_done(
            one
            for one in self._source.done()
            # what retention has removed would be told again
            if (one.kind, one.key) not in index.seen and (one.at_ns is None or one.at_ns >= horizon)
        )
        last_id = self._source.last_id()
        if last_id < index.last_id:
            self._write([event(WENT_BACK, now, last_record=last_id, was=index.last_id)])
        elif last_id > index.last_id and abs(now - index.reached_ns) >= REACHED_NS:
            self._write([event(REACHED, now, last_record=last_id)])
        index.last_id = last_id

    def _write_done(self, done: Iterable[Done]) -> None:
        now = self._clock_ns()
        self._write([event(one.kind, now, key=one.key, **one.said) for one in done])
