"""What a statement's lines are called, in words that finance can read."""

from __future__ import annotations

from fractions import Fraction

from farthing.books.bearers import Pool, Quantity, Work
from farthing.books.policy_rules import PoolRule
from farthing.books.rate_card import Component
from farthing.domain import conventions as c

__all__ = ["by_card", "kept", "pool_name", "recovery", "shared", "unpriced", "work"]

_PHASES = {c.PREFILL: "prompts computed", c.DECODE: "output generated", c.VISION: "images encoded"}
_POOLS = {
    c.CHARGED: "Work that names no tenant",
    c.ABORTED: "Requests aborted by their clients",
    c.IDLE: "Idle engines",
    c.STARTING: "Engines starting",
    c.ASLEEP: "Engines asleep",
    c.DRAINING: "Engines draining",
    c.DOWN: "Engines down",
    c.UNATTRIBUTED: "Busy time that no request explains",
    c.UNALLOCATED: "GPUs that no engine has",
    c.UNUSED_COMMITMENT: "Commitments that were not used",
    c.SHARED: "Shared cost",
}
_REASONS = {
    c.REASON_LOST: "no record says for whom",
    c.REASON_UNMETERED: "not metered",
    c.REASON_FAILED: "requests that failed",
    c.REASON_NO_BOOT: "none was alive",
    c.POOL_UNASSIGNED: "not assigned",
    c.POOL_UNSOLD_SLICE: "unsold slices",
}
_DRIVERS = {
    "busy": "by the cost of own work",
    "tokens": "by tokens",
    "requests": "by requests finished",
    "reserved": "by what is reserved",
    "fixed": "by fixed per cent",
}


def work(of: Work, phase: str, reason: str) -> str:
    """Of a line at actual or average cost."""
    if reason == c.REASON_PREEMPTION:
        return _subject(of, "work recomputed after preemption, by memory held")
    return _subject(of, _PHASES.get(phase, "work"))


def by_card(of: Work, component: Component) -> str:
    """Of a line of the rate card."""
    if component.name == "requests":
        return f"{_where(of)}: {_requests(of)}"
    return _subject(of, component.text)


def unpriced(of: Work, quantity: Quantity | None, why: str) -> str:
    """Of a line without an amount."""
    count = 0 if quantity is None else quantity.requests
    return f"{_where(of)}: {f'{count} {_requests(of, count)}, ' if count else ''}unpriced, {why}"


def recovery(model: str, *, nano: int, priced: bool) -> str:
    """Of the difference between actual cost and rate card."""
    if not priced:
        return f"Unrecovered actual cost of {_name(model)}, which the rate card does not price"
    return f"{'Under' if nano > 0 else 'Over'}-recovery of the rate card: {_name(model)}"


def pool_name(pool: Pool) -> str:
    """What a pool is."""
    reason = _REASONS.get(pool.reason, pool.reason)
    return f"{_POOLS.get(pool.account, pool.account)}{f': {reason}' if reason else ''}"


def shared(pool: Pool, rule: PoolRule, *, units: int, total: int) -> str:
    """Of a tenant's share of a pool."""
    hundredths = round(Fraction(units * 10_000, total))
    return f"{pool_name(pool)}, {hundredths // 100}.{hundredths % 100:02d} % {_DRIVERS[rule.driver]}"


def kept(pool: Pool, rule: PoolRule) -> str:
    """Of a pool that stays with the platform."""
    nobody = "" if rule.driver == "none" else f" (shared {_DRIVERS[rule.driver]}, of which nobody has any)"
    return pool_name(pool) + nobody


def _subject(of: Work, what: str) -> str:
    return f"{_where(of)}: {what}{' for aborted requests' if of.account == c.ABORTED else ''}"


def _where(of: Work) -> str:
    return f"{_name(of.model)}, {_name(of.tier)} tier"


def _requests(of: Work, count: int = 0) -> str:
    return f"{'aborted ' if of.account == c.ABORTED else ''}request{'' if count == 1 else 's'}"


def _name(text: str) -> str:
    return text or c.UNKNOWN
