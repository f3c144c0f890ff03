"""The canonical order of a boot's records: equal arrivals come out in equal order, however they were read."""

from __future__ import annotations

from collections.abc import Iterator

from farthing.collectors.wire import decode_line
from farthing.domain.records import Lifecycle, RawRecord, Record, Started

__all__ = ["BootOrder"]


class BootOrder:
    """Orders one boot's records by sequence within a process and by event time between processes.

    A sequence that never arrives (its sender dropped and counted it) is passed over once the same process has
    sent something a grace period later, or its last record. Take what is ``ready`` after every record: then the
    order depends on the order of arrival alone, not on how many records were read at once.
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
        self._passed: set[tuple[int, int]] = set()
        self._late: list[RawRecord] = []

    @property
    def missing(self) -> int:
        """Sequences that were passed over and have not come since."""
        return len(self._passed)

    def add(self, raw: RawRecord) -> None:
        """Take a record in any order. A usage record that was passed over already comes out as late."""
        process, sequence = raw.key.process, raw.key.sequence
        if sequence < self._next.get(process, 0):
            if raw.kind == "usage" and (process, sequence) in self._passed:
                self._passed.discard((process, sequence))
                self._late.append(raw)
            return
        self._held.setdefault(process, {})[raw.key.sequence] = raw
        self._newest[process] = max(self._newest.get(process, raw.event_ns), raw.event_ns)
        if process not in self._next:
            self._oldest[process] = min(self._oldest.get(process, raw.event_ns), raw.event_ns)
        if _is_stop(raw):
            self._stopped.add(process)

    def ready(self, *, final: bool = False) -> Iterator[Record]:
        """Records whose turn has come; take them all before adding more. ``final``: nothing more can arrive."""
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
                self._processes = max(self._processes, record.processes)
            yield record

    def _head(self, process: int, *, final: bool) -> RawRecord | None:
        held = self._held.get(process)
        if not held:
            return None
        expected = self._next.get(process, 0)
        if expected in held:
            return held[expected]
        waited = self._newest[process] - self._oldest[process]
        if not final and process not in self._stopped and waited <= self._grace_ns:
            return None
        first = min(held)
        self._passed.update((process, sequence) for sequence in range(expected, first))
        self._next[process] = first
        return held[first]


def _is_stop(raw: RawRecord) -> bool:
    if raw.kind != "lifecycle":
        return False
    record = decode_line(raw.line)
    return isinstance(record, Lifecycle) and record.event == "stop"
