"""What a boot that begins is booked as: under which name, at which price, and from when on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from farthing.books.prices import WHOLE, PriceBook
from farthing.books.tariff import Tariff, parse_tariff, splice
from farthing.costing.stream import Options
from farthing.domain import conventions as c
from farthing.domain.clock import utc
from farthing.domain.errors import PriceError
from farthing.domain.records import Record, Started
from farthing.ledger.engine_notes import note_probed
from farthing.ledger.repository import Boot
from farthing.service.boot_account import BootAccount, costing_options, kept_options, options_text
from farthing.service.naming import booked_name
from farthing.service.open_books import OpenBooks
from farthing.service.scraped_account import ScrapedAccount
from farthing.settings import EngineSettings, Settings
from farthing.settings_fleet import FleetGpuSettings, gpu_in_fleet

__all__ = ["Opening"]

_log = logging.getLogger(__name__)


class Opening:
    """Opens accounts in the books, by the settings and prices that hold now.

    ``hostname`` is what probes on this machine call it; ``feed`` takes the records that a boot which ends has left. How
    windows are cut is that of the settings it began with.
    """

    def __init__(
        self, books: OpenBooks, settings: Settings, prices: PriceBook, hostname: str, feed: Callable[[Record], None]
    ) -> None:
        self._books = books
        self._feed = feed
        self._hostname = hostname
        self._options = costing_options(settings)
        self.know(settings, prices)

    def know(self, settings: Settings, prices: PriceBook) -> None:
        """Go on with other engines and prices."""
        self._settings = settings
        self.prices = prices
        self.configured = {engine.name: engine for engine in settings.engines}
        """The engines of the settings, by name."""

    def open(self, started: Started) -> None:
        """Give a boot its account, a new one or that of its engine's scrapes; without a price it has none.

        Another boot of the engine, and its scrapes, end here.
        """
        books = self._books
        boot, engine = started.key.boot, self.engine_of(started)
        scraped = boot.startswith(c.SCRAPED_BOOT)
        if scraped and (books.is_probed(engine) or self._goes_on(boot, engine, started)):
            return
        configured = self.configured.get(engine)
        told: EngineSettings | FleetGpuSettings | None = configured if configured and configured.gpu else None
        if told is None and scraped:
            told = gpu_in_fleet(self._settings.fleet, engine, started.model)
        gpu = told.gpu if told else started.gpu
        count = told.gpu_count if told else started.gpu_count
        try:
            tariff = self.prices.tariff(gpu, count, configured.gpu_fraction if configured else WHOLE, engine=engine)
            # a boot whose clock lies before the first price has none either
            tariff.nano_per_hour(started.anchor.wall_ns)
            tariff = self._with_booked(boot, tariff)
        except PriceError as error:
            if engine not in books.unpriced:
                _log.error("engine %s is unpriced: %s; its records are kept", engine, error)
            books.unpriced.note(engine, started, gpu, count, str(error), started.anchor.to_wall(started.at_ns))
            return
        books.unpriced.priced(engine)
        if not books.boots.of(started.engine):
            # it may have been unpriced under its own name, as long as the settings had none for it
            books.unpriced.priced(started.engine)
        if scraped:
            scrapes = ScrapedAccount(started, tariff, engine, options_text(self.options_of(boot)))
            scrapes.gpu_uuids = books.devices.configured(engine)
            books.accounts[boot] = scrapes
            return
        for earlier in books.open_accounts(engine):
            books.end(earlier, self._feed)
        billed: list[int] = []
        for other in books.accounts.of(engine):
            if isinstance(other, ScrapedAccount):
                other.closed = True
                billed.append(other.watermark_ns)
        if engine not in books.probed_since:
            note_probed(books.ledger, engine, books.last_id)
            books.probed_since[engine] = books.last_id
        if boot in books.boots:
            billed_ns = books.boots[boot].billed_from_ns
        else:
            billed_ns = max([*billed, *self._held_by_others(started, engine)], default=None)
        account = BootAccount(started, tariff, engine, self.options_of(boot), billed_ns=billed_ns)
        books.accounts[boot] = account
        books.devices.open(account, books.boots[boot].gpu_uuids if boot in books.boots else ())

    def engine_of(self, started: Started) -> str:
        """The name that a boot is booked under; one that is in the books keeps its name whatever the settings say."""
        known = self._books.boots.get(started.key.boot)
        return known.engine if known else booked_name(started.engine, self._settings.engines, self._hostname)

    def options_of(self, boot: str) -> Options:
        """How a boot is costed: one in the books goes on as it began, or its windows would be cut and billed anew."""
        known = self._books.boots.get(boot)
        return kept_options(known.costing, self._options) if known else self._options

    def _held_by_others(self, started: Started, engine: str) -> Iterator[int]:
        """Until when (UTC) earlier boots are billed for the GPUs of a capacity that a new one has as well.

        An engine has no more of a capacity than it has, however many boots say that they run on it.
        """
        if not self.prices.is_held(engine):
            return
        begin = started.anchor.to_wall(started.at_ns)
        others = {boot.boot: boot for boot in self._books.boots.of(engine)}
        read = [account.row() for account in self._books.accounts.of(engine) if isinstance(account, BootAccount)]
        others |= {row.boot: row for row in read}
        for other in others.values():
            if other.started_ns <= begin < other.covered_ns:
                yield other.covered_ns

    def _goes_on(self, boot: str, engine: str, started: Started) -> bool:
        """Whether a scraped boot goes on with its engine's account, or waits for a price as that does."""
        for account in self._books.accounts.of(engine):
            if isinstance(account, ScrapedAccount):
                self._books.accounts[boot] = account
                return True
        if engine in self._books.ran_out:
            tariff, reason = self._books.ran_out[engine]
            self._books.unpriced.note(engine, started, tariff.gpu, tariff.count, reason, started.at_ns)
            return True
        return False

    def _with_booked(self, boot: str, tariff: Tariff) -> Tariff:
        """The tariff of a boot: what is in the books keeps its price, a new one applies to the rest."""
        known = self._books.boots.get(boot)
        if known is None or known.price_version == tariff.version:
            return tariff
        boots = [boot]
        if boot.startswith(c.SCRAPED_BOOT):
            # all of an engine's scrapes have one account
            boots = [one.boot for one in self._books.boots.of(known.engine) if _is_scraped(one)]
        content = self._books.ledger.price_content(known.price_version)
        until = max(filter(None, map(self._books.ledger.posted_until, boots)), default=None)
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


def _is_scraped(boot: Boot) -> bool:
    return boot.boot.startswith(c.SCRAPED_BOOT)
