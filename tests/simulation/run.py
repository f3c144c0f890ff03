"""The simulation's clock: load, engines, clients and failures as events in one order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tests.simulation.config import Phase, Restart, SimConfig
from tests.simulation.execution import Noise
from tests.simulation.frontend import Frontend
from tests.simulation.rank import Rank
from tests.simulation.requests import NEVER, Request
from tests.simulation.workload import Workload

from farthing.domain.clock import MILLISECOND, SECOND

__all__ = ["Boot", "run"]

START_NS = 1_000 * SECOND
"""The first start, on the host's monotonic clock."""
DETECT_NS = 120 * MILLISECOND
"""From an engine's death until its API servers know of it."""
STOP_NS = 400 * MILLISECOND
"""From there until they are gone too."""


@dataclass(slots=True)
class Boot:
    """One life of the instance."""

    number: int
    start_ns: int
    frontend: Frontend
    ranks: list[Rank]
    requests: list[Request] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    """Lifecycle after the start."""
    ready: bool = False
    draining: bool = False
    dead_ns: int | None = None
    """When the engine died, if it did."""
    killed: bool = False
    """Its API servers died with it."""
    stop_ns: int = NEVER
    asleep_ns: int = 0


class _Run:
    def __init__(self, config: SimConfig) -> None:
        self.config = config
        seeds = np.random.SeedSequence(config.seed).spawn(3 + config.ranks)
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self.workload = Workload(config, self._rngs[0])
        self.boots: list[Boot] = []
        self.now = START_NS
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._turn = 0
        self._last_ns = START_NS
        self._stranded: list[tuple[int, int]] = []
        """Clients (phase, its end) that found nobody to ask."""
        self._noises = [Noise(config.law, rng) for rng in self._rngs[3:]]

    @property
    def boot(self) -> Boot:
        """The current or last life."""
        return self.boots[-1]

    def run(self) -> list[Boot]:
        """Everything from the first start to the last stop."""
        self._start()
        begin = START_NS + round(self.config.starting_seconds * SECOND)
        for index, phase in enumerate(self.config.phases):
            end = begin + round(phase.seconds * SECOND)
            self._at(begin, lambda i=index, p=phase, b=begin, e=end: self._phase(i, p, b, e))  # type: ignore[misc]
            begin = end
        self._last_ns = begin
        for restart in self.config.restarts:
            self._at(START_NS + round(restart.at_seconds * SECOND), lambda r=restart: self._restart(r))  # type: ignore[misc]
        while self._advance():
            pass
        self._stop(max(self._last_ns, self.now) + SECOND)
        return self.boots

    # ---- the clock ---------------------------------------------------------------------------------

    def _at(self, moment_ns: int, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(moment_ns, self.now), self._count, event))

    def _advance(self) -> bool:
        rank = min(self.boot.ranks, key=lambda rank: rank.end_ns)
        if self._events and self._events[0][0] < rank.end_ns:
            self.now, _, event = heapq.heappop(self._events)
            event()
            return True
        if rank.end_ns == NEVER:
            return False
        self.now = rank.end_ns
        if not rank.complete():
            self._drained(rank)
        return True

    def _drained(self, rank: Rank) -> None:
        """vLLM reports its state once or twice more when the last request is gone."""
        boot = self.boot
        for i in range(int(self._rngs[2].integers(0, 3))):
            self._at(
                self.now + round((1.5 + 0.04 * i) * MILLISECOND),
                lambda: rank.blank(self.now) if boot.dead_ns is None and boot.stop_ns == NEVER else None,
            )

    # ---- load --------------------------------------------------------------------------------------

    def _phase(self, index: int, phase: Phase, begin_ns: int, end_ns: int) -> None:
        if phase.kind == "closed":
            for _ in range(round(phase.level)):
                self._at(begin_ns + self.workload.uniform_ns(200 * MILLISECOND), lambda: self._ask(index, end_ns))
        elif phase.kind == "poisson":
            self._poisson(phase, end_ns)
        elif phase.kind == "asleep":
            self._sleep(end_ns)

    def _poisson(self, phase: Phase, end_ns: int) -> None:
        at = self.now + self.workload.exponential_ns(SECOND / phase.level)
        if at < end_ns:

            def ask() -> None:
                self._arrive(phase.tenants, None)
                self._poisson(phase, end_ns)

            self._at(at, ask)

    def _ask(self, index: int, end_ns: int) -> None:
        """A closed-loop client sends its next question, unless its phase is over."""
        if self.now >= end_ns:
            return
        if not self.boot.ready or self.boot.draining:
            self._stranded.append((index, end_ns))
            return
        self._arrive(self.config.phases[index].tenants, (index, end_ns))

    def _arrive(self, tenants: tuple[str, ...], client: tuple[int, int] | None) -> None:
        boot = self.boot
        if not boot.ready or boot.draining:
            return  # connection refused: nobody is there to record it
        spec = self.workload.request(tenants)
        turn = self._turn
        self._turn += 1
        request = Request(
            spec=spec,
            process=turn % self.config.servers,
            # not in step with the servers, so that every server's requests meet every rank
            rank=turn // self.config.servers % self.config.ranks,
            arrived_ns=self.now,
            queued_ns=self.now + self.workload.frontend_ns(spec),
            client=client,
        )
        boot.requests.append(request)
        if spec.patience_ns is not None and not spec.rejected:
            request.abort_ns = self.now + spec.patience_ns
            self._hang_up_later(request)
        boot.frontend.open_request(request)
        if not request.closed:
            self._at(request.queued_ns, lambda: self._enqueue(boot, request))

    def _enqueue(self, boot: Boot, request: Request) -> None:
        if not request.closed and boot.dead_ns is None:
            boot.ranks[request.rank].enqueue(request, self.now)

    def _hang_up_later(self, request: Request) -> None:
        boot = self.boot

        def hang_up() -> None:
            if request.closed or boot.dead_ns is not None:
                return
            rank = boot.ranks[request.rank]
            rank.count_chunks(request)
            boot.frontend.hang_up(request)
            if request.sequences:
                arrives = self.now + self.workload.lognormal_ns(self.config.observation.delay_ns)
                self._at(arrives, lambda: rank.abort(request, self.now) if boot.dead_ns is None else None)

        self._at(request.abort_ns, hang_up)

    def _ended(self, request: Request, ended_ns: int) -> None:
        """A client knows the end of its request; a closed-loop one thinks, and asks again."""
        self._last_ns = max(self._last_ns, ended_ns)
        if request.client is not None:
            index, end_ns = request.client
            think = self.config.phases[index].think_seconds * SECOND
            self._at(ended_ns + self.workload.exponential_ns(think), lambda: self._ask(index, end_ns))

    # ---- life and death ----------------------------------------------------------------------------

    def _start(self) -> None:
        observed = self.config.observation
        frontend = Frontend(observed, self.config.servers, self._rngs[1], self._ended)
        ranks = [
            Rank(i, self.config, frontend, noise=noise, rng=self._rngs[2], on_abort=self._hang_up_later)
            for i, noise in enumerate(self._noises)
        ]
        boot = Boot(len(self.boots), self.now, frontend, ranks)
        self.boots.append(boot)
        self._at(self.now + round(self.config.starting_seconds * SECOND), lambda: self._ready(boot))

    def _ready(self, boot: Boot) -> None:
        if boot.stop_ns != NEVER:
            return
        boot.ready = True
        boot.events.append((self.now, "ready"))
        stranded, self._stranded = self._stranded, []
        for index, end_ns in stranded:
            self._at(self.now + self.workload.uniform_ns(SECOND / 2), lambda i=index, e=end_ns: self._ask(i, e))  # type: ignore[misc]

    def _sleep(self, end_ns: int) -> None:
        """Sleep as soon as nothing is left to do, and wake a moment before the phase ends."""
        boot, wake_ns = self.boot, end_ns - SECOND // 10
        if self.now >= wake_ns - SECOND:
            return
        if not boot.ready or boot.frontend.open or not all(rank.idle for rank in boot.ranks):
            self._at(self.now + SECOND // 5, lambda: self._sleep(end_ns))
            return
        boot.events += [(self.now, "asleep"), (wake_ns, "awake")]
        boot.asleep_ns += wake_ns - self.now

    def _restart(self, restart: Restart) -> None:
        boot = self.boot
        if restart.kind == "drain":
            boot.draining = True
            boot.events.append((self.now, "draining"))
            self._drain(restart)
            return
        boot.dead_ns = self.now
        boot.killed = restart.kind == "kill"
        for rank in boot.ranks:
            for request in boot.frontend.open.values():
                if request.rank == rank.index:
                    rank.count_chunks(request)
            rank.die(self.now)
        for request in list(boot.frontend.open.values()):
            boot.frontend.fail(request, self.now + DETECT_NS)
        boot.ready = False
        boot.events.append((self.now + DETECT_NS, "down"))
        self._stop(self.now + DETECT_NS + STOP_NS)
        self._at(self.now + round(restart.down_seconds * SECOND), self._start)

    def _drain(self, restart: Restart) -> None:
        boot = self.boot
        if boot.frontend.open or not all(rank.idle for rank in boot.ranks):
            self._at(self.now + 50 * MILLISECOND, lambda: self._drain(restart))
            return
        boot.ready = False
        self._stop(self.now + STOP_NS)
        self._at(self.now + round(restart.down_seconds * SECOND), self._start)

    def _stop(self, moment_ns: int) -> None:
        self.boot.stop_ns = moment_ns


def run(config: SimConfig) -> list[Boot]:
    """The lives of the simulated instance, in order."""
    return _Run(config).run()
