"""GPUs that are there and that no engine has: what of their time is billed beside engines, and as what.

A device is billed while it is read, whatever runs on it. What no boot has of it is ``down`` of an engine between two
of its boots, and ``unallocated`` otherwise. Who has a device is told by UUIDs. Where they are not, GPUs are counted: a
capacity has as many of its kind as it says, and so has a boot that does not say which it runs on. A boot of which
nobody knows the kind either has as many of whichever are left.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from farthing.domain.conventions import DOWN, POOL_UNASSIGNED, POOL_UNSOLD_SLICE, REASON_NO_BOOT, UNALLOCATED

__all__ = ["IdleDevice", "Life", "Slots", "Stay", "idle_devices", "part_of"]

WHOLE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Stay:
    """A GPU that was there in [start, end), UTC nanoseconds."""

    uuid: str
    gpu: str
    """Its key of the price table."""
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Life:
    """A boot, or all boots of an engine that is costed from its counters, while it is billed."""

    engine: str
    start_ns: int
    end_ns: int
    devices: tuple[str, ...] = ()
    """UUIDs of whole GPUs, once for each part that it has of one; empty: nobody told."""
    gpu: str = ""
    """Key of the price table of the kind that they are; empty: nobody knows which."""
    count: int = 1
    fraction: Fraction = WHOLE
    """Of each GPU."""
    held: bool = False
    """Its GPUs are of a capacity, which is billed by itself."""


@dataclass(frozen=True, slots=True)
class Slots:
    """GPUs of a capacity over [start, end) (None: no end): all of them are billed, whoever has them."""

    gpu: str
    gpus: int
    start_ns: int
    end_ns: int | None


@dataclass(frozen=True, slots=True)
class IdleDevice:
    """A GPU, or a part of one, that no boot has over [start, end)."""

    uuid: str
    gpu: str
    engine: str
    """Whose boots came before and after; empty: nobody's."""
    account: str
    reason: str
    fraction: Fraction
    start_ns: int
    end_ns: int

    @property
    def part(self) -> Decimal:
        """``fraction`` as prices take it."""
        return part_of(self.fraction)


def part_of(fraction: Fraction) -> Decimal:
    """A fraction of a GPU as prices take it."""
    return Decimal(fraction.numerator) / Decimal(fraction.denominator)


def idle_devices(
    stays: Iterable[Stay], lives: Sequence[Life], slots: Sequence[Slots], start_ns: int, end_ns: int
) -> list[IdleDevice]:
    """What of [start, end) is billed beside engines, by device and time; adjoining parts of one kind are one."""
    by_gpu: defaultdict[str, list[Stay]] = defaultdict(list)
    for stay in stays:
        begin, end = max(stay.start_ns, start_ns), min(stay.end_ns, end_ns)
        if begin < end:
            by_gpu[stay.gpu].append(replace(stay, start_ns=begin, end_ns=end))
    known = _known(lives)
    if any(_unnamed(life, {""}) for life in lives):
        # one kind depends on the others
        everything = [stay for _, there in sorted(by_gpu.items()) for stay in there]
        return _joined(_of_kinds(everything, lives, slots, known)) if everything else []
    found: list[IdleDevice] = []
    for gpu, there in sorted(by_gpu.items()):
        bought = [one for one in slots if one.gpu == gpu]
        if bought or any(_unnamed(life, {gpu}) for life in lives):
            found += _joined(_of_kinds(there, lives, bought, known))
            continue
        # where every GPU is named, none depends on another
        by_uuid: defaultdict[str, list[Stay]] = defaultdict(list)
        for stay in there:
            by_uuid[stay.uuid].append(stay)
        for uuid, own in sorted(by_uuid.items()):
            found += _joined(_of_kinds(own, known.get(uuid, ()), (), known))
    return found


def _known(lives: Sequence[Life]) -> dict[str, list[Life]]:
    """Who had each device, in the order of time."""
    known: defaultdict[str, list[Life]] = defaultdict(list)
    for life in sorted(lives, key=lambda one: (one.start_ns, one.end_ns)):
        for uuid in dict.fromkeys(life.devices):
            known[uuid].append(life)
    return known


def _of_kinds(
    stays: Sequence[Stay], lives: Sequence[Life], slots: Sequence[Slots], known: Mapping[str, list[Life]]
) -> list[IdleDevice]:
    kinds = {stay.gpu for stay in stays} | {""}
    first, last = min(stay.start_ns for stay in stays), max(stay.end_ns for stay in stays)
    there = {stay.uuid for stay in stays}
    concerned = [
        life
        for life in lives
        if life.start_ns < last and life.end_ns > first and (there.intersection(life.devices) or _unnamed(life, kinds))
    ]
    moments = {moment for stay in stays for moment in (stay.start_ns, stay.end_ns)}
    moments |= {moment for life in concerned for moment in (life.start_ns, life.end_ns)}
    moments |= {moment for one in slots for moment in (one.start_ns, one.end_ns) if moment is not None}
    found = []
    for start, end in pairwise(sorted(moment for moment in moments if first <= moment <= last)):
        present = {stay.uuid: stay.gpu for stay in stays if stay.start_ns <= start and stay.end_ns >= end}
        alive = [life for life in concerned if life.start_ns <= start and life.end_ns >= end]
        bought: Counter[str] = Counter()
        for one in slots:
            if one.start_ns <= start and (one.end_ns is None or one.end_ns >= end):
                bought[one.gpu] += one.gpus
        for uuid, free in _free(present, alive, bought, known).items():
            found += _idle(uuid, present[uuid], free, (start, end), known.get(uuid, ()))
    return found


def _unnamed(life: Life, kinds: Container[str]) -> bool:
    """Whether a boot has GPUs of some kinds without saying which."""
    return not life.devices and not life.held and life.gpu in kinds


def _free(
    present: Mapping[str, str], alive: Sequence[Life], bought: Mapping[str, int], known: Mapping[str, list[Life]]
) -> dict[str, Fraction]:
    """What no boot and no capacity has of each GPU that is there."""
    taken: defaultdict[str, Fraction] = defaultdict(Fraction)
    held: set[str] = set()
    unnamed: defaultdict[str, Fraction] = defaultdict(Fraction)
    for life in alive:
        for uuid in life.devices:
            taken[uuid] += life.fraction
        if life.held:
            held.update(life.devices)
        elif not life.devices:
            unnamed[life.gpu] += life.count * life.fraction
    for gpu, count in bought.items():
        unnamed[gpu] += max(0, count - sum(present.get(uuid) == gpu for uuid in held))
    free: dict[str, Fraction] = {}
    # those that no boot ever said it has are the ones that nobody names
    for uuid in sorted(present, key=lambda one: (one in known, one)):
        left = Fraction(0) if uuid in held else max(Fraction(0), 1 - taken[uuid])
        # what is left of its kind is for those of whom the kind is not known
        for kind in (present[uuid], "") if left == WHOLE else ():
            part = min(left, unnamed[kind])
            unnamed[kind] -= part
            left -= part
        if left:
            free[uuid] = left
    return free


def _idle(uuid: str, gpu: str, free: Fraction, span: tuple[int, int], lives: Sequence[Life]) -> list[IdleDevice]:
    """What a device is while no boot has ``free`` of it."""
    start, end = span
    if free < WHOLE:
        return [IdleDevice(uuid, gpu, "", UNALLOCATED, POOL_UNSOLD_SLICE, free, start, end)]
    before = [life for life in lives if life.end_ns <= start]
    after = bisect_left([life.start_ns for life in lives], end)
    if before and after < len(lives):
        last, following = max(before, key=lambda life: life.end_ns), lives[after]
        if last.engine == following.engine and not following.held:
            parts = [IdleDevice(uuid, gpu, last.engine, DOWN, REASON_NO_BOOT, following.fraction, start, end)]
            if rest := WHOLE - following.fraction:
                parts.append(IdleDevice(uuid, gpu, "", UNALLOCATED, POOL_UNSOLD_SLICE, rest, start, end))
            return parts
    return [IdleDevice(uuid, gpu, "", UNALLOCATED, POOL_UNASSIGNED, WHOLE, start, end)]


def _joined(parts: Iterable[IdleDevice]) -> list[IdleDevice]:
    """Parts that adjoin and are of one kind made one."""
    found: list[IdleDevice] = []
    for part in sorted(
        parts, key=lambda one: (one.uuid, one.account, one.engine, one.reason, one.fraction, one.start_ns)
    ):
        last = found[-1] if found else None
        adjoins = last is not None and replace(part, start_ns=last.start_ns, end_ns=last.end_ns) == last
        if last is not None and adjoins and last.end_ns == part.start_ns:
            found[-1] = replace(last, end_ns=part.end_ns)
            continue
        found.append(part)
    return found
