"""A pynvml without a driver, which answers what real ones were recorded to say.

Errors, structures and constants are nvidia-ml-py's own. What changes comes from a recording's ``nvml.jsonl.gz``, the
rest from a capture of the same GPU (tests/fixtures/nvml). How MIG instances answer is NVML's documentation: there was
no GPU in MIG mode to capture.
"""

# ruff: noqa: N802, N803  # the names are NVML's

import ctypes
import gzip
import json
import queue
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

from farthing.replay.recording import PACKAGED

CAPTURES = Path(__file__).parents[2] / "fixtures/nvml"
FIELDS = {
    getattr(pynvml, name): name.removeprefix("NVML_FI_DEV_") for name in dir(pynvml) if name.startswith("NVML_FI_")
}
RECORDED_FIELDS = {"TOTAL_ENERGY_CONSUMPTION": "e_mj", "POWER_INSTANT": "p_mw"}
CONSTANTS = ("NVML", "nvmlClocks", "nvmlEventType", "nvmlMemory_v")


def capture(name="h100-driver580", index=0):
    """What one captured GPU answered."""
    return json.loads((CAPTURES / f"{name}.json").read_text())["devices"][index]


def samples(recording):
    """The device of a recording, and its samples in the order of their time."""
    with gzip.open(PACKAGED / recording / "nvml.jsonl.gz", "rt", encoding="utf-8") as lines:
        device, *rows = map(json.loads, lines)
    return device, rows


@dataclass
class FakeSlice:
    """A MIG instance."""

    uuid: str
    profile: str = "1g.10gb"
    named: bool = True
    """Whether the driver puts the profile into the name."""
    slices: int = 1
    computes: int = 1
    memory_mib: int = 9856
    used: int = 1 << 30
    processes: tuple[tuple[int, int | None], ...] = ()
    errors: dict[str, int] = field(default_factory=dict)


@dataclass
class FakeGpu:
    """A GPU whose row of a recording is ``row``; ``errors`` and ``answers`` by name of function or field come first."""

    row: dict[str, Any]
    captured: dict[str, Any] = field(default_factory=capture)
    name: str = ""
    uuid: str = ""
    limit_mw: int = 700_000
    errors: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    processes: tuple[tuple[int, int | None], ...] = ()
    slices: list[FakeSlice] = field(default_factory=list)
    mig: bool = False

    def __post_init__(self):
        self.name = self.name or self.captured["name"]
        self.uuid = self.uuid or self.captured["uuid"]

    def was(self, call):
        """What a captured call returned."""
        return self.captured["calls"][call]["value"]

    @property
    def total(self):
        return self.was("nvmlDeviceGetMemoryInfo(33554472)")[1]

    @property
    def reserved(self):
        """What the driver keeps for itself, which its first memory call counts as used."""
        return self.was("nvmlDeviceGetMemoryInfo()")[0] - self.was("nvmlDeviceGetMemoryInfo(33554472)")[0]


class FakeNvml:
    """The module. ``calls`` counts every call; ``missing`` are symbols that the driver's library does not have."""

    def __init__(self, *gpus, missing=(), init_error=None):
        self.gpus = list(gpus)
        self.missing = set(missing)
        self.init_error = init_error
        self.count_error = None
        self.calls: Counter[str] = Counter()
        self.fields: Counter[str] = Counter()
        self.events: queue.Queue[Any] = queue.Queue()
        self.sets: dict[object, list[tuple[str, int]]] = {}
        self._ready = False
        self._enumerated: list[FakeGpu] = []
        self._things: dict[int | None, Any] = {}

    def __getattr__(self, name):
        if name.startswith(CONSTANTS):
            return getattr(pynvml, name)
        raise AttributeError(f"module 'pynvml' as faked has no attribute {name!r}")

    # ---- what a test does to the host
    def unload(self):
        """As when the driver is reloaded: nothing that was opened is valid."""
        self._ready = False
        self.sets.clear()

    def xid(self, gpu, number, kind=pynvml.nvmlEventTypeXidCriticalError):
        """An error of a GPU, for those who wait."""
        data = pynvml.c_nvmlEventData_t()
        data.device, data.eventType, data.eventData = self._handle(gpu), kind, number
        self.events.put(data)

    # ---- the library
    def nvmlInit(self):
        self.calls["nvmlInit"] += 1
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)
        self._ready = True
        self._enumerated = list(self.gpus)

    def nvmlShutdown(self):
        self._call("nvmlShutdown")
        self._ready = False

    def nvmlDeviceGetCount(self):
        self._call("nvmlDeviceGetCount")
        return len(self._enumerated)

    def nvmlDeviceGetHandleByIndex(self, index):
        self._call("nvmlDeviceGetHandleByIndex")
        gpu = self._enumerated[index]
        self._raise(gpu, "nvmlDeviceGetHandleByIndex")
        return self._handle(gpu)

    def nvmlDeviceGetUUID(self, handle):
        return self._thing("nvmlDeviceGetUUID", handle).uuid

    def nvmlDeviceGetName(self, handle):
        thing = self._thing("nvmlDeviceGetName", handle)
        if isinstance(thing, FakeSlice):
            return f"NVIDIA H100 80GB HBM3 MIG {thing.profile}" if thing.named else "NVIDIA H100 80GB HBM3"
        return thing.name

    def nvmlDeviceGetUtilizationRates(self, handle):
        gpu = self._gpu("nvmlDeviceGetUtilizationRates", handle)
        if gpu.mig:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        rates = pynvml.c_nvmlUtilization_t()
        rates.gpu, rates.memory = gpu.answers.get("nvmlDeviceGetUtilizationRates", (gpu.row["gpu"], gpu.row["memu"]))
        return rates

    def nvmlDeviceGetClockInfo(self, handle, type):  # noqa: A002
        gpu = self._gpu("nvmlDeviceGetClockInfo", handle)
        return gpu.row["sm"] if type == pynvml.NVML_CLOCK_SM else gpu.was(f"nvmlDeviceGetClockInfo({type})")

    def nvmlDeviceGetMaxClockInfo(self, handle, type):  # noqa: A002
        return self._gpu("nvmlDeviceGetMaxClockInfo", handle).was(f"nvmlDeviceGetMaxClockInfo({type})")

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        symbol = "nvmlDeviceGetMemoryInfo_v2" if version else "nvmlDeviceGetMemoryInfo"
        thing = self._thing(symbol, handle)
        memory = pynvml.c_nvmlMemory_v2_t() if version else pynvml.c_nvmlMemory_t()
        if isinstance(thing, FakeSlice):
            memory.used, memory.total = thing.used, thing.memory_mib << 20
        else:
            memory.total = thing.total
            memory.used = max(0, thing.row["mem"] - thing.reserved) if version else thing.row["mem"]
            memory.used = thing.answers.get("nvmlDeviceGetMemoryInfo", memory.used)
        return memory

    def nvmlDeviceGetPowerUsage(self, handle):
        gpu = self._gpu("nvmlDeviceGetPowerUsage", handle)
        return gpu.answers.get("nvmlDeviceGetPowerUsage", gpu.row["p_mw"])

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._gpu("nvmlDeviceGetTotalEnergyConsumption", handle).row["e_mj"]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._gpu("nvmlDeviceGetEnforcedPowerLimit", handle).limit_mw

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return self._gpu("nvmlDeviceGetTemperature", handle).row["temp"]

    def nvmlDeviceGetTemperatureV(self, handle, sensor, version=pynvml.nvmlTemperature_v1):
        return self._gpu("nvmlDeviceGetTemperatureV", handle).row["temp"]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._gpu("nvmlDeviceGetCurrentClocksEventReasons", handle).row["thr"]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self._gpu("nvmlDeviceGetCurrentClocksThrottleReasons", handle).row["thr"]

    def nvmlDeviceGetTotalEccErrors(self, handle, errorType, counterType):
        gpu = self._gpu("nvmlDeviceGetTotalEccErrors", handle)
        return gpu.was(f"nvmlDeviceGetTotalEccErrors({errorType}, {counterType})")

    def nvmlDeviceGetRemappedRows(self, device):
        gpu = self._gpu("nvmlDeviceGetRemappedRows", device)
        return (0, 0, gpu.was("nvmlDeviceGetRemappedRows()"), 0)

    def nvmlDeviceGetPcieThroughput(self, device, counter):
        return self._gpu("nvmlDeviceGetPcieThroughput", device).was(f"nvmlDeviceGetPcieThroughput({counter})")

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle):
        return self._processes("nvmlDeviceGetComputeRunningProcesses_v3", handle)

    def nvmlDeviceGetComputeRunningProcesses_v2(self, handle):
        return self._processes("nvmlDeviceGetComputeRunningProcesses_v2", handle)

    def nvmlDeviceGetFieldValues(self, handle, fieldIds):
        gpu = self._gpu("nvmlDeviceGetFieldValues", handle)
        values = (pynvml.c_nvmlFieldValue_t * len(fieldIds))()
        for value, (field_id, scope) in zip(values, fieldIds, strict=True):
            name = FIELDS[field_id]
            self.fields[name] += 1
            said = gpu.captured["fields"].get(name, {"return": pynvml.NVML_ERROR_NOT_SUPPORTED, "type": 0, "value": 0})
            value.fieldId, value.scopeId = field_id, scope
            value.nvmlReturn = gpu.errors.get(name, said["return"])
            value.valueType = said["type"]
            value.value.ullVal = gpu.answers.get(name, gpu.row.get(RECORDED_FIELDS.get(name), said["value"]))
        return values

    def nvmlDeviceGetMigMode(self, device):
        return [int(self._gpu("nvmlDeviceGetMigMode", device).mig)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, device):
        return 7 if self._gpu("nvmlDeviceGetMaxMigDeviceCount", device).mig else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device, index):
        gpu = self._gpu("nvmlDeviceGetMigDeviceHandleByIndex", device)
        if index >= len(gpu.slices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self._handle(gpu.slices[index])

    def nvmlDeviceGetAttributes_v2(self, device):
        part = self._thing("nvmlDeviceGetAttributes_v2", device)
        return pynvml.c_nvmlDeviceAttributes(
            gpuInstanceSliceCount=part.slices, computeInstanceSliceCount=part.computes, memorySizeMB=part.memory_mib
        )

    def nvmlEventSetCreate(self):
        self._call("nvmlEventSetCreate")
        event_set = object()
        self.sets[event_set] = []
        return event_set

    def nvmlDeviceRegisterEvents(self, handle, eventTypes, eventSet):
        gpu = self._gpu("nvmlDeviceRegisterEvents", handle)
        self.sets[eventSet].append((gpu.uuid, eventTypes))

    def nvmlEventSetWait_v2(self, eventSet, timeoutms):
        self._call("nvmlEventSetWait_v2")
        try:
            event = self.events.get(timeout=timeoutms / 1000)
        except queue.Empty:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT) from None
        if isinstance(event, int):
            raise pynvml.NVMLError(event)
        return event

    def nvmlEventSetFree(self, eventSet):
        self._call("nvmlEventSetFree")
        if self.sets.pop(eventSet, None) is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)

    # ---- how it works
    def _call(self, name):
        self.calls[name] += 1
        if not self._ready:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        if name in self.missing:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    def _raise(self, thing, name):
        error = thing.errors.get(name, thing.errors.get("*"))
        if error is not None:
            raise pynvml.NVMLError(error)

    def _thing(self, name, handle):
        self._call(name)
        thing = self._things[ctypes.cast(handle, ctypes.c_void_p).value]
        self._raise(thing, name)
        return thing

    def _gpu(self, name, handle):
        thing = self._thing(name, handle)
        if isinstance(thing, FakeSlice):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return thing

    def _processes(self, name, handle):
        thing = self._thing(name, handle)
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in thing.processes]

    def _handle(self, thing):
        address = next((at for at, known in self._things.items() if known is thing), None)
        if address is None:
            address = 0x1000 * (len(self._things) + 1)
            self._things[address] = thing
        return ctypes.cast(ctypes.c_void_p(address), pynvml.c_nvmlDevice_t)
