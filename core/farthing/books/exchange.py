"""A dated table of exchange rates, and prices of another currency in the ledger's.

Arithmetic is exact: a converted price is a rational number, and is rounded nowhere but in a bill.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import groupby, pairwise

from farthing.books.cost_functions import Stretch
from farthing.books.moments import moment_ns, moment_text
from farthing.domain.errors import PriceError

__all__ = ["ExchangeRate", "ExchangeTable"]


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """Units of the ledger's currency for one unit of ``currency``, from ``start`` until the currency's next rate."""

    currency: str
    rate: Decimal
    start: date
    source: str


class ExchangeTable:
    """All exchange rates into one ledger's currency.

    Raises PriceError when a currency has two rates from one moment, a rate is not above 0, or the ledger's own
    currency has one.
    """

    def __init__(self, rates: Iterable[ExchangeRate] = (), ledger_currency: str = "USD") -> None:
        self.ledger_currency = ledger_currency
        self.rates = tuple(sorted(rates, key=lambda rate: (rate.currency, moment_ns(rate.start))))
        for one in self.rates:
            if one.currency == ledger_currency:
                raise PriceError(f"{one.currency} is the ledger's currency; remove its rate under exchange:")
            if one.rate <= 0:
                raise PriceError(f"the exchange rate {one.rate} of {one.currency} is not above 0; correct it")
        for one, two in pairwise(self.rates):
            if (one.currency, moment_ns(one.start)) == (two.currency, moment_ns(two.start)):
                raise PriceError(
                    f"{one.currency} has two exchange rates from {moment_text(moment_ns(one.start))}: "
                    f"{one.rate} ({one.source}) and {two.rate} ({two.source}); keep one"
                )

        self._stretches: dict[str, tuple[Stretch, ...]] = {}
        for currency, group in groupby(self.rates, key=lambda rate: rate.currency):
            own = tuple(group)
            starts = [moment_ns(one.start) for one in own]
            self._stretches[currency] = tuple(
                Stretch(start, end, Fraction(one.rate))
                for one, start, end in zip(own, starts, [*starts[1:], None], strict=True)
            )

    def stretches(self, currency: str) -> tuple[Stretch, ...]:
        """When which rate of a currency applies; ``rate`` is units of the ledger's currency per unit, not per hour."""
        return self._stretches.get(currency, ())

    def at(self, currency: str, wall_ns: int) -> Fraction | None:
        """Units of the ledger's currency for one unit at a UTC moment; None: unknown."""
        if currency == self.ledger_currency:
            return Fraction(1)
        known = self.stretches(currency)
        i = _index(known, wall_ns)
        return known[i].rate if i >= 0 else None

    def convert(self, price: Stretch, currency: str) -> tuple[Stretch, ...]:
        """A price of another currency in the ledger's: cut where the exchange rate changes.

        Where no rate is known there is no stretch, and so no price.
        """
        if currency == self.ledger_currency:
            return (price,)
        known = self.stretches(currency)
        found = []
        for rate in known[max(_index(known, price.start), 0) :]:
            if price.end is not None and rate.start >= price.end:
                break
            end = min((end for end in (price.end, rate.end) if end is not None), default=None)
            found.append(Stretch(max(price.start, rate.start), end, price.rate * rate.rate))
        return tuple(found)


def _index(stretches: Sequence[Stretch], wall_ns: int) -> int:
    """Of the last stretch that has begun; -1: none."""
    return bisect_right(stretches, wall_ns, key=lambda stretch: stretch.start) - 1
