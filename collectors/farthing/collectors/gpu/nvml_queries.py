"""What of a device NVML is asked for, in which ways, and what its answers mean; no state of any device.

A quantity has one or more ways to ask for it, best first: a field, of which many are read by one call, or a call of
its own. Numbers are those of ``nvml.h``, which never change their meaning, so that an older nvidia-ml-py serves too.
Units: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html and …/group__nvmlFieldValueEnums.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Any, Final, TypeAlias

from farthing.domain.gpu import (
    THROTTLE_BOARD,
    THROTTLE_IDLE,
    THROTTLE_OTHER,
    THROTTLE_POWER,
    THROTTLE_SETTINGS,
    THROTTLE_THERMAL,
)

__all__ = [
    "ALL_LINKS",
    "BLOCKING",
    "DRIVER_GONE",
    "ENERGY",
    "EVERY_SECOND",
    "LOST",
    "NOW_AND_THEN",
    "OF_SLICES",
    "ONCE",
    "UINT_MAX",
    "ULLONG_MAX",
    "UNSUPPORTED",
    "Call",
    "Code",
    "EventReason",
    "Field",
    "FieldId",
    "Way",
    "field_value",
    "throttle_reasons",
]


class Code(IntEnum):
    """``nvmlReturn_t``, without its prefix ``NVML_ERROR_``."""

    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    DRIVER_NOT_LOADED = 9
    TIMEOUT = 10
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    LIB_RM_VERSION_MISMATCH = 18
    VGPU_ECC_NOT_SUPPORTED = 22
    ARGUMENT_VERSION_MISMATCH = 25
    DEPRECATED = 26
    GPU_NOT_FOUND = 28


UNSUPPORTED: Final = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.NOT_SUPPORTED,
        Code.NO_PERMISSION,
        Code.FUNCTION_NOT_FOUND,
        Code.VGPU_ECC_NOT_SUPPORTED,
        Code.ARGUMENT_VERSION_MISMATCH,
        Code.DEPRECATED,
    }
)
"""Answers that stay the same until NVML is initialised again: this driver, device or user does not have the call."""
LOST: Final = frozenset({Code.GPU_IS_LOST, Code.GPU_NOT_FOUND})
"""The device has fallen off its bus, or was taken away."""
DRIVER_GONE: Final = frozenset({Code.UNINITIALIZED, Code.DRIVER_NOT_LOADED, Code.LIB_RM_VERSION_MISMATCH})
"""Nothing that was opened before is valid: the driver was unloaded, or another one was loaded."""

UINT_MAX: Final = (1 << 32) - 1
ULLONG_MAX: Final = (1 << 64) - 1
"""``NVML_VALUE_NOT_AVAILABLE`` of either width."""
ALL_LINKS: Final = UINT_MAX
"""The scope that sums NVLink counters over a device's links."""


class FieldId(IntEnum):
    """``NVML_FI_DEV_…``."""

    ECC_SBE_VOL_TOTAL = 3
    ECC_DBE_VOL_TOTAL = 4
    MEMORY_TEMP = 82
    TOTAL_ENERGY_CONSUMPTION = 83
    NVLINK_THROUGHPUT_DATA_TX = 138
    NVLINK_THROUGHPUT_DATA_RX = 139
    REMAPPED_PENDING = 144
    POWER_INSTANT = 186
    NVLINK_COUNT_XMIT_BYTES = 202
    NVLINK_COUNT_RCV_BYTES = 204


class EventReason(IntFlag):
    """``nvmlClocksEventReason…``, before R535 ``nvmlClocksThrottleReason…``: why clocks are not at their highest."""

    GpuIdle = 0x1
    ApplicationsClocksSetting = 0x2
    SwPowerCap = 0x4
    HwSlowdown = 0x8
    SyncBoost = 0x10
    SwThermalSlowdown = 0x20
    HwThermalSlowdown = 0x40
    HwPowerBrakeSlowdown = 0x80
    DisplayClockSetting = 0x100


_THROTTLES: Final = {
    EventReason.GpuIdle: THROTTLE_IDLE,
    EventReason.ApplicationsClocksSetting: THROTTLE_SETTINGS,
    EventReason.SwPowerCap: THROTTLE_POWER,
    EventReason.HwSlowdown: THROTTLE_BOARD,
    EventReason.SyncBoost: THROTTLE_OTHER,
    EventReason.SwThermalSlowdown: THROTTLE_THERMAL,
    EventReason.HwThermalSlowdown: THROTTLE_THERMAL,
    EventReason.HwPowerBrakeSlowdown: THROTTLE_BOARD,
    EventReason.DisplayClockSetting: THROTTLE_SETTINGS,
}


@lru_cache(maxsize=256)
def throttle_reasons(bits: int) -> frozenset[str]:
    """Of THROTTLE_REASONS, what a mask of EventReason says; a bit that is not known is ``other``."""
    reasons = {reason for bit, reason in _THROTTLES.items() if bits & bit}
    if bits & ~sum(_THROTTLES):
        reasons.add(THROTTLE_OTHER)
    return frozenset(reasons)


@dataclass(frozen=True, slots=True)
class Field:
    """A way to ask by ``nvmlDeviceGetFieldValues``: one call for all fields that are due."""

    field_id: FieldId
    scope: int = 0
    factor: int = 1


@dataclass(frozen=True, slots=True)
class Call:
    """A way to ask by a call of its own: (the module, a handle) to a value."""

    ask: Callable[[Any, Any], Any]


Way: TypeAlias = Field | Call

_VALUES: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Members of ``nvmlValue_t`` by ``nvmlValueType_t``."""
_NOT_AVAILABLE: Final = (None, UINT_MAX, ULLONG_MAX, ULLONG_MAX, -1, -1, None)


def field_value(answer: Any, factor: int = 1) -> int | None:
    """The number in a ``c_nvmlFieldValue_t`` times a factor; None where it is ``NVML_VALUE_NOT_AVAILABLE``, or of a
    type that came after these."""
    kind = answer.valueType
    if not 0 <= kind < len(_VALUES):
        return None
    value = getattr(answer.value, _VALUES[kind])
    return None if value == _NOT_AVAILABLE[kind] else int(value) * factor


def _rates(nvml: Any, handle: Any) -> tuple[int, int]:
    rates = nvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu, rates.memory


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    """What is used without what the driver keeps for itself, as nvidia-smi shows it."""
    memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    return memory.used, memory.total


def _memory_v1(nvml: Any, handle: Any) -> tuple[int, int]:
    """Counts what the driver keeps for itself as used; all that drivers before R510 have."""
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return memory.used, memory.total


def _processes(running: list[Any]) -> tuple[tuple[int, int | None], ...]:
    return tuple((process.pid, process.usedGpuMemory) for process in running)


EVERY_SECOND: Final[Mapping[str, tuple[Way, ...]]] = {
    "utilization": (Call(_rates),),
    "sm_clock": (Call(lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),),
    "memory_clock": (Call(lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),),
    "memory": (Call(_memory), Call(_memory_v1)),
    # milliwatts, the last second's mean since Ampere: its trapezoids at 1 Hz stay within 0.2 % of the energy counter,
    # where those of the power at a moment, the field, are up to 2.1 % off
    "power": (
        Call(lambda nvml, handle: nvml.nvmlDeviceGetPowerUsage(handle)),
        Field(FieldId.POWER_INSTANT),
    ),
    "temperature": (
        Call(lambda nvml, handle: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        Call(lambda nvml, handle: nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU)),
    ),
    "throttle": (
        Call(lambda nvml, handle: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        Call(lambda nvml, handle: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
    ),
}
"""What changes from second to second; 0.2 ms of a processor in all, on an H100 with driver 580."""

ENERGY: Final[Mapping[str, tuple[Way, ...]]] = {
    # millijoules since the driver was loaded, since Volta
    "energy": (
        Field(FieldId.TOTAL_ENERGY_CONSUMPTION),
        Call(lambda nvml, handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
    ),
}
"""A counter, which loses nothing when it is asked less often: it takes 3.1 to 16 ms of a processor, 4 in the mean, more
than all the rest. The driver waits for an answer of the device's own processor, and waits busily."""

ONCE: Final[Mapping[str, tuple[Way, ...]]] = {
    "max_sm_clock": (Call(lambda nvml, handle: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),),
}
"""What does not change, and takes 2 ms."""

NOW_AND_THEN: Final[Mapping[str, tuple[Way, ...]]] = {
    "power_limit": (Call(lambda nvml, handle: nvml.nvmlDeviceGetEnforcedPowerLimit(handle)),),
    "memory_temperature": (Field(FieldId.MEMORY_TEMP),),
    "ecc_corrected": (
        Field(FieldId.ECC_SBE_VOL_TOTAL),
        Call(
            lambda nvml, handle: nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_VOLATILE_ECC
            )
        ),
    ),
    "ecc_uncorrected": (
        Field(FieldId.ECC_DBE_VOL_TOTAL),
        Call(
            lambda nvml, handle: nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            )
        ),
    ),
    "remapped_pending": (
        Field(FieldId.REMAPPED_PENDING),
        Call(lambda nvml, handle: nvml.nvmlDeviceGetRemappedRows(handle)[2]),
    ),
    # bytes since NVLink 5, before that KiB of data
    "nvlink_tx": (
        Field(FieldId.NVLINK_COUNT_XMIT_BYTES, ALL_LINKS),
        Field(FieldId.NVLINK_THROUGHPUT_DATA_TX, ALL_LINKS, 1024),
    ),
    "nvlink_rx": (
        Field(FieldId.NVLINK_COUNT_RCV_BYTES, ALL_LINKS),
        Field(FieldId.NVLINK_THROUGHPUT_DATA_RX, ALL_LINKS, 1024),
    ),
    "processes": (
        Call(lambda nvml, handle: _processes(nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle))),
        Call(lambda nvml, handle: _processes(nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle))),
    ),
}
"""What changes seldom; 0.5 ms, and 1.5 ms more for NVLink."""

OF_SLICES: Final[Mapping[str, tuple[Way, ...]]] = {
    "memory": EVERY_SECOND["memory"],
    "processes": NOW_AND_THEN["processes"],
}
"""All that a MIG instance has of its own: utilisation, power and energy are not supported on one."""


BLOCKING: Final[Mapping[str, tuple[Way, ...]]] = {
    "pcie_tx_rate": (
        Call(lambda nvml, handle: nvml.nvmlDeviceGetPcieThroughput(handle, nvml.NVML_PCIE_UTIL_TX_BYTES)),
    ),
    "pcie_rx_rate": (
        Call(lambda nvml, handle: nvml.nvmlDeviceGetPcieThroughput(handle, nvml.NVML_PCIE_UTIL_RX_BYTES)),
    ),
}
"""KB/s of PCIe; each measures for 20 ms while its caller waits. The driver's counters of bytes (fields 197 and 198) are
no way around: they have 32 bits, which a GPU that loads a model fills several times a second."""
