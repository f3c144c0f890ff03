"""The meaning of every metric of GPUs and of energy; ``metric_reference`` has them in its table."""

from __future__ import annotations

from typing import Final

from farthing.domain import conventions as names
from farthing.domain.metric_entry import Metric

__all__ = ["DEVICE", "DEVICE_METRICS", "ENERGY_METRICS"]

DEVICE: Final = (names.LABEL_UUID, names.LABEL_HOST, names.LABEL_DEVICE, names.LABEL_GPU_MODEL)
"""Labels of every series of a device; ``device`` is empty where nobody numbers it."""
ENGINE: Final = (names.LABEL_ENGINE,)
TENANT: Final = (names.LABEL_TENANT, names.LABEL_MODEL, names.LABEL_TIER)


DEVICE_METRICS: Final = (
    Metric(
        names.METRIC_GPU_INFO,
        "info",
        "1",
        (
            *DEVICE,
            names.LABEL_KIND,
            names.LABEL_SOURCE,
            names.LABEL_PARENT,
            names.LABEL_PROFILE,
            names.LABEL_POD,
        ),
        "Always 1; what the device is (gpu, mig or cpu), who reads it (nvml, dcgm ...), the GPU and profile of a "
        "MIG slice, and the pod that Kubernetes gave it to. As all of a device's series it ends when readings do.",
    ),
    Metric(
        names.METRIC_GPU_ENGINE,
        "info",
        "1",
        (*DEVICE, names.LABEL_ENGINE),
        "Always 1; the engine that runs on the device, as its probe, its pod or the settings say.",
    ),
    Metric(
        names.METRIC_GPU_UTILIZATION,
        "gauge",
        "ratio",
        DEVICE,
        "Part of the driver's sample period in which a kernel ran, 0-1; absent while it is a fault.",
    ),
    Metric(
        names.METRIC_GPU_MEMORY_UTILIZATION,
        "gauge",
        "ratio",
        DEVICE,
        "Part of the driver's sample period in which device memory was read or written, 0-1.",
    ),
    Metric(names.METRIC_GPU_MEMORY_USED, "gauge", "bytes", DEVICE, "Device memory in use."),
    Metric(names.METRIC_GPU_MEMORY_TOTAL, "gauge", "bytes", DEVICE, "Device memory."),
    Metric(names.METRIC_GPU_POWER, "gauge", "watts", DEVICE, "Power that the device draws."),
    Metric(names.METRIC_GPU_POWER_LIMIT, "gauge", "watts", DEVICE, "Power at which the driver lowers clocks."),
    Metric(
        names.METRIC_GPU_ENERGY,
        "counter",
        "joules",
        (*DEVICE, names.LABEL_METHOD),
        "Energy since Farthing began to read the device; it goes on where the driver's counter began anew, or another "
        "source took over. Each method's part; they add up: counter (the driver's), integrated (power times time), "
        "share (a MIG slice's part of its GPU's, estimated).",
    ),
    Metric(names.METRIC_GPU_TEMPERATURE, "gauge", "celsius", DEVICE, "Temperature of the GPU."),
    Metric(names.METRIC_GPU_MEMORY_TEMPERATURE, "gauge", "celsius", DEVICE, "Temperature of its memory."),
    Metric(names.METRIC_GPU_SM_CLOCK, "gauge", "hertz", DEVICE, "Clock of the streaming multiprocessors."),
    Metric(names.METRIC_GPU_MAX_SM_CLOCK, "gauge", "hertz", DEVICE, "The highest that it may be."),
    Metric(names.METRIC_GPU_MEMORY_CLOCK, "gauge", "hertz", DEVICE, "Clock of the memory."),
    Metric(
        names.METRIC_GPU_THROTTLED,
        "gauge",
        "1",
        (*DEVICE, names.LABEL_REASON),
        "1 while clocks are held down, by reason: power, thermal, hardware (the board's own protection), settings, "
        "idle (no fault), other; 0 while not, absent where the source does not tell.",
    ),
    Metric(
        names.METRIC_GPU_ECC,
        "counter",
        "errors",
        (*DEVICE, names.LABEL_KIND),
        "Memory errors since the driver was loaded, by kind: corrected or uncorrected.",
    ),
    Metric(
        names.METRIC_GPU_XID,
        "counter",
        "errors",
        DEVICE,
        "XID errors since the source began to listen; absent where it only tells the last one.",
    ),
    Metric(
        names.METRIC_GPU_LAST_XID,
        "gauge",
        "1",
        DEVICE,
        "Code of the device's last XID error, 0 before the first; it stays, so look for changes.",
    ),
    Metric(
        names.METRIC_GPU_PCIE,
        "gauge",
        "bytes per second",
        (*DEVICE, names.LABEL_DIRECTION),
        "PCIe throughput, by direction (tx leaves the device), as the driver measures it over 20 ms.",
    ),
    Metric(
        names.METRIC_GPU_NVLINK,
        "counter",
        "bytes",
        (*DEVICE, names.LABEL_DIRECTION),
        "Bytes over all NVLinks since the driver was loaded, by direction.",
    ),
    Metric(
        names.METRIC_GPU_PROCESS_MEMORY,
        "gauge",
        "bytes",
        (*DEVICE, names.LABEL_PID),
        "Device memory of a process, by its id in the host's namespace.",
    ),
    Metric(
        names.METRIC_GPU_FAULT,
        "gauge",
        "1",
        (*DEVICE, names.LABEL_FAULT),
        "1 while a device's telemetry cannot be believed: utilization_stuck_at_zero (power says that it works), "
        "sentinel (a value that no device has), energy_counter_went_back. What is wrong is absent, never averaged in.",
    ),
    Metric(
        names.METRIC_GPU_SOURCE_UP,
        "gauge",
        "1",
        (names.LABEL_SOURCE,),
        "1 when the source of readings answered last time, 0 when it failed.",
    ),
    Metric(
        names.METRIC_GPU_UNALLOCATED,
        "gauge",
        "USD per hour",
        DEVICE,
        "What a GPU that no engine has costs now; absent where it has no price.",
    ),
    Metric(
        names.METRIC_GPU_WAITING,
        "gauge",
        "records",
        (),
        "Records of devices that wait to be stored, or on another host for delivery.",
    ),
    Metric(
        names.METRIC_GPU_DROPPED,
        "counter",
        "records",
        (),
        "Records of devices that could not wait any longer or were refused, since the process began. Energies are "
        "cumulative: what was used is still known, only not when.",
    ),
)
"""What is read of devices, each absent where its source does not tell."""

ENERGY_METRICS: Final = (
    Metric(
        names.METRIC_PHASE_ENERGY,
        "counter",
        "joules",
        (*ENGINE, names.LABEL_ACCOUNT, names.LABEL_PHASE, names.LABEL_METHOD),
        "Energy of what is settled, as its cost is: by account, phase and method; estimated where power was integrated "
        "or a MIG slice was given its part. Without what is unattributed, which late records take away.",
    ),
    Metric(
        names.METRIC_TENANT_ENERGY,
        "counter",
        "joules",
        TENANT,
        "Energy of a tenant's settled work; tenants beyond the largest are together under other.",
    ),
    Metric(
        names.METRIC_ENERGY_PER_TOKEN,
        "gauge",
        "joules per token",
        (*ENGINE, names.LABEL_PHASE),
        "Energy of a phase by the tokens that the engine processed in it (computed prompt tokens, output tokens, "
        "encoder tokens), over its last five minutes of work whose energy is known.",
    ),
    Metric(
        names.METRIC_CARBON,
        "counter",
        "grams",
        ENGINE,
        "Carbon dioxide equivalent of the engine's energy: its joules with the building's share (PUE), at the grid's "
        "intensity; absent without one.",
    ),
    Metric(
        names.METRIC_ENERGY_COST,
        "counter",
        "USD",
        ENGINE,
        "What the engine's energy costs by tariff and PUE, for information: of rented GPUs it is in their price; "
        "absent without a tariff.",
    ),
)
"""Energy joined to engines and tokens, from the books."""
