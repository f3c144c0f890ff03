"""W3C Trace Context at the edge: the caller's is taken, the edge span's own is passed on in its place.

Source: https://www.w3.org/TR/trace-context/ (Level 1, with the random flag of Level 2). vLLM takes the parent of its
``llm_request`` from the same header, so that the edge span comes between the two.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from farthing_probe.trace_settings import TraceSettings

__all__ = ["EdgeContext", "Parent", "edge_context", "parsed"]

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
SAMPLED, RANDOM = 1, 2
"""Bits of the trace flags (3.2.2.5)."""
LOW = (1 << 64) - 1

_PARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_random = random.Random()  # noqa: S311 - ids need not be secret; the engine's own generator is not ours to advance  # nosec B311

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Parent:
    """What a caller's ``traceparent`` says."""

    trace_id: str
    span_id: str
    flags: int


@dataclass(frozen=True)
class EdgeContext:
    """Of a request; without a ``span_id`` it is in no trace of ours, and ``trace_id`` is the caller's, if any."""

    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    sampled: bool = False


def parsed(header: bytes) -> Parent | None:
    """The parent by a header's value; None for one that is malformed, of version ff, or with an id of zeros (3.2.2).

    A version above 00 may go on after the flags, 00 may not (4.3).
    """
    found = _PARENT.fullmatch(header.strip(b" \t"))
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    return Parent(found[2].decode(), found[3].decode(), int(found[4], 16))


def edge_context(headers: Headers, settings: TraceSettings) -> tuple[EdgeContext, list[tuple[bytes, bytes]] | None]:
    """The context of a request by its headers (lower-case names), and the headers that the engine gets instead.

    None for those where they stay as they are. Two of the caller's headers are none, and with none its
    ``tracestate`` means nothing either (3.3.1): it is passed on as it came, or not at all.
    """
    given = [value for name, value in headers if name == TRACEPARENT]
    parent = parsed(given[0]) if len(given) == 1 else None
    if settings.mode == "off" or (parent is None and not settings.begins):
        return EdgeContext(parent.trace_id if parent else ""), None
    if parent is not None:
        trace, low, flags = parent.trace_id, int(parent.trace_id[16:], 16), parent.flags
    else:
        number = _random.getrandbits(128) or 1
        trace, low, flags = f"{number:032x}", number & LOW, RANDOM
    follows = parent is not None and settings.follows_parent
    sampled = bool(flags & SAMPLED) if follows else low < settings.threshold
    span = f"{_random.getrandbits(64) or 1:016x}"
    value = f"00-{trace}-{span}-{flags & RANDOM | sampled:02x}".encode()
    gone = {TRACEPARENT} if parent is not None else {TRACEPARENT, TRACESTATE}
    passed = [pair for pair in headers if pair[0] not in gone]
    passed.append((TRACEPARENT, value))
    return EdgeContext(trace, span, parent.span_id if parent else "", sampled), passed
