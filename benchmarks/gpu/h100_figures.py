"""Figures of a run of ``h100.py``, or of any recording of one boot: by phase of its load, and of its device."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.gpu.report_data import Row, Sampled, phases_of

from farthing.books.prices import PriceBook
from farthing.collectors.engines.exposition import parse_exposition
from farthing.costing.saturation import unit_costs_at
from farthing.domain.clock import SECOND, nanoseconds
from farthing.domain.gpu import GPU
from farthing.domain.model import SettledWindow
from farthing.replay.offline import OfflineRun, cost_recording
from farthing.replay.recording import Recording, load_recording
from farthing.service.unit_prices import SATURATED_SEQUENCES
from farthing.settings import Settings
from farthing.vocabulary.loading import load_catalogue
from farthing.vocabulary.peaks import PeakRates, peaks_of

__all__ = [
    "Agreement",
    "Phase",
    "Run",
    "agreement",
    "counter_joules",
    "integrated_joules",
    "load_run",
    "raw_samples",
    "recorded_joules",
    "stretches",
    "uuids_of",
]

MILLION = 1_000_000
NANO = 1_000_000_000
BARE_BYTES = 100_000_000
"""A process that has a context on the device has more."""
SETTLES_NS = 2 * SECOND
"""At a phase's begin, where what was begun before is still in the engine."""


@dataclass(slots=True)
class Phase:
    """One phase of the load, by the windows of Farthing's costing that lie wholly within it; None is unknown."""

    name: str
    begin_ns: int
    end_ns: int
    """UTC nanoseconds, as the load told them."""
    windows: int = 0
    length_ns: int = 0
    bill_nano: int = 0
    energy_mj: int | None = 0
    nano: Counter[str] = field(default_factory=Counter)
    """phase of work -> nano-dollars"""
    millijoules: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    flops: float | None = None
    """Per second, as the engine estimates."""
    memory_bytes: float | None = None
    saturated_nano: dict[str, int] = field(default_factory=dict)
    """Phase of work -> nano-dollars per million tokens of the same work, were the engine full."""

    @property
    def output(self) -> int:
        """Output tokens, as the engine counts them."""
        return self.tokens["engine_output"]

    @property
    def prompt(self) -> int:
        """Prompt tokens that were computed."""
        return self.tokens["prompt_computed"]

    @property
    def tokens_per_second(self) -> float | None:
        """Output."""
        return self.output * SECOND / self.length_ns if self.length_ns else None

    @property
    def sequences(self) -> float | None:
        """Decoding in a step, on average over all steps, those that only compute prompts included."""
        steps = self.features["steps"]
        return self.features["decode_tokens"] / steps if steps else None

    def usd_per_million(self, work: str, tokens: int) -> float | None:
        """Of one kind of work; of all that the phase cost, idle time too, where ``work`` is empty."""
        nano = self.nano[work] if work else self.bill_nano
        return nano * MILLION / tokens / NANO if tokens else None

    def joules_per_token(self, work: str, tokens: int) -> float | None:
        """Likewise."""
        if self.energy_mj is None or not tokens:
            return None
        return (self.millijoules[work] if work else self.energy_mj) / 1_000 / tokens

    @property
    def watts(self) -> float | None:
        """Mean of the phase's windows."""
        return None if self.energy_mj is None or not self.length_ns else self.energy_mj * 1e6 / self.length_ns


@dataclass(frozen=True, slots=True)
class Run:
    """A recording, costed, and what is known beside it."""

    recording: Recording
    costed: OfflineRun
    phases: tuple[Phase, ...]
    nano_per_hour: int
    peaks: PeakRates | None
    probe_uuids: tuple[str, ...]

    def phase(self, name: str) -> Phase | None:
        """The phase of that name; None when the load had none."""
        return next((phase for phase in self.phases if phase.name == name), None)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Energy by a device's counter, and by its power, over the same stretch; joules."""

    seconds: float
    counter: float
    integrated: float

    @property
    def difference(self) -> float:
        """Of the integrated power, as a share of the counter's."""
        return self.integrated / self.counter - 1


def load_run(folder: Path) -> Run:
    """Cost the recording in a folder through Farthing's own stream, at the public price of its GPU.

    Raises RecordingError for a folder that is no recording, and ValueError for one of several boots: a phase of the
    load is of one.
    """
    recording = load_recording(folder)
    costed = cost_recording(recording, Settings(), PriceBook())
    if len(costed.accounts) != 1:
        raise ValueError(f"{folder}: has {len(costed.accounts)} boots; its phases are of one engine that ran through")
    account = costed.account
    begun = phases_of(folder / "phases.txt")
    ends = [begin for _, begin in begun[1:]] + [recording.end_ns]
    phases = [Phase(name, begin, end) for (name, begin), end in zip(begun, ends, strict=True)]
    for window in costed.entry.windows:
        begin, end = (account.started.anchor.to_wall(at) for at in (window.start_ns, window.end_ns))
        for phase in phases:
            if phase.begin_ns <= begin and end <= phase.end_ns:
                _add(phase, window)
    _estimate(phases, recording)
    nano_per_hour = account.tariff.nano_per_hour(recording.start_ns)
    fit = account.fit()
    if fit is not None:
        for phase in phases:
            phase.saturated_nano = unit_costs_at(
                fit.coefficients, phase.features, nano_per_hour / 3600, SATURATED_SEQUENCES
            )
    return Run(
        recording=recording,
        costed=costed,
        phases=tuple(phases),
        nano_per_hour=nano_per_hour,
        peaks=peaks_of(account.started.gpu),
        probe_uuids=account.started.gpu_uuids,
    )


def _add(phase: Phase, window: SettledWindow) -> None:
    phase.windows += 1
    phase.length_ns += window.end_ns - window.start_ns
    phase.bill_nano += window.bill_nano
    if phase.energy_mj is not None:
        phase.energy_mj = None if window.energy_mj is None else phase.energy_mj + window.energy_mj
    for posting in window.postings:
        phase.nano[posting.phase] += posting.nano
        phase.millijoules[posting.phase] += posting.millijoules
    phase.tokens.update(window.tokens)
    phase.features.update(window.features)


def _estimate(phases: Iterable[Phase], recording: Recording) -> None:
    """What the engine says of floating-point operations and memory traffic: rates between a phase's scrapes."""
    signals = load_catalogue("vllm").signals
    flops = signals["flops_per_gpu_total"].sources[0].metrics
    traffic = signals["memory_bytes_per_gpu_total"].sources[0].metrics
    points = []
    for scrape in recording.scrapes:
        if scrape.body:
            exposition = parse_exposition(scrape.body.encode(), "text/plain; version=0.0.4", recording.name)
            totals = [sum(s.value for name in names for s in exposition.find(name)) for names in (flops, traffic)]
            points.append((scrape.wall_ns, *totals))
    if not points or not any(points[-1][1:]):
        return
    for phase in phases:
        within = [point for point in points if phase.begin_ns + SETTLES_NS <= point[0] <= phase.end_ns]
        if len(within) > 1:
            (first, *before), (last, *after) = within[0], within[-1]
            rates = [(b - a) * SECOND / (last - first) for a, b in zip(before, after, strict=True)]
            phase.flops, phase.memory_bytes = rates


def raw_samples(recording: Recording) -> list[Row]:
    """The recording's samples of its device, as a sampling process writes readings."""
    return [
        {
            "at_ns": nanoseconds(row["t"]),
            "energy_mj": int(row["e_mj"]),
            "power_watts": int(row["p_mw"]) / 1_000,
        }
        for row in recording.gpu_samples
    ]


def counter_joules(readings: Sequence[Row]) -> float:
    """By the device's counter, from the first reading to the last."""
    return float(readings[-1]["energy_mj"] - readings[0]["energy_mj"]) / 1_000


def integrated_joules(readings: Sequence[Row]) -> float:
    """Trapezoids of power over time."""
    return math.fsum(
        (before["power_watts"] + after["power_watts"]) / 2 * (after["at_ns"] - before["at_ns"]) / SECOND
        for before, after in pairwise(readings)
    )


def agreement(readings: Sequence[Row], begin_ns: int = 0, end_ns: int = 1 << 63) -> Agreement | None:
    """Of the readings of one device within a stretch of UTC; None where its counter was not read twice.

    The counter is asked more seldom than the power: the stretch runs from its first value to its last.
    """
    within = [row for row in readings if begin_ns <= row["at_ns"] <= end_ns and "power_watts" in row]
    counted = [number for number, row in enumerate(within) if "energy_mj" in row]
    if len(counted) < 2:
        return None
    within = within[counted[0] : counted[-1] + 1]
    seconds = (within[-1]["at_ns"] - within[0]["at_ns"]) / SECOND
    return Agreement(seconds, counter_joules(within), integrated_joules(within))


def recorded_joules(sampled: Sampled) -> float:
    """By the records that an inbox would have got: each boot of theirs counts on from where it began."""
    boots: dict[str, list[int]] = {}
    for record in sampled.records:
        boots.setdefault(record["boot"], []).extend(record["energy_mj"])
    return sum(values[-1] - values[0] for values in boots.values()) / 1_000


def uuids_of(sampled: Sampled) -> tuple[str, ...]:
    """Devices of the readings, each once, in order of appearance."""
    return tuple(dict.fromkeys(row["uuid"] for row in sampled.readings if row.get("kind") == GPU))


def stretches(run: Run, readings: Sequence[Row]) -> dict[str, list[float]]:
    """Watts of the device while nothing was asked of it: by what was on it, in the order of time.

    A device without an engine has hardly any memory in use; from there to the load's begin a model is loaded.
    """
    begin_ns = run.phases[0].begin_ns
    found: dict[str, list[float]] = {"without an engine": [], "loading a model": [], "with an idle engine": []}
    for row in readings:
        at_ns, watts = row["at_ns"], row.get("power_watts")
        if watts is None:
            continue
        if row.get("memory_used_bytes", 0) < BARE_BYTES:
            found["without an engine"].append(watts)
        elif at_ns < begin_ns:
            found["loading a model"].append(watts)
        elif (idle := run.phase("idle")) is not None and idle.begin_ns + SETTLES_NS <= at_ns < idle.end_ns:
            found["with an idle engine"].append(watts)
    return {name: watts for name, watts in found.items() if watts}
