"""Erase a user: the one field that holds personal data is emptied, and nothing else in the ledger changes.

Users stand in the lines of usage records alone: costs are booked to tenants, and requests have no user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from farthing.domain.errors import LedgerError
from farthing.ledger import tables as t
from farthing.ledger.database import is_postgresql, snapshot, transaction
from farthing.ledger.evidence import user_span, without_user
from farthing.ledger.seals import chained
from farthing.ledger.verify_sums import stream

__all__ = ["Erased", "erase_user"]

_CHUNK = 1_000
_FREE_TEXT = ("request_id", "trace_id", "tenant", "project", "workload", "tier")
"""What senders put into requests as they please, and what money is booked by: it is told, not erased."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What erasing a user came to."""

    records: int
    """Whose user was removed."""
    elsewhere: dict[str, int]
    """Column of ``requests`` -> how many rows hold the user's name in it, and still do."""


def erase_user(engine: Engine, users: Sequence[str], *, now_ns: int) -> Erased:
    """Empty the user of every record that names one of ``users``, and log how many that were, never who.

    ``users`` are the names of one person as records hold them: a pseudonym, and perhaps the plain name. Every other
    byte of the records stays, and so do all hashes over them; what the database keeps of the old rows is overwritten.
    ``now_ns`` is UTC. Raises LedgerError when a name is empty or the database fails.
    """
    if not users or not all(users):
        raise LedgerError("no user to erase: give the name as records hold it, see docs/ledger.md")
    with snapshot(engine) as connection:
        last = int(connection.execute(sa.select(sa.func.max(t.records.c.id))).scalar() or 0)
        ids = _naming(connection, users, 0)
        elsewhere = _elsewhere(connection, users)
    with transaction(engine, write=True) as connection:
        if not is_postgresql(connection):
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        # what came meanwhile
        ids += _naming(connection, users, last)
        for place in range(0, len(ids), _CHUNK):
            _empty(connection, ids[place : place + _CHUNK])
        _log(connection, len(ids), now_ns)
    _wipe(engine)
    return Erased(len(ids), elsewhere)


def _naming(connection: Connection, users: Sequence[str], after_id: int) -> list[int]:
    """The records after an id that name one of the users."""
    r = t.records.c
    held = [_holds(connection, msgspec.json.encode(user)) for user in users]
    query = sa.select(r.id, r.line).where(r.kind == "usage", r.id > after_id, sa.or_(*held))
    found = []
    for row in stream(connection, query):
        line = bytes(row.line)
        span = user_span(line)
        if span is not None and msgspec.json.decode(line[slice(*span)]) in users:
            found.append(int(row.id))
    return found


def _holds(connection: Connection, text: bytes) -> sa.ColumnElement[bool]:
    """Whether a line has some bytes in it."""
    sought = sa.literal(text, sa.LargeBinary)
    if is_postgresql(connection):
        return sa.func.position(sought.op("IN")(t.records.c.line)) > 0
    return sa.func.instr(t.records.c.line, sought) > 0


def _empty(connection: Connection, ids: Sequence[int]) -> None:
    r = t.records.c
    rows = connection.execute(sa.select(r.id, r.line).where(r.id.in_(ids))).all()
    changed = [{"b_id": row.id, "b_line": without_user(bytes(row.line))} for row in rows]
    if changed:
        update = sa.update(t.records).where(r.id == sa.bindparam("b_id")).values(line=sa.bindparam("b_line"))
        connection.execute(update, changed)


def _log(connection: Connection, records: int, now_ns: int) -> None:
    e = t.erasures.c
    last = connection.execute(sa.select(e.number, e.sha256).order_by(e.number.desc()).limit(1)).first()
    number, previous = (int(last.number), last.sha256) if last else (0, "")
    values = {"number": number + 1, "at_ns": now_ns, "records": records}
    connection.execute(sa.insert(t.erasures), {**values, "sha256": chained(previous, list(values.values()))})


def _elsewhere(connection: Connection, users: Sequence[str]) -> dict[str, int]:
    """Where else requests hold the name: (column, rows) of those that have any."""
    q = t.requests.c
    named = {name: sa.or_(*(q[name].contains(user, autoescape=True) for user in users)) for name in _FREE_TEXT}
    counts = [sa.func.sum(sa.case((condition, 1), else_=0)).label(name) for name, condition in named.items()]
    row = connection.execute(sa.select(*counts)).one()
    return {name: int(rows) for name, rows in row._mapping.items() if rows}


def _wipe(engine: Engine) -> None:
    """Overwrite what the database still has of the old rows: the log of writes, and dead rows."""
    if is_postgresql(engine):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM records"))
        return
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        if driver is not None:
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
