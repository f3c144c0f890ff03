"""One transaction for the bodies that wait together: a store that syncs at each commit then syncs once for them all."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import anyio.to_thread

from farthing.domain.records import RawRecord

__all__ = ["GroupCommit", "RecordStore"]

MOST_RECORDS = 20_000
"""Records of bodies that share a transaction; a single body may have more."""
MANY_RECORDS = 100
"""A body of so many is worth a transaction of its own, and waits for no others."""


class RecordStore(Protocol):
    """Durable storage of records; called from a worker thread, by one caller at a time."""

    def add_each(self, batches: Sequence[Sequence[RawRecord]]) -> list[int]:
        """How many of each batch were new; all are committed when it returns, or none when it raises.

        A key that is stored already is no error.
        """
        ...


class _Waiting:
    """A body's batches, until ``outcome`` says what became of them."""

    __slots__ = ("batches", "outcome", "size")

    def __init__(self, batches: Sequence[Sequence[RawRecord]]) -> None:
        self.batches = batches
        self.size = sum(map(len, batches))
        self.outcome: list[int] | Exception | None = None


class GroupCommit:
    """Hands bodies to a store in the order in which they came, those that came during one transaction in the next.

    Whether a body is stored, and what is said of it, does not depend on the bodies that it shares a transaction with:
    when that fails, each is stored by itself.

    A transaction begins ``gather_seconds`` after the one before it at the earliest, so that the small bodies of many
    senders share one; at once when ``enough`` bodies wait, or a large one, or when there was none for so long.
    """

    def __init__(
        self,
        store: RecordStore,
        *,
        gather_seconds: float = 0.0,
        enough: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._gather_seconds = gather_seconds
        self._enough = enough
        self._clock = clock
        self._next = clock()
        self._full = asyncio.Event()
        self._queue: deque[_Waiting] = deque()
        # asyncio's own: anyio's asks for each body which task it is of
        self._writing = asyncio.Lock()

    async def add(self, batches: Sequence[Sequence[RawRecord]]) -> list[int]:
        """How many of each batch were new; all are committed when it returns. Raises what the store raises."""
        mine = _Waiting(batches)
        self._queue.append(mine)
        if self._is_enough():
            self._full.set()
        try:
            async with self._writing:
                # whoever comes next writes for all that wait; most find that it was done for them meanwhile
                while mine.outcome is None:
                    await self._write_next()
        finally:
            if mine in self._queue:
                self._queue.remove(mine)
        if isinstance(mine.outcome, Exception):
            raise mine.outcome
        return mine.outcome

    def _is_enough(self) -> bool:
        return len(self._queue) >= self._enough or any(body.size >= MANY_RECORDS for body in self._queue)

    async def _gather(self) -> None:
        """Wait for others that come soon."""
        wait = self._next - self._clock()
        if wait > 0 and not self._is_enough():
            self._full = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._full.wait()
        self._next = self._clock() + self._gather_seconds

    async def _write_next(self) -> None:
        await self._gather()
        group = [self._queue.popleft()]
        size = group[0].size
        while self._queue and size + self._queue[0].size <= MOST_RECORDS:
            size += self._queue[0].size
            group.append(self._queue.popleft())
        try:
            await anyio.to_thread.run_sync(self._write, group)
        finally:
            # there are some only where this task was cancelled: another one writes them
            self._queue.extendleft(reversed([body for body in group if body.outcome is None]))

    def _write(self, group: list[_Waiting]) -> None:
        try:
            new = iter(self._store.add_each([batch for body in group for batch in body.batches]))
        except Exception as error:
            if len(group) == 1:
                group[0].outcome = error
                return
            for body in group:
                self._write([body])
        else:
            for body in group:
                body.outcome = [next(new) for _ in body.batches]
