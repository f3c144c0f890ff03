"""Statements of a period: one for each tenant that has a line, and one for the platform, which together foot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from farthing.books.allocation import allocate
from farthing.books.facts import PeriodFacts
from farthing.books.notes import Quality, notes_of, qualities
from farthing.books.policy import Policy
from farthing.books.rate_card import COMPONENTS
from farthing.books.statement import (
    ADJUSTMENT,
    PLATFORM,
    PLATFORM_TENANT,
    RECOVERY,
    SECTIONS,
    SHARED_COST,
    USAGE,
    Statement,
    StatementLine,
)
from farthing.domain import conventions as c
from farthing.domain.errors import PeriodError
from farthing.domain.money import from_nano

__all__ = ["SUBTOTAL_KEYS", "Subtotal", "build_statements", "subtotals"]

SUBTOTAL_KEYS = (
    "section",
    "service_period",
    "account",
    "phase",
    "project",
    "cost_centre",
    "model",
    "tier",
    "gl_account",
)
"""Fields of a line that subtotals can be by."""
_COMPONENTS = {component.name: place for place, component in enumerate(COMPONENTS)}


class Subtotal(NamedTuple):
    """The lines of one value of a field."""

    value: str
    nano: int
    """Of the lines that are priced."""
    lines: int
    unpriced: int
    """Lines without an amount: the subtotal is then not all."""


def build_statements(facts: PeriodFacts, policy: Policy, *, signed_by: str, issued_ns: int) -> tuple[Statement, ...]:
    """All statements of a period by number: the platform's is 0000, tenants follow in order of their names.

    Their totals together are ``facts.opening_wip_nano + bill_nano - closing_wip_nano``, exactly.

    Raises PeriodError when the facts do not add up to that, PolicyError when the policy begins after the period.
    """
    policy.require(facts.period)
    expected = facts.opening_wip_nano + facts.bill_nano - facts.closing_wip_nano
    differs = sum(cost.nano for cost in facts.costs) - expected
    if differs:
        raise PeriodError(
            f"period {facts.period}: its costs differ from opening work in progress + bill - closing work in progress "
            f"by {from_nano(differs):f} {facts.currency}; no statement is made of books that do not add up"
        )
    by_tenant: defaultdict[str, list[StatementLine]] = defaultdict(list)
    for line in allocate(facts, policy):
        by_tenant[line.tenant].append(line)
    tenants = [tenant for tenant in sorted(by_tenant) if tenant != PLATFORM_TENANT]
    days, known = _days(facts, policy), qualities(facts, policy)
    made = []
    for place, tenant in enumerate((PLATFORM_TENANT, *tenants)):
        made.append(
            _statement(
                facts,
                policy,
                number=f"{facts.period}-{place:04d}",
                tenant=tenant,
                quality=known.get(tenant),
                lines=tuple(_addressed(sorted(by_tenant[tenant], key=_reading_order), policy)),
                days=tuple(days[tenant]),
                signed_by=signed_by,
                issued_ns=issued_ns,
            )
        )
    charged = [line for tenant in tenants for line in by_tenant[tenant]]
    made[0] = replace(made[0], identity=_identity(facts, charged, made[0].lines))
    total = sum(statement.total_nano for statement in made)
    if total != expected:
        raise PeriodError(f"period {facts.period}: statements add up to {total} nano-units, and not to {expected}")
    return tuple(made)


def subtotals(statement: Statement, by: str) -> tuple[Subtotal, ...]:
    """Sums of a statement's lines by one of ``SUBTOTAL_KEYS``, in order of the values; together they are its total.

    Raises PeriodError for any other key.
    """
    if by not in SUBTOTAL_KEYS:
        raise PeriodError(f"no subtotals by {by!r}; choose one of {', '.join(SUBTOTAL_KEYS)}")
    groups: defaultdict[str, list[StatementLine]] = defaultdict(list)
    for line in statement.lines:
        groups[str(getattr(line, by))].append(line)
    order = SECTIONS.index if by == "section" else str
    return tuple(
        Subtotal(
            value, _total(groups[value]), len(groups[value]), sum(line.amount_nano is None for line in groups[value])
        )
        for value in sorted(groups, key=order)
    )


def _statement(
    facts: PeriodFacts,
    policy: Policy,
    *,
    number: str,
    tenant: str,
    quality: Quality | None,
    lines: tuple[StatementLine, ...],
    days: tuple[tuple[str, str, int], ...],
    signed_by: str,
    issued_ns: int,
) -> Statement:
    total, decimals = _total(lines), policy.rules.rounding.decimals
    payable = _rounded(total, decimals)
    unpriced = [line.description for line in lines if line.amount_nano is None]
    if tenant == PLATFORM_TENANT:
        unpriced += facts.unpriced
    return Statement(
        number=number,
        period=facts.period,
        start_ns=facts.start_ns,
        end_ns=facts.end_ns,
        kind=policy.mode,
        pricing=policy.pricing,
        currency=facts.currency,
        issuer=policy.issuer(),
        recipient=policy.recipient(tenant, facts.period),
        issued_ns=issued_ns,
        signed_by=signed_by,
        lines=lines,
        total_nano=total,
        rounding_nano=payable - total,
        payable_nano=payable,
        decimals=decimals,
        policy_version=policy.version,
        settlement_policy=c.POLICY_VERSION,
        price_versions=facts.price_versions,
        fit_errors=facts.fit_errors,
        notes=notes_of(facts, policy, tenant, quality, lines, total),
        unpriced=tuple(dict.fromkeys(unpriced)),
        days=days,
        evidence=dict(facts.evidence),
    )


def _addressed(lines: Iterable[StatementLine], policy: Policy) -> Iterator[StatementLine]:
    """Lines numbered, with the cost centre of their service period's last day, and finance's account."""
    centres: dict[tuple[str, str, str], str] = {}
    for number, line in enumerate(lines, 1):
        key = (line.tenant, line.project, line.service_period)
        if key not in centres:
            centres[key] = policy.cost_centre(*key)
        yield replace(line, line=number, cost_centre=centres[key], gl_account=policy.gl_account(line))


def _reading_order(line: StatementLine) -> tuple[int | str, ...]:
    return (
        SECTIONS.index(line.section),
        line.service_period,
        line.project,
        line.model,
        line.tier,
        _place(c.BOOK_ACCOUNTS, line.account),
        _COMPONENTS.get(str(line.basis.get("component", "")), -1),
        _place(c.PHASES, line.phase),
        line.reason,
        line.description,
    )


def _place(order: Sequence[str], value: str) -> int:
    return order.index(value) if value in order else len(order)


def _total(lines: Iterable[StatementLine]) -> int:
    return sum(line.amount_nano for line in lines if line.amount_nano is not None)


def _rounded(nano: int, decimals: int) -> int:
    """To ``decimals`` of the currency, half to even, as nano-units."""
    unit = int(Decimal(1).scaleb(9 - decimals))
    return round(Fraction(nano, unit)) * unit


def _days(facts: PeriodFacts, policy: Policy) -> defaultdict[str, list[tuple[str, str, int]]]:
    """Days at actual cost, by who bears them before pools are shared."""
    sums: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for day, tenant, account, nano in facts.days:
        sums[tenant if policy.bears(account, tenant) else PLATFORM_TENANT, day, account] += nano
    found: defaultdict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for (tenant, day, account), nano in sorted(sums.items()):
        found[tenant].append((day, account, nano))
    return found


def _identity(
    facts: PeriodFacts, charged: Sequence[StatementLine], kept: Sequence[StatementLine]
) -> tuple[tuple[str, int], ...]:
    """The first three entries add up to what all others add up to."""

    def of(lines: Sequence[StatementLine], *sections: str) -> int:
        return _total(line for line in lines if line.section in sections)

    became = (
        ("Charged to tenants", of(charged, USAGE)),
        ("Shared costs charged to tenants", of(charged, SHARED_COST)),
        ("Adjustments charged to tenants", of(charged, ADJUSTMENT)),
        ("Kept by the platform", of(kept, PLATFORM)),
        ("Under- and over-recovery of the rate card", of(kept, RECOVERY)),
        ("Adjustments kept by the platform", of(kept, ADJUSTMENT)),
    )
    return (
        ("Opening work in progress", facts.opening_wip_nano),
        ("GPU allocation x price", facts.bill_nano),
        ("Closing work in progress", -facts.closing_wip_nano),
        *(entry for entry in became if entry[1] or entry[0] == "Charged to tenants"),
    )
