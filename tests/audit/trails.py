"""What tests of trails share: a clock that stands, requests, trails of some days, what is in them, a full disk."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from farthing.audit.chain import ANCHORS, HEAD, digest, encoded, link
from farthing.audit.reading import records
from farthing.audit.records import AuditedRequest, request
from farthing.audit.verify import Kept, parse_kept
from farthing.audit.writer import BEYOND_HEAD, AuditWriter
from farthing.domain.clock import HOUR

__all__ = [
    "DAYS",
    "DAY_NS",
    "KEY",
    "NOON",
    "Clock",
    "append_to",
    "audited",
    "beyond",
    "content",
    "full_disk",
    "kept_of",
    "kinds",
    "line_after",
    "numbers",
    "opened",
    "said",
    "write_days",
]

DAY_NS = 24 * HOUR
NOON = int(datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()) * 1_000_000_000
DAYS = ("2026-11-25", "2026-11-26", "2026-11-27")
KEY = b"a key of the operator's, long enough"


class Clock:
    """UTC nanoseconds that pass only when told to."""

    def __init__(self, ns: int = NOON) -> None:
        self.ns = ns

    def __call__(self) -> int:
        return self.ns


def audited(number: int, **changes: Any) -> AuditedRequest:
    """A settled request."""
    values: dict[str, Any] = {
        "boot": "boot",
        "process": 0,
        "sequence": number,
        "engine": "a",
        "request_id": f"chatcmpl-{number}",
        "trace_id": f"{number:032x}",
        "ended_ns": NOON + number,
        "tenant": ("acme", "globex")[number % 2],
        "project": "",
        "workload": "",
        "tier": "interactive",
        "user": "8f3ae9d1c07b5542",
        "key": "",
        "model": "llama",
        "outcome": "finished",
        "status": 200,
        "prompt_computed": 100,
        "prompt_cached": 20,
        "image_tokens": 0,
        "output_tokens": 50,
        "cost_nano": (1_000 + number, 2_000, 0),
        "methods": ("modelled",),
    }
    return AuditedRequest(**values | changes)


def content(number: int, at_ns: int = NOON, **changes: Any) -> dict[str, Any]:
    """What a trail says of a settled request."""
    return request(audited(number, **changes), at_ns, "USD")


def write_days(folder: Path, *, keys: tuple[bytes, ...] = (), records: int = 4, days: int = 3) -> None:
    """A trail of some days with some requests each; the last of them goes on."""
    clock = Clock()
    writer = AuditWriter(folder, clock_ns=clock, keys=keys, fsync=False)
    for day in range(days):
        clock.ns = NOON + day * DAY_NS
        writer.append([content(day * records + place, clock.ns) for place in range(records)])
    writer.close()


def said(folder: Path) -> list[dict[str, Any]]:
    """Every record's content, in order."""
    return [json.loads(body) for _, body in records(folder)]


def kinds(folder: Path) -> list[str]:
    """The kinds of all records, in order."""
    return [one["kind"] for one in said(folder)]


def numbers(folder: Path) -> list[int]:
    """The requests that are in a trail, by their sequence."""
    return [one["sequence"] for one in said(folder) if one["kind"] == "request"]


def line_after(previous: str, n: int, said: dict[str, Any]) -> bytes:
    """A record's line after one with the hash ``previous``, as anybody can make it."""
    body = encoded({"n": n, **said})
    return b"%b %b\n" % (link(previous, digest(body)).encode(), body)


def kept_of(folder: Path) -> Kept:
    """What ``farthing audit anchors`` would print of a trail."""
    anchors = folder / ANCHORS
    return parse_kept((anchors.read_bytes() if anchors.exists() else b"") + (folder / HEAD).read_bytes(), "kept")


def beyond(folder: Path) -> list[int]:
    """How many records beyond the head were told of at each opening that found some, in order."""
    return [one["records"] for one in said(folder) if one["kind"] == BEYOND_HEAD]


def opened(folder: Path, clock: Clock | None = None, **options: Any) -> AuditWriter:
    """A writer at a folder."""
    return AuditWriter(folder, clock_ns=clock or Clock(), fsync=False, **options)


def append_to(folder: Path, contents: Sequence[dict[str, Any]], clock: Clock | None = None, **options: Any) -> None:
    """Let a writer at a folder write records, and go."""
    writer = opened(folder, clock, **options)
    try:
        writer.append(contents)
    finally:
        writer.close()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can become larger than so many bytes: the kernel writes a part and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
