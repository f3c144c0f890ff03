"""A statement as JSON: the canonical document itself, from which everything else is rendered."""

from __future__ import annotations

from farthing.books.statement import Statement, encode_statement

__all__ = ["statement_json"]


def statement_json(statement: Statement) -> bytes:
    """The canonical bytes, as they are stored and hashed; ``farthing.books.statement`` reads them back."""
    return encode_statement(statement)
