"""Costing a simulation, and how far its charges are from the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation import RECOMPUTE, Simulation

from farthing.costing.stream import CostStream
from farthing.domain.conventions import FINISHED, PHASES, UNATTRIBUTED
from farthing.domain.model import SettledWindow
from farthing.domain.records import RecordKey, Started

__all__ = ["Accuracy", "accuracy", "cost"]


def cost(simulation: Simulation) -> list[SettledWindow]:
    """The settled windows of every boot, at a price of one nano-dollar per nanosecond."""
    streams: dict[str, CostStream] = {}
    windows: list[SettledWindow] = []
    for record in simulation.records:
        boot = record.key.boot
        if boot not in streams:
            if not isinstance(record, Started):
                continue
            for earlier in streams.values():
                if not earlier.ended:
                    windows += earlier.finish()
            streams[boot] = CostStream(record, _by_the_nanosecond(record.ranks))
        windows += streams[boot].feed(record)
    for stream in streams.values():
        if not stream.ended:
            windows += stream.finish()
    return windows


def _by_the_nanosecond(ranks: int) -> Callable[[int, int], int]:
    return lambda start, end: (end - start) * ranks


@dataclass
class Accuracy:
    """Relative errors of charges; work that a preemption repeated is a pool apart (see ``pool``)."""

    requests: list[float]
    """|charge / truth - 1| of every finished request, ascending."""
    tenants: dict[str, float] = field(default_factory=dict)
    """charge / truth - 1 of each tenant's finished requests."""
    shares: dict[str, float] = field(default_factory=dict)
    """Modelled minus true share of busy time by phase."""
    busy: float = 0.0
    """Metered / true busy time - 1."""
    unattributed: dict[str, float] = field(default_factory=dict)
    """reason -> share of busy time."""
    pool: tuple[float, float] = (0.0, 0.0)
    """Share of busy time that was charged as recomputed, and that truly was."""
    with_pool: dict[str, float] = field(default_factory=dict)
    """charge / truth - 1 of each tenant's finished requests, their shares of recomputed work included: in truth by the
    tokens that each held in the KV cache while it was done."""

    def at(self, quantile: float) -> float:
        """A quantile of the requests' errors."""
        return self.requests[int(quantile * (len(self.requests) - 1))]


def accuracy(simulation: Simulation, windows: list[SettledWindow]) -> Accuracy:
    """How far the charges in ``windows`` are from the truth."""
    charged: Counter[RecordKey] = Counter()
    pools: Counter[RecordKey] = Counter()
    for window in windows:
        for request in window.requests:
            charged[request.key] += sum(request.cost_nano.values()) - request.pool_nano
            pools[request.key] += request.pool_nano
    finished = {request.key: request for request in simulation.requests if request.outcome == FINISHED}
    own = {key: sum(ns for phase, ns in r.ns.items() if phase != RECOMPUTE) for key, r in finished.items()}
    truth: Counter[str] = Counter()
    mine: Counter[str] = Counter()
    pooled_truth: Counter[str] = Counter()
    pooled_mine: Counter[str] = Counter()
    for key, done in finished.items():
        truth[done.tenant] += own[key]
        mine[done.tenant] += charged[key]
        pooled_truth[done.tenant] += done.pool_ns
        pooled_mine[done.tenant] += pools[key]
    phases: Counter[str] = Counter()
    for window in windows:
        phases.update(window.phase_ns)
    true_phases = Counter(simulation.phase_ns)
    again = true_phases.pop(RECOMPUTE, 0)
    total, true_total = sum(phases.values()), sum(true_phases.values())
    # the engine counts recomputed tokens among those of its phases: without the pool the shares compare
    pooled: Counter[str] = Counter()
    for window in windows:
        for posting in window.postings:
            if posting.reason == "preemption":
                pooled[posting.phase] += posting.nano
    lost: Counter[str] = Counter()
    for window in windows:
        for posting in window.postings:
            if posting.account == UNATTRIBUTED:
                lost[posting.reason] += posting.nano
    busy = sum(window.busy_ns for window in windows)
    return Accuracy(
        requests=sorted(abs(charged[key] / ns - 1) for key, ns in own.items() if ns),
        tenants={tenant: mine[tenant] / ns - 1 for tenant, ns in truth.items() if ns},
        shares={
            phase: (phases[phase] - pooled[phase]) / (total - sum(pooled.values())) - true_phases[phase] / true_total
            for phase in PHASES
        },
        busy=busy / simulation.busy_ns - 1,
        unattributed={reason: nano / busy for reason, nano in lost.items()},
        pool=(pools.total() / busy, again / simulation.busy_ns),
        with_pool={
            tenant: (mine[tenant] + pooled_mine[tenant]) / (ns + pooled_truth[tenant]) - 1
            for tenant, ns in truth.items()
            if ns
        },
    )
