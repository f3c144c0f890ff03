"""Devices as Prometheus metrics: mapping only, from the last readings that are not stale.

What a device does not tell is an absent series, and so is what cannot be believed. A device that is gone has no
series at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from farthing.domain import conventions as names
from farthing.domain.devices import DevicesView, DeviceView
from farthing.domain.gpu import THROTTLE_REASONS, GpuReading
from farthing.domain.metric_reference import metric
from farthing.domain.money import NANO

__all__ = ["CORRECTED", "RECEIVED", "SENT", "UNCORRECTED", "DeviceCollector"]

CORRECTED: Final = "corrected"
UNCORRECTED: Final = "uncorrected"
SENT: Final = "tx"
RECEIVED: Final = "rx"
MILLIJOULES: Final = 1_000

Rows: TypeAlias = Iterable[tuple[tuple[str, ...], float | None]]
"""Label values behind the device's own, and the value; None is an absent series."""


class DeviceCollector(Collector):
    """Shows whatever ``source`` returns at the time of each scrape; ``currency`` is that of its prices."""

    def __init__(self, source: Callable[[], DevicesView], currency: str = "USD") -> None:
        self._source = source
        self._currency = currency

    def collect(self) -> Iterator[Metric]:
        """Every family that has a sample."""
        view = self._source()
        families = [
            _info(view),
            _engines(view),
            *(_family(name, self._currency, _by_device(view, rows)) for name, rows in DEVICE_ROWS.items()),
            _family(names.METRIC_GPU_UNALLOCATED, self._currency, _unallocated(view)),
            _family(
                names.METRIC_GPU_SOURCE_UP, self._currency, (((name,), float(up)) for name, up in view.sources.items())
            ),
            _family(names.METRIC_GPU_WAITING, self._currency, [((), view.waiting)]),
            _family(names.METRIC_GPU_DROPPED, self._currency, [((), view.dropped)]),
        ]
        return (family for family in families if family.samples)


def _family(name: str, currency: str, rows: Rows) -> Metric:
    entry = metric(name)
    kind = CounterMetricFamily if entry.type == "counter" else GaugeMetricFamily
    text = entry.help if entry.unit == "1" else f"{entry.help} Unit: {entry.unit.replace('USD', currency)}."
    family = kind(name, text, labels=entry.labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


def _device(reading: GpuReading) -> tuple[str, str, str, str]:
    """Values of the labels that every series of a device has."""
    return reading.uuid, reading.host, "" if reading.index is None else str(reading.index), reading.name


def _by_device(view: DevicesView, rows_of: Callable[[DeviceView], Rows]) -> Rows:
    for device in view.devices:
        whose = _device(device.reading)
        for labels, value in rows_of(device):
            yield (*whose, *labels), value


def _unallocated(view: DevicesView) -> Rows:
    for device in view.devices:
        nano = view.unallocated_nano.get(device.reading.uuid)
        if nano is not None:
            yield _device(device.reading), nano / NANO
    here = {device.reading.uuid for device in view.devices}
    for one in view.idle:
        if one.uuid not in here:
            # whoever reads it knows its number
            yield (one.uuid, one.host, "", one.name), one.nano_per_hour / NANO


def _info(view: DevicesView) -> Metric:
    return _informed(
        names.METRIC_GPU_INFO,
        (
            (*_device(r), r.kind, r.source, r.parent, r.profile, r.pod)
            for r in (device.reading for device in view.devices)
        ),
    )


def _engines(view: DevicesView) -> Metric:
    return _informed(
        names.METRIC_GPU_ENGINE,
        (
            (*_device(device.reading), engine)
            for device in view.devices
            for engine in view.engines.get(device.reading.uuid, ())
        ),
    )


def _informed(name: str, rows: Iterable[tuple[str, ...]]) -> Metric:
    entry = metric(name)
    family = InfoMetricFamily(name.removesuffix("_info"), entry.help, labels=())
    for values in rows:
        family.add_metric((), dict(zip(entry.labels, values, strict=True)))
    return family


def _one(value: float | None) -> Rows:
    return [((), value)]


def _throttled(reading: GpuReading) -> Rows:
    if reading.throttle is None:
        return ()
    told = (reason for reason in THROTTLE_REASONS if reason in reading.throttle_told)
    return [((reason,), float(reason in reading.throttle)) for reason in told]


def _last_xid(reading: GpuReading) -> float | None:
    """0 where a source that listens has heard of none, or tells so; None where nobody listens."""
    return 0 if reading.xid is None and reading.xid_count == 0 else reading.xid


def _process_memory(reading: GpuReading) -> Rows:
    """One series a process, however often a driver lists it: two of the same labels end a whole scrape."""
    used: dict[int, int] = {}
    for pid, memory in reading.processes:
        if memory is not None:
            used[pid] = used.get(pid, 0) + memory
    return [((str(pid),), memory) for pid, memory in used.items()]


def _energy(device: DeviceView) -> Rows:
    """Each method's part, also of those that came before: the series of one counts nothing of another's."""
    if device.energy_mj is None:
        return []
    parts = device.parts or ((device.method, device.energy_mj),)
    return [((method,), energy_mj / MILLIJOULES) for method, energy_mj in parts]


DEVICE_ROWS: Final[Mapping[str, Callable[[DeviceView], Rows]]] = {
    names.METRIC_GPU_UTILIZATION: lambda view: _one(view.reading.utilization),
    names.METRIC_GPU_MEMORY_UTILIZATION: lambda view: _one(view.reading.memory_utilization),
    names.METRIC_GPU_MEMORY_USED: lambda view: _one(view.reading.memory_used_bytes),
    names.METRIC_GPU_MEMORY_TOTAL: lambda view: _one(view.reading.memory_total_bytes),
    names.METRIC_GPU_POWER: lambda view: _one(view.reading.power_watts),
    names.METRIC_GPU_POWER_LIMIT: lambda view: _one(view.reading.power_limit_watts),
    names.METRIC_GPU_ENERGY: _energy,
    names.METRIC_GPU_TEMPERATURE: lambda view: _one(view.reading.temperature_celsius),
    names.METRIC_GPU_MEMORY_TEMPERATURE: lambda view: _one(view.reading.memory_temperature_celsius),
    names.METRIC_GPU_SM_CLOCK: lambda view: _one(view.reading.sm_clock_hz),
    names.METRIC_GPU_MAX_SM_CLOCK: lambda view: _one(view.reading.max_sm_clock_hz),
    names.METRIC_GPU_MEMORY_CLOCK: lambda view: _one(view.reading.memory_clock_hz),
    names.METRIC_GPU_THROTTLED: lambda view: _throttled(view.reading),
    names.METRIC_GPU_ECC: lambda view: [
        ((CORRECTED,), view.reading.ecc_corrected),
        ((UNCORRECTED,), view.reading.ecc_uncorrected),
    ],
    names.METRIC_GPU_XID: lambda view: _one(view.reading.xid_count),
    names.METRIC_GPU_LAST_XID: lambda view: _one(_last_xid(view.reading)),
    names.METRIC_GPU_PCIE: lambda view: [
        ((SENT,), view.reading.pcie_tx_bytes_per_second),
        ((RECEIVED,), view.reading.pcie_rx_bytes_per_second),
    ],
    names.METRIC_GPU_NVLINK: lambda view: [
        ((SENT,), view.reading.nvlink_tx_bytes),
        ((RECEIVED,), view.reading.nvlink_rx_bytes),
    ],
    names.METRIC_GPU_PROCESS_MEMORY: lambda view: _process_memory(view.reading),
    names.METRIC_GPU_FAULT: lambda view: [((fault,), 1.0) for fault in sorted(view.reading.faults)],
}
"""What each metric by device reads from its view, in the reference's order of labels."""
