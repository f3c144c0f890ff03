"""Small bodies that come one after the other share a transaction; none waits without company."""

import anyio

from farthing.collectors.group_commit import GroupCommit
from farthing.domain.records import RawRecord, RecordKey


class Store:
    """Counts transactions."""

    def __init__(self) -> None:
        self.transactions: list[int] = []

    def add_each(self, batches):
        """Every record is new."""
        self.transactions.append(len(batches))
        return [len(batch) for batch in batches]


def _batch(sequence):
    return [[RawRecord(RecordKey("b", 0, sequence), "usage", 0, b"{}")]]


def _transactions(bodies, *, gather_seconds, enough):
    """How many bodies each transaction had: of one that comes first, and of all others, which come right after it."""
    store = Store()

    async def run():
        commit = GroupCommit(store, gather_seconds=gather_seconds, enough=enough)
        await commit.add(_batch(-1))
        async with anyio.create_task_group() as group:
            for number in range(bodies):
                group.start_soon(commit.add, _batch(number))

    anyio.run(run)
    return store.transactions


def test_bodies_that_come_soon_after_another_share_a_transaction():
    """The first is written at once, and the others together."""
    assert _transactions(5, gather_seconds=0.2, enough=100) == [1, 5]


def test_nobody_waits_once_enough_have_come():
    """A minute would be longer than any test."""
    assert _transactions(6, gather_seconds=60.0, enough=6) == [1, 6]
