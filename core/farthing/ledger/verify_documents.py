"""Closings, statements, disputes, seals and triggers: what is issued says what the books say, and stays so."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from farthing.books.closing import ClosingDocument, decode_closing
from farthing.books.statement import Statement, decode_statement, sha256_of
from farthing.domain.errors import PeriodError
from farthing.ledger import tables as t
from farthing.ledger.append_only import is_protected
from farthing.ledger.evidence import evidence_hash
from farthing.ledger.period_books import InputHashes, PeriodBooks
from farthing.ledger.seals import chained
from farthing.ledger.verify_sums import Found, Scope

__all__ = [
    "closings_are_the_books",
    "disputes_have_lines",
    "inputs_are_those_of_the_closings",
    "seals_are_unbroken",
    "statement_lines_are_the_statements",
    "statements_are_as_issued",
    "tables_refuse_changes",
]


def closings_are_the_books(scope: Scope) -> Found:
    """Every closing is as it was signed, its amounts add up to what was posted, and follow from the one before."""
    books = PeriodBooks(scope.connection)
    before: ClosingDocument | None = None
    rows = scope.rows(sa.select(t.closings).order_by(t.closings.c.period))
    for row in rows:
        try:
            bad, before = _closing(row, books, before)
        except PeriodError as error:
            bad = str(error)
        if bad:
            return Found(len(rows), f"closings: {row.period}: {bad}")
    return Found(len(rows))


def inputs_are_those_of_the_closings(scope: Scope) -> Found:
    """The input records of every boot in a closing are those that it was computed from, except erased users."""
    books = PeriodBooks(scope.connection)
    hashes = InputHashes(evidence_hash)
    pruned = scope.sealed.boots.get("records", frozenset())
    looked = 0
    for period in books.closed():
        try:
            document = books.closing(period)
        except PeriodError:
            continue  # said by the check of closings
        for boot in document.boots if document else ():
            if not boot.sha256 or pruned.intersection(boot.members):
                continue
            looked += 1
            if hashes.through(books, boot.members, boot.read_id) != boot.sha256:
                return Found(looked, f"records: those of boot {boot.name} are not those that {period} was closed with")
    return Found(looked)


def statements_are_as_issued(scope: Scope) -> Found:
    """Every statement is as it was issued, and a period's statements add up to what it settled."""
    s, k = t.statements.c, t.closings.c
    settled = (k.opening_wip_nano + k.bill_nano - k.closing_wip_nano).label("settled")
    names = (k.period, k.signed_by, k.closed_ns, k.policy_version)
    closings = {row.period: row for row in scope.rows(sa.select(*names, settled))}
    totals: dict[str, int] = {}
    numbers = [row[0] for row in scope.rows(sa.select(s.number).order_by(s.number))]
    for number in numbers:
        # one at a time: documents are long
        (row,) = scope.rows(sa.select(t.statements).where(s.number == number))
        if bad := _statement(row, closings.get(row.period)):
            return Found(len(numbers), f"statements: {number}: {bad}")
        totals[row.period] = totals.get(row.period, 0) + int(row.total_nano)
    for period, total in sorted(totals.items()):
        if total != closings[period].settled:
            bad = f"statements: those of {period} add up to {total} nano, and it settled {closings[period].settled}"
            return Found(len(numbers), bad)
    return Found(len(numbers))


def statement_lines_are_the_statements(scope: Scope) -> Found:
    """The lines beside the statements are those in them."""
    names = [column.name for column in t.statement_lines.columns if column.name != "number"]
    lines = t.statement_lines.c
    rows, seen = 0, 0
    for number, document in scope.rows(sa.select(t.statements.c.number, t.statements.c.document)):
        try:
            statement = decode_statement(bytes(document))
        except PeriodError:
            continue  # said by the check of statements
        query = sa.select(*(lines[name] for name in names)).where(lines.number == number).order_by(lines.line)
        found = [tuple(row) for row in scope.rows(query)]
        expected = sorted(tuple(getattr(line, name) for name in names) for line in statement.lines)
        rows += len(found)
        seen += 1
        for one, other in zip(found, expected, strict=False):
            if one != other:
                return Found(rows, f"statement_lines: {number}, line {one[0]} is not the statement's")
        if len(found) != len(expected):
            return Found(rows, f"statement_lines: {number} has {len(found)} lines and its statement {len(expected)}")
    total = scope.count(t.statement_lines)
    return Found(total, "" if rows == total else "statement_lines: some are of no statement")


def disputes_have_lines(scope: Scope) -> Found:
    """Every mark of a dispute is on a statement, or on a line of one."""
    d, s, lines = t.dispute_marks.c, t.statements.c, t.statement_lines.c
    statement = sa.select(s.number).where(s.number == d.number).exists()
    line = sa.select(lines.line).where(lines.number == d.number, lines.line == d.line).exists()
    lost = ~statement | (d.line.is_not(None) & ~line)
    row = scope.connection.execute(sa.select(d.id, d.number, d.line).where(lost).order_by(d.id).limit(1)).first()
    bad = "" if row is None else f"dispute_marks: {row.id} is on line {row.line} of statement {row.number}, not there"
    return Found(scope.count(t.dispute_marks), bad)


def seals_are_unbroken(scope: Scope) -> Found:
    """Every seal, and every entry in the log of erasures, is bound to the one before by its hash."""
    rows = 0
    for table in (t.seals, t.erasures):
        previous = ""
        for place, row in enumerate(scope.rows(sa.select(table).order_by(table.c.number)), 1):
            rows += 1
            *values, sha256 = row
            previous = chained(previous, values)
            if sha256 != previous or row.number != place:
                return Found(rows, f"{table.name}: number {row.number} is not as it was written")
    return Found(rows)


def tables_refuse_changes(scope: Scope) -> Found:
    """The triggers that keep rows as they were written are there, and do so."""
    open_tables = [table for table in t.APPEND_ONLY if not is_protected(scope.connection, table)]
    bad = f"{open_tables[0]}: nothing keeps its rows from being changed or deleted" if open_tables else ""
    return Found(len(t.APPEND_ONLY), bad)


# ---- inside ------------------------------------------------------------------------------------------


def _closing(row: Any, books: PeriodBooks, before: ClosingDocument | None) -> tuple[str, ClosingDocument]:
    if sha256_of(bytes(row.document)) != row.sha256:
        raise PeriodError("its document is not the one that was signed: its SHA-256 differs")
    document = decode_closing(bytes(row.document))
    facts = document.facts
    said = (facts.period, facts.opening_wip_nano, facts.bill_nano, facts.closing_wip_nano)
    if said != (row.period, row.opening_wip_nano, row.bill_nano, row.closing_wip_nano):
        return "its amounts are not those of its document", document
    settled = facts.opening_wip_nano + facts.bill_nano - facts.closing_wip_nano
    posted = sum(books.boot_sums(row.period).values())
    if settled != posted:
        return f"opening + bill - closing is {settled} nano, and {posted} were posted", document
    if before is not None and facts.opening_wip_nano != before.facts.closing_wip_nano:
        return "it does not open with what the one before closed with", document
    if sorted(facts.costs) != sorted(books.costs(row.period)):
        return "its costs are not those of cost_hours", document
    if sorted(facts.usage) != sorted(books.usage(row.period)):
        return "its requests are not those of usage_hours and saving_hours", document
    return "", document


def _statement(row: Any, closing: Any) -> str:
    document = bytes(row.document)
    if sha256_of(document) != row.sha256:
        return "it is not as it was issued: its SHA-256 differs"
    try:
        statement: Statement = decode_statement(document)
    except PeriodError as error:
        return str(error)
    said = (statement.number, statement.period, statement.recipient.tenant, statement.total_nano)
    if said != (row.number, row.period, row.tenant, row.total_nano):
        return "its number, period, tenant or total are not those of its document"
    signed = (statement.signed_by, statement.issued_ns, statement.policy_version)
    if closing is None or signed != (closing.signed_by, closing.closed_ns, closing.policy_version):
        return "its signature, time or policy are not those of its period's closing"
    total = sum(line.amount_nano or 0 for line in statement.lines)
    if total != statement.total_nano or total + statement.rounding_nano != statement.payable_nano:
        return f"its lines add up to {total} nano, and its total is {statement.total_nano}"
    return ""
