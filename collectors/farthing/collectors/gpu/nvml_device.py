"""One device that NVML has: what it has learned not to ask, and what it says now, in base units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from farthing.collectors.gpu.nvml_queries import (
    BLOCKING,
    DRIVER_GONE,
    ENERGY,
    EVERY_SECOND,
    LOST,
    NOW_AND_THEN,
    OF_SLICES,
    ONCE,
    UINT_MAX,
    ULLONG_MAX,
    UNSUPPORTED,
    Call,
    Field,
    Way,
    field_value,
    throttle_reasons,
)
from farthing.domain.conventions import FAULT_SENTINEL
from farthing.domain.gpu import GPU, MIG, GpuReading

__all__ = ["NVML", "Device", "Identity", "Slice"]

NVML: Final = "nvml"
_MHZ: Final = 1_000_000
_POSITIVE: Final = ("power", "energy")
"""A device that is powered draws more than nothing; where these say 0, they do not know."""
_MOMENT_NS: Final = 100_000_000
_READINGS_WITHOUT_ENERGY: Final = 8
"""At most, one after another; so a device that has a counter is not mistaken for one without."""
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
        pending = list(names)
        while pending:
            # what the driver lacks may have another way, which is asked at once
            again, fields = [], []
            for name in pending:
                ways = self._ways[name]
                if not ways:
                    continue
                if isinstance(ways[0], Field):
                    fields.append((name, ways[0]))
                elif not self._call(name, ways[0], known):
                    again.append(name)
            pending = again + (self._fields(fields, known) if fields else [])
        return known

    def _call(self, name: str, way: Call, known: dict[str, Any]) -> bool:
        """Makes a call; False when it has to be asked in another way."""
        try:
            known[name] = way.ask(self._nvml, self._handle)
        except AttributeError:  # an nvidia-ml-py that does not have the name
            lacks = True
        except self._nvml.NVMLError as error:
            lacks = self._lacks(error)
        else:
            lacks = False
        if lacks:
            self._ways[name].pop(0)
        return not lacks

    def _fields(self, asked: list[tuple[str, Field]], known: dict[str, Any]) -> list[str]:
        """Reads fields by one call; returns the names that have to be asked in another way."""
        try:
            answers = self._nvml.nvmlDeviceGetFieldValues(
                self._handle, [(field.field_id, field.scope) for _, field in asked]
            )
        except self._nvml.NVMLError as error:
            if not self._lacks(error):
                return []
            for name, _ in asked:
                self._ways[name] = [way for way in self._ways[name] if isinstance(way, Call)]
            return [name for name, _ in asked]
        again = []
        for (name, field), answer in zip(asked, answers, strict=True):
            code = answer.nvmlReturn
            if code == 0:
                known[name] = field_value(answer, field.factor)
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
        self._asker = _Asker(self._nvml, self.handle, EVERY_SECOND, ENERGY, NOW_AND_THEN, ONCE, BLOCKING)
        self._once: dict[str, Any] | None = None
        self._seldom: dict[str, Any] = {}
        self._seldom_at_ns: int | None = None
        self._energy_at_ns: int | None = None
        self._without_energy = 0

    def read(self, at_ns: int, energy_ns: int = 0) -> GpuReading:
        """What it says at a moment in UTC nanoseconds; its energy once in ``energy_ns``.

        Raises the module's NVMLError when the device is lost or the driver is gone.
        """
        if self._once is None:
            self._once = self._asker.answers(ONCE)
        if _due(at_ns, self._seldom_at_ns, self._seldom_ns):
            self._seldom, self._seldom_at_ns = self._asker.answers(self._seldom_names), at_ns
        answers = {**self._once, **self._seldom, **self._asker.answers(EVERY_SECOND)}
        self._without_energy += 1
        if self._without_energy >= _READINGS_WITHOUT_ENERGY or _due(at_ns, self._energy_at_ns, energy_ns):
            energy = self._asker.answers(ENERGY)
            answers |= energy
            if energy:  # else it is asked for again at the next reading
                self._without_energy, self._energy_at_ns = 0, at_ns
        faults = _NONE
        for name, value in answers.items():
            if _unbelievable(name, value):
                answers[name] = None
                faults = _SENTINEL
        return self._reading(at_ns, answers, faults)

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
            sm_clock_hz=_times(get("sm_clock"), _MHZ),
            memory_clock_hz=_times(get("memory_clock"), _MHZ),
            max_sm_clock_hz=_times(get("max_sm_clock"), _MHZ),
            throttle=None if bits is None else throttle_reasons(bits),
            ecc_corrected=get("ecc_corrected"),
            ecc_uncorrected=get("ecc_uncorrected"),
            remapped_rows_pending=None if pending is None else bool(pending),
            pcie_tx_bytes_per_second=_times(get("pcie_tx_rate"), 1_000),
            pcie_rx_bytes_per_second=_times(get("pcie_rx_rate"), 1_000),
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


def _times(value: int | None, unit: int) -> int | None:
    return None if value is None else value * unit


def _due(now_ns: int, before_ns: int | None, period_ns: int) -> bool:
    """Whether a period has passed, all but a moment by which readings are early or late; or the clock was set back."""
    return before_ns is None or not 0 <= now_ns - before_ns < period_ns - _MOMENT_NS


def _unbelievable(name: str, answer: Any) -> bool:
    """Whether an answer is a stand-in for one that is not there."""
    if name == "utilization":
        return bool(max(answer) > 100)
    if name == "memory":
        return bool(ULLONG_MAX in answer)
    return answer is None or answer in {UINT_MAX, ULLONG_MAX} or (answer == 0 and name in _POSITIVE)
