"""Reads every source of GPU telemetry once per period: what is there now, and records for the inbox.

Each source has a thread of its own, so that an exporter that hangs keeps nobody waiting. A device that two sources
have is taken from the one that comes first.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from farthing.collectors.gpu.shown_energy import ShownEnergy
from farthing.collectors.gpu.source import GpuSource
from farthing.collectors.gpu.tracks import Track
from farthing.domain.devices import DevicesView, DeviceView
from farthing.domain.errors import GpuError
from farthing.domain.gpu import CPU, MIG, SLICE_SEPARATOR, DeviceSamples, GpuReading

__all__ = ["Sampler", "Sink"]

_log = logging.getLogger(__name__)

Sink = Callable[[Sequence[DeviceSamples]], None]
"""Takes records, from any thread; it keeps or counts what it cannot pass on, and raises nothing."""

STALE_PERIODS: Final = 3
"""A reading that is older is not shown any more."""
RETRY_SECONDS: Final = 10.0
"""How often a source is tried that has failed more than a few times."""
FEW: Final = 5
STOP_SECONDS: Final = 5.0
"""How long a source may take to end its last reading."""
LOCAL_SOURCES: Final = ("nvml", "rapl")
"""Sources that read this host, and need not say so."""


@dataclass(slots=True)
class _Watched:
    """One source and what it has told."""

    source: GpuSource
    tracks: dict[str, Track] = field(default_factory=dict)
    also: dict[str, GpuReading] = field(default_factory=dict)
    """Last readings of devices that an earlier source has."""
    up: bool | None = None
    read_at: float | None = None
    """Monotonic seconds of the last answer."""
    took: float = 0.0
    complaint: str = ""
    failures: int = 0
    """Since its last answer."""
    thread: threading.Thread | None = None


class Sampler:
    """Reads ``sources`` between ``start`` and ``stop``, or whenever ``read`` is called.

    ``sink`` gets a record for each device every ``batch_seconds``, and the rest when a device or its source goes
    away and at the end. ``clock`` is monotonic and in seconds.
    """

    def __init__(
        self,
        sources: Sequence[GpuSource],
        sink: Sink,
        *,
        sample_seconds: float = 1.0,
        batch_seconds: float = 10.0,
        stuck_seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        host: str = "",
    ) -> None:
        self._watched = [_Watched(source) for source in sources]
        self._sink = sink
        self._sample_seconds = sample_seconds
        self._batch_seconds = batch_seconds
        self._stuck_seconds = stuck_seconds
        self._clock = clock
        self._wall_ns = wall_ns
        self._host = host or socket.gethostname()
        self._shown: dict[str, ShownEnergy] = {}
        """By device, also of those that are gone: one that comes back goes on from there."""
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def start(self) -> None:
        """Read every source at its period, in threads of their own."""
        for number, watched in enumerate(self._watched):
            watched.thread = threading.Thread(
                target=self._watch, args=(number,), name=f"gpu-{watched.source.name}", daemon=True
            )
            watched.thread.start()

    def stop(self) -> None:
        """End reading, hand out what has come together, and close the sources."""
        self._ended.set()
        for watched in self._watched:
            if watched.thread is not None:
                watched.thread.join(STOP_SECONDS)
            with self._lock:
                records = self._finish(watched, list(watched.tracks))
            self._hand_out(records)
            if watched.thread is None or not watched.thread.is_alive():
                watched.source.close()

    def read(self, number: int = 0) -> None:
        """Read one source, by its place among the sources, once; a failure is told once and shown as a source that is
        down.
        """
        watched = self._watched[number]
        began = self._clock()
        try:
            readings = watched.source.read()
        except GpuError as error:
            self._failed(watched, str(error))
            return
        except Exception as error:
            # a source has a driver or somebody else's program below it: nothing that it does may end the others
            if not watched.complaint:
                _log.exception("%s: reading failed in a way that nobody foresaw", watched.source.name)
            self._failed(watched, f"{watched.source.name}: {type(error).__name__}")
            return
        if watched.complaint:
            _log.info("%s is read again", watched.source.name)
        with self._lock:
            watched.up, watched.complaint, watched.failures = True, "", 0
            watched.read_at = self._clock()
            watched.took = watched.read_at - began
            records = self._take(number, readings)
        self._hand_out(records)

    def view(self) -> DevicesView:
        """The devices of which there is a reading that is not stale, and which sources answer."""
        with self._lock:
            found = [
                (number, view)
                for number, watched in enumerate(self._watched)
                if self._is_fresh(watched)
                for uuid, track in watched.tracks.items()
                if self._owner(uuid, number) is None and (view := self._view(uuid, track)) is not None
            ]
            up = {watched.source.name: watched.up for watched in self._watched if watched.up is not None}
            complaints = {watched.source.name: watched.complaint for watched in self._watched if watched.complaint}
        devices = tuple(view for _, view in sorted(found, key=lambda pair: (pair[0], *_by_number(pair[1]))))
        return DevicesView(self._wall_ns(), devices, up, complaints=complaints)

    def _watch(self, number: int) -> None:
        """Keep to the period; a period that passed during a long reading is left out."""
        due = self._clock()
        while not self._ended.is_set():
            self.read(number)
            down = self._watched[number].failures > FEW
            due = max(due, self._clock() - self._sample_seconds) + self._sample_seconds
            pause = due - self._clock()
            self._ended.wait(max(pause, RETRY_SECONDS) if down else max(pause, 0.0))

    def _failed(self, watched: _Watched, complaint: str) -> None:
        if complaint != watched.complaint:
            _log.warning("%s; it is tried again", complaint)
        with self._lock:
            watched.up, watched.complaint = False, complaint
            watched.failures += 1
            for track in watched.tracks.values():
                track.finish()
            records = self._drain(watched)
        self._hand_out(records)

    def _take(self, number: int, readings: Sequence[GpuReading]) -> list[DeviceSamples]:
        watched = self._watched[number]
        watched.also = {}
        own: dict[str, GpuReading] = {}
        for reading in readings:
            if self._owner(reading.uuid, number) is None:
                own[reading.uuid] = self._completed(reading, number)
            else:
                watched.also[reading.uuid] = reading
        records = self._finish(watched, [uuid for uuid in watched.tracks if uuid not in own])
        # a slice's energy is a part of its GPU's, which is known first
        for uuid, reading in sorted(own.items(), key=lambda item: item[1].kind == MIG):
            track = watched.tracks.setdefault(uuid, Track(self._stuck_seconds))
            shown = self._shown.setdefault(uuid, ShownEnergy())
            if track.add(reading, self._track(reading.parent) if reading.parent else None):
                shown.count(track)
            if track.due(self._batch_seconds):
                track.finish()
        return records + self._drain(watched)

    def _completed(self, reading: GpuReading, number: int) -> GpuReading:
        """The reading with what only other sources know: its pod, and profiling counters."""
        if not reading.host and reading.source in LOCAL_SOURCES:
            reading = replace(reading, host=self._host)
        for watched in self._watched[number + 1 :]:
            other = watched.also.get(reading.uuid)
            if other is not None and self._is_fresh(watched):
                reading = replace(
                    reading,
                    pod=reading.pod or other.pod,
                    sm_active=_first(reading.sm_active, other.sm_active),
                    tensor_active=_first(reading.tensor_active, other.tensor_active),
                    dram_active=_first(reading.dram_active, other.dram_active),
                )
        return reading

    def _owner(self, uuid: str, number: int) -> int | None:
        """The earlier source that has the device; None where there is none.

        A slice that is UUID/NUMBER to its source is had by one that tells its GPU's slices by UUIDs of their own.
        """
        gpu, numbered, _ = uuid.rpartition(SLICE_SEPARATOR)
        for earlier, watched in enumerate(self._watched[:number]):
            if not self._is_fresh(watched):
                continue
            if uuid in watched.tracks or (numbered and _has_slices(watched, gpu)):
                return earlier
        return None

    def _track(self, uuid: str) -> Track | None:
        return next((one.tracks[uuid] for one in self._watched if uuid in one.tracks and self._is_fresh(one)), None)

    def _view(self, uuid: str, track: Track) -> DeviceView | None:
        shown = self._shown.get(uuid)
        return None if shown is None else track.view(shown.parts)

    def _is_fresh(self, watched: _Watched) -> bool:
        if watched.read_at is None:
            return False
        return self._clock() - watched.read_at <= STALE_PERIODS * max(self._sample_seconds, watched.took)

    def _finish(self, watched: _Watched, uuids: Sequence[str]) -> list[DeviceSamples]:
        """End the tracks of devices that are gone."""
        records = []
        for uuid in uuids:
            track = watched.tracks.pop(uuid)
            track.finish()
            records += track.pending
        return records

    @staticmethod
    def _drain(watched: _Watched) -> list[DeviceSamples]:
        records = []
        for track in watched.tracks.values():
            records += track.pending
            track.pending = []
        return records

    def _hand_out(self, records: Sequence[DeviceSamples]) -> None:
        if records:
            self._sink(records)


def _has_slices(watched: _Watched, gpu: str) -> bool:
    readings = (track.reading for track in watched.tracks.values())
    return gpu in watched.tracks and any(one is not None and one.parent == gpu for one in readings)


def _first(value: float | None, other: float | None) -> float | None:
    return other if value is None else value


def _by_number(view: DeviceView) -> tuple[bool, str, int, bool, str]:
    """Processors last; then by host, number, and slices behind their GPU."""
    reading = view.reading
    number = 2**31 if reading.index is None else reading.index
    return reading.kind == CPU, reading.host, number, reading.kind == MIG, reading.uuid
