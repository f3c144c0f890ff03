"""What is bought besides GPU capacity, as an integer cost function of time."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from farthing.books.cost_functions import Rates, Stretch
from farthing.books.exchange import ExchangeTable
from farthing.books.periods import bounds, following, period_of
from farthing.books.policy_rules import SharedCost
from farthing.books.tariff import Tariff
from farthing.domain.clock import HOUR
from farthing.domain.money import to_nano

__all__ = ["shared_cost_nano"]


def shared_cost_nano(cost: SharedCost, start_ns: int, end_ns: int, exchange: ExchangeTable | None = None) -> int:
    """Nano-units of the ledger's currency of a shared cost over [start_ns, end_ns), UTC.

    Costs of adjoining intervals add up exactly; a cost per month is that amount in each whole calendar month, and in
    its own currency's month where it is converted by ``exchange`` (without one the ledger is in USD).

    Raises PriceError, naming the gap, when no exchange rate is known.
    """
    table = ExchangeTable() if exchange is None else exchange
    last = end_ns if cost.end_ns is None else min(end_ns, cost.end_ns)
    first = max(start_ns, cost.start_ns)
    if first >= last:
        return 0
    currency = cost.currency or table.ledger_currency
    rates = Rates(part for one in _stretches(cost, last) for part in table.convert(one, currency))
    tariff = Tariff(
        "",
        1,
        rates,
        subject=f"shared cost {cost.name!r} in {currency}",
        fix=f"add an exchange rate of {currency} for that time under exchange: in farthing.yaml",
    )
    return tariff.bill(first, last)


def _stretches(cost: SharedCost, until_ns: int) -> Iterator[Stretch]:
    """Rates per hour from the cost's beginning, so that each call sees the same function; one a month if monthly."""
    if cost.usd_per_hour is not None:
        yield Stretch(cost.start_ns, until_ns, Fraction(to_nano(cost.usd_per_hour)))
        return
    monthly = to_nano(cost.usd_per_month or 0)
    period, start = period_of(cost.start_ns), cost.start_ns
    while start < until_ns:
        first, end = bounds(period)
        yield Stretch(start, min(end, until_ns), Fraction(monthly * HOUR, end - first))
        period, start = following(period), end
