"""Settlement: one window's bill into postings that add up to it exactly, none negative, none a plug.

Time is split first (busy, idle, starting, asleep, down: metered), then busy money over phases (modelled
seconds), then each phase over its claimants (weights) and over the tokens that nobody claims (unattributed).
Every split is by largest remainder.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from farthing.costing.work import Claim, WindowWork
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

__all__ = ["Settlement", "settle"]

_WEIGHT = 10**12
"""Integer weights are picoseconds of modelled time."""

_ACCOUNT = {FINISHED: CHARGED, ABORTED: ABORTED, FAILED: UNATTRIBUTED, REJECTED: UNATTRIBUTED}


@dataclass(frozen=True, slots=True)
class Settlement:
    """Postings of one window and its requests' shares; the postings add up to the bill."""

    postings: tuple[Posting, ...]
    requests: tuple[CostedRequest, ...]
    phase_ns: dict[str, int]


def settle(
    bill_nano: int,
    time_ns: dict[str, int],
    busy_ns: int,
    work: WindowWork,
    *,
    fit: Fit,
    model: str,
) -> Settlement:
    """Split ``bill_nano`` over the accounts in ``time_ns`` (idle, starting … by duration) and busy work.

    ``time_ns`` and ``busy_ns`` together are the window's length. ``model`` names what unattributed and
    idle time belong to.
    """
    accounts = sorted(time_ns)
    busy_nano, *rest = split(bill_nano, [busy_ns, *(time_ns[name] for name in accounts)])
    postings = [
        Posting(account=name, phase="", tenant="", model=model, tier="", reason="", method=METERED, nano=nano)
        for name, nano in zip(accounts, rest, strict=True)
        if nano
    ]
    seconds = work.seconds(fit.coefficients)
    weights = [round(seconds[phase] * _WEIGHT) for phase in PHASES]
    if not any(weights):
        if busy_nano:
            postings.append(_lost("", model, REASON_UNMETERED, METERED, busy_nano))
        return Settlement(tuple(postings), (), dict.fromkeys(PHASES, 0))
    phase_ns = dict(zip(PHASES, split(busy_ns, weights), strict=True))
    claim_seconds = {key: claim.seconds(fit.coefficients) for key, claim in work.claims.items()}
    lines: dict[tuple[str, str, str, str, str, str], int] = defaultdict(int)
    requests: dict[RecordKey, dict[str, int]] = defaultdict(dict)
    for phase, nano in zip(PHASES, split(busy_nano, weights), strict=True):
        for key, claim, share in _phase(phase, nano, work, claim_seconds):
            if key is None or claim is None:
                postings.append(_lost(phase, model, REASON_LOST, fit.method, share))
                continue
            usage = claim.usage
            account = _ACCOUNT[usage.outcome]
            reason = REASON_FAILED if account == UNATTRIBUTED else ""
            lines[account, phase, usage.tenant, usage.model, usage.tier, reason] += share
            requests[key][phase] = share
    postings += [
        Posting(account, phase, tenant, request_model, tier, reason, fit.method, nano)
        for (account, phase, tenant, request_model, tier, reason), nano in sorted(lines.items())
    ]
    return Settlement(
        tuple(postings),
        tuple(CostedRequest(key, cost) for key, cost in sorted(requests.items())),
        phase_ns,
    )


def _phase(
    phase: str, nano: int, work: WindowWork, seconds: dict[RecordKey, dict[str, float]]
) -> list[tuple[RecordKey | None, Claim | None, int]]:
    """A phase's money over its claimants, and over what nobody claims (key None); zero shares are left out."""
    keys = sorted(key for key, by_phase in seconds.items() if by_phase[phase] > 0)
    weights = [round(seconds[key][phase] * _WEIGHT) for key in keys]
    tokens, unclaimed = work.tokens[phase], work.unclaimed[phase]
    claimed = max(0.0, tokens - unclaimed)
    if not sum(weights) or claimed <= 0:
        return [(None, None, nano)] if nano else []
    lost = round(sum(weights) * unclaimed / claimed)
    *shares, lost_nano = split(nano, [*weights, lost])
    found: list[tuple[RecordKey | None, Claim | None, int]] = [
        (key, work.claims[key], share) for key, share in zip(keys, shares, strict=True) if share
    ]
    if lost_nano:
        found.append((None, None, lost_nano))
    return found


def _lost(phase: str, model: str, reason: str, method: str, nano: int) -> Posting:
    return Posting(UNATTRIBUTED, phase, "", model, "", reason, method, nano)
