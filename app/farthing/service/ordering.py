"""The canonical order of a boot's records: equal records come out in equal order, however they arrived."""

from __future__ import annotations

from collections.abc import Iterator

from farthing.collectors.wire import decode_line
from farthing.domain.records import RawRecord, Record, Started

__all__ = ["BootOrder"]


class BootOrder:
    """Orders one boot's records by sequence within a process and by event time between processes.

    A sequence that never arrives (its sender dropped and counted it) is passed over once the same process has
    sent something a grace period later.
    """

    def __init__(self, grace_ns: int) -> None:
        self._grace_ns = grace_ns
        self._held: dict[int, dict[int, RawRecord]] = {}
        self._next: dict[int, int] = {}
        self._last_event: dict[int, int] = {}
        self._processes = 1
        self.missing = 0
        """Sequences that were passed over."""

    def add(self, raw: RawRecord) -> None:
        """Take a record in any order; one that was passed over already is late and ignored."""
        process = raw.key.process
        if raw.key.sequence >= self._next.get(process, 0):
            self._held.setdefault(process, {})[raw.key.sequence] = raw

    def ready(self) -> Iterator[Record]:
        """Records whose turn has come; take them all before adding more."""
        while True:
            heads = [head for process in range(self._processes) if (head := self._head(process)) is not None]
            if len(heads) < self._processes:
                return
            raw = min(heads, key=lambda head: (head.event_ns, head.key.process))
            process = raw.key.process
            del self._held[process][raw.key.sequence]
            self._next[process] = raw.key.sequence + 1
            self._last_event[process] = max(self._last_event.get(process, raw.event_ns), raw.event_ns)
            record = decode_line(raw.line)
            if isinstance(record, Started):
                self._processes = max(self._processes, record.processes)
            yield record

    def _head(self, process: int) -> RawRecord | None:
        held = self._held.get(process)
        if not held:
            return None
        expected = self._next.get(process, 0)
        if expected in held:
            return held[expected]
        newest = max(raw.event_ns for raw in held.values())
        if process not in self._last_event or newest - self._last_event[process] <= self._grace_ns:
            return None
        first = min(held)
        self.missing += first - expected
        self._next[process] = first
        return held[first]
