"""Devices in an exposition, by the catalogue of the exporter that wrote it.

What is negative, not finite or beyond the quantity's ceiling is no reading: it is None, and the device's reading has
FAULT_SENTINEL. What only a rate would tell (a counter of throttled time, say) is None too; recording rules have it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from re import fullmatch
from typing import Final, TypeAlias

from farthing.collectors.engines.exposition import Exposition, Sample
from farthing.domain.conventions import FAULT_SENTINEL
from farthing.domain.gpu import GPU, MIG, SLICE_SEPARATOR, THROTTLE_REASONS, GpuReading
from farthing.vocabulary.gpus import QUANTITIES, THROTTLE, UNITS, DeviceLabels, ExporterCatalogue, Telling, ceiling_of

__all__ = ["devices_in", "prefix_of"]

MOST_DIGITS: Final = 9
"""Of a device's number or an error's. Python refuses to read numbers of thousands of digits."""

_Key: TypeAlias = tuple[str, str]
"""UUID of the GPU, and the number of a MIG slice on it; empty for the whole."""


@dataclass(slots=True)
class _Device:
    """What the samples of one device say."""

    values: dict[str, Fraction] = field(default_factory=dict)
    faults: bool = False
    told: dict[str, str] = field(default_factory=dict)
    """host, index, name, kind, parent, profile: the first that a sample names."""
    pods: set[str] = field(default_factory=set)


def prefix_of(catalogue: ExporterCatalogue, exposition: Exposition) -> str | None:
    """What stands before the catalogue's names in the exposition; None when it is another exporter's."""
    for prefix in catalogue.prefixes:
        if any(_named(exposition, prefix + metric) for metric in catalogue.told_by):
            return prefix
    return None


def devices_in(
    catalogue: ExporterCatalogue, exposition: Exposition, at_ns: int, *, host: str = "", prefix: str = ""
) -> list[GpuReading]:
    """The devices by index, each GPU before its MIG slices; ``host`` is for those whose exporter names none.

    A slice without a UUID of its own is UUID/NUMBER. What a slice shares with its GPU is in the GPU's reading alone.
    """
    reader = _Reader(catalogue, exposition, prefix)
    for quantity in catalogue.quantities:
        reader.read(quantity)
    reader.read_info()
    readings = [reader.reading(key, at_ns, host) for key in reader.devices]
    return sorted(readings, key=lambda one: (one.host, math.inf if one.index is None else one.index, one.uuid))


class _Reader:
    def __init__(self, catalogue: ExporterCatalogue, exposition: Exposition, prefix: str) -> None:
        self._catalogue = catalogue
        self._labels = catalogue.device
        self._exposition = exposition
        self._prefix = prefix
        self.devices: dict[_Key, _Device] = {}

    # ---- values ------------------------------------------------------------------------------------

    def read(self, quantity: str) -> None:
        """The quantity of every device, by the first of its sources that the device has."""
        for telling in self._catalogue.quantities[quantity]:
            for key, value in self._tell(quantity, telling).items():
                self.devices[key].values.setdefault(quantity, value)

    def _tell(self, quantity: str, telling: Telling) -> dict[_Key, Fraction]:
        if telling.latest:
            return self._latest(quantity, telling)
        if not _is_momentary(quantity, telling):
            return {}
        parts = [self._summed(quantity, telling, metric) for metric in (telling.metric, *telling.plus)]
        shared = set.intersection(*(set(part) for part in parts))
        values = {key: sum((part[key] for part in parts), Fraction(0)) for key in shared}
        if telling.zero and _named(self._exposition, self._prefix + telling.zero.beside):
            values |= {key: Fraction(0) for key in self.devices if key not in values and not key[1]}
        return {key: _converted(quantity, telling, value) for key, value in values.items()}

    def _summed(self, quantity: str, telling: Telling, metric: str) -> dict[_Key, Fraction]:
        """By device: the largest of series that repeat one another, added up over the labels that are parts."""
        parts: dict[_Key, dict[tuple[str, ...], Fraction]] = {}
        for key, sample in self._samples(quantity, telling, metric):
            value = _believed(quantity, telling, sample.value)
            if value is None:
                self.devices[key].faults = True
                continue
            which = tuple(sample.labels.get(label, "") for label in telling.adding)
            known = parts.setdefault(key, {})
            known[which] = max(value, known.get(which, value))
        return {key: sum(values.values(), Fraction(0)) for key, values in parts.items()}

    def _latest(self, quantity: str, telling: Telling) -> dict[_Key, Fraction]:
        newest: dict[_Key, Sample] = {}
        for key, sample in self._samples(quantity, telling, telling.metric):
            if _count(sample.labels.get(telling.latest, "")) is not None and sample.value > 0:
                known = newest.setdefault(key, sample)
                newest[key] = max(known, sample, key=lambda one: one.value)
        return {key: Fraction(_count(sample.labels[telling.latest]) or 0) for key, sample in newest.items()}

    def _samples(self, quantity: str, telling: Telling, metric: str) -> Iterator[tuple[_Key, Sample]]:
        for sample in _named(self._exposition, self._prefix + metric):
            key = self._key(sample.labels)
            if key is None or not _matches(telling, sample.labels):
                continue
            of_slice = bool(key[1])
            if of_slice and not QUANTITIES[quantity].of_slices:
                key = (key[0], "")
            self._note(key, sample.labels, shared=of_slice and not key[1])
            yield key, sample

    # ---- which device ------------------------------------------------------------------------------

    def _key(self, labels: Mapping[str, str]) -> _Key | None:
        uuid = _first(labels, self._labels.uuid)
        if not uuid:
            return None
        prefix = self._labels.uuid_prefix
        return (uuid if uuid.startswith(prefix) else prefix + uuid, labels.get(self._labels.slice, ""))

    def _note(self, key: _Key, labels: Mapping[str, str], shared: bool) -> None:
        """Remember what the sample says of its device; one of a slice says nothing of the pod that has the GPU."""
        device = self.devices.setdefault(key, _Device())
        by: DeviceLabels = self._labels
        for what, names in (("host", by.host), ("index", by.index), ("name", by.name)):
            if value := _first(labels, names):
                device.told.setdefault(what, value)
        if shared:
            return
        if key[1] and labels.get(by.profile):
            device.told.setdefault("profile", labels[by.profile])
        if pod := _first(labels, by.pod):
            device.pods.add("/".join(part for part in (_first(labels, by.namespace), pod) if part))

    def read_info(self) -> None:
        """What only the info series tells of devices that other series have."""
        info = self._labels.info
        for sample in _named(self._exposition, self._prefix + info.metric) if info else ():
            device = self.devices.get(self._key(sample.labels) or ("", ""))
            if info is None or device is None:
                continue
            for what, label in info.labels.items():
                value = sample.labels.get(label, "")
                if value and what == "pod":
                    device.pods.add(value)
                elif value:
                    device.told.setdefault(what, value)

    # ---- the reading -------------------------------------------------------------------------------

    def reading(self, key: _Key, at_ns: int, host: str) -> GpuReading:
        """The device's reading; of several pods that share it none is named."""
        device, (uuid, number) = self.devices[key], key
        told, values = device.told, device.values
        return GpuReading(
            uuid=f"{uuid}{SLICE_SEPARATOR}{number}" if number else uuid,
            at_ns=at_ns,
            source=self._catalogue.exporter,
            host=told.get("host", host),
            index=_count(told.get("index", "")),
            name=told.get("name", ""),
            kind=MIG if number else told.get("kind", GPU),
            parent=uuid if number else told.get("parent", ""),
            profile=told.get("profile", ""),
            pod=next(iter(device.pods)) if len(device.pods) == 1 else "",
            utilization=_ratio(values, "utilization"),
            memory_utilization=_ratio(values, "memory_utilization"),
            sm_active=_ratio(values, "sm_active"),
            tensor_active=_ratio(values, "tensor_active"),
            dram_active=_ratio(values, "dram_active"),
            memory_used_bytes=_whole(values, "memory_used"),
            memory_total_bytes=_whole(values, "memory_total"),
            power_watts=_number(values, "power"),
            power_limit_watts=_number(values, "power_limit"),
            energy_mj=_whole(values, "energy", 1000),
            temperature_celsius=_number(values, "temperature"),
            memory_temperature_celsius=_number(values, "memory_temperature"),
            sm_clock_hz=_whole(values, "sm_clock"),
            memory_clock_hz=_whole(values, "memory_clock"),
            max_sm_clock_hz=_whole(values, "max_sm_clock"),
            throttle=_throttle(values),
            throttle_told=_throttle_told(values),
            ecc_corrected=_whole(values, "ecc_corrected"),
            ecc_uncorrected=_whole(values, "ecc_uncorrected"),
            remapped_rows_pending=_flag(values, "remapped_rows_pending"),
            xid=_whole(values, "xid"),
            xid_count=_whole(values, "xid_count"),
            pcie_tx_bytes_per_second=_number(values, "pcie_tx"),
            pcie_rx_bytes_per_second=_number(values, "pcie_rx"),
            nvlink_tx_bytes=_whole(values, "nvlink_tx"),
            nvlink_rx_bytes=_whole(values, "nvlink_rx"),
            faults=frozenset({FAULT_SENTINEL}) if device.faults else frozenset(),
        )


def _named(exposition: Exposition, metric: str) -> list[Sample]:
    """Samples of the name; the parser puts ``_total`` behind that of a counter which its exporter spells without."""
    return exposition.find(metric) or exposition.find(f"{metric}_total")


def _is_momentary(quantity: str, telling: Telling) -> bool:
    """Whether one exposition tells the quantity; a counter's rate needs two."""
    base, _ = UNITS[telling.unit]
    wanted = QUANTITIES[quantity].unit
    return bool(telling.bits) or base == wanted or (base == "ratio" and wanted == "flag")


def _believed(quantity: str, telling: Telling, value: float) -> Fraction | None:
    """The value in its base unit; None for a sentinel."""
    if not math.isfinite(value) or value < 0:
        return None
    base = Fraction(value) * UNITS[telling.unit][1]
    return base if base < ceiling_of(quantity, telling) else None


def _converted(quantity: str, telling: Telling, value: Fraction) -> Fraction:
    if telling.bits:
        return Fraction(int(any(int(value) & bit for bit in telling.bits)))
    return Fraction(int(value > 0)) if QUANTITIES[quantity].unit == "flag" else value


def _matches(telling: Telling, labels: Mapping[str, str]) -> bool:
    """As Prometheus matches: an absent label is empty text, a pattern is of the whole value."""
    return all(labels.get(label, "") == value for label, value in telling.where.items()) and not any(
        fullmatch(pattern, labels.get(label, "")) for label, pattern in telling.excluding.items()
    )


def _first(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")


def _count(label: str) -> int | None:
    """The number that a label is; None for anything else, and for more digits than a device or an error has."""
    return int(label) if label.isascii() and label.isdecimal() and len(label) <= MOST_DIGITS else None


def _ratio(values: Mapping[str, Fraction], name: str) -> float | None:
    return min(float(values[name]), 1.0) if name in values else None


def _number(values: Mapping[str, Fraction], name: str) -> float | None:
    return float(values[name]) if name in values else None


def _whole(values: Mapping[str, Fraction], name: str, times: int = 1) -> int | None:
    return round(values[name] * times) if name in values else None


def _flag(values: Mapping[str, Fraction], name: str) -> bool | None:
    return values[name] > 0 if name in values else None


def _throttle(values: Mapping[str, Fraction]) -> frozenset[str] | None:
    told = _throttle_told(values)
    return frozenset(reason for reason in told if values[THROTTLE + reason]) if told else None


def _throttle_told(values: Mapping[str, Fraction]) -> frozenset[str]:
    return frozenset(reason for reason in THROTTLE_REASONS if THROTTLE + reason in values)
