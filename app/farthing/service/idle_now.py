"""What GPUs that no engine has cost at this moment, told as a closing will bill them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

from farthing.books.idle_devices import Life, Slots, Stay, idle_devices
from farthing.books.prices import PriceBook
from farthing.domain.conventions import UNALLOCATED
from farthing.domain.devices import DevicesView
from farthing.domain.errors import PriceError
from farthing.domain.gpu import GPU
from farthing.domain.model import Engine
from farthing.settings import EngineSettings

__all__ = ["unallocated_now"]


def unallocated_now(
    view: DevicesView,
    engines: Sequence[Engine],
    settings: Sequence[EngineSettings],
    prices: PriceBook,
    slots: Sequence[Slots] = (),
) -> dict[str, int]:
    """Device UUID -> nano-dollars per hour of what no engine has of it; a GPU without a price is left out.

    An engine whose devices nobody tells has as many of its kind as it is billed for; so has a capacity (``slots``).
    """
    now_ns = view.taken_ns
    parents = {one.reading.uuid: one.reading.parent for one in view.devices if one.reading.parent}
    whole = [one.reading for one in view.devices if one.reading.kind == GPU]
    stays = [Stay(one.uuid, prices.key(one.name), now_ns, now_ns + 1) for one in whole]
    lives = [_life(engine, view, parents, _fraction(engine.name, settings), prices) for engine in engines]
    found: dict[str, int] = {}
    for idle in idle_devices(stays, lives, slots, now_ns, now_ns + 1):
        if idle.account != UNALLOCATED:
            continue
        fraction = Decimal(idle.fraction.numerator) / Decimal(idle.fraction.denominator)
        try:
            nano = prices.tariff(idle.gpu, 1, fraction).nano_per_hour(now_ns)
        except PriceError:
            continue
        found[idle.uuid] = found.get(idle.uuid, 0) + nano
    return found


def _life(engine: Engine, view: DevicesView, parents: Mapping[str, str], fraction: Fraction, prices: PriceBook) -> Life:
    devices = tuple(parents.get(uuid, uuid) for uuid, names in view.engines.items() if engine.name in names)
    return Life(
        engine.name,
        view.taken_ns,
        view.taken_ns + 1,
        devices=devices,
        gpu=prices.key(engine.gpu) if engine.gpu else "",
        count=engine.gpu_count,
        fraction=fraction,
        held=prices.is_held(engine.name),
    )


def _fraction(engine: str, settings: Sequence[EngineSettings]) -> Fraction:
    return next((Fraction(one.gpu_fraction) for one in settings if one.name == engine), Fraction(1))
