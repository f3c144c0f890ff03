"""What GPUs that no engine has cost at this moment, told as a closing will bill them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from farthing.books.idle_devices import Life, Slots, Stay, idle_devices
from farthing.books.prices import PriceBook
from farthing.domain.devices import IdleGpu
from farthing.domain.errors import PriceError
from farthing.domain.gpu import GPU
from farthing.ledger.devices import Presence

__all__ = ["unallocated_now"]


def unallocated_now(
    there: Iterable[Presence], lives: Sequence[Life], slots: Sequence[Slots], prices: PriceBook, now_ns: int
) -> tuple[IdleGpu, ...]:
    """What no boot has of the GPUs that are there, on any host; one without a price is left out.

    ``lives`` are the boots that are alive at ``now_ns`` (UTC). One that names no GPU has as many of its kind as it is
    billed for; so has a capacity (``slots``).
    """
    whole = {one.uuid: one for one in there if one.kind == GPU}
    stays = [Stay(one.uuid, prices.key(one.name), now_ns, now_ns + 1) for one in whole.values()]
    found: dict[str, int] = {}
    for idle in idle_devices(stays, lives, slots, now_ns, now_ns + 1):
        try:
            nano = prices.tariff(idle.gpu, 1, idle.part).nano_per_hour(now_ns)
        except PriceError:
            continue
        found[idle.uuid] = found.get(idle.uuid, 0) + nano
    return tuple(IdleGpu(uuid, whole[uuid].host, whole[uuid].name, nano) for uuid, nano in sorted(found.items()))
