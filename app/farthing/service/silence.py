"""Boots of which nothing comes any more: a killed engine says no farewell, and its books must not wait for one.

How long nothing came is a matter of the wall, which books must not depend on. So the silence itself goes into the
inbox, as a record in the order of arrival: replaying the inbox gives the same books.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.records import RawRecord, RecordKey
from farthing.service.boot_account import BootAccount
from farthing.settings import CostingSettings

__all__ = ["SILENT_PROCESS", "Silence"]

SILENT_PROCESS = -1
"""The process under which the inbox keeps the silence of a boot: no sender's."""


class Silence:
    """Remembers when each boot was heard of last; ``clock_ns`` is monotonic, so that no step of a clock is a silence.

    A process that has just started has heard of every boot when it first reads its records again.
    """

    def __init__(self, costing: CostingSettings, clock_ns: Callable[[], int]) -> None:
        self._silent_ns = costing.silent_seconds * SECOND
        self._energy_ns = costing.grace_seconds * SECOND
        self._abandoned_ns = costing.abandoned_seconds * SECOND
        self._clock_ns = clock_ns
        self._heard: dict[str, int] = {}

    def heard(self, raw: RawRecord) -> None:
        """Note that something arrived of a boot."""
        if raw.key.process != SILENT_PROCESS:
            self._heard[raw.key.boot] = self._clock_ns()

    def forget(self, boot: str) -> None:
        """Nothing of the boot can change any more."""
        self._heard.pop(boot, None)

    def record(self, account: BootAccount, sequence_of: Callable[[str, int], int]) -> RawRecord | None:
        """What the inbox should hold of an open boot's silence, if it is new; ``sequence_of`` gives a free one."""
        boot = account.started.key.boot
        since = self._clock_ns() - self._heard.setdefault(boot, self._clock_ns())
        if since >= self._abandoned_ns:
            kind = c.INBOX_ABANDONED
        elif account.ended:
            # only its energy is waited for; whoever reads the devices may have died
            kind = c.INBOX_SILENT if since >= self._energy_ns else ""
        elif since >= self._silent_ns and not account.silent:
            kind = c.INBOX_SILENT
        else:
            kind = ""
        if not kind:
            return None
        line = json.dumps({"kind": kind}).encode()
        key = RecordKey(boot, SILENT_PROCESS, sequence_of(boot, SILENT_PROCESS))
        return RawRecord(key, kind, account.stream.watermark_ns, line)
