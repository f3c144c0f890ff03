"""Closing a period: its facts from the ledger, its statements by the policy, all in one transaction.

Nothing that is closed ever changes. What becomes known later is posted in the next open period, with the period of
its service, and is an adjustment on that one's statements.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farthing.books.closing import (
    DAY,
    DEVICE_SOURCE,
    Accrual,
    BilledBoot,
    ClosedBoot,
    ClosingDocument,
    accrue,
    close_boot,
    days_of,
    encode_closing,
    gaps,
    with_closing,
)
from farthing.books.facts import Cost, PeriodFacts
from farthing.books.periods import bounds, following, parse_period, period_of
from farthing.books.policy import Policy
from farthing.books.policy_rules import SharedCost
from farthing.books.prices import PriceBook
from farthing.books.shared_costs import shared_cost_nano
from farthing.books.statement import Statement
from farthing.books.statements import build_statements
from farthing.books.tariff import Tariff, parse_tariff
from farthing.collectors.wire import decode_line
from farthing.domain import conventions as c
from farthing.domain.clock import utc
from farthing.domain.errors import PeriodError, PriceError
from farthing.domain.records import Started
from farthing.ledger import tables as t
from farthing.ledger.database import PERIODS_LOCK, advisory_lock, transaction
from farthing.ledger.evidence import evidence_hash
from farthing.ledger.period_books import InputHashes, PeriodBooks
from farthing.ledger.repository import Ledger
from farthing.service.device_billing import (
    BilledLife,
    DeviceBilling,
    billed_lives,
    boot_groups,
    device_names,
    unpriced_engine_names,
)
from farthing.settings import Settings

__all__ = ["Closed", "PeriodState", "close_period", "draft_period", "list_periods"]


@dataclass(frozen=True, slots=True)
class Closed:
    """A closing as it was made, or as it would be made now."""

    document: ClosingDocument
    statements: tuple[Statement, ...]
    policy: Policy


@dataclass(frozen=True, slots=True)
class PeriodState:
    """A period in a list: open ones have no amounts, as they still change."""

    period: str
    closed_ns: int | None
    """UTC nanoseconds of the sign-off; None: open."""
    signed_by: str = ""
    bill_nano: int | None = None
    closing_wip_nano: int | None = None
    statements: int = 0


def list_periods(ledger: Ledger) -> list[PeriodState]:
    """Every period that has anything in it, in order."""
    with transaction(ledger.engine) as connection:
        books = PeriodBooks(connection)
        s, k = t.statements.c, t.closings.c
        counts = Counter(row[0] for row in connection.execute(sa.select(s.period)))
        rows = connection.execute(sa.select(k.period, k.closed_ns, k.signed_by, k.bill_nano, k.closing_wip_nano))
        closed = {row.period: row for row in rows}
        states = []
        for period in books.active():
            row = closed.get(period)
            if row is None:
                states.append(PeriodState(period, None))
            else:
                amounts = (int(row.bill_nano), int(row.closing_wip_nano))
                states.append(PeriodState(period, int(row.closed_ns), row.signed_by, *amounts, counts[period]))
        return states


def close_period(  # noqa: PLR0917 - the period, what it is closed by, and who signs
    ledger: Ledger,
    period: str,
    settings: Settings,
    prices: PriceBook,
    policy: Policy,
    signed_by: str,
    *,
    now_ns: int,
    note: str = "",
) -> Closed:
    """Close a period for ever and issue its statements.

    Raises PeriodError when it is closed already, is not over, an earlier one is still open, nobody signs, or its books
    do not balance.
    """
    if not signed_by.strip():
        raise PeriodError(f"period {period}: somebody has to sign it off; give --sign-off NAME")
    hashes = InputHashes(evidence_hash)
    with transaction(ledger.engine) as connection:
        _refuse(PeriodBooks(connection), parse_period(period), now_ns)
        # reading all records takes long: it is done before everybody else has to wait
        _Closing(connection, period, settings, prices, policy, hashes).boots()
    with transaction(ledger.engine, write=True) as connection:
        advisory_lock(connection, PERIODS_LOCK)
        _refuse(PeriodBooks(connection), period, now_ns)
        closed = _Closing(connection, period, settings, prices, policy, hashes).make(signed_by, now_ns)
        books = PeriodBooks(connection)
        books.keep_version("policy", policy.version, policy.content)
        for holding in prices.holdings:
            for tariff in (*holding.engines.values(), *(pool.tariff for pool in holding.pools)):
                books.keep_version("price", tariff.version, tariff.content)
        for *_, content in closed.document.device_tariffs:
            books.keep_version("price", parse_tariff(content).version, content)
        books.post_accruals(period, closed.document.accruals, policy.version)
        closing = {"closed_ns": now_ns, "signed_by": signed_by, "note": note, "policy_version": policy.version}
        books.write(closed.document, closing, closed.statements)
    return closed


def draft_period(
    ledger: Ledger, period: str, settings: Settings, prices: PriceBook, policy: Policy, *, now_ns: int
) -> Closed:
    """What closing a period now would give; writes nothing.

    A period that is not over is drafted up to now: its engines as far as they are known, and what they do not have up
    to now. Periods before it that are open still are drafted first, as if they were closed now.

    Raises PeriodError when the period is closed, or has not begun.
    """
    if bounds(parse_period(period))[0] > now_ns:
        raise PeriodError(f"period {period} has not begun; there is nothing to draft yet")
    hashes = InputHashes(evidence_hash)
    with transaction(ledger.engine) as connection:
        books = PeriodBooks(connection)
        closed, active = books.closed(), books.active()
        if closed and period <= closed[-1]:
            raise PeriodError(f"period {period} is closed already; farthing statement list shows its statements")
        due = following(closed[-1]) if closed else min([period, *active])
        drafted: list[ClosingDocument] = []
        while True:
            closing = _Closing(connection, due, settings, prices, policy, hashes, until_ns=now_ns, drafted=drafted)
            draft = closing.make("(draft)", now_ns)
            if due == period:
                return draft
            drafted.append(draft.document)
            due = following(due)


def _refuse(books: PeriodBooks, period: str, now_ns: int) -> None:
    closed, active = books.closed(), books.active()
    _, end = bounds(period)
    if period in closed:
        raise PeriodError(f"period {period} is closed already; late work is posted in the next one")
    if closed and period < closed[-1]:
        raise PeriodError(f"period {period} lies before {closed[-1]}, which is closed; its work is posted after that")
    if end > now_ns:
        raise PeriodError(f"period {period} is not over before {utc(end):%Y-%m-%d %H:%M} UTC; close it then")
    if not active:
        raise PeriodError(f"nothing was booked by the end of period {period}; there is nothing to close")
    due = following(closed[-1]) if closed else active[0]
    if due < period:
        raise PeriodError(f"period {due} is still open; close it before {period}")
    if due > period:
        raise PeriodError(f"nothing was booked by the end of period {period}; the first to close is {due}")


class _Closing:
    """One closing, or a draft of one that ends at ``until_ns`` at the latest and follows others that are drafts."""

    def __init__(  # noqa: PLR0917 - what a closing is made of
        self,
        connection: Connection,
        period: str,
        settings: Settings,
        prices: PriceBook,
        policy: Policy,
        hashes: InputHashes,
        *,
        until_ns: int | None = None,
        drafted: Sequence[ClosingDocument] = (),
    ) -> None:
        self._hashes = hashes
        self._connection = connection
        self._books = PeriodBooks(connection)
        self._period = period
        self._settings = settings
        self._prices = prices
        self._policy = policy
        self._start, self._end = bounds(period)
        self._period_end = self._end
        """Engines' clocks may be ahead of ours: what they have told by then is told."""
        if until_ns is not None:
            self._end = max(self._start, min(self._end, until_ns))
        self._before = [document for one in self._books.closed() if (document := self._books.closing(one))]
        self._before += drafted
        self._unpriced: list[str] = []
        self._devices = DeviceBilling(connection, prices)

    def make(self, signed_by: str, issued_ns: int) -> Closed:
        """The closing and its statements."""
        boots = self.boots()
        self._balance(boots)
        accruals = self._accruals()
        costs = [*self._books.costs(self._period)]
        costs += [_cost(accrual) for accrual in accruals]
        accrued = sum(accrual.nano for accrual in accruals)
        unpriced = [*self._unpriced, *self._engines_without_price()]
        facts = PeriodFacts(
            period=self._period,
            start_ns=self._start,
            end_ns=self._end,
            currency=self._settings.currency,
            opening_wip_nano=sum(boot.opening_wip_nano for boot in boots),
            bill_nano=sum(boot.bill_nano for boot in boots) + accrued,
            closing_wip_nano=sum(boot.closing_wip_nano for boot in boots),
            costs=tuple(sorted(_merged(costs))),
            usage=self._books.usage(self._period),
            days=self._books.days(self._period),
            price_versions=tuple(sorted({boot.price_version for boot in boots} | {a.price_version for a in accruals})),
            fit_errors=self._fit_errors(),
            unpriced=tuple(dict.fromkeys(unpriced)),
            lost_records=self._lost(boots),
            evidence={boot.name: boot.sha256 for boot in boots},
        )
        document = ClosingDocument(
            facts=facts,
            boots=tuple(boots),
            accruals=tuple(accruals),
            engine_tariffs=tuple(
                (holding.name, engine, tariff.content)
                for holding in self._prices.holdings
                for engine, tariff in holding.engines.items()
            ),
            device_tariffs=self._devices.tariffs(),
            device_names=self._devices.names(),
            device_slots=self._devices.slots,
            costing=self._settings.costing.model_dump(include={"window_seconds", "grace_seconds", "horizon_windows"}),
            settlement_policy=c.POLICY_VERSION,
            program=installed("farthing"),
            signed_by=signed_by,
            issued_ns=issued_ns,
        )
        statements = build_statements(facts, self._policy, signed_by=signed_by, issued_ns=issued_ns)
        cited = with_closing(facts.evidence, self._period, encode_closing(document))
        return Closed(document, tuple(replace(one, evidence=cited) for one in statements), self._policy)

    # ---- boots ---------------------------------------------------------------------------------

    def boots(self) -> list[ClosedBoot]:
        """Every boot that can still have something in this period."""
        before: dict[str, ClosedBoot] = {}
        for document in self._before:
            before.update({boot.name: boot for boot in document.boots})
        reach = self._books.reach(self._period_end)
        found = []
        for name, rows in boot_groups(self._connection).items():
            known = before.get(name)
            if (known and known.final) or min(int(row.started_ns) for row in rows) >= self._period_end:
                continue
            boot = self._billed(name, rows)
            settled: dict[int, int] = {}
            for row in rows:
                for rank, end in reach.get(row.boot, {}).items():
                    settled[rank] = max(settled.get(rank, 0), end)
            members = [row.boot for row in rows]
            read_id = max(int(row.read_id) for row in rows)
            closed = close_boot(boot, self._period_end, settled, known, members, read_id)
            count = None if boot.ended or name.startswith(c.SCRAPED_BOOT) else self._books.requests(name)
            # a request may be answered after the last that its engine told of
            final = closed.final and not self._books.requests(name, self._period_end)
            uuids = tuple(sorted({uuid for row in rows for uuid in json.loads(row.gpu_uuids)}))
            sha256 = self._hashes.through(self._books, members, read_id)
            found.append(replace(closed, requests=count, final=final, sha256=sha256, gpu_uuids=uuids))
        return found

    def _billed(self, name: str, rows: Sequence[Any]) -> BilledBoot:
        # of an engine that is costed from its counters, the row that was written last
        last = max(rows, key=lambda row: int(row.read_id))
        return BilledBoot(
            name=name,
            engine=last.engine,
            tariff=self._tariff(last.boot, last.price_version),
            started_ns=min(int(row.started_ns) for row in rows),
            covered_ns=max(int(row.covered_ns) for row in rows),
            ended=all(row.closed_ns is not None for row in rows),
            ranks=int(last.ranks),
            billed_from_ns=last.billed_from_ns,
            costing=last.costing,
        )

    def _tariff(self, boot: str, price_version: str) -> Tariff:
        content = self._books.version("price", price_version)
        if content is None:
            raise PeriodError(
                f"boot {boot}: nothing tells what its price {price_version!r} was; "
                "it was booked by a version of Farthing that did not keep prices"
            )
        return parse_tariff(content)

    def _balance(self, boots: Sequence[ClosedBoot]) -> None:
        """The journal holds what bill and work in progress say it must hold, boot by boot."""
        posted = self._books.boot_sums(self._period)
        for boot in boots:
            expected = boot.opening_wip_nano + boot.bill_nano - boot.closing_wip_nano
            found = sum(posted.pop(member, 0) for member in boot.members)
            if found != expected:
                raise PeriodError(
                    f"period {self._period} does not balance: boot {boot.name} settled {expected} nano by its price "
                    f"and {found} in the journal; run farthing ledger verify"
                )
        for name, nano in posted.items():
            if nano and not name.startswith(c.CAPACITY_BOOT):
                raise PeriodError(f"period {self._period} does not balance: {nano} nano of boot {name} are no bill's")

    def _lost(self, boots: Sequence[ClosedBoot]) -> int:
        members = {member for boot in boots for member in boot.members}
        rows = self._connection.execute(sa.select(t.boots.c.boot, t.boots.c.lost, t.boots.c.refused))
        return sum(int(row.lost) + int(row.refused) for row in rows if row.boot in members)

    def _fit_errors(self) -> tuple[tuple[str, str, float | None], ...]:
        worst: dict[tuple[str, str], float | None] = {}
        for engine, method, evidence in self._books.fits():
            error = json.loads(evidence)["walk_forward_wape"]
            known = worst.get((engine, method))
            worst[engine, method] = error if known is None else max(known, error or 0.0)
        return tuple((*key, error) for key, error in sorted(worst.items()))

    def _engines_without_price(self) -> list[str]:
        found = []
        p = t.probed_engines.c
        probed = {row.engine: int(row.first_id) for row in self._connection.execute(sa.select(p.engine, p.first_id))}
        for row_id, line in self._books.unpriced():
            record = decode_line(line)
            if not isinstance(record, Started):
                continue
            if record.key.boot.startswith(c.SCRAPED_BOOT) and row_id >= probed.get(record.engine, row_id + 1):
                continue  # its probe reports what it does
            if record.anchor.to_wall(record.at_ns) < self._end:
                found.append(f"engine {record.engine}: GPU {record.gpu!r} has no price; its work is kept, not costed")
        u = t.unpriced_engines.c
        noted = self._connection.execute(sa.select(u.engine, u.reason).where(u.since_ns < self._end))
        found += [f"engine {row.engine}: {row.reason}" for row in noted]
        return sorted(set(found))

    # ---- what is bought beyond running engines -------------------------------------------------

    def _accruals(self) -> list[Accrual]:
        billed = self._lives()
        lives: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for life in billed:
            lives[life.engine].append((life.start_ns, life.end_ns))
        accruals: list[Accrual] = []
        for holding in self._prices.holdings:
            found, unpriced = accrue(holding, self._start, self._end, lives)
            accruals += found
            self._unpriced += unpriced
        for cost in self._policy.shared_costs:
            accruals += self._shared(cost)
        found, unpriced = self._devices.accrue(billed, self._start, self._end)
        self._unpriced += unpriced
        return accruals + found + self._true_up(lives) + self._devices.true_up(billed, self._before)

    def _shared(self, cost: SharedCost) -> list[Accrual]:
        reason = cost.name
        found = []
        for a, b in days_of(self._start, self._end):
            try:
                nano = shared_cost_nano(cost, a, b, self._prices.exchange)
            except PriceError as error:
                self._unpriced.append(str(error))
                continue
            if nano:
                found.append(Accrual(cost.name, "", c.SHARED, reason, a, b, nano, self._policy.version))
        return found

    def _true_up(self, lives: Mapping[str, Sequence[tuple[int, int]]]) -> list[Accrual]:
        """What closed periods booked as down, and late boots turn out to have run in (or the other way round)."""
        posted: Counter[tuple[str, str, int]] = Counter()
        for document in self._before:
            for one in document.accruals:
                if one.account == c.DOWN and not one.source.startswith(DEVICE_SOURCE):
                    posted[one.source, one.engine, one.start_ns // DAY] += one.nano
        now: Counter[tuple[str, str, int]] = Counter()
        versions: dict[tuple[str, str], str] = {}
        for document in self._before:
            start, end = document.facts.start_ns, document.facts.end_ns
            for capacity, engine, content in document.engine_tariffs:
                tariff = parse_tariff(content)
                versions[capacity, engine] = tariff.version
                for since, until in tariff.function.spans:
                    a, b = max(start, since), end if until is None else min(end, until)
                    for gap in gaps(a, b, lives.get(engine, ())) if b > a else []:
                        for x, y in days_of(*gap):
                            now[capacity, engine, x // DAY] += tariff.bill(x, y)
        found = []
        for key in sorted({*posted, *now}):
            nano = now[key] - posted[key]
            if nano:
                capacity, engine, day = key
                version = versions.get((capacity, engine), "")
                bounds_ns = (day * DAY, (day + 1) * DAY)
                found.append(Accrual(capacity, engine, c.DOWN, c.REASON_NO_BOOT, *bounds_ns, nano, version))
        return found

    def _lives(self) -> list[BilledLife]:
        """When boots are billed, and on what; an open boot is billed until its end is known.

        Scrapes say nothing of the time after them, and never that they were the last: nor does a boot that another
        one followed, and one that came to a time without a price is billed no further.
        """
        groups = boot_groups(self._connection)
        names = device_names(self._connection, groups)
        return billed_lives(groups, unpriced_engine_names(self._connection), self._end, names)


def _cost(accrual: Accrual) -> Cost:
    service = period_of(accrual.end_ns - 1)
    return Cost(service, accrual.account, "", "", "", "", "", accrual.reason, c.METERED, accrual.nano)


def _merged(costs: Sequence[Cost]) -> list[Cost]:
    sums: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    for cost in costs:
        amounts = sums[cost[:-2]]
        amounts[0] += cost.nano
        amounts[1] += cost.millijoules
    return [Cost._make((*key, *amounts)) for key, amounts in sums.items() if any(amounts)]
