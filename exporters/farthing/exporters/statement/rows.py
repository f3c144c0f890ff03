"""The columns that a statement's line has for programs, once for every tabular format.

They carry the names of the FinOps Foundation's FOCUS specification in snake case where it has a column of that meaning
(``invoice_id``, ``billing_period_start``, ``charge_description``, ``consumed_quantity``, ``billed_cost``).
docs/statements.md lists them.
"""

from __future__ import annotations

from typing import Final

from farthing.books.statement import Statement, StatementLine

__all__ = ["PRICED", "UNPRICED", "line_values"]

PRICED: Final = "priced"
UNPRICED: Final = "unpriced"


def line_values(statement: Statement, line: StatementLine) -> dict[str, str | int | None]:
    """A line by column, in order: amounts in nano-units, moments in UTC nanoseconds, None for what nobody knows."""
    return {
        "invoice_id": statement.number,
        "line": line.line,
        "statement_kind": statement.kind,
        "invoice_issuer": statement.issuer.name,
        "recipient": statement.recipient.name,
        "billing_period": statement.period,
        "billing_period_start": statement.start_ns,
        "billing_period_end": statement.end_ns,
        "service_period": line.service_period,
        "section": line.section,
        "tenant": line.tenant,
        "project": line.project,
        "cost_centre": line.cost_centre,
        "gl_account": line.gl_account,
        "charge_description": line.description,
        "account": line.account,
        "phase": line.phase,
        "reason": line.reason,
        "model": line.model,
        "tier": line.tier,
        "method": line.method,
        "consumed_quantity": line.quantity,
        "consumed_unit": line.unit,
        "unit_price_nano": line.unit_price_nano,
        "unit_price_per": None if line.unit_price_nano is None else line.unit_size,
        "billed_cost_nano": line.amount_nano,
        "billing_currency": statement.currency,
        "pricing_status": UNPRICED if line.amount_nano is None else PRICED,
    }
