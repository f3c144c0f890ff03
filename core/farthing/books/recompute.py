"""A statement's line computed once more, from the period's facts and the policy alone.

The arithmetic is written another way than in ``allocation``: a share of a pool by its rank among the remainders,
instead of a split of the whole; a rate by integer division with its remainder, instead of rational numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from farthing.books import allocation as rules
from farthing.books.bearers import Work, work_of_cost, work_of_usage
from farthing.books.facts import PeriodFacts, Usage
from farthing.books.policy import Policy
from farthing.books.policy_rules import Rate
from farthing.books.pools import weights_of
from farthing.books.statement import StatementLine
from farthing.domain import conventions as c
from farthing.domain.errors import PeriodError
from farthing.domain.money import to_nano

__all__ = ["amount_of_basis", "recompute_line"]

_MILLION = 1_000_000
_TOKENS: Mapping[str, Callable[[Usage], int]] = {
    c.PREFILL: lambda usage: usage.prompt_computed,
    c.DECODE: lambda usage: usage.output_tokens,
    c.VISION: lambda usage: usage.image_tokens,
}


def recompute_line(line: StatementLine, facts: PeriodFacts, policy: Policy) -> int | None:
    """The line's amount in nano-units; None for one that is unpriced. PeriodError when its rule is not known."""
    rule = line.basis.get("rule")
    known: dict[int | str, Callable[[StatementLine, PeriodFacts, Policy], int]] = {
        rules.RULE_ACTUAL: _actual,
        rules.RULE_AVERAGE: _average,
        rules.RULE_CARD: _card,
        rules.RULE_POOL: _pool,
        rules.RULE_KEPT: _kept,
        rules.RULE_RECOVERY: _recovery,
    }
    if rule == rules.RULE_UNPRICED:
        return None
    if rule not in known:
        raise PeriodError(f"line {line.line} was computed by the rule {rule!r}, which this version does not know")
    try:
        return known[rule](line, facts, policy)
    except (KeyError, ValueError) as error:
        raise PeriodError(
            f"line {line.line}: neither the facts nor the policy know what it is of ({line.description}); "
            "they are of another period or version, or the line was altered"
        ) from error


def amount_of_basis(line: StatementLine) -> int | None:
    """The amount that follows from the line's own basis, without any facts; None for one that is unpriced.

    Raises PeriodError when the basis lacks what its rule needs.
    """
    try:
        return _of_basis(line)
    except (KeyError, ZeroDivisionError) as error:
        raise PeriodError(f"line {line.line}: its basis lacks {error}; the line was altered") from error


def _of_basis(line: StatementLine) -> int | None:
    basis = {key: value for key, value in line.basis.items() if isinstance(value, int)}
    if line.basis["rule"] == rules.RULE_UNPRICED:
        return None
    if "pool_nano" in basis:
        size = abs(basis["pool_nano"])
        share = size * basis["units"] // basis["total_units"] + (basis["rank"] <= basis["left"])
        return share if basis["pool_nano"] >= 0 else -share
    if "rate_nano" in basis:
        return _half_even(basis["quantity"] * basis["rate_nano"], basis["unit_size"])
    if "card_nano" in basis:
        return basis["actual_nano"] - basis["card_nano"]
    return basis["nano"]


def _work(line: StatementLine) -> Work:
    return Work(line.service_period, line.tenant, line.project, line.model, line.tier, line.account)


def _actual(line: StatementLine, facts: PeriodFacts, policy: Policy) -> int:
    recomputed = line.reason == c.REASON_PREEMPTION
    return sum(
        cost.nano
        for cost in facts.costs
        if cost.phase == line.phase
        and (cost.reason == c.REASON_PREEMPTION) == recomputed
        and work_of_cost(cost, policy) == _work(line)
    )


def _average(line: StatementLine, facts: PeriodFacts, policy: Policy) -> int:
    units: Counter[Work] = Counter()
    for usage in facts.usage:
        work = work_of_usage(usage, policy)
        if work is not None and (work.service_period, work.model) == (facts.period, line.model):
            units[work] += _TOKENS[line.phase](usage)
    pool = sum(
        cost.nano
        for cost in facts.costs
        if cost.phase == line.phase and (work := work_of_cost(cost, policy)) is not None and units[work]
    )
    counted = {work: count for work, count in sorted(units.items()) if count}
    return _share(pool, list(counted.values()), list(counted).index(_work(line)))


def _pool(line: StatementLine, facts: PeriodFacts, policy: Policy) -> int:
    weights = weights_of(policy.pool(line.account, line.reason), facts, line.service_period)
    return _share(_kept(line, facts, policy), list(weights.values()), list(weights).index(line.tenant))


def _kept(line: StatementLine, facts: PeriodFacts, policy: Policy) -> int:
    """All of a pool: what no tenant bears itself of an account, by its reason unless it is somebody's work."""
    whole = line.account in {c.CHARGED, c.ABORTED}
    return sum(
        cost.nano
        for cost in facts.costs
        if (cost.service_period, cost.account) == (line.service_period, line.account)
        and (whole or cost.reason == line.reason)
        and work_of_cost(cost, policy) is None
    )


def _card(line: StatementLine, facts: PeriodFacts, policy: Policy) -> int:
    mine = [usage for usage in facts.usage if work_of_usage(usage, policy) == _work(line)]
    rate = policy.rate(line.model, line.tier, line.service_period)
    if rate is None:
        raise KeyError(line.model)
    return _charges(rate, mine)[str(line.basis["component"])]


def _recovery(line: StatementLine, facts: PeriodFacts, policy: Policy) -> int:
    actual = sum(
        cost.nano
        for cost in facts.costs
        if (cost.service_period, cost.model) == (line.service_period, line.model)
        and work_of_cost(cost, policy) is not None
    )
    by_work: dict[Work, list[Usage]] = {}
    for usage in facts.usage:
        work = work_of_usage(usage, policy)
        if work is not None and (work.service_period, work.model) == (line.service_period, line.model):
            by_work.setdefault(work, []).append(usage)
    for work, usages in by_work.items():
        rate = policy.rate(work.model, work.tier, work.service_period)
        actual -= 0 if rate is None else sum(_charges(rate, usages).values())
    return actual


def _charges(rate: Rate, usages: Iterable[Usage]) -> dict[str, int]:
    """Nano-units by the card's component; each rounded once."""
    found: dict[str, int] = {}
    usages = list(usages)
    for name, price, count, size in (
        ("computed", rate.prompt, sum(usage.prompt_computed for usage in usages), _MILLION),
        ("cached", rate.cached, sum(usage.prompt_cached for usage in usages), _MILLION),
        ("output", rate.output, sum(usage.output_tokens for usage in usages), _MILLION),
        ("image", rate.image, sum(usage.image_tokens for usage in usages), _MILLION),
        ("requests", rate.request, sum(usage.requests for usage in usages), 1),
    ):
        if price is not None:
            found[name] = _half_even(count * to_nano(price), size)
    return found


def _half_even(numerator: int, denominator: int) -> int:
    whole, rest = divmod(numerator, denominator)
    up = 2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1)
    return whole + up


def _share(whole: int, units: list[int], index: int) -> int:
    """|whole| x units // total, plus 1 while fewer remainders come before than rounding down leaves over."""
    total, size = sum(units), abs(whole)
    remainders = [size * unit % total for unit in units]
    own = remainders[index]
    before = sum(rest > own for rest in remainders) + sum(rest == own for rest in remainders[:index])
    share = size * units[index] // total + (before < sum(remainders) // total)
    return share if whole >= 0 else -share
