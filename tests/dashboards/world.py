"""Six hours of a fleet in a real Prometheus: 20 recorded engines on three hosts, Farthing's books of them, their GPUs.

The recordings are tiled in time and over the engines, which differ by where in the recording they are. Nothing is
made up but what they are called and how much of the fleet's spend lies before the six hours.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tests.alerts.live_prometheus import Prometheus, started
from tests.dashboards.blocks import BlockWriter, make_blocks
from tests.dashboards.laps import CUMULATIVE, Floats, Lap, Series, added, series_text
from tests.dashboards.recorded_alerts import alerts_text
from tests.dashboards.recorded_books import recorded_books
from tests.dashboards.recorded_devices import device_lap, linked_lap, spare_lap
from tests.dashboards.recorded_engines import CAPTURED, GONE, KINDS, Kind, captured_series, engine_lap, up_lap
from tests.dashboards.recorded_rules import record, wanted_records
from tests.dashboards.recorded_spend import recorded_spend

from farthing.alerts.render import rule_groups
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["JOB_AGENTS", "RANGE_SECONDS", "SCRAPE_SECONDS", "Placed", "World", "build", "placed", "world_settings"]

SCRAPE_SECONDS = 30
RANGE_SECONDS = 6 * 3600
BEFORE_SECONDS = 900
"""How much longer the past is than the range that is asked for: windows at its beginning look back."""
AHEAD_SECONDS = 480
"""How far the recorded series go on after the world was begun, so that whenever a test asks, now is in it."""
JOB_AGENTS = "gpu-agents"
"""Any job will do for Farthing's own agents."""
COMPARED = (names.METRIC_TENANT_COST, names.METRIC_BUILD)
"""What panels compare with the range before theirs."""
HOSTS = (("gpu-host-1", 8), ("gpu-host-2", 8), ("gpu-host-3", 4))


@dataclass(frozen=True)
class Placed:
    """An engine of the world."""

    name: str
    kind: Kind
    shift_seconds: float
    """How far into its recording it is when the world begins."""
    host: str
    device: int
    uuid: str


def placed() -> tuple[Placed, ...]:
    """Every engine, on a GPU of its own."""
    slots = [(host, device) for host, devices in HOSTS for device in range(devices)]
    found: list[Placed] = []
    for kind in KINDS:
        for number in range(kind.engines):
            host, device = slots[len(found)]
            name, uuid = f"{kind.name}-{number + 1}", f"GPU-{len(found):08d}-0000-4000-8000-000000000000"
            found.append(Placed(name, kind, number * kind.seconds / kind.engines, host, device, uuid))
    return tuple(found)


def world_settings() -> Settings:
    """farthing.yaml of the world: engines on rented GPUs and on owned ones, budgets, promises, energy."""
    engines = [
        {"name": one.name, "url": f"http://{one.name}:8000", "gpu": "H100-SXM", "probe": True, "gpu_uuids": [one.uuid]}
        | ({"capacity": "rack-1"} if one.kind.name == "vision" else {})
        for one in placed()
    ]
    owned = {"capex_usd": 260_000, "lifetime_months": 60, "power_watts": 6_000, "pue": 1.3, "usd_per_kwh": 0.12}
    return Settings.model_validate(
        {
            "engines": engines,
            "capacity": [
                {"name": "rack-1", "gpu": "H100-SXM", "gpus": 8, "kind": "owned", "from": "2026-01-01", "owned": owned}
            ],
            "budgets": [
                {"tenant": "acme", "monthly_usd": 6_000},
                {"tenant": "globex", "project": "support", "monthly_usd": 2_500},
                {"tenant": "claims", "project": "forms", "model": "qwen2-vl-7b", "monthly_usd": 3_000},
                {"model": "qwen2-vl-7b", "monthly_usd": 20_000},
                {"monthly_usd": 60_000},
            ],
            "slos": [
                {"name": "acme-first-token", "tenant": "acme", "signal": "ttft", "bound_seconds": 0.5},
                {"name": "answers", "signal": "availability", "objective": 0.99},
            ],
            "gpus": {"nvml": "off", "carbon_g_per_kwh": 380, "pue": 1.25, "energy_usd_per_kwh": 0.15},
            "alerts": {"evaluation_seconds": SCRAPE_SECONDS},
        }
    )


@dataclass(frozen=True)
class World:
    """Where the blocks are, and what is in them."""

    folder: Path
    data: Path
    begin: float
    """When the engines' first laps began."""
    times: Floats
    """When everything was scraped."""
    settings: Settings
    samples: int
    seconds: dict[str, float]
    """What was done -> how long it took."""

    def offsets(self, one: Placed, times: Floats | None = None) -> Floats:
        """Seconds since the beginning of an engine's first lap, at all times or at others."""
        return (self.times if times is None else times) - self.begin + one.shift_seconds

    @contextmanager
    def server(self, config: dict[str, Any] | None = None) -> Iterator[Prometheus]:
        """A Prometheus with the blocks, freshly started."""
        file = self.folder / "prometheus.yml"
        # the recorded series reach beyond now, where the server would refuse what it scrapes
        accepting = {"storage": {"tsdb": {"out_of_order_time_window": "1h"}}}
        file.write_text(yaml.safe_dump({**accepting, **(config or {})}, width=10_000))
        # blocks stay as they are
        whole = ("--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h")
        with started(self.folder, "--storage.tsdb.retention.time=100y", *whole, data=self.data) as server:
            yield server


def build(folder: Path, expressions: list[str], *, wanted: frozenset[str] | None, clock: float | None = None) -> World:
    """A world that holds the series that the expressions name by way of our rules; ``wanted`` None: all scraped ones.

    ``clock`` is when it is begun, in seconds since the epoch.
    """
    settings = world_settings()
    began = time.time() if clock is None else clock
    end = (int(began) + AHEAD_SECONDS) // SCRAPE_SECONDS * SCRAPE_SECONDS
    begin = end - AHEAD_SECONDS - RANGE_SECONDS - BEFORE_SECONDS
    times = np.arange(begin, end + 1, SCRAPE_SECONDS, dtype=float)
    earlier = np.arange(begin - RANGE_SECONDS, begin, SCRAPE_SECONDS, dtype=float)
    spent: dict[str, float] = {}
    mark = time.monotonic()

    def note(what: str) -> None:
        nonlocal mark
        spent[what], mark = time.monotonic() - mark, time.monotonic()

    data = folder / "data"
    writer = BlockWriter(folder, data, times)
    before = BlockWriter(folder, data, earlier)
    unfinished = partial(World, folder, data, earlier[0], times, settings)
    sketch = unfinished(0, spent)
    _write_engines(writer, sketch, wanted)
    _write_captured(writer, sketch, wanted)
    note("engines")
    _write_farthing(writer, before, sketch, wanted)
    note("farthing")
    _write_devices(writer, sketch, wanted)
    note("devices")
    samples = writer.make() + before.make()
    note("blocks")
    groups = rule_groups(settings)
    alerts = [alert for group in groups for alert in group.alerts] if _ask_of_alerts(expressions) else []
    whole_minutes = (begin // 60 * 60 + 120, end // 60 * 60)
    rules = wanted_records(groups, [*expressions, *(alert.expr for alert in alerts)])
    record(rules, folder, data, sketch.server, whole_minutes)
    note("rules")
    if alerts:
        with sketch.server() as server:
            lines = list(alerts_text(server, alerts, whole_minutes))
        make_blocks(folder, data, lines)
        note("alerts")
    return unfinished(samples, spent)


def _ask_of_alerts(expressions: list[str]) -> bool:
    return any("ALERTS" in expr for expr in expressions)


def _write_engines(writer: BlockWriter, world: World, wanted: frozenset[str] | None) -> None:
    for kind in KINDS:
        laps = [engine_lap(kind, wanted), up_lap(kind)]
        for one in (one for one in placed() if one.kind is kind):
            scrape = {names.LABEL_JOB: names.JOB_ENGINES, names.LABEL_INSTANCE: one.name}
            for lap in laps:
                _write(writer, lap.at(world.offsets(one)), scrape)


def _write_captured(writer: BlockWriter, world: World, wanted: frozenset[str] | None) -> None:
    for name, file in CAPTURED.items():
        scrape = {names.LABEL_JOB: names.JOB_ENGINES, names.LABEL_INSTANCE: name}
        _write(writer, captured_series(file, world.times, wanted), scrape)
    gone = {names.LABEL_JOB: names.JOB_ENGINES, names.LABEL_INSTANCE: GONE}
    writer.add(series_text(("up", ()), gone), np.zeros_like(world.times))


def _write(writer: BlockWriter, found: dict[Series, Floats], changes: dict[str, str]) -> None:
    for series, values in found.items():
        writer.add(series_text(series, changes), values)


def _write_farthing(writer: BlockWriter, before: BlockWriter, world: World, wanted: frozenset[str] | None) -> None:
    """Series by engine under the engines' names; what all engines share adds up over them.

    ``before`` takes what panels compare the six hours with.
    """
    scrape = {names.LABEL_JOB: names.JOB_FARTHING, names.LABEL_INSTANCE: names.JOB_FARTHING}
    shared: defaultdict[Series, list[Floats]] = defaultdict(list)
    compared: defaultdict[Series, list[Floats]] = defaultdict(list)
    hours: dict[str, Any] = {}
    for kind in KINDS:
        members = [one for one in placed() if one.kind is kind]
        books = recorded_books(kind, world.settings, members[0].name, wanted)
        hours[kind.name] = (books.hours, kind.engines * 3600 / kind.seconds)
        for one in members:
            for series, values in books.lap.at(world.offsets(one)).items():
                labels = dict(series[1])
                if labels.get(names.LABEL_ENGINE) == members[0].name:
                    writer.add(series_text(series, {**scrape, names.LABEL_ENGINE: one.name}), values)
                elif names.LABEL_ENGINE not in labels:
                    shared[series].append(values)
            for series, values in books.lap.only(COMPARED).at(world.offsets(one, before.times)).items():
                compared[series].append(values)
    for target, series_of in ((writer, shared), (before, compared)):
        for series, parts in series_of.items():
            values = added(parts) if series[0].endswith(CUMULATIVE) else parts[0]
            target.add(series_text(series, scrape), values)
    spend = recorded_spend(world.settings, hours, world.times)
    _write(
        writer, {series: values for series, values in spend.items() if wanted is None or series[0] in wanted}, scrape
    )
    always = np.ones_like(world.times)
    for name, value in (("up", 1.0), ("scrape_duration_seconds", 0.02), ("scrape_samples_scraped", 3000.0)):
        writer.add(series_text((name, ()), scrape), always * value)


def _write_devices(writer: BlockWriter, world: World, wanted: frozenset[str] | None) -> None:
    proc = world.folder / "proc"
    laps = {kind.name: device_lap(kind, proc, wanted) for kind in KINDS}
    for one in placed():
        _write_device(writer, laps[one.kind.name], world.offsets(one), one, of_host=one.device == 0)
    host, devices = HOSTS[-1]
    spares = [spare_lap(KINDS[0], proc, wanted), *(linked_lap(number, proc, wanted) for number in range(2))]
    for number, lap in enumerate(spares):
        spare = Placed("", KINDS[0], 0.0, host, devices + number, f"GPU-{90 + number:08d}-0000-4000-8000-000000000000")
        _write_device(writer, lap, world.offsets(spare), spare, of_host=False)
    always = np.ones_like(world.times)
    for host, _ in HOSTS:
        writer.add(series_text(("up", ()), _agent(host)), always)


def _agent(host: str) -> dict[str, str]:
    return {names.LABEL_JOB: JOB_AGENTS, names.LABEL_INSTANCE: f"{host}:9466"}


def _write_device(writer: BlockWriter, lap: Lap, offsets: Floats, one: Placed, *, of_host: bool) -> None:
    """A device's series under its own names; those of its host once."""
    own = {"uuid": one.uuid, "hostname": one.host, "device": str(one.device)}
    for series, values in lap.at(offsets).items():
        labels = dict(series[1])
        if names.LABEL_UUID in labels:
            engine = {names.LABEL_ENGINE: one.name} if names.LABEL_ENGINE in labels else {}
            writer.add(series_text(series, {**own, **engine, **_agent(one.host)}), values)
        elif of_host:
            writer.add(series_text(series, _agent(one.host)), values)
