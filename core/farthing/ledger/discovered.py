"""What the ledger remembers of engines that were discovered: their prices must outlive what they are discovered by."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.posting import insert_new
from farthing.ledger.repository import Ledger

__all__ = ["discovered_engines", "note_discovered"]


def discovered_engines(ledger: Ledger) -> dict[str, str]:
    """engine -> JSON of its settings as they were discovered last, in the order in which engines were discovered."""
    d = t.discovered_engines.c
    rows = ledger.select(sa.select(d.engine, d.settings).order_by(d.since_ns, d.engine))
    return {row.engine: row.settings for row in rows}


def note_discovered(ledger: Ledger, settings: Mapping[str, str], now_ns: int) -> None:
    """Remember the JSON of some engines' settings, by name; since when each is known stays. ``now_ns`` is UTC.

    Raises LedgerError when it cannot be written: then none of them is.
    """
    if not settings:
        return
    rows = [
        {"engine": engine, "settings": text, "since_ns": now_ns, "changed_ns": now_ns}
        for engine, text in settings.items()
    ]
    d = t.discovered_engines.c
    changed = (
        sa.update(t.discovered_engines)
        .where(d.engine == sa.bindparam("of"))
        .values(settings=sa.bindparam("text"), changed_ns=now_ns)
    )
    with transaction(ledger.engine, write=True) as connection:
        connection.execute(insert_new(connection, t.discovered_engines), rows)
        connection.execute(changed, [{"of": engine, "text": text} for engine, text in settings.items()])
