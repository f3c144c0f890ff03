"""What a Prometheus would have scraped of agents that read the recorded engines' GPUs: their own exporter's text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from tests.collectors.gpu.fake_nvml import FakeGpu, FakeNvml, capture, samples
from tests.collectors.gpu.nvml_host import Clock
from tests.dashboards.laps import Lap, Series, lap_of, read_exposition
from tests.dashboards.recorded_engines import Kind

from farthing.collectors.gpu.nvml import NvmlOptions, NvmlSource
from farthing.collectors.gpu.sampler import Sampler
from farthing.domain.clock import SECOND
from farthing.domain.devices import DevicesView, IdleGpu
from farthing.exporters.prometheus import exposition
from farthing.exporters.prometheus_gpu import DeviceCollector

__all__ = ["H100", "SPARE_SECONDS", "device_lap", "linked_lap", "spare_lap"]

H100 = "NVIDIA H100 80GB HBM3"
STEP_SECONDS = 5
ENGINE = "engine"
MEMORY_OF_PROCESS = 78_000_000_000
NANO_PER_HOUR = {H100: 3_348_000_000, "NVIDIA H200": 4_464_000_000}
"""By Farthing's default prices."""
SPARE_SECONDS = 20
"""How long the recorded GPU was seen idle at least, at the end of its engine's life."""
OPTIONS = NvmlOptions(energy_ns=0, xid_events=False, blocking_pcie=True)


def device_lap(kind: Kind, folder: Path, wanted: frozenset[str] | None) -> Lap:
    """The device of a recorded engine. Where Farthing itself read it during the run, what it exposed then."""
    recording = kind.load()
    if recording.gpu_scrapes:
        pictures = [
            ((scrape.wall_ns - recording.start_ns) / SECOND, _picture(scrape.body, wanted))
            for scrape in recording.gpu_scrapes
            if scrape.wall_ns >= recording.start_ns
        ]
        return lap_of(kind.seconds, pictures, carried=True)
    _, rows = samples(kind.recording)
    return _read(rows, recording.start_ns / SECOND, kind.seconds, folder, wanted, idle=False)


def spare_lap(kind: Kind, folder: Path, wanted: frozenset[str] | None) -> Lap:
    """A GPU that no engine has: the recorded one once its engine was gone, or nothing was asked of it."""
    _, rows = samples(kind.recording)
    end = rows[-1]["t"]
    left = [row for row in rows if row["t"] >= end - SPARE_SECONDS]
    return _read(left, end - SPARE_SECONDS, SPARE_SECONDS, folder, wanted, idle=True)


def linked_lap(number: int, folder: Path, wanted: frozenset[str] | None) -> Lap:
    """One of two H200 with NVLink, as they were captured: idle."""
    captured = capture("h200x2-driver580", number)
    calls = {name: call["value"] for name, call in captured["calls"].items() if "value" in call}
    milliwatts = calls["nvmlDeviceGetPowerUsage()"]
    row = {
        "p_mw": milliwatts,
        "gpu": 0,
        "memu": 0,
        "mem": calls["nvmlDeviceGetMemoryInfo()"][0],
        "sm": calls["nvmlDeviceGetClockInfo(1)"],
        "thr": calls["nvmlDeviceGetCurrentClocksEventReasons()"],
        "temp": calls["nvmlDeviceGetTemperature(0)"],
    }
    began = calls["nvmlDeviceGetTotalEnergyConsumption()"]
    rows = [{**row, "t": at, "e_mj": began + at * milliwatts} for at in range(SPARE_SECONDS + 1)]
    return _read(rows, 0, SPARE_SECONDS, folder, wanted, idle=True, captured=captured)


def _read(
    rows: list[dict[str, Any]],
    start: float,
    seconds: int,
    folder: Path,
    wanted: frozenset[str] | None,
    *,
    idle: bool,
    captured: dict[str, Any] | None = None,
) -> Lap:
    (folder / "0000:00:06.0").mkdir(parents=True, exist_ok=True)
    gpu = FakeGpu(rows[0], captured or capture(), processes=() if idle else ((4711, MEMORY_OF_PROCESS),))
    clock = Clock()
    source = NvmlSource(FakeNvml(gpu), "gpu-host", clock, options=OPTIONS, proc=folder)
    sampler = Sampler([source], lambda _: None, clock=lambda: clock.now_ns / SECOND, wall_ns=clock)
    idle_now = (IdleGpu(gpu.uuid, "gpu-host", gpu.name, NANO_PER_HOUR[gpu.name]),) if idle else ()
    registry = CollectorRegistry()
    registry.register(DeviceCollector(lambda: _shown(sampler.view(), {} if idle else {gpu.uuid: (ENGINE,)}, idle_now)))
    pictures = []
    for at, row in _stepped(rows, start, seconds):
        gpu.row = row
        clock.now_ns = round(row["t"] * SECOND)
        sampler.read()
        pictures.append((at, _picture(exposition(registry, "")[0].decode(), wanted)))
    sampler.stop()
    return lap_of(seconds, pictures, carried=True)


def _shown(view: DevicesView, engines: dict[str, tuple[str, ...]], idle: tuple[IdleGpu, ...]) -> DevicesView:
    return replace(view, engines=engines, idle=idle, waiting=0, dropped=0)


def _stepped(rows: list[dict[str, Any]], start: float, seconds: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """The last sample before each step; the last of all is the lap's end, so that the energy is whole."""
    place = 0
    for at in range(0, seconds, STEP_SECONDS):
        while place + 1 < len(rows) and rows[place + 1]["t"] - start <= at:
            place += 1
        yield float(at), rows[place]
    yield float(seconds), rows[-1]


def _picture(text: str, wanted: frozenset[str] | None) -> dict[Series, float]:
    return read_exposition(text, wanted)
