"""A program that takes records and posts windows, says what was acknowledged, and may be killed at any moment."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import sqlalchemy as sa

from farthing.domain.clock import SECOND, Anchor
from farthing.domain.errors import LedgerError
from farthing.domain.model import CostedRequest, Posting, SettledWindow
from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger import tables as t
from farthing.ledger.database import is_postgresql
from farthing.ledger.repository import Boot, Ledger, RequestRow

__all__ = ["BATCH", "Writer", "batch", "check_books", "post", "start"]

BATCH = 50
"""Records that are taken at a time; each is a request of one window."""
RETRY_SECONDS = 0.02
START_NS = 20_785 * 86_400 * SECOND - 20 * SECOND
"""Twenty windows before midnight, so that there are days to make room for."""
BOOT = Boot("b", "e", "vllm", "m", "H100-SXM", 1, "p", Anchor(START_NS, 0), START_NS)


def batch(number: int) -> list[RawRecord]:
    """The records of a batch; their lines are those that ``check_books`` expects."""
    return [RawRecord(RecordKey("b", 0, i), "usage", i, _line(i)) for i in range(number * BATCH, (number + 1) * BATCH)]


def post(ledger: Ledger, number: int) -> None:
    """Post the batch's requests and the window that they share, at 3 nano-dollars each."""
    keys = [record.key for record in batch(number)]
    start = number * SECOND
    wall = BOOT.anchor.to_wall(start)
    requests = [
        RequestRow(key, "e", "r", wall + 9, "acme", "", "", "", "m", "finished", 200, "both", "", 1, 0, None, 3)
        for key in keys
    ]
    nano = 3 * len(keys)
    postings = tuple(
        Posting("charged", phase, "acme", "", "m", "", "", "modelled", nano // 3)
        for phase in ("prefill", "decode", "vision")
    )
    costs = tuple(CostedRequest(key, {"prefill": 1, "decode": 1, "vision": 1}) for key in keys)
    window = SettledWindow("b", 0, start, start + SECOND, nano, 5, {"decode": 5}, {}, {}, postings, costs, "f")
    ledger.post(BOOT, requests, [window])


def check_books(ledger: Ledger, acknowledged: int, posted: int) -> int:
    """How many batches the inbox holds; AssertionError where something acknowledged is lost, halved or doubled."""
    # one picture, since a writer may be at work
    level = "REPEATABLE READ" if is_postgresql(ledger.engine) else "SERIALIZABLE"
    with ledger.engine.connect() as connection, connection.execution_options(isolation_level=level).begin():
        return _check(connection, acknowledged, posted)


def _check(connection: sa.Connection, acknowledged: int, posted: int) -> int:
    def select(query: Any) -> list[Any]:
        return list(connection.execute(query).all())

    rows = select(sa.select(t.records.c.sequence, t.records.c.line).order_by(t.records.c.sequence))
    held, rest = divmod(len(rows), BATCH)
    assert rest == 0
    assert held >= acknowledged
    assert [(row.sequence, bytes(row.line)) for row in rows] == [(i, _line(i)) for i in range(len(rows))]

    windows = select(sa.select(t.windows.c.start_ns).order_by(t.windows.c.start_ns))
    assert windows == [(number * SECOND,) for number in range(len(windows))]
    assert len(windows) >= posted
    lines = sa.select(sa.func.count(), sa.func.sum(t.journal.c.nano)).group_by(t.journal.c.start_ns)
    assert select(lines) == [(3, 3 * BATCH)] * len(windows)
    q = t.requests.c
    assert select(sa.select(q.prefill_nano, q.decode_nano, q.vision_nano)) == [(1, 1, 1)] * (len(windows) * BATCH)
    for sums, column in ((t.cost_hours, "nano"), (t.boot_lines, "nano"), (t.window_hours, "bill_nano")):
        ((total,),) = select(sa.select(sa.func.coalesce(sa.func.sum(sums.c[column]), 0)))
        assert int(total) == 3 * BATCH * len(windows), sums.name
    return held


class Writer:
    """The program, seen from outside."""

    def __init__(self, process: BaseProcess, answers: Connection) -> None:
        self._process = process
        self._answers = answers

    def acknowledged(self, seconds: float) -> Iterator[tuple[str, int]]:
        """What it says within so long: ("added" or "posted", batch), or ("failed", batch) and tries again."""
        deadline = time.monotonic() + seconds
        while self._answers.poll(max(0.0, deadline - time.monotonic())):
            try:
                yield self._answers.recv()
            except EOFError:
                return

    def kill(self) -> Iterator[tuple[str, int]]:
        """End it as a power cut would; returns what it had said by then."""
        self._process.kill()
        self._process.join()
        said = list(self.acknowledged(0))
        self._answers.close()
        return iter(said)


def start(url: str, first: int) -> Writer:
    """Start the program at a batch, on one ledger that it opens once."""
    # forked from a server that has imported everything, so that a start takes milliseconds
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_write, args=(url, first, sending), daemon=True)
    process.start()
    sending.close()
    return Writer(process, receiving)


def _write(url: str, number: int, answers: Connection) -> None:
    ledger = None
    while True:
        try:
            # a failed opening is tried again too; an open ledger finds its way back by itself
            ledger = ledger or Ledger.open(url)
            ledger.add(batch(number))
            answers.send(("added", number))
            post(ledger, number)
            answers.send(("posted", number))
        except LedgerError:
            answers.send(("failed", number))
            time.sleep(RETRY_SECONDS)
            continue
        number += 1


def _line(number: int) -> bytes:
    return b'{"seq":%d,"text":"%s"}' % (number, b"x" * 300)
