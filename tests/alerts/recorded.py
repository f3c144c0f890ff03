"""The packaged recordings by phase of load: what Prometheus would have scraped of the engine and of Farthing.

What Farthing exports comes from its own books of the same recording, kept while the probe's records come in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tests.service.books import ENGINE, raw_of

from farthing.domain.clock import SECOND, nanoseconds
from farthing.domain.conventions import JOB_ENGINES, JOB_FARTHING, METRIC_WATERMARK_LAG
from farthing.domain.model import EngineGauges, Snapshot
from farthing.exporters.prometheus import SnapshotCollector, exposition
from farthing.ledger.repository import Ledger
from farthing.replay.recording import PACKAGED, Recording, load_recording
from farthing.replay.wire_records import TimedRecord, wire_records
from farthing.service.accountant import Accountant
from farthing.service.server import price_book
from farthing.settings import Settings

__all__ = ["SCRAPE_SECONDS", "WHOLE", "Phase", "Picture", "Series", "labels_text", "phases", "spans"]

WHOLE = "whole"
"""The phase that is all of a recording, once, as it was."""
SCRAPE_SECONDS = 2
"""How far apart the recordings' scrapes are."""
SETTLED_SECONDS = {"idle": 30}
USUALLY_SETTLED_SECONDS = 8
"""How long into a phase Farthing's counters still speak of the one before; in the idle phase nothing else is seen."""
LONGER_SECONDS = 90
"""How much longer than recorded the engine stays idle for Farthing, so that it settles what was before."""
TIER = {"tier": "interactive"}
"""What the load is taken for: people chatting, the strictest of the promises."""

Series = tuple[str, str]
"""Name and labels (as in an exposition, with job and instance)."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What a Prometheus gets at one moment from the engine or from Farthing."""

    at_ns: int
    values: Mapping[Series, float]

    @property
    def watermark_ns(self) -> int:
        """Until when Farthing knew what had come about."""
        (lag,) = (value for (name, _), value in self.values.items() if name == METRIC_WATERMARK_LAG)
        return self.at_ns - nanoseconds(lag)


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of a recording: what was scraped between its first scrape and its last."""

    recording: str
    name: str
    engine: tuple[Picture, ...]
    farthing: tuple[Picture, ...]
    start_seconds: int = 0
    """Where it lies in the Prometheus."""
    lasts_seconds: int = 0

    @property
    def end_seconds(self) -> int:
        return self.start_seconds + self.lasts_seconds

    @property
    def lap_seconds(self) -> int:
        """After which the engine's scrapes repeat."""
        return (len(self.engine) - 1) * SCRAPE_SECONDS


def _pictures(recording: Recording, wanted: frozenset[str]) -> tuple[list[Picture], list[Picture]]:
    """The engine's and Farthing's pictures at every scrape that succeeded, of the ``wanted`` metrics."""
    scrapes = [scrape for scrape in recording.scrapes if scrape.body]
    engine = [Picture(one.wall_ns, _values(one.body, wanted, JOB_ENGINES, ENGINE)) for one in scrapes]
    moments = [one.wall_ns for one in scrapes]
    moments += [moments[-1] + SCRAPE_SECONDS * SECOND * (i + 1) for i in range(LONGER_SECONDS // SCRAPE_SECONDS)]
    shown = zip(moments, _expositions(_idle_for_longer(recording, scrapes[-1].wall_ns), moments), strict=True)
    return engine, [Picture(at, _values(text, wanted, JOB_FARTHING, JOB_FARTHING)) for at, text in shown]


def _idle_for_longer(recording: Recording, until_ns: int) -> list[TimedRecord]:
    """The probe's records until the last scrape, and what it sends of an engine that stays idle after it."""
    timed = [one for one in wire_records(recording, boot="b", engine=ENGINE) if one.wall_ns <= until_ns]
    last = {one.record["kind"]: one for one in timed}
    assert last["steps"].record["marks"] == {"at_ns": []}
    more = [later for kind in ("steps", "gpu") for later in _repeated(last[kind])]
    sequence = timed[-1].record["seq"]
    for number, one in enumerate(sorted(more, key=lambda one: one.wall_ns), start=1):
        timed.append(TimedRecord(one.wall_ns, one.record | {"seq": sequence + number}))
    return timed


def _repeated(last: TimedRecord) -> Iterator[TimedRecord]:
    """A record of idleness over and over: times and the energy counter go on, everything else stays."""
    record = last.record
    if record["kind"] == "steps":
        steps = {"until_ns": 5 * SECOND, "open_ns": 5 * SECOND, "base_ns": 5 * SECOND}
        period = 5 * SECOND
    else:
        steps = {name: record[name][-1] - 2 * record[name][0] + record[name][1] for name in ("at_ns", "energy_mj")}
        period = steps["at_ns"]
    for i in range(1, LONGER_SECONDS * SECOND // period + 1):
        moved = {
            name: record[name] + i * step if record["kind"] == "steps" else [value + i * step for value in record[name]]
            for name, step in steps.items()
        }
        yield TimedRecord(last.wall_ns + i * period, record | moved)


def _expositions(timed: Sequence[TimedRecord], moments: Iterable[int]) -> Iterator[str]:
    """What Farthing exports at each moment, its probe's records having come as they were sent."""
    raw = raw_of(one.record | TIER if one.record["kind"] == "usage" else one.record for one in timed)
    now = [0]
    settings = Settings.model_validate({"engines": [{"name": ENGINE, "url": "http://engine:8000"}]})
    ledger = Ledger.open("sqlite://")
    keeper = Accountant(
        ledger,
        settings,
        price_book(settings),
        clock_ns=lambda: now[0],
        gauges=lambda: {ENGINE: EngineGauges(scrape_up=True)},
    )
    shown: list[Snapshot] = []
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: shown[-1]))
    sent = 0
    for at in moments:
        upto = next((i for i in range(sent, len(timed)) if timed[i].wall_ns > at), len(timed))
        ledger.add(raw[sent:upto])
        sent, now[0] = upto, at
        keeper.advance()
        shown[:] = [keeper.snapshot()]
        yield exposition(registry, "")[0].decode()
    ledger.close()


def _values(text: str, wanted: frozenset[str], job: str, instance: str) -> dict[Series, float]:
    scrape = {"job": job, "instance": instance}
    values = {("up", labels_text(scrape)): 1.0}
    lines = [line for line in text.splitlines() if re.split(r"[{ ]", line, maxsplit=1)[0] in wanted]
    for family in text_string_to_metric_families("\n".join([*lines, ""])):
        for sample in family.samples:
            values[sample.name, labels_text(sample.labels | scrape)] = sample.value
    return values


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as an exposition has them between its braces."""
    return ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()) if name != "__name__")


def phases(name: str, wanted: frozenset[str]) -> Iterator[Phase]:
    """Every phase of a packaged recording, and the whole of it as the phase ``whole``."""
    recording = load_recording(name)
    engine, farthing = _pictures(recording, wanted)
    yield Phase(name, WHOLE, tuple(engine), tuple(farthing))
    for phase, (begin, end) in spans(name).items():
        seen = tuple(picture for picture in engine if begin <= picture.at_ns < end)
        settled = begin + SETTLED_SECONDS.get(phase, USUALLY_SETTLED_SECONDS) * SECOND
        yield Phase(name, phase, seen, tuple(picture for picture in farthing if settled <= picture.at_ns < end))


def spans(name: str) -> dict[str, tuple[int, int]]:
    """Phase -> from when to when (UTC nanoseconds) the load generator was in it; not of its warming up."""
    starts = [line.split()[1:] for line in (PACKAGED / name / "phases.txt").read_text().splitlines()]
    moments = [nanoseconds(Decimal(at)) for _, at in starts]
    found = {phase: span for (phase, _), span in zip(starts, pairwise([*moments, 1 << 62]), strict=True)}
    del found["warmup"]
    return found
