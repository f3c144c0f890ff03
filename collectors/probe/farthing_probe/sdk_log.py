"""What OpenTelemetry's SDK logs of an exporter of ours: nothing. Its lines come post by post, and quote headers.

vLLM's own exporter shares its loggers, so they are silent in the calling thread alone, and only within the block.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from farthing_probe.trace_settings import EXPORTERS

__all__ = ["Unlogged", "unlogged"]

LOGGERS = (
    *EXPORTERS.values(),
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.util.re",
)
"""Of the exporters, over the versions of the SDK, and of what reads OTEL_EXPORTER_OTLP_HEADERS."""
PHRASES = {each.phrase: each.value for each in HTTPStatus}
_current = threading.local()


class Unlogged:
    """What was not logged."""

    reason = ""
    """A status, or the type of an error: the last there was; never a word of the collector's."""


@contextmanager
def unlogged() -> Iterator[Unlogged]:
    """Keep the SDK's log silent in this thread, and learn why a post failed."""
    for name in LOGGERS:
        filters = logging.getLogger(name).filters
        if _passes not in filters:
            filters.insert(0, _passes)  # before the SDK's own, which hides what was said a moment ago
    _current.block = told = Unlogged()
    try:
        yield told
    finally:
        _current.block = None


def _passes(record: logging.LogRecord) -> bool:
    told = getattr(_current, "block", None)
    if told is None:
        return True
    for value in record.args if isinstance(record.args, tuple) else ():
        told.reason = _reason(value) or told.reason
    return False


def _reason(value: object) -> str:
    if isinstance(value, enum.Enum):
        return value.name  # gRPC's
    if isinstance(value, BaseException):
        return type(value).__name__
    status = PHRASES.get(value) if isinstance(value, str) else value
    return f"HTTP {status}" if type(status) is int and 100 <= status < 600 else ""
