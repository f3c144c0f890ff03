"""Drivers: by what a pool is shared over tenants, and largest-remainder shares that show how they were found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from math import gcd
from typing import NamedTuple

from farthing.books.facts import PeriodFacts
from farthing.books.moments import moment_ns
from farthing.books.periods import bounds
from farthing.books.policy_rules import PoolRule
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.money import NANO, split

__all__ = ["Part", "parts", "weights_of"]


class Part(NamedTuple):
    """A share of a whole: |whole| x units // total, plus 1 where its rank is not after the last nano-unit left."""

    nano: int
    basis: dict[str, int | str]
    """``pool_nano``, ``units``, ``total_units``, ``rank`` (1: the largest remainder) and ``left`` (nano-units that
    rounding down leaves over, given to ranks 1 … ``left``)."""


def weights_of(rule: PoolRule, facts: PeriodFacts, service_period: str) -> dict[str, int]:
    """Integer weights by tenant, in order of names, none 0; empty when nobody has any, or the pool is kept.

    - ``busy``: nano-units of the tenants' charged and aborted work of the facts' period;
    - ``tokens``: computed prompt and output tokens of their finished and aborted requests;
    - ``requests``: requests finished;
    - ``reserved``: reserved units, where one changes within the service period times the seconds it held;
    - ``fixed``: per cent.

    The last two are brought to integers by their common divisor.
    """
    weights: Counter[str] = Counter()
    if rule.driver == "fixed":
        weights.update(_reduced({tenant: int(percent * NANO) for tenant, percent in rule.fixed.items()}, NANO))
    elif rule.driver == "reserved":
        weights.update(_reserved(rule, service_period))
    elif rule.driver == "busy":
        for cost in facts.costs:
            if cost.service_period == facts.period and cost.account in {c.CHARGED, c.ABORTED}:
                weights[cost.tenant] += cost.nano
    elif rule.driver in {"tokens", "requests"}:
        for usage in facts.usage:
            if usage.service_period != facts.period:
                continue
            if rule.driver == "requests":
                weights[usage.tenant] += usage.requests if usage.outcome == c.FINISHED else 0
            elif usage.outcome in {c.FINISHED, c.ABORTED}:
                weights[usage.tenant] += usage.prompt_computed + usage.output_tokens
    excluded = {"", *rule.exclude}
    return {tenant: weight for tenant, weight in sorted(weights.items()) if weight > 0 and tenant not in excluded}


def parts(whole: int, units: Sequence[int]) -> list[Part]:
    """Shares of a whole by largest remainder, each with what it was computed from; they add up to the whole.

    Raises ValueError as ``money.split`` does.
    """
    total, size = sum(units), abs(whole)
    shares = split(whole, units)
    remainders = [size * unit % total for unit in units]
    left = size - sum(size * unit // total for unit in units)
    order = sorted(range(len(units)), key=remainders.__getitem__, reverse=True)
    ranks = {index: rank for rank, index in enumerate(order, 1)}
    return [
        Part(nano, {"pool_nano": whole, "units": unit, "total_units": total, "rank": ranks[index], "left": left})
        for index, (nano, unit) in enumerate(zip(shares, units, strict=True))
    ]


def _reserved(rule: PoolRule, service_period: str) -> dict[str, int]:
    start, end = bounds(service_period)
    weights: Counter[str] = Counter()
    for one, following in zip_longest(rule.reserved, rule.reserved[1:]):
        begins = start if one.start is None else max(start, moment_ns(one.start))
        ends = end if following is None or following.start is None else min(end, moment_ns(following.start))
        if ends > begins:
            seconds = (ends - begins) // SECOND
            weights.update({tenant: int(amount * NANO) * seconds for tenant, amount in one.weights.items()})
    return _reduced(weights, (end - start) // SECOND * NANO)


def _reduced(weights: Mapping[str, int], unit: int) -> dict[str, int]:
    """Weights in their own unit where all are whole numbers of it, else in the largest part of it that divides all."""
    divisor = gcd(unit, *weights.values())
    return {tenant: weight // divisor for tenant, weight in weights.items()}
