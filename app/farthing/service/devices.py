"""Devices and the boots that run on them: samples become energy of boots, and presence that is billed.

A device belongs to a boot by the UUIDs that its probe tells, else by those of farthing.yaml, else by the pod that
Kubernetes gave the device to at that time. Samples are read beside the boots' own records, and their order is their
time: nothing of money depends on when they come.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Sequence
from fractions import Fraction

from farthing.collectors.wire import decode_device
from farthing.costing.energy import Readings
from farthing.domain.errors import RecordError
from farthing.domain.gpu import GPU, DeviceSamples
from farthing.domain.records import RawRecord
from farthing.ledger.database import transaction
from farthing.ledger.devices import (
    PRESENCE_GAP_NS,
    Presence,
    device_history,
    device_records,
    energy_before,
    extend,
    last_read,
    merged,
    presences,
)
from farthing.ledger.prune_devices import BEFORE_NS
from farthing.ledger.repository import Ledger
from farthing.service.boot_account import BootAccount
from farthing.service.pods import devices_of_boot
from farthing.settings import Settings

__all__ = ["Devices"]

_log = logging.getLogger(__name__)


class Devices:
    """Reads samples as they arrive, keeps when devices are there, and hands energy to the boots that have them."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._uuids: dict[str, tuple[str, ...]] = {}
        self._pods: dict[str, str] = {}
        with transaction(ledger.engine) as connection:
            self._last_id = last_read(connection)
            known = presences(connection)
        self.stays: dict[str, list[Presence]] = {}
        """Every stay of every device, by UUID."""
        for stay in known:
            self.stays.setdefault(stay.uuid, []).append(stay)
        self._accounts: dict[str, list[BootAccount]] = {}
        """By UUID: boots whose energy is not complete."""
        self._by_pod: dict[str, list[BootAccount]] = {}
        """By engine: boots that only a pod tells the devices of, those that ended as well."""
        self._placed: set[BootAccount] = set()
        """Those of them whose pod was found."""
        self._in_pods: dict[str, dict[str, list[Presence]]] = {}
        """By engine and UUID: stays in its pods."""
        self._begun: dict[str, int] = {}
        """By boot: from when on its samples were read."""
        self.know(settings)

    # ---- boots ---------------------------------------------------------------------------------

    def know(self, settings: Settings) -> None:
        """Go on with other engines, of which those that have boots are paid for as before."""
        before = self._pods
        self._uuids = {engine.name: engine.gpu_uuids for engine in settings.engines if engine.gpu_uuids}
        self._pods = {engine.name: engine.pod for engine in settings.engines if engine.pod}
        if self._pods != before:
            self._in_pods = {engine: {} for engine in self._pods}
            for uuid, stays in self.stays.items():
                self._sort(uuid, stays)

    def open(self, account: BootAccount, known: Sequence[str] = ()) -> None:
        """Give a boot the energy that its devices have told already, and more as it comes.

        ``known`` are the devices that the books have it on.
        """
        told = account.started.gpu_uuids or self._uuids.get(account.engine, ())
        if not told and account.engine in self._pods:
            self._by_pod.setdefault(account.engine, []).append(account)
            # the boot before has ended now
            self._place(account.engine)
            if account.gpu_uuids:
                return
        for uuid in sorted({*told, *known}):
            self._assign(account, uuid)

    def configured(self, engine: str) -> tuple[str, ...]:
        """UUIDs of an engine's devices by farthing.yaml."""
        return tuple(sorted(self._uuids.get(engine, ())))

    def forget(self, account: BootAccount) -> None:
        """Nothing of the boot is costed any further."""
        for accounts in self._accounts.values():
            if account in accounts:
                accounts.remove(account)
        self._placed.discard(account)
        if account in (of_pod := self._by_pod.get(account.engine, [])):
            of_pod.remove(account)

    def place(self) -> None:
        """Give boots that only a pod tells the devices of those that are theirs, by all that is known now.

        To be called once their records are read: how long they lived says in which pod they were.
        """
        for engine in self._by_pod:
            self._place(engine)

    def _place(self, engine: str) -> None:
        stays = [one for found in self._in_pods[engine].values() for one in found]
        for account in self._by_pod.get(engine, ()):
            uuids = _of_pod(account, stays)
            if not uuids and account not in self._placed:
                # what the books know of it is all that anybody knows
                continue
            self._placed.add(account)
            for uuid in account.gpu_uuids - uuids:
                account.release_device(uuid)
                if account in self._accounts.get(uuid, []):
                    self._accounts[uuid].remove(account)
            for uuid in sorted(uuids - account.gpu_uuids):
                self._assign(account, uuid)

    def _sort(self, uuid: str, stays: Sequence[Presence]) -> list[str]:
        """Note a device's stays with the engines in whose pods they are; returns those engines."""
        found = []
        for engine, pattern in self._pods.items():
            mine = [one for one in stays if one.pod and fnmatch.fnmatchcase(one.pod, pattern)]
            if mine:
                self._in_pods[engine][uuid] = mine
                found.append(engine)
        return found

    def _assign(self, account: BootAccount, uuid: str) -> None:
        account.gpu_uuids.add(uuid)
        if account.closed:
            return
        self._accounts.setdefault(uuid, []).append(account)
        start_ns = account.started.anchor.to_wall(self._since(account))
        stays = self.stays.get(uuid, ())
        if any(
            one.first_ns <= start_ns + PRESENCE_GAP_NS and start_ns <= one.last_ns + PRESENCE_GAP_NS for one in stays
        ):
            account.expect_device(uuid, account.started.at_ns)
        for raw in device_history(self._ledger, uuid, start_ns - BEFORE_NS):
            # the history of a GPU has its slices' records as well, whose boots begin as its own do
            if (samples := _samples(raw)) and samples.uuid == uuid:
                _feed(account, samples)

    def _since(self, account: BootAccount) -> int:
        """From when on a boot's samples are needed, on its clock: its start, or not long before its books end.

        One that has run for months is read again as far back as its fit of energy looks.
        """
        boot = account.started.key.boot
        if boot not in self._begun:
            options = account.stream.options
            reach_ns = options.horizon * options.window_ns + 2 * options.grace_ns + options.warm_up_ns
            self._begun[boot] = account.started.at_ns
            if before := energy_before(self._ledger, boot, reach_ns):
                self._begun[boot] = before[0]
                account.stream.begin_energy(*before)
        return self._begun[boot]

    # ---- samples -------------------------------------------------------------------------------

    def advance(self) -> int:
        """Read every record of samples that has arrived; returns how many. Raises LedgerError when the ledger fails."""
        read, through_id = 0, self._ledger.last_id()
        while rows := device_records(self._ledger, self._last_id, through_id):
            samples = [(row_id, found) for row_id, raw in rows if (found := _samples(raw))]
            seen = [stay for row_id, one in samples for stay in _stays(one, row_id)]
            moved: set[str] = set()
            for uuid, stays in extend(self._ledger, seen).items():
                self.stays[uuid] = merged([*self.stays.get(uuid, ()), *stays])
                moved.update(self._sort(uuid, self.stays[uuid]))
            for engine in sorted(moved):
                self._place(engine)
            for _, one in samples:
                self._take(one)
            self._last_id = rows[-1][0]
            read += len(rows)
        # what lies before holds none of them, and is not looked through again
        self._last_id = max(self._last_id, through_id)
        return read

    def _take(self, samples: DeviceSamples) -> None:
        accounts = self._accounts.get(samples.uuid, [])
        for account in accounts:
            _feed(account, samples)
        if any(account.closed for account in accounts):
            self._accounts[samples.uuid] = [account for account in accounts if not account.closed]

    # ---- what is there now ---------------------------------------------------------------------

    def there(self, now_ns: int) -> Iterable[Presence]:
        """The devices that were read within the last minute before a UTC moment."""
        for stays in self.stays.values():
            # a sample of the future says nothing of now
            begun = [one for one in stays if one.first_ns <= now_ns + PRESENCE_GAP_NS]
            last = max(begun, key=lambda one: one.last_ns, default=None)
            if last is not None and last.last_ns >= now_ns - PRESENCE_GAP_NS:
                yield last


def _of_pod(account: BootAccount, stays: Sequence[Presence]) -> frozenset[str]:
    """What a boot has of the devices in its engine's pods; the pod of one that goes on may be seen later."""
    to_wall, stopped_ns = account.started.anchor.to_wall, account.stream.stopped_ns
    start_ns = to_wall(account.started.at_ns)
    if account.ended and stopped_ns is not None:
        return devices_of_boot(start_ns, to_wall(stopped_ns), stays)
    so_far = max(start_ns, to_wall(account.stream.watermark_ns))
    return devices_of_boot(start_ns, so_far, stays) or devices_of_boot(start_ns, None, stays)


def _samples(raw: RawRecord) -> DeviceSamples | None:
    """A record's samples; None, and a line in the log, for one that this version cannot read: the others go on."""
    try:
        return decode_device(raw.line)
    except RecordError as error:
        _log.error("samples of %s cannot be read and are left out: %s", raw.key.boot, error)
        return None


def _feed(account: BootAccount, samples: DeviceSamples) -> None:
    start_ns = account.started.anchor.to_wall(account.started.at_ns)
    if account.closed or samples.at_ns[-1] < start_ns - BEFORE_NS:
        return
    to_mono = account.started.anchor.to_mono
    share = Fraction(account.tariff.fraction) if samples.kind == GPU else Fraction(1)
    account.feed_device(
        Readings(
            device=samples.uuid,
            run=samples.key.boot,
            method=samples.method,
            at_ns=tuple(map(to_mono, samples.at_ns)),
            energy_mj=samples.energy_mj,
            share=share,
        )
    )


def _stays(samples: DeviceSamples, row_id: int) -> list[Presence]:
    """When a record says that its device was there; more than once where it was gone for a while in between."""
    runs: list[list[int]] = []
    for at in samples.at_ns:
        if runs and at - runs[-1][-1] <= PRESENCE_GAP_NS:
            runs[-1].append(at)
        else:
            runs.append([at])
    return [
        Presence(
            uuid=samples.uuid,
            first_ns=run[0],
            last_ns=run[-1],
            host=samples.host,
            name=samples.name,
            kind=samples.kind,
            parent=samples.parent,
            pod=samples.pod,
            read_id=row_id,
        )
        for run in runs
    ]
