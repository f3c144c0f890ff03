"""A period's costs into statement lines: tenants' own work at its price, pools by their drivers, the rest kept.

Together the lines' amounts are the facts' costs, exactly, whatever the policy. ``basis`` of a line names its rule and
the integers that its amount comes from; ``recompute`` finds the same from facts and policy alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from fractions import Fraction

from farthing.books import wording
from farthing.books.bearers import Bearers, Quantity, Sum, Work, sort_facts
from farthing.books.facts import PeriodFacts
from farthing.books.policy import Policy
from farthing.books.pools import parts, weights_of
from farthing.books.rate_card import MILLION, items
from farthing.books.statement import ADJUSTMENT, PLATFORM, RECOVERY, SHARED_COST, USAGE, StatementLine
from farthing.domain import conventions as c

__all__ = [
    "RULE_ACTUAL",
    "RULE_AVERAGE",
    "RULE_CARD",
    "RULE_KEPT",
    "RULE_POOL",
    "RULE_RECOVERY",
    "RULE_UNPRICED",
    "allocate",
]

RULE_ACTUAL = "actual"
RULE_AVERAGE = "period_average"
RULE_CARD = "rate_card"
RULE_POOL = "pool"
RULE_KEPT = "kept"
RULE_RECOVERY = "recovery"
RULE_UNPRICED = "unpriced"

NOT_ON_CARD = "not on the rate card"
NOT_COUNTED = "nobody counted its tokens"
PARTLY_COUNTED = "not all of their tokens were counted"
NO_PRICE = "no cost of theirs is known, and an engine had no price"


def allocate(facts: PeriodFacts, policy: Policy) -> tuple[StatementLine, ...]:
    """The lines of all statements, the platform's with tenant ``""``, not numbered and without cost centre."""
    bearers = sort_facts(facts, policy)
    if policy.pricing == "rate_card":
        lines = [*_card(facts, policy, bearers), *_recovery(bearers, policy)]
    else:
        late = {work: sums for work, sums in bearers.own.items() if work.service_period != facts.period}
        now = _averages(facts, bearers) if policy.pricing == "period_average" else _actual(facts, bearers)
        lines = [*now]
        lines += [line for work in late for line in _actual_lines(bearers, work, late[work], ADJUSTMENT)]
        lines += _without_price(facts, bearers, lines)
    lines += _pools(facts, policy, bearers)
    return tuple(line for line in lines if line.amount_nano != 0 or line.quantity)


# ---- own work ---------------------------------------------------------------------------------------


def _actual(facts: PeriodFacts, bearers: Bearers) -> Iterator[StatementLine]:
    for work, sums in bearers.own.items():
        if work.service_period == facts.period:
            yield from _actual_lines(bearers, work, sums, USAGE)


def _actual_lines(
    bearers: Bearers, work: Work, sums: dict[tuple[str, str], Sum], section: str
) -> Iterator[StatementLine]:
    """One line for each phase, recomputed work apart, at what the journal says."""
    known = bearers.quantities.get(work)
    for (phase, reason), found in sums.items():
        quantity = None if reason or phase not in c.PHASES else _counted(known, phase)
        basis: dict[str, int | str] = {"rule": RULE_ACTUAL, "nano": found.nano}
        if known is not None and known.uncounted and quantity is not None:
            basis["uncounted"] = known.uncounted
        yield _line(
            work,
            section,
            wording.work(work, phase, reason),
            phase=phase,
            reason=reason,
            method=found.method,
            quantity=quantity,
            unit="" if quantity is None else "tokens",
            unit_price_nano=round(Fraction(found.nano * MILLION, quantity)) if quantity else None,
            unit_size=1 if quantity is None else MILLION,
            amount_nano=found.nano,
            basis=basis,
        )


def _counted(known: Quantity | None, phase: str) -> int | None:
    """Tokens of a phase; None where nobody told, which is not 0."""
    if known is None or not known.requests:
        return None
    units = known.units(phase)
    return None if known.uncounted and not units else units


def _averages(facts: PeriodFacts, bearers: Bearers) -> Iterator[StatementLine]:
    """By model and phase: the cost of work with counted tokens, over these tokens; other work at actual cost."""
    groups: defaultdict[tuple[str, str], list[Work]] = defaultdict(list)
    for work in sorted({*bearers.own, *bearers.quantities}):
        if work.service_period == facts.period:
            known = bearers.quantities.get(work)
            phases = {phase for phase, _ in bearers.own.get(work, {})}
            phases |= {phase for phase in c.PHASES if known is not None and known.units(phase)}
            for phase in sorted(phases):
                groups[work.model, phase].append(work)
    for (_, phase), works in groups.items():
        yield from _average(bearers, phase, works)


def _average(bearers: Bearers, phase: str, works: Iterable[Work]) -> Iterator[StatementLine]:
    pool, averaged, units = Sum(), [], []
    for work in works:
        sums = {key: found for key, found in bearers.own.get(work, {}).items() if key[0] == phase}
        known = bearers.quantities.get(work)
        count = 0 if known is None else known.units(phase)
        if not count:
            yield from _actual_lines(bearers, work, sums, USAGE)
            continue
        averaged.append(work)
        units.append(count)
        for found in sums.values():
            pool.nano += found.nano
            pool.methods |= found.methods
    if not pool.nano:
        return
    price = round(Fraction(pool.nano * MILLION, sum(units)))
    for work, part in zip(averaged, parts(pool.nano, units), strict=True):
        yield _line(
            work,
            USAGE,
            wording.work(work, phase, ""),
            phase=phase,
            method=pool.method,
            quantity=int(part.basis["units"]),
            unit="tokens",
            unit_price_nano=price,
            unit_size=MILLION,
            amount_nano=part.nano,
            basis={"rule": RULE_AVERAGE, **part.basis},
        )


def _card(facts: PeriodFacts, policy: Policy, bearers: Bearers) -> Iterator[StatementLine]:
    """One line for each component of the card; what it cannot price has a line that says so."""
    for work in sorted({*bearers.own, *bearers.quantities}):
        known = bearers.quantities.get(work)
        current = work.service_period == facts.period
        section = USAGE if current else ADJUSTMENT
        if known is None or not known.requests:
            # requests of a late window were counted, and priced, when they ended
            if current:
                yield _unpriced(work, section, known, NOT_COUNTED)
            continue
        rate = policy.rate(work.model, work.tier, work.service_period)
        if rate is None:
            yield _unpriced(work, section, known, NOT_ON_CARD)
            continue
        for component, quantity, rate_nano, nano in items(rate, known):
            yield _line(
                work,
                section,
                wording.by_card(work, component),
                phase=component.phase,
                quantity=quantity,
                unit=component.unit,
                unit_price_nano=rate_nano,
                unit_size=component.unit_size,
                amount_nano=nano,
                basis={
                    "rule": RULE_CARD,
                    "component": component.name,
                    "quantity": quantity,
                    "rate_nano": rate_nano,
                    "unit_size": component.unit_size,
                },
            )
        if known.uncounted:
            yield _unpriced(work, section, Quantity(requests=known.uncounted), PARTLY_COUNTED)


def _recovery(bearers: Bearers, policy: Policy) -> Iterator[StatementLine]:
    """Actual cost less rate card, by service period and model: the platform's."""
    actual: defaultdict[tuple[str, str], Sum] = defaultdict(Sum)
    card: defaultdict[tuple[str, str], int] = defaultdict(int)
    priced: set[tuple[str, str]] = set()
    for work, sums in bearers.own.items():
        for found in sums.values():
            actual[work.service_period, work.model].nano += found.nano
            actual[work.service_period, work.model].methods |= found.methods
    for work, quantity in bearers.quantities.items():
        rate = policy.rate(work.model, work.tier, work.service_period)
        if rate is not None:
            priced.add((work.service_period, work.model))
            card[work.service_period, work.model] += sum(item.nano for item in items(rate, quantity))
    for key in sorted({*actual, *card}):
        service_period, model = key
        nano = actual[key].nano - card[key]
        yield StatementLine(
            line=0,
            section=RECOVERY,
            description=wording.recovery(model, nano=nano, priced=key in priced),
            service_period=service_period,
            account=RECOVERY,
            model=model,
            method=actual[key].method,
            amount_nano=nano,
            basis={"rule": RULE_RECOVERY, "actual_nano": actual[key].nano, "card_nano": card[key]},
        )


def _without_price(facts: PeriodFacts, bearers: Bearers, lines: Iterable[StatementLine]) -> Iterator[StatementLine]:
    """Requests of which no cost is known, where engines had no price: unpriced, not free."""
    if not facts.unpriced:
        return
    costed = {Work(x.service_period, x.tenant, x.project, x.model, x.tier, x.account) for x in lines}
    for work, quantity in bearers.quantities.items():
        if work.service_period == facts.period and quantity.requests and work not in costed:
            yield _unpriced(work, USAGE, quantity, NO_PRICE)


def _unpriced(work: Work, section: str, quantity: Quantity | None, why: str) -> StatementLine:
    requests = None if quantity is None else quantity.requests
    return _line(
        work,
        section,
        wording.unpriced(work, quantity, why),
        quantity=requests or None,
        unit="requests" if requests else "",
        amount_nano=None,
        basis={"rule": RULE_UNPRICED, "why": why},
    )


def _line(work: Work, section: str, description: str, **rest: object) -> StatementLine:
    return StatementLine(line=0, section=section, description=description, **work._asdict(), **rest)  # type: ignore[arg-type]


# ---- pools ------------------------------------------------------------------------------------------


def _pools(facts: PeriodFacts, policy: Policy, bearers: Bearers) -> Iterator[StatementLine]:
    """A line for each tenant that shares a pool, or one of the platform's.

    Corrections of a pool of a closed period are shared as the pool of this one is.
    """
    for pool, found in bearers.pools.items():
        rule = policy.pool(pool.account, pool.reason)
        current = pool.service_period == facts.period
        weights = weights_of(rule, facts, pool.service_period)
        if not weights:
            yield StatementLine(
                line=0,
                section=PLATFORM if current else ADJUSTMENT,
                description=wording.kept(pool, rule),
                service_period=pool.service_period,
                account=pool.account,
                reason=pool.reason,
                method=found.method,
                amount_nano=found.nano,
                basis={"rule": RULE_KEPT, "driver": rule.driver, "nano": found.nano},
            )
            continue
        for tenant, part in zip(weights, parts(found.nano, list(weights.values())), strict=True):
            yield StatementLine(
                line=0,
                section=SHARED_COST if current else ADJUSTMENT,
                description=wording.shared(pool, rule, units=weights[tenant], total=sum(weights.values())),
                service_period=pool.service_period,
                account=pool.account,
                tenant=tenant,
                reason=pool.reason,
                method=found.method,
                amount_nano=part.nano,
                basis={"rule": RULE_POOL, "driver": rule.driver, **part.basis},
            )
