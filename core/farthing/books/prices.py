"""What a GPU costs: a dated table, and bills that telescope.

A bill is a difference of one cumulative integer function, bill(a, b) = F(b) - F(a), cut at price changes;
so bills of adjoining intervals add up exactly, however they are cut or merged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from farthing.domain.clock import HOUR, SECOND
from farthing.domain.errors import PriceError
from farthing.domain.money import to_nano

__all__ = ["DEFAULT_PRICES", "WHOLE", "GpuPrice", "PriceBook", "Tariff", "canonical_gpu"]


WHOLE = Decimal(1)


@dataclass(frozen=True, slots=True)
class GpuPrice:
    """Nano-dollars per hour of one GPU from ``start`` (UTC midnight) until the next entry of the same GPU."""

    gpu: str
    nano_per_hour: int
    start: date
    source: str


_RUNPOD = "Runpod serverless pricing, active-worker rate per second x 3600 (docs.runpod.io/serverless/pricing)"
_VULTR = "Vultr on-demand list price, quoted in cliffcenter.com/research/amd-inference-economics, 2026-05-18"

DEFAULT_PRICES = (
    GpuPrice("H100-SXM", to_nano("3.348"), date(2026, 1, 1), _RUNPOD),
    GpuPrice("H200", to_nano("4.464"), date(2026, 1, 1), _RUNPOD),
    GpuPrice("A100-80GB", to_nano("2.16"), date(2026, 1, 1), _RUNPOD),
    GpuPrice("L40S", to_nano("1.332"), date(2026, 1, 1), _RUNPOD),
    GpuPrice("L4", to_nano("0.468"), date(2026, 1, 1), _RUNPOD),
    GpuPrice("B200", to_nano("6.84"), date(2026, 1, 1), _RUNPOD),
    GpuPrice("MI300X", to_nano("1.85"), date(2026, 1, 1), _VULTR),
)
"""Public on-demand prices of one GPU, read in November 2026: a start, to be replaced by your own in farthing.yaml."""

_DEVICE_NAMES = (
    # what drivers call the device (lower case, contained in the name) -> key of the price table
    ("h100", "H100-SXM"),
    ("h200", "H200"),
    ("a100", "A100-80GB"),
    ("l40s", "L40S"),
    ("b200", "B200"),
    ("mi300x", "MI300X"),
    ("nvidia l4", "L4"),
)


def canonical_gpu(device: str) -> str:
    """Key of the price table for a driver's device name, or the name itself when it is not a known device."""
    lowered = device.lower()
    return next((key for part, key in _DEVICE_NAMES if part in lowered), device)


class Tariff:
    """The price of an allocation of ``count`` GPUs of one kind over time; its version names its content.

    ``fraction`` is the part of each GPU that is allocated (a MIG slice, a time share): the bill is that part's.
    """

    def __init__(self, prices: Iterable[GpuPrice], count: int, fraction: Decimal = WHOLE) -> None:
        entries = sorted(prices, key=lambda price: price.start)
        if not entries:
            raise PriceError("a tariff needs at least one price")
        self.gpu = entries[0].gpu
        self.count = count
        self.fraction = fraction
        share = "" if fraction == WHOLE else f"x{fraction}"
        self.version = (
            ";".join(f"{e.gpu}@{e.start.isoformat()}={e.nano_per_hour}" for e in entries) + f"x{count}{share}"
        )
        self._starts = [_midnight(entry.start) for entry in entries]
        self._rates = [round(entry.nano_per_hour * count * fraction) for entry in entries]
        self._sums = [0]
        for i in range(1, len(entries)):
            self._sums.append(self._sums[-1] + (self._starts[i] - self._starts[i - 1]) * self._rates[i - 1] // HOUR)

    def nano_per_hour(self, wall_ns: int) -> int:
        """Nano-dollars per hour of the whole allocation at a UTC moment."""
        return self._rates[self._index(wall_ns)]

    def cumulative(self, wall_ns: int) -> int:
        """F: nano-dollars from the first price's start to a UTC moment; never decreases."""
        i = self._index(wall_ns)
        return self._sums[i] + (wall_ns - self._starts[i]) * self._rates[i] // HOUR

    def bill(self, start_ns: int, end_ns: int) -> int:
        """Nano-dollars of [start_ns, end_ns), UTC; adds up exactly over adjoining intervals."""
        return self.cumulative(end_ns) - self.cumulative(start_ns)

    def _index(self, wall_ns: int) -> int:
        i = bisect_right(self._starts, wall_ns) - 1
        if i < 0:
            begins = datetime.fromtimestamp(self._starts[0] // SECOND, tz=UTC).date()
            moment = datetime.fromtimestamp(wall_ns // SECOND, tz=UTC).isoformat()
            raise PriceError(
                f"GPU {self.gpu!r} has no price at {moment}: its first begins {begins}; add an earlier one"
            )
        return i


class PriceBook:
    """All prices, by GPU. Entries of farthing.yaml replace the defaults of the same GPU."""

    def __init__(self, own: Iterable[GpuPrice] = (), defaults: Iterable[GpuPrice] = DEFAULT_PRICES) -> None:
        own = tuple(own)
        mine = {price.gpu for price in own}
        self.prices = tuple(sorted((*own, *(p for p in defaults if p.gpu not in mine)), key=lambda p: (p.gpu, p.start)))
        seen: set[tuple[str, date]] = set()
        for price in self.prices:
            if (price.gpu, price.start) in seen:
                raise PriceError(f"GPU {price.gpu!r} has two prices from {price.start}; keep one")
            seen.add((price.gpu, price.start))

    def tariff(self, device: str, count: int, fraction: Decimal = WHOLE) -> Tariff:
        """The tariff of ``count`` GPUs, or of a fraction of each, called ``device`` in the table or by their driver.

        Raises PriceError when none is known: the work is unpriced, never free.
        """
        key = device if any(p.gpu == device for p in self.prices) else canonical_gpu(device)
        found = [price for price in self.prices if price.gpu == key]
        if not found:
            known = ", ".join(sorted({p.gpu for p in self.prices}))
            raise PriceError(f"no price for GPU {device!r}; add it under prices: in farthing.yaml (known: {known})")
        return Tariff(found, count, fraction)


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * SECOND
