"""Closing a period: what was billed, what of it is settled, and what is still work in progress.

For every boot, ``opening work in progress + bill - closing work in progress`` is what its settled windows cost. The
left side is computed from the price and from how far windows reach; the journal is only compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import msgspec

from farthing.books.capacity import Holding
from farthing.books.facts import PeriodFacts
from farthing.books.idle_devices import Slots
from farthing.books.statement import sha256_of
from farthing.books.tariff import Tariff
from farthing.domain.clock import HOUR
from farthing.domain.conventions import DOWN, REASON_NO_BOOT, SHARED
from farthing.domain.errors import PeriodError, PriceError

__all__ = [
    "DAY",
    "DEVICE_SOURCE",
    "Accrual",
    "BilledBoot",
    "ClosedBoot",
    "ClosingDocument",
    "accrue",
    "close_boot",
    "days_of",
    "decode_closing",
    "encode_closing",
    "gaps",
    "priced_spans",
    "with_closing",
]

DAY = 24 * HOUR
DEVICE_SOURCE: Final = "gpu/"
"""No capacity's name has a slash."""


@dataclass(frozen=True, slots=True)
class BilledBoot:
    """A boot, or all boots of an engine that is costed from its counters, as its bill is computed; UTC nanoseconds."""

    name: str
    engine: str
    tariff: Tariff
    started_ns: int
    covered_ns: int
    """Windows reach up to here, settled or not."""
    ended: bool
    """Nothing can come after ``covered_ns``."""
    ranks: int = 1
    billed_from_ns: int | None = None
    costing: str = ""

    def cumulative(self, wall_ns: int) -> int:
        """Nano-dollars of the whole boot up to a moment."""
        start, end = self.started_ns, max(wall_ns, self.started_ns)
        if self.billed_from_ns is not None:
            start, end = max(start, self.billed_from_ns), max(end, self.billed_from_ns)
        return self.tariff.bill(start, end)

    def share(self, rank: int, wall_ns: int) -> int:
        """One rank's equal share of that; the shares add up to it (Hermite's identity)."""
        return (self.cumulative(wall_ns) + rank) // self.ranks


@dataclass(frozen=True, slots=True)
class ClosedBoot:
    """A boot in a closing. Cumulative amounts are since the boot began."""

    name: str
    engine: str
    members: tuple[str, ...]
    """The boots whose records these are; one, unless the engine is costed from its counters."""
    price_version: str
    opening_wip_nano: int
    bill_nano: int
    closing_wip_nano: int
    billed_nano: int
    """Cumulative, through the end of the period or of what is known."""
    settled_nano: int
    """Cumulative, of all posted windows."""
    settled_ns: tuple[int, ...]
    """By rank: UTC nanoseconds up to where its posted windows reach; 0 where nothing is posted."""
    read_id: int
    """The books hold what its records up to this one came to."""
    read_before_id: int
    """The same at the closing before."""
    ended: bool
    """Nothing more of it can come."""
    ended_before: bool
    """So it was at the closing before."""
    final: bool
    """Nothing of it can change any more."""
    ranks: int = 1
    billed_from_ns: int | None = None
    requests: int | None = None
    """How many of its requests the books hold while it is open: not all that were read, where it ran out of a price."""
    requests_before: int | None = None
    """The same at the closing before."""
    settled_before_ns: tuple[int, ...] = ()
    """What ``settled_ns`` was at the closing before."""
    costing: str = ""
    """JSON of the settings that its windows are made with; empty: those of the closing."""
    sha256: str = ""
    """Over its input records up to ``read_id``, in order of arrival."""
    gpu_uuids: tuple[str, ...] = ()
    """Of its devices, which told its energy in records of their own: no amount of money depends on them."""


@dataclass(frozen=True, slots=True)
class Accrual:
    """Cost of what is bought and was no running engine's, of one UTC day."""

    source: str
    """A capacity's name, a shared cost's, or DEVICE_SOURCE and the UUID of a GPU at a price."""
    engine: str
    account: str
    reason: str
    start_ns: int
    end_ns: int
    nano: int
    price_version: str


@dataclass(frozen=True, slots=True)
class ClosingDocument:
    """All that a closing was computed from, beside the input records; immutable."""

    facts: PeriodFacts
    boots: tuple[ClosedBoot, ...]
    accruals: tuple[Accrual, ...]
    engine_tariffs: tuple[tuple[str, str, str], ...] = ()
    """(capacity, engine, content of its tariff) for gaps that late boots fill."""
    device_tariffs: tuple[tuple[str, str, str, str], ...] = ()
    """(GPU, fraction, engine, content of the tariff) of devices that no engine had, for the same."""
    device_names: tuple[tuple[str, str], ...] = ()
    """(name, key of the price table) of GPUs, for the same: a key that is added later changes nothing of it."""
    device_slots: tuple[Slots, ...] = ()
    """GPUs of capacities, which were billed whoever had them."""
    costing: dict[str, int] = field(default_factory=dict)
    """The settings of costing when it was made."""
    settlement_policy: str = ""
    program: str = ""
    """Version of Farthing."""
    signed_by: str = ""
    issued_ns: int = 0
    """UTC nanoseconds of the sign-off."""


def encode_closing(document: ClosingDocument) -> bytes:
    """Canonical bytes."""
    return msgspec.json.encode(document, order="sorted")


def decode_closing(data: bytes) -> ClosingDocument:
    """The document of its canonical bytes; PeriodError when they are none."""
    try:
        return msgspec.json.decode(data, type=ClosingDocument)
    except msgspec.MsgspecError as error:
        raise PeriodError(f"not a closing of this version: {error}") from error


def with_closing(evidence: Mapping[str, str], period: str, document: bytes) -> dict[str, str]:
    """What a statement cites: the records of its period's boots, and the closing by its canonical bytes."""
    return {**evidence, f"closing {period}": sha256_of(document)}


def close_boot(  # noqa: PLR0917 - a boot, the moment, and what was known of it before and is now
    boot: BilledBoot,
    end_ns: int,
    settled_ns: Mapping[int, int],
    before: ClosedBoot | None,
    members: Sequence[str],
    read_id: int,
) -> ClosedBoot:
    """What a boot comes to at the end of a period; ``settled_ns`` is where each rank's posted windows end (UTC).

    Raises PriceError when part of its time has no price.
    """
    posted = before.settled_ns if before else (0,) * boot.ranks
    known = tuple(max(settled_ns.get(rank, 0), posted[rank]) for rank in range(boot.ranks))
    settled = sum(boot.share(rank, reached) for rank, reached in enumerate(known))
    reach = (min(end_ns, max(boot.covered_ns, reached)) for reached in known)
    billed = sum(boot.share(rank, until) for rank, until in enumerate(reach))
    billed_before = before.billed_nano if before else 0
    return ClosedBoot(
        name=boot.name,
        engine=boot.engine,
        members=tuple(members),
        price_version=boot.tariff.version,
        opening_wip_nano=before.closing_wip_nano if before else 0,
        bill_nano=billed - billed_before,
        closing_wip_nano=billed - settled,
        billed_nano=billed,
        settled_nano=settled,
        settled_ns=known,
        read_id=read_id,
        read_before_id=before.read_id if before else 0,
        ended=boot.ended,
        ended_before=before.ended if before else False,
        ranks=boot.ranks,
        billed_from_ns=boot.billed_from_ns,
        requests_before=before.requests if before else None,
        settled_before_ns=posted if before else (),
        costing=boot.costing,
        final=boot.ended and billed == settled and boot.covered_ns <= end_ns,
    )


def days_of(start_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """[start, end) cut at UTC midnights."""
    cuts = [start_ns, *range((start_ns // DAY + 1) * DAY, end_ns, DAY), end_ns]
    return list(pairwise(cuts))


def gaps(start_ns: int, end_ns: int, covered: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of [start, end) no interval covers, in order."""
    found, at = [], start_ns
    for since, until in sorted(covered):
        if since > at:
            found.append((at, min(since, end_ns)))
        at = max(at, until)
        if at >= end_ns:
            return [(a, b) for a, b in found if b > a]
    return [(a, b) for a, b in [*found, (at, end_ns)] if b > a]


def accrue(
    holding: Holding, start_ns: int, end_ns: int, lives: Mapping[str, Sequence[tuple[int, int]]]
) -> tuple[list[Accrual], list[str]]:
    """What of a capacity was no running engine's in [start, end), by day, and what of that has no price.

    ``lives`` are the intervals in which each engine's boots are billed. Raises PeriodError when the parts do not add
    up to the capacity's cost.
    """
    accruals: list[Accrual] = []
    unpriced: list[str] = []
    for pool in holding.pools:
        since, until = max(start_ns, pool.start_ns), end_ns if pool.end_ns is None else min(end_ns, pool.end_ns)
        for a, b in days_of(since, until) if until > since else []:
            try:
                nano = pool.tariff.bill(a, b)
            except PriceError as error:
                unpriced.append(str(error))
                continue
            reason = pool.reason if pool.account != SHARED else f"{holding.name}:{pool.reason}"
            accruals.append(Accrual(holding.name, "", pool.account, reason, a, b, nano, pool.tariff.version))
    for engine, tariff in holding.engines.items():
        for a, b in priced_spans(tariff, start_ns, end_ns):
            for gap in gaps(a, b, lives.get(engine, ())):
                accruals += _down(holding.name, engine, tariff, gap)
    return [accrual for accrual in accruals if accrual.nano], sorted(set(unpriced))


def priced_spans(tariff: Tariff, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """The parts of [start, end) in which a tariff has a price."""
    spans = [(max(start_ns, a), end_ns if b is None else min(end_ns, b)) for a, b in tariff.function.spans]
    return [(a, b) for a, b in spans if b > a]


def _down(capacity: str, engine: str, tariff: Tariff, gap: tuple[int, int]) -> list[Accrual]:
    """An engine's GPUs while no boot of it is alive: paid for, and down."""
    return [
        Accrual(capacity, engine, DOWN, REASON_NO_BOOT, a, b, tariff.bill(a, b), tariff.version)
        for a, b in days_of(*gap)
    ]
