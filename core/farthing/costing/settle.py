"""Settlement: one window's bill into postings that add up to it exactly, none negative, none a plug.

Time is split first (busy, idle, starting, asleep, down: metered), then busy money over phases (modelled
seconds), then each phase over its claimants (weights) and over the tokens that nobody claims (unattributed).
Energy goes the same way with its own model. Every split is by largest remainder.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from farthing.costing.energy import IDLE_SECONDS
from farthing.costing.work import WindowWork
from farthing.domain.clock import SECOND
from farthing.domain.conventions import (
    ABORTED,
    CHARGED,
    FAILED,
    FINISHED,
    METERED,
    PHASES,
    PREFILL,
    REASON_FAILED,
    REASON_LOST,
    REASON_PREEMPTION,
    REASON_UNMETERED,
    REJECTED,
    UNATTRIBUTED,
)
from farthing.domain.model import CostedRequest, Fit, Posting
from farthing.domain.money import split
from farthing.domain.records import RecordKey

__all__ = ["Energy", "Settlement", "WindowTime", "settle"]

_WEIGHT = 10**12
"""Integer weights are picoseconds of modelled time, or picojoules of modelled energy."""

_ACCOUNT = {FINISHED: CHARGED, ABORTED: ABORTED, FAILED: UNATTRIBUTED, REJECTED: UNATTRIBUTED}


@dataclass(frozen=True, slots=True)
class WindowTime:
    """A window's time in nanoseconds: busy, and the rest by account (idle, starting, asleep, down)."""

    busy_ns: int
    other_ns: dict[str, int]


@dataclass(frozen=True, slots=True)
class Energy:
    """A window's energy in millijoules, and the fit (joules per unit) that splits it."""

    millijoules: int
    fit: Fit


@dataclass(frozen=True, slots=True)
class Settlement:
    """Postings of one window and its requests' shares; the postings add up to the bill and to the energy."""

    postings: tuple[Posting, ...]
    requests: tuple[CostedRequest, ...]
    phase_ns: dict[str, int]


class _Line(NamedTuple):
    """Where an amount goes."""

    account: str
    phase: str = ""
    tenant: str = ""
    model: str = ""
    tier: str = ""
    reason: str = ""


@dataclass(slots=True)
class _Amounts:
    """One total over lines and requests."""

    lines: defaultdict[_Line, int] = field(default_factory=lambda: defaultdict(int))
    requests: defaultdict[RecordKey, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    pool: defaultdict[RecordKey, int] = field(default_factory=lambda: defaultdict(int))


def settle(
    bill_nano: int, time: WindowTime, work: WindowWork, *, fit: Fit, model: str, energy: Energy | None = None
) -> Settlement:
    """Split a window's bill, and its energy if it was sampled.

    ``model`` names what unattributed and idle time belong to.
    """
    weights = _Weights(work, fit.coefficients)
    busy, *rest = split(bill_nano, [time.busy_ns, *time.other_ns.values()])
    money = _spread(busy, weights, model)
    for account, nano in zip(time.other_ns, rest, strict=True):
        money.lines[_Line(account, model=model)] += nano
    joules = _energy(energy, time, work, model) if energy else _Amounts()
    busy_ns = split(time.busy_ns, weights.phases) if any(weights.phases) else [0] * len(PHASES)
    return Settlement(
        postings=tuple(
            Posting(*line, method=_method(line, fit), nano=money.lines[line], millijoules=joules.lines[line])
            for line in sorted({*money.lines, *joules.lines})
            if money.lines[line] or joules.lines[line]
        ),
        requests=tuple(
            CostedRequest(key, money.requests[key], sum(joules.requests[key].values()), money.pool[key])
            for key in sorted({*money.requests, *joules.requests})
        ),
        phase_ns=dict(zip(PHASES, busy_ns, strict=True)),
    )


class _Weights:
    """Integer weights of a window's work at one set of coefficients."""

    def __init__(self, work: WindowWork, coefficients: dict[str, float]) -> None:
        self.work = work
        modelled = work.seconds(coefficients)
        self.phases = [round(modelled[phase] * _WEIGHT) for phase in PHASES]
        self.claims = {key: claim.seconds(coefficients) for key, claim in work.claims.items()}
        self.pool = work.pool_seconds(coefficients)
        self.holders = {key: round(claim.attended) for key, claim in work.claims.items() if claim.attended >= 1}
        """Who held the KV cache: token-steps, for sharing what preemptions cost."""


def _method(line: _Line, fit: Fit) -> str:
    """Time is metered; what a phase costs is as good as the fit."""
    return fit.method if line.phase else METERED


def _energy(energy: Energy, time: WindowTime, work: WindowWork, model: str) -> _Amounts:
    """The window's millijoules: modelled joules by phase, and the idle draw for the rest of the time."""
    weights = _Weights(work, energy.fit.coefficients)
    idle = energy.fit.coefficients[IDLE_SECONDS] / SECOND * _WEIGHT
    others = [round(idle * ns) for ns in time.other_ns.values()]
    busy_weight = sum(weights.phases)
    if not busy_weight and not any(others):
        # nothing is modelled: time is all there is to go by
        busy_weight, others = time.busy_ns, list(time.other_ns.values())
    busy, *rest = split(energy.millijoules, [busy_weight, *others])
    amounts = _spread(busy, weights, model)
    for account, millijoules in zip(time.other_ns, rest, strict=True):
        amounts.lines[_Line(account, model=model)] += millijoules
    return amounts


def _spread(busy: int, weights: _Weights, model: str) -> _Amounts:
    """Busy money (or energy) over phases, their claimants, and those who share what preemptions cost."""
    amounts = _Amounts()
    if not any(weights.phases):
        if busy:
            amounts.lines[_Line(UNATTRIBUTED, model=model, reason=REASON_UNMETERED)] = busy
        return amounts
    for phase, amount in zip(PHASES, split(busy, weights.phases), strict=True):
        own, lost, pool = _phase(phase, amount, weights)
        for key, share in own.items():
            _book(amounts, weights, key, phase, share)
        if lost:
            amounts.lines[_Line(UNATTRIBUTED, phase, model=model, reason=REASON_LOST)] += lost
        if pool:
            holders = sorted(weights.holders)
            for key, share in zip(holders, split(pool, [weights.holders[key] for key in holders]), strict=True):
                _book(amounts, weights, key, phase, share, pooled=True)
    return amounts


def _book(
    amounts: _Amounts, weights: _Weights, key: RecordKey, phase: str, share: int, *, pooled: bool = False
) -> None:
    """One request's share of one phase, on its line."""
    if not share:
        return
    usage = weights.work.claims[key].usage
    account = _ACCOUNT[usage.outcome]
    reason = REASON_FAILED if account == UNATTRIBUTED else REASON_PREEMPTION if pooled else ""
    amounts.lines[_Line(account, phase, usage.tenant, usage.model, usage.tier, reason)] += share
    amounts.requests[key][phase] = amounts.requests[key].get(phase, 0) + share
    if pooled:
        amounts.pool[key] += share


def _phase(phase: str, amount: int, weights: _Weights) -> tuple[dict[RecordKey, int], int, int]:
    """A phase's amount: each claimant's own share, what nobody claims, and the pool of recomputed work."""
    work = weights.work
    keys = sorted(key for key, by_phase in weights.claims.items() if by_phase[phase] > 0)
    own = [round(weights.claims[key][phase] * _WEIGHT) for key in keys]
    pool = round(weights.pool[phase] * _WEIGHT) if weights.holders else 0
    unclaimed = work.unclaimed[phase]
    again = work.recomputed[phase] if phase == PREFILL else 0.0
    claimed = max(0.0, work.units[phase] - unclaimed - again)
    total = sum(own)
    if (claimed <= 0 and not pool) or not total + pool:
        return {}, amount, 0
    lost = round(total * unclaimed / claimed) if claimed > 0 else 0
    *shares, lost_amount, pool_amount = split(amount, [*own, lost, pool])
    return dict(zip(keys, shares, strict=True)), lost_amount, pool_amount
