"""The open books: what each account has settled is posted and counted; one that cannot go on is given up."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import replace

from farthing.books.tariff import Tariff
from farthing.domain.errors import LedgerError, PriceError
from farthing.domain.model import Check
from farthing.domain.records import Record
from farthing.ledger.engine_notes import probed_since
from farthing.ledger.repository import Boot, Entry, Ledger, Posted
from farthing.service.boot_account import BootAccount
from farthing.service.by_engine import ByEngine
from farthing.service.checks import checks_of
from farthing.service.devices import Devices
from farthing.service.energy_totals import EnergyTotals
from farthing.service.ordering import BootOrder
from farthing.service.scraped_account import ScrapedAccount
from farthing.service.totals import Totals
from farthing.service.unit_prices import UnitPrices
from farthing.service.unpriced import UnpricedEngines
from farthing.settings import Settings

__all__ = ["Account", "OpenBooks"]

_log = logging.getLogger(__name__)

POSTED_TOGETHER = 100
"""Accounts whose news share a transaction: intake waits while one is written."""

Account = BootAccount | ScrapedAccount


class OpenBooks:
    """Every boot's account, and the sums of what was posted of them; the accountant's lock is theirs as well."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.ledger = ledger
        self.last_id = 0
        """The record at hand, or that was read last."""
        self.behind = False
        """There may be something to post."""
        self.orders: dict[str, BootOrder] = {}
        self.accounts: ByEngine[Account] = ByEngine()
        """Those that are open or were closed by this process, by boot."""
        self._unposted: dict[Account, deque[Entry]] = {}
        self.unpriced = UnpricedEngines(ledger)
        self.ran_out: dict[str, tuple[Tariff, str]] = {}
        """Engines whose scrapes came to a time without a price: the rest of them waits for one."""
        self.broken: defaultdict[str, list[str]] = defaultdict(list)
        """engine -> its boots that cannot be costed any further."""
        self.orphans: Counter[str] = Counter()
        """Records by boot that came out of order without a start: nobody can say what they cost."""
        self.unit_prices = UnitPrices(settings.costing.saturated_requests)
        self.totals = Totals.load(ledger)
        self.energy = EnergyTotals(ledger, settings)
        self.boots = ByEngine({boot.boot: boot for boot in ledger.boots()})
        """Every boot as the ledger has it."""
        self.devices = Devices(ledger, settings)
        self.probed_since = probed_since(ledger)
        """engine -> the record that its probe was first heard with."""
        self._checks: dict[str, tuple[Check, ...]] = {}
        self._unchecked: dict[str, Account] = {}
        """engine -> its account whose news were posted since it was checked."""

    def know(self, settings: Settings) -> None:
        """Go on with other engines, of which those that have boots are paid for as before."""
        self.energy.know(settings)
        self.devices.know(settings)

    def read_again(self, settings: Settings) -> None:
        """Forget every account, for the inbox to be read from its beginning; what is posted stands.

        Raises LedgerError, and has forgotten nothing, when the ledger is away.
        """
        self.energy, self.devices = EnergyTotals(self.ledger, settings), Devices(self.ledger, settings)
        self.last_id = 0
        for state in (self.orders, self.accounts, self._unposted, self.ran_out, self.broken, self.orphans):
            state.clear()
        self.unpriced.clear()
        self.unit_prices = UnitPrices(settings.costing.saturated_requests)

    def is_probed(self, engine: str) -> bool:
        """Whether the engine's probe had reported before the record at hand arrived.

        From then on its counters are not costed, or it would be billed twice. The order of arrival decides, which
        a restart does not change; whether the probe's boot is still open would.
        """
        return self.last_id > self.probed_since.get(engine, self.last_id)

    def open_accounts(self, engine: str) -> list[BootAccount]:
        """Open accounts of an engine whose probe reports: one at most."""
        return [one for one in self.accounts.of(engine) if isinstance(one, BootAccount) and not one.ended]

    def lines(self, account: Account) -> dict[str, int]:
        """Its settled nano-dollars by account of the journal."""
        return self.totals.boot_lines(self.boots_of(account))

    def boots_of(self, account: Account) -> list[str]:
        """The boots that have this account: one, or all that an engine's scrapes make."""
        return self.accounts.boots_of(account)

    def checks(self, engine: str) -> tuple[Check, ...]:
        """The checks of the engine's latest account, compared anew if news of it were posted since."""
        self._check(engine)
        return self._checks.get(engine, ())

    def _check(self, engine: str) -> None:
        """Compare anew what was posted of an engine's account since it was compared last."""
        account = self._unchecked.pop(engine, None)
        if account is not None and self.boots_of(account):
            self._checks[engine] = checks_of(account.evidence(self.lines(account)), account.refused)

    # ---- accounts that end ---------------------------------------------------------------------

    def end(self, account: BootAccount, feed: Callable[[Record], None]) -> None:
        """Another boot took its engine's place: what is known of it is settled, as far as it has a price.

        ``feed`` takes its records that were held, as it took those whose turn had come.
        """
        boot = account.started.key.boot
        for record in self.orders[boot].ready(final=True):
            feed(record)
            if self.accounts.get(boot) is not account:
                # it has no price any more, or cannot be costed
                return
        try:
            account.end()
        except PriceError as error:
            self.run_out(account, error)
        except Exception:
            # a mistake of ours about this boot; the one that takes its place has books all the same
            _log.exception("engine %s: boot %s cannot be settled to its end", account.engine, boot)
            self.stop_at(account)

    def run_out(self, account: Account, error: PriceError) -> None:
        """An account has come to a time without a price: what is settled is posted, the rest waits for one."""
        _log.error("engine %s is unpriced from here on: %s; its records are kept", account.engine, error)
        self._note_unpriced(account, str(error))
        if isinstance(account, BootAccount):
            account.unpriced = True
        else:
            self.ran_out[account.engine] = account.tariff, str(error)
        if self._posted(account):
            self._leave(account)

    def _note_unpriced(self, account: Account, reason: str) -> None:
        tariff, boots = account.tariff, self.boots_of(account)
        since = max((self.boots[boot].covered_ns for boot in boots if boot in self.boots), default=0)
        self.unpriced.note(account.engine, account.started, tariff.gpu, tariff.count, reason, since)

    def stop_at(self, account: Account) -> None:
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
        boots = self.boots_of(account)
        self.broken[account.engine] += boots
        known = [self.boots[boot] for boot in boots if boot in self.boots]
        self._leave(account)
        for boot in known if isinstance(account, BootAccount) else ():
            if boot.given_up_ns is None:
                marked = self.boots[boot.boot] = replace(boot, given_up_ns=boot.covered_ns)
                self.ledger.post(marked, [], [])

    def _leave(self, account: Account) -> None:
        """Nothing of an account is costed any further."""
        if self._unchecked.get(account.engine) is account:
            self._check(account.engine)
        if isinstance(account, BootAccount):
            self.devices.forget(account)
        for boot in self.boots_of(account):
            del self.accounts[boot]

    # ---- posting -------------------------------------------------------------------------------

    def post_all(self) -> None:
        """Post every account's news, those of many in one transaction."""
        unposted = self._unposted
        waiting = [
            one
            for one in dict.fromkeys(self.accounts.values())
            if not isinstance(one, BootAccount) or one.has_news or unposted.get(one)
        ]
        for begin in range(0, len(waiting), POSTED_TOGETHER):
            some = waiting[begin : begin + POSTED_TOGETHER]
            try:
                written = self._written(some)
            except LedgerError as error:
                if not error.of_row:
                    raise
                written = {}
            except Exception:
                written = {}
            for account in some:
                if account not in written:
                    # only each alone tells whose news it is that cannot be posted
                    self._posted(account)
            for account in [one for one, news in written.items() if not self._booked(one, news)]:
                self._give_up(account)
        self.behind = False

    def _posted(self, account: Account) -> bool:
        """Post an account's news; one whose news cannot be posted is given up, for the others' books to go on.

        Raises LedgerError when the ledger fails, which is no account's fault.
        """
        engine, boots = account.engine, ", ".join(self.boots_of(account))
        try:
            written = self._written([account])
        except LedgerError as error:
            if not error.of_row:
                raise
            _log.error("engine %s: what boot %s cost cannot be posted: %s; its books stand still", engine, boots, error)
        except Exception:
            _log.exception("engine %s: what boot %s cost cannot be posted; its books stand still", engine, boots)
        else:
            if self._booked(account, written[account]):
                return True
        self._unposted.pop(account, None)
        self._give_up(account)
        return False

    def _written(self, accounts: list[Account]) -> dict[Account, list[tuple[Entry, Posted | None]]]:
        """Write the news of some accounts in one transaction; with each what of it was new, or None for no news."""
        boots: dict[str, Boot] = {}
        found: dict[Account, list[Entry]] = {}
        news: list[Entry] = []
        for account in accounts:
            if isinstance(account, BootAccount):
                order = self.orders[account.started.key.boot]
                account.missing, account.refused = order.missing, order.refused
            unposted = self._unposted.setdefault(account, deque())
            unposted.extend(account.drain())
            found[account] = list(unposted)
            for entry in unposted:
                known = boots.get(entry.boot.boot, self.boots.get(entry.boot.boot))
                if entry.requests or entry.windows or entry.adjustments or known != entry.boot:
                    boots[entry.boot.boot] = entry.boot
                    news.append(entry)
        posted = dict(zip(map(id, news), self.ledger.post_each(news) if news else (), strict=True))
        return {account: [(entry, posted.get(id(entry))) for entry in entries] for account, entries in found.items()}

    def _booked(self, account: Account, written: list[tuple[Entry, Posted | None]]) -> bool:
        """Count what was written of an account; False, once that is logged, where it cannot be counted."""
        try:
            for entry, posted in written:
                if posted is not None:
                    self.boots[entry.boot.boot] = entry.boot
                    self.totals.add(entry.boot.engine, posted)
                    self.energy.add(entry.boot.engine, posted)
                    self._unchecked[account.engine] = account
                if isinstance(account, BootAccount):
                    self.unit_prices.observe(account.started, account.engine, entry.windows)
                    self.energy.observe(account.engine, entry.windows)
                self._unposted[account].popleft()
        except Exception:
            engine, boots = account.engine, ", ".join(self.boots_of(account))
            _log.exception("engine %s: what boot %s cost cannot be counted; its books stand still", engine, boots)
            self._unposted.pop(account, None)
            return False
        return True
