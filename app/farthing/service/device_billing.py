"""GPUs at a price that no engine has, as a closing bills them: from when they were there, and from boots' lives."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farthing.books.closing import DAY, DEVICE_SOURCE, Accrual, ClosingDocument, days_of, priced_spans
from farthing.books.idle_devices import IdleDevice, Life, Slots, Stay, idle_devices, part_of
from farthing.books.prices import PriceBook, is_device
from farthing.books.stays import united
from farthing.books.tariff import Tariff, parse_tariff
from farthing.collectors.wire import decode_line
from farthing.domain import conventions as c
from farthing.domain.errors import PriceError
from farthing.domain.gpu import GPU, MIG
from farthing.domain.records import Started
from farthing.ledger import tables as t
from farthing.ledger.devices import PRESENCE_GAP_NS, Presence, presences, start_of

__all__ = [
    "BilledLife",
    "DeviceBilling",
    "billed_lives",
    "boot_groups",
    "device_names",
    "lives_of",
    "slots_of",
    "unpriced_engine_names",
]

_GPU_UUID: Final = "GPU-"
_Key = tuple[str, str, str]
"""GPU, fraction of it, and the engine that chose its price."""


@dataclass(frozen=True, slots=True)
class BilledLife:
    """A boot while it is billed, or all boots of an engine that is costed from its counters; UTC nanoseconds."""

    engine: str
    start_ns: int
    end_ns: int
    devices: tuple[str, ...]
    """UUIDs as whoever told them did: of GPUs, or of slices."""
    gpu: str
    """As the price table calls what it is billed for."""
    count: int
    price_version: str
    device: str = ""
    """As its driver calls its GPUs; empty: nobody told, or nobody needs to know."""


def boot_groups(connection: Connection) -> dict[str, list[Any]]:
    """Boots by what is billed as one: each for itself, those costed from counters by engine; oldest first."""
    groups: defaultdict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(sa.select(t.boots).order_by(t.boots.c.started_ns, t.boots.c.boot)):
        scraped = row.boot.startswith(c.SCRAPED_BOOT)
        groups[f"{c.SCRAPED_BOOT}{row.engine}" if scraped else row.boot].append(row)
    return groups


def unpriced_engine_names(connection: Connection) -> frozenset[str]:
    """Engines that have come to a time without a price."""
    return frozenset(connection.execute(sa.select(t.unpriced_engines.c.engine)).scalars())


def device_names(connection: Connection, groups: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """What drivers call the GPUs of boots that do not say which they are, by what is billed as one."""
    found = {}
    for name, rows in groups.items():
        if name.startswith(c.SCRAPED_BOOT) or any(json.loads(row.gpu_uuids) for row in rows):
            continue
        line = start_of(connection, name)
        started = None if line is None else decode_line(line)
        if isinstance(started, Started):
            found[name] = started.gpu
    return found


def billed_lives(
    groups: Mapping[str, Sequence[Any]], unpriced: Collection[str], until_ns: int, names: Mapping[str, str]
) -> list[BilledLife]:
    """The lives of boots, from rows of the ledger by what is billed as one; those that go on end at ``until_ns``.

    One that ended does not go on while its energy is awaited, nor does one whose records cannot be costed any further.
    ``names`` are the devices' that ``device_names`` gives.
    """
    latest = {rows[-1].engine: name for name, rows in groups.items() if not name.startswith(c.SCRAPED_BOOT)}
    found = []
    for name, rows in groups.items():
        start, last = min(int(row.started_ns) for row in rows), rows[-1]
        engine = last.engine
        over = all(row.ended_ns is not None or row.given_up_ns is not None for row in rows)
        ended = over or latest.get(engine) != name or engine in unpriced
        end = max(int(row.covered_ns) for row in rows) if ended else until_ns
        devices = sorted({uuid for row in rows for uuid in json.loads(row.gpu_uuids)})
        found.append(
            BilledLife(
                engine=engine,
                start_ns=start,
                end_ns=max(start, end),
                devices=tuple(devices),
                gpu=last.gpu,
                count=int(last.gpu_count),
                price_version=last.price_version,
                device=names.get(name, ""),
            )
        )
    return found


def slots_of(prices: PriceBook) -> tuple[Slots, ...]:
    """GPUs of all capacities, by their terms."""
    return tuple(
        Slots(prices.key(term.gpu), term.gpus, term.start_ns, term.end_ns)
        for holding in prices.holdings
        for term in holding.terms
    )


def lives_of(
    billed: Iterable[BilledLife],
    stays: Iterable[Presence],
    tariffs: Mapping[str, Tariff],
    key: Callable[[str], str],
) -> list[Life]:
    """Lives as devices are billed by: of whole GPUs, a slice as its part of one.

    ``key`` gives the price table's key of a GPU's name. Devices under names that nobody read are counted by number.
    """
    known: dict[str, str] = {}
    kinds: set[str] = set()
    for stay in stays:
        known[stay.uuid] = stay.parent if stay.kind == MIG and stay.parent else stay.uuid
        if stay.kind == GPU:
            kinds.add(key(stay.name))
    found = []
    for one in billed:
        tariff = tariffs.get(one.price_version)
        # a GPU's UUID is the same to everybody who reads it; other names are not, and those nobody read tell nothing
        told = [uuid for uuid in one.devices if uuid in known or uuid.startswith(_GPU_UUID)]
        life = Life(
            engine=one.engine,
            start_ns=one.start_ns,
            end_ns=one.end_ns,
            devices=tuple(known.get(uuid, uuid) for uuid in told),
            gpu=_kind(one, kinds, key),
            count=one.count,
            fraction=Fraction(tariff.fraction) if tariff else Fraction(1),
            # the cost of a capacity is divided over its slots
            held=tariff is not None and '"slots"' in tariff.content,
        )
        found.append(life)
        if told and one.count > len(told):
            # of a boot over several hosts or pods, nobody may tell them all
            found.append(replace(life, devices=(), count=one.count - len(told)))
        elif 0 < one.count < len(told) and not life.held and is_device(key(one.gpu)):
            # of a pod that uses a part of its GPUs, or by the settings: nobody tells which, so each is billed in part;
            # a price of its own may be of a whole node
            found[-1] = replace(life, fraction=life.fraction * Fraction(one.count, len(told)))
    return found


def _kind(life: BilledLife, kinds: Collection[str], key: Callable[[str], str]) -> str:
    """Of which kind a boot's GPUs are; empty where it is billed by a price of its own and nobody told its device."""
    billed = key(life.gpu)
    if life.device and (told := key(life.device)) != billed and (told in kinds or not is_device(billed)):
        return told if told in kinds or is_device(life.device) else ""
    return billed if billed in kinds or is_device(billed) else ""


class DeviceBilling:
    """Accrues what no engine has of GPUs at a price, and corrects it when a boot turns out to have had it."""

    def __init__(self, connection: Connection, prices: PriceBook) -> None:
        self._connection = connection
        self._prices = prices
        self._presences = presences(connection)
        self.slots = slots_of(prices)
        self._used: dict[_Key, Tariff] = {}
        self._names: dict[str, str] = {}
        self._known: dict[str, Tariff] | None = None

    def names(self) -> tuple[tuple[str, str], ...]:
        """(name, key of the price table) of every GPU that was looked up in the table and not in earlier closings."""
        return tuple(sorted(self._names.items()))

    def tariffs(self) -> tuple[tuple[str, str, str, str], ...]:
        """(GPU, fraction, engine, content) of every tariff that was used and is not of an earlier closing."""
        return tuple(sorted((*key, tariff.content) for key, tariff in self._used.items()))

    def accrue(self, billed: Iterable[BilledLife], start_ns: int, end_ns: int) -> tuple[list[Accrual], list[str]]:
        """What no engine has in [start, end), by device and day; and what of that has no price."""
        accruals: list[Accrual] = []
        unpriced: list[str] = []
        stays, lives = self._told(billed, start_ns, end_ns, {})
        self._keep_chosen({stay.gpu for stay in stays}, lives)
        for idle in idle_devices(stays, lives, self.slots, start_ns, end_ns):
            try:
                tariff = self._tariff(idle, ())
                accruals += _accruals(idle, tariff)
                # what of it has no price is named
                tariff.bill(idle.start_ns, idle.end_ns)
            except PriceError as error:
                unpriced.append(f"GPU {idle.uuid}: {error}")
        return [one for one in accruals if one.nano], sorted(set(unpriced))

    def true_up(self, billed: Sequence[BilledLife], before: Sequence[ClosingDocument]) -> list[Accrual]:
        """What closed periods would be billed by all that is known now, less what they were, by day."""
        due: Counter[tuple[str, str, str, str, int]] = Counter()
        versions: dict[tuple[str, str], str] = {}
        for document in before:
            for one in document.accruals:
                if one.source.startswith(DEVICE_SOURCE):
                    due[one.source, one.engine, one.account, one.reason, one.start_ns // DAY] -= one.nano
                    versions[one.source, one.engine] = one.price_version
        # what the first closing came to use, unless a period's own used another
        tariffs = [_tariffs_of(document) for document in before]
        first_names: dict[str, str] = {}
        for document in reversed(before):
            first_names |= dict(document.device_names)
        for number, document in enumerate(before):
            kept = [tariffs[number], *tariffs]
            names = first_names | dict(document.device_names)
            start, end = document.facts.start_ns, document.facts.end_ns
            stays, lives = self._told(billed, start, end, names)
            for idle in idle_devices(stays, lives, document.device_slots, start, end):
                try:
                    accruals = _accruals(idle, self._tariff(idle, kept))
                except PriceError:
                    continue  # it was named when its period was closed
                for one in accruals:
                    due[one.source, one.engine, one.account, one.reason, one.start_ns // DAY] += one.nano
                    versions.setdefault((one.source, one.engine), one.price_version)
        return [
            Accrual(source, engine, account, reason, day * DAY, (day + 1) * DAY, nano, versions[source, engine])
            for (source, engine, account, reason, day), nano in sorted(due.items())
            if nano
        ]

    def _told(
        self, billed: Iterable[BilledLife], start_ns: int, end_ns: int, names: Mapping[str, str]
    ) -> tuple[list[Stay], list[Life]]:
        """The GPUs that were there in [start, end), and who had which; ``names`` are keys that closings kept."""

        def key(name: str) -> str:
            if name not in names:
                self._names[name] = self._prices.key(name)
            return names[name] if name in names else self._names[name]

        stays = [
            Stay(stay.uuid, key(stay.name), stay.first_ns, stay.last_ns) for stay in self._presences if stay.kind == GPU
        ]
        stays = [one for one in united(stays, PRESENCE_GAP_NS) if one.start_ns < end_ns and one.end_ns > start_ns]
        if not stays:
            return [], []
        if self._known is None:
            self._known = _kept_tariffs(self._connection)
        return stays, lives_of(billed, self._presences, self._known, key)

    def _keep_chosen(self, gpus: Collection[str], lives: Iterable[Life]) -> None:
        """Note what engines that chose a price would pay for GPUs that are there: they may turn out to be theirs."""
        parts: defaultdict[str, set[Fraction]] = defaultdict(lambda: {Fraction(1)})
        for life in lives:
            parts[life.engine].add(life.fraction)
        for engine in self._prices.choosers:
            for gpu in sorted(gpus):
                for part in sorted(parts[engine]):
                    with suppress(PriceError):
                        self._now(gpu, part_of(part), engine)

    def _tariff(self, idle: IdleDevice, kept: Sequence[Mapping[_Key, Tariff]]) -> Tariff:
        """The price of a part of a GPU, as closings kept it (the first that did), else as the table has it now.

        A closing that kept none for an engine that chose its price says what the GPU itself cost: later changes of
        prices, or of which one is chosen, move nothing that is closed.
        """
        engine = "" if self._prices.is_held(idle.engine) else idle.engine
        for tariffs in kept:
            for of in dict.fromkeys((engine, "")):
                if (key := (idle.gpu, str(idle.part), of)) in tariffs:
                    return tariffs[key]
        return self._now(idle.gpu, idle.part, engine)

    def _now(self, gpu: str, part: Decimal, engine: str) -> Tariff:
        # an engine that chose no price by name has that of its GPU
        of = engine if self._prices.chooses(engine) else ""
        tariff = self._used[gpu, str(part), of] = self._prices.tariff(gpu, 1, part, engine=engine)
        return tariff


def _tariffs_of(document: ClosingDocument) -> dict[_Key, Tariff]:
    """The prices of devices that a closing was the first to use, or used for its own period."""
    return {
        (gpu, fraction, engine): parse_tariff(content) for gpu, fraction, engine, content in document.device_tariffs
    }


def _kept_tariffs(connection: Connection) -> dict[str, Tariff]:
    """Every tariff that boots were booked at, by version."""
    v, found = t.versions.c, {}
    used = sa.select(t.boots.c.price_version).distinct()
    query = sa.select(v.version, v.content).where(v.kind == "price", v.version.in_(used))
    for version, content in connection.execute(query):
        found[version] = parse_tariff(content)
    return found


def _accruals(idle: IdleDevice, tariff: Tariff) -> list[Accrual]:
    """A device's cost by day, as far as it has a price."""
    source = f"{DEVICE_SOURCE}{idle.uuid}"
    return [
        Accrual(source, idle.engine, idle.account, idle.reason, a, b, tariff.bill(a, b), tariff.version)
        for span in priced_spans(tariff, idle.start_ns, idle.end_ns)
        for a, b in days_of(*span)
    ]
