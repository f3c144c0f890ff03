"""Brings records to Farthing's intake from threads of its own: at least once, in order, within bounded memory.

Three daemon threads, so that nothing that hangs holds up the rest: one calls the runtime's tick, one encodes what
was put and keeps memory in bounds, one posts. Only the monotonic clock is read. Neither records nor the token
are ever logged, nor the text of an error that could quote them.
"""

from __future__ import annotations

import gzip
import json
import logging
import random
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from farthing_probe import wire
from farthing_probe.connection import Connection
from farthing_probe.settings import Settings
from farthing_probe.spool import Batch, Spool, SpoolError

__all__ = ["Counts", "Delivery"]

BODY_BYTES = 512 << 10
"""Of a body before compression; a record that is larger travels alone."""
BODY_RECORDS = 1_000
PENDING_RECORDS = 50_000
"""Records that wait to be encoded; the rest of memory is bounded by Settings.queue_bytes."""
TICK_SECONDS = 1.0
PACK_SECONDS = 10.0
"""How long records wait to share a body, while others are ahead of them or the intake asks to be sent fewer."""
ADOPT_SECONDS = 60.0
POST_SECONDS = 15.0
"""For a whole post: an answer that trickles in never times out by itself."""
FIRST_WAIT, MOST_WAIT, MOST_ASKED_WAIT = 0.5, 30.0, 60.0
LOG_SECONDS = 60.0
PASSING = (401, 403, 404, 408, 429)
"""Refusals that can be mended on the other side: the records stay. Other 4xx mean the records themselves."""
ENCODING, OLDEST = "cannot be encoded", "were the oldest of a full spool"

_log = logging.getLogger(__name__)


class _AgainError(Exception):
    """An answer that leaves the records undelivered; its text may be logged."""

    def __init__(self, reason: str, wait: str | None = None) -> None:
        super().__init__(reason)
        self.wait = min(float(wait), MOST_ASKED_WAIT) if wait and wait.isdecimal() else 0.0


@dataclass
class Counts:
    """What has become of records; a count never falls."""

    sent: int = 0
    """The intake has them."""
    dropped: int = 0
    """They will never arrive."""
    refused: int = 0
    """The intake has named a field that is wrong."""
    failures: int = 0
    """Posts, not records, that have to be repeated."""
    tick_failures: int = 0


class Delivery:
    """Records on their way from one engine process to the intake.

    ``process`` is a name that no other process ever has, fit for a file. ``tick`` is called about once a second in
    a thread of its own; what it raises is counted.
    """

    def __init__(self, settings: Settings, process: str, tick: Callable[[], None]) -> None:
        self.unit_prices: Mapping[str, Any] = {}
        """As the intake's last answer gave them."""
        self.every_seconds = TICK_SECONDS
        """How often the intake wants to be sent something; an intake of a large fleet asks for fewer posts."""
        self.counts = Counts()
        self._settings, self._tick = settings, tick
        self._intake = Connection(settings.url, settings.token)
        self._spool: Spool | None = None
        if settings.spool:
            self._spool = Spool(settings.spool, process, settings.spool_bytes, lambda n: self._drop(n, OLDEST))
        self._pending: deque[wire.Wire] = deque()
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._flight: Batch | None = None
        self._lock = threading.Lock()  # guards batches, spool and flight
        self._counting = threading.RLock()
        # SimpleQueue, because its put is the one that may interrupt itself: a signal handler may put or close.
        self._to_tick, self._to_pack, self._to_send = (SimpleQueue[None]() for _ in range(3))
        self._sender, self._ticker, self._packer = (
            threading.Thread(target=run, name=f"farthing-probe-{name}", daemon=True)
            for name, run in (("send", self._run_send), ("tick", self._run_tick), ("pack", self._run_pack))
        )
        self._deadline: float | None = None
        self._started = self._closing = self._ended = self._closed = self._inert = False
        self._wait = self._again = 0.0
        self._adopt_at = 0.0
        self._random = random.Random()  # noqa: S311 - jitter; the engine's own generator is not ours to advance  # nosec B311
        self._said: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """Records in memory."""
        return len(self._pending) + sum(batch.count for batch in self._batches.copy())

    @property
    def spooled_bytes(self) -> int:
        """Bytes on disk that this process has still to deliver."""
        return self._spool.bytes if self._spool else 0

    def put(self, record: wire.Wire) -> None:
        """Take a record to deliver, from any thread; the oldest that waits goes when too many do."""
        if self._inert:
            return
        self._pending.append(record)
        waiting = len(self._pending)
        if waiting > PENDING_RECORDS or self._closed:
            with self._counting, suppress(IndexError):
                self._pending.popleft()
                self.counts.dropped += 1
        elif waiting % (BODY_RECORDS // 2) == 0:
            self._to_pack.put(None)

    def start(self) -> None:
        """Begin to deliver; a second call, or one after close, changes nothing."""
        if self._started or self._inert or self._deadline is not None:
            return
        self._started = True
        try:
            for thread in (self._sender, self._ticker, self._packer):
                thread.start()
        except RuntimeError as error:  # no more threads for this process
            self._say("start", "it cannot deliver: %s", _reason(error))

    def close(self, seconds: float = 2.0) -> None:
        """Try to deliver what waits and leave the rest in the spool, all within ``seconds``; may be repeated."""
        if self._inert:
            return
        if self._deadline is None:
            self._deadline = time.monotonic() + 0.75 * seconds  # the rest is for writing the spool
            self._to_tick.put(None)
            self._to_pack.put(None)
        if self._packer.is_alive():
            if threading.current_thread() not in {self._sender, self._ticker, self._packer}:
                self._packer.join(seconds)
        elif not self._ended:
            self._finish()

    def abandon(self) -> None:
        """In a forked child: become inert, and let go of what is the parent's without touching it."""
        self._inert = True
        self._lock = threading.Lock()  # a thread that the fork left behind may hold the other one
        self._pending.clear()
        self._batches.clear()
        self._intake.abandon()
        if self._spool:
            self._spool.close(tidy=False)

    def _run_tick(self) -> None:
        due = time.monotonic() + TICK_SECONDS
        while self._deadline is None:
            if _signalled(self._to_tick, due - time.monotonic()):
                continue
            due = max(due, time.monotonic() - TICK_SECONDS) + TICK_SECONDS
            try:
                self._tick()
            except Exception as error:
                self.counts.tick_failures += 1
                self._say("tick", "a tick failed: %s", type(error).__name__)
            self._to_pack.put(None)

    def _run_pack(self) -> None:
        packed = 0.0
        while self._deadline is None:
            now = time.monotonic()
            if now >= self._adopt_at:
                self._adopt_at = now + ADOPT_SECONDS
                self._adopt()
            # Whole bodies while the intake is away: a thousand small files are no better than a few.
            # A tick may come a little sooner than a second after the one before.
            is_due = now > packed + self.every_seconds - TICK_SECONDS / 2
            if (is_due and not self._batches) or len(self._pending) >= BODY_RECORDS or now > packed + PACK_SECONDS:
                self._pack()
                packed = now
            self._intake.abort(older_than=POST_SECONDS)
            _signalled(self._to_pack, TICK_SECONDS)
        self._finish()

    def _adopt(self) -> None:
        if self._spool:
            try:
                with self._lock:
                    self._spool.adopt()
            except Exception as error:
                self._say("spool", "the spool %s is not used: %s", self._settings.spool, _reason(error))
                self._adopt_at = float("inf")
            self._to_send.put(None)

    def _pack(self) -> None:
        """Encode what was put, in its order for each path, and move the oldest batches out of memory's way."""
        while self._pending:
            for path, records in self._taken().items():
                for batch in self._encoded(path, records):
                    with self._lock:
                        self._batches.append(batch)
                        self._bytes += len(batch.body)
            self._shrink(self._settings.queue_bytes)
            self._to_send.put(None)

    def _taken(self) -> dict[str, list[wire.Wire]]:
        """What one body may hold of the records that wait, by path."""
        taken: dict[str, list[wire.Wire]] = {}
        with suppress(IndexError):  # put takes from the same end when too many wait
            for _ in range(BODY_RECORDS):
                record = self._pending.popleft()
                try:
                    taken.setdefault(wire.path_of(record), []).append(record)
                except Exception:
                    self._drop(1, ENCODING)
        return taken

    def _encoded(self, path: str, records: Sequence[wire.Wire]) -> Iterator[Batch]:
        try:
            body = wire.encode(records)
            fits = int.from_bytes(body[-4:], "little") <= BODY_BYTES  # gzip ends with the size before compression
        except Exception:  # what JSON has no word for; halving finds it
            body, fits = b"", False
        if fits or (body and len(records) == 1):
            yield Batch(path, len(records), body)
        elif len(records) == 1:
            self._drop(1, ENCODING)
        else:
            middle = len(records) // 2
            yield from self._encoded(path, records[:middle])
            yield from self._encoded(path, records[middle:])

    def _shrink(self, most_bytes: int) -> None:
        """Move the oldest batches to the spool until at most so much is in memory; drop what cannot be moved."""
        with self._lock:
            while self._bytes > most_bytes and self._batches:
                batch, size = self._batches[0], len(self._batches[0].body)
                try:
                    if self._spool is None:
                        raise SpoolError("there is no spool")
                    self._spool.append(batch, keep=self._flight)
                except Exception as error:
                    # What is in flight may be on the other side already, and the newest is worth the most.
                    oldest = 1 if batch is self._flight else 0
                    if most_bytes >= 0 and oldest >= len(self._batches) - 1:
                        break
                    batch, size = self._batches[oldest], len(self._batches[oldest].body)
                    self._drop(batch.count, f"do not fit into memory, and {_reason(error)}")
                self._batches.remove(batch)
                self._bytes -= size

    def _finish(self) -> None:
        """Deliver until the deadline, then leave the rest in the spool."""
        self._pack()
        self._closing = True
        self._to_send.put(None)
        if self._sender.is_alive():
            self._sender.join(max(0.0, (self._deadline or 0.0) - time.monotonic()))
        with self._lock:
            self._ended, self._flight = True, None
        self._intake.abort()
        for self._closed in (False, True):  # what was put before it closed is kept, what comes after is counted
            self._pack()
            self._shrink(-1)
        if self._spool:
            with self._lock:
                self._spool.close()

    def _run_send(self) -> None:
        while not self._ended:
            last = self._closing  # read before the try: closing brings a new one
            pause = 0.0 if last else self._again - time.monotonic()
            with self._lock:
                batch = self._oldest()
                self._flight = None if pause > 0 else batch
            if batch is None or pause > 0:
                if last:
                    return
                _signalled(self._to_send, pause if batch else TICK_SECONDS)
            elif not self._delivered(batch) and last:
                return

    def _oldest(self) -> Batch | None:
        spooled = self._spool.oldest() if self._spool else None
        return spooled or (self._batches[0] if self._batches else None)

    def _delivered(self, batch: Batch) -> bool:
        """Whether a batch is done with, for better or worse."""
        try:
            body = batch.body or _read(batch)
            fate = self._offer(batch.path, batch.count, body) if body else Counter(dropped=batch.count)
        except Exception as error:
            again = error if isinstance(error, _AgainError) else _AgainError(_reason(error))
            self.counts.failures += 1
            self._wait = min(2 * self._wait, MOST_WAIT) or FIRST_WAIT
            self._again = time.monotonic() + max(self._wait * self._random.uniform(0.5, 1.0), again.wait)
            self._say("again", "records wait for the intake: %s", again)
            return False
        self._wait = self._again = 0.0
        with self._lock:
            if self._ended:  # it has gone into the spool, from which it will be sent again
                return False
            self._flight = None
            if batch.file is None:
                self._batches.remove(batch)
                self._bytes -= len(batch.body)
            elif self._spool:
                self._spool.remove(batch)
        self.counts.sent += fate["sent"]
        self.counts.refused += fate["refused"]
        with self._counting:
            self.counts.dropped += fate["dropped"]
        return True

    def _offer(self, path: str, count: int, body: bytes) -> Counter[str]:
        """What became of the records of a body: sent, refused or dropped; raises when they have to wait."""
        status, wait, answer = self._intake.post(path, body)
        if status == 200:
            return self._understood(count, answer)
        if status == 413 and count > 1 and (lines := _lines(body)):
            halves = lines[: len(lines) // 2], lines[len(lines) // 2 :]
            fates = [self._offer(path, len(half), gzip.compress(b"".join(half), 5)) for half in halves if half]
            return sum(fates, Counter())
        if status in PASSING or not 400 <= status < 500:
            raise _AgainError(f"it answered {status}", wait)
        self._say("refused", "the intake answered %d: %d records are dropped", status, count)
        return Counter(dropped=count)

    def _understood(self, count: int, answer: bytes) -> Counter[str]:
        try:
            said = json.loads(answer)
            known = int(said["accepted"]) + int(said["duplicate"])
            fields = [entry["field"] for entry in said["refused"]]
        except (ValueError, TypeError, KeyError):
            raise _AgainError("what answered 200 is no intake; check the URL") from None
        if isinstance(said.get("unit_prices"), dict):
            self.unit_prices = said["unit_prices"]
        if isinstance(every := said.get("send_every_seconds"), int):
            self.every_seconds = min(max(float(every), TICK_SECONDS), PACK_SECONDS)
        if fields:
            self._say("refused", "the intake refused %d records, the first for its %r", count - known, fields[0])
        return Counter(sent=known, refused=count - known)

    def _drop(self, count: int, why: str) -> None:
        with self._counting:
            self.counts.dropped += count
        self._say("dropped", "%d records are dropped: they %s", count, why)

    def _say(self, topic: str, text: str, *values: object) -> None:
        """Log a warning, one of a topic in a minute."""
        now = time.monotonic()
        if now >= self._said.get(topic, 0.0):
            self._said[topic] = now + LOG_SECONDS
            _log.warning("farthing-probe: " + text, *values)


def _signalled(signals: SimpleQueue[None], seconds: float) -> bool:
    """Wait for a signal; whether one came within so many seconds."""
    try:
        signals.get(timeout=max(0.0, seconds))
    except Empty:
        return False
    return True


def _read(batch: Batch) -> bytes:
    """A batch's body from its file; empty when somebody has removed that."""
    try:
        return batch.file.read_bytes() if batch.file else b""
    except FileNotFoundError:
        return b""


def _lines(body: bytes) -> list[bytes]:
    try:
        return gzip.decompress(body).splitlines(keepends=True)
    except (OSError, EOFError, zlib.error):
        return []


def _reason(error: BaseException) -> str:
    """Why, in words that quote nothing of what was sent."""
    if isinstance(error, SpoolError):
        return str(error)
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
