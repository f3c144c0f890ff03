"""What farthing.yaml says that GPUs cost, as the book of prices that costing reads."""

from __future__ import annotations

from datetime import date
from fractions import Fraction

from farthing.books.capacity import Capacity, Claim, running_energy
from farthing.books.exchange import ExchangeRate, ExchangeTable
from farthing.books.moments import add_months
from farthing.books.prices import GpuPrice, PriceBook
from farthing.domain.money import to_nano
from farthing.settings import CapacitySettings, OwnedSettings, Settings

__all__ = ["price_book"]


def price_book(settings: Settings) -> PriceBook:
    """All prices: farthing.yaml's entries over the defaults, its capacity and its exchange rates.

    Raises PriceError where they contradict one another.
    """
    own = (
        GpuPrice(p.gpu, to_nano(p.usd_per_hour), p.start, p.source, p.end, p.kind, p.name, p.currency)
        for p in settings.prices
    )
    rates = (ExchangeRate(e.currency, e.rate, e.start, e.source) for e in settings.exchange)
    return PriceBook(
        own,
        exchange=ExchangeTable(rates, settings.currency),
        capacities=[_capacity(entry, settings.currency) for entry in settings.capacity],
        claims=[Claim(e.name, e.capacity, e.gpu_count, e.gpu_fraction) for e in settings.engines if e.capacity],
        chosen={engine.name: engine.price for engine in settings.engines if engine.price},
    )


def _capacity(entry: CapacitySettings, ledger_currency: str) -> Capacity:
    running = Fraction(to_nano(entry.usd_per_hour or 0) + entry.gpus * to_nano(entry.usd_per_gpu_hour or 0))
    amortised = to_nano(entry.usd_upfront or 0)
    until: date | None = entry.end
    end: date | None = entry.end
    if entry.owned is not None:
        running += _running(entry.owned)
        amortised = to_nano(entry.owned.capex_usd - entry.owned.residual_usd)
        if entry.owned.lifetime_months is not None:
            until = add_months(entry.start, entry.owned.lifetime_months)
            end = entry.end or until
    return Capacity(
        name=entry.name,
        gpu=entry.gpu,
        gpus=entry.gpus,
        kind=entry.kind,
        start=entry.start,
        end=end,
        running=running,
        amortised_nano=amortised,
        amortised_until=until,
        host_share=entry.host_share,
        currency=entry.currency or ledger_currency,
        source=entry.source,
    )


def _running(owned: OwnedSettings) -> Fraction:
    """Nanos of the entry's currency per hour of the equipment's electricity and of the place where it stands."""
    return running_energy(owned.power_watts, owned.pue, to_nano(owned.usd_per_kwh)) + to_nano(owned.usd_per_hour)
