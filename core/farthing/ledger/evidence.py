"""What a record proves, whoever asked: hashes of inbox lines that stay the same when a user is erased from them."""

from __future__ import annotations

import hashlib
import re

import sqlalchemy as sa

from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.repository import Ledger

__all__ = ["boot_evidence", "evidence_hash", "user_span", "without_user"]

_USER = b'"user"'
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]', re.DOTALL)
"""Strings and punctuation of JSON (RFC 8259, section 2); numbers and names lie between them."""
_ROWS = 2_000


def user_span(line: bytes) -> tuple[int, int] | None:
    """Where the string of a record's own ``user`` field is in its JSON line, quotes included; None: it names nobody."""
    if _USER not in line:
        return None
    depth, before, is_user = 0, b"", False
    for found in _TOKEN.finditer(line):
        token = found[0]
        if token in {b"{", b"["}:
            depth += 1
        elif token in {b"}", b"]"}:
            depth -= 1
        elif depth == 1 and token.startswith(b'"'):
            if before == b":" and is_user:
                return found.span()
            is_user = before in {b"{", b","} and token == _USER
        before = token
    return None


def without_user(line: bytes) -> bytes:
    """The line with an empty user, every other byte as it was."""
    span = user_span(line)
    return line if span is None else b"".join((line[: span[0]], b'""', line[span[1] :]))


def evidence_hash(line: bytes) -> bytes:
    """SHA-256 (32 bytes) of a record's line as if its user were empty: erasing the user keeps it."""
    return hashlib.sha256(without_user(line)).digest()


def boot_evidence(ledger: Ledger, boot: str) -> str:
    """SHA-256 in hexadecimal over the evidence hashes of a boot's records, in the order of their keys.

    Of a boot whose records were pruned it is what they came to then. Raises LedgerError when the ledger fails.
    """
    with transaction(ledger.engine) as connection:
        s = t.seals.c
        sealed = sa.select(s.digest).where(s.table_name == t.records.name, s.boot == boot)
        if digest := connection.execute(sealed).scalar():
            return str(digest)
        return evidence_of(connection, boot)


def evidence_of(connection: sa.Connection, boot: str) -> str:
    """As ``boot_evidence``, of the records that are there, within a transaction."""
    r = t.records.c
    query = sa.select(r.line).where(r.boot == boot).order_by(r.process, r.sequence)
    digest = hashlib.sha256()
    rows = connection.execute(query.execution_options(stream_results=True, max_row_buffer=_ROWS))
    for chunk in rows.partitions(_ROWS):
        for (line,) in chunk:
            digest.update(evidence_hash(bytes(line)))
    return digest.hexdigest()
