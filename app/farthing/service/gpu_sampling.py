"""GPUs in ``farthing serve``: the sources that the settings name, sampled, shown, and kept in the inbox."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Final, Protocol

from farthing.collectors.gpu.sampler import Sampler, Sink
from farthing.collectors.gpu.source import GpuSource
from farthing.collectors.wire import device_record
from farthing.domain.devices import DevicesView, IdleGpu
from farthing.domain.errors import GpuError, LedgerError, RecordError
from farthing.domain.gpu import DeviceSamples, GpuReading
from farthing.domain.records import RawRecord
from farthing.settings import EngineSettings, GpuSettings, Settings
from farthing.settings_gpu import HOST_VARIABLE

__all__ = ["GpuSampling", "engines_on", "open_sources", "sampler_of"]

_log = logging.getLogger(__name__)

QUEUED_RECORDS: Final = 50_000
"""Records that wait for a ledger that cannot be written: of eight devices most of a day."""
STORED_AT_ONCE: Final = 1_000
STORE_SECONDS: Final = 1.0
"""How often what came together is stored."""

Reported = Callable[[], Mapping[str, Collection[str]]]
"""Engine -> UUIDs of the devices that it is known to run on, by its probe or by its books."""


class _Inbox(Protocol):
    """What of the ledger takes records."""

    def add(self, records: Sequence[RawRecord]) -> int:
        """Raises LedgerError when they cannot be stored."""
        ...


class GpuSampling:
    """Samples while ``run`` runs; ``view`` is always what is known now.

    ``reported`` says where engines run by their probes; ``idle`` what devices without an engine cost. Without
    ``sources`` those of the settings are opened, and without ``engines`` theirs are looked for on the devices.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: _Inbox,
        on_records: Callable[[], None],
        *,
        reported: Reported = dict,
        idle: Callable[[], tuple[IdleGpu, ...]] = tuple,
        sources: Callable[[], Sequence[GpuSource]] | None = None,
        engines: Callable[[], Sequence[EngineSettings]] | None = None,
    ) -> None:
        self._settings = settings
        self._engines = engines or (lambda: settings.engines)
        self._ledger = ledger
        self._on_records = on_records
        self._reported = reported
        self._idle = idle
        self._open = sources or (lambda: open_sources(settings.gpus))
        self._queue = _Queue()
        self._sampler = sampler_of(settings.gpus, (), self._queue.put)
        self._watches = False
        self._complaint = ""

    def view(self) -> DevicesView:
        """The devices of this host with the engines on them, and what those of all hosts cost that no engine has."""
        view = replace(self._sampler.view(), idle=self._idle())
        if not self._watches:
            return view
        return replace(
            view,
            engines=engines_on((one.reading for one in view.devices), self._engines(), self._reported()),
            waiting=len(self._queue),
            dropped=self._queue.dropped,
        )

    async def run(self) -> None:
        """Sample and store until it is cancelled; then what is left is stored."""
        sources = await asyncio.to_thread(self._open)
        if not sources:
            return
        self._sampler = sampler_of(self._settings.gpus, sources, self._queue.put)
        self._watches = True
        self._sampler.start()
        try:
            while True:
                await asyncio.sleep(STORE_SECONDS)
                await self._store()
        finally:
            await asyncio.to_thread(self._sampler.stop)
            await self._store()

    async def _store(self) -> None:
        while records := self._queue.first(STORED_AT_ONCE):
            try:
                await asyncio.to_thread(self._ledger.add, records)
            except LedgerError as error:
                # once: a disk may be full for hours
                if self._complaint != str(error):
                    self._complaint = str(error)
                    _log.error("records of devices wait for the ledger: %s", error)
                return
            self._queue.done(len(records))
            self._complaint = ""
            self._on_records()


class _Queue:
    """Records that wait for the ledger, the oldest first; beyond its length the oldest go, and are counted."""

    def __init__(self, length: int = QUEUED_RECORDS) -> None:
        self._records: deque[RawRecord] = deque()
        self._length = length
        self._lock = threading.Lock()
        self._taken = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._records)

    def put(self, records: Sequence[DeviceSamples]) -> None:
        """From a sampler's thread; a record that no inbox takes is logged and counted as dropped."""
        for record in records:
            try:
                raw = device_record(record)
            except RecordError as error:
                _log.warning("a record of device %r cannot be kept: %s", record.uuid, error)
                self.dropped += 1
                continue
            with self._lock:
                self._records.append(raw)
                if len(self._records) > self._length:
                    self._records.popleft()
                    self._taken = max(0, self._taken - 1)
                    self.dropped += 1

    def first(self, number: int) -> list[RawRecord]:
        """Up to so many of the oldest; they stay until ``done``."""
        with self._lock:
            self._taken = min(number, len(self._records))
            return [self._records[index] for index in range(self._taken)]

    def done(self, number: int) -> None:
        """They are stored; those that had to go meanwhile are gone already."""
        with self._lock:
            for _ in range(min(number, self._taken)):
                self._records.popleft()
            self._taken = 0


def sampler_of(gpus: GpuSettings, sources: Sequence[GpuSource], sink: Sink) -> Sampler:
    """A sampler by the settings."""
    return Sampler(
        sources,
        sink,
        sample_seconds=gpus.sample_seconds,
        batch_seconds=gpus.batch_seconds,
        stuck_seconds=gpus.stuck_seconds,
    )


def open_sources(gpus: GpuSettings, said: Callable[[str], None] = _log.info) -> list[GpuSource]:
    """The sources that the settings name, the driver first, then processors, then exporters.

    With ``auto`` a source that cannot be read is left out, and ``said`` is told why; with ``on`` it is kept and tried
    again. Drivers and their bindings are loaded only when they are asked for.
    """
    found: list[GpuSource] = []
    for switch, opened in ((gpus.nvml, partial(_nvml, gpus)), (gpus.cpu, _processors)):
        if switch == "off":
            continue
        source = opened()
        if switch == "auto":
            try:
                source.read()
            except GpuError as error:
                source.close()
                said(f"{error}; not read until Farthing starts again")
                continue
            # so that the sampler's first reading is a source's first one, which has everything
            source.close()
        found.append(source)
    if gpus.exporters:
        from farthing.collectors.gpu.exporters import ExporterSource  # noqa: PLC0415 - only where there is one

        found += [ExporterSource(str(exporter.url), exporter.kind or "") for exporter in gpus.exporters]
    return found


def engines_on(
    readings: Iterable[GpuReading], engines: Sequence[EngineSettings], reported: Mapping[str, Collection[str]]
) -> dict[str, tuple[str, ...]]:
    """Device UUID -> the engines on it: by ``reported``, else by the settings' UUIDs, else by the pod that has it."""
    known = {engine.name: reported.get(engine.name) or engine.gpu_uuids for engine in engines} | dict(reported)
    pods = {engine.name: engine.pod for engine in engines if engine.pod and not known[engine.name]}
    found = {}
    for reading in readings:
        names = {name for name, uuids in known.items() if reading.uuid in uuids}
        names |= {name for name, pattern in pods.items() if reading.pod and fnmatchcase(reading.pod, pattern)}
        if names:
            found[reading.uuid] = tuple(sorted(names))
    return found


def _nvml(gpus: GpuSettings) -> GpuSource:
    from farthing.collectors.gpu.nvml import NvmlOptions, NvmlSource  # noqa: PLC0415 - loads the driver's bindings

    return NvmlSource(host=_host(), options=NvmlOptions(blocking_pcie=gpus.pcie))


def _processors() -> GpuSource:
    from farthing.collectors.gpu.cpu import CpuSource  # noqa: PLC0415 - only for engines without a GPU

    return CpuSource(host=_host())


def _host() -> str | None:
    """What this host is called, where the system does not know: in a container. None: as the system says."""
    return os.environ.get(HOST_VARIABLE) or None
