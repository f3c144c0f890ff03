"""Settlement: one window's bill into postings that add up to it exactly, none negative, none a plug.

Time is split first (busy, idle, starting, asleep, down: metered), then busy money over phases (modelled
seconds), then each phase over its claimants (weights) and over the tokens that nobody claims (unattributed).
Energy goes the same way with its own model. Every split is by largest remainder.
"""

from __future__ import annotations

from collections import defaultdict
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from farthing.costing.energy import IDLE_SECONDS
from farthing.costing.work import WindowWork
from farthing.domain.clock import SECOND
from farthing.domain.conventions import (
    ABORTED,
    CHARGED,
    ESTIMATED,
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
from farthing.domain.model import CostedRequest, Fit, Posting, Saver
from farthing.domain.money import split

__all__ = ["ACCOUNT_OF", "Energy", "Settlement", "WindowTime", "by_phase", "settle", "with_energy"]

_WEIGHT = 10**12
"""Integer weights are picoseconds of modelled time, or picojoules of modelled energy."""

ACCOUNT_OF = {FINISHED: CHARGED, ABORTED: ABORTED, FAILED: UNATTRIBUTED, REJECTED: UNATTRIBUTED}
"""Who bears a request, by its outcome: failures are the platform's, shown as unattributed with their reason."""


class WindowTime(NamedTuple):
    """A window's time in nanoseconds: busy, and the rest by account (idle, starting, asleep, down)."""

    busy_ns: int
    other_ns: dict[str, int]


class Energy(NamedTuple):
    """A window's energy in millijoules, and the fit (joules per unit) that splits it."""

    millijoules: int
    fit: Fit
    counted: bool = True
    """By counters of whole devices."""


class Settlement(NamedTuple):
    """Postings of one window and its requests' shares; the postings add up to the bill and to the energy."""

    postings: tuple[Posting, ...]
    requests: tuple[CostedRequest, ...]
    phase_ns: dict[str, int]
    saved: dict[Saver, int]
    """What caches saved, by who was saved it; the requests' own savings add up to it."""


_Line: TypeAlias = tuple[str, str, str, str, str, str, str]
"""Where an amount goes: account, phase, tenant, project, model, tier and reason, as in ``Posting``."""


class _Amounts:
    """One total over lines and claims."""

    def __init__(self, claims: int) -> None:
        self.lines: defaultdict[_Line, int] = defaultdict(int)
        self.claims: list[dict[str, int]] = [{} for _ in range(claims)]
        """phase -> amount, by claim."""
        self.pool = [0] * claims

    def add(self, amount: int, account: str, phase: str = "", *, model: str, reason: str = "") -> None:
        """Put an amount that is no tenant's on a line."""
        if amount:
            self.lines[account, phase, "", "", model, "", reason] += amount


class _Weights:
    """Integer weights of a window's work at one set of coefficients; lists have one entry per claim."""

    def __init__(self, work: WindowWork, coefficients: dict[str, float]) -> None:
        self.work = work
        self.phases = [round(seconds * _WEIGHT) for seconds in work.seconds(coefficients)]
        self.busy = sum(self.phases)
        self._coefficients = coefficients
        pool = work.pool_seconds(coefficients)
        holders = [round(claim.attended) for claim in work.claims] if pool else []
        self.holders = holders if any(holders) else []
        """Who held the KV cache, in token-steps, for sharing what preemptions cost; empty when nobody did."""
        self.pool = round(pool * _WEIGHT) if self.holders else 0
        """Prefills that preemptions made the engine compute once more."""

    def own(self, phase: str) -> list[int]:
        """What each claim did itself in a phase."""
        return self.work.claim_weights(phase, self._coefficients, _WEIGHT)


def settle(bill_nano: int, time: WindowTime, work: WindowWork, *, fit: Fit, model: str) -> Settlement:
    """Split a window's bill; ``model`` names what unattributed and idle time belong to."""
    weights = _Weights(work, fit.coefficients)
    busy, *rest = split(bill_nano, [time.busy_ns, *time.other_ns.values()]) if time.other_ns else [bill_nano]
    money = _spread(busy, weights, model)
    for account, nano in zip(time.other_ns, rest, strict=True):
        money.add(nano, account, model=model)
    busy_ns = split(time.busy_ns, weights.phases) if weights.busy else [0] * len(PHASES)
    saved: defaultdict[Saver, int] = defaultdict(int)
    # what a modelled second cost in this window is the price of the moment
    per_second = busy * _WEIGHT / weights.busy if weights.busy else 0.0
    requests = _requests(work, money, fit, per_second, saved)
    method = fit.method
    # windows have dozens of lines: made from one tuple each, they take half the time
    postings = tuple(
        [Posting._make((*line, method if line[1] else METERED, nano, 0)) for line, nano in sorted(money.lines.items())]
    )
    return Settlement(postings, requests, dict(zip(PHASES, busy_ns, strict=True)), dict(saved))


def by_phase(bill_nano: int, time: WindowTime, work: WindowWork, fit: Fit) -> dict[str, int]:
    """What ``settle`` would come to by phase, or by account where there is none, without asking who did the work."""
    phases = [round(seconds * _WEIGHT) for seconds in work.seconds(fit.coefficients)]
    busy, *rest = split(bill_nano, [time.busy_ns, *time.other_ns.values()]) if time.other_ns else [bill_nano]
    names, amounts = (PHASES, split(busy, phases)) if sum(phases) else ((UNATTRIBUTED,), [busy])
    total: dict[str, int] = {}
    for name, nano in zip((*names, *time.other_ns), (*amounts, *rest), strict=True):
        if nano:
            total[name] = total.get(name, 0) + nano
    return total


def with_energy(
    settlement: Settlement, time: WindowTime, work: WindowWork, *, energy: Energy, fit: Fit, model: str
) -> Settlement:
    """A window's settlement with its energy on the same lines; no amount of money changes.

    Energy that no counter of a whole device tells is ``estimated``: it has lines of its own, which hold no money.
    ``fit`` and ``model`` are those that the money was split by.
    """
    joules = _energy(energy, time, work, model)
    left = dict(joules.lines)
    postings = []
    for posting in settlement.postings:
        millijoules = left.pop(posting[:7], 0) if energy.counted or posting.method == ESTIMATED else 0
        postings.append(posting._replace(millijoules=millijoules) if millijoules else posting)
    for line, millijoules in left.items():
        method = (fit.method if line[1] else METERED) if energy.counted else ESTIMATED
        postings.append(Posting._make((*line, method, 0, millijoules)))
    postings.sort(key=_by_line)
    known = {request.key: request for request in settlement.requests}
    requests = []
    for claim, phases in zip(work.claims, joules.claims, strict=True):
        request = known.get(claim.usage.key)
        if request is not None and phases:
            request = request._replace(energy_mj=sum(phases.values()))
        elif phases:
            request = CostedRequest(claim.usage.key, {}, sum(phases.values()))
        if request is not None:
            requests.append(request)
    return settlement._replace(postings=tuple(postings), requests=tuple(requests))


_by_line = itemgetter(slice(0, 8))


def _requests(
    work: WindowWork, money: _Amounts, fit: Fit, per_second: float, by_saver: defaultdict[Saver, int]
) -> tuple[CostedRequest, ...]:
    """The shares of the requests that have any; ``per_second`` is the price of a modelled second, in nano-dollars.

    What caches saved them is added to ``by_saver``.
    """
    found = []
    for claim, nano, pool in zip(work.claims, money.claims, money.pool, strict=True):
        if nano:
            saved = claim.cached_tokens or claim.cached_images
            saved_nano = round(claim.saved_seconds(fit.coefficients) * per_second) if saved else 0
            if saved_nano:
                usage = claim.usage
                by_saver[usage.tenant, usage.project, usage.model, usage.tier] += saved_nano
            found.append(CostedRequest._make((claim.usage.key, nano, 0, pool, saved_nano)))
    return tuple(found)


def _energy(energy: Energy, time: WindowTime, work: WindowWork, model: str) -> _Amounts:
    """The window's millijoules: modelled joules by phase, and the idle draw for the rest of the time."""
    weights = _Weights(work, energy.fit.coefficients)
    idle = energy.fit.coefficients[IDLE_SECONDS] / SECOND * _WEIGHT
    others = [round(idle * ns) for ns in time.other_ns.values()]
    busy_weight = weights.busy
    if not busy_weight and not any(others):
        # nothing is modelled: time is all there is to go by
        busy_weight, others = time.busy_ns, list(time.other_ns.values())
    busy, *rest = split(energy.millijoules, [busy_weight, *others])
    amounts = _spread(busy, weights, model)
    for account, millijoules in zip(time.other_ns, rest, strict=True):
        amounts.add(millijoules, account, model=model)
    return amounts


def _spread(busy: int, weights: _Weights, model: str) -> _Amounts:
    """Busy money (or energy) over phases, their claimants, and those who share what preemptions cost."""
    amounts = _Amounts(len(weights.work.claims))
    if not weights.busy:
        amounts.add(busy, UNATTRIBUTED, model=model, reason=REASON_UNMETERED)
        return amounts
    for phase, amount in zip(PHASES, split(busy, weights.phases), strict=True):
        if amount:
            own, lost, pool = _phase(phase, amount, weights)
            _book(amounts, weights, phase, own)
            amounts.add(lost, UNATTRIBUTED, phase, model=model, reason=REASON_LOST)
            if pool:
                _book_pool(amounts, weights, pool)
    return amounts


def _book(amounts: _Amounts, weights: _Weights, phase: str, shares: list[int]) -> None:
    """Each claim's own share of a phase, on its line."""
    lines = amounts.lines
    for claim, mine, share in zip(weights.work.claims, amounts.claims, shares, strict=True):
        if share:
            usage = claim.usage
            account = ACCOUNT_OF[usage.outcome]
            reason = REASON_FAILED if account == UNATTRIBUTED else ""
            lines[account, phase, usage.tenant, usage.project, usage.model, usage.tier, reason] += share
            mine[phase] = share


def _book_pool(amounts: _Amounts, weights: _Weights, pool: int) -> None:
    """What preemptions cost, shared by who held the KV cache: each one's share of it, on a line of its own."""
    amounts.pool = split(pool, weights.holders)
    for claim, mine, share in zip(weights.work.claims, amounts.claims, amounts.pool, strict=True):
        if share:
            usage = claim.usage
            account = ACCOUNT_OF[usage.outcome]
            reason = REASON_FAILED if account == UNATTRIBUTED else REASON_PREEMPTION
            amounts.lines[account, PREFILL, usage.tenant, usage.project, usage.model, usage.tier, reason] += share
            mine[PREFILL] = mine.get(PREFILL, 0) + share


def _phase(phase: str, amount: int, weights: _Weights) -> tuple[list[int], int, int]:
    """A phase's amount: each claim's own share, what nobody claims, and the pool of recomputed work."""
    work = weights.work
    own = weights.own(phase)
    # all recomputed work is prefilling
    pool, again = (weights.pool, work.recomputed) if phase == PREFILL else (0, 0.0)
    unclaimed = work.unclaimed[phase]
    claimed = max(0.0, work.units(phase) - unclaimed - again)
    total = sum(own)
    if (claimed <= 0 and not pool) or not total + pool:
        return [0] * len(own), amount, 0
    lost = round(total * unclaimed / claimed) if claimed > 0 else 0
    *shares, lost_amount, pool_amount = split(amount, [*own, lost, pool])
    return shares, lost_amount, pool_amount
