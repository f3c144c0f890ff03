"""Bodies that wait together share a transaction, and nothing else."""

import asyncio
import threading
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from farthing.collectors import group_commit
from farthing.collectors.group_commit import GroupCommit
from farthing.domain.records import RawRecord, RecordKey


class Store:
    """Keeps keys; holds its first transaction until it is let go, and takes no sequence above 1,000."""

    def __init__(self) -> None:
        self.keys: list[RecordKey] = []
        self.transactions: list[list[int]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def add_each(self, batches: Sequence[Sequence[RawRecord]]) -> list[int]:
        """All of the batches or none."""
        self.begun.set()
        assert self.go.wait(10)
        keys = list(self.keys)
        new = []
        for batch in batches:
            if any(record.key.sequence > 1_000 for record in batch):
                raise OverflowError(batch[0].key.sequence)
            fresh = [record.key for record in batch if record.key not in keys]
            keys += fresh
            new.append(len(fresh))
        self.keys = keys
        self.transactions.append([record.key.sequence for batch in batches for record in batch])
        return new


def _batch(*sequences: int) -> list[RawRecord]:
    return [RawRecord(RecordKey("b", 0, sequence), "usage", 0, b"{}") for sequence in sequences]


def _add_together(store: Store, bodies: list[list[list[RawRecord]]]) -> list[list[int] | str]:
    """What became of each body, when the others came while the first was being written."""
    outcomes: dict[int, list[int] | str] = {}
    commit = GroupCommit(store)

    async def add(number: int) -> None:
        try:
            outcomes[number] = await commit.add(bodies[number])
        except OverflowError as error:
            outcomes[number] = f"no room for {error}"

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(add, 0)
            await anyio.to_thread.run_sync(store.begun.wait, 10)
            for number in range(1, len(bodies)):
                group.start_soon(add, number)
                await anyio.lowlevel.checkpoint()
            store.go.set()

    anyio.run(all_of_them)
    return [outcomes[number] for number in range(len(bodies))]


def test_what_came_during_one_transaction_is_in_the_next():
    """In the order in which it came, and each body is told of its own batches."""
    store = Store()
    bodies = [[_batch(0)], [_batch(1, 2), _batch(3)], [_batch(4)], [_batch(5)]]
    assert _add_together(store, bodies) == [[1], [2, 1], [1], [1]]
    assert store.transactions == [[0], [1, 2, 3, 4, 5]]


def test_the_same_body_twice_is_new_once():
    """A sender that gave up waiting and came again, while its first try was still waiting too."""
    assert _add_together(Store(), [[_batch(0)], [_batch(1, 2)], [_batch(1, 2)]]) == [[1], [2], [0]]


def test_a_body_that_the_store_cannot_take_fails_alone():
    """The others are stored; and it is its own failure that its sender's answer comes from."""
    store = Store()
    bodies = [[_batch(0)], [_batch(1)], [_batch(5_000)], [_batch(2), _batch(6_000)], [_batch(3)]]
    assert _add_together(store, bodies) == [[1], [1], "no room for 5000", "no room for 6000", [1]]
    assert store.transactions == [[0], [1], [3]]


def test_a_transaction_takes_no_more_bodies_than_it_should(monkeypatch):
    """It would keep the first of them waiting; a body that is larger by itself has one to itself."""
    monkeypatch.setattr(group_commit, "MOST_RECORDS", 3)
    store = Store()
    bodies = [[_batch(0)], [_batch(1, 2)], [_batch(3)], [_batch(4, 5, 6, 7)], [_batch(8)], [_batch(9)]]
    assert _add_together(store, bodies) == [[1], [2], [1], [4], [1], [1]]
    assert store.transactions == [[0], [1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("leaves", [1, 2])
def test_a_sender_that_leaves_takes_nobody_with_it(leaves):
    """One that waits is written no more; the others are, by whoever is next."""
    store = Store()
    commit = GroupCommit(store)
    done: list[int] = []

    async def add(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            await commit.add([_batch(number)])
            done.append(number)

    async def all_of_them() -> None:
        scopes = [anyio.CancelScope() for _ in range(4)]
        async with anyio.create_task_group() as group:
            group.start_soon(add, 0, scopes[0])
            await anyio.to_thread.run_sync(store.begun.wait, 10)
            for number in range(1, 4):
                group.start_soon(add, number, scopes[number])
                await anyio.lowlevel.checkpoint()
            scopes[leaves].cancel()
            await anyio.lowlevel.checkpoint()
            store.go.set()

    anyio.run(all_of_them)
    staying = [number for number in (1, 2, 3) if number != leaves]
    assert store.transactions == [[0], staying]
    assert sorted(done) == [0, *staying]


def test_a_writer_that_is_cancelled_leaves_nobody_without_an_answer():
    """As a server that shuts down does it; what its thread was writing is written again, which is no harm."""

    class Slow(Store):
        def add_each(self, batches: Sequence[Sequence[RawRecord]]) -> list[int]:
            new = super().add_each(batches)
            if len(self.transactions) == 2:
                second.set()
                assert let_go.wait(10)
            return new

    store, second, let_go = Slow(), threading.Event(), threading.Event()
    commit = GroupCommit(store)

    async def all_of_them() -> list[list[int]]:
        first = asyncio.create_task(commit.add([_batch(0)]))
        await asyncio.to_thread(store.begun.wait, 10)
        writer, *others = [asyncio.create_task(commit.add([_batch(number)])) for number in range(1, 4)]
        await asyncio.sleep(0)
        store.go.set()
        await asyncio.to_thread(second.wait, 10)
        writer.cancel()
        outcomes = await asyncio.gather(first, *others)
        let_go.set()
        return outcomes

    assert asyncio.run(all_of_them()) == [[1], [0], [0]]
    assert store.transactions == [[0], [1, 2, 3], [2, 3]]
    assert store.keys == [RecordKey("b", 0, sequence) for sequence in range(4)]
