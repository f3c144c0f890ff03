"""What a Prometheus would have scraped of Farthing while each recording was in its intake: its own exporter's text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from tests.dashboards.laps import Lap, Series, lap_of, read_exposition
from tests.dashboards.recorded_engines import Kind
from tests.service.books import raw_of

from farthing.collectors.intake import IntakeCounts
from farthing.domain import conventions as names
from farthing.domain.clock import SECOND
from farthing.domain.model import EngineGauges, Snapshot
from farthing.exporters.prometheus import SnapshotCollector, exposition
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.wire_records import TimedRecord, wire_records
from farthing.service.accountant import Accountant
from farthing.service.server import price_book
from farthing.settings import Settings

__all__ = ["PROJECTS", "Books", "recorded_books"]

STEP_SECONDS = 5
"""How far apart Farthing's expositions are."""
PROJECTS = {
    "acme": "search",
    "globex": "support",
    "initech": "support",
    "umbrella": "labs",
    "clinic-a": "imaging",
    "clinic-b": "imaging",
    "claims": "forms",
    "research": "labs",
}
"""Tenant of the recordings -> the project that its clients name."""
HOURLY = (t.cost_hours, t.usage_hours, t.saving_hours, t.window_hours)

Row = dict[str, Any]


@dataclass(frozen=True)
class Books:
    """A recording's books: what was exported while they were kept, and their hourly sums at the end."""

    lap: Lap
    hours: dict[str, list[Row]]
    """Table -> rows."""


def recorded_books(kind: Kind, settings: Settings, engine: str, wanted: frozenset[str] | None) -> Books:
    """The books of one pass through a recording, by the engine's name and settings in the world.

    Clients name a tier and a project as their workload and tenant have it, which those of the recording did not.
    """
    recording = kind.load()
    timed = [_named(one, kind) for one in wire_records(recording, boot="b", engine=engine, model=kind.model)]
    timed = _with_late_ones(timed, recording.end_ns, kind.late_records)
    count = kind.seconds // STEP_SECONDS
    moments = [recording.start_ns + i * STEP_SECONDS * SECOND for i in range(count + 1)]
    ledger = Ledger.open("sqlite://")
    try:
        pictures: list[tuple[float, dict[Series, float]]] = []
        # everything is settled once the engine has stopped: the last picture is what one lap comes to
        for at, text in _expositions(ledger, settings, engine, timed, [*moments, moments[0] + kind.seconds * SECOND]):
            pictures.append(((at - recording.start_ns) / SECOND, read_exposition(text, wanted)))
        hours = {table.name: [dict(row._mapping) for row in ledger.select(sa.select(table))] for table in HOURLY}
    finally:
        ledger.close()
    return Books(lap_of(kind.seconds, [(at, _ended(one, pictures)) for at, one in pictures], carried=True), hours)


def _ended(picture: dict[Series, float], pictures: list[tuple[float, dict[Series, float]]]) -> dict[Series, float]:
    """A picture with work in progress that is over as 0: a scrape would mark the series as ended, which text cannot."""
    over = {key: 0.0 for _, one in pictures for key in one if key[0] == names.METRIC_WIP}
    return {**over, **picture}


def _with_late_ones(timed: list[TimedRecord], end_ns: int, number: int) -> list[TimedRecord]:
    """The records in the order of their arrival: the first requests' come just before the end."""
    late = [one for one in timed if one.record["kind"] == "usage"][:number]
    moved = [TimedRecord(end_ns - 2 * SECOND, one.record) for one in late]
    return sorted([*(one for one in timed if one not in late), *moved], key=lambda one: one.wall_ns)


def _named(timed: TimedRecord, kind: Kind) -> TimedRecord:
    record = timed.record
    if record["kind"] != "usage":
        return timed
    tier = kind.tiers.get(record.get("workload", ""), "interactive")
    who = {"tenant": record["tenant"], "project": PROJECTS[record["tenant"]]}
    if record["tenant"] == kind.nameless:
        who = {"tenant": "", "project": ""}
    return TimedRecord(timed.wall_ns, {**record, "tier": tier, **who})


def _expositions(
    ledger: Ledger, settings: Settings, engine: str, timed: list[TimedRecord], moments: list[int]
) -> Iterator[tuple[int, str]]:
    """What Farthing exports at each moment, its probe's records having come as they were sent."""
    raw = raw_of(one.record for one in timed)
    now = [moments[0]]
    counts = IntakeCounts()
    keeper = Accountant(
        ledger,
        settings,
        price_book(settings),
        clock_ns=lambda: now[0],
        gauges=lambda: {engine: EngineGauges(scrape_up=True)},
        intake=counts.view,
    )
    shown: list[Snapshot] = []
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: shown[-1]))
    sent = 0
    for at in moments:
        upto = next((i for i in range(sent, len(timed)) if timed[i].wall_ns > at), len(timed))
        ledger.add(raw[sent:upto])
        for one in timed[sent:upto]:
            counts.add(one.record["kind"], "accepted")
        sent = upto
        now[0] = at
        keeper.advance()
        shown[:] = [keeper.snapshot()]
        yield at, exposition(registry, "")[0].decode()
    assert sent == len(timed), "records after the lap's end"
