"""Method notes of a statement, in sentences that finance can read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from farthing.books import allocation as rules
from farthing.books.bearers import work_of_usage
from farthing.books.facts import PeriodFacts
from farthing.books.policy import Policy
from farthing.books.statement import ADJUSTMENT, PLATFORM_TENANT, RECOVERY, StatementLine
from farthing.domain import conventions as c
from farthing.domain.money import from_nano, split

__all__ = ["Quality", "notes_of", "qualities"]

_PRICING = {
    "actual": (
        "Amounts are actual cost: the price of the GPU time that the work took, divided over the requests that were "
        "computed together. The price of a token so depends on how busy its engine was."
    ),
    "period_average": (
        "Amounts are the period's average cost: for each model and phase, the cost of all tenants' work divided by "
        "their tokens, times the tokens of the line. The shares of all lines add up to the cost exactly."
    ),
    "rate_card": (
        "Amounts are quantities times the published rates, each line rounded once. What the rates bring in more or "
        "less than the actual cost is the platform's, and on its statement."
    ),
}
_METHODS = {
    c.METERED: "metered (read from a clock or counter)",
    c.MODELLED: "modelled (divided by a fit that was tested on time it had not seen)",
    c.ESTIMATED: "estimated (by a fit that is not proven, or from counters alone)",
    c.ASSUMED: "assumed (by documented defaults)",
}


@dataclass(frozen=True, slots=True)
class Quality:
    """How well is known what one statement is about, whatever it is priced at."""

    methods: Counter[str]
    """Nano-units of the actual cost by method, without signs."""
    uncounted: int
    """Requests of which not all tokens were counted."""


def qualities(facts: PeriodFacts, policy: Policy) -> dict[str, Quality]:
    """By tenant, and with the key "" of what the platform keeps or shares; of those that have any."""
    methods: defaultdict[str, Counter[str]] = defaultdict(Counter)
    uncounted: Counter[str] = Counter()
    for cost in facts.costs:
        if not cost.nano:
            continue
        bearer = cost.tenant if policy.bears(cost.account, cost.tenant) else PLATFORM_TENANT
        methods[bearer][cost.method] += abs(cost.nano)
    for usage in facts.usage:
        work = work_of_usage(usage, policy)
        if work is not None:
            uncounted[work.tenant] += usage.uncounted
    return {tenant: Quality(methods[tenant], uncounted[tenant]) for tenant in {*methods, *uncounted}}


def notes_of(  # noqa: PLR0917 - what a statement is of, and what it comes to
    facts: PeriodFacts,
    policy: Policy,
    tenant: str,
    quality: Quality | None,
    lines: Sequence[StatementLine],
    total_nano: int,
) -> tuple[str, ...]:
    """The notes of one statement; ``tenant`` is empty for the platform's."""
    known = quality or Quality(Counter(), 0)
    return (
        *_how(policy, tenant, lines),
        *_quality(facts, tenant, known.methods),
        *_time(facts, policy, tenant, lines, total_nano),
        *_unknown(facts, known.uncounted, lines),
    )


def _how(policy: Policy, tenant: str, lines: Sequence[StatementLine]) -> Iterator[str]:
    if policy.mode == "showback":
        yield "This is a showback statement: it is for information, and nothing is to be paid."
    if tenant == PLATFORM_TENANT:
        yield from _how_kept(lines)
        return
    yield _PRICING[policy.pricing]
    at_actual = any(line.basis["rule"] == rules.RULE_ACTUAL and line.section != ADJUSTMENT for line in lines)
    if policy.pricing == "period_average" and at_actual:
        yield "Lines of work without counted tokens are at their actual cost, and not in the average."
    if any(line.basis["rule"] == rules.RULE_POOL for line in lines):
        yield (
            "Shared costs are divided over tenants by the driver that their line names, to the billionth of the "
            "currency, by largest remainder."
        )
    if policy.bears(c.ABORTED, tenant) and any(line.account == c.ABORTED for line in lines):
        yield "Work for requests whose client hung up was computed, and is charged like any other."


def _how_kept(lines: Sequence[StatementLine]) -> Iterator[str]:
    yield (
        "These are the costs that no tenant is charged: what no tenant caused and the policy does not share, and "
        "work of requests that failed."
    )
    if any(line.section == RECOVERY for line in lines):
        yield (
            "Recovery is the actual cost of tenants' work less what the published rates charge for it: above 0 the "
            "rates bring in too little, below 0 too much."
        )
    for line in lines:
        if line.basis.get("driver", "none") != "none":
            yield f"{line.description}: it stays with the platform."


def _quality(facts: PeriodFacts, tenant: str, found: Counter[str]) -> Iterator[str]:
    """How the underlying costs were obtained, whatever they are priced at."""
    methods = [name for name in c.METHODS if found[name]]
    if methods:
        shares = split(1_000, [found[name] for name in methods])
        told = ", ".join(
            f"{share // 10}.{share % 10} % {_METHODS[name]}" for name, share in zip(methods, shares, strict=True)
        )
        what = "cost that is kept or shared" if tenant == PLATFORM_TENANT else "cost of this work"
        yield f"Of the actual {what}: {told}."
    if facts.fit_errors:
        told = ", ".join(
            f"{engine} {'unknown' if error is None else f'{error * 100:.1f} %'} ({method})"
            for engine, method, error in facts.fit_errors
        )
        yield f"Error of the fits that divide busy time, each window predicted from those before it: {told}."


def _time(
    facts: PeriodFacts, policy: Policy, tenant: str, lines: Sequence[StatementLine], total_nano: int
) -> Iterator[str]:
    currency = facts.currency
    if tenant == PLATFORM_TENANT:
        yield (
            f"Work in progress is work that was not settled when a period closed: {_exact(facts.opening_wip_nano)} "
            f"{currency} came from before, {_exact(facts.closing_wip_nano)} {currency} goes to the next period."
        )
    else:
        yield (
            "Work that was not settled when the period closed is work in progress: it is charged in the period in "
            "which it settles, as an adjustment."
        )
    if any(line.section == ADJUSTMENT for line in lines):
        at = "the published rates" if policy.pricing == "rate_card" and tenant else "actual cost"
        yield (
            "Adjustments are for work of periods that were closed when it became known; they name its period, and are "
            f"at {at}."
        )
    if facts.days and policy.pricing != "actual":
        yield "Costs by day are actual costs."
    decimals = policy.rules.rounding.decimals
    yield (
        f"Amounts are exact to the billionth of the currency. Only the total, {_exact(total_nano)} {currency}, is "
        f"rounded, to {decimals} decimals, half to even; the rounding line shows by how much."
    )


def _unknown(facts: PeriodFacts, uncounted: int, lines: Sequence[StatementLine]) -> Iterator[str]:
    unpriced = sum(line.amount_nano is None for line in lines)
    if unpriced:
        yield (
            f"{unpriced} {'line is' if unpriced == 1 else 'lines are'} unpriced. Unpriced is not free: the amount is "
            "unknown, and not in the total."
        )
    if facts.unpriced:
        yield (
            f"These had no price in the period, so their cost is unknown and on no statement: "
            f"{', '.join(facts.unpriced)}."
        )
    if uncounted:
        what = "request" if uncounted == 1 else "requests"
        yield f"Of {uncounted} {what} not all tokens were counted; what was not counted is in no quantity."
    if facts.lost_records:
        yield (
            f"Of the period's records {facts.lost_records} never arrived. Work that they told of is unattributed, and "
            "charged to no tenant as its own."
        )


def _exact(nano: int) -> str:
    """All decimals that are not 0, and at least two."""
    whole, _, decimals = f"{from_nano(nano):f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"
