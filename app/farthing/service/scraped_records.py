"""Counters of engines without the probe as the inbox keeps them, however they were read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import sqlalchemy as sa

from farthing.collectors.wire import decode_line, decode_raw
from farthing.domain import conventions as c
from farthing.domain.records import Counters, Lifecycle, RawRecord, RecordKey, Started
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing_probe import wire

__all__ = ["last_counters", "next_sequence", "raw_record"]


def next_sequence(ledger: Ledger, boot: str) -> int:
    """The first sequence that the inbox has not of a boot by its own name; 0 where it does not know the boot."""
    return ledger.next_sequence(c.SCRAPED_BOOT + boot, 0)


def last_counters(ledger: Ledger, engine: str) -> Counters | None:
    """The latest counters that the inbox has of an engine, under the boot's own name; None where it has none."""
    r = t.records.c
    prefix = f"{c.SCRAPED_BOOT}{engine}/"
    kept = sa.select(r.id, r.line).where(r.kind == "counters")
    if ledger.engine.dialect.name == "sqlite":
        # an inbox of months is not searched for an engine that is new: its boots are found by the index
        latest = (
            kept.where(r.boot == boot).order_by(r.process.desc(), r.sequence.desc()) for boot in _boots(ledger, prefix)
        )
        rows = [row for query in latest for row in ledger.select(query.limit(1))]
    else:
        # their order in the index depends on the database's locale
        rows = list(
            ledger.select(kept.where(r.boot.startswith(prefix, autoescape=True)).order_by(r.id.desc()).limit(1))
        )
    if not rows:
        return None
    record = decode_line(bytes(max(rows, key=lambda row: row.id).line))
    if not isinstance(record, Counters):
        return None
    boot = record.key.boot.removeprefix(c.SCRAPED_BOOT)
    return replace(record, key=RecordKey(boot, record.key.process, record.key.sequence))


def _boots(ledger: Ledger, prefix: str) -> Iterator[str]:
    """The boots in the inbox whose names begin so, one search of the index each; by the order of their bytes."""
    r = t.records.c
    beyond = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    last = prefix
    while True:
        ((boot,),) = ledger.select(sa.select(sa.func.min(r.boot)).where(r.boot > last, r.boot < beyond))
        if boot is None:
            return
        yield boot
        last = boot


def raw_record(record: Started | Counters | Lifecycle) -> RawRecord:
    """A scraped record as the inbox keeps it; its boot is marked, since the engine's probe may have one too."""
    boot, process, sequence = c.SCRAPED_BOOT + record.key.boot, record.key.process, record.key.sequence
    if isinstance(record, Started):
        line = wire.started(
            boot,
            process,
            sequence,
            at_ns=record.at_ns,
            wall_ns=record.at_ns,
            engine=record.engine,
            engine_kind=record.kind,
            version=record.version,
            model=record.model,
            gpu=record.gpu,
            gpu_count=record.gpu_count,
        )
    elif isinstance(record, Counters):
        line = wire.counters(boot, process, sequence, at_ns=record.at_ns, values=record.values, gauges=record.gauges)
    else:
        line = wire.lifecycle(boot, process, sequence, at_ns=record.at_ns, event=record.event)
    return decode_raw(json.dumps(line, separators=(",", ":")).encode())
