"""Text for files that spreadsheets open."""

from __future__ import annotations

from typing import Final

__all__ = ["FORMULA_STARTS", "uncomputed"]

FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet runs as a formula (OWASP: CSV injection)."""


def uncomputed(text: str) -> str:
    """Text that no spreadsheet runs: senders choose names, and one like a formula gets an apostrophe before it."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
