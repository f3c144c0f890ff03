"""Published rates: what work costs by a card, whatever it took to do it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from farthing.books.bearers import Quantity
from farthing.books.policy_rules import Rate
from farthing.domain import conventions as c
from farthing.domain.money import to_nano

__all__ = ["COMPONENTS", "Component", "Item", "component_amount", "items", "rate_of"]

MILLION = 1_000_000


class Component(NamedTuple):
    """Something that a card has a rate for."""

    name: str
    """Of ``Quantity``'s field that it is counted by, and as lines' bases name it."""
    phase: str
    unit: str
    unit_size: int
    text: str


COMPONENTS = (
    Component("computed", c.PREFILL, "tokens", MILLION, "prompt tokens computed"),
    Component("cached", c.PREFILL, "tokens", MILLION, "prompt tokens from the cache"),
    Component("output", c.DECODE, "tokens", MILLION, "output tokens"),
    Component("image", c.VISION, "tokens", MILLION, "image tokens"),
    Component("requests", "", "requests", 1, "requests"),
)
"""Everything that a card can charge, in the order of a statement's lines."""


class Item(NamedTuple):
    """One component of some work, priced."""

    component: Component
    quantity: int
    rate_nano: int
    """Nano-units per ``unit_size`` units."""
    nano: int


def rate_of(rate: Rate, component: Component) -> Decimal | None:
    """The card's rate of a component; None: it is not charged."""
    return {
        "computed": rate.prompt,
        "cached": rate.cached,
        "output": rate.output,
        "image": rate.image,
        "requests": rate.request,
    }[component.name]


def component_amount(quantity: int, rate_nano: int, unit_size: int) -> int:
    """Quantity x rate, rounded once, half to even, to whole nano-units."""
    return round(Fraction(quantity * rate_nano, unit_size))


def items(rate: Rate, quantity: Quantity) -> Iterator[Item]:
    """What a card charges for some work: components that it has a rate for and that were used."""
    for component in COMPONENTS:
        price, count = rate_of(rate, component), int(getattr(quantity, component.name))
        if price is not None and count:
            rate_nano = to_nano(price)
            yield Item(component, count, rate_nano, component_amount(count, rate_nano, component.unit_size))
