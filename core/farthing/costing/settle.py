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
from farthing.costing.work import Claim, WindowWork
from farthing.domain.clock import SECOND
from farthing.domain.conventions import (
    ABORTED,
    CHARGED,
    FAILED,
    FINISHED,
    METERED,
    PHASES,
    REASON_FAILED,
    REASON_LOST,
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


def settle(
    bill_nano: int, time: WindowTime, work: WindowWork, *, fit: Fit, model: str, energy: Energy | None = None
) -> Settlement:
    """Split a window's bill, and its energy if it was sampled.

    ``model`` names what unattributed and idle time belong to.
    """
    seconds = work.seconds(fit.coefficients)
    weights = [round(seconds[phase] * _WEIGHT) for phase in PHASES]
    claims = {key: claim.seconds(fit.coefficients) for key, claim in work.claims.items()}
    busy, *rest = split(bill_nano, [time.busy_ns, *time.other_ns.values()])
    money = _spread(busy, weights, work, claims, model)
    for account, nano in zip(time.other_ns, rest, strict=True):
        money.lines[_Line(account, model=model)] += nano
    joules = _energy(energy, time, work, model) if energy else _Amounts()
    return Settlement(
        postings=tuple(
            Posting(*line, method=_method(line, fit), nano=money.lines[line], millijoules=joules.lines[line])
            for line in sorted({*money.lines, *joules.lines})
            if money.lines[line] or joules.lines[line]
        ),
        requests=tuple(
            CostedRequest(key, money.requests[key], sum(joules.requests[key].values()))
            for key in sorted({*money.requests, *joules.requests})
        ),
        phase_ns=dict(zip(PHASES, split(time.busy_ns, weights) if any(weights) else [0] * len(PHASES), strict=True)),
    )


def _method(line: _Line, fit: Fit) -> str:
    """Time is metered; what a phase costs is as good as the fit."""
    return fit.method if line.phase else METERED


def _energy(energy: Energy, time: WindowTime, work: WindowWork, model: str) -> _Amounts:
    """The window's millijoules: modelled joules by phase, and the idle draw for the rest of the time."""
    coefficients = energy.fit.coefficients
    joules = work.seconds(coefficients)
    weights = [round(joules[phase] * _WEIGHT) for phase in PHASES]
    idle = coefficients[IDLE_SECONDS] / SECOND * _WEIGHT
    others = [round(idle * ns) for ns in time.other_ns.values()]
    busy_weight = sum(weights)
    if not busy_weight and not any(others):
        # nothing is modelled: time is all there is to go by
        busy_weight, others = time.busy_ns, list(time.other_ns.values())
    busy, *rest = split(energy.millijoules, [busy_weight, *others])
    claims = {key: claim.seconds(coefficients) for key, claim in work.claims.items()}
    amounts = _spread(busy, weights, work, claims, model)
    for account, millijoules in zip(time.other_ns, rest, strict=True):
        amounts.lines[_Line(account, model=model)] += millijoules
    return amounts


def _spread(
    busy: int, weights: list[int], work: WindowWork, claims: dict[RecordKey, dict[str, float]], model: str
) -> _Amounts:
    """Busy money (or energy) over phases and their claimants."""
    amounts = _Amounts()
    if not any(weights):
        if busy:
            amounts.lines[_Line(UNATTRIBUTED, model=model, reason=REASON_UNMETERED)] = busy
        return amounts
    for phase, amount in zip(PHASES, split(busy, weights), strict=True):
        for key, claim, share in _phase(phase, amount, work, claims):
            if key is None or claim is None:
                amounts.lines[_Line(UNATTRIBUTED, phase, model=model, reason=REASON_LOST)] += share
                continue
            usage = claim.usage
            account = _ACCOUNT[usage.outcome]
            reason = REASON_FAILED if account == UNATTRIBUTED else ""
            amounts.lines[_Line(account, phase, usage.tenant, usage.model, usage.tier, reason)] += share
            amounts.requests[key][phase] = share
    return amounts


def _phase(
    phase: str, amount: int, work: WindowWork, claims: dict[RecordKey, dict[str, float]]
) -> list[tuple[RecordKey | None, Claim | None, int]]:
    """A phase's amount over its claimants, and over what nobody claims (key None); zero shares are left out."""
    keys = sorted(key for key, by_phase in claims.items() if by_phase[phase] > 0)
    weights = [round(claims[key][phase] * _WEIGHT) for key in keys]
    unclaimed = work.unclaimed[phase]
    claimed = max(0.0, work.units[phase] - unclaimed)
    if not sum(weights) or claimed <= 0:
        return [(None, None, amount)] if amount else []
    lost = round(sum(weights) * unclaimed / claimed)
    *shares, lost_amount = split(amount, [*weights, lost])
    found: list[tuple[RecordKey | None, Claim | None, int]] = [
        (key, work.claims[key], share) for key, share in zip(keys, shares, strict=True) if share
    ]
    if lost_amount:
        found.append((None, None, lost_amount))
    return found
