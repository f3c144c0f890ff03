"""Whatever comes in whatever order: requests, steps, ticks, hang-ups, background work, and the switch.

Every record must pass intake's decoder, records must be numbered without a gap, no batch may promise that a request
is known whose record comes later, and each request must be reported once, with the engine's own count of tokens.
"""

import contextvars
import tempfile
import types
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.probe.rig import GONE, JSON, SECOND, SSE, IterationStats, RequestState, Rig, off_file, rigged

from farthing.domain.records import StepBatch, Usage
from farthing_probe.request_meter import RequestMeter

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
SECONDS = st.sampled_from([0.0, 0.001, 0.3, 1.0, 1.5, 6.0, 60.0])
"""Forty of these stay below the hour after which a request that the engine never ends is given up."""
PIECES = (
    b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n',
    b'data: {"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":9}}}\n\n',
    b'data: {"error": {"message": "boom"}}\n\n',
    b"data: [DONE]\n\n",
    b"",
)


@types.coroutine
def _pause() -> Generator[None, Any, Any]:
    return (yield)


class Call:
    """One request, whose application does one thing each time it is told, in a context of its own."""

    def __init__(self, rig: Rig, number: int, path: str) -> None:
        self.name, self.over, self.gone = f"r{number}", False, False
        self.arrived_ns, self.metered = rig.clock.now, rig.probe.on
        self.states: list[RequestState] = []
        self.context = contextvars.copy_context()
        headers = [(b"x-request-id", self.name.encode()), (b"x-tenant-id", b"acme")]
        self._run = RequestMeter(self._app)(rig.scope(path, headers), self._receive, self._send)
        self.tell(None)

    async def _app(self, _scope: Any, receive: Any, send: Any) -> None:
        while True:
            order = await _pause()
            if order == "return":
                return
            if order == "raise":
                raise RuntimeError
            if order == "receive":
                await receive()
            elif isinstance(order, dict):
                await send(order)
            else:
                order()

    async def _receive(self) -> Any:
        return GONE

    async def _send(self, message: Any) -> None:
        pass

    def tell(self, order: Any) -> None:
        """Have the application do something, or end."""
        try:
            self.context.run(self._run.send, order)
        except (StopIteration, RuntimeError):
            self.over = True


class Interleavings(RuleBasedStateMachine):
    """Requests of an engine, interleaved."""

    switch: Path | None = None

    @initialize()
    def begin(self) -> None:
        """An engine that is ready."""
        self._rigged = rigged(off_file(self.switch) if self.switch else None)
        self.rig = self._rigged.__enter__()
        self.rig.begin()
        self.calls: list[Call] = []
        self.foreign: dict[str, RequestState] = {}
        self.unrecorded: list[IterationStats] = []
        self.generated = self.ticked = 0

    # ---- what can happen -----------------------------------------------------------------------

    @rule(path=st.sampled_from(PATHS))
    def arrive(self, path):
        """A request comes."""
        self.calls.append(Call(self.rig, len(self.calls), path))

    def _open(self, pick):
        calls = [call for call in self.calls if not call.over]
        return calls[pick % len(calls)]

    @precondition(lambda self: any(not call.over for call in self.calls))
    @rule(pick=st.integers(0, 99), n=st.integers(1, 2), shared=st.booleans(), images=st.lists(st.integers(0, 9)))
    def submit(self, pick, n, shared, images):
        """Its application asks the engine, perhaps with an id that others have too."""
        self._submit(self._open(pick), n, shared=shared, images=images)

    def _submit(self, call, n, *, shared, images=()):
        def order():
            external = "chatcmpl-same" if shared else f"chatcmpl-{call.name}"
            for identity in self.rig.engine.add(external, 7, n, None, images):
                call.states.append(self.rig.engine.request_states[identity])

        call.tell(order)

    @precondition(lambda self: any(not call.over for call in self.calls))
    @rule(pick=st.integers(0, 99), status=st.sampled_from([200, 200, 200, 400, 429, 500]), stream=st.booleans())
    def answer(self, pick, status, stream):
        """Its answer begins."""
        self._open(pick).tell({"type": "http.response.start", "status": status, "headers": SSE if stream else JSON})

    @precondition(lambda self: any(not call.over for call in self.calls))
    @rule(pick=st.integers(0, 99), piece=st.sampled_from(PIECES), more=st.booleans())
    def send(self, pick, piece, more):
        """A piece of its answer goes out."""
        self._open(pick).tell({"type": "http.response.body", "body": piece, "more_body": more})

    @precondition(lambda self: any(not call.over for call in self.calls))
    @rule(pick=st.integers(0, 99))
    def hang_up(self, pick):
        """Its client goes, and the engine forgets it."""
        call = self._open(pick)
        call.tell("receive")
        self.rig.engine.abort(*(state.request_id for state in call.states))

    @precondition(lambda self: any(not call.over for call in self.calls))
    @rule(pick=st.integers(0, 99), how=st.sampled_from(["return", "raise"]))
    def end(self, pick, how):
        """Its application returns, or raises and has the engine forget."""
        call = self._open(pick)
        call.tell(how)
        if how == "raise":
            self.rig.engine.abort(*(state.request_id for state in call.states))

    @rule()
    def ask_from_elsewhere(self):
        """Another front end asks the engine."""
        (identity,) = self.rig.engine.add(f"resp_{len(self.foreign)}", 5)
        self.foreign[identity] = self.rig.engine.request_states[identity]

    @precondition(lambda self: self.rig.engine.request_states)
    @rule(data=st.data(), told=st.booleans(), at_once=st.booleans())
    def step(self, data, told, at_once):
        """The engine steps; its statistics may come a few turns of the event loop later."""
        states = sorted(self.rig.engine.request_states)
        picked = data.draw(st.lists(st.sampled_from(states), unique=True), "sequences")
        tokens = {identity: data.draw(st.integers(1, 3), "tokens") for identity in picked}
        ending = data.draw(st.sets(st.sampled_from(picked)), "ending") if picked else set()
        self._step(tokens, ending)
        if at_once:
            self._record(self.rig.engine.state() if told else None)

    def _step(self, tokens, ending):
        iteration = self.rig.engine.step(tokens, dict.fromkeys(ending, "stop"))
        self.unrecorded.append(iteration)

    def _record(self, scheduler):
        for iteration in self.unrecorded:
            if self.rig.probe.on:
                self.generated += iteration.num_generation_tokens
            self.rig.log.record(scheduler, iteration)
        self.unrecorded.clear()

    @rule(seconds=SECONDS)
    def wait(self, seconds):
        """Time passes."""
        self._record(None)
        self.rig.clock.pass_(seconds)

    @rule()
    def tick(self):
        """The delivery's thread calls, about once a second, whatever the event loop is at."""
        if self.rig.clock.now - self.ticked >= SECOND:
            self.rig.probe.tick()
            self.ticked = self.rig.clock.now

    # ---- what must hold ------------------------------------------------------------------------

    def teardown(self):
        """All comes to an end, and the books are looked at."""
        try:
            for call in self.calls:
                if not call.over:
                    call.tell("return")
            self._record(None)
            self.rig.settle(2)
            for identity in list(self.rig.engine.request_states):
                self._step({identity: 1}, {identity})
            self._record(self.rig.engine.state())
            self.rig.settle(10)
            self.rig.settle(10)
            self.rig.probe.stop()
            self.check()
        finally:
            self._rigged.__exit__(None, None, None)

    def check(self):
        """See the module."""
        records = self.rig.records
        assert self.rig.probe.errors == 0
        assert self.rig.probe.unreported == {}
        assert self.rig.probe.pending == {}
        boots = list(dict.fromkeys(record.key.boot for record in records))
        for boot in boots:
            mine = [record for record in records if record.key.boot == boot]
            assert [record.key.sequence for record in mine] == list(range(len(mine)))
            promised = 0
            for record in mine:
                if isinstance(record, StepBatch):
                    promised = max(promised, record.open_ns)
                elif isinstance(record, Usage) and record.seen_by != "engine":
                    assert record.arrived_ns >= promised
        self.check_requests()

    def check_requests(self):
        """Each once, and each token once."""
        usages = self.rig.usages
        told = {usage.request_id: usage for usage in usages if usage.seen_by != "engine"}
        assert len(told) == len(self.calls) == sum(usage.seen_by != "engine" for usage in usages)
        for call in self.calls:
            assert told[call.name].arrived_ns == call.arrived_ns
            assert told[call.name].tenant == "acme"
        theirs = Counter(state.stats.num_generation_tokens for call in self.calls for state in call.states)
        alone = Counter(state.stats.num_generation_tokens for state in self.foreign.values())
        for counter in (theirs, alone):
            del counter[0]
        assert self._entries(engine=False) == theirs
        assert self._entries(engine=True) == alone
        assert sum(sum(batch.marks.generated) for batch in self.rig.batches) == self.generated

    def _entries(self, *, engine):
        return Counter(
            entry.output_tokens
            for usage in self.rig.usages
            if (usage.seen_by == "engine") is engine
            for entry in usage.sequences
        )


class Switched(Interleavings):
    """The same with somebody at the switch."""

    @initialize()
    def begin(self) -> None:
        """With a file to make."""
        self._folder = tempfile.TemporaryDirectory()
        self.switch = Path(self._folder.name)
        super().begin()

    @rule()
    def turn(self):
        """On is off, off is on, at the next tick."""
        file = Path(self._folder.name, "off")
        file.unlink() if file.exists() else file.touch()

    def teardown(self):
        """Without the switch."""
        try:
            super().teardown()
        finally:
            self._folder.cleanup()

    def check_requests(self):
        """Each that came while the probe was on once, no other, and no token twice."""
        told = Counter(usage.request_id for usage in self.rig.usages if usage.seen_by != "engine")
        assert told == Counter(call.name for call in self.calls if call.metered)
        states = [state for call in self.calls for state in call.states] + list(self.foreign.values())
        entries = [entry for usage in self.rig.usages for entry in usage.sequences]
        assert sum(entry.output_tokens for entry in entries) <= sum(s.stats.num_generation_tokens for s in states)
        ended = [record for record in self.rig.delivery.records if record.get("event") == "stop"]
        assert len(ended) == len({record["boot"] for record in self.rig.delivery.records})


LIMITS = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = LIMITS
TestSwitched = Switched.TestCase
TestSwitched.settings = LIMITS
