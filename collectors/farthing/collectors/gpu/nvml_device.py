"""One device that NVML has: what it has learned not to ask, and what it says now, in base units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from farthing.collectors.gpu.nvml_queries import (
    BLOCKING,
    DRIVER_GONE,
    EVERY_SECOND,
    LOST,
    NOW_AND_THEN,
    OF_SLICES,
    UINT_MAX,
    ULLONG_MAX,
    UNSUPPORTED,
    Call,
    Field,
    Way,
    field_value,
    throttle_reasons,
)
from farthing.domain.clock import SECOND
from farthing.domain.conventions import FAULT_SENTINEL
from farthing.domain.gpu import GPU, MIG, GpuReading

__all__ = ["NVML", "Device", "Identity", "Slice"]

NVML: Final = "nvml"
_MHZ: Final = 1_000_000
_POSITIVE: Final = ("power", "energy")
"""A device that is powered draws more than nothing; where these say 0, they do not know."""
_NONE: Final[frozenset[str]] = frozenset()
_SENTINEL: Final = frozenset({FAULT_SENTINEL})


@dataclass(frozen=True, slots=True)
class Identity:
    """What never changes of a device while NVML is initialised."""

    uuid: str
    name: str
    host: str
    index: int
    parent: str = ""
    profile: str = ""


class _Asker:
    """Asks a handle for quantities in the best way that it has, and never again for what it lacks."""

    def __init__(self, nvml: Any, handle: Any, *tables: Mapping[str, tuple[Way, ...]]) -> None:
        self._nvml = nvml
        self._handle = handle
        self._ways: dict[str, list[Way]] = {name: list(ways) for table in tables for name, ways in table.items()}

    def answers(self, names: Mapping[str, object]) -> dict[str, Any]:
        """What is known now by name; a name that is not in it is unknown.

        Raises the module's NVMLError when the device is lost or the driver is gone.
        """
        known: dict[str, Any] = {}
        fields: list[str] = []
        pending = list(names)
        while pending:
            for name in pending:
                ways = self._ways[name]
                if ways and isinstance(ways[0], Field):
                    fields.append(name)
                elif ways:
                    self._call(name, ways, known)
            # a field that the driver lacks may have another way, which is asked at once
            pending = self._fields(fields, known) if fields else []
            fields = []
        return known

    def _call(self, name: str, ways: list[Way], known: dict[str, Any]) -> None:
        while ways:
            way = ways[0]
            assert isinstance(way, Call)  # noqa: S101  # fields come first in every list
            try:
                known[name] = way.ask(self._nvml, self._handle)
            except AttributeError:  # an nvidia-ml-py that does not have the name
                ways.pop(0)
            except self._nvml.NVMLError as error:
                if not self._lacks(error):
                    return
                ways.pop(0)
            else:
                return

    def _fields(self, names: list[str], known: dict[str, Any]) -> list[str]:
        """Reads fields by one call; returns the names that have to be asked in another way."""
        ways = [self._ways[name][0] for name in names]
        asked = [(way.field_id, way.scope) for way in ways if isinstance(way, Field)]
        try:
            answers = self._nvml.nvmlDeviceGetFieldValues(self._handle, asked)
        except self._nvml.NVMLError as error:
            if not self._lacks(error):
                return []
            for name in names:
                self._ways[name] = [way for way in self._ways[name] if isinstance(way, Call)]
            return names
        again = []
        for name, way, answer in zip(names, ways, answers, strict=True):
            code = answer.nvmlReturn
            if code == 0:
                assert isinstance(way, Field)  # noqa: S101  # by their caller
                known[name] = field_value(answer, way.factor)
            elif code in UNSUPPORTED:
                self._ways[name].pop(0)
                again.append(name)
            elif code in LOST or code in DRIVER_GONE:
                raise self._nvml.NVMLError(code)
        return again

    def _lacks(self, error: Any) -> bool:
        """Whether an error is the answer for good; raises it where it is the end of the device or of the driver."""
        if error.value in LOST or error.value in DRIVER_GONE:
            raise error
        return error.value in UNSUPPORTED


class Device:
    """A whole GPU."""

    def __init__(self, nvml: Any, handle: Any, identity: Identity, *, seldom_ns: int, blocking_pcie: bool) -> None:
        self.handle = handle
        self.identity = identity
        self.slices: list[Slice] = []
        self.mig = False
        """Whether its MIG mode is on; processes belong to its slices then."""
        self._nvml = nvml
        self._seldom_ns = seldom_ns
        self._seldom_names: Mapping[str, object] = {**NOW_AND_THEN, **BLOCKING} if blocking_pcie else NOW_AND_THEN
        self.forget()

    def forget(self) -> None:
        """Find out again what it has, as after a change of its mode."""
        self._asker = _Asker(self._nvml, self.handle, EVERY_SECOND, NOW_AND_THEN, BLOCKING)
        self._seldom: dict[str, Any] = {}
        self._seldom_at_ns: int | None = None

    def read(self, at_ns: int) -> GpuReading:
        """What it says at a moment in UTC nanoseconds.

        Raises the module's NVMLError when the device is lost or the driver is gone.
        """
        if self._seldom_at_ns is None or not 0 <= at_ns - self._seldom_at_ns < self._seldom_ns:
            self._ask_seldom(at_ns)
        answers = {**self._seldom, **self._asker.answers(EVERY_SECOND)}
        faults = _NONE
        for name, value in answers.items():
            if _unbelievable(name, value):
                answers[name] = None
                faults = _SENTINEL
        return self._reading(at_ns, answers, faults)

    def _ask_seldom(self, at_ns: int) -> None:
        answers = self._asker.answers(self._seldom_names)
        for way in ("tx", "rx"):
            rate = answers.pop(f"pcie_{way}_rate", None)
            rate = rate * 1000.0 if rate is not None else self._pcie_rate(f"pcie_{way}", answers, at_ns)
            if rate is not None:
                answers[f"pcie_{way}_per_second"] = rate
        self._seldom, self._seldom_at_ns = answers, at_ns

    def _pcie_rate(self, name: str, answers: dict[str, Any], at_ns: int) -> float | None:
        """Bytes per second since the last look; None at the first, and where the counter began anew."""
        before, now = self._seldom.get(name), answers.get(name)
        if before is None or now is None or now < before or self._seldom_at_ns is None or at_ns <= self._seldom_at_ns:
            return None
        return float((now - before) * SECOND / (at_ns - self._seldom_at_ns))

    def _reading(self, at_ns: int, answers: Mapping[str, Any], faults: frozenset[str]) -> GpuReading:
        identity, get = self.identity, answers.get
        busy, memory_busy = get("utilization") or (None, None)
        used, total = get("memory") or (None, None)
        bits, pending = get("throttle"), get("remapped_pending")
        return GpuReading(
            uuid=identity.uuid,
            at_ns=at_ns,
            source=NVML,
            host=identity.host,
            index=identity.index,
            name=identity.name,
            kind=GPU,
            utilization=_divided(busy, 100),
            memory_utilization=_divided(memory_busy, 100),
            memory_used_bytes=used,
            memory_total_bytes=total,
            power_watts=_divided(get("power"), 1000),
            power_limit_watts=_divided(get("power_limit"), 1000),
            energy_mj=get("energy"),
            temperature_celsius=_divided(get("temperature"), 1),
            memory_temperature_celsius=_divided(get("memory_temperature"), 1),
            sm_clock_hz=_hertz(get("sm_clock")),
            memory_clock_hz=_hertz(get("memory_clock")),
            max_sm_clock_hz=_hertz(get("max_sm_clock")),
            throttle=None if bits is None else throttle_reasons(bits),
            ecc_corrected=get("ecc_corrected"),
            ecc_uncorrected=get("ecc_uncorrected"),
            remapped_rows_pending=None if pending is None else bool(pending),
            pcie_tx_bytes_per_second=get("pcie_tx_per_second"),
            pcie_rx_bytes_per_second=get("pcie_rx_per_second"),
            nvlink_tx_bytes=get("nvlink_tx"),
            nvlink_rx_bytes=get("nvlink_rx"),
            processes=() if self.mig else get("processes") or (),
            faults=faults,
        )


class Slice:
    """A MIG instance: of its own it has memory and processes alone."""

    def __init__(self, nvml: Any, handle: Any, identity: Identity) -> None:
        self.identity = identity
        self._asker = _Asker(nvml, handle, OF_SLICES)

    def read(self, at_ns: int) -> GpuReading:
        """What it says at a moment in UTC nanoseconds.

        Raises the module's NVMLError when the instance or its GPU is gone.
        """
        identity, answers = self.identity, self._asker.answers(OF_SLICES)
        used, total = answers.get("memory") or (None, None)
        return GpuReading(
            uuid=identity.uuid,
            at_ns=at_ns,
            source=NVML,
            host=identity.host,
            index=identity.index,
            name=identity.name,
            kind=MIG,
            parent=identity.parent,
            profile=identity.profile,
            memory_used_bytes=used,
            memory_total_bytes=total,
            processes=answers.get("processes") or (),
        )


def _divided(value: int | None, unit: int) -> float | None:
    return None if value is None else value / unit


def _hertz(megahertz: int | None) -> int | None:
    return None if megahertz is None else megahertz * _MHZ


def _unbelievable(name: str, answer: Any) -> bool:
    """Whether an answer is a stand-in for one that is not there."""
    if name == "utilization":
        return max(answer) > 100
    if name == "memory":
        return ULLONG_MAX in answer
    return answer is None or answer in {UINT_MAX, ULLONG_MAX} or (answer == 0 and name in _POSITIVE)
