"""The scheduler: which sequence gets how many tokens in the next step.

After vLLM's v1 ``Scheduler.schedule``: running sequences first (decoding ones, then chunks of prompts begun), each
with the blocks it needs, preempting the latest admitted when there are none; then the waiting queue, first come
first served, unless something was preempted. A preempted sequence gives up everything and waits at the front.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tests.simulation.config import Limits
from tests.simulation.memory import Chain, EncoderCache, KvCache
from tests.simulation.requests import Image, Sequence
from tests.simulation.slots import DecodeSlots

__all__ = ["Chunk", "Plan", "Scheduler"]


@dataclass(slots=True)
class Chunk:
    """Part of a prompt (or of what was computed once before a preemption), with the images it needs encoded."""

    sequence: Sequence
    start: int
    tokens: int
    resumed: bool
    """The sequence has output already: vLLM counts the chunk as generation."""
    rework: int = 0
    """Of its tokens, those that were in the KV cache before a preemption."""
    images: list[tuple[int, Image]] = field(default_factory=list)
    """Images, by their number in the prompt, whose encoder output it needs and does not hold yet."""
    encoder_inputs: int = 0
    encoder_tokens: int = 0
    encoder_again: int = 0
    """Encoder tokens of images that this sequence's steps had encoded before."""

    @property
    def completes(self) -> bool:
        """The chunk reaches the end of what is known: the step samples a token."""
        return self.start + self.tokens == self.sequence.known


@dataclass(slots=True)
class Plan:
    """A step to come."""

    order: npt.NDArray[np.int64]
    """Slots that decode."""
    contexts: npt.NDArray[np.int64]
    """What each of them has in the KV cache before the step."""
    chunks: list[Chunk] = field(default_factory=list)
    ghosts: list[Sequence] = field(default_factory=list)
    """Sequences that stopped after the step had been scheduled."""

    @property
    def requests(self) -> int:
        """Sequences in the step."""
        return len(self.order) + len(self.chunks) + len(self.ghosts)


class Scheduler:
    """Queues, memories and limits of one engine."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.prefilling: list[Sequence] = []
        self.ghosts: list[Sequence] = []
        self.slots = DecodeSlots(limits.sequences)
        self.kv = KvCache(limits.kv_blocks)
        self.encoder = EncoderCache(limits.encoder_cache_tokens)
        self._tickets = 0
        self._pinned: dict[Sequence, list[tuple[Chain, int]]] = {}
        self._encoder_left = 0

    @property
    def width(self) -> int:
        """Tokens that a decoding sequence computes in a step: one and its drafts."""
        return 1 + self.limits.draft_tokens

    def plan(self, moment_ns: int) -> Plan | None:
        """The next step, scheduled at ``moment_ns``; None when there is nothing to do."""
        self._encoder_left = self.limits.encoder_tokens
        preempted = self._decode_rooms()
        budget = self.limits.step_tokens - self.width * len(self.slots)
        chunks: list[Chunk] = []
        for sequence in list(self.prefilling):
            if budget <= 0:
                break
            if sequence.state != "prefilling":
                continue
            chunk = self._chunk(sequence, sequence.computed, budget)
            if chunk is None:
                continue
            blocks = self._blocks(chunk.start + chunk.tokens - sequence.room)
            before = len(self.running)
            fits = self._make_room(sequence, blocks)
            preempted = preempted or len(self.running) < before
            if fits:
                sequence.room += blocks * self.limits.block_tokens
                self._commit(chunk)
                budget -= chunk.tokens
                chunks.append(chunk)
        if not preempted:
            self._admit(moment_ns, budget, chunks)
        # read now: whoever decodes may have been preempted for a prompt that began before it
        order = self.slots.order
        plan = Plan(order, self.slots.context[order], chunks, self.ghosts)
        self.ghosts = []
        return plan if plan.requests else None

    def enqueue(self, sequence: Sequence) -> None:
        """A new sequence waits at the end."""
        self.waiting.append(sequence)

    def computed(self, chunk: Chunk) -> None:
        """A chunk's step is over: its tokens are in the KV cache, and images that lie before them are done with."""
        sequence = chunk.sequence
        sequence.computed = chunk.start + chunk.tokens
        sequence.high = max(sequence.high, sequence.computed)
        if sequence.held:
            needed = {image.key for image in sequence.request.spec.images if image.end > sequence.computed}
            for key in sequence.held:
                if key not in needed:
                    self.encoder.release(key)
            sequence.held = [key for key in sequence.held if key in needed]

    def promote(self, sequence: Sequence, watch: int) -> None:
        """A sequence whose prompt is complete decodes from now on."""
        self.prefilling.remove(sequence)
        self.slots.add(sequence, watch)

    def remove(self, sequence: Sequence) -> None:
        """A sequence leaves the engine, whatever it was doing; its memory comes back."""
        if sequence.state == "waiting":
            self.waiting.remove(sequence)
        elif sequence.state in {"prefilling", "decoding"}:
            self._release(sequence)
            self.running.remove(sequence)
        sequence.state = "gone"

    # ---- rooms -------------------------------------------------------------------------------------

    def _blocks(self, tokens: int) -> int:
        return max(0, -(-tokens // self.limits.block_tokens))

    def _decode_rooms(self) -> bool:
        """Give every decoding sequence the blocks of its next tokens; returns whether anyone was preempted."""
        slots, block = self.slots, self.limits.block_tokens
        if not len(slots):
            return False
        order = slots.order
        lacking = slots.context[order] + self.width - slots.room[order]
        short = lacking > 0
        if not short.any():
            return False
        who = order[short]
        blocks = (lacking[short] + block - 1) // block
        if self.kv.take(int(blocks.sum())):
            slots.room[who] += blocks * block
            return False
        before = len(self.running)
        for sequence in list(slots.members):
            if sequence.state != "decoding":
                continue
            need = self._blocks(int(slots.context[sequence.slot]) + self.width - int(slots.room[sequence.slot]))
            if need and self._make_room(sequence, need):
                slots.room[sequence.slot] += need * block
        return len(self.running) < before

    def _make_room(self, sequence: Sequence, blocks: int) -> bool:
        """Take blocks for a running sequence, preempting from the latest on; False when it was itself the latest."""
        while not self.kv.take(blocks):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        self.running.pop()
        sequence.state = "waiting"
        sequence.high = max(sequence.high, sequence.computed)
        sequence.computed = 0
        sequence.preemptions += 1
        sequence.unreported += 1
        self.waiting.appendleft(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence.state == "decoding":
            self.slots.remove(sequence, self.width)
        else:
            self.prefilling.remove(sequence)
        self.kv.give(sequence.room // self.limits.block_tokens - sequence.shared)
        for chain, _ in self._pinned.pop(sequence):
            self.kv.unpin(chain)
        for key in sequence.held:
            self.encoder.release(key)
        sequence.held.clear()
        sequence.room = sequence.shared = 0

    def _commit(self, chunk: Chunk) -> None:
        """Take what a chunk needs from the encoder, and give full blocks of shared texts to them."""
        sequence = chunk.sequence
        chunk.rework = max(0, min(chunk.start + chunk.tokens, sequence.high) - chunk.start)
        for _, image in chunk.images:
            if self.encoder.hold(image.key):
                sequence.held.append(image.key)
        for number, image in chunk.images:
            if image.key in sequence.held:
                continue
            self.encoder.add(image.key, image.tokens)
            sequence.held.append(image.key)
            self._encoder_left -= image.tokens
            chunk.encoder_inputs += 1
            chunk.encoder_tokens += image.tokens
            if number < sequence.images_seen:
                chunk.encoder_again += image.tokens
            sequence.images_seen = max(sequence.images_seen, number + 1)
        self._share(sequence, (chunk.start + chunk.tokens) // self.limits.block_tokens)

    def _share(self, sequence: Sequence, full: int) -> None:
        """Blocks of shared texts among the first ``full`` become the texts' own; vLLM caches them when scheduled."""
        begin = 0
        for chain, blocks in self._pinned[sequence]:
            here = min(max(sequence.shared - begin, 0), blocks)
            if here < blocks:
                gained = min(full - begin, blocks) - here
                if gained <= 0 or chain.blocks != here:
                    # someone else computed the same meanwhile: this copy stays private, as in vLLM
                    return
                chain.blocks += gained
                sequence.shared += gained
                if here + gained < blocks:
                    return
            begin += blocks

    # ---- prompts -----------------------------------------------------------------------------------

    def _admit(self, moment_ns: int, budget: int, chunks: list[Chunk]) -> None:
        while self.waiting and budget > 0 and len(self.running) < self.limits.sequences:
            sequence = self.waiting[0]
            pinned, hit = self._look_up(sequence)
            start = hit * self.limits.block_tokens
            chunk = self._chunk(sequence, start, budget)
            blocks = self._blocks(start + chunk.tokens) - hit if chunk else 0
            if chunk is None or not self.kv.take(blocks):
                for chain, _ in pinned:
                    self.kv.unpin(chain)
                return
            self.waiting.popleft()
            self._pinned[sequence] = pinned
            sequence.shared = hit
            sequence.room = (hit + blocks) * self.limits.block_tokens
            sequence.computed = start
            sequence.state = "prefilling"
            sequence.ticket = self._tickets
            self._tickets += 1
            if sequence.scheduled_ns is None:
                sequence.scheduled_ns = moment_ns
                sequence.cached = start
            self.running.append(sequence)
            self.prefilling.append(sequence)
            self._commit(chunk)
            budget -= chunk.tokens
            chunks.append(chunk)

    def _look_up(self, sequence: Sequence) -> tuple[list[tuple[Chain, int]], int]:
        """The sequence's shared texts, pinned, and the blocks found of them; at least one token stays to compute."""
        pinned = [(self.kv.chain(s.key), s.blocks) for s in sequence.request.spec.segments]
        hit = 0
        for chain, blocks in pinned:
            hit += min(chain.blocks, blocks)
            if chain.blocks < blocks:
                break
        for chain, _ in pinned:
            self.kv.pin(chain)
        return pinned, min(hit, (sequence.known - 1) // self.limits.block_tokens)

    def _chunk(self, sequence: Sequence, start: int, budget: int) -> Chunk | None:
        """As much of a prompt as budget and encoder allow; None when that is nothing."""
        tokens = min(sequence.known - start, budget)
        chunk = Chunk(sequence, start, tokens, resumed=sequence.generated > 0)
        wanted: set[str] = set(sequence.held)
        fresh = pinned = 0
        for number, image in enumerate(sequence.request.spec.images):
            if image.start >= start + chunk.tokens:
                break
            if image.end <= start or image.key in wanted:
                continue
            there = self.encoder.has(image.key)
            pinned += 0 if there and not self.encoder.idle(image.key) else image.tokens
            fresh += 0 if there else image.tokens
            if fresh > self._encoder_left or not self.encoder.fits(pinned):
                chunk.tokens = max(0, image.start - start)
                break
            wanted.add(image.key)
            chunk.images.append((number, image))
        return chunk if chunk.tokens > 0 else None
