"""What a closed period's records come to when they are costed once more: the same sums, or a named difference."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from farthing.books.closing import ClosedBoot
from farthing.books.facts import Cost, Usage
from farthing.books.periods import bounds, period_of
from farthing.books.tariff import Tariff
from farthing.costing.stream import Options
from farthing.domain import conventions as c
from farthing.domain.errors import PriceError
from farthing.domain.model import Adjustment, SettledWindow
from farthing.domain.records import RawRecord, Record, Started
from farthing.ledger.rows import Entry, RequestRow
from farthing.service.boot_account import BootAccount, kept_options
from farthing.service.ordering import BootOrder
from farthing.service.scraped_account import ScrapedAccount

__all__ = ["Recosted", "recost"]

_USAGE = ("requests", "prompt_computed", "prompt_cached", "image_tokens", "output_tokens", "uncounted")


@dataclass(slots=True)
class Recosted:
    """Sums of one or more boots in a posting period, under the keys of ``Cost`` and ``Usage``."""

    costs: defaultdict[tuple[str, ...], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    usage: defaultdict[tuple[str, ...], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    saved: Counter[tuple[str, ...]] = field(default_factory=Counter)

    @property
    def nano(self) -> int:
        """Nano-dollars in all."""
        return sum(amounts[0] for amounts in self.costs.values())

    def as_costs(self) -> set[Cost]:
        """The sums that are not 0."""
        return {Cost._make((*key, *amounts)) for key, amounts in self.costs.items() if any(amounts)}

    def as_usage(self) -> set[Usage]:
        """The requests, with what caches saved beside those that finished."""
        for key in self.saved:
            self.usage.setdefault((*key, c.FINISHED), Counter())
        return {
            Usage._make((*key, *(n[name] for name in _USAGE), self.saved[key[:-1]] if key[-1] == c.FINISHED else 0))
            for key, n in self.usage.items()
        }


def recost(  # noqa: PLR0917 - a boot, what it is costed from, and where to
    boot: ClosedBoot,
    records: Iterable[tuple[int, RawRecord]],
    tariff: Tariff,
    options: Options,
    period: str,
    into: Recosted,
) -> None:
    """Cost a boot's (id, record) pairs, in order of arrival, and add what was posted in a period to ``into``.

    ``options`` are for a boot that keeps none of its own. What the books held at the closing before is what its
    records up to ``read_before_id`` came to.
    """
    posting = _Posting(period, into, boot)
    options = kept_options(boot.costing, options)
    if boot.name.startswith(c.SCRAPED_BOOT):
        _recost_scraped(boot, records, tariff, options, posting)
    else:
        _recost_probed(boot, records, tariff, options, posting)


class _Posting:
    """Sorts what a boot posted into the period at hand, those before it and those after it."""

    def __init__(self, period: str, into: Recosted, boot: ClosedBoot) -> None:
        self._period = period
        self._start, self._end = bounds(period)
        self._into = into
        self._settled_ns, self._settled_before_ns = boot.settled_ns, boot.settled_before_ns
        self._requests_before = boot.requests_before
        self._requests = 0

    def take(self, entries: Sequence[Entry], *, before: bool) -> None:
        """``before``: it follows from what had been read when the period before this one closed.

        It was posted by then, unless the window, or one before the request, had no price yet.
        """
        for entry in entries:
            sources: list[SettledWindow | Adjustment] = [*entry.windows, *entry.adjustments]
            for source in sources:
                end_ns = entry.boot.anchor.to_wall(source.end_ns)
                posted = before and end_ns <= self._settled_before_ns[source.engine_index]
                self._source(source, end_ns, before=posted)
            for row in entry.requests:
                known = self._requests_before is None or self._requests < self._requests_before
                self._requests += 1
                self._request(row, before=before and known)

    def _service(self, moment_ns: int, *, before: bool) -> str | None:
        """The period of service, when it is posted in this one; None when it is not."""
        if moment_ns >= self._end or (before and moment_ns < self._start):
            return None
        return period_of(moment_ns)

    def _source(self, source: SettledWindow | Adjustment, end_ns: int, *, before: bool) -> None:
        service = self._service(end_ns - 1, before=before)
        # a window that still waited for energy, or for records that could be costed, was posted after the closing
        if service is None or end_ns > self._settled_ns[source.engine_index]:
            return
        for p in source.postings:
            who = (p.tenant, p.project, p.model, p.tier)
            sums = self._into.costs[service, p.account, p.phase, *who, p.reason, p.method]
            sums[0] += p.nano
            sums[1] += p.millijoules
        if isinstance(source, SettledWindow):
            for saver, nano in source.saved.items():
                self._into.saved[service, *saver] += nano

    def _request(self, row: RequestRow, *, before: bool) -> None:
        service = self._service(row.ended_wall_ns, before=before)
        if service is None:
            return
        counts = self._into.usage[service, row.tenant, row.project, row.model, row.tier, row.outcome]
        counts["requests"] += 1
        for name in _USAGE[1:-1]:
            counts[name] += getattr(row, name) or 0
        counts["uncounted"] += row.prompt_computed is None or row.output_tokens is None


def _recost_probed(
    boot: ClosedBoot, records: Iterable[tuple[int, RawRecord]], tariff: Tariff, options: Options, posting: _Posting
) -> None:
    probed = _Probed(boot, tariff, options)
    before = boot.read_before_id > 0
    for row_id, raw in records:
        if before and row_id > boot.read_before_id:
            posting.take(probed.drained(ended=boot.ended_before), before=True)
            before = False
        probed.read(raw)
    if before:
        # another boot may have ended it since, without a record of its own
        posting.take(probed.drained(ended=boot.ended_before), before=True)
    posting.take(probed.drained(ended=boot.ended), before=False)


class _Probed:
    """A boot whose probe reports, as the accountant costs it."""

    def __init__(self, boot: ClosedBoot, tariff: Tariff, options: Options) -> None:
        self._boot, self._tariff, self._options = boot, tariff, options
        self._order = BootOrder(options.grace_ns)
        self._account: BootAccount | None = None

    def read(self, raw: RawRecord) -> None:
        """Take a record as it arrived."""
        self._order.add(raw)
        for record in self._order.ready():
            if self._account is None and isinstance(record, Started):
                billed_ns = self._boot.billed_from_ns
                self._account = BootAccount(record, self._tariff, self._boot.engine, self._options, billed_ns=billed_ns)
            account = self._account
            if account is not None and not account.unpriced:
                try:
                    account.feed(record)
                except PriceError:
                    # the books end where its price did
                    account.unpriced = True

    def drained(self, *, ended: bool) -> list[Entry]:
        """What it posted since the last call; all that is known of it, when nothing more can come."""
        account = self._account
        if account is not None and ended and not account.closed:
            for record in self._order.ready(final=True):
                account.feed(record)
            account.end()
        return _drained(account)


def _recost_scraped(
    boot: ClosedBoot, records: Iterable[tuple[int, RawRecord]], tariff: Tariff, options: Options, posting: _Posting
) -> None:
    orders: defaultdict[str, BootOrder] = defaultdict(lambda: BootOrder(options.grace_ns))
    account: ScrapedAccount | None = None
    before = boot.read_before_id > 0
    for row_id, raw in records:
        if before and row_id > boot.read_before_id:
            posting.take(_drained(account), before=True)
            before = False
        order = orders[raw.key.boot]
        order.add(raw)
        for record in order.ready():
            if account is None and isinstance(record, Started):
                account = ScrapedAccount(record, tariff, boot.engine)
            if account is not None and not _fed(account, record):
                posting.take(_drained(account), before=before)
                return
    posting.take(_drained(account), before=before)


def _fed(account: ScrapedAccount, record: Record) -> bool:
    try:
        account.feed(record)
    except PriceError:
        return False
    return True


def _drained(account: BootAccount | ScrapedAccount | None) -> list[Entry]:
    return [] if account is None else account.drain()
