"""What a GPU costs: dated prices by GPU and name, public defaults, and the book of all that farthing.yaml says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import groupby, zip_longest

from farthing.books.capacity import Capacity, Claim, Kind, Pool, hold
from farthing.books.cost_functions import Rates, Stretch
from farthing.books.exchange import ExchangeTable
from farthing.books.moments import moment_ns, period_text
from farthing.books.tariff import WHOLE, Tariff
from farthing.domain.errors import PriceError
from farthing.domain.money import from_nano, to_nano

__all__ = ["DEFAULT_PRICES", "WHOLE", "GpuPrice", "PriceBook", "Tariff", "canonical_gpu", "is_device"]


@dataclass(frozen=True, slots=True)
class GpuPrice:
    """Nanos of ``currency`` per hour of one GPU, from ``start`` on (a date's midnight UTC, or a UTC datetime).

    It lasts until ``end`` (exclusive), or without one until the next entry of the same GPU and name.
    """

    gpu: str
    nano_per_hour: int
    start: date
    source: str
    end: date | None = None
    kind: Kind = "on_demand"
    name: str = ""
    currency: str = ""
    """Empty: the ledger's."""

    @property
    def start_ns(self) -> int:
        """Nanoseconds UTC."""
        return moment_ns(self.start)

    @property
    def end_ns(self) -> int | None:
        """Nanoseconds UTC, as it was entered; None: until the next entry."""
        return None if self.end is None else moment_ns(self.end)

    def label(self) -> str:
        """What errors call it."""
        amount = f"{from_nano(self.nano_per_hour).normalize():f}"
        return f"{amount} {period_text(self.start_ns, self.end_ns)} ({self.kind}, {self.source})"


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

_DEVICE_NAMES: Mapping[str, tuple[str, ...]] = {
    # key of the price table -> what drivers and people call the device; any other name has no price but its own
    "H100-SXM": ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM5 80GB", "H100-SXM5", "H100-80GB-SXM"),
    "H100-PCIe": ("NVIDIA H100 PCIe", "H100-80GB-PCIe"),
    "H100-NVL": ("NVIDIA H100 NVL", "H100-94GB-NVL"),
    "H200": ("NVIDIA H200", "H200-SXM", "H200-141GB-SXM"),
    "H200-NVL": ("NVIDIA H200 NVL",),
    "GH200-96GB": ("NVIDIA GH200 480GB",),
    "GH200-144GB": ("NVIDIA GH200 144G HBM3e",),
    "A100-80GB": (
        "NVIDIA A100-SXM4-80GB",
        "NVIDIA A100 80GB PCIe",
        "NVIDIA A100-PCIE-80GB",
        "A100-SXM4-80GB",
        "A100-PCIE-80GB",
        "A100-80GB-SXM",
        "A100-80GB-PCIe",
    ),
    "A100-40GB": (
        "NVIDIA A100-SXM4-40GB",
        "NVIDIA A100-PCIE-40GB",
        "A100-SXM4-40GB",
        "A100-PCIE-40GB",
        "A100-40GB-SXM",
        "A100-40GB-PCIe",
    ),
    "L40S": ("NVIDIA L40S",),
    "L40": ("NVIDIA L40",),
    "L4": ("NVIDIA L4",),
    "B200": ("NVIDIA B200", "B200-SXM", "B200-180GB"),
    "MI300X": ("AMD Instinct MI300X", "AMD Instinct MI300X OAM", "AMD Instinct MI300X VF"),
}
_VENDORS = ("nvidia ", "amd ", "intel", "tesla ", "grid ")
_PLAIN = str.maketrans("", "", " -_")
_SLICE = re.compile(r"\s+MIG\s+\d+c?\.?\d*g\.\d+gb.*", re.IGNORECASE)
"""What drivers add to a GPU's name for a slice of it: ``NVIDIA H100 80GB HBM3 MIG 1g.10gb``."""


def _plain(name: str) -> str:
    return name.casefold().translate(_PLAIN)


_KEYS = {_plain(name): key for key, names in _DEVICE_NAMES.items() for name in (key, *names)}


def canonical_gpu(device: str) -> str:
    """Key of the price table for a device's name by its driver, or the name itself when it is not a known device.

    Names are compared whole, without regard to case, space, hyphen and underscore: what merely begins or ends as
    another device does (a GH200, an H100 NVL) is not that device, and costs something else. A slice is of its GPU.
    """
    return _KEYS.get(_plain(_SLICE.sub("", device)), device)


def is_device(name: str) -> bool:
    """Whether a name in the price table is that of a kind of GPU, rather than of an engine's own price."""
    return _plain(_SLICE.sub("", name)) in _KEYS or name.casefold().startswith(_VENDORS)


class PriceBook:
    """All prices by GPU and name, all exchange rates, and all that is bought.

    Entries of farthing.yaml replace the defaults of the same GPU. ``chosen`` is the name of the price that an engine
    is billed at, by engine; ``claims`` are the engines that have GPUs of a capacity, in their order.

    Raises PriceError when two prices of one GPU and name apply at once, and for capacities and exchange rates that
    contradict themselves.
    """

    def __init__(
        self,
        own: Iterable[GpuPrice] = (),
        defaults: Iterable[GpuPrice] = DEFAULT_PRICES,
        *,
        exchange: ExchangeTable | None = None,
        capacities: Iterable[Capacity] = (),
        claims: Sequence[Claim] = (),
        chosen: Mapping[str, str] | None = None,
    ) -> None:
        own = tuple(own)
        mine = {price.gpu for price in own}
        both = (*own, *(price for price in defaults if price.gpu not in mine))
        self.prices = tuple(sorted(both, key=lambda price: (price.gpu, price.name, price.start_ns)))
        self.exchange = ExchangeTable() if exchange is None else exchange
        self.holdings = hold(capacities, claims, self.exchange)
        self._chosen = dict(chosen or {})
        self._tariffs: dict[tuple[str, int, Decimal, str], Tariff] = {}
        self._held = {engine: tariff for held in self.holdings for engine, tariff in held.engines.items()}
        self._ends: dict[GpuPrice, int | None] = {}
        for (gpu, name), group in groupby(self.prices, key=lambda price: (price.gpu, price.name)):
            self._ends |= _ends(_subject(gpu, name), tuple(group))

    def is_held(self, engine: str) -> bool:
        """Whether an engine has GPUs of a capacity."""
        return engine in self._held

    @property
    def pools(self) -> tuple[Pool, ...]:
        """What is bought and that no engine has."""
        return tuple(pool for held in self.holdings for pool in held.pools)

    def end_ns(self, price: GpuPrice) -> int | None:
        """When a price of this book ends: at its ``end`` or where the next one of its GPU and name begins."""
        return self._ends[price]

    def stretches(self, price: GpuPrice) -> tuple[Stretch, ...]:
        """One GPU's nano-dollars per hour in the ledger's currency, while a price of this book applies."""
        whole = Stretch(price.start_ns, self._ends[price], Fraction(price.nano_per_hour))
        return self.exchange.convert(whole, price.currency or self.exchange.ledger_currency)

    def tariff(self, device: str, count: int, fraction: Decimal = WHOLE, *, engine: str = "") -> Tariff:
        """The tariff of ``count`` GPUs, or of a fraction of each, called ``device`` in the table or by their driver.

        An engine that has GPUs of a capacity gets theirs whatever its device is called; one that chose a price by
        name, that. Raises PriceError when none is known: the work is unpriced, never free.
        """
        if engine in self._held:
            return self._held[engine]
        asked = (device, count, fraction, self._chosen.get(engine, ""))
        if asked not in self._tariffs:
            self._tariffs[asked] = self._tariff(*asked)
        return self._tariffs[asked]

    def chooses(self, engine: str) -> bool:
        """Whether an engine chose a price by its name."""
        return engine in self.choosers

    @property
    def choosers(self) -> tuple[str, ...]:
        """The engines that chose a price by its name, in the order of theirs."""
        return tuple(sorted(engine for engine, name in self._chosen.items() if name))

    def key(self, device: str) -> str:
        """Key of the table for a device's name in it, or by its driver; the name itself when it is not known."""
        return device if any(price.gpu == device for price in self.prices) else canonical_gpu(device)

    def _tariff(self, device: str, count: int, fraction: Decimal, name: str) -> Tariff:
        key = self.key(device)
        of_gpu = [price for price in self.prices if price.gpu == key]
        if not of_gpu:
            known = ", ".join(sorted({price.gpu for price in self.prices}))
            raise PriceError(f"no price for GPU {device!r}; add it under prices: in farthing.yaml (known: {known})")
        found = [price for price in of_gpu if price.name == name]
        if not found:
            known = ", ".join(sorted({repr(price.name) for price in of_gpu}))
            raise PriceError(
                f"no price for {_subject(device, name)}; add one of this name under prices: in farthing.yaml, or set "
                f"engines[].price to a name that is there ({known})"
            )
        fix = "add an entry for that time under prices: in farthing.yaml"
        if any(price.currency not in {"", self.exchange.ledger_currency} for price in found):
            fix += ", or its exchange rate under exchange:"
        times = count * Fraction(fraction)
        rates = Rates(replace(one, rate=one.rate * times) for price in found for one in self.stretches(price))
        return Tariff(key, count, rates, fraction, subject=_subject(key, name), fix=fix)


def _subject(gpu: str, name: str) -> str:
    return f"GPU {gpu!r} (price {name!r})" if name else f"GPU {gpu!r}"


def _ends(subject: str, prices: Sequence[GpuPrice]) -> dict[GpuPrice, int | None]:
    """When each price of one GPU and name ends; PriceError when two apply at once."""
    ends: dict[GpuPrice, int | None] = {}
    for one, two in zip_longest(prices, prices[1:]):
        ends[one] = one.end_ns
        if two is None:
            continue
        if one.start_ns == two.start_ns or (one.end_ns is not None and one.end_ns > two.start_ns):
            raise PriceError(
                f"{subject} has two prices at once: {one.label()} and {two.label()}; let them follow one another, "
                "or give one of them a name:"
            )
        if one.end_ns is None:
            ends[one] = two.start_ns
    return ends
