"""What is bought: nodes rented, reserved, committed to or owned, and who has which of their GPUs.

A capacity's cost has one cumulative function. Its host's part is taken off first; what is left is divided over equal
slots, one a GPU; engines have slots, or parts of slots, and pools have the rest. All of them together are the
capacity's cost to the nano-dollar, at every moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Final, Literal, TypeAlias

from farthing.books.cost_functions import Between, CostFunction, Part, Rates, Share, Slots, Stretch, chained
from farthing.books.exchange import ExchangeTable
from farthing.books.moments import moment_ns, period_text
from farthing.books.tariff import WHOLE, Tariff
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR
from farthing.domain.errors import PriceError

__all__ = ["COMMITMENTS", "Capacity", "Claim", "Holding", "Kind", "Pool", "hold", "running_energy"]

Kind: TypeAlias = Literal["on_demand", "spot", "reserved", "committed", "owned"]
COMMITMENTS: Final = ("reserved", "committed")
"""Kinds whose GPUs are paid for whether they are used or not, for an agreed term."""


def running_energy(power_watts: Decimal, pue: Decimal, nano_per_kwh: int) -> Fraction:
    """Nano-dollars per hour of the electricity that equipment of a constant power draws, with its facility's share.

    Energy = power x PUE. Power usage effectiveness is the facility's total energy divided by its IT equipment's
    (ISO/IEC 30134-2:2016; The Green Grid, white paper 49, 2012).
    """
    return Fraction(power_watts) / 1_000 * Fraction(pue) * nano_per_kwh


@dataclass(frozen=True, slots=True)
class Capacity:
    """``gpus`` GPUs of one kind that are paid for from ``start`` until ``end`` (exclusive; None: until further notice).

    Its cost per hour is ``running`` plus ``amortised_nano`` spread evenly from ``start`` until ``amortised_until``:
    straight-line, equal amounts for equal times (IAS 16, paragraph 62; IFRS 16, paragraph 31 for leases paid in
    advance). Depreciation of what is owned is its cost less its residual value. Both are in nanos of ``currency``;
    what is amortised is converted at the rate of ``start``, as it was paid then (IAS 21, paragraph 23b: non-monetary
    items at the rate of the transaction's date), and what is running at the rate of its time.
    """

    name: str
    gpu: str
    gpus: int
    kind: Kind
    start: date
    end: date | None
    running: Fraction
    """Nanos of the currency per hour, of all GPUs together."""
    amortised_nano: int = 0
    amortised_until: date | None = None
    host_share: Decimal = Decimal(0)
    """The part of the cost that is the host's (processors, memory, disks) and not its GPUs', 0 to 1."""
    currency: str = "USD"
    source: str = "farthing.yaml"

    @property
    def start_ns(self) -> int:
        """Nanoseconds UTC."""
        return moment_ns(self.start)

    @property
    def end_ns(self) -> int | None:
        """Nanoseconds UTC; None: no end."""
        return None if self.end is None else moment_ns(self.end)

    def label(self) -> str:
        """What errors call it."""
        return f"{period_text(self.start_ns, self.end_ns)} ({self.kind}, {self.source})"

    def amortised(self, exchange: ExchangeTable) -> Stretch | None:
        """The amortised part in the ledger's currency; None where there is none, or no exchange rate at its start."""
        until, rate = self._amortised_until(), exchange.at(self.currency, self.start_ns)
        if not self.amortised_nano or until is None or rate is None:
            return None
        return Stretch(self.start_ns, until, self.amortised_nano * rate * HOUR / (until - self.start_ns))

    def stretches(self, exchange: ExchangeTable) -> tuple[Stretch, ...]:
        """Its whole cost, in nano-dollars per hour of the ledger's currency; nothing where no exchange rate is."""
        amortised = self.amortised(exchange)
        if self.amortised_nano and amortised is None:
            return ()
        whole = Stretch(self.start_ns, self.end_ns, self.running)
        running = exchange.convert(whole, self.currency) if self.running else (whole,)
        return running if amortised is None else tuple(_added(running, amortised))

    def _amortised_until(self) -> int | None:
        until = self.amortised_until if self.amortised_until is not None else self.end
        return None if until is None else moment_ns(until)


@dataclass(frozen=True, slots=True)
class Claim:
    """An engine's settings: ``count`` GPUs of a capacity, or a ``fraction`` of each."""

    engine: str
    capacity: str
    count: int
    fraction: Decimal = WHOLE


@dataclass(frozen=True, slots=True)
class Pool:
    """A part of a capacity that no engine has, over [start_ns, end_ns) (None: no end), and where it is booked."""

    capacity: str
    account: str
    """``unallocated``, ``unused_commitment`` or ``shared``."""
    reason: str
    """``unassigned``, ``unsold_slice`` or ``host``."""
    tariff: Tariff
    start_ns: int
    end_ns: int | None


@dataclass(frozen=True, slots=True)
class Holding:
    """A capacity over all its terms, and what became of it: ``tariff`` is the sum of ``engines`` and ``pools``."""

    name: str
    terms: tuple[Capacity, ...]
    tariff: Tariff
    engines: Mapping[str, Tariff]
    """By the engine's name."""
    pools: tuple[Pool, ...]


def hold(capacities: Iterable[Capacity], claims: Sequence[Claim], exchange: ExchangeTable) -> tuple[Holding, ...]:
    """What is bought, by name, divided over the engines that claim it, in their order.

    Entries of one name are terms of one capacity, one after another. An engine takes the next free slots; one that
    takes a fraction of each shares slots with earlier engines of fractions where they left room.

    Raises PriceError when terms overlap or differ in their GPUs, when more is claimed than there is, or when a claim
    names no capacity.
    """
    by_name: dict[str, list[Capacity]] = {}
    for one in capacities:
        by_name.setdefault(one.name, []).append(one)
    for claim in claims:
        if claim.capacity not in by_name:
            known = ", ".join(by_name) or "none"
            raise PriceError(
                f"engine {claim.engine!r}: no capacity {claim.capacity!r}; add it under capacity: (known: {known})"
            )
    return tuple(
        _holding(sorted(terms, key=lambda term: term.start_ns), [x for x in claims if x.capacity == name], exchange)
        for name, terms in by_name.items()
    )


def _holding(terms: Sequence[Capacity], claims: Sequence[Claim], exchange: ExchangeTable) -> Holding:
    first = terms[0]
    _refuse_differences(terms)
    rates = Rates(stretch for term in terms for stretch in term.stretches(exchange))
    host = Fraction(first.host_share)
    gpus: CostFunction = Part(Share(host, rest=True), rates) if host else rates
    taken, free, cut = _assigned(first, claims)
    fix = "extend its term or add the next one under capacity: in farthing.yaml"
    if any(term.currency != exchange.ledger_currency for term in terms):
        fix += ", or its exchange rate under exchange:"

    def tariff(function: CostFunction, count: int, fraction: Decimal = WHOLE) -> Tariff:
        return Tariff(first.gpu, count, function, fraction, subject=f"capacity {first.name!r}", fix=fix)

    def of(slots: Sequence[_Slot]) -> Slots:
        return Slots(slots, first.gpus, gpus)

    parts: list[tuple[str, CostFunction, int, Decimal]] = []
    if host:
        parts.append((c.POOL_HOST, Part(Share(host), rates), first.gpus, first.host_share))
    if free:
        parts.append((c.POOL_UNASSIGNED, of([(index, ()) for index in free]), len(free), WHOLE))
    if cut:
        left = sum((chained(chain) for _, chain in cut), Fraction(0)) / len(cut)
        parts.append((c.POOL_UNSOLD_SLICE, of(cut), len(cut), Decimal(left.numerator) / Decimal(left.denominator)))
    pools = tuple(
        Pool(first.name, account, reason, tariff(_between(start, end, function, terms), count, part), start, end)
        for reason, function, count, part in parts
        for account, start, end in _accounts(terms, reason)
    )
    engines = {x.engine: tariff(of(taken[x.engine]), x.count, x.fraction) for x in claims}
    return Holding(first.name, tuple(terms), tariff(rates, first.gpus), engines, pools)


def _refuse_differences(terms: Sequence[Capacity]) -> None:
    for one, two in pairwise(terms):
        name = one.name
        if (one.gpu, one.gpus, one.host_share) != (two.gpu, two.gpus, two.host_share):
            raise PriceError(
                f"capacity {name!r} differs in gpu, gpus or host_share between its terms {one.label()} and "
                f"{two.label()}; give what is different a name of its own"
            )
        if one.end_ns is None or one.end_ns > two.start_ns:
            raise PriceError(
                f"capacity {name!r} has two terms at once: {one.label()} and {two.label()}; "
                "end the first with to:, or give the second a name of its own"
            )


_Slot: TypeAlias = tuple[int, tuple[Share, ...]]


def _assigned(capacity: Capacity, claims: Sequence[Claim]) -> tuple[dict[str, list[_Slot]], range, list[_Slot]]:
    """The slots of each engine, those that nobody has, and what is left of those that are cut up."""
    left: dict[int, tuple[Fraction, tuple[Share, ...]]] = {}
    taken: dict[str, list[_Slot]] = {}
    used = 0
    for claim in claims:
        wanted = Fraction(claim.fraction)
        slots = taken[claim.engine] = []
        if wanted == 1:
            slots += [(index, ()) for index in range(used, used + claim.count)]
            used += claim.count
            continue
        fitting = [index for index, (room, _) in left.items() if room >= wanted][: claim.count]
        opened = range(used, used + claim.count - len(fitting))
        used += len(opened)
        for index in (*fitting, *opened):
            room, chain = left.get(index, (Fraction(1), ()))
            slots.append((index, (*chain, Share(wanted / room))))
            left[index] = (room - wanted, (*chain, Share(wanted / room, rest=True)))
    if used > capacity.gpus:
        names = ", ".join(claim.engine for claim in claims)
        raise PriceError(
            f"capacity {capacity.name!r} has gpus: {capacity.gpus}, and its engines take {used} of them ({names}); "
            "raise gpus or lower engines[].gpu_count"
        )
    return taken, range(used, capacity.gpus), [(index, chain) for index, (room, chain) in left.items() if room]


def _accounts(terms: Sequence[Capacity], reason: str) -> list[tuple[str, int, int | None]]:
    """(account, start, end) of a pool: terms of different kinds book it differently."""
    found: list[tuple[str, int, int | None]] = []
    for term in terms:
        account = c.UNUSED_COMMITMENT if term.kind in COMMITMENTS else c.UNALLOCATED
        if reason == c.POOL_HOST:
            account = c.SHARED
        if found and found[-1][0] == account:
            found[-1] = (account, found[-1][1], term.end_ns)
        else:
            found.append((account, term.start_ns, term.end_ns))
    return found


def _between(start: int, end: int | None, function: CostFunction, terms: Sequence[Capacity]) -> CostFunction:
    """The function itself where it is of all terms."""
    whole = (terms[0].start_ns, terms[-1].end_ns) == (start, end)
    return function if whole else Between(start, end, function)


def _added(running: Iterable[Stretch], more: Stretch) -> Iterator[Stretch]:
    """The running rates, and ``more`` on top of them until it ends; it starts no later than they do."""
    for one in running:
        if more.end is None or (one.end is not None and one.end <= more.end):
            yield replace(one, rate=one.rate + more.rate)
        elif one.start >= more.end:
            yield one
        else:
            yield Stretch(one.start, more.end, one.rate + more.rate)
            yield Stretch(more.end, one.end, one.rate)
