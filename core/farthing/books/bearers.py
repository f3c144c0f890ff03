"""A period's facts sorted by who bears them: tenants their own work, and pools what no tenant caused alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from farthing.books.facts import Cost, PeriodFacts, Usage
from farthing.books.policy import Policy
from farthing.domain import conventions as c

__all__ = ["Bearers", "Pool", "Quantity", "Sum", "Work", "sort_facts", "work_of_cost", "work_of_usage"]

_first = itemgetter(0)
_ACCOUNT_OF = {c.FINISHED: c.CHARGED, c.ABORTED: c.ABORTED}
"""Under which account a tenant bears requests of an outcome; failed and rejected ones are the platform's."""


class Work(NamedTuple):
    """What a tenant pays for together: work of one service period, project, model, tier and account."""

    service_period: str
    tenant: str
    project: str
    model: str
    tier: str
    account: str


class Pool(NamedTuple):
    """What is shared or kept as a whole; ``reason`` names a shared cost or says why work is unattributed."""

    service_period: str
    account: str
    reason: str


@dataclass(slots=True)
class Sum:
    """Nano-units and how they were obtained."""

    nano: int = 0
    methods: set[str] = field(default_factory=set)

    def add(self, cost: Cost) -> None:
        """Add a cost."""
        self.nano += cost.nano
        self.methods.add(cost.method)

    @property
    def method(self) -> str:
        """Methods in their order, joined by commas."""
        return ",".join(name for name in c.METHODS if name in self.methods)


@dataclass(slots=True)
class Quantity:
    """Requests of some work, and the tokens that were counted for them."""

    requests: int = 0
    computed: int = 0
    cached: int = 0
    image: int = 0
    output: int = 0
    uncounted: int = 0
    """Requests of which not all tokens were counted."""

    def add(self, usage: Usage) -> None:
        """Add requests."""
        self.requests += usage.requests
        self.computed += usage.prompt_computed
        self.cached += usage.prompt_cached
        self.image += usage.image_tokens
        self.output += usage.output_tokens
        self.uncounted += usage.uncounted

    def units(self, phase: str) -> int:
        """Tokens that a phase's price is per: computed prompt tokens, output tokens, image tokens."""
        return {c.PREFILL: self.computed, c.DECODE: self.output, c.VISION: self.image}.get(phase, 0)


@dataclass(frozen=True, slots=True)
class Bearers:
    """Facts by who bears them. Sums of ``own`` and ``pools`` together are the sum of all costs."""

    own: dict[Work, dict[tuple[str, str], Sum]]
    """Work of tenants -> (phase, reason) -> sum; the reason is ``preemption`` or empty."""
    pools: dict[Pool, Sum]
    quantities: dict[Work, Quantity]
    """Of requests that tenants bear, also where no cost is known."""


def sort_facts(facts: PeriodFacts, policy: Policy) -> Bearers:
    """Facts by who bears them under a policy; everything in sorted order."""
    own: defaultdict[Work, defaultdict[tuple[str, str], Sum]] = defaultdict(lambda: defaultdict(Sum))
    pools: defaultdict[Pool, Sum] = defaultdict(Sum)
    quantities: defaultdict[Work, Quantity] = defaultdict(Quantity)
    for cost in facts.costs:
        if not cost.nano:
            continue  # energy that is told another way than its money has sums of its own
        work = work_of_cost(cost, policy)
        if work is not None:
            own[work][cost.phase, _own_reason(cost)].add(cost)
        else:
            # whose aborted work it was, and why it was recomputed, does not matter to the platform
            reason = "" if cost.account in {c.CHARGED, c.ABORTED} else cost.reason
            pools[Pool(cost.service_period, cost.account, reason)].add(cost)
    for usage in facts.usage:
        work = work_of_usage(usage, policy)
        if work is not None:
            quantities[work].add(usage)
    return Bearers(
        {work: dict(sorted(sums.items())) for work, sums in sorted(own.items(), key=_first)},
        dict(sorted(pools.items(), key=_first)),
        dict(sorted(quantities.items(), key=_first)),
    )


def work_of_cost(cost: Cost, policy: Policy) -> Work | None:
    """Whose work a cost is; None when it belongs to a pool."""
    if not policy.bears(cost.account, cost.tenant):
        return None
    return Work(cost.service_period, cost.tenant, cost.project, cost.model, cost.tier, cost.account)


def work_of_usage(usage: Usage, policy: Policy) -> Work | None:
    """Whose work requests are; None when no tenant bears them."""
    account = _ACCOUNT_OF.get(usage.outcome, "")
    if not policy.bears(account, usage.tenant):
        return None
    return Work(usage.service_period, usage.tenant, usage.project, usage.model, usage.tier, account)


def _own_reason(cost: Cost) -> str:
    return c.REASON_PREEMPTION if cost.reason == c.REASON_PREEMPTION else ""
