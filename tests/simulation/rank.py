"""One engine of the simulation: it runs steps back to back while there is work, and tells its API servers.

Under asynchronous scheduling the step after the current one is scheduled when the current one begins; what arrives
or is aborted meanwhile takes effect another step later. The outcome of a step is known at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tests.simulation.config import SimConfig
from tests.simulation.execution import Noise, PhaseTimes, PricedStep, price
from tests.simulation.frontend import Frontend, Mark
from tests.simulation.requests import NEVER, Request, Sequence
from tests.simulation.scheduler import Scheduler

from farthing.domain.clock import MILLISECOND

__all__ = ["Rank", "StepRow"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step as it truly was; times in nanoseconds, phases in float nanoseconds that add up to the duration."""

    start_ns: int
    end_ns: int
    prefill_ns: float
    decode_ns: float
    vision_ns: float
    again_ns: float
    prefill_tokens: int
    decode_tokens: int
    encoder_tokens: int
    requests: int
    kv_blocks: int
    """Blocks held when the step was scheduled, idle prefixes included."""
    marked: bool
    """It ended, so that a mark tells of it; a step that the engine died in did not."""


class Rank:
    """One engine index of one boot."""

    def __init__(
        self,
        index: int,
        config: SimConfig,
        frontend: Frontend,
        *,
        noise: Noise,
        rng: np.random.Generator,
        on_abort: Callable[[Request], None],
    ) -> None:
        self.index = index
        self.config = config
        self.frontend = frontend
        self.scheduler = Scheduler(config.limits)
        self.steps: list[StepRow] = []
        self.end_ns = NEVER
        """End of the current step; NEVER when there is none."""
        self._start_ns = 0
        self._step: PricedStep | None = None
        self._kv_blocks = 0
        self._noise = noise
        self._rng = rng
        self._on_abort = on_abort
        self._inbox: deque[Request] = deque()
        self._aborts: deque[tuple[int, Request]] = deque()

    @property
    def idle(self) -> bool:
        """No step is running."""
        return self._step is None

    # ---- what comes in -----------------------------------------------------------------------------

    def enqueue(self, request: Request, now_ns: int) -> None:
        """A request reaches the engine's queue; an idle engine begins at once."""
        request.sequences = [Sequence(request, i) for i in range(len(request.spec.outputs))]
        self._inbox.append(request)
        if self.idle:
            self._begin(now_ns, now_ns)

    def abort(self, request: Request, now_ns: int) -> None:
        """The word that a request's client is gone reaches the engine."""
        self._aborts.append((now_ns, request))
        if self.idle:
            self._take(now_ns)

    def count_chunks(self, request: Request) -> None:
        """Bring a request's chunks up to date, for a client that leaves or is left."""
        for sequence in request.sequences:
            if sequence.slot >= 0:
                self.scheduler.slots.count_chunks(sequence)

    def blank(self, now_ns: int) -> None:
        """A report of state without a step, as vLLM makes after the last request has gone."""
        at_ns = self.frontend.see(0, now_ns, 0)
        running, waiting = len(self.scheduler.running), len(self.scheduler.waiting)
        self.frontend.mark(0, self.index, Mark(at_ns, running, waiting))

    # ---- steps -------------------------------------------------------------------------------------

    def complete(self) -> bool:
        """The current step ends and the next one begins; False when there is nothing to do."""
        step, start, end = self._step, self._start_ns, self.end_ns
        assert step is not None
        times = step.accrue(self.scheduler.slots, (end - start) / step.total_ns)
        self._log(step, end, times, marked=True)
        self._step, self.end_ns = None, NEVER
        report = self._outputs(step, end)
        if self.config.limits.asynchronous:
            self._begin(end, start)
            report()
        else:
            report()
        if self.idle:
            self._begin(end, end)
        return not self.idle

    def die(self, now_ns: int) -> None:
        """The engine is gone at ``now_ns``; the part of the step that was done is lost work, but work."""
        if self._step is not None and now_ns > self._start_ns:
            scale = (now_ns - self._start_ns) / self._step.total_ns
            self._log(self._step, now_ns, self._step.accrue(self.scheduler.slots, scale), marked=False)
        self._step, self.end_ns = None, NEVER
        self._inbox.clear()
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            self.scheduler.remove(sequence)

    def _take(self, cutoff_ns: int) -> None:
        """Take notice of what came in up to a moment."""
        while self._inbox and self._inbox[0].queued_ns <= cutoff_ns:
            for sequence in self._inbox.popleft().sequences:
                self.scheduler.enqueue(sequence)
        while self._aborts and self._aborts[0][0] <= cutoff_ns:
            _, request = self._aborts.popleft()
            for sequence in request.sequences:
                if sequence.state != "gone":
                    self.scheduler.remove(sequence)

    def _begin(self, now_ns: int, cutoff_ns: int) -> None:
        self._take(cutoff_ns)
        plan = self.scheduler.plan(cutoff_ns)
        if plan is None:
            return
        width = self.scheduler.width
        self._step = price(plan, self.config.law, width)
        self._kv_blocks = self.scheduler.kv.used
        self._start_ns = now_ns
        self.end_ns = now_ns + self._noise.duration_ns(self._step.total_ns)

    def _log(self, step: PricedStep, end_ns: int, times: PhaseTimes, *, marked: bool) -> None:
        plan = step.plan
        prefill = sum(chunk.tokens for chunk in plan.chunks if not chunk.resumed)
        resumed = sum(chunk.tokens for chunk in plan.chunks if chunk.resumed)
        decode = resumed + step.width * (len(plan.order) + len(plan.ghosts))
        encoder = sum(chunk.encoder_tokens for chunk in plan.chunks)
        self.steps.append(
            StepRow(
                start_ns=self._start_ns,
                end_ns=end_ns,
                prefill_ns=times.prefill,
                decode_ns=times.decode,
                vision_ns=times.vision,
                again_ns=times.again,
                prefill_tokens=prefill,
                decode_tokens=decode,
                encoder_tokens=encoder,
                requests=plan.requests,
                kv_blocks=self._kv_blocks,
                marked=marked,
            )
        )

    # ---- outputs -----------------------------------------------------------------------------------

    def _outputs(self, step: PricedStep, end_ns: int) -> Callable[[], None]:
        """Give every sequence its tokens and the API servers their marks.

        Returns what keeps the marks: ``running`` and ``waiting`` in them are of after the next step's scheduling.
        """
        plan, scheduler = step.plan, self.scheduler
        for ghost in plan.ghosts:
            ghost.decode_tokens += step.width
        completed = [chunk.sequence for chunk in plan.chunks if chunk.completes]
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.again_tokens += chunk.rework
            sequence.encoder_tokens += chunk.encoder_tokens
            if chunk.resumed:
                sequence.decode_tokens += chunk.tokens
            else:
                sequence.prefill_tokens += chunk.tokens
            scheduler.computed(chunk)
        outputs = self._count_outputs(plan.order, completed)
        teller = self._teller(completed)
        marks = {
            process: Mark(self.frontend.see(process, end_ns, count))
            for process, count in outputs
            if count or process == teller
        }
        if len(plan.order):
            self._decode(marks, end_ns)
        for sequence in completed:
            self._sample(sequence, marks[sequence.request.process], end_ns)
        row = self.steps[-1]
        return lambda: self._report(step, row, marks, teller)

    def _count_outputs(self, order: Ints, completed: list[Sequence]) -> list[tuple[int, int]]:
        servers = self.config.servers
        if servers == 1:
            return [(0, len(order) + len(completed))]
        counts = np.bincount(self.scheduler.slots.process[order], minlength=servers).tolist()
        for sequence in completed:
            counts[sequence.request.process] += 1
        return list(enumerate(counts))

    def _teller(self, completed: list[Sequence]) -> int:
        """The server that gets the scheduler's statistics: of the first sequence with output, else the first."""
        with_output = [*self.scheduler.slots.members[:1], *completed]
        if self.config.servers == 1 or not with_output:
            return 0
        return min(with_output, key=lambda sequence: sequence.ticket).request.process

    def _report(self, step: PricedStep, row: StepRow, marks: dict[int, Mark], teller: int) -> None:
        plan = step.plan
        for process, mark in marks.items():
            if process == teller:
                mark.running, mark.waiting = len(self.scheduler.running), len(self.scheduler.waiting)
                mark.prefill_requests = sum(1 for chunk in plan.chunks if not chunk.resumed)
                mark.decode_requests = plan.requests - mark.prefill_requests
                mark.prefill_tokens, mark.decode_tokens = row.prefill_tokens, row.decode_tokens
                mark.encoder_inputs = sum(chunk.encoder_inputs for chunk in plan.chunks)
                mark.encoder_tokens = row.encoder_tokens
            self.frontend.mark(process, self.index, mark, blind=process != teller)

    def _decode(self, marks: dict[int, Mark], end_ns: int) -> None:
        slots, limits = self.scheduler.slots, self.config.limits
        order = slots.order
        if limits.draft_tokens:
            accepted = self._rng.geometric(1 - limits.acceptance, len(order)) - 1
            emitted = np.minimum(accepted, limits.draft_tokens) + 1
            emitted = np.minimum(emitted, slots.limit[order] - slots.generated[order])
        else:
            emitted = np.ones(len(order), np.int64)
        slots.steps += 1
        slots.context[order] += emitted
        generated = slots.generated[order] + emitted
        slots.generated[order] = generated
        self._count_tokens(order, emitted, marks)
        # the members' list is in the order of the slots until the first of them leaves
        for sequence in [slots.members[i] for i in np.flatnonzero(generated >= slots.watch[order]).tolist()]:
            self._reached(sequence, int(slots.generated[sequence.slot]), marks[sequence.request.process], end_ns)

    def _count_tokens(self, order: Ints, emitted: Ints, marks: dict[int, Mark]) -> None:
        """Output tokens by API server, without those of clients that are gone: their server ignores them."""
        slots = self.scheduler.slots
        if len(marks) == 1:
            (mark,) = marks.values()
            mark.generated += int(emitted.sum())
        else:
            for process, tokens in enumerate(np.bincount(slots.process[order], emitted).tolist()):
                if tokens:
                    marks[process].generated += int(tokens)
        gone = slots.abort_ns[order] <= max(mark.at_ns for mark in marks.values())
        if gone.any():
            for i in np.flatnonzero(gone).tolist():
                sequence = slots.members[i]
                mark = marks[sequence.request.process]
                if sequence.request.abort_ns <= mark.at_ns:
                    mark.generated -= int(emitted[i])
                    sequence.hidden += int(emitted[i])
                    sequence.hidden_steps += 1

    def _sample(self, sequence: Sequence, mark: Mark, end_ns: int) -> None:
        """A completed prompt (or what was recomputed of a sequence) yields a token, and decodes from now on."""
        request = sequence.request
        sequence.generated += 1
        if mark.at_ns < request.abort_ns:
            sequence.chunks += 1
            mark.generated += 1
            mark.preempted += sequence.unreported
            sequence.unreported = 0
            if sequence.first_ns is None:
                sequence.first_ns = end_ns
                mark.prompt_computed += request.spec.prompt_tokens - sequence.cached
                mark.prompt_cached += sequence.cached
                self.frontend.first_output(request, mark.at_ns)
        else:
            sequence.hidden += 1
        if sequence.generated < sequence.limit:
            after = request.spec.abort_after if sequence.ordinal == 0 and request.abort_ns == NEVER else None
            self.scheduler.promote(sequence, sequence.limit if after is None else after)
            if after is None or sequence.generated < after:
                return
        self._reached(sequence, sequence.generated, mark, end_ns)

    def _reached(self, sequence: Sequence, generated: int, mark: Mark, end_ns: int) -> None:
        """A sequence has as many tokens as it was watched for: it is done, or its client has had enough."""
        request = sequence.request
        if generated < sequence.limit:
            request.abort_ns = mark.at_ns + round(float(self._rng.uniform(5, 200)) * MILLISECOND)
            for sibling in request.sequences:
                self.scheduler.slots.hang_up(sibling)
            self._on_abort(request)
            return
        sequence.last_ns = end_ns
        context = int(self.scheduler.slots.context[sequence.slot]) if sequence.slot >= 0 else sequence.computed
        self.scheduler.remove(sequence)
        if sequence.stops and self.config.limits.asynchronous:
            # the next step was scheduled before anyone could know that this one was the last
            sequence.ghost_context = context
            self.scheduler.ghosts.append(sequence)
        if mark.at_ns < request.abort_ns and not request.closed:
            self.frontend.finish_sequence(sequence, mark.at_ns, end_ns)
