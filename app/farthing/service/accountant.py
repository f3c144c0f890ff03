"""The accountant: reads the inbox, costs it on event time, posts to the journal, and shows one snapshot.

It owns no thread and no clock: ``advance`` is called when there may be something new. Killed at any moment,
it starts again from the inbox and posts exactly what was not posted yet.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version

from farthing.books.prices import WHOLE, PriceBook
from farthing.books.tariff import Tariff, parse_tariff, splice
from farthing.costing.checks import Evidence
from farthing.costing.stream import Options
from farthing.domain import conventions as c
from farthing.domain.clock import utc
from farthing.domain.devices import IdleGpu
from farthing.domain.errors import LedgerError, PriceError
from farthing.domain.model import Check, EngineGauges, EngineView, IntakeView, Snapshot
from farthing.domain.records import RawRecord, Record, Started, Usage
from farthing.ledger.engine_notes import note_probed, probed_since
from farthing.ledger.repository import Boot, Ledger
from farthing.service.boot_account import BootAccount, Entry, costing_options, kept_options, options_text
from farthing.service.checks import checks_of
from farthing.service.device_billing import BilledLife, lives_of, slots_of
from farthing.service.devices import Devices
from farthing.service.energy_totals import EnergyTotals
from farthing.service.idle_now import unallocated_now
from farthing.service.latency import Latencies
from farthing.service.naming import booked_name
from farthing.service.ordering import BootOrder
from farthing.service.scraped_account import ScrapedAccount
from farthing.service.silence import SILENT_PROCESS, Silence
from farthing.service.totals import Totals
from farthing.service.unit_prices import UnitPrices
from farthing.service.unpriced import UnpricedEngines
from farthing.service.views import EngineBooks, engine_view, tenant_views
from farthing.settings import Settings

__all__ = ["Accountant"]

_log = logging.getLogger(__name__)

Account = BootAccount | ScrapedAccount


class Accountant:
    """Keeps the books of every engine. ``advance`` and ``snapshot`` may be called from different threads.

    ``gauges`` gives the scraper's latest reading by engine, ``intake`` its counts of records. ``clock_ns`` is UTC;
    ``monotonic_ns`` tells how long nothing came of an engine. ``hostname`` is what probes on this machine call it.
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
    ) -> None:
        self.ledger = ledger
        self._settings = settings
        self._prices = prices
        self._clock_ns = clock_ns
        self._gauges = gauges
        self._intake = intake
        self._hostname = socket.gethostname() if hostname is None else hostname
        self._options = costing_options(settings)
        self._silence = Silence(settings.costing, monotonic_ns)
        self.unit_prices = UnitPrices(settings.costing.saturated_requests)
        self._lock = threading.RLock()
        self._last_id = 0
        self._done_id = ledger.last_id()
        """Records of closed boots that arrived later than this are late; the earlier ones are costed."""
        self._orders: dict[str, BootOrder] = {}
        self._accounts: dict[str, Account] = {}
        self._unposted: dict[Account, deque[Entry]] = {}
        self._behind = False
        """There may be something to post."""
        self._unpriced = UnpricedEngines(ledger)
        self._ran_out: dict[str, tuple[Tariff, str]] = {}
        """Engines whose scrapes came to a time without a price: the rest of them waits for one."""
        self._latencies = Latencies(settings.objectives)
        self._totals = Totals.load(ledger)
        self._energy = EnergyTotals(ledger, settings)
        self._boots: dict[str, Boot] = {boot.boot: boot for boot in ledger.boots()}
        self._devices = Devices(ledger, settings)
        self._checks: dict[str, tuple[Check, ...]] = {}
        self._probed_since = probed_since(ledger)
        self._broken: defaultdict[str, list[str]] = defaultdict(list)
        """engine -> its boots that cannot be costed any further."""
        self._begun: set[str] = set()
        """Boots whose start has arrived."""
        self._orphans: Counter[str] = Counter()
        """Records by boot that came out of order without a start: nobody can say what they cost."""

    # ---- writing -------------------------------------------------------------------------------

    def advance(self) -> int:
        """Cost every record that has arrived; returns how many were read.

        Raises LedgerError when the ledger fails; what was costed by then is posted by the next call.
        """
        with self._lock:
            # devices first: a boot that is read next may run on one that only its pod tells of
            read = self._devices.advance()
            if read or self._behind:
                self._post_all()
            while rows := self.ledger.records_after(self._last_id, done_id=self._done_id):
                self._behind = True
                for row_id, raw in rows:
                    self._last_id = row_id
                    if self._is_late(raw):
                        continue
                    self._silence.heard(raw)
                    order = self._order(raw.key.boot)
                    order.add(raw)
                    self._note_read(raw.key.boot, row_id)
                    # one at a time: the books must depend on the order of arrival alone, not on where a read ends
                    for record in order.ready():
                        self._feed(record)
                    if raw.key.boot in self._accounts and not self._accounts[raw.key.boot].read_id:
                        self._accounts[raw.key.boot].read_id = row_id
                read += len(rows)
                self._devices.place()
                self._post_all()
        return read

    def _order(self, boot: str) -> BootOrder:
        if boot not in self._orders:
            self._orders[boot] = BootOrder(self._options_of(boot).grace_ns)
        return self._orders[boot]

    def _options_of(self, boot: str) -> Options:
        """How a boot is costed: one in the books goes on as it began, or its windows would be cut and billed anew."""
        known = self._boots.get(boot)
        return kept_options(known.costing, self._options) if known else self._options

    def _note_read(self, boot: str, row_id: int) -> None:
        account = self._accounts.get(boot)
        if account is None or account.closed or (isinstance(account, ScrapedAccount) and self._probed(account.engine)):
            return
        account.read_id = row_id

    def note_silence(self) -> int:
        """Write down in the inbox which boots have fallen silent, for ``advance`` to read; returns how many."""
        with self._lock:
            noted = []
            for boot, account in self._accounts.items():
                if not isinstance(account, BootAccount):
                    continue
                if account.closed:
                    self._silence.forget(boot)
                elif record := self._silence.record(account, self.ledger.next_sequence):
                    _log.warning("engine %s: nothing comes of boot %s any more: %s", account.engine, boot, record.kind)
                    noted.append(record)
            return self.ledger.add(noted)

    def probed(self, engine: str) -> bool:
        """Whether the engine's probe has ever reported: then its counters are not costed. From any thread."""
        return engine in self._probed_since

    def devices(self) -> dict[str, frozenset[str]]:
        """Engine -> UUIDs of the devices that its open boots run on, where they are known."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for account in self._accounts.values():
            if isinstance(account, BootAccount) and not account.closed:
                found[account.engine] |= account.gpu_uuids
        return {engine: frozenset(uuids) for engine, uuids in found.items() if uuids}

    def idle(self) -> tuple[IdleGpu, ...]:
        """What no open boot has of the GPUs that were read within the last minute, and what that costs now."""
        with self._lock:
            now = self._clock_ns()
            alive = [one for one in dict.fromkeys(self._accounts.values()) if not _is_over(one)]
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
            stays = [stay for stays in self._devices.stays.values() for stay in stays]
            lives = lives_of(billed, stays, {one.tariff.version: one.tariff for one in alive}, self._prices.key)
            there = self._devices.there(now)
            return unallocated_now(there, lives, slots_of(self._prices), self._prices, now)

    def account(self, boot: str) -> Account | None:
        """The account of a boot that is open or was closed by this process."""
        return self._accounts.get(boot)

    def check(self, boot: str, counters: dict[str, int] | None = None) -> tuple[Check, ...]:
        """The checks of a boot's account against the ledger, and against the engine's own counters if given."""
        with self._lock:
            account = self._accounts[boot]
            return checks_of(account.evidence(self._lines(account), counters), account.refused)

    def _is_late(self, raw: RawRecord) -> bool:
        """Whether the boot was closed before this process began; its record is counted and changes nothing."""
        boot = raw.key.boot
        known = self._boots.get(boot)
        if known is None or known.closed_ns is None or boot in self._accounts:
            return False
        self._boots[boot] = replace(known, lost=known.lost + 1)
        self.ledger.post(self._boots[boot], [], [])
        return True

    def _feed(self, record: Record) -> None:
        boot = record.key.boot
        if isinstance(record, Started):
            self._begun.add(boot)
            if boot not in self._accounts:
                self._open(record)
        elif boot not in self._begun and record.key.process != SILENT_PROCESS:
            self._orphans[boot] += 1
        account = self._accounts.get(boot)
        if isinstance(account, ScrapedAccount) and self._probed(account.engine):
            account.closed = True
        elif account is not None:
            try:
                account.feed(record)
            except PriceError as error:
                self._run_out(account, error)
                return
            except Exception:
                # a mistake of ours about one boot; the others' books go on
                _log.exception(
                    "engine %s: a record of boot %s cannot be costed; its books stand still", account.engine, boot
                )
                self._stop_at(account)
                return
            if isinstance(record, Usage) and self._last_id > self._done_id:
                # what an earlier process counted and exported is not counted once more when it is read again
                self._latencies.observe(record, account.started.anchor)

    def _note_unpriced(self, account: Account, reason: str) -> None:
        tariff, boots = account.tariff, self._boots_of(account)
        since = max((self._boots[boot].covered_ns for boot in boots if boot in self._boots), default=0)
        self._unpriced.note(account.engine, account.started, tariff.gpu, tariff.count, reason, since)

    def _run_out(self, account: Account, error: PriceError) -> None:
        """An account has come to a time without a price: what is settled is posted, the rest waits for one."""
        _log.error("engine %s is unpriced from here on: %s; its records are kept", account.engine, error)
        self._note_unpriced(account, str(error))
        if isinstance(account, BootAccount):
            account.unpriced = True
        else:
            self._ran_out[account.engine] = account.tariff, str(error)
        if self._posted(account):
            self._leave(account)

    def _leave(self, account: Account) -> None:
        """Nothing of an account is costed any further."""
        if isinstance(account, BootAccount):
            self._devices.forget(account)
        for boot in self._boots_of(account):
            del self._accounts[boot]

    def _stop_at(self, account: Account) -> None:
        """A record of an account cannot be costed: what was settled before it is posted, and nothing after it.

        So the books do not depend on how many records were read at a time. Raises LedgerError when the ledger fails.
        """
        if isinstance(account, BootAccount):
            try:
                account.give_up()
            except Exception:
                _log.exception("engine %s: what waits for energy cannot be settled either", account.engine)
            if not self._posted(account):
                return
        self._give_up(account)

    def _give_up(self, account: Account) -> None:
        """Nothing of an account is costed any further, and the books say so: its GPUs are not its own from there on."""
        boots = self._boots_of(account)
        self._broken[account.engine] += boots
        known = [self._boots[boot] for boot in boots if boot in self._boots]
        self._leave(account)
        for boot in known if isinstance(account, BootAccount) else ():
            if boot.given_up_ns is None:
                marked = self._boots[boot.boot] = replace(boot, given_up_ns=boot.covered_ns)
                self.ledger.post(marked, [], [])

    def _open(self, started: Started) -> None:
        boot, engine = started.key.boot, self._engine_of(started)
        scraped = boot.startswith(c.SCRAPED_BOOT)
        if scraped and (self._probed(engine) or self._goes_on(boot, engine, started)):
            return
        configured = next((e for e in self._settings.engines if e.name == engine), None)
        gpu = configured.gpu if configured and configured.gpu else started.gpu
        count = configured.gpu_count if configured and configured.gpu else started.gpu_count
        try:
            tariff = self._prices.tariff(gpu, count, configured.gpu_fraction if configured else WHOLE, engine=engine)
            # a boot whose clock lies before the first price has none either
            tariff.nano_per_hour(started.anchor.wall_ns)
            tariff = self._with_booked(boot, tariff)
        except PriceError as error:
            if engine not in self._unpriced:
                _log.error("engine %s is unpriced: %s; its records are kept", engine, error)
            self._unpriced.note(engine, started, gpu, count, str(error), started.anchor.to_wall(started.at_ns))
            return
        self._unpriced.priced(engine)
        if scraped:
            scrapes = ScrapedAccount(started, tariff, engine, options_text(self._options_of(boot)))
            scrapes.gpu_uuids = self._devices.configured(engine)
            self._accounts[boot] = scrapes
            return
        for earlier in self._open_accounts(engine):
            self._end(earlier)
        billed: list[int] = []
        for other in self._accounts.values():
            if isinstance(other, ScrapedAccount) and other.engine == engine:
                other.closed = True
                billed.append(other.watermark_ns)
        if engine not in self._probed_since:
            self._probed_since[engine] = self._last_id
            note_probed(self.ledger, engine, self._last_id)
        if boot in self._boots:
            billed_ns = self._boots[boot].billed_from_ns
        else:
            billed_ns = max([*billed, *self._held_by_others(started, engine)], default=None)
        account = BootAccount(started, tariff, engine, self._options_of(boot), billed_ns=billed_ns)
        self._accounts[boot] = account
        self._devices.open(account, self._boots[boot].gpu_uuids if boot in self._boots else ())

    def _held_by_others(self, started: Started, engine: str) -> Iterator[int]:
        """Until when (UTC) earlier boots are billed for the GPUs of a capacity that a new one has as well.

        An engine has no more of a capacity than it has, however many boots say that they run on it.
        """
        if not self._prices.is_held(engine):
            return
        begin = started.anchor.to_wall(started.at_ns)
        read = {boot: account.row() for boot, account in self._accounts.items() if isinstance(account, BootAccount)}
        for other in (self._boots | read).values():
            if other.engine == engine and other.started_ns <= begin < other.covered_ns:
                yield other.covered_ns

    def _goes_on(self, boot: str, engine: str, started: Started) -> bool:
        """Whether a scraped boot goes on with its engine's account, or waits for a price as that does."""
        for account in self._accounts.values():
            if isinstance(account, ScrapedAccount) and account.engine == engine:
                self._accounts[boot] = account
                return True
        if engine in self._ran_out:
            tariff, reason = self._ran_out[engine]
            self._unpriced.note(engine, started, tariff.gpu, tariff.count, reason, started.at_ns)
            return True
        return False

    def _end(self, account: BootAccount) -> None:
        """Another boot took its engine's place: what is known of it is settled, as far as it has a price."""
        try:
            for record in self._orders[account.started.key.boot].ready(final=True):
                account.feed(record)
            account.end()
        except PriceError as error:
            self._run_out(account, error)

    def _with_booked(self, boot: str, tariff: Tariff) -> Tariff:
        """The tariff of a boot: what is in the books keeps its price, a new one applies to the rest."""
        known = self._boots.get(boot)
        if known is None or known.price_version == tariff.version:
            return tariff
        boots = [boot]
        if boot.startswith(c.SCRAPED_BOOT):
            # all of an engine's scrapes have one account
            boots = [one.boot for one in self._boots.values() if _is_scraped(one) and one.engine == known.engine]
        content = self.ledger.price_content(known.price_version)
        until = max(filter(None, map(self.ledger.posted_until, boots)), default=None)
        if content is None or until is None:
            return tariff
        spliced = splice(parse_tariff(content), until, tariff)
        if spliced.version != known.price_version:
            _log.warning(
                "engine %s: its price is another one now; it applies to boot %s from %s on, what is booked stays",
                known.engine,
                boot,
                f"{utc(until):%Y-%m-%dT%H:%M:%SZ}",
            )
        return spliced

    def _engine_of(self, started: Started) -> str:
        """The name that a boot is booked under; one that is in the books keeps its name whatever the settings say."""
        known = self._boots.get(started.key.boot)
        return known.engine if known else booked_name(started.engine, self._settings.engines, self._hostname)

    def _probed(self, engine: str) -> bool:
        """Whether the engine's probe had reported before the record at hand arrived.

        From then on its counters are not costed, or it would be billed twice. The order of arrival decides, which
        a restart does not change; whether the probe's boot is still open would.
        """
        return self._last_id > self._probed_since.get(engine, self._last_id)

    def _open_accounts(self, engine: str) -> list[BootAccount]:
        """Open accounts of an engine whose probe reports: one at most."""
        accounts = (a for a in self._accounts.values() if isinstance(a, BootAccount))
        return [account for account in accounts if account.engine == engine and not account.ended]

    def _post_all(self) -> None:
        for account in list(dict.fromkeys(self._accounts.values())):
            self._posted(account)
        self._behind = False

    def _posted(self, account: Account) -> bool:
        """Post an account's news; one whose news cannot be posted is given up, for the others' books to go on.

        Raises LedgerError when the ledger fails, which is no account's fault.
        """
        engine, boots = account.engine, ", ".join(self._boots_of(account))
        try:
            self._post(account)
        except LedgerError as error:
            if not error.of_row:
                raise
            _log.error("engine %s: what boot %s cost cannot be posted: %s; its books stand still", engine, boots, error)
        except Exception:
            _log.exception("engine %s: what boot %s cost cannot be posted; its books stand still", engine, boots)
        else:
            return True
        self._unposted.pop(account, None)
        self._give_up(account)
        return False

    def _post(self, account: Account) -> None:
        changed = False
        if isinstance(account, BootAccount):
            order = self._orders[account.started.key.boot]
            account.missing, account.refused = order.missing, order.refused
        unposted = self._unposted.setdefault(account, deque())
        unposted.extend(account.drain())
        while unposted:
            entry = unposted[0]
            news = entry.requests or entry.windows or entry.adjustments
            if news or self._boots.get(entry.boot.boot) != entry.boot:
                posted = self.ledger.post(entry.boot, entry.requests, entry.windows, entry.adjustments)
                self._boots[entry.boot.boot] = entry.boot
                self._totals.add(entry.boot.engine, posted)
                self._energy.add(entry.boot.engine, posted)
                changed = True
            if isinstance(account, BootAccount):
                self.unit_prices.observe(account.started, account.engine, entry.windows)
                self._energy.observe(account.engine, entry.windows)
            unposted.popleft()
        if changed:
            self._checks[account.engine] = checks_of(account.evidence(self._lines(account)), account.refused)

    def _lines(self, account: Account) -> dict[str, int]:
        return self._totals.boot_lines(self._boots_of(account))

    def _boots_of(self, account: Account) -> list[str]:
        return [boot for boot, other in self._accounts.items() if other is account]

    # ---- reading -------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """One consistent picture; every exporter reads from it."""
        with self._lock:
            now = self._clock_ns()
            gauges = self._gauges()
            configured = [engine.name for engine in self._settings.engines]
            booked = (boot.engine for boot in self._boots.values())
            names = dict.fromkeys([*configured, *booked, *self._unpriced, *self._orphans])
            return Snapshot(
                taken_ns=now,
                currency=self._settings.currency,
                version=version("farthing"),
                engines=tuple(
                    engine_view(self._books(name), self._totals, gauges.get(name, EngineGauges()), now)
                    for name in names
                ),
                tenants=tenant_views(self._totals),
                histograms=self._latencies.views(),
                requests=self._latencies.requests(),
                slo_requests=self._latencies.slo_requests(),
                energy=self._energy.view(),
                intake=self._intake(),
            )

    def settled_snapshot(self) -> Snapshot:
        """The picture of what is settled, for a reader beside the service: its bill ends with the last window."""
        snapshot = self.snapshot()
        return replace(snapshot, engines=tuple(self._settled(view) for view in snapshot.engines))

    def _settled(self, view: EngineView) -> EngineView:
        bill = self._totals.windows[view.engine.name]["bill_nano"]
        return replace(view, bill_nano=bill, residual_nano=bill - sum(view.accounts_nano.values()), wip_nano={})

    def _books(self, engine: str) -> EngineBooks:
        accounts = [a for a in dict.fromkeys(self._accounts.values()) if a.engine == engine]
        wip: Counter[str] = Counter()
        for account in accounts:
            wip.update(account.wip())
        boots = tuple(boot for boot in self._boots.values() if boot.engine == engine)
        if not accounts and any(boot.closed_ns is None for boot in boots):
            # a restarted service has not read its records again yet: what is billed and not settled has no phase
            wip[c.UNKNOWN] = sum(boot.bill_nano for boot in boots) - self._totals.windows[engine]["bill_nano"]
        recent, saturated = self.unit_prices.compared(engine)
        return EngineBooks(
            name=engine,
            configured=next((e for e in self._settings.engines if e.name == engine), None),
            boots=boots,
            account=accounts[-1] if accounts else None,
            tariff=self._tariff(accounts, boots),
            wip_nano=dict(wip),
            checks=self._all_checks(engine, boots, wip),
            recent_nano=recent,
            saturated_nano=saturated,
            bounds_nano=self.unit_prices.bounds(engine),
        )

    def _tariff(self, accounts: list[Account], boots: tuple[Boot, ...]) -> Tariff | None:
        if accounts:
            return accounts[-1].tariff
        try:
            return self._prices.tariff(boots[-1].gpu, boots[-1].gpu_count, engine=boots[-1].engine) if boots else None
        except PriceError:
            return None

    def _all_checks(self, engine: str, boots: tuple[Boot, ...], wip: Mapping[str, int]) -> tuple[Check, ...]:
        """The checks of the latest account, and whatever is wrong with the money of all boots together."""
        latest = {check.name: check for check in self._checks.get(engine, ())}
        if boots:
            lines: Counter[str] = Counter()
            for (account, _, _), nano in self._totals.accounts[engine].items():
                lines[account] += nano
            evidence = Evidence(
                bill_nano=sum(boot.bill_nano for boot in boots),
                lines_nano=(*lines.values(), *wip.values()),
                busy_nano=lines[c.CHARGED] + lines[c.ABORTED] + lines[c.UNATTRIBUTED],
                unattributed_nano=lines[c.UNATTRIBUTED],
                lost=sum(boot.lost for boot in boots),
                one_sided=0 if latest else self._totals.one_sided[engine],
            )
            checks = checks_of(evidence, sum(boot.refused for boot in boots))
            latest |= {check.name: check for check in checks if not (check.ok and check.name in latest)}
        if engine in self._unpriced:
            latest[c.CHECK_PRICED] = Check(c.CHECK_PRICED, False, self._unpriced[engine])
        if self._orphans[engine]:
            detail = f"{self._orphans[engine]} records of this boot arrived without its start: it cannot be billed"
            latest[c.CHECK_ARRIVED] = Check(c.CHECK_ARRIVED, False, detail)
        if self._broken[engine]:
            detail = f"boot {self._broken[engine][-1]} cannot be costed any further, see the log; its records are kept"
            latest[c.CHECK_ARRIVED] = Check(c.CHECK_ARRIVED, False, detail)
        return tuple(latest.values())


def _is_over(account: Account) -> bool:
    """Whether nothing of its GPUs is billed to it any longer."""
    return account.ended or account.given_up if isinstance(account, BootAccount) else account.closed


def _is_scraped(boot: Boot) -> bool:
    return boot.boot.startswith(c.SCRAPED_BOOT)
