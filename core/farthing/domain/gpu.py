"""What is known of a GPU at a moment, in base units, whoever told it; and what of that the books keep.

A reading that a source does not give, or gives as a sentinel, is None: it is never 0 and never averaged in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from farthing.domain.records import RecordKey

__all__ = [
    "COUNTER",
    "CPU",
    "DEVICE_KINDS",
    "ENERGY_METHODS",
    "ENERGY_SHARE",
    "GPU",
    "INTEGRATED",
    "MAX_ENERGY_MJ",
    "MIG",
    "NO_ENERGY",
    "SLICE_SEPARATOR",
    "THROTTLE_BOARD",
    "THROTTLE_IDLE",
    "THROTTLE_OTHER",
    "THROTTLE_POWER",
    "THROTTLE_REASONS",
    "THROTTLE_SETTINGS",
    "THROTTLE_THERMAL",
    "DeviceSamples",
    "GpuReading",
]

GPU: Final = "gpu"
MIG: Final = "mig"
CPU: Final = "cpu"
DEVICE_KINDS: Final = (GPU, MIG, CPU)
"""A whole GPU, a slice of one, and the processor package of an engine without a GPU."""

MAX_ENERGY_MJ: Final = 2**56
"""A counter is believed as far: 2,000 years of 1 kW. A value above it stands for "not known"."""
SLICE_SEPARATOR: Final = "/"
"""Between a GPU's UUID and the number of a slice, where a source gives slices no UUID of their own."""

COUNTER: Final = "counter"
INTEGRATED: Final = "integrated"
ENERGY_SHARE: Final = "share"
NO_ENERGY: Final = "none"
ENERGY_METHODS: Final = (COUNTER, INTEGRATED, ENERGY_SHARE, NO_ENERGY)
"""How energy is known: the device's own counter, power times time, a slice's part of its GPU's, or not at all."""

THROTTLE_POWER: Final = "power"
THROTTLE_THERMAL: Final = "thermal"
THROTTLE_BOARD: Final = "hardware"
THROTTLE_SETTINGS: Final = "settings"
THROTTLE_IDLE: Final = "idle"
THROTTLE_OTHER: Final = "other"
THROTTLE_REASONS: Final = (
    THROTTLE_POWER,
    THROTTLE_THERMAL,
    THROTTLE_BOARD,
    THROTTLE_SETTINGS,
    THROTTLE_IDLE,
    THROTTLE_OTHER,
)
"""Why clocks are below their highest: the power limit, heat, the board's own protection (power brake, hardware
slowdown), clocks that somebody set, no work, anything else. Idle is no fault."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One device at a moment. Ratios are 0 to 1, everything else is in base units; None is unknown."""

    uuid: str
    """As the driver spells it: ``GPU-…``, ``MIG-…``; for others whatever is unique and lasts."""
    at_ns: int
    """UTC nanoseconds of the reading."""
    source: str
    """``nvml``, ``dcgm``, ``amd``, ``nvidia_smi``, ``xpum``, ``rapl``."""
    host: str = ""
    index: int | None = None
    """The driver's number of the device on its host; it may change with a reboot."""
    name: str = ""
    """Device name as its driver gives it, e.g. ``NVIDIA H100 80GB HBM3``."""
    kind: str = GPU
    parent: str = ""
    """UUID of the GPU that a MIG instance is a slice of."""
    profile: str = ""
    """Of a MIG instance, e.g. ``1g.10gb``."""
    pod: str = ""
    """``namespace/pod`` that the device is allocated to, where the source is told by Kubernetes."""
    utilization: float | None = None
    """Part of the sample period in which a kernel ran, whatever it did."""
    memory_utilization: float | None = None
    """Part of the sample period in which device memory was read or written."""
    sm_active: float | None = None
    tensor_active: float | None = None
    dram_active: float | None = None
    """Of profiling counters, where a source has them."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_mj: int | None = None
    """Millijoules by the device's counter, since the driver was loaded. A source whose counter is dear to ask leaves it
    out of some readings, of seven in a row at most."""
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    sm_clock_hz: int | None = None
    memory_clock_hz: int | None = None
    max_sm_clock_hz: int | None = None
    throttle: frozenset[str] | None = None
    """Of THROTTLE_REASONS; empty: none of those that are told. None: unknown."""
    throttle_told: frozenset[str] = frozenset(THROTTLE_REASONS)
    """The reasons of which the source says whether they hold clocks down; of no meaning where it says it of none."""
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    """Errors since the driver was loaded."""
    remapped_rows_pending: bool | None = None
    xid: int | None = None
    """The last XID error; 0: its source says that there was none. None: none yet, or unknown."""
    xid_count: int | None = None
    """XID errors since the source began to listen; None where it only tells the last one."""
    pcie_tx_bytes_per_second: float | None = None
    pcie_rx_bytes_per_second: float | None = None
    nvlink_tx_bytes: int | None = None
    nvlink_rx_bytes: int | None = None
    """Since the driver was loaded, over all links."""
    processes: tuple[tuple[int, int | None], ...] = ()
    """(process id in the host's namespace, bytes of device memory)."""
    faults: frozenset[str] = frozenset()
    """Of conventions.FAULTS, what the source showed that cannot be believed; the values are left out (None)."""


@dataclass(frozen=True, slots=True)
class DeviceSamples:
    """What the inbox keeps of a device: that it was there, and its energy. Columns have one length.

    ``key.boot`` is DEVICE_BOOT + uuid + "/" + the UTC nanoseconds at which its collector began. Unlike other
    records' times these are UTC.
    """

    key: RecordKey
    uuid: str
    name: str
    host: str
    index: int
    """-1: unknown."""
    source: str
    method: str
    """Of ENERGY_METHODS."""
    at_ns: tuple[int, ...]
    energy_mj: tuple[int, ...]
    """Cumulative millijoules; all 0 where ``method`` is none. A value below the one before: the counter began anew."""
    parent: str = ""
    profile: str = ""
    pod: str = ""
    kind: str = GPU
    """Of DEVICE_KINDS."""
