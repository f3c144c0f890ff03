"""NVIDIA's devices on this host, through the library of their driver (NVML).

Needs nvidia-ml-py and nothing else beside ``farthing.domain``, and no root. What a device, a driver or a user may not
ask for is None in its readings, is found out once, and is not asked again until NVML is initialised again.
"""

from __future__ import annotations

import importlib
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from farthing.collectors.gpu.nvml_device import NVML, Device, Identity, Slice
from farthing.collectors.gpu.nvml_events import XidWatch
from farthing.collectors.gpu.nvml_queries import DRIVER_GONE, Code
from farthing.domain.clock import SECOND
from farthing.domain.errors import GpuError
from farthing.domain.gpu import GpuReading

__all__ = ["NvmlOptions", "NvmlSource"]

_log = logging.getLogger(__name__)

_REMEDIES: Final = {
    Code.LIBRARY_NOT_FOUND: "no NVIDIA driver on this host (libnvidia-ml.so.1 is not found); install the driver, or "
    "give the container its library (NVIDIA_DRIVER_CAPABILITIES=utility)",
    Code.DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded; load it (modprobe nvidia) and see what nvidia-smi says",
    Code.NO_PERMISSION: "no permission to use the NVIDIA driver; let this user read and write /dev/nvidiactl and "
    "/dev/nvidia0, /dev/nvidia1, …",
    Code.LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was upgraded, but the old one is still loaded or was when this "
    "process began; reboot or reload the driver, then start Farthing again",
    Code.FUNCTION_NOT_FOUND: "the NVIDIA driver is too old; upgrade it to R450 or later",
}
_MOST_ENERGY_NS: Final = 8 * SECOND
_PROC: Final = Path("/proc/driver/nvidia/gpus")
_MIG_NAME: Final = re.compile(r"\bMIG (\S+)$")


@dataclass(frozen=True, slots=True)
class NvmlOptions:
    """How often what is asked for."""

    rescan_ns: int = 10 * SECOND
    """How often devices that appear or come back are looked for, and MIG instances."""
    seldom_ns: int = 10 * SECOND
    """How often the driver is asked for what changes seldom: limits, ECC, NVLink, processes, PCIe."""
    energy_ns: int = 4 * SECOND
    """How often a device's energy counter is asked, with few devices; with more, once in as many seconds as there
    are devices, up to 8. It loses nothing between, and takes 3 to 5 ms of a processor."""
    blocking_pcie: bool = False
    """Measure PCIe throughput: 40 ms of waiting for a device, each time."""
    xid_events: bool = True
    """Listen for XID errors, in a thread."""


class NvmlSource:
    """Reads every GPU and MIG instance of this host."""

    def __init__(
        self,
        nvml: Any = None,
        host: str | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        *,
        options: NvmlOptions | None = None,
        proc: Path = _PROC,
    ) -> None:
        """``nvml``: the module pynvml, imported where it is None; ``proc``: where the kernel lists bound GPUs.

        Raises GpuError when nvidia-ml-py is not installed. The driver is first needed by ``read``.
        """
        self._nvml = nvml if nvml is not None else _bindings()
        self._host = socket.gethostname() if host is None else host
        self._clock_ns = clock_ns
        self._options = options or NvmlOptions()
        self._proc = proc
        self._watch = XidWatch(self._nvml) if self._options.xid_events else None
        self._ready = False
        self._scanned_ns = 0
        self._there: tuple[int, frozenset[str]] = (0, frozenset())
        """How many devices NVML had when it was initialised, and which the kernel had."""
        self._devices: dict[int, Device] = {}
        self._lost: set[str] = set()

    @property
    def name(self) -> str:
        """What messages call it."""
        return NVML

    def read(self) -> list[GpuReading]:
        """The devices that are there now, each GPU before its MIG instances; a lost one is not in it.

        Raises GpuError when there is no driver, or this user may not use it.
        """
        try:
            try:
                return self._read()
            except self._nvml.NVMLError as error:
                if error.value not in DRIVER_GONE or not self._ready:
                    raise
                _log.warning("nvml: the driver went away (%s); initialising again", error)
                self._shut_down()
                return self._read()
        except self._nvml.NVMLError as error:
            self._shut_down()
            raise self._as_gpu_error(error) from error

    def close(self) -> None:
        """Give back what NVML holds; may be called twice, and ``read`` begins anew."""
        self._shut_down()

    def _read(self) -> list[GpuReading]:
        now_ns = self._clock_ns()
        if not self._ready:
            self._initialise(now_ns)
        elif not 0 <= now_ns - self._scanned_ns < self._options.rescan_ns:
            self._rescan(now_ns)
        readings: list[GpuReading] = []
        for device in list(self._devices.values()):
            readings.extend(self._readings(device))
        return readings

    def _readings(self, device: Device) -> Iterator[GpuReading]:
        identity = device.identity
        try:
            reading = device.read(self._clock_ns(), self._energy_ns())
        except self._nvml.NVMLError as error:
            if error.value in DRIVER_GONE:
                raise
            if identity.uuid not in self._lost:
                _log.warning("nvml: %s (index %d) is lost: %s", identity.uuid, identity.index, error)
            self._lost.add(identity.uuid)
            del self._devices[identity.index]
            return
        self._lost.discard(identity.uuid)
        seen = self._watch.seen(identity.uuid) if self._watch else None
        yield reading if seen is None else replace(reading, xid_count=seen[0], xid=seen[1])
        for part in device.slices:
            try:
                yield part.read(self._clock_ns())
            except self._nvml.NVMLError as error:
                if error.value in DRIVER_GONE:
                    raise
                self._scanned_ns = 0  # its instances are looked for at the next read

    def _energy_ns(self) -> int:
        spread_ns = min(len(self._devices) * SECOND, _MOST_ENERGY_NS)
        return max(self._options.energy_ns, spread_ns) if self._options.energy_ns else 0

    def _initialise(self, now_ns: int) -> None:
        self._nvml.nvmlInit()
        self._ready = True
        self._there = self._present()
        self._scan()
        self._scanned_ns = now_ns

    def _rescan(self, now_ns: int) -> None:
        """NVML enumerates devices when it is initialised, so one that came later is seen after the next time."""
        if self._present() != self._there:
            _log.info("nvml: GPUs appeared or went away; initialising again")
            self._shut_down()
            self._initialise(now_ns)
            return
        self._scan()
        self._scanned_ns = now_ns

    def _present(self) -> tuple[int, frozenset[str]]:
        try:
            names = frozenset(path.name for path in self._proc.iterdir())
        except OSError:
            names = frozenset()
        return self._nvml.nvmlDeviceGetCount(), names

    def _scan(self) -> None:
        """Opens the devices that are not open, and looks for MIG instances of all.

        Raises the module's NVMLError when this user may open none, or the driver is gone.
        """
        count, refused = self._there[0], None
        for index in range(count):
            try:
                if index not in self._devices:
                    self._devices[index] = self._open(index)
                self._find_slices(self._devices[index])
            except self._nvml.NVMLError as error:
                if error.value in DRIVER_GONE:
                    raise
                self._devices.pop(index, None)
                refused = error if error.value == Code.NO_PERMISSION else refused
                _log.debug("nvml: device %d cannot be opened: %s", index, error)
        self._devices = dict(sorted(self._devices.items()))
        if refused is not None and not self._devices:
            raise refused

    def _open(self, index: int) -> Device:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
        device = Device(
            nvml,
            handle,
            Identity(uuid=uuid, name=name, host=self._host, index=index),
            seldom_ns=self._options.seldom_ns,
            blocking_pcie=self._options.blocking_pcie,
        )
        if self._watch:
            self._watch.listen(handle, uuid)
        return device

    def _find_slices(self, device: Device) -> None:
        nvml = self._nvml
        mig = self._mig_mode(device.handle)
        if mig != device.mig:
            # another mode supports other calls, which the device has to find out again
            device.forget()
        device.mig, device.slices = mig, []
        if not mig:
            return
        for place in range(self._most_slices(device.handle)):
            try:
                handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device.handle, place)
                device.slices.append(Slice(nvml, handle, self._slice_identity(handle, device)))
            except nvml.NVMLError as error:  # most places are empty: NotFound
                if error.value in DRIVER_GONE:
                    raise

    def _mig_mode(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(handle)[0] == self._nvml.NVML_DEVICE_MIG_ENABLE)
        except self._nvml.NVMLError as error:
            if error.value in DRIVER_GONE:
                raise
            return False

    def _most_slices(self, handle: Any) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
        except self._nvml.NVMLError as error:
            if error.value in DRIVER_GONE:
                raise
            return 0

    def _slice_identity(self, handle: Any, device: Device) -> Identity:
        nvml, parent = self._nvml, device.identity
        named = _MIG_NAME.search(_text(nvml.nvmlDeviceGetName(handle)))
        return replace(
            parent,
            uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
            parent=parent.uuid,
            profile=named.group(1) if named else self._profile(handle, device.handle),
        )

    def _profile(self, handle: Any, gpu: Any) -> str:
        """Profile by an instance's attributes: memory is named in whole eighths of its GPU's, as nvidia-smi does."""
        try:
            attributes = self._nvml.nvmlDeviceGetAttributes_v2(handle)
            total = self._nvml.nvmlDeviceGetMemoryInfo(gpu).total
        except self._nvml.NVMLError:
            return ""
        eighths = -(-attributes.memorySizeMB * (1 << 20) * 8 // total)
        gigabytes = round(eighths / 8 * -(-total // (1 << 30)))
        slices, computes = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
        part = f"{computes}c." if computes < slices else ""
        return f"{part}{slices}g.{gigabytes}gb"

    def _shut_down(self) -> None:
        if self._watch:
            self._watch.close()
        self._devices = {}
        if not self._ready:
            return
        self._ready = False
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            _log.debug("nvml: shutting down: %s", error)

    def _as_gpu_error(self, error: Any) -> GpuError:
        remedy = _REMEDIES.get(error.value)
        return GpuError(f"nvml: {remedy or f'the NVIDIA driver answers {str(error)!r}; see what nvidia-smi says'}")


def _bindings() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise GpuError("nvml: NVIDIA's bindings are not installed; pip install nvidia-ml-py") from error


def _text(value: str | bytes) -> str:
    """Older nvidia-ml-py gives bytes."""
    return value.decode() if isinstance(value, bytes) else value
