"""Who reports: the instance, its model and its devices, as far as vLLM and this machine tell."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farthing_probe.attribution import clamp
from farthing_probe.settings import Settings

__all__ = ["Identity"]

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Identity:
    """What ``started`` says, and how this process is numbered."""

    boot: str
    proc: int
    processes: int
    started_ns: int
    """Monotonic nanoseconds at which the instance's first process began: loading a model is time that is billed."""
    engine: str
    version: str
    model: str
    gpu: str
    gpu_count: int
    gpu_uuids: tuple[str, ...]
    details: bool

    @classmethod
    def of(cls, config: Any, settings: Settings) -> Identity:
        """From vLLM's configuration; what a version lacks stays at its most modest value."""
        parallel = getattr(config, "parallel_config", None)
        processes = max(1, int(getattr(parallel, "_api_process_count", 1) or 1))
        leader = os.getppid() if processes > 1 else os.getpid()
        started_ns = _process_start_ns(leader)
        count = settings.gpu_count or _gpu_count(parallel)
        name, uuids = _devices(count)
        return cls(
            boot=_boot(leader),
            proc=max(0, int(getattr(parallel, "_api_process_rank", 0) or 0)),
            processes=processes,
            started_ns=started_ns,
            engine=clamp(settings.engine, 128),
            version=_version(),
            model=clamp(_model(config), 256),
            gpu=clamp(settings.gpu or name, 128),
            gpu_count=count,
            gpu_uuids=uuids,
            details=_details(config),
        )


def _boot(pid: int) -> str:
    """A name for one life of an instance that all its processes find alike: their leader's start, on this host."""
    try:
        host = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        host = ""
    text = f"{host} {os.uname().nodename} {pid} {_start_ticks(pid)}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _start_ticks(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def _process_start_ns(pid: int) -> int:
    now, ticks = time.monotonic_ns(), _start_ticks(pid)
    if not ticks:
        return now
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * SECOND // os.sysconf("SC_CLK_TCK")
    return max(0, now - max(0, age_ns))


def _details(config: Any) -> bool:
    """Whether steps come with the scheduler's details; from 0.16 to 0.25 the flag only writes to the core's log."""
    if not getattr(getattr(config, "observability_config", None), "enable_logging_iteration_details", False):
        return False
    try:
        from vllm.v1.metrics.stats import SchedulerStats  # noqa: PLC0415
    except Exception:
        return False
    return hasattr(SchedulerStats, "iteration_details")


def _version() -> str:
    try:
        import vllm  # noqa: PLC0415

        return str(vllm.__version__)
    except Exception:
        return ""


def _model(config: Any) -> str:
    """The served name, as vLLM's own metrics label it."""
    model = getattr(config, "model_config", None)
    served = getattr(model, "served_model_name", None)
    if isinstance(served, list | tuple):
        served = served[0] if served else None
    return str(served or getattr(model, "model", None) or "unknown")


def _gpu_count(parallel: Any) -> int:
    """All ranks of tensor and pipeline parallelism, of every data-parallel replica that reports here."""
    world = int(getattr(parallel, "world_size", 1) or 1)
    if getattr(parallel, "data_parallel_external_lb", False):
        return world
    local = "data_parallel_size_local" if getattr(parallel, "data_parallel_hybrid_lb", False) else "data_parallel_size"
    return world * max(1, int(getattr(parallel, local, 1) or 1))


def _devices(count: int) -> tuple[str, tuple[str, ...]]:
    """Name and UUIDs of this process's devices, by vLLM's platform; it asks the driver without touching a device."""
    name, uuids = "unknown", []
    try:
        from vllm.platforms import current_platform  # noqa: PLC0415

        name = str(current_platform.get_device_name())
        uuids = [str(current_platform.get_device_uuid(i)) for i in range(count)]
    except Exception:
        uuids = []
    return name, tuple(uuid for uuid in uuids if uuid)
