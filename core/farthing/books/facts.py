"""What a period's books hold, before any policy is applied: costs and quantities by who, what and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Cost", "PeriodFacts", "Usage"]


class Cost(NamedTuple):
    """The sum of some journal lines of one posting period: nano-dollars of one account.

    ``service_period`` is when the work was done: the posting period itself, or an earlier one that was closed already.
    """

    service_period: str
    account: str
    """One of conventions' BOOK_ACCOUNTS."""
    phase: str
    tenant: str
    project: str
    model: str
    tier: str
    reason: str
    """Of unattributed work; ``preemption`` marks charges for recomputed work; of ``shared``, the pool's name."""
    method: str
    nano: int
    millijoules: int = 0


class Usage(NamedTuple):
    """Requests that ended, by outcome, with the tokens that were counted for them."""

    service_period: str
    tenant: str
    project: str
    model: str
    tier: str
    outcome: str
    requests: int
    prompt_computed: int
    prompt_cached: int
    image_tokens: int
    output_tokens: int
    uncounted: int
    """Requests whose tokens nobody told: their quantities are missing above, and are not 0."""
    saved_nano: int = 0
    """What caches saved them: information, not money."""


@dataclass(frozen=True, slots=True)
class PeriodFacts:
    """A period as its books stand. ``opening_wip + bill - closing_wip = sum of costs``, exactly."""

    period: str
    start_ns: int
    """UTC nanoseconds."""
    end_ns: int
    currency: str
    opening_wip_nano: int
    """Work of earlier periods that was not settled when they closed."""
    bill_nano: int
    """Allocation x price of the period, and what is bought beyond engines; computed without the costs."""
    closing_wip_nano: int
    costs: tuple[Cost, ...]
    usage: tuple[Usage, ...]
    days: tuple[tuple[str, str, str, int], ...] = ()
    """(UTC date, tenant, account, nano) of the service period itself, for plots."""
    price_versions: tuple[str, ...] = ()
    fit_errors: tuple[tuple[str, str, float | None], ...] = ()
    """(engine, method, walk-forward error 0-1) of the fits that split busy time."""
    unpriced: tuple[str, ...] = ()
    """Engines or pools that had no price in the period: their cost is unknown, and not in the bill."""
    lost_records: int = 0
    evidence: dict[str, str] = field(default_factory=dict)
    """boot -> SHA-256 over its input records, in the order of their keys."""
