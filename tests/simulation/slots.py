"""Decoding sequences as columns, so that a step over hundreds of them is a handful of array operations."""

from __future__ import annotations

from bisect import insort

import numpy as np
import numpy.typing as npt
from tests.simulation.requests import NEVER, Sequence

__all__ = ["DecodeSlots"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class DecodeSlots:
    """Columns by slot; ``order`` lists the occupied slots, oldest admission first, and ``members`` who is there."""

    def __init__(self, size: int) -> None:
        self.context: Ints = np.zeros(size, np.int64)
        """Tokens in the KV cache."""
        self.room: Ints = np.zeros(size, np.int64)
        """Tokens that the sequence's blocks can hold."""
        self.generated: Ints = np.zeros(size, np.int64)
        self.limit: Ints = np.zeros(size, np.int64)
        self.watch: Ints = np.zeros(size, np.int64)
        """Count of output tokens at which something happens: the end, or the client hanging up."""
        self.abort_ns: Ints = np.full(size, NEVER, np.int64)
        self.process: Ints = np.zeros(size, np.int64)
        self.work_ns: Floats = np.zeros(size)
        self.pool_ns: Floats = np.zeros(size)
        """Shares of what preemptions undid, by tokens held."""
        self.members: list[Sequence] = []
        self.steps = 0
        """Decoding steps so far: every member takes part in each."""
        self._free = list(range(size - 1, -1, -1))
        self._order: Ints | None = None

    def __len__(self) -> int:
        return len(self.members)

    @property
    def order(self) -> Ints:
        """Occupied slots, oldest admission first."""
        if self._order is None:
            self._order = np.array([sequence.slot for sequence in self.members], np.int64)
        return self._order

    def add(self, sequence: Sequence, watch: int) -> None:
        """A sequence begins to decode."""
        slot = sequence.slot = self._free.pop()
        request = sequence.request
        self.context[slot] = sequence.computed
        self.room[slot] = sequence.room
        self.generated[slot] = sequence.generated
        self.limit[slot] = sequence.limit
        self.watch[slot] = watch
        self.abort_ns[slot] = request.abort_ns
        self.process[slot] = request.process
        self.work_ns[slot] = self.pool_ns[slot] = 0.0
        sequence.decode_since = sequence.chunks_since = self.steps
        sequence.hidden_steps = 0
        sequence.state = "decoding"
        insort(self.members, sequence, key=lambda member: member.ticket)
        self._order = None

    def remove(self, sequence: Sequence, tokens_per_step: int) -> None:
        """A sequence decodes no more; its columns go back into it."""
        slot = sequence.slot
        sequence.computed = int(self.context[slot])
        sequence.room = int(self.room[slot])
        sequence.generated = int(self.generated[slot])
        sequence.decode_ns += float(self.work_ns[slot])
        sequence.pool_ns += float(self.pool_ns[slot])
        sequence.decode_tokens += tokens_per_step * (self.steps - sequence.decode_since)
        self.count_chunks(sequence)
        sequence.slot = -1
        self._free.append(slot)
        self.members.remove(sequence)
        self._order = None

    def count_chunks(self, sequence: Sequence) -> None:
        """Bring a member's tokens and chunks up to date, as its API server counts them."""
        sequence.generated = int(self.generated[sequence.slot])
        sequence.chunks += self.steps - sequence.chunks_since - sequence.hidden_steps
        sequence.chunks_since = self.steps
        sequence.hidden_steps = 0

    def hang_up(self, sequence: Sequence) -> None:
        """Its client hangs up at ``request.abort_ns``, and nothing more is watched for but the end."""
        if sequence.slot >= 0:
            self.abort_ns[sequence.slot] = sequence.request.abort_ns
            self.watch[sequence.slot] = sequence.limit
