"""The account of an engine without the probe: one coster over all its boots, on the scraper's clock."""

from __future__ import annotations

from collections.abc import Mapping

from farthing.books.prices import Tariff
from farthing.costing.checks import Evidence
from farthing.costing.scraped import ROOFLINE_FIT, ScrapedCoster
from farthing.domain import conventions as c
from farthing.domain.clock import Anchor
from farthing.domain.model import Fit, SettledWindow
from farthing.domain.records import Counters, Lifecycle, Record, Started
from farthing.ledger.repository import Boot, Entry

__all__ = ["ScrapedAccount"]

_WALL = Anchor(0, 0)
"""Scrapes are timed by the scraper's UTC clock: monotonic and wall readings are one."""


class ScrapedAccount:
    """Feeds one engine's scrapes through costing; its records' times are UTC nanoseconds."""

    energy_mj: int | None = None
    refused = 0
    """The scraper's own records are never wrong."""

    def __init__(self, started: Started, tariff: Tariff, engine: str, costing: str = "") -> None:
        """``costing`` is what the books keep of the settings that its records are put in order with."""
        self.started = started
        self.tariff = tariff
        self.engine = engine
        self._costing = costing
        self.closed = False
        """The engine's probe reports now: scrapes are not costed any more."""
        self.state = "ready"
        self.read_id = 0
        self.gpu_uuids: tuple[str, ...] = ()
        """Of its devices, as settings tell."""
        self.running: int | None = None
        self.waiting: int | None = None
        self._coster = ScrapedCoster(started.key.boot, tariff.bill, started.model)
        self._first_ns: int | None = None
        self._boots: dict[str, Started] = {}
        self._windows: list[SettledWindow] = []
        self._told: set[str] = set()
        """Boots that the books know."""

    def feed(self, record: Record) -> None:
        """Take the next record in the order of its time."""
        if self.closed or not isinstance(record, Started | Lifecycle | Counters):
            return
        if isinstance(record, Started):
            self._boots[record.key.boot] = record
        if self._first_ns is None:
            self._first_ns = record.at_ns
        if isinstance(record, Lifecycle):
            self.state = record.event
        elif isinstance(record, Counters):
            self.state = "ready"
        self._windows += self._coster.feed(record)

    def drain(self) -> list[Entry]:
        """What is to be posted since the last call, by boot; the engine's whole bill stands at its first boot.

        A boot is told of even before it has a window: its first record settles one of the boot before it.
        """
        entries = []
        for number, (boot, started) in enumerate(self._boots.items()):
            windows = tuple(window for window in self._windows if window.boot == boot)
            if windows or number == 0 or boot not in self._told:
                self._told.add(boot)
                entries.append(Entry(self._row(started, self.bill_nano if number == 0 else 0), (), windows))
        self._windows.clear()
        return entries

    @property
    def bill_nano(self) -> int:
        """Allocation x price from the first scrape to the last, without looking at windows."""
        settled = self._coster.settled_ns
        if self._first_ns is None or settled is None:
            return 0
        return self.tariff.bill(self._first_ns, settled)

    @property
    def watermark_ns(self) -> int:
        """UTC nanoseconds up to where the books reach."""
        return self._coster.settled_ns or self.started.at_ns

    def wip(self) -> dict[str, int]:
        """Nothing: a scrape settles the interval before it."""
        return {}

    def fit(self) -> Fit | None:
        """The assumed split."""
        return ROOFLINE_FIT

    def evidence(self, lines: Mapping[str, int], counters: dict[str, int] | None = None) -> Evidence:
        """What the checks compare; ``lines`` are settled nano-dollars by account, from the ledger."""
        busy = sum(lines.get(account, 0) for account in (c.CHARGED, c.UNATTRIBUTED))
        return Evidence(
            bill_nano=self.bill_nano,
            lines_nano=tuple(lines.values()),
            busy_nano=busy,
            unattributed_nano=lines.get(c.UNATTRIBUTED, 0),
            counters=counters,
        )

    def _row(self, started: Started, bill_nano: int) -> Boot:
        return Boot(
            boot=started.key.boot,
            engine=self.engine,
            kind=started.kind,
            model=started.model,
            gpu=self.tariff.gpu,
            gpu_count=self.tariff.count,
            price_version=self.tariff.version,
            anchor=_WALL,
            started_ns=started.at_ns,
            bill_nano=bill_nano,
            covered_ns=self.watermark_ns,
            read_id=self.read_id,
            price_content=self.tariff.content,
            costing=self._costing,
            gpu_uuids=self.gpu_uuids,
        )
