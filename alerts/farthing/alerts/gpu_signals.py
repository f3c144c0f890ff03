"""One vocabulary for every GPU: recording rules that turn exporters' names and units into ``gpu:`` series.

What an exporter calls a quantity, and in which unit, is data (``farthing.vocabulary.gpus``); here is how it becomes one
series by (uuid, hostname, device, gpu_model), in base units.

- A device is told by one source, however many are scraped: Farthing's own first, then in the order of EXPORTERS. Each
  quantity by itself, so that another source fills in what the first does not know.
- Series that repeat one another (a GPU shared by pods, two scrapes of one exporter) count once: the largest.
- A sentinel is no value: what is negative, or beyond what any device has, gives no series, never 0.
- MIG slices that have only their GPU's UUID are added up to it in memory; of all else the largest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Final

from farthing.alerts.rules import RecordingRule, RuleGroup
from farthing.alerts.selectors import selector
from farthing.domain import conventions as names
from farthing.domain.gpu import THROTTLE_REASONS
from farthing.settings import Settings
from farthing.vocabulary.gpus import (
    QUANTITIES,
    THROTTLE,
    UNITS,
    XID_APPLICATION,
    XID_HARDWARE,
    DeviceLabels,
    ExporterCatalogue,
    Telling,
    ceiling_of,
)
from farthing.vocabulary.loading import load_exporters

__all__ = ["GPU_BOTH_WAYS", "GPU_DEVICE", "GPU_SCALARS", "gpu_vocabulary"]

RANGE: Final = "1m"
"""Of rates; holds two collections of an exporter that collects every 30 s."""
EVALUATION_SECONDS: Final = 15
"""Exporters collect every 10 to 30 s."""

GPU_DEVICE: Final = (names.LABEL_UUID, names.LABEL_HOST, names.LABEL_DEVICE, names.LABEL_GPU_MODEL)
"""The labels of every ``gpu:`` series."""

GPU_SCALARS: Final = {
    names.REC_GPU_UTILIZATION: "utilization",
    names.REC_GPU_MEMORY_UTILIZATION: "memory_utilization",
    names.REC_GPU_MEMORY_USED: "memory_used",
    names.REC_GPU_MEMORY_TOTAL: "memory_total",
    names.REC_GPU_POWER: "power",
    names.REC_GPU_POWER_LIMIT: "power_limit",
    names.REC_GPU_ENERGY: "energy",
    names.REC_GPU_TEMPERATURE: "temperature",
    names.REC_GPU_MEMORY_TEMPERATURE: "memory_temperature",
    names.REC_GPU_SM_CLOCK: "sm_clock",
    names.REC_GPU_MEMORY_CLOCK: "memory_clock",
    names.REC_GPU_ECC_UNCORRECTED: "ecc_uncorrected",
    names.REC_GPU_ECC_CORRECTED: "ecc_corrected",
    names.REC_GPU_LAST_XID: "xid",
    names.REC_GPU_XID_ERRORS: "xid_count",
}
"""Record -> the quantity of the catalogues."""
GPU_BOTH_WAYS: Final = {
    names.REC_GPU_NVLINK: ("nvlink_tx", "nvlink_rx"),
    names.REC_GPU_PCIE: ("pcie_tx", "pcie_rx"),
}
"""Record -> the quantities of which it is the sum, as a throughput."""

_THROUGHPUTS: Final = {quantity for ways in GPU_BOTH_WAYS.values() for quantity in ways}
_OWN: Final = "farthing"
"""The exporter whose series are Farthing's."""
_ANYTHING: Final = 1e18
"""Ceiling, in the exporter's own unit, of counters of which the rate is taken and of what is only more than 0 or not:
below every sentinel of 64 bits."""
_ADDRESS: Final = "(.+?)(?::[0-9]+)?"
"""A target's instance without its port."""


def gpu_vocabulary(_settings: Settings) -> RuleGroup:
    """The ``gpu:`` series of every shipped catalogue of an exporter."""
    return _group()


@cache
def _group() -> RuleGroup:
    catalogues = load_exporters()
    rules = [
        RecordingRule(record, _first_known(_of_quantity(one, quantity) for one in catalogues))
        for record, quantity in GPU_SCALARS.items()
    ]
    rules.append(RecordingRule(names.REC_GPU_THROTTLED, _first_known(_throttled(one) for one in catalogues)))
    rules += [
        RecordingRule(record, _first_known(_both_ways(one, quantities) for one in catalogues))
        for record, quantities in GPU_BOTH_WAYS.items()
    ]
    return RuleGroup(names.GROUP_GPU_VOCABULARY, tuple(rules), EVALUATION_SECONDS)


def _first_known(parts: Iterator[list[str]]) -> str:
    """Of each device, the first of the parts that has it."""
    return f"\nor on ({names.LABEL_UUID})\n".join(part for several in parts for part in several)


def _of_quantity(catalogue: ExporterCatalogue, quantity: str) -> list[str]:
    """One expression for each source of the quantity, in order."""
    return [
        expr
        for prefix in catalogue.prefixes
        for telling in catalogue.quantities.get(quantity, ())
        for expr in _aggregated(_Telling(catalogue, prefix, quantity, telling))
    ]


def _throttled(catalogue: ExporterCatalogue) -> list[str]:
    """What the exporter knows of every reason, in one expression: another source is asked for all of them or none."""
    kept = f"max by ({', '.join((*GPU_DEVICE, names.LABEL_REASON))})"
    reasons = [
        _relabelled(known, names.LABEL_REASON, reason, catalogue.device.uuid[0], ".*")
        for reason in THROTTLE_REASONS
        if (known := _either(_of_quantity(catalogue, THROTTLE + reason)))
    ]
    return [f"{kept} (\n" + "\nor\n".join(reasons) + "\n)"] if reasons else []


def _either(parts: Sequence[str]) -> str:
    joined = f" or on ({names.LABEL_UUID}) ".join(parts)
    return f"({joined})" if len(parts) > 1 else joined


def _both_ways(catalogue: ExporterCatalogue, quantities: Sequence[str]) -> list[str]:
    """Both directions added up; of a link that only its sender counts, that one."""
    known = [each for quantity in quantities if (each := _of_quantity(catalogue, quantity))]
    return [" + ".join(ways) for ways in zip(*known, strict=True)] if known else []


class _Telling:
    """One source of a quantity, and where its exporter says which device it is."""

    def __init__(self, catalogue: ExporterCatalogue, prefix: str, quantity: str, telling: Telling) -> None:
        self.device: DeviceLabels = catalogue.device
        self.quantity = quantity
        self.telling = telling
        self._prefix = prefix
        # our own names are nobody else's, and several jobs may have them
        self._job = "" if catalogue.exporter == _OWN else names.JOB_GPUS

    @property
    def info(self) -> str:
        """The series that has what the exporter's others lack; empty where there is none, or nothing lacks."""
        info = self.device.info
        return self.series(info.metric) if info and self._from_info else ""

    @property
    def _from_info(self) -> dict[str, str]:
        info = self.device.info
        return {what: label for what, label in info.labels.items() if what in {"index", "name"}} if info else {}

    def series(self, metric: str, **matchers: Mapping[str, str]) -> str:
        """A selector of the exporter's series."""
        return selector(self._prefix + metric, self._job, **matchers)

    def told(self, metric: str) -> str:
        """A selector with the source's own matchers."""
        return self.series(metric, where=self.telling.where, excluding=self.telling.excluding)

    def whole(self, metric: str) -> str:
        """The same, of GPUs that are not told slice by slice."""
        where = {**self.telling.where, self.device.slice: ""}
        return self.series(metric, where=where, excluding=self.telling.excluding)

    def slices(self, metric: str) -> str:
        """The same, of slices alone."""
        excluding = {**self.telling.excluding, self.device.slice: ""}
        return self.series(metric, where=self.telling.where, excluding=excluding)

    def named(self, expr: str) -> str:
        """``expr`` with the labels of GPU_DEVICE, whatever the exporter calls them."""
        by = self.device
        if self.info:
            kept = (names.LABEL_INSTANCE, by.uuid[0], *self._from_info.values())
            identity = f"max by ({', '.join(kept)}) ({self.info})"
            brings = ", ".join(self._from_info.values())
            expr = f"({expr}) * on ({names.LABEL_INSTANCE}, {by.uuid[0]}) group_left ({brings}) {identity}"
        index = (self._from_info["index"],) if "index" in self._from_info else by.index
        name = (self._from_info["name"],) if "name" in self._from_info else by.name
        if names.LABEL_HOST not in by.host:
            expr = _relabelled(expr, names.LABEL_HOST, "$1", names.LABEL_INSTANCE, _ADDRESS)
        for label, sources in (
            (names.LABEL_UUID, by.uuid),
            (names.LABEL_HOST, by.host),
            (names.LABEL_DEVICE, index),
            (names.LABEL_GPU_MODEL, name),
        ):
            for source in reversed([one for one in sources if one != label]):
                expr = _relabelled(expr, label, "$1", source, "(.+)")
        if not index:
            expr = _relabelled(expr, names.LABEL_DEVICE, "", names.LABEL_UUID, ".*")
        if by.uuid_prefix:
            expr = _relabelled(
                expr, names.LABEL_UUID, f"{by.uuid_prefix}$1", names.LABEL_UUID, f"(?:{by.uuid_prefix})?(.+)"
            )
        return expr


def _relabelled(expr: str, label: str, replacement: str, source: str, pattern: str) -> str:
    return f'label_replace({expr}, "{label}", "{replacement}", "{source}", "{pattern}")'


def _aggregated(one: _Telling) -> list[str]:
    """The source by device: what repeats counts once, what is a part is added up."""
    telling, by = one.telling, ", ".join(GPU_DEVICE)
    if telling.latest:
        return [f"max by ({by}) ({one.named(_codes(one))})"]
    if telling.zero:
        return [f"max by ({by}) ({one.named(_counted(one))})"]
    if telling.adding:
        return [_added(one, _value(one, one.told), telling.adding)]
    quantity = QUANTITIES[one.quantity]
    if one.device.slice and quantity.of_slices and quantity.unit == "bytes":
        slices = _added(one, _value(one, one.slices), (one.device.slice,))
        return [f"max by ({by}) ({one.named(_value(one, one.whole))})", slices]
    return [f"max by ({by}) ({one.named(_value(one, one.told))})"]


def _added(one: _Telling, value: str, parts: Sequence[str]) -> str:
    each = f"max by ({', '.join((*GPU_DEVICE, *parts))}) ({one.named(value)})"
    return f"sum by ({', '.join(GPU_DEVICE)}) ({each})"


def _value(one: _Telling, select: Callable[[str], str]) -> str:
    """The quantity in its base unit, without sentinels."""
    telling, wanted = one.telling, QUANTITIES[one.quantity].unit
    base, factor = UNITS[telling.unit]
    if telling.bits:
        mask = _believed(select(telling.metric), _ANYTHING)
        bits = " + ".join(f"floor({mask} / {bit}) % 2" for bit in telling.bits)
        return f"({bits}) > bool 0"
    rising = _is_rising(one.quantity, base)
    as_told = rising or (wanted == "flag" and base != "ratio")
    ceiling = _ANYTHING if as_told else float(Fraction(ceiling_of(one.quantity, telling)) / factor)
    parts = [_believed(select(metric), ceiling) for metric in (telling.metric, *telling.plus)]
    if rising:
        series = select(telling.metric)
        parts = [f"(rate({series}[{RANGE}]) and {parts[0]})"]
    whole = " + ".join(parts)
    if wanted == "flag":
        return f"({whole}) > bool 0"
    return _times(f"({whole})" if len(parts) > 1 else whole, factor)


def _is_rising(quantity: str, base: str) -> bool:
    """Whether the source is a counter of which the rate is told."""
    return base == "seconds" or (base == "bytes" and quantity in _THROUGHPUTS)


def _believed(series: str, ceiling: float) -> str:
    return f"({series} >= 0 < {ceiling:.12g})"


def _times(expr: str, factor: Fraction) -> str:
    """Multiplied by whole numbers and divided by whole numbers, so that 87 % is 0.87 and nothing beside it."""
    if factor.numerator != 1:
        expr = f"{expr} * {factor.numerator}"
    return f"{expr} / {factor.denominator}" if factor.denominator != 1 else expr


def _codes(one: _Telling) -> str:
    """The label of the latest series as a value, of the codes that are known: a query cannot do it for any."""
    label = one.telling.latest
    codes = [
        f"{one.series(one.telling.metric, where={label: str(code)})} * 0 + {code}"
        for code in sorted((*XID_APPLICATION, *XID_HARDWARE))
    ]
    latest = f"topk by ({names.LABEL_INSTANCE}, {one.device.uuid[0]}) (1, {one.told(one.telling.metric)})"
    joined = " or ".join(codes)
    return f"({joined}) and {latest}"


def _counted(one: _Telling) -> str:
    """What is counted, and 0 where the exporter counts and has counted nothing."""
    zero, by = one.telling.zero, f"({names.LABEL_INSTANCE}, {one.device.uuid[0]})"
    counted = f"sum by {by} {_believed(one.told(one.telling.metric), QUANTITIES[one.quantity].ceiling)}"
    beside = one.series(zero.beside) if zero else ""
    none = f"max by {by} ({one.info} and on ({names.LABEL_INSTANCE}) {beside}) * 0"
    return f"{counted} or {none}"
