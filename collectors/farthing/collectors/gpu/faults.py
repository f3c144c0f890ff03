"""What of a reading cannot be believed: values that no device has, and a utilization that does not move.

What cannot be believed is None and has its name among the reading's faults; it is never averaged in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from farthing.domain.clock import SECOND
from farthing.domain.conventions import FAULT_SENTINEL, FAULT_STUCK_UTILIZATION
from farthing.domain.gpu import MAX_ENERGY_MJ, GpuReading

__all__ = ["StuckUtilization", "believed"]

PLAUSIBLE: Final[dict[str, tuple[float, float]]] = {
    "utilization": (0, 1),
    "memory_utilization": (0, 1),
    "sm_active": (0, 1),
    "tensor_active": (0, 1),
    "dram_active": (0, 1),
    "memory_used_bytes": (0, 2**46),
    "memory_total_bytes": (1, 2**46),
    "power_watts": (0, 20_000),
    "power_limit_watts": (1, 20_000),
    "energy_mj": (0, MAX_ENERGY_MJ),
    "temperature_celsius": (-60, 200),
    "memory_temperature_celsius": (-60, 200),
    "sm_clock_hz": (0, 10**10),
    "memory_clock_hz": (0, 10**11),
    "max_sm_clock_hz": (1, 10**10),
    "ecc_corrected": (0, 2**48),
    "ecc_uncorrected": (0, 2**48),
    "xid": (0, 65_535),
    "xid_count": (0, 2**48),
    "pcie_tx_bytes_per_second": (0, 10**12),
    "pcie_rx_bytes_per_second": (0, 10**12),
    "nvlink_tx_bytes": (0, 2**62),
    "nvlink_rx_bytes": (0, 2**62),
}
"""Field -> the least and the most that a device can have. What drivers and exporters put in the place of "not known"
lies beyond: all bits of 32 or 64 set (NVML_VALUE_NOT_AVAILABLE in nvml.h), DCGM's blanks (dcgm_structs.h:
0x7ffffff0 and above, 0x7ffffffffffffff0 and above, 140737488355328.0 for doubles), and -1.
"""

WORKING_SHARE: Final = 0.5
"""Of its power limit. A device that holds a model and waits draws a fifth (H100) to two fifths (T4, L4) of it."""
WORKING_WATTS: Final = 300.0
"""Where the limit is not known: no device draws as much while it waits."""
WORKING_TIMES: Final = 3.0
"""Where the limit is not known: by the least that the device was seen to draw."""
SAMPLE_SECONDS: Final = 60
"""Two readings that are further apart say nothing about the time between them."""


def believed(reading: GpuReading) -> GpuReading:
    """The reading without values that no device has; with FAULT_SENTINEL among its faults if there were any."""
    wrong: dict[str, Any] = {}
    for name, (least, most) in PLAUSIBLE.items():
        value = getattr(reading, name)
        # written so that a value that is not a number lies outside as well
        if value is not None and not least <= value <= most:
            wrong[name] = None
    used, total = reading.memory_used_bytes, reading.memory_total_bytes
    if used is not None and total is not None and used > total and not wrong.keys() & {"memory_total_bytes"}:
        wrong["memory_used_bytes"] = None
    if not wrong:
        return reading
    return replace(reading, **wrong, faults=reading.faults | {FAULT_SENTINEL})


@dataclass(slots=True)
class StuckUtilization:
    """Tells when a device's utilization stays 0 although its power says that it works.

    It has to stay so for ``stuck_seconds`` of work, counted from the last utilization above 0; from then on until
    the next one it is a fault. A device that works has half of its power limit, or, where no limit is known, 300 W
    or three times the least that it was seen to draw.
    """

    stuck_seconds: float
    _worked_ns: int = 0
    _before_ns: int | None = None
    _least_watts: float | None = None
    stuck: bool = False

    def look(self, reading: GpuReading) -> GpuReading:
        """The reading, without its utilization while that is a fault."""
        working = self._is_working(reading)
        if reading.utilization:
            self._worked_ns, self.stuck = 0, False
        elif reading.utilization == 0 and working and self._before_ns is not None:
            since = reading.at_ns - self._before_ns
            if 0 < since <= SAMPLE_SECONDS * SECOND:
                self._worked_ns += since
            self.stuck = self.stuck or self._worked_ns >= self.stuck_seconds * SECOND
        self._before_ns = reading.at_ns
        if not self.stuck or reading.utilization is None:
            return reading
        return replace(reading, utilization=None, faults=reading.faults | {FAULT_STUCK_UTILIZATION})

    def _is_working(self, reading: GpuReading) -> bool:
        watts = reading.power_watts
        if watts is None:
            return False
        self._least_watts = watts if self._least_watts is None else min(watts, self._least_watts)
        if reading.power_limit_watts is not None:
            return watts >= WORKING_SHARE * reading.power_limit_watts
        return watts >= min(WORKING_WATTS, max(WORKING_TIMES * self._least_watts, 1.0))
