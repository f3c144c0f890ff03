"""Ids of traces and spans, as W3C Trace Context has them (version 00, sections 3.2.2.3 and 3.2.2.4)."""

from __future__ import annotations

import re

__all__ = ["is_span_id", "is_trace_id"]

_TRACE = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN = re.compile(r"(?!0{16})[0-9a-f]{16}")


def is_trace_id(text: str) -> bool:
    """Whether it is 32 hexadecimal digits in lower case that are not all zero."""
    return _TRACE.fullmatch(text) is not None


def is_span_id(text: str) -> bool:
    """Whether it is 16 hexadecimal digits in lower case that are not all zero."""
    return _SPAN.fullmatch(text) is not None
