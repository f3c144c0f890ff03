"""Panels about GPUs as devices: how many there are and whose, whether they work, what holds them back or is broken."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import gpu_queries, theme
from farthing.dashboards.links import of_cell, runbook, to_dashboard
from farthing.dashboards.parts import Band, Column, Panel, Query
from farthing.dashboards.scopes import GPUS
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "clocks",
    "device_errors",
    "devices_of_engines",
    "faults",
    "free_cost",
    "free_devices",
    "gpus_known",
    "hardware_errors",
    "links_between",
    "memory_share",
    "power",
    "power_share",
    "sources",
    "temperature",
    "throttling",
    "utilization_dial",
    "utilization_history",
    "utilization_spread",
]

USD: Final = "currencyUSD"
_NAMED: Final = "{{hostname}} {{device}}"
_KEYS: Final = {
    names.LABEL_HOST: "Host",
    names.LABEL_DEVICE: "Device",
    names.LABEL_GPU_MODEL: "GPU",
}
_HISTORY_STEP: Final = "1m"


def gpus_known() -> Panel:
    """How many GPUs there are, and how many of them engines have."""
    return theme.number(
        "GPUs",
        "GPUs that are read, and those of them that an engine has. Fewer read than bought: see the runbook of "
        "LLMGPULost. Fewer had than read: the rest costs money for nobody, and the table of free GPUs names it.",
        "short",
        [Query(gpu_queries.devices(), "read"), Query(gpu_queries.allocated(), "with an engine")],
        decimals=0,
        panel_links=(runbook("LLMGPULost"),),
    )


def utilization_dial() -> Panel:
    """Mean utilisation now, by model of GPU."""
    return theme.dial(
        "Utilisation",
        "Part of the time in which a kernel ran, mean of the chosen devices by kind. It is 100 % while one small "
        "kernel runs: read it with the power, and how much is computed on the Engine dashboard (MFU). Low while "
        "requests wait: see the runbook of LLMGPUIdleWhileQueued.",
        "percentunit",
        [Query(gpu_queries.gauge(names.REC_GPU_UTILIZATION, "avg", (names.LABEL_GPU_MODEL,)), "{{gpu_model}}")],
        full=1,
        bands=(),
        panel_links=(runbook("LLMGPUIdleWhileQueued"), to_dashboard(names.DASHBOARD_ENGINE, "Engine")),
    )


def memory_share(settings: Settings) -> Panel:
    """How full device memory is, by model of GPU."""
    left = settings.alerts.gpu_memory_left_ratio
    return theme.dial(
        "Memory used",
        "Device memory in use of what there is, the chosen devices together. An engine takes its share at the start "
        "and keeps it, so full is usual; in the red the next allocation may fail: lower --gpu-memory-utilization. See "
        "the runbook of LLMGPUMemoryNearlyFull.",
        "percentunit",
        [
            Query(
                gpu_queries.share(names.REC_GPU_MEMORY_USED, names.REC_GPU_MEMORY_TOTAL, (names.LABEL_GPU_MODEL,)),
                "{{gpu_model}}",
            )
        ],
        full=1,
        bands=(Band(1 - left, "broken"),),
        panel_links=(runbook("LLMGPUMemoryNearlyFull"),),
    )


def power_share() -> Panel:
    """How much of their power limit the devices draw, by model of GPU."""
    return theme.dial(
        "Power, of the limit",
        "Power that the chosen devices draw of what their limits allow. High is work, a better sign than utilisation; "
        "a third while utilisation is full: kernels are small or wait for memory.",
        "percentunit",
        [
            Query(
                gpu_queries.share(names.REC_GPU_POWER, names.REC_GPU_POWER_LIMIT, (names.LABEL_GPU_MODEL,)),
                "{{gpu_model}}",
            )
        ],
        full=1,
        bands=(),
    )


def free_cost() -> Panel:
    """What GPUs that no engine has cost per hour."""
    return theme.number(
        "Free GPUs cost per hour",
        "Dollars per hour of GPUs that no engine has. Give them to an engine, or give them back; the table of free "
        "GPUs names them. None: every GPU with a price has an engine.",
        USD,
        [Query(gpu_queries.idle_price())],
        bands=(Band(0.01, "careful"),),
        decimals=2,
        unknown="none",
        panel_links=(to_dashboard(names.DASHBOARD_ECONOMICS, "Token economics"),),
    )


def hardware_errors() -> Panel:
    """Memory errors that could not be corrected and XID errors, in the time range."""
    return theme.number(
        "Hardware errors, in range",
        "Memory errors that could not be corrected, and XID errors of the driver, within the time range. Any is worth "
        "a look: the table of errors names the device; see the runbooks of LLMGPUXid and LLMGPUECCUncorrected.",
        "short",
        [
            Query(gpu_queries.growth(names.REC_GPU_ECC_UNCORRECTED), "ECC"),
            Query(gpu_queries.growth(names.REC_GPU_XID_ERRORS), "XID"),
        ],
        bands=(Band(0.5, "broken"),),
        decimals=0,
        panel_links=(runbook("LLMGPUXid"), runbook("LLMGPUECCUncorrected")),
    )


def utilization_history() -> Panel:
    """Utilisation of every device over time."""
    return theme.history(
        "Utilisation of each GPU",
        "One row a device, bright where it worked. A dark row among bright ones: the router forgets that engine, or "
        "it stands; a row that ends: the device or its agent is gone. Choose a host to see its devices alone.",
        "percentunit",
        Query(gpu_queries.gauge(names.REC_GPU_UTILIZATION, "max", gpu_queries.DEVICE), _NAMED),
        full=1,
        min_step=_HISTORY_STEP,
        panel_links=(runbook("LLMGPUAllocatedIdle"),),
    )


def utilization_spread() -> Panel:
    """How many devices are how busy, over time."""
    return theme.spread(
        "Utilisation, spread over GPUs",
        "How many devices are at which utilisation, however many there are. Two bands, at the bottom and at the top: "
        "part of the fleet works and the rest is paid for; fewer engines would do, or the load is not balanced.",
        "percentunit",
        Query(gpu_queries.gauge(names.REC_GPU_UTILIZATION, "max", gpu_queries.DEVICE), _NAMED),
        full=1,
        panel_links=(to_dashboard(names.DASHBOARD_ECONOMICS, "Token economics"),),
    )


def devices_of_engines() -> Panel:
    """A table of devices that engines have."""
    return theme.listing(
        "GPUs of engines, now",
        "Which engine has which GPU, and how the GPU is. A device is there once for each engine that shares it. Click "
        "on an engine to see what it does with it.",
        {names.LABEL_ENGINE: "Engine", **_KEYS},
        (
            Column("Utilisation", "percentunit", _of_engines(names.REC_GPU_UTILIZATION), decimals=0),
            Column("Memory traffic", "percentunit", _of_engines(names.REC_GPU_MEMORY_UTILIZATION), decimals=0),
            Column("Memory used", "bytes", _of_engines(names.REC_GPU_MEMORY_USED)),
            Column("Memory", "bytes", _of_engines(names.REC_GPU_MEMORY_TOTAL)),
            Column("Power", "watt", _of_engines(names.REC_GPU_POWER), decimals=0),
            Column("Limit", "watt", _of_engines(names.REC_GPU_POWER_LIMIT), decimals=0),
            Column("Temperature", "celsius", _of_engines(names.REC_GPU_TEMPERATURE), decimals=0),
            Column("SM clock", "hertz", _of_engines(names.REC_GPU_SM_CLOCK)),
        ),
        row_links={names.LABEL_ENGINE: of_cell(names.DASHBOARD_ENGINE, "This engine", "instance")},
        footer=False,
    )


def free_devices() -> Panel:
    """A table of devices that no engine has."""
    return theme.listing(
        "GPUs that no engine has, now",
        "They cost what stands there, for nobody. Memory in use or power as of one that works: something runs on it "
        "that Farthing was not told of; name it under engines in farthing.yaml. Empty: none is free, or none has a "
        "price.",
        _KEYS,
        (
            Column("Per hour", USD, gpu_queries.of_idle(GPUS.now(names.METRIC_GPU_UNALLOCATED)), decimals=2),
            Column("Utilisation", "percentunit", _of_free(names.REC_GPU_UTILIZATION), decimals=0),
            Column("Memory used", "bytes", _of_free(names.REC_GPU_MEMORY_USED)),
            Column("Power", "watt", _of_free(names.REC_GPU_POWER), decimals=0),
        ),
    )


def power() -> Panel:
    """Power of each device against its limit."""
    return theme.over_time(
        "Power and its limit",
        "Watts that each device draws, and the limit at which its clocks are lowered. At the limit a busy device "
        "belongs; well below its neighbours at equal load it is throttled or starved. See the runbook of "
        "LLMGPUPowerThrottling.",
        "watt",
        [
            Query(gpu_queries.gauge(names.REC_GPU_POWER, "max", gpu_queries.DEVICE), _NAMED),
            Query(
                gpu_queries.gauge(names.REC_GPU_POWER_LIMIT, "min", (names.LABEL_GPU_MODEL,)), "limit of {{gpu_model}}"
            ),
        ],
        panel_links=(runbook("LLMGPUPowerThrottling"),),
    )


def throttling() -> Panel:
    """How many devices are held back, by reason."""
    return theme.over_time(
        "GPUs whose clocks are held down, by reason",
        "Number of devices. power: at the limit, as under full load. thermal: too hot, see to the cooling. hardware: "
        "the board protects itself, look for its supply. settings: somebody set clocks or limits. A GPU that idles is "
        "not counted. See the runbooks of LLMGPUThermalThrottling and LLMGPUPowerThrottling.",
        "short",
        [Query(gpu_queries.throttled(), "{{reason}}")],
        stacked=True,
        panel_links=(runbook("LLMGPUThermalThrottling"), runbook("LLMGPUPowerThrottling")),
    )


def clocks() -> Panel:
    """Clocks of multiprocessors and memory."""
    return theme.over_time(
        "Clocks",
        "Clock of the multiprocessors of each device, and of its memory by kind. Lower than its neighbours' at equal "
        "load: look at the reasons beside. Every token takes longer in proportion.",
        "hertz",
        [
            Query(gpu_queries.gauge(names.REC_GPU_SM_CLOCK, "max", gpu_queries.DEVICE), f"{_NAMED} SM"),
            Query(
                gpu_queries.gauge(names.REC_GPU_MEMORY_CLOCK, "min", (names.LABEL_GPU_MODEL,)), "{{gpu_model}} memory"
            ),
        ],
    )


def temperature() -> Panel:
    """Temperature of each device and of its memory."""
    return theme.over_time(
        "Temperature",
        "Of each device, and of the hottest memory by host where it is told. Rising at steady power: fans, filters or "
        "coolant. From some 85 °C on clocks are lowered. See the runbook of LLMGPUThermalThrottling.",
        "celsius",
        [
            Query(gpu_queries.gauge(names.REC_GPU_TEMPERATURE, "max", gpu_queries.DEVICE), _NAMED),
            Query(
                gpu_queries.gauge(names.REC_GPU_MEMORY_TEMPERATURE, "max", (names.LABEL_HOST,)), "{{hostname}} memory"
            ),
        ],
        panel_links=(runbook("LLMGPUThermalThrottling"),),
    )


def links_between() -> Panel:
    """Traffic over PCIe and NVLink."""
    return theme.over_time(
        "Traffic over PCIe and NVLink",
        "Bytes per second both ways, by host. PCIe high on an engine of one GPU: the KV cache is moved to the host "
        "and back. NVLink is tensor parallelism and the transfer between prefill and decode; none where it should be: "
        "the engine goes over PCIe, look at its start log.",
        "Bps",
        [
            Query(gpu_queries.gauge(names.REC_GPU_PCIE, "sum", (names.LABEL_HOST,)), "{{hostname}} PCIe"),
            Query(gpu_queries.gauge(names.REC_GPU_NVLINK, "sum", (names.LABEL_HOST,)), "{{hostname}} NVLink"),
        ],
    )


def device_errors() -> Panel:
    """A table of errors by device."""
    return theme.listing(
        "Errors of each GPU, in range",
        "Corrected memory errors are harmless until they become frequent; uncorrected ones lose data, and the process "
        "with it. The last XID stays until another comes: 13, 31 and 43 are the program's, 48, 63, 64, 74, 79 and 95 "
        "the hardware's. See the runbooks of LLMGPUXid and LLMGPUECCUncorrected.",
        _KEYS,
        (
            Column("XID", "short", gpu_queries.growth(names.REC_GPU_XID_ERRORS, gpu_queries.DEVICE), decimals=0),
            Column("Last XID", "none", gpu_queries.gauge(names.REC_GPU_LAST_XID, "max", gpu_queries.DEVICE)),
            Column(
                "ECC uncorrected",
                "short",
                gpu_queries.growth(names.REC_GPU_ECC_UNCORRECTED, gpu_queries.DEVICE),
                (Band(0.5, "broken"),),
                decimals=0,
            ),
            Column(
                "ECC corrected",
                "short",
                gpu_queries.growth(names.REC_GPU_ECC_CORRECTED, gpu_queries.DEVICE),
                decimals=0,
            ),
        ),
        panel_links=(runbook("LLMGPUXid"), runbook("LLMGPUApplicationXid"), runbook("LLMGPUECCUncorrected")),
        footer=False,
    )


def sources() -> Panel:
    """Which sources of readings answer."""
    return theme.verdicts(
        "Sources of readings",
        "Whether each source answered last time: the driver (nvml), the processors, exporters by their address. "
        "Broken: its devices have no readings since, and energy goes on from where its counter is; see "
        "LLMGPUTelemetryDown.",
        [Query(gpu_queries.sources(), "{{source}}")],
        panel_links=(runbook("LLMGPUTelemetryDown"),),
    )


def faults() -> Panel:
    """How many devices tell what cannot be true, by fault."""
    return theme.number(
        "Devices that cannot be believed",
        "Devices whose telemetry is at fault now, by fault: utilisation stuck at 0 while power says work, a value "
        "that no device has, an energy counter that went back. What is wrong is left out of every other panel. See "
        "the runbook of LLMGPUTelemetryStuck.",
        "short",
        [Query(gpu_queries.faults(), "{{fault}}")],
        bands=(Band(1, "broken"),),
        decimals=0,
        unknown="none",
        panel_links=(runbook("LLMGPUTelemetryStuck"),),
    )


def _of_engines(record: str) -> str:
    return gpu_queries.of_allocated(record)


def _of_free(record: str) -> str:
    return gpu_queries.of_idle(GPUS.now(record))
