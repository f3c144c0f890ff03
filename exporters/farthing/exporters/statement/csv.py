"""A statement as CSV: a row a line, amounts exact, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import Final

from farthing.books.statement import Statement, StatementLine
from farthing.domain.money import from_nano
from farthing.domain.spreadsheets import uncomputed
from farthing.exporters.statement.rows import line_values

__all__ = ["COLUMNS", "statement_csv"]

COLUMNS: Final = (
    "invoice_id",
    "line",
    "statement_kind",
    "invoice_issuer",
    "recipient",
    "billing_period",
    "billing_period_start",
    "billing_period_end",
    "service_period",
    "section",
    "tenant",
    "project",
    "cost_centre",
    "gl_account",
    "charge_description",
    "account",
    "phase",
    "reason",
    "model",
    "tier",
    "method",
    "consumed_quantity",
    "consumed_unit",
    "unit_price",
    "unit_price_per",
    "billed_cost",
    "billed_cost_nano",
    "billing_currency",
    "pricing_status",
)
SECOND_NS: Final = 1_000_000_000


def statement_csv(statement: Statement) -> bytes:
    """UTF-8 CSV (RFC 4180) with a head and without totals: a sum over ``billed_cost_nano`` is the exact total.

    An unpriced line has an empty amount and says so in ``pricing_status``. Text that a spreadsheet would run as a
    formula gets a leading apostrophe (OWASP: CSV injection); amounts are numbers, so a minus sign stays bare.
    """
    buffer = io.StringIO()
    # RFC 4180's line ends: with "\n" alone Python leaves a bare carriage return unquoted, and readers end the row there
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(_row(statement, line) for line in statement.lines)
    return buffer.getvalue().encode()


def _row(statement: Statement, line: StatementLine) -> dict[str, str | int | None]:
    row = {name: _text(value) for name, value in line_values(statement, line).items()}
    row["unit_price"] = _exact(line.unit_price_nano)
    row["billed_cost"] = _exact(line.amount_nano)
    row["billing_period_start"] = _moment(statement.start_ns)
    row["billing_period_end"] = _moment(statement.end_ns)
    del row["unit_price_nano"]
    return row


def _text(value: str | int | None) -> str | int | None:
    return uncomputed(value) if isinstance(value, str) else value


def _exact(nano: int | None) -> str | None:
    """All nine decimals, never an exponent."""
    return None if nano is None else f"{from_nano(nano):.9f}"


def _moment(ns: int) -> str:
    """ISO 8601 in UTC, to the second, as FOCUS writes dates."""
    return datetime.fromtimestamp(ns // SECOND_NS, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
