"""The API servers of one boot: what they see of the engine, and what their clients see.

Each server handles the outputs of one step after the other; a mark is the moment at which it is through with them.
The scheduler's statistics go with the first sequence's output to its server, or to server 0 when nobody has output
(vLLM's v1 ``Scheduler.update_from_output``: "stats to only one of the front-ends").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from tests.simulation.config import Observation
from tests.simulation.requests import Request, Sequence

from farthing.domain.clock import MILLISECOND
from farthing.domain.conventions import ABORTED, FAILED, FINISHED, REJECTED
from farthing.domain.records import EngineSequence, RecordKey, Usage

__all__ = ["Frontend", "Mark"]

_NO_KEY = RecordKey("", 0, 0)
"""Until the records of a process are numbered."""
_UNSENT = 0.04
"""Chance that a chunk was taken from the engine but had not left when the client hung up: sending time over step."""


@dataclass(slots=True)
class Mark:
    """One call of a stat logger's ``record()``; columns as in ``StepMarks``."""

    at_ns: int
    running: int = 0
    waiting: int = 0
    prefill_requests: int = 0
    prefill_tokens: int = 0
    decode_requests: int = 0
    decode_tokens: int = 0
    encoder_inputs: int = 0
    encoder_tokens: int = 0
    generated: int = 0
    prompt_computed: int = 0
    prompt_cached: int = 0
    preempted: int = 0


@dataclass(slots=True)
class Frontend:
    """The API-server processes of one boot."""

    observation: Observation
    servers: int
    rng: np.random.Generator
    on_end: Callable[[Request, int], None]
    """Called with a request and the moment at which its client knows the end."""
    marks: dict[tuple[int, int], list[Mark]] = field(default_factory=dict)
    """By process and rank, in time order."""
    usages: list[tuple[Request, Usage]] = field(default_factory=list)
    open: dict[str, Request] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    """What the engine's own exposition adds up to: engine_output, prompt_computed, prompt_cached, first_tokens."""
    _free_at: list[int] = field(default_factory=list)
    _seen_running: dict[tuple[int, int], int] = field(default_factory=dict)
    _drawn: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free_at = [0] * self.servers

    # ---- steps -------------------------------------------------------------------------------------

    def see(self, process: int, moment_ns: int, outputs: int) -> int:
        """When a server is through with a step's outputs that left the engine at ``moment_ns``."""
        if not self._drawn:
            self._draw()
        delay, pause = self._drawn.pop()
        begin = max(self._free_at[process], round(moment_ns + delay))
        self._free_at[process] = done = begin + round(self.observation.output_ns * (1 + outputs) + pause)
        return done

    def mark(self, process: int, rank: int, mark: Mark, *, blind: bool = False) -> None:
        """Keep what a stat logger is given; ``blind``: without the scheduler's statistics."""
        key = process, rank
        if blind:
            said = {"unknown": -1, "carried": self._seen_running.get(key, 0), "zero": 0}
            mark.running = said[self.observation.blind_running]
            mark.waiting = -1 if mark.running < 0 else mark.waiting
        else:
            self._seen_running[key] = mark.running
        if not self.observation.details:
            mark.prefill_requests = mark.prefill_tokens = mark.decode_requests = mark.decode_tokens = 0
            mark.encoder_inputs = mark.encoder_tokens = 0
        self.marks.setdefault(key, []).append(mark)
        self.counters["engine_output"] += mark.generated
        self.counters["prompt_computed"] += mark.prompt_computed
        self.counters["prompt_cached"] += mark.prompt_cached

    def _draw(self) -> None:
        o, size = self.observation, 4096
        delays = o.delay_ns * np.exp(o.delay_sigma * self.rng.standard_normal(size))
        paused = self.rng.random(size) < o.hiccup_probability
        pauses = np.where(paused, self.rng.exponential(o.hiccup_ns, size), 0.0)
        self._drawn = list(zip(delays.tolist(), pauses.tolist(), strict=True))

    def _send_ns(self) -> int:
        return round(self.observation.send_ns * float(np.exp(0.4 * self.rng.standard_normal())))

    # ---- requests ----------------------------------------------------------------------------------

    def open_request(self, request: Request) -> None:
        """A request has arrived; a refused one ends at once."""
        if request.spec.rejected:
            self._end(request, REJECTED, request.arrived_ns + self._send_ns(), status=request.spec.status)
            return
        self.open[request.spec.request_id] = request

    def first_output(self, request: Request, mark_ns: int) -> None:
        """A sequence's first token reached the API server."""
        self.counters["first_tokens"] += 1
        if request.spec.streamed and request.first_chunk_ns is None:
            request.first_chunk_ns = mark_ns + self._send_ns()

    def finish_sequence(self, sequence: Sequence, mark_ns: int, end_ns: int) -> None:
        """A sequence's last token reached the API server at ``mark_ns``, from a step that ended at ``end_ns``.

        vLLM states durations between the engine's own moments; the probe counts them back from the mark.
        """
        request = sequence.request
        scheduled = sequence.scheduled_ns if sequence.scheduled_ns is not None else end_ns
        first = sequence.first_ns if sequence.first_ns is not None else end_ns
        request.reported.append(
            (
                mark_ns - (end_ns - scheduled),
                mark_ns - (end_ns - first),
                mark_ns,
                request.spec.prompt_tokens,
                sequence.cached,
                sequence.generated,
                scheduled - request.queued_ns,
                sequence.preemptions,
            )
        )
        if len(request.reported) == len(request.sequences):
            sent = mark_ns + self._send_ns()
            if request.first_chunk_ns is None:
                request.first_chunk_ns = sent
            request.last_chunk_ns = max(sent, request.first_chunk_ns)
            self._end(request, FINISHED, request.last_chunk_ns + self._send_ns(), status=200)

    def hang_up(self, request: Request) -> None:
        """The client is gone; from here on the server ignores what the engine computes for it."""
        self._end(request, ABORTED, request.abort_ns, status=499)

    def fail(self, request: Request, moment_ns: int) -> None:
        """The engine died under a request, and its server says so."""
        self._end(request, FAILED, moment_ns + self._send_ns(), status=500)

    def _end(self, request: Request, outcome: str, ended_ns: int, *, status: int) -> None:
        self.open.pop(request.spec.request_id, None)
        request.closed = True
        usage = self._usage(request, outcome, max(ended_ns, request.arrived_ns), status)
        self.usages.append((request, usage))
        self.on_end(request, usage.ended_ns)

    def _usage(self, request: Request, outcome: str, ended_ns: int, status: int) -> Usage:
        spec = request.spec
        sequences = tuple(EngineSequence(*reported) for reported in request.reported) if outcome == FINISHED else ()
        told = outcome == FINISHED and spec.told
        usage = Usage(
            key=_NO_KEY,
            request_id=spec.request_id,
            engine_index=request.rank,
            model=spec.model,
            outcome=outcome,
            status=status,
            arrived_ns=request.arrived_ns,
            ended_ns=ended_ns,
            first_ns=request.first_chunk_ns,
            last_ns=request.last_chunk_ns,
            route="/v1/chat/completions",
            finish_reason=("stop" if all(spec.stops) else "length") if outcome == FINISHED else "",
            tenant=spec.tenant,
            tier=spec.tier,
            prompt_tokens=spec.prompt_tokens if told else None,
            # the last sequence's, as in vLLM's response
            cached_tokens=sequences[-1].cached_tokens if told else None,
            image_tokens=sum(image.tokens for image in spec.images) if told else None,
            output_tokens=sum(s.output_tokens for s in sequences) if told else None,
            sequences=sequences,
            seen_by="both" if sequences else "client",
        )
        if outcome in {ABORTED, FAILED}:
            return self._interrupted(request, usage)
        return usage

    def _interrupted(self, request: Request, usage: Usage) -> Usage:
        """What is known of a request that did not end by itself: chunks, and the prompt if the probe looked."""
        first, ended = request.first_chunk_ns, usage.ended_ns
        chunks = sum(sequence.chunks for sequence in request.sequences)
        if first is None or first > ended:
            first, chunks = None, 0
        elif chunks > 1 and self.rng.random() < _UNSENT:
            chunks -= 1
        if chunks and self.observation.coalesced:
            chunks -= int(self.rng.binomial(chunks - 1, self.observation.coalesced))
        prompt = request.spec.prompt_tokens if self.observation.snapshot else None
        started = [sequence for sequence in request.sequences if sequence.first_ns is not None]
        cached = started[-1].cached if started and prompt is not None else None
        last = None if first is None else max(first, ended - self._last_gap_ns())
        return replace(
            usage,
            first_ns=first,
            last_ns=last,
            delivered_tokens=chunks if request.spec.streamed else None,
            prompt_tokens=prompt,
            cached_tokens=cached,
        )

    def _last_gap_ns(self) -> int:
        return round(float(self.rng.random()) * 8 * MILLISECOND)
