"""Following one engine through the Prometheus replicas that scrape it, on one timeline.

Replicas of a pair have clocks of their own, and their scrapes fall between each other's. An engine is read from one
replica; from another only when that one has had no good scrape for long, by the reader's own clock. At
the change the timeline goes on by as much as the reader's own clock did between the last sample of the old replica and
the first of the new one. Where the new one's clock says the same, as precisely as that can be told, its times are
taken as they are; else they are shifted, for as long as it is followed. So the timeline never runs backwards, and no
two hosts' clocks are subtracted.

A scrape is taken once it is whole. Prometheus stores a scrape at once; a storage that is written to remotely may show
a part of it first.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from farthing.collectors.engines.exposition import Exposition, Sample
from farthing.collectors.fleet.api import Series
from farthing.collectors.fleet.targets import NAME, UP
from farthing.domain.clock import MILLISECOND, SECOND, nanoseconds
from farthing.domain.records import Counters

__all__ = ["NOTE_OFFSET", "NOTE_REPLICA", "Following", "Scrape"]

NOTE_REPLICA: Final = "fleet_replica_crc32"
NOTE_OFFSET: Final = "fleet_replica_offset_seconds"
"""Among a record's gauges: which replica it was read from, and by how much its times were shifted."""

LONGEST_GAP_NS: Final = 300 * SECOND
"""A longer time between two scrapes is an outage, and says nothing of how often there is one."""

_Key: TypeAlias = frozenset[tuple[str, str]]
_Partial: TypeAlias = tuple[int, frozenset[_Key]]
"""When a scrape was, and the series that it has so far."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape of an engine."""

    at_ns: int
    """On the engine's timeline."""
    exposition: Exposition | None
    """None where the scrape failed."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """The newest sample of a replica: when by its clock, and when the reader first saw it by its own."""

    latest_ns: int
    seen_ns: int


class Following:
    """One engine's timeline. ``take`` is called after every question, with what is stored of the engine."""

    def __init__(self, *, stale_ns: int, agree_ns: int, resume: Counters | None = None) -> None:
        """After ``stale_ns`` of the reader's clock another replica is followed; clocks agree within ``agree_ns``.

        ``resume`` is the engine's last record in the journal.
        """
        self._stale_ns = stale_ns
        self._agree_ns = agree_ns
        self._replica: str | None = None
        self._offset_ns = 0
        self._last_ns: int | None = resume.at_ns if resume else None
        """The last scrape that was taken, on the timeline."""
        self._last_seen_ns: int | None = None
        """When that one was, by the reader's clock; None where another process took it."""
        self._followed_ns = 0
        """When the replica's last good scrape was seen, by the reader's clock."""
        self._heard: dict[str, _Heard] = {}
        """By replica: its newest sample, and its newest scrape that did not fail."""
        self._well: dict[str, _Heard] = {}
        self._keys: frozenset[_Key] = frozenset()
        """The series of the last whole scrape."""
        self._gap_ns = 0
        """Between the last two scrapes of the replica that is followed, by its clock."""
        self._waited: _Partial | None = None
        """The newest scrape, if it may have more to come."""
        self._resume_crc = resume.gauges.get(NOTE_REPLICA) if resume else None
        self._resume_offset_ns = nanoseconds(resume.gauges.get(NOTE_OFFSET, 0.0)) if resume else 0

    @property
    def notes(self) -> dict[str, float]:
        """What a record's gauges keep, so that another process can go on; empty where no replica is named."""
        if not self._replica:
            return {}
        return {NOTE_REPLICA: float(zlib.crc32(self._replica.encode())), NOTE_OFFSET: self._offset_ns / SECOND}

    @property
    def patience_ns(self) -> int:
        """After how long without a good scrape a replica is given up: one that scrapes seldom is given more time."""
        return max(self._stale_ns, 2 * min(self._gap_ns, LONGEST_GAP_NS))

    @property
    def replica(self) -> str | None:
        """The replica that is followed; empty where none is named, None before the first."""
        return self._replica

    def silent_ns(self, now_ns: int) -> int:
        """How long nothing new of the engine has come from any replica, by the reader's clock."""
        return now_ns - max((heard.seen_ns for heard in self._heard.values()), default=now_ns)

    def take(self, replicas: Mapping[str, Sequence[Series]], now_ns: int) -> list[Scrape]:
        """The scrapes that are new, in order; ``now_ns`` is the reader's monotonic clock."""
        pictures = {replica: _Picture(series) for replica, series in replicas.items()}
        for replica, picture in pictures.items():
            _hear(self._heard, replica, picture.times[-1:], now_ns)
            if _hear(self._well, replica, picture.good[-1:], now_ns) and replica == self._replica:
                self._followed_ns = now_ns
        if self._replica is None:
            self._begin(pictures, now_ns)
        elif now_ns - self._followed_ns > self.patience_ns:
            return self._change(pictures, now_ns)
        return self._new(pictures)

    # ---- inside ------------------------------------------------------------------------------------

    def _begin(self, pictures: Mapping[str, _Picture], now_ns: int) -> None:
        there = sorted(replica for replica, picture in pictures.items() if picture.times)
        if not there:
            return
        known = [one for one in there if one and float(zlib.crc32(one.encode())) == self._resume_crc]
        if known:
            self._offset_ns = self._resume_offset_ns
        self._replica = (known or there)[0]
        self._followed_ns = now_ns

    def _new(self, pictures: Mapping[str, _Picture]) -> list[Scrape]:
        """What the replica that is followed has beyond the last scrape."""
        if self._replica is None or self._replica not in pictures:
            return []
        picture = pictures[self._replica]
        after = None if self._last_ns is None else self._last_ns - self._offset_ns
        scrapes = []
        found, self._waited, self._keys = picture.whole(after, self._keys, self._waited)
        for at_ns, exposition in found:
            if after is not None:
                self._gap_ns = at_ns - after
            after = at_ns
            scrapes.append(self._taken(self._replica, at_ns, exposition))
        return scrapes

    def _change(self, pictures: Mapping[str, _Picture], now_ns: int) -> list[Scrape]:
        """Follow another replica, if one is alive: from its newest whole scrape on."""
        alive = [
            (-heard.seen_ns, replica)
            for replica, heard in self._well.items()
            if replica != self._replica and replica in pictures and now_ns - heard.seen_ns <= self.patience_ns
        ]
        for _, replica in sorted(alive):
            found, _, keys = pictures[replica].whole(None, frozenset())
            good = [(at_ns, exposition) for at_ns, exposition in found if exposition is not None]
            if not good:
                continue
            at_ns, exposition = good[-1]
            offset_ns = self._offset_of(replica, at_ns)
            if self._last_ns is not None and at_ns + offset_ns <= self._last_ns:
                continue
            self._replica, self._offset_ns, self._followed_ns = replica, offset_ns, self._well[replica].seen_ns
            self._keys = keys
            return [self._taken(replica, at_ns, exposition)]
        return self._new(pictures)

    def _taken(self, replica: str, at_ns: int, exposition: Exposition | None) -> Scrape:
        """A scrape of the replica that is followed, put on the timeline."""
        self._last_ns = at_ns + self._offset_ns
        self._last_seen_ns = self._seen(replica, at_ns)
        return Scrape(self._last_ns, exposition)

    def _seen(self, replica: str, at_ns: int) -> int:
        """When a sample of a replica was there, by the reader's clock."""
        heard = self._heard[replica]
        return heard.seen_ns - (heard.latest_ns - at_ns)

    def _offset_of(self, replica: str, at_ns: int) -> int:
        """How far the times of a replica are to be shifted that is followed from a sample on."""
        if self._last_ns is None or self._last_seen_ns is None:
            return 0
        passed_ns = self._seen(replica, at_ns) - self._last_seen_ns
        expected_ns = self._last_ns + max(passed_ns, MILLISECOND)
        if abs(at_ns - expected_ns) <= self._agree_ns and at_ns > self._last_ns:
            return 0
        return expected_ns - at_ns


def _hear(heard: dict[str, _Heard], replica: str, newest: Sequence[int], now_ns: int) -> bool:
    """Note the newest sample of a replica, if there is one; whether it is new."""
    known = heard.get(replica)
    if not newest or (known is not None and newest[0] <= known.latest_ns):
        return False
    heard[replica] = _Heard(newest[0], now_ns)
    return True


class _Picture:
    """What one replica has stored of one engine."""

    def __init__(self, series: Sequence[Series]) -> None:
        self._series = series
        self.times = sorted({at_ns for one in series for at_ns in one.points})
        self._failed = {
            at_ns for one in series if one.labels.get(NAME) == UP for at_ns, value in one.points.items() if value == 0
        }
        self.good = [at_ns for at_ns in self.times if at_ns not in self._failed]

    def whole(
        self, after_ns: int | None, known: frozenset[_Key], waited: _Partial | None = None
    ) -> tuple[list[tuple[int, Exposition | None]], _Partial | None, frozenset[_Key]]:
        """The whole scrapes after a moment, in order, None for one that failed; what may be but a part of one; and
        the series that a scrape had when it was whole last.

        ``known`` are those of before. A scrape that lacks some of them is whole if a later one lacks them as well. One
        that nothing follows yet may have more to come, unless it was the same the last time, ``waited``.
        """
        found: list[tuple[int, Exposition | None]] = []
        for at_ns in (at_ns for at_ns in self.times if after_ns is None or at_ns > after_ns):
            if at_ns in self._failed:
                found.append((at_ns, None))
                continue
            keys = self._keys(at_ns)
            if not known or known - keys:
                if at_ns == self.times[-1]:
                    if waited != (at_ns, keys):
                        return found, (at_ns, keys), known
                elif self._shown_later(at_ns, keys):
                    continue
            known = keys
            found.append((at_ns, self._exposition(at_ns)))
        return found, None, known

    def _keys(self, at_ns: int) -> frozenset[_Key]:
        """The series that have a sample at a moment."""
        return frozenset(frozenset(one.labels.items()) for one in self._series if at_ns in one.points)

    def _shown_later(self, at_ns: int, keys: frozenset[_Key]) -> bool:
        """Whether a series that was there before a moment, and is after it, lacks just this one."""
        return any(
            at_ns not in one.points and min(one.points) < at_ns < max(one.points)
            for one in self._series
            if one.points and frozenset(one.labels.items()) not in keys
        )

    def _exposition(self, at_ns: int) -> Exposition:
        return Exposition(
            Sample(one.labels[NAME], one.labels, one.points[at_ns]) for one in self._series if at_ns in one.points
        )
