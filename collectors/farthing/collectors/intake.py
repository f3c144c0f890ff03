"""Where probes and replays deliver their records: ``POST /v1/usage`` and ``POST /v1/windows``.

Delivery is at least once, so whatever is answered must be true of what is on disk: a record counts as accepted
once the store has committed it, a failing store is a 503 that the sender repeats, and a body that cannot be
read as a whole stores nothing. Bodies are never logged. Who may deliver is decided before a request gets here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

import anyio.to_thread
import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from farthing.collectors.group_commit import GroupCommit, RecordStore
from farthing.collectors.rate_limit import RateLimit
from farthing.collectors.wire import decode_raw, is_plain, refusal
from farthing.domain.clock import SECOND
from farthing.domain.conventions import INBOX_REFUSED, SCRAPED_BOOT, UNKNOWN
from farthing.domain.errors import LedgerError, RecordError
from farthing.domain.model import IntakeView
from farthing.domain.records import RawRecord
from farthing_probe.wire import USAGE_PATH, WINDOWS_PATH

__all__ = ["INTAKE_ROUTES", "IntakeCounts", "IntakeLimits", "UnitPrices", "intake_routes"]

INTAKE_ROUTES = ("intake-usage", "intake-windows")
"""Names of the routes."""

UnitPrices = Callable[[set[str]], Mapping[str, Mapping[str, int]]]
"""Boots -> engine -> phase -> nano-dollars per million tokens; called in the event loop, on every answer."""

ACCEPTED = "accepted"
DUPLICATE = "duplicate"
REFUSED = "refused"
LIMITED = "limited"
DEVICE = "device"
"""The kind whose times are UTC."""
BODY = "body"
"""The kind under which a body that is refused as a whole, or told to come later, is counted, once."""

MAX_LINES = 100_000
SHOWN_REFUSALS = 20
BODIES_IN_MEMORY, SMALL_BODIES_IN_MEMORY = 16, 128
"""Posts that are read and stored at a time; the others wait in their sockets. Small ones have places of their own:
a fleet sends hundreds a second, and each transaction takes longer than what is in one."""
BODIES_BEING_READ = 1
"""Bodies that are decoded at a time: several would share one processor, and be ready for the store all at once."""
SMALL_BODY, SMALL_TEXT = 16 << 10, 64 << 10
"""Bytes of a body, as sent and decompressed, that is decoded sooner than it is handed to another thread."""
GATHER_SECONDS = 0.2
"""How long bodies wait for others to be stored with, where one was stored just before."""
BODY_SECONDS = 30.0
"""How long a body may take to arrive before its place goes to another."""
AHEAD_NS = 300 * SECOND
"""How far a device's samples may lie ahead of Farthing's clock: what is told of the future would be billed."""
LOG_SECONDS = 60.0
"""A sender that is told to wait, and a store that goes on failing, is logged this often at most."""

_log = logging.getLogger(__name__)


class IntakeCounts:
    """Counts of records by (kind, result); may be used from any thread."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def refuse_body(self) -> None:
        """Count a body that its sender may not deliver."""
        self.add(BODY, REFUSED)

    def add(self, kind: str, result: str, number: int = 1) -> None:
        """Count ``number`` records of a kind as accepted, duplicate or refused; of bodies, also as limited."""
        if number:
            with self._lock:
                self._counts[kind, result] += number

    def view(self) -> IntakeView:
        """The counts so far, as a copy."""
        with self._lock:
            return IntakeView(records=dict(self._counts))


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """What senders may bring. ``max_body_bytes`` bounds a body both as sent and decompressed."""

    max_body_bytes: int
    bodies_per_second: float = 200.0
    """By client address."""
    bytes_per_second: float = 64 * 1024 * 1024
    """Of all senders together, decompressed."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    line: int
    """1-based line of the decompressed body."""
    field: str
    problem: str

    def shown(self) -> dict[str, Any]:
        return {"line": self.line, "field": self.field, "problem": self.problem}


@dataclass(frozen=True, slots=True)
class _Batch:
    size: int
    """Bytes, decompressed."""
    records: dict[str, list[RawRecord]] = field(default_factory=dict)
    """By kind, so that new and duplicate records are counted exactly for each."""
    refused: Counter[str] = field(default_factory=Counter)
    """Refused lines by kind."""
    refusals: list[_Refusal] = field(default_factory=list)
    """Those that are shown."""
    kept_refusals: list[RawRecord] = field(default_factory=list)
    """What is stored of the refused lines."""
    boots: set[str] = field(default_factory=set)


class _BodyRefusedError(Exception):
    """A body cannot be processed at all; carries the HTTP status and one line for its sender."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status
        self.problem = problem


def intake_routes(
    store: RecordStore,
    limits: IntakeLimits,
    counts: IntakeCounts,
    on_accepted: Callable[[], None],
    *,
    unit_prices: UnitPrices = lambda _: {},
    every_seconds: Callable[[], int | None] = lambda: 1,
    clock: Callable[[], float] = time.monotonic,
    wall_ns: Callable[[], int] = time.time_ns,
) -> list[Route]:
    """Routes of the two intake paths, sharing one store.

    ``on_accepted`` is called in the event loop after new records were committed.

    Answers: 200 with ``{"accepted", "duplicate", "refused": [{"line", "field", "problem"}], "unit_prices",
    "send_every_seconds"}`` for every body that could be read (``refused`` shows the first 20; how often to send is what
    ``every_seconds`` says, None to go on as before); else ``{"error"}`` with 400 unreadable, 413 too large, 429 too
    many or too much: send it later, 503 not stored: send it again.
    """
    intake = _Intake(store, _Gate(limits, clock), counts, on_accepted, unit_prices, every_seconds, clock, wall_ns)

    async def usage(request: Request) -> Response:
        return await intake.post(request, USAGE_PATH)

    async def windows(request: Request) -> Response:
        return await intake.post(request, WINDOWS_PATH)

    return [
        Route(USAGE_PATH, usage, methods=["POST"], name=INTAKE_ROUTES[0]),
        Route(WINDOWS_PATH, windows, methods=["POST"], name=INTAKE_ROUTES[1]),
    ]


class _Gate:
    """Lets a sender in while neither it nor all senders together are above their rates."""

    def __init__(self, limits: IntakeLimits, clock: Callable[[], float]) -> None:
        self.max_body_bytes = limits.max_body_bytes
        self._bodies = RateLimit(limits.bodies_per_second, clock)
        self._bytes = RateLimit(limits.bytes_per_second, clock)
        self._clock = clock
        self._logged = -math.inf

    def enter(self, sender: str) -> int:
        """Whole seconds that the sender has to wait; 0: it is let in."""
        wait = max(self._bodies.wait_seconds(sender), self._bytes.wait_seconds(""))
        if not wait:
            self._bodies.charge(sender, 1)
            return 0
        if self._clock() >= self._logged + LOG_SECONDS:
            self._logged = self._clock()
            _log.warning(
                "intake tells %s to send later; serve.intake_*_per_second are its limits", sender or "a sender"
            )
        return max(1, math.ceil(wait))

    def charge(self, size: int) -> None:
        """Count what a body held."""
        self._bytes.charge("", size)


class _Intake:
    def __init__(  # noqa: PLR0917 - the parts of one intake, in the order of a post's way
        self,
        store: RecordStore,
        gate: _Gate,
        counts: IntakeCounts,
        on_accepted: Callable[[], None],
        unit_prices: UnitPrices,
        every_seconds: Callable[[], int | None],
        clock: Callable[[], float],
        wall_ns: Callable[[], int],
    ) -> None:
        self._clock = clock
        self._wall_ns = wall_ns
        self._complaint, self._complained = "", -math.inf
        self._store = GroupCommit(store, gather_seconds=GATHER_SECONDS, enough=SMALL_BODIES_IN_MEMORY)
        self._gate = gate
        self._counts = counts
        self._on_accepted = on_accepted
        self._unit_prices = unit_prices
        self._every_seconds = every_seconds
        self._places = asyncio.Semaphore(BODIES_IN_MEMORY)
        self._small_places = asyncio.Semaphore(SMALL_BODIES_IN_MEMORY)
        self._reading = asyncio.Semaphore(BODIES_BEING_READ)

    async def post(self, request: Request, path: str) -> Response:
        wait = self._gate.enter(request.client.host if request.client else "")
        if wait:
            self._counts.add(BODY, LIMITED)
            return _error(429, f"too much at a time; send it again in {wait} s", {"Retry-After": str(wait)})
        limit = self._gate.max_body_bytes
        is_small = _length(request) <= SMALL_BODY
        try:
            async with self._small_places if is_small else self._places:
                # anyio's own scope takes a tenth of what a small body takes
                async with asyncio.timeout(BODY_SECONDS):
                    body = await _read(request, limit)
                encoding = _encoding(request)
                text = _small_text(body, encoding)
                if text is not None and len(text) <= limit:
                    return await self._keep(_records(text, path, self._wall_ns() + AHEAD_NS))
                # a small one may hold much
                async with self._places if is_small else nullcontext():
                    async with self._reading:
                        until_ns = self._wall_ns() + AHEAD_NS
                        batch = await anyio.to_thread.run_sync(_read_batch, body, encoding, limit, path, until_ns)
                    return await self._keep(batch)
        except _BodyRefusedError as refused:
            self._gate.charge(limit if refused.status == 413 else 0)
            self._counts.add(BODY, REFUSED)
            return _error(refused.status, refused.problem)
        except TimeoutError:
            # Not the sender's mistake as a 4xx would say: a slow network is worth another try.
            return _error(503, f"the body did not arrive within {BODY_SECONDS:.0f} s; send it again")
        except ClientDisconnect:
            return _error(400, "the connection closed before the body was complete")

    async def _keep(self, batch: _Batch) -> Response:
        self._gate.charge(batch.size)
        kinds = [kind for kind in (*batch.records.items(), (INBOX_REFUSED, batch.kept_refusals)) if kind[1]]
        try:
            added = await self._store.add([records for _, records in kinds]) if kinds else []
        except Exception as error:  # a store may fail in any way of its driver's; the sender repeats
            self._complain(error)
            return _error(503, "the records could not be stored; send them again", {"Retry-After": "1"})
        accepted = duplicate = 0
        for (kind, records), new in zip(kinds, added, strict=True):
            if kind != INBOX_REFUSED:
                self._counts.add(kind, ACCEPTED, new)
                self._counts.add(kind, DUPLICATE, len(records) - new)
                accepted += new
                duplicate += len(records) - new
        if any(added):
            self._on_accepted()
        for kind, number in batch.refused.items():
            self._counts.add(kind, REFUSED, number)
        if batch.refusals:
            first = batch.refusals[0]
            _log.warning("intake refused %d records; first: %s %s", batch.refused.total(), first.field, first.problem)
        told = {
            "accepted": accepted,
            "duplicate": duplicate,
            "refused": [refused.shown() for refused in batch.refusals],
            "unit_prices": self._unit_prices(batch.boots),
            "send_every_seconds": self._every_seconds(),
        }
        return Response(msgspec.json.encode(told), media_type="application/json")

    def _complain(self, error: Exception) -> None:
        """Say why nothing can be stored, and the same not again for a while: every sender comes back."""
        # of others only the class: a driver's text quotes the statement and, with it, the records
        reason = str(error) if isinstance(error, LedgerError) else type(error).__name__
        if reason != self._complaint or self._clock() >= self._complained + LOG_SECONDS:
            self._complaint, self._complained = reason, self._clock()
            _log.error("intake cannot store records and senders are told to repeat them: %s", reason)


def _error(status: int, problem: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": problem}, status_code=status, headers=headers)


def _length(request: Request) -> float:
    """Bytes of a body as its sender announces them; infinite where it does not."""
    told = request.headers.get("content-length", "")
    return int(told) if told.isdecimal() else math.inf


def _encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "").strip().lower()


async def _read(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _BodyRefusedError(413, f"the body is larger than {limit} bytes; send fewer records at a time")
        parts.append(part)
    return b"".join(parts)


def _small_text(body: bytes, encoding: str) -> bytes | None:
    """The text of a body that is small and whole; None of any other, and of one that is wrong."""
    if len(body) > SMALL_BODY:
        return None
    if encoding in {"gzip", "x-gzip"}:
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            body = member.decompress(body, SMALL_TEXT)
        except zlib.error:
            return None
        return body if member.eof and not member.unused_data else None
    return body if encoding in {"", "identity"} else None


def _read_batch(body: bytes, encoding: str, limit: int, path: str, until_ns: int) -> _Batch:
    """The records of a body of any size; CPU-bound, hence run in a thread."""
    if encoding in {"gzip", "x-gzip"}:
        body = _gunzip(body, limit)
    elif encoding not in {"", "identity"}:
        raise _BodyRefusedError(400, "the content encoding is not supported; send gzip or plain JSON lines")
    return _records(body, path, until_ns)


def _records(body: bytes, path: str, until_ns: int) -> _Batch:
    """The records of a decompressed body and its refused lines; 413 of one with too many lines.

    No device's sample is later than ``until_ns`` (UTC); other records have their own host's time.
    """
    if body.count(b"\n") > MAX_LINES:
        raise _BodyRefusedError(413, f"the body has more than {MAX_LINES} lines; send fewer records at a time")
    batch = _Batch(len(body))
    records, boots, usage_path, plain = batch.records, batch.boots, path == USAGE_PATH, is_plain(body)
    for number, line in enumerate(body.split(b"\n"), start=1):
        text = line.strip()
        if not text:
            continue
        kind = UNKNOWN
        try:
            record = decode_raw(text, plain=plain)
            kind, boot = record.kind, record.key.boot
            if (kind == "usage") != usage_path:
                _refuse_path(kind)
            if boot not in boots:
                _check_boot(boot)
                boots.add(boot)
            if kind == DEVICE and record.event_ns > until_ns:
                _refuse_future(record.event_ns - until_ns + AHEAD_NS)
        except RecordError as error:
            batch.refused[kind] += 1
            if len(batch.refusals) < SHOWN_REFUSALS:
                batch.refusals.append(_Refusal(number, error.field, error.problem))
            # a record at the wrong path is a right one: it is waited for
            kept = refusal(text, error) if kind == UNKNOWN else None
            if kept is not None:
                batch.kept_refusals.append(kept)
            continue
        alike = records.get(kind)
        if alike is None:
            alike = records[kind] = []
        alike.append(record)
    return batch


def _gunzip(body: bytes, limit: int) -> bytes:
    """The decompressed body of one gzip member, never more than ``limit`` bytes of it in memory."""
    member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = member.decompress(body, limit + 1)
    except zlib.error:
        raise _BodyRefusedError(400, "the body is not valid gzip; nothing was stored") from None
    if len(plain) > limit:
        raise _BodyRefusedError(
            413, f"the body is larger than {limit} bytes when decompressed; send fewer records at a time"
        )
    if not member.eof:
        raise _BodyRefusedError(400, "the gzip body is truncated; nothing was stored")
    if member.unused_data:
        raise _BodyRefusedError(400, "bytes follow the gzip body; send one gzip member")
    return plain


def _refuse_path(kind: str) -> NoReturn:
    rightful = USAGE_PATH if kind == "usage" else WINDOWS_PATH
    raise RecordError("kind", f"{kind} records belong at {rightful}")


def _refuse_future(ahead_ns: int) -> NoReturn:
    raise RecordError(
        "at_ns",
        f"ends {ahead_ns // SECOND} s ahead of Farthing's clock, and {AHEAD_NS // SECOND} s are allowed; "
        "set the clock of the host that reads the device, or that of Farthing's host",
    )


def _check_boot(boot: str) -> None:
    if boot.startswith(SCRAPED_BOOT):
        raise RecordError("boot", f"must not begin with {SCRAPED_BOOT}, which names what Farthing scrapes itself")
