"""Prices, currencies, capacities and engines' claims, as Hypothesis draws them."""

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import strategies as st

from farthing.books.capacity import Capacity, Claim
from farthing.books.exchange import ExchangeRate, ExchangeTable
from farthing.books.moments import moment_ns
from farthing.books.prices import GpuPrice
from farthing.domain.clock import HOUR

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
BEGIN_NS = moment_ns(BEGIN)
SPAN_HOURS = 2_000
END = BEGIN + timedelta(hours=SPAN_HOURS)
END_NS = moment_ns(END)

nanos = st.integers(1, 10**14)
rates = st.decimals("0.000000001", "200", places=9)
fractions = st.decimals("0.000001", "1", places=6)
moments = st.integers(BEGIN_NS, END_NS)


def cuts(low=BEGIN_NS, high=END_NS):
    """Where a stretch of time is cut, in order; its ends included."""
    return st.lists(st.integers(low, high), max_size=6).map(lambda inner: sorted([low, high, *inner]))


@st.composite
def exchanges(draw):
    """Euro rates that begin with the span, or later."""
    hours = draw(st.lists(st.integers(0, SPAN_HOURS - 1), min_size=1, max_size=4, unique=True))
    if draw(st.booleans()):
        hours = [0, *(hour for hour in hours if hour)]
    return ExchangeTable(
        ExchangeRate("EUR", draw(rates), BEGIN + timedelta(hours=hour), f"fixing {hour}") for hour in hours
    )


@st.composite
def price_lists(draw, currency=""):
    """Prices of one GPU one after another, that begin with the span and leave no gap."""
    hours = draw(st.lists(st.integers(1, SPAN_HOURS), max_size=4, unique=True))
    return [
        GpuPrice("X", draw(nanos), BEGIN + timedelta(hours=hour), "test", currency=currency)
        for hour in [0, *sorted(hours)]
    ]


@st.composite
def claims(draw, gpus, capacity="node"):
    """Engines that fit into so many GPUs."""
    found, left = [], gpus
    for number in range(draw(st.integers(0, 4))):
        if left == 0:
            break
        count = draw(st.integers(1, left))
        fraction = draw(st.one_of(st.just(Decimal(1)), fractions))
        found.append(Claim(f"engine-{number}", capacity, count, fraction))
        left -= count
    return found


@st.composite
def terms(draw, gpus, host_share, currency="USD"):
    """Terms of one capacity one after another over the whole span, of any kind."""
    inner = draw(st.lists(st.integers(1, SPAN_HOURS - 1), max_size=2, unique=True))
    edges = [0, *sorted(inner), SPAN_HOURS]
    return [
        Capacity(
            "node",
            "X",
            gpus,
            draw(st.sampled_from(("on_demand", "spot", "reserved", "committed", "owned"))),
            BEGIN + timedelta(hours=start),
            BEGIN + timedelta(hours=end),
            running=draw(st.fractions(0, 10**12, max_denominator=10**6)),
            amortised_nano=draw(st.integers(0, 10**15)),
            amortised_until=draw(
                st.none() | st.integers(start + 1, end + 500).map(lambda h: BEGIN + timedelta(hours=h))
            ),
            host_share=host_share,
            currency=currency,
        )
        for start, end in itertools.pairwise(edges)
    ]


def exact(stretches, start_ns, end_ns):
    """Nano-dollars of [start, end) without rounding, added up stretch by stretch: what a bill is compared with."""
    total = Fraction(0)
    for stretch in stretches:
        first = max(start_ns, stretch.start)
        last = end_ns if stretch.end is None else min(end_ns, stretch.end)
        if last > first:
            total += stretch.rate * (last - first) / HOUR
    return total
