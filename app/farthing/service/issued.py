"""Statements that were issued: read as they were, and what was said of them since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from farthing.books.statement import Statement, decode_statement, sha256_of
from farthing.domain.errors import PeriodError
from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.repository import Ledger

__all__ = [
    "DISPUTED",
    "Issued",
    "is_issued_to",
    "issued_statement",
    "issued_statements",
    "mark_dispute",
    "statement_document",
]

DISPUTED = "disputed"
MARKS = (DISPUTED, "resolved", "withdrawn")


@dataclass(frozen=True, slots=True)
class Issued:
    """A statement in a list."""

    number: str
    period: str
    tenant: str
    total_nano: int
    sha256: str
    disputed: int
    """Lines, or the whole statement, that somebody disputes still."""


def issued_statements(ledger: Ledger, period: str | None, tenant: str | None) -> list[Issued]:
    """What was issued, by number; all of it, or of one period or tenant."""
    s, d = t.statements.c, t.dispute_marks.c
    query = sa.select(s.number, s.period, s.tenant, s.total_nano, s.sha256).order_by(s.number)
    if period is not None:
        query = query.where(s.period == period)
    if tenant is not None:
        query = query.where(s.tenant == tenant)
    marks = sa.select(d.number, d.line, d.mark).order_by(d.id)
    with transaction(ledger.engine) as connection:
        rows = connection.execute(query).all()
        last = {(row.number, row.line): row.mark for row in connection.execute(marks)}
    open_marks = Counter(number for (number, _), mark in last.items() if mark == DISPUTED)
    return [
        Issued(row.number, row.period, row.tenant, int(row.total_nano), row.sha256, open_marks[row.number])
        for row in rows
    ]


def is_issued_to(ledger: Ledger, number: str, tenants: Collection[str]) -> bool:
    """Whether there is a statement of that number for one of some tenants; the document is not read for it."""
    s = t.statements.c
    query = sa.select(s.number).where(s.number == number, s.tenant.in_(sorted(tenants)))
    with transaction(ledger.engine) as connection:
        return connection.execute(query).first() is not None


def statement_document(ledger: Ledger, number: str) -> bytes:
    """A statement's canonical bytes, as issued.

    Raises PeriodError when there is none of that number, or the ledger's copy is not what was issued.
    """
    s = t.statements.c
    with transaction(ledger.engine) as connection:
        row = connection.execute(sa.select(s.document, s.sha256).where(s.number == number)).first()
    if row is None:
        raise PeriodError(f"there is no statement {number!r}; farthing statement list shows those that were issued")
    document = bytes(row.document)
    if sha256_of(document) != row.sha256:
        raise PeriodError(f"statement {number}: the ledger's copy was altered; restore it from a backup")
    return document


def issued_statement(ledger: Ledger, number: str) -> Statement:
    """A statement as issued; errors as of ``statement_document``."""
    return decode_statement(statement_document(ledger, number))


def mark_dispute(  # noqa: PLR0917 - the columns of a mark
    ledger: Ledger, number: str, line: int | None, by: str, mark: str, note: str, *, now_ns: int
) -> None:
    """Write down what somebody says of a statement or a line; the statement stays as it is.

    Raises PeriodError when there is no such line, nobody says it, or what is not disputed is to be settled.
    """
    statement = issued_statement(ledger, number)
    if line is not None:
        statement.line(line)
    if mark not in MARKS:
        raise PeriodError(f"mark {mark!r}: give one of {', '.join(MARKS)}")
    if not by.strip() or not note.strip():
        raise PeriodError("a mark needs who says it and why; give --by and --note")
    d = t.dispute_marks.c
    place = d.line.is_(None) if line is None else d.line == line
    last = sa.select(d.mark).where(d.number == number, place).order_by(d.id.desc()).limit(1)
    with transaction(ledger.engine, write=True) as connection:
        current = connection.execute(last).scalar()
        if (mark == DISPUTED) == (current == DISPUTED):
            state = "disputed already" if current == DISPUTED else "not disputed"
            raise PeriodError(f"{number}{'' if line is None else f'/{line}'} is {state}; there is nothing to mark")
        values = {"number": number, "line": line, "at_ns": now_ns, "marked_by": by, "mark": mark, "note": note}
        connection.execute(sa.insert(t.dispute_marks), values)
