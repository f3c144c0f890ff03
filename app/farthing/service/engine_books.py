"""What is shown of one engine's books: what is settled and in progress, its price, and whatever is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from farthing.books.prices import PriceBook
from farthing.books.tariff import Tariff
from farthing.costing.checks import Evidence
from farthing.domain import conventions as c
from farthing.domain.errors import PriceError
from farthing.domain.model import Check
from farthing.ledger.repository import Boot
from farthing.service.checks import checks_of
from farthing.service.open_books import Account, OpenBooks
from farthing.service.views import EngineBooks
from farthing.settings import EngineSettings

__all__ = ["engine_books"]


def engine_books(books: OpenBooks, engine: str, configured: EngineSettings | None, prices: PriceBook) -> EngineBooks:
    """What the open books hold of an engine; ``configured`` are its settings, if it has any."""
    accounts = books.accounts.of(engine)
    wip: Counter[str] = Counter()
    for account in accounts:
        wip.update(account.wip())
    boots = tuple(books.boots.of(engine))
    if not accounts and any(boot.closed_ns is None for boot in boots):
        # a restarted service has not read its records again yet: what is billed and not settled has no phase
        wip[c.UNKNOWN] = sum(boot.bill_nano for boot in boots) - books.totals.windows[engine]["bill_nano"]
    recent, saturated = books.unit_prices.compared(engine)
    return EngineBooks(
        name=engine,
        configured=configured,
        boots=boots,
        account=accounts[-1] if accounts else None,
        tariff=_tariff(accounts, boots, prices),
        wip_nano=dict(wip),
        checks=_checks(books, engine, boots, wip),
        recent_nano=recent,
        saturated_nano=saturated,
        bounds_nano=books.unit_prices.bounds(engine),
    )


def _tariff(accounts: list[Account], boots: tuple[Boot, ...], prices: PriceBook) -> Tariff | None:
    if accounts:
        return accounts[-1].tariff
    try:
        return prices.tariff(boots[-1].gpu, boots[-1].gpu_count, engine=boots[-1].engine) if boots else None
    except PriceError:
        return None


def _checks(books: OpenBooks, engine: str, boots: tuple[Boot, ...], wip: Mapping[str, int]) -> tuple[Check, ...]:
    """The checks of the latest account, and whatever is wrong with the money of all boots together."""
    latest = {check.name: check for check in books.checks(engine)}
    if boots:
        lines: Counter[str] = Counter()
        for (account, _, _), nano in books.totals.accounts[engine].items():
            lines[account] += nano
        evidence = Evidence(
            bill_nano=sum(boot.bill_nano for boot in boots),
            lines_nano=(*lines.values(), *wip.values()),
            busy_nano=lines[c.CHARGED] + lines[c.ABORTED] + lines[c.UNATTRIBUTED],
            unattributed_nano=lines[c.UNATTRIBUTED],
            lost=sum(boot.lost for boot in boots),
            one_sided=0 if latest else books.totals.one_sided[engine],
        )
        checks = checks_of(evidence, sum(boot.refused for boot in boots))
        latest |= {check.name: check for check in checks if not (check.ok and check.name in latest)}
    if engine in books.unpriced:
        latest[c.CHECK_PRICED] = Check(c.CHECK_PRICED, False, books.unpriced[engine])
    if books.orphans[engine]:
        detail = f"{books.orphans[engine]} records of this boot arrived without its start: it cannot be billed"
        latest[c.CHECK_ARRIVED] = Check(c.CHECK_ARRIVED, False, detail)
    if books.broken[engine]:
        detail = f"boot {books.broken[engine][-1]} cannot be costed any further, see the log; its records are kept"
        latest[c.CHECK_ARRIVED] = Check(c.CHECK_ARRIVED, False, detail)
    return tuple(latest.values())
