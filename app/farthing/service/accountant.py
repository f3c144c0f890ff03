"""The accountant: reads the inbox, costs it on event time, posts to the journal, and shows one snapshot.

It owns no thread and no clock: ``advance`` is called when there may be something new. Killed at any moment,
it starts again from the inbox and posts exactly what was not posted yet.

Here records are read. Which account a boot gets is in ``opening``, what is posted of accounts and where they end in
``open_books``, what is shown of an engine in ``engine_books``.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version

from farthing.books.prices import PriceBook
from farthing.domain.clock import Anchor
from farthing.domain.devices import IdleGpu
from farthing.domain.errors import LedgerError, PriceError
from farthing.domain.model import Check, EngineGauges, EngineView, IntakeView, Snapshot
from farthing.domain.records import RawRecord, Record, Started, Usage
from farthing.ledger.engine_notes import unpriced_engines
from farthing.ledger.repository import Ledger
from farthing.service.boot_account import BootAccount
from farthing.service.checks import checks_of
from farthing.service.device_billing import BilledLife, lives_of, slots_of
from farthing.service.engine_books import engine_books
from farthing.service.idle_now import unallocated_now
from farthing.service.known_engines import paid_alike
from farthing.service.latency import Latencies
from farthing.service.open_books import Account, OpenBooks
from farthing.service.opening import Opening
from farthing.service.ordering import BootOrder
from farthing.service.scraped_account import ScrapedAccount
from farthing.service.silence import SILENT_PROCESS, Silence
from farthing.service.unit_prices import UnitPrices
from farthing.service.views import engine_view, tenant_views
from farthing.settings import EngineSettings, Settings

__all__ = ["Accountant"]

_log = logging.getLogger(__name__)


class Accountant:
    """Keeps the books of every engine. ``advance`` and ``snapshot`` may be called from different threads.

    ``gauges`` gives the scraper's latest reading by engine, ``intake`` its counts of records. ``clock_ns`` is UTC;
    ``monotonic_ns`` tells how long nothing came of an engine. ``hostname`` is what probes on this machine call it.
    ``watched`` are the engines that are shown even without books; by default those of the settings. ``ended`` is told
    of each sampled request that no earlier process has told of, priced or not, once what was read with it is posted:
    its record, its boot's clock and its engine.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        prices: PriceBook,
        *,
        clock_ns: Callable[[], int],
        gauges: Callable[[], Mapping[str, EngineGauges]] = dict,
        intake: Callable[[], IntakeView] = IntakeView,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        hostname: str | None = None,
        watched: Callable[[], Iterable[EngineSettings]] | None = None,
        ended: Callable[[Usage, Anchor, str], None] | None = None,
    ) -> None:
        self.ledger = ledger
        self._ended = ended
        self._watched = watched or (lambda: settings.engines)
        self._settings = settings
        self._clock_ns = clock_ns
        self._gauges = gauges
        self._intake = intake
        self._silence = Silence(settings.costing, monotonic_ns)
        self._lock = threading.RLock()
        self._done_id = ledger.last_id()
        """Records of closed boots that arrived later than this are late; the earlier ones are costed."""
        self._books = OpenBooks(ledger, settings)
        host = socket.gethostname() if hostname is None else hostname
        self._opening = Opening(self._books, settings, prices, host, self._feed)
        self._latencies = Latencies(settings.objectives)
        self._start_id = self._done_id
        """What arrived later nobody has told of before."""
        self._read_id = 0
        """Up to here this process has read all records before, and told of their requests."""
        self._told = {
            one.boot: one.read_id if one.given_up_ns is None else self._done_id for one in self._books.boots.values()
        }
        """boot -> the record up to which an earlier process told of its requests, once it had posted them."""
        self._untold: list[Callable[[], None]] = []
        """What is to be told once what was read is posted."""
        self._arrived_with = ""
        """The boot of the record at hand: it may bring out records of another that it takes the place of."""
        self._unbooked = frozenset(engine.engine for engine in unpriced_engines(ledger))
        """Engines without books to go by: what arrived of them before the start counts as told."""
        self._begun: dict[str, Started] = {}
        """Boots whose start has arrived."""
        self._unopened: Started | None = None
        """A start that the ledger failed at: it is taken again before anything else is read."""

    @property
    def unit_prices(self) -> UnitPrices:
        """What a token has cost of late, by engine and by boot."""
        return self._books.unit_prices

    # ---- writing -------------------------------------------------------------------------------

    def advance(self) -> int:
        """Cost every record that has arrived; returns how many were read.

        Raises LedgerError when the ledger fails; what was costed by then is posted by the next call.
        """
        with self._lock:
            books = self._books
            started, self._unopened = self._unopened, None
            if started is not None and started.key.boot not in books.accounts:
                self._open(started)
            # devices first: a boot that is read next may run on one that only its pod tells of
            read = books.devices.advance()
            if read or books.behind:
                self._post()
            while rows := self.ledger.records_after(books.last_id, done_id=self._done_id):
                books.behind = True
                for row_id, raw in rows:
                    books.last_id = row_id
                    if self._is_late(raw):
                        continue
                    self._silence.heard(raw)
                    self._arrived_with = raw.key.boot
                    order = self._order(raw.key.boot)
                    order.add(raw)
                    self._note_read(raw.key.boot, row_id)
                    # one at a time: the books must depend on the order of arrival alone, not on where a read ends
                    for record in order.ready():
                        self._feed(record)
                    if raw.key.boot in books.accounts and not books.accounts[raw.key.boot].read_id:
                        books.accounts[raw.key.boot].read_id = row_id
                read += len(rows)
                books.devices.place()
                self._post()
        return read

    def _post(self) -> None:
        """Post all news, and then tell: what cannot be posted is read again by the next process, which tells of it."""
        self._books.post_all()
        untold, self._untold = self._untold, []
        for tell in untold:
            tell()

    def _order(self, boot: str) -> BootOrder:
        if boot not in self._books.orders:
            self._books.orders[boot] = BootOrder(self._opening.options_of(boot).grace_ns)
        return self._books.orders[boot]

    def _note_read(self, boot: str, row_id: int) -> None:
        account = self._books.accounts.get(boot)
        if isinstance(account, BootAccount):
            account.note_arrival()
        if account is None or account.closed:
            return
        if isinstance(account, ScrapedAccount) and self._books.is_probed(account.engine):
            return
        account.read_id = row_id

    def note_silence(self) -> int:
        """Write down in the inbox which boots have fallen silent, for ``advance`` to read; returns how many."""
        with self._lock:
            noted = []
            for boot, account in self._books.accounts.items():
                if not isinstance(account, BootAccount):
                    continue
                if account.closed:
                    self._silence.forget(boot)
                elif record := self._silence.record(account, self.ledger.next_sequence):
                    _log.warning("engine %s: nothing comes of boot %s any more: %s", account.engine, boot, record.kind)
                    noted.append(record)
            return self.ledger.add(noted)

    def know(self, settings: Settings, prices: PriceBook) -> None:
        """Go on with other engines. Where boots are paid for otherwise now, or have a price at last, all that is open
        is read again as after a restart: what is in the books keeps its price, the rest has the new one.

        Not while ``advance`` runs in another thread.
        """
        with self._lock:
            before, after = self._opening.configured, {engine.name: engine for engine in settings.engines}
            concerned = {account.engine for account in self._books.accounts.values()} | set(self._books.unpriced)
            again = [name for name in sorted(concerned) if not paid_alike(before.get(name), after.get(name))]
            if again:
                read_id = self._books.last_id
                # first: it may find the ledger away
                self._books.read_again(settings)
                # of what an interrupted start has not read, an earlier process has told as before
                self._done_id, self._read_id = max(self._done_id, read_id), max(self._read_id, read_id)
                self._begun.clear()
                self._unopened = None
                _log.info("what engines are paid by has changed (%s); open boots are read again", ", ".join(again))
            else:
                self._books.know(settings)
            self._settings = settings
            self._opening.know(settings, prices)

    def reporting(self) -> frozenset[str]:
        """Names of engines whose probe reports now."""
        return frozenset(
            account.engine
            for account in self._books.accounts.values()
            if isinstance(account, BootAccount) and not account.ended and not account.silent
        )

    def probed(self, engine: str) -> bool:
        """Whether the engine's probe has ever reported: then its counters are not costed. From any thread."""
        return engine in self._books.probed_since

    def devices(self) -> dict[str, frozenset[str]]:
        """Engine -> UUIDs of the devices that its open boots run on, where they are known."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for account in self._books.accounts.values():
            if isinstance(account, BootAccount) and not account.closed:
                found[account.engine] |= account.gpu_uuids
        return {engine: frozenset(uuids) for engine, uuids in found.items() if uuids}

    def idle(self) -> tuple[IdleGpu, ...]:
        """What no open boot has of the GPUs that were read within the last minute, and what that costs now."""
        with self._lock:
            now, prices, devices = self._clock_ns(), self._opening.prices, self._books.devices
            alive = [one for one in dict.fromkeys(self._books.accounts.values()) if not _is_over(one)]
            billed = [
                BilledLife(
                    one.engine,
                    now,
                    now + 1,
                    tuple(sorted(one.gpu_uuids)),
                    one.tariff.gpu,
                    one.tariff.count,
                    one.tariff.version,
                    one.started.gpu if isinstance(one, BootAccount) else "",
                )
                for one in alive
            ]
            stays = [stay for stays in devices.stays.values() for stay in stays]
            lives = lives_of(billed, stays, {one.tariff.version: one.tariff for one in alive}, prices.key)
            return unallocated_now(devices.there(now), lives, slots_of(prices), prices, now)

    def account(self, boot: str) -> Account | None:
        """The account of a boot that is open or was closed by this process."""
        return self._books.accounts.get(boot)

    def check(self, boot: str, counters: dict[str, int] | None = None) -> tuple[Check, ...]:
        """The checks of a boot's account against the ledger, and against the engine's own counters if given."""
        with self._lock:
            account = self._books.accounts[boot]
            return checks_of(account.evidence(self._books.lines(account), counters), account.refused)

    def _is_late(self, raw: RawRecord) -> bool:
        """Whether the boot was closed before this process began; its record is counted and changes nothing."""
        boot = raw.key.boot
        known = self._books.boots.get(boot)
        if known is None or known.closed_ns is None or boot in self._books.accounts:
            return False
        self._books.boots[boot] = replace(known, lost=known.lost + 1)
        self.ledger.post(self._books.boots[boot], [], [])
        return True

    def _feed(self, record: Record) -> None:
        boot = record.key.boot
        if isinstance(record, Started):
            self._begun[boot] = record
            if boot not in self._books.accounts:
                self._open(record)
        elif boot not in self._begun and record.key.process != SILENT_PROCESS:
            self._books.orphans[boot] += 1
        elif isinstance(record, Usage) and record.sampled and self._ended is not None and not self._is_told(boot):
            started = self._begun[boot]
            self._untold.append(partial(self._ended, record, started.anchor, self._opening.engine_of(started)))
        account = self._books.accounts.get(boot)
        if isinstance(account, ScrapedAccount) and self._books.is_probed(account.engine):
            account.closed = True
        elif account is not None:
            try:
                account.feed(record)
            except PriceError as error:
                self._books.run_out(account, error)
                return
            except Exception:
                # a mistake of ours about one boot; the others' books go on
                _log.exception(
                    "engine %s: a record of boot %s cannot be costed; its books stand still", account.engine, boot
                )
                self._books.stop_at(account)
                return
            if isinstance(record, Usage) and not self._is_told(boot):
                # what an earlier process counted and exported is not counted once more when it is read again
                self._untold.append(partial(self._latencies.observe, record, account.started.anchor))

    def _open(self, started: Started) -> None:
        try:
            self._opening.open(started)
        except LedgerError:
            self._unopened = started
            raise

    def _is_told(self, boot: str) -> bool:
        """Whether spans and latencies have the requests that come with the record at hand, of a boot that has begun."""
        at = self._books.last_id
        if not self._read_id < at <= self._start_id:
            return at <= self._read_id
        started = self._begun[boot]
        # one without books may have had no name in the settings either, as long as it had no price
        names = {self._opening.engine_of(started), *(() if boot in self._told else (started.engine,))}
        return bool(names & self._unbooked) or at <= self._told.get(self._arrived_with, 0)

    # ---- reading -------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """One consistent picture; every exporter reads from it."""
        with self._lock:
            books, now = self._books, self._clock_ns()
            gauges = self._gauges()
            configured = [engine.name for engine in self._watched()]
            booked = (boot.engine for boot in books.boots.values())
            names = dict.fromkeys([*configured, *booked, *books.unpriced, *books.orphans])
            return Snapshot(
                taken_ns=now,
                currency=self._settings.currency,
                version=version("farthing"),
                engines=tuple(self._view(name, gauges.get(name, EngineGauges()), now) for name in names),
                tenants=tenant_views(books.totals),
                histograms=self._latencies.views(),
                requests=self._latencies.requests(),
                slo_requests=self._latencies.slo_requests(),
                energy=books.energy.view(),
                intake=self._intake(),
            )

    def _view(self, engine: str, gauges: EngineGauges, now_ns: int) -> EngineView:
        shown = engine_books(self._books, engine, self._opening.configured.get(engine), self._opening.prices)
        return engine_view(shown, self._books.totals, gauges, now_ns)

    def tenant_latencies(self, tenants: Collection[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        """(tenant, metric) -> counts in each bucket of ``latency_bounds``."""
        with self._lock:
            return self._latencies.of_tenants(tenants)

    def latency_bounds(self, metric: str) -> tuple[float, ...]:
        """Upper bounds of a latency's buckets in seconds, without +Inf."""
        return self._latencies.bounds(metric)

    def settled_snapshot(self) -> Snapshot:
        """The picture of what is settled, for a reader beside the service: its bill ends with the last window."""
        snapshot = self.snapshot()
        return replace(snapshot, engines=tuple(self._settled(view) for view in snapshot.engines))

    def _settled(self, view: EngineView) -> EngineView:
        bill = self._books.totals.windows[view.engine.name]["bill_nano"]
        return replace(view, bill_nano=bill, residual_nano=bill - sum(view.accounts_nano.values()), wip_nano={})


def _is_over(account: Account) -> bool:
    """Whether nothing of its GPUs is billed to it any longer."""
    return account.ended or account.given_up if isinstance(account, BootAccount) else account.closed
