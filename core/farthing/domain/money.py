"""Integer nano-dollars, and splits of them that add up.

Money is an ``int`` of nano-dollars (1e-9 of the ledger currency) everywhere inside; ``Decimal`` only at
the edges, where people read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

__all__ = ["NANO", "from_nano", "split", "to_nano"]

NANO = 1_000_000_000
"""Nano-dollars in one dollar."""


def to_nano(amount: Decimal | str | int) -> int:
    """Nano-dollars of an amount in dollars; ValueError when it is finer than a nano-dollar or not finite."""
    value = Decimal(amount)
    if not value.is_finite():
        raise ValueError(f"amount {amount!r} is not a finite number")
    scaled = value * NANO
    if scaled != scaled.to_integral_value():
        raise ValueError(f"amount {amount!r} is finer than a nano-dollar")
    return int(scaled)


def from_nano(nano: int) -> Decimal:
    """Exact dollars of an integer of nano-dollars."""
    return Decimal(nano).scaleb(-9)


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Shares of ``total`` proportional to integer ``weights``, by the largest-remainder method.

    The shares are integers, have the sign of ``total``, add up to it exactly, and each differs from its
    exact quota by less than one unit. Ties go to the lower index, so the result is deterministic.

    Raises ValueError when a weight is negative, or when all are zero while ``total`` is not.

    Source: Hare quota with largest remainders (Hamilton's method).
    """
    whole = sum(weights)
    if whole <= 0 and any(weights):
        raise ValueError(f"weights must not be negative: {min(weights)}")
    if whole == 0:
        if total:
            raise ValueError(f"cannot split {total} over weights that are all zero")
        return [0] * len(weights)
    magnitude = abs(total)
    shares, remainders = [0] * len(weights), [0] * len(weights)
    for i, weight in enumerate(weights):
        if weight > 0:
            shares[i], remainders[i] = divmod(magnitude * weight, whole)
        elif weight:
            raise ValueError(f"weights must not be negative: {weight}")
    left = magnitude - sum(shares)
    if left == 1:
        shares[remainders.index(max(remainders))] += 1
    elif left:
        # reversed, yet stable: equal remainders stay in the order of their indices
        order = sorted(range(len(weights)), key=remainders.__getitem__, reverse=True)
        for i in order[:left]:
            shares[i] += 1
    return shares if total >= 0 else [-share for share in shares]
