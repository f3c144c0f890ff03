"""A statement as Parquet: the columns of ``rows`` with types, and the document's head as the file's metadata."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, Final

import msgspec

from farthing.books.statement import Statement, encode_statement, sha256_of
from farthing.domain.errors import FarthingError
from farthing.exporters.statement.rows import line_values

__all__ = ["METADATA_PREFIX", "statement_parquet"]

MISSING: Final = "Parquet needs pyarrow; install it with: pip install 'farthing[parquet]'"
METADATA_PREFIX: Final = "farthing."
REQUIRED: Final = frozenset({"invoice_id", "line", "section", "pricing_status"})


def statement_parquet(statement: Statement) -> bytes:
    """A row a line; amounts are 64-bit integers of nano-units, null where a line is unpriced.

    The file's metadata has ``farthing.statement`` (the canonical document without its lines), ``farthing.sha256`` (of
    the whole document), and the number, period, currency and totals in keys of their own. Raises FarthingError without
    pyarrow, and when an integer needs more than 64 bits.
    """
    arrow, parquet = _pyarrow()
    schema = _schema(arrow, _metadata(statement))
    rows = [
        {**line_values(statement, line), "basis": msgspec.json.encode(line.basis, order="sorted").decode()}
        for line in statement.lines
    ]
    try:
        table = arrow.Table.from_pylist(rows, schema=schema)
    except (OverflowError, arrow.ArrowInvalid) as error:
        raise FarthingError(
            f"statement {statement.number} holds a number that is too large for Parquet ({error}); "
            "use the json or csv format"
        ) from error
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd", version="2.6")
    return buffer.getvalue()


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow as arrow  # noqa: PLC0415 - an extra, and slow to import
        from pyarrow import parquet  # noqa: PLC0415 - same
    except ImportError as error:
        raise FarthingError(MISSING) from error
    return arrow, parquet


def _schema(arrow: ModuleType, metadata: Mapping[str, str]) -> Any:
    """Words of few values are dictionaries, amounts and quantities 64-bit integers, moments UTC timestamps."""
    word, text, integer = arrow.dictionary(arrow.int32(), arrow.string()), arrow.string(), arrow.int64()
    moment = arrow.timestamp("ns", tz="UTC")
    kinds = {
        "invoice_id": word,
        "line": arrow.int32(),
        "statement_kind": word,
        "invoice_issuer": word,
        "recipient": word,
        "billing_period": word,
        "billing_period_start": moment,
        "billing_period_end": moment,
        "service_period": word,
        "section": word,
        "tenant": word,
        "project": word,
        "cost_centre": word,
        "gl_account": word,
        "charge_description": text,
        "account": word,
        "phase": word,
        "reason": word,
        "model": word,
        "tier": word,
        "method": word,
        "consumed_quantity": integer,
        "consumed_unit": word,
        "unit_price_nano": integer,
        "unit_price_per": integer,
        "billed_cost_nano": integer,
        "billing_currency": word,
        "pricing_status": word,
        "basis": text,
    }
    fields = [arrow.field(name, kind, nullable=name not in REQUIRED) for name, kind in kinds.items()]
    return arrow.schema(fields, metadata=dict(metadata))


def _metadata(statement: Statement) -> dict[str, str]:
    head = {
        "statement": encode_statement(replace(statement, lines=())).decode(),
        "sha256": sha256_of(encode_statement(statement)),
        "number": statement.number,
        "period": statement.period,
        "kind": statement.kind,
        "currency": statement.currency,
        "total_nano": str(statement.total_nano),
        "rounding_nano": str(statement.rounding_nano),
        "payable_nano": str(statement.payable_nano),
        "schema_version": str(statement.schema_version),
    }
    return {f"{METADATA_PREFIX}{key}": value for key, value in head.items()}
