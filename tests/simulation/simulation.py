"""A simulated engine's records, and the truth about them that no record states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.simulation.config import SimConfig
from tests.simulation.emission import boot_id, emit
from tests.simulation.rank import StepRow
from tests.simulation.requests import Request
from tests.simulation.run import Boot, run
from tests.simulation.wire_form import to_wire

from farthing.domain.conventions import ABORTED, DECODE, FAILED, FINISHED, PREFILL, REJECTED, VISION
from farthing.domain.money import split
from farthing.domain.records import Record, RecordKey

__all__ = ["RECOMPUTE", "BootTruth", "RequestTruth", "Simulation", "simulate"]

RECOMPUTE = "recompute"
"""Phase of work that a preemption made necessary once more."""
_OUTCOMES = (FINISHED, ABORTED, FAILED, REJECTED)


@dataclass(frozen=True, slots=True)
class RequestTruth:
    """One request as it truly was; tuples hold one entry per sequence that reached the engine.

    ``ns`` is its share of the busy time by phase (prefill, decode, vision, recompute), in integer nanoseconds.
    """

    key: RecordKey
    """Of its usage record, which a killed process may never have sent (see ``Simulation.unsent``)."""
    request_id: str
    tenant: str
    tier: str
    model: str
    outcome: str
    rank: int
    ns: dict[str, int]
    prompt_tokens: int
    image_tokens: int
    cached_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    """Those that its API server took."""
    prefill_tokens: int
    """Scheduled before the first output (``prefill_tokens`` of the step marks)."""
    decode_tokens: int
    """Scheduled after it: drafts, recomputed ones and the overrun of a stop included (``decode_tokens``)."""
    recomputed_tokens: int
    encoder_tokens: int
    preemptions: int
    queued_ns: int
    scheduled_ns: tuple[int | None, ...]
    pool_ns: int
    """Its share of all recomputed work by the tokens that it held in the KV cache at that moment, rounded: the second
    way to charge what ``ns`` has under ``recompute`` of the requests that were preempted."""


@dataclass(frozen=True, slots=True)
class BootTruth:
    """One life of the instance: moments, and each rank's nanoseconds by state."""

    boot: str
    start_ns: int
    stop_ns: int
    states: tuple[dict[str, int], ...]
    """By rank: starting, busy, idle, asleep, down (between an engine's death and the last record); their sum is the
    life."""
    steps: tuple[tuple[StepRow, ...], ...]
    """By rank, in order."""
    counters: dict[str, int]
    """The engine's own totals: engine_output, prompt_computed, prompt_cached, first_tokens."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What the probe sent, and what is true. Nanoseconds of ranks are added up."""

    config: SimConfig
    records: tuple[Record, ...]
    """In canonical order, boot after boot."""
    requests: tuple[RequestTruth, ...]
    boots: tuple[BootTruth, ...]
    unsent: frozenset[RecordKey]
    """Keys of usage that died with its process."""

    @property
    def truth(self) -> dict[RecordKey, dict[str, int]]:
        """Nanoseconds by phase of every request, sent or not."""
        return {request.key: request.ns for request in self.requests}

    @property
    def span(self) -> tuple[int, int]:
        """From the first start to the last stop, on the host's monotonic clock."""
        return self.boots[0].start_ns, self.boots[-1].stop_ns

    def state_ns(self, state: str) -> int:
        """Nanoseconds in a state, over boots and ranks."""
        return sum(states.get(state, 0) for boot in self.boots for states in boot.states)

    @property
    def busy_ns(self) -> int:
        """Nanoseconds in steps."""
        return self.state_ns("busy")

    @property
    def idle_ns(self) -> int:
        """Nanoseconds ready and awake without a step."""
        return self.state_ns("idle")

    @property
    def down_ns(self) -> int:
        """Nanoseconds between an engine's death or stop and the next start."""
        gaps = sum(later.start_ns - boot.stop_ns for boot, later in pairwise(self.boots))
        return self.state_ns("down") + gaps * self.config.ranks

    @property
    def unmarked_ns(self) -> int:
        """Busy nanoseconds of steps that an engine died in: no mark tells of them."""
        rows = (row for boot in self.boots for steps in boot.steps for row in steps)
        return sum(row.end_ns - row.start_ns for row in rows if not row.marked)

    @property
    def counters(self) -> dict[str, int]:
        """The engine's own totals over all boots."""
        total: Counter[str] = Counter()
        for boot in self.boots:
            total.update(boot.counters)
        return dict(total)

    @property
    def phase_ns(self) -> dict[str, int]:
        """Busy nanoseconds by phase."""
        return _by_phase(self.requests)

    def tenant_truth(self, outcomes: Iterable[str] = _OUTCOMES) -> dict[str, dict[str, int]]:
        """Nanoseconds by tenant and phase, of requests with these outcomes."""
        wanted = set(outcomes)
        grouped: dict[str, list[RequestTruth]] = {}
        for request in self.requests:
            if request.outcome in wanted:
                grouped.setdefault(request.tenant, []).append(request)
        return {tenant: _by_phase(requests) for tenant, requests in sorted(grouped.items())}

    def wire(self) -> list[dict[str, Any]]:
        """The records as the probe posts them."""
        return [to_wire(record) for record in self.records]


def simulate(config: SimConfig) -> Simulation:
    """Simulate an engine; equal configurations give equal simulations."""
    records: list[Record] = []
    requests: list[RequestTruth] = []
    boots: list[BootTruth] = []
    unsent: set[RecordKey] = set()
    for boot in run(config):
        emitted = emit(config, boot)
        records += emitted.records
        unsent |= emitted.unsent
        requests += _requests(config, boot, emitted.keys)
        boots.append(_boot_truth(config, boot))
    return Simulation(config, tuple(records), tuple(requests), tuple(boots), frozenset(unsent))


def _by_phase(requests: Iterable[RequestTruth]) -> dict[str, int]:
    total = dict.fromkeys((PREFILL, DECODE, VISION, RECOMPUTE), 0)
    for request in requests:
        for phase, ns in request.ns.items():
            total[phase] += ns
    return total


def _boot_truth(config: SimConfig, boot: Boot) -> BootTruth:
    end = boot.stop_ns if boot.dead_ns is None else boot.dead_ns
    ready = next((at_ns for at_ns, event in boot.events if event == "ready"), end)
    states = []
    for rank in boot.ranks:
        busy = sum(row.end_ns - row.start_ns for row in rank.steps)
        idle = end - ready - busy - boot.asleep_ns
        states.append(
            {
                "starting": ready - boot.start_ns,
                "busy": busy,
                "idle": idle,
                "asleep": boot.asleep_ns,
                "down": boot.stop_ns - end,
            }
        )
    return BootTruth(
        boot=boot_id(config, boot),
        start_ns=boot.start_ns,
        stop_ns=boot.stop_ns,
        states=tuple(states),
        steps=tuple(tuple(rank.steps) for rank in boot.ranks),
        counters=dict(boot.frontend.counters),
    )


def _requests(config: SimConfig, boot: Boot, keys: dict[str, RecordKey]) -> list[RequestTruth]:
    outcomes = {request.spec.request_id: usage.outcome for request, usage in boot.frontend.usages}
    shares = _integers(boot)
    truths = []
    for request in boot.requests:
        spec, sequences = request.spec, request.sequences
        truths.append(
            RequestTruth(
                key=keys[spec.request_id],
                request_id=spec.request_id,
                tenant=spec.tenant,
                tier=spec.tier,
                model=spec.model,
                outcome=outcomes[spec.request_id],
                rank=request.rank,
                ns=shares.get(spec.request_id, {}),
                prompt_tokens=spec.prompt_tokens,
                image_tokens=sum(image.tokens for image in spec.images),
                cached_tokens=tuple(sequence.cached for sequence in sequences),
                output_tokens=tuple(sequence.delivered for sequence in sequences),
                prefill_tokens=sum(sequence.prefill_tokens for sequence in sequences),
                decode_tokens=sum(sequence.decode_tokens for sequence in sequences),
                recomputed_tokens=sum(sequence.again_tokens for sequence in sequences),
                encoder_tokens=sum(sequence.encoder_tokens for sequence in sequences),
                preemptions=sum(sequence.preemptions for sequence in sequences),
                queued_ns=request.queued_ns,
                scheduled_ns=tuple(sequence.scheduled_ns for sequence in sequences),
                pool_ns=round(sum(sequence.pool_ns for sequence in sequences)),
            )
        )
    return truths


def _integers(boot: Boot) -> dict[str, dict[str, int]]:
    """Every request's nanoseconds by phase, rounded once so that a rank's add up to its busy time exactly."""
    result: dict[str, dict[str, int]] = {}
    for rank in boot.ranks:
        names: list[tuple[str, str]] = []
        weights: list[int] = []
        for request in boot.requests:
            if request.rank == rank.index:
                for phase, ns in _floats(request).items():
                    names.append((request.spec.request_id, phase))
                    # in 2^-20 of a nanosecond, so that rounding comes once, below
                    weights.append(round(ns * 2**20))
        busy = sum(row.end_ns - row.start_ns for row in rank.steps)
        for (request_id, phase), ns in zip(names, split(busy, weights) if busy else [], strict=False):
            if ns:
                result.setdefault(request_id, {})[phase] = ns
    return result


def _floats(request: Request) -> dict[str, float]:
    sequences = request.sequences
    return {
        PREFILL: sum(sequence.prefill_ns for sequence in sequences),
        DECODE: sum(sequence.decode_ns for sequence in sequences),
        VISION: sum(sequence.vision_ns for sequence in sequences),
        RECOMPUTE: sum(sequence.again_ns for sequence in sequences),
    }
