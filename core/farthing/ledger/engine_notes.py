"""What the ledger remembers of engines beside their books: whose probe has reported, and who has no price."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from farthing.domain.conventions import SCRAPED_BOOT
from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.posting import insert_new
from farthing.ledger.repository import Ledger

__all__ = ["Unpriced", "forget_unpriced", "note_probed", "note_unpriced", "probed_since", "unpriced_engines"]


@dataclass(frozen=True, slots=True)
class Unpriced:
    """An engine that no price applies to: its records are kept, and its work is in no amount."""

    engine: str
    model: str
    gpu: str
    gpu_count: int
    since_ns: int
    """UTC nanoseconds."""
    reason: str


def note_probed(ledger: Ledger, engine: str, record_id: int) -> None:
    """Remember the record in whose arrival an engine's probe first reported; the first one stays."""
    with transaction(ledger.engine, write=True) as connection:
        connection.execute(insert_new(connection, t.probed_engines), [{"engine": engine, "first_id": record_id}])


def probed_since(ledger: Ledger) -> dict[str, int]:
    """engine -> the record in whose arrival its probe reported for the first time.

    The inbox is asked only about engines whose books were written without this note, as a replay does.
    """
    p, b, r = t.probed_engines.c, t.boots.c, t.records.c
    found = {row.engine: int(row.first_id) for row in ledger.select(sa.select(t.probed_engines))}
    probed = ~b.boot.startswith(SCRAPED_BOOT, autoescape=True)
    without = sa.select(b.boot, b.engine).where(probed, b.engine.not_in(sa.select(p.engine)))
    for boot, engine in ledger.select(without):
        first = sa.select(sa.func.min(r.id)).where(r.boot == boot, r.kind == "started")
        ((record_id,),) = ledger.select(first)
        if record_id is not None:
            found[engine] = min(found.get(engine, record_id), int(record_id))
            note_probed(ledger, engine, found[engine])
    return found


def note_unpriced(ledger: Ledger, engine: Unpriced) -> None:
    """Remember that no price applies to an engine; since when stays as it was first noted."""
    with transaction(ledger.engine, write=True) as connection:
        connection.execute(insert_new(connection, t.unpriced_engines), [asdict(engine)])
        changed = {name: getattr(engine, name) for name in ("model", "gpu", "gpu_count", "reason")}
        u = t.unpriced_engines.c
        connection.execute(sa.update(t.unpriced_engines).where(u.engine == engine.engine).values(**changed))


def forget_unpriced(ledger: Ledger, engine: str) -> None:
    """A price applies to the engine now."""
    with transaction(ledger.engine, write=True) as connection:
        connection.execute(sa.delete(t.unpriced_engines).where(t.unpriced_engines.c.engine == engine))


def unpriced_engines(ledger: Ledger) -> tuple[Unpriced, ...]:
    """Engines that no price applies to, by name."""
    rows = ledger.select(sa.select(t.unpriced_engines).order_by(t.unpriced_engines.c.engine))
    return tuple(Unpriced(**row._mapping) for row in rows)
