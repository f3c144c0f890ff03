"""Devices beside the engines that run on them, as JSON-ready values: what ``/api/v1/gpus`` answers.

Keys that end in ``_nano`` are nano-dollars; None is unknown and stays null.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from farthing.domain.access import Scope
from farthing.domain.clock import SECOND
from farthing.domain.devices import DevicesView, DeviceView
from farthing.domain.model import EngineView, Snapshot
from farthing.exporters.web.viewer import principal_of

__all__ = ["GPUS_PATH", "gpu_routes", "gpus_payload"]

GPUS_PATH = "/api/v1/gpus"

Payload = dict[str, Any]

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def gpu_routes(devices: Callable[[], DevicesView], snapshot: Callable[[], Snapshot] | None = None) -> list[Route]:
    """The route of ``/api/v1/gpus``; without a ``snapshot`` nothing is known of engines but where they run.

    Devices are nobody's rows: whoever does not see everything is refused, whatever let the request in.
    """

    # A plain function: starlette runs it on a worker thread.
    def gpus(request: Request) -> Response:
        if not principal_of(request).sees_all:
            return JSONResponse({"error": f"a token with the scope {Scope.READ_ALL} is required"}, 403, _HEADERS)
        payload = gpus_payload(devices(), snapshot() if snapshot is not None else None)
        return JSONResponse(payload, headers=_HEADERS)

    return [Route(GPUS_PATH, gpus, name="gpus")]


def gpus_payload(view: DevicesView, snapshot: Snapshot | None) -> Payload:
    """Every device, and every engine with what it makes of its devices now."""
    engines = () if snapshot is None else snapshot.engines
    known = {engine.engine.name for engine in engines}
    others = sorted({name for names in view.engines.values() for name in names} - known)
    return {
        "taken_ms": view.taken_ns * 1_000 // SECOND,
        "currency": None if snapshot is None else snapshot.currency,
        "sources": [
            {"name": name, "up": up, "complaint": view.complaints.get(name, "")} for name, up in view.sources.items()
        ],
        "engines": [
            *(_engine(engine, view) for engine in engines),
            *({"name": name, "devices": _devices_of(name, view)} for name in others),
        ],
        "devices": [_device(device, view) for device in view.devices],
    }


def _devices_of(engine: str, view: DevicesView) -> list[str]:
    return [
        device.reading.uuid for device in view.devices if engine in view.engines.get(device.reading.uuid, ())
    ]  # fmt: skip


def _engine(engine: EngineView, view: DevicesView) -> Payload:
    tokens = engine.gauges.generation_tokens_per_second
    watts = _watts(engine, view)
    return {
        "name": engine.engine.name,
        "model": engine.engine.model,
        "state": engine.state,
        "gpu_count": engine.engine.gpu_count,
        "devices": _devices_of(engine.engine.name, view),
        "tokens_per_second": tokens,
        "per_hour_nano": engine.price_nano_per_hour,
        "watts": watts,
        "joules_per_token": watts / tokens if watts is not None and tokens else None,
    }


def _watts(engine: EngineView, view: DevicesView) -> float | None:
    """What all its devices draw now; None where one is not known, or is not its own alone."""
    uuids = _devices_of(engine.engine.name, view)
    if len(uuids) < engine.engine.gpu_count:
        return None
    powers = [
        device.reading.power_watts if len(view.engines[device.reading.uuid]) == 1 else None
        for device in view.devices
        if device.reading.uuid in uuids
    ]
    known = [power for power in powers if power is not None]
    return sum(known) if len(known) == len(powers) else None


def _device(device: DeviceView, view: DevicesView) -> Payload:
    reading = device.reading
    return {
        "uuid": reading.uuid,
        "kind": reading.kind,
        "host": reading.host,
        "index": reading.index,
        "name": reading.name,
        "source": reading.source,
        "parent": reading.parent,
        "profile": reading.profile,
        "pod": reading.pod,
        "engines": list(view.engines.get(reading.uuid, ())),
        "at_ms": reading.at_ns * 1_000 // SECOND,
        "utilization": reading.utilization,
        "memory_utilization": reading.memory_utilization,
        "memory_used_bytes": reading.memory_used_bytes,
        "memory_total_bytes": reading.memory_total_bytes,
        "power_watts": reading.power_watts,
        "power_limit_watts": reading.power_limit_watts,
        "energy_millijoules": device.energy_mj,
        "energy_method": device.method,
        "temperature_celsius": reading.temperature_celsius,
        "sm_clock_hz": reading.sm_clock_hz,
        "memory_clock_hz": reading.memory_clock_hz,
        "throttle": None if reading.throttle is None else sorted(reading.throttle),
        "throttle_told": None if reading.throttle is None else sorted(reading.throttle_told),
        "ecc_uncorrected": reading.ecc_uncorrected,
        "xid": reading.xid or None,
        "xid_count": reading.xid_count,
        "faults": sorted(reading.faults),
        "unallocated_per_hour_nano": view.unallocated_nano.get(reading.uuid),
    }
