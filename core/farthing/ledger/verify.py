"""Verify a ledger: recompute what can be told twice, and name the first row where the two do not agree."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Connection, Engine

from farthing.domain.model import Check
from farthing.ledger import verify_books as books
from farthing.ledger import verify_boots as boots
from farthing.ledger import verify_documents as documents
from farthing.ledger import verify_sums as sums
from farthing.ledger.database import snapshot
from farthing.ledger.verify_sums import Found, Scope

__all__ = ["CHECKS", "verify", "verify_within"]

CHECKS: tuple[Callable[[Scope], Found], ...] = (
    documents.tables_refuse_changes,
    documents.seals_are_unbroken,
    sums.cost_hours_are_the_journals,
    sums.boot_lines_are_the_journals,
    sums.usage_hours_are_the_requests,
    sums.saving_hours_are_the_requests,
    sums.window_hours_are_the_windows,
    books.windows_tile_their_boot,
    books.windows_are_the_journals,
    boots.boots_are_settled_and_in_progress,
    boots.boots_used_no_less_than_their_windows,
    books.requests_are_the_journals,
    books.requests_are_the_records,
    books.adjustments_have_windows,
    boots.versions_are_kept,
    boots.fits_are_kept,
    documents.closings_are_the_books,
    documents.inputs_are_those_of_the_closings,
    documents.statements_are_as_issued,
    documents.statement_lines_are_the_statements,
    documents.disputes_have_lines,
)
"""In the order in which they are reported. A check's name is its function's."""

Progress = Callable[[str, int, int], None]
"""Told a check's name, how many are done, and how many there are."""


def _silent(_name: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def verify(engine: Engine, progress: Progress = _silent) -> tuple[Check, ...]:
    """Every check of the ledger at one moment; those that are not ok name the first wrong row.

    Others may go on writing. Raises LedgerError when the database fails.
    """
    with snapshot(engine) as connection:
        return verify_within(connection, progress)


def verify_within(connection: Connection, progress: Progress = _silent) -> tuple[Check, ...]:
    """As ``verify``, within a transaction."""
    scope = Scope(connection)
    found = []
    for place, check in enumerate(CHECKS):
        progress(check.__name__, place, len(CHECKS))
        result = check(scope)
        found.append(Check(check.__name__, not result.bad, result.bad or f"{result.rows} rows"))
    progress("", len(CHECKS), len(CHECKS))
    return tuple(found)
