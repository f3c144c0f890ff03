"""What delivery does to records: duplicates, another order, lateness, loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from farthing.domain.records import Record, event_ns

__all__ = ["Delivery", "perturb"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Records in the order of their arrival, and those that never arrive."""

    records: tuple[Record, ...]
    lost: tuple[Record, ...]


def perturb(
    records: Iterable[Record],
    seed: int,
    *,
    duplicate: float = 0.0,
    reorder_ns: int = 0,
    late: float = 0.0,
    late_ns: int = 0,
    drop: float = 0.0,
    droppable: Callable[[Record], bool] = lambda record: True,
) -> Delivery:
    """Deliver records badly, the same way for the same seed.

    ``duplicate``, ``late`` and ``drop`` are shares of records. Every record is delayed by up to ``reorder_ns``
    (uniform), a late one by ``late_ns`` more, and each copy of a duplicate on its own. Only ``droppable`` ones are
    lost; boots come one after the other only as far as delays let them.
    """
    rng = np.random.default_rng(seed)
    delivered: list[tuple[int, int, Record]] = []
    lost: list[Record] = []
    for place, record in enumerate(records):
        copies = 2 if rng.random() < duplicate else 1
        dropped = rng.random() < drop and droppable(record)
        is_late = rng.random() < late
        if dropped:
            lost.append(record)
            continue
        for _ in range(copies):
            delay = int(rng.integers(0, reorder_ns + 1)) + (late_ns if is_late else 0)
            delivered.append((event_ns(record) + delay, place, record))
    delivered.sort(key=lambda item: item[:2])
    return Delivery(tuple(record for _, _, record in delivered), tuple(lost))
