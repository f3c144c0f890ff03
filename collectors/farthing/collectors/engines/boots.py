"""An engine's readings as records of its boots, wherever they were read: from itself or from a Prometheus.

A boot is told from the next by the start of the engine's process and its model, or by a counter that fell.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from farthing.collectors.engines.catalogue import Reading
from farthing.costing.scraped import counters_fell
from farthing.domain.clock import SECOND, Anchor
from farthing.domain.conventions import (
    SIGNAL_GENERATION,
    SIGNAL_KV,
    SIGNAL_PROMPT,
    SIGNAL_RUNNING,
    SIGNAL_WAITING,
    UNKNOWN,
)
from farthing.domain.errors import ExpositionError, FarthingError
from farthing.domain.model import EngineGauges
from farthing.domain.records import Counters, Lifecycle, RecordKey, Started
from farthing.vocabulary.catalogue import Catalogue

__all__ = ["DOWN_AFTER_NS", "DOWN_EVERY_NS", "MAX_NAMES", "BootRecords", "ScrapeOutcome"]

DOWN_AFTER_NS = 300 * SECOND
"""How long an engine must not answer before an outage settles as down: longer than most models take to load,
so that the start which ends an outage can still be told from it."""
DOWN_EVERY_NS = 60 * SECOND
"""How often a lasting outage is recorded."""
MAX_NAMES = 80
"""Characters of an engine's name and its model together that a boot has room for."""
_RESET = re.compile(r"#(\d+)$")


@dataclass(frozen=True, slots=True)
class ScrapeOutcome:
    """What one scrape gave: records for the journal and gauges to show, or why it failed."""

    engine: str
    at_ns: int
    """UTC nanoseconds: when the exposition arrived, or when the scrape had failed."""
    started: Started | None
    """The boot, when it is a new one; its times are UTC nanoseconds of Farthing's own clock."""
    counters: Counters | None
    down: Lifecycle | None
    """In a lasting outage: until when the engine was certainly down."""
    gauges: EngineGauges
    degraded: tuple[str, ...] = ()
    """What this engine's exposition leaves unknown, a sentence each."""
    error: FarthingError | None = None

    @property
    def records(self) -> list[Started | Counters | Lifecycle]:
        """What belongs in the journal, in order."""
        return [record for record in (self.started, self.counters, self.down) if record is not None]


class BootRecords:
    """Numbers one engine's records and tells its boots apart; it reads no clock.

    ``resume`` is the last ``Counters`` of this engine in the journal, if any: with it a restarted Farthing goes on
    with the same boot and sequence. ``next_sequence`` gives the first sequence that the journal has not of a boot: a
    name that went to another process may come back to the first, whose records of before must not swallow those to
    come. All times are of one clock, whoever's it is.
    """

    def __init__(
        self,
        name: str,
        catalogue: Catalogue,
        *,
        gpu: str = "",
        gpu_count: int = 1,
        resume: Counters | None = None,
        next_sequence: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self.name = name
        self.failures = 0
        """Readings that failed since this was made."""
        self._catalogue = catalogue
        self._gpu = gpu
        self._gpu_count = gpu_count
        self._next_sequence = next_sequence
        self._last = resume
        self._sequence = resume.key.sequence + 1 if resume else 0
        self._ended: set[str] = set()
        self._failing_since: int | None = None
        self._down_ns = 0

    @property
    def last(self) -> Counters | None:
        """What was taken last."""
        return self._last

    def is_new(self, boot: str) -> bool:
        """Whether taking a reading of this boot begins it."""
        return self._last is None or self._last.key.boot != boot

    def boot_of(self, reading: Reading, at_ns: int, where: str) -> str:
        """The boot that a reading is of: NAME/MODEL/START, with #n after the n-th reset without a new start.

        A long model, the path of a folder perhaps, is named by its hash: a boot has 128 characters. Raises
        ExpositionError, which calls the source ``where``, when a process answers that had ended.
        """
        model = reading.model or UNKNOWN
        if len(self.name) + len(model) > MAX_NAMES:
            model = hashlib.sha256(model.encode()).hexdigest()[:16]
        prefix = f"{self.name}/{model}/"
        identity = f"{prefix}{reading.start_ns}" if reading.start_ns is not None else ""
        if self._last is None:
            return identity or f"{prefix}seen-{at_ns}"
        boot = self._last.key.boot
        known = _RESET.sub("", boot)
        if identity in self._ended:
            # a process that has ended cannot answer again
            raise ExpositionError(
                f"{where} answers for more than one engine in turn, like a load balancer; "
                "give every engine its own entry and URL in engines"
            )
        if (identity and identity != known) or not boot.startswith(prefix):
            self._ended.add(known)
            return identity or f"{prefix}seen-{at_ns}"
        if counters_fell(self._last.values, reading.values):
            resets = _RESET.search(boot)
            return f"{known}#{int(resets[1]) + 1 if resets else 1}"
        return boot

    def taken(
        self,
        boot: str,
        reading: Reading,
        at_ns: int,
        version: str = "",
        *,
        notes: Mapping[str, float] | None = None,
        device: tuple[str, int] | None = None,
    ) -> ScrapeOutcome:
        """A reading of a boot, taken.

        ``version`` is the engine's and ``device`` its GPU and how many, told where the boot begins; ``notes`` go
        among its gauges.
        """
        started = self._begin(boot, reading, at_ns, version, device) if self.is_new(boot) else None
        gauges = {**reading.gauges, **(notes or {})}
        counters = Counters(RecordKey(boot, 0, self._next()), at_ns, reading.values, gauges)
        shown = _gauges(self._last, counters, self.failures)
        self._last, self._failing_since = counters, None
        return ScrapeOutcome(self.name, at_ns, started, counters, down=None, gauges=shown, degraded=reading.degraded)

    def failed(self, now_ns: int, error: FarthingError) -> ScrapeOutcome:
        """A reading that was not to be had; an outage that lasts is recorded."""
        self.failures += 1
        self._failing_since = self._failing_since or now_ns
        until = now_ns - DOWN_AFTER_NS
        down = None
        if self._last and until >= self._failing_since and until - self._down_ns >= DOWN_EVERY_NS:
            self._down_ns = until
            down = Lifecycle(RecordKey(self._last.key.boot, 0, self._next()), until, "down")
        gauges = EngineGauges(scrape_up=False, scrape_failures=self.failures)
        return ScrapeOutcome(self.name, now_ns, None, None, down=down, gauges=gauges, error=error)

    # ---- inside ------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _begin(
        self, boot: str, reading: Reading, at_ns: int, version: str, device: tuple[str, int] | None
    ) -> Started | None:
        """The record of a boot's begin; None where the journal has it."""
        self._sequence = self._next_sequence(boot)
        if self._sequence:
            return None
        gpu, gpu_count = device or (self._gpu, self._gpu_count)
        # an engine that had to be waited for was already billed while it started
        waited = self._failing_since if self._last is None else None
        return Started(
            key=RecordKey(boot, 0, self._next()),
            at_ns=min(at_ns, waited or at_ns),
            anchor=Anchor(0, 0),
            engine=self.name,
            kind=self._catalogue.engine,
            version=version,
            model=reading.model or UNKNOWN,
            gpu=gpu,
            gpu_count=gpu_count,
        )


def _gauges(before: Counters | None, after: Counters, failures: int) -> EngineGauges:
    return EngineGauges(
        running=after.gauges.get(SIGNAL_RUNNING),
        waiting=after.gauges.get(SIGNAL_WAITING),
        kv_usage=after.gauges.get(SIGNAL_KV),
        generation_tokens_per_second=_rate(before, after, SIGNAL_GENERATION),
        prompt_tokens_per_second=_rate(before, after, SIGNAL_PROMPT),
        scrape_up=True,
        scrape_failures=failures,
    )


def _rate(before: Counters | None, after: Counters, signal: str) -> float | None:
    """Per second between two scrapes of one boot; None when there are no two."""
    if before is None or before.key.boot != after.key.boot or after.at_ns <= before.at_ns:
        return None
    if signal not in before.values or signal not in after.values:
        return None
    return (after.values[signal] - before.values[signal]) * SECOND / (after.at_ns - before.at_ns)
