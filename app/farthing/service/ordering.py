"""The canonical order of a boot's records: equal arrivals come out in equal order, however they were read."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator

from farthing.collectors.wire import decode_line
from farthing.domain.conventions import INBOX_ABANDONED, INBOX_REFUSED, INBOX_SILENT
from farthing.domain.records import Lifecycle, RawRecord, Record, Started, mirrored

__all__ = ["BootOrder"]

MOST_MISSING = 2**53
"""More than this is a sender that does not number its records; the ledger's columns hold no more."""


class _Passed:
    """Sequences of one process that were passed over, as ranges: a sender may leave a gap of any size."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._came: set[int] = set()
        self.missing = 0

    def add(self, start: int, stop: int) -> None:
        """Pass over [start, stop), which lies behind all that was passed over before."""
        if stop > start:
            self._starts.append(start)
            self._stops.append(stop)
            self.missing += stop - start

    def take(self, sequence: int) -> bool:
        """Whether the sequence was passed over and has not come since; now it has."""
        i = bisect_right(self._starts, sequence) - 1
        if i < 0 or sequence >= self._stops[i] or sequence in self._came:
            return False
        self._came.add(sequence)
        self.missing -= 1
        return True


class BootOrder:
    """Orders one boot's records by sequence within a process and by event time between processes.

    A sequence that never arrives (its sender dropped and counted it) is passed over once the same process has
    sent something a grace period later, or the boot falls silent. One that intake refused is passed over at once.
    Take what is ``ready`` after every record: then the order depends on the order of arrival alone, not on how many
    records were read at once.
    """

    def __init__(self, grace_ns: int) -> None:
        self._grace_ns = grace_ns
        self._held: dict[int, dict[int, RawRecord]] = {}
        self._next: dict[int, int] = {}
        self._oldest: dict[int, int] = {}
        """By process: event time of the last record that came out, else of the earliest that is held."""
        self._newest: dict[int, int] = {}
        self._stopped: set[int] = set()
        """Processes whose last record has arrived."""
        self._processes = 1
        self._begun = False
        self._passed: defaultdict[int, _Passed] = defaultdict(_Passed)
        self._refused: defaultdict[int, set[int]] = defaultdict(set)
        self._late: list[RawRecord] = []
        self._silence: RawRecord | None = None

    @property
    def missing(self) -> int:
        """Sequences that were passed over and have not come since, and records of processes that do not exist."""
        passed = sum(one.missing for one in self._passed.values())
        strange = sum(len(held) for process, held in self._held.items() if self._begun and process >= self._processes)
        return min(passed + strange, MOST_MISSING)

    @property
    def refused(self) -> int:
        """Sequences that intake refused, and that were not mended since."""
        return sum(map(len, self._refused.values()))

    def add(self, raw: RawRecord) -> None:
        """Take a record in any order. A usage record that was passed over already comes out as late."""
        if raw.kind == INBOX_REFUSED:
            self._refuse(raw)
            return
        if raw.kind in {INBOX_SILENT, INBOX_ABANDONED}:
            self._silence = raw
            return
        process, sequence = raw.key.process, raw.key.sequence
        refused = self._refused[process]
        if sequence < self._next.get(process, 0):
            if raw.kind == "usage" and (sequence in refused or self._passed[process].take(sequence)):
                refused.discard(sequence)
                self._late.append(raw)
            return
        refused.discard(sequence)
        self._held.setdefault(process, {})[raw.key.sequence] = raw
        self._newest[process] = max(self._newest.get(process, raw.event_ns), raw.event_ns)
        if process not in self._next or process not in self._oldest:
            self._oldest[process] = min(self._oldest.get(process, raw.event_ns), raw.event_ns)
        if _is_stop(raw):
            self._stopped.add(process)

    def ready(self, *, final: bool = False) -> Iterator[Record]:
        """Records whose turn has come; take them all before adding more. ``final``: nothing more can arrive.

        When the boot fell silent, all that is held comes out, and then the silence as a lifecycle event.
        """
        silence, self._silence = self._silence, None
        yield from self._turns(final=final or silence is not None)
        if silence is not None:
            yield Lifecycle(silence.key, silence.event_ns, silence.kind)

    def _turns(self, *, final: bool) -> Iterator[Record]:
        while self._late:
            yield decode_line(self._late.pop(0).line)
        while True:
            heads = []
            for process in range(self._processes):
                head = self._head(process, final=final)
                if head is not None:
                    heads.append(head)
                elif not final and (process not in self._stopped or self._held.get(process)):
                    return
            if not heads:
                return
            raw = min(heads, key=lambda head: (head.event_ns, head.key.process))
            process = raw.key.process
            del self._held[process][raw.key.sequence]
            self._next[process] = raw.key.sequence + 1
            self._oldest[process] = max(self._oldest[process], raw.event_ns)
            record = decode_line(raw.line)
            if isinstance(record, Started):
                self._begun = True
                self._processes = max(self._processes, record.processes)
            yield record

    def _refuse(self, raw: RawRecord) -> None:
        process, sequence = raw.key.process, mirrored(raw.key).sequence
        come = sequence in self._held.get(process, ()) or sequence < self._next.get(process, 0)
        if not come or self._passed[process].take(sequence):
            self._refused[process].add(sequence)

    def _head(self, process: int, *, final: bool) -> RawRecord | None:
        refused = self._refused[process]
        while (expected := self._next.get(process, 0)) in refused:
            self._next[process] = expected + 1
        held = self._held.get(process)
        if not held:
            return None
        if expected in held:
            return held[expected]
        waited = self._newest[process] - self._oldest[process]
        if not final and waited <= self._grace_ns:
            return None
        first = min(held)
        for sequence in sorted(one for one in refused if expected <= one < first):
            self._passed[process].add(expected, sequence)
            expected = sequence + 1
        self._passed[process].add(expected, first)
        self._next[process] = first
        return held[first]


def _is_stop(raw: RawRecord) -> bool:
    if raw.kind != "lifecycle":
        return False
    record = decode_line(raw.line)
    return isinstance(record, Lifecycle) and record.event == "stop"
