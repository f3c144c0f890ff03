"""A book of prices as lines that people read: what costs how much from when to when, and where nothing is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from itertools import chain, groupby
from typing import Literal

from farthing.books.capacity import Capacity
from farthing.books.cost_functions import Stretch
from farthing.books.exchange import ExchangeTable
from farthing.books.moments import moment_ns
from farthing.books.prices import PriceBook

__all__ = ["PriceLine", "price_lines"]


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One stretch of time [start_ns, end_ns) of a price, a capacity or an exchange rate; None: no beginning or end."""

    entry: Literal["price", "capacity", "exchange"]
    name: str
    gpu: str
    """Of an exchange rate: empty."""
    gpus: int | None
    kind: str
    nano_per_gpu_hour: int | None
    """In the ledger's currency, whether the GPU is used or not. None: unpriced, or an exchange rate."""
    amortised_nano_per_gpu_hour: int | None
    """The part of it that was paid at the beginning."""
    host_share: Decimal | None
    """The part of it that is the host's."""
    rate: Decimal | None
    """Of an exchange rate: units of the ledger's currency for one of ``name``."""
    start_ns: int | None
    end_ns: int | None
    source: str
    """Where it comes from, or why it is unpriced."""

    @property
    def unpriced(self) -> bool:
        """Whether work is unpriced in this time."""
        return self.nano_per_gpu_hour is None and self.rate is None

    def covers(self, wall_ns: int) -> bool:
        """Whether a UTC moment lies in it."""
        begun = self.start_ns is None or self.start_ns <= wall_ns
        return begun and (self.end_ns is None or wall_ns < self.end_ns)


def price_lines(book: PriceBook, at_ns: int | None = None) -> tuple[PriceLine, ...]:
    """Every stretch of the book's prices, capacities and exchange rates, gaps between and after them included.

    With a UTC moment: the stretch of each that it lies in, unpriced where that is a gap.
    """
    groups = [*_prices(book), *_capacities(book)]
    lines = [*chain.from_iterable(_with_gaps(group) for group in groups), *_rates(book.exchange)]
    if at_ns is not None:
        return tuple(line for line in lines if line.covers(at_ns))
    return tuple(line for line in lines if line.start_ns is not None)


def _prices(book: PriceBook) -> Iterator[list[PriceLine]]:
    """The lines of each GPU and name."""
    for _, group in groupby(book.prices, key=lambda price: (price.gpu, price.name)):
        lines: list[PriceLine] = []
        for price in group:
            whole = PriceLine(
                entry="price",
                name=price.name,
                gpu=price.gpu,
                gpus=None,
                kind=price.kind,
                nano_per_gpu_hour=None,
                amortised_nano_per_gpu_hour=None,
                host_share=None,
                rate=None,
                start_ns=price.start_ns,
                end_ns=book.end_ns(price),
                source=price.source,
            )
            lines += _of_stretches(whole, book.stretches(price), price.currency)
        yield lines


def _capacities(book: PriceBook) -> Iterator[list[PriceLine]]:
    """The lines of each capacity."""
    for held in book.holdings:
        lines: list[PriceLine] = []
        for term in held.terms:
            amortised = term.amortised(book.exchange)
            found = _of_stretches(_term(term), term.stretches(book.exchange), term.currency)
            lines += [_amortised(line, amortised, term.gpus) for line in found]
        yield lines


def _term(term: Capacity) -> PriceLine:
    return PriceLine(
        entry="capacity",
        name=term.name,
        gpu=term.gpu,
        gpus=term.gpus,
        kind=term.kind,
        nano_per_gpu_hour=None,
        amortised_nano_per_gpu_hour=None,
        host_share=term.host_share,
        rate=None,
        start_ns=term.start_ns,
        end_ns=term.end_ns,
        source=term.source,
    )


def _amortised(line: PriceLine, amortised: Stretch | None, gpus: int) -> PriceLine:
    """A line with the part of its price that was paid at the beginning; ``amortised`` is that of all its GPUs."""
    if line.unpriced:
        return line
    ended = amortised is None or (amortised.end is not None and (line.start_ns or 0) >= amortised.end)
    rate = Fraction(0) if ended or amortised is None else amortised.rate
    return replace(line, amortised_nano_per_gpu_hour=round(rate / gpus))


def _of_stretches(whole: PriceLine, stretches: Iterable[Stretch], currency: str) -> list[PriceLine]:
    """An entry's lines: one for each stretch of a constant price, and one where its currency has no rate."""
    lines: list[PriceLine] = []
    reached = whole.start_ns
    unknown = replace(whole, source=f"no exchange rate of {currency}", host_share=None)
    for one in stretches:
        if one.start != reached:
            lines.append(replace(unknown, start_ns=reached, end_ns=one.start))
        price = round(one.rate / (whole.gpus or 1))
        lines.append(replace(whole, nano_per_gpu_hour=price, start_ns=one.start, end_ns=one.end))
        reached = one.end
    if not lines or (reached is not None and reached != whole.end_ns):
        lines.append(replace(unknown, start_ns=reached))
    return lines


def _with_gaps(lines: Sequence[PriceLine]) -> Iterator[PriceLine]:
    """The lines, and one for each time before, between and after them of which nothing is known."""
    section = "prices" if lines[0].entry == "price" else lines[0].entry
    gap = replace(
        lines[0],
        kind="",
        nano_per_gpu_hour=None,
        amortised_nano_per_gpu_hour=None,
        host_share=None,
        source=f"no entry under {section}:",
    )
    yield replace(gap, start_ns=None, end_ns=lines[0].start_ns)
    for line, after in zip(lines, [*lines[1:], None], strict=True):
        yield line
        begins = None if after is None else after.start_ns
        if line.end_ns is not None and line.end_ns != begins:
            yield replace(gap, start_ns=line.end_ns, end_ns=begins)


def _rates(table: ExchangeTable) -> Iterator[PriceLine]:
    """The exchange rates."""
    for currency, group in groupby(table.rates, key=lambda rate: rate.currency):
        for one, stretch in zip(group, table.stretches(currency), strict=True):
            yield PriceLine(
                entry="exchange",
                name=currency,
                gpu="",
                gpus=None,
                kind="",
                nano_per_gpu_hour=None,
                amortised_nano_per_gpu_hour=None,
                host_share=None,
                rate=one.rate,
                start_ns=moment_ns(one.start),
                end_ns=stretch.end,
                source=one.source,
            )
