"""Writing to the books: boots, requests, windows and the journal, with the sums that reports read.

Everything here works on one connection inside one transaction of the ledger's, which may have the news of many boots:
a fleet's would else be hundreds of transactions a second. What is written most is in the driver's own words.

A line is posted in the period of its service, or in the first open one when that is closed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from farthing.books.periods import period_of, posting_period
from farthing.domain.clock import HOUR
from farthing.domain.conventions import ADJUSTED, FINISHED, GPU_ALLOCATION, PHASES, POLICY_VERSION, SETTLED
from farthing.domain.model import Adjustment, Fit, SettledWindow
from farthing.ledger import tables as t
from farthing.ledger.database import is_postgresql
from farthing.ledger.many_rows import add_to, insert_new_rows, insert_rows, mark, taken, update_rows
from farthing.ledger.partitions import make_room
from farthing.ledger.request_costs import RequestCosts
from farthing.ledger.rows import Boot, Entry, Posted, RequestRow

__all__ = ["Known", "Poster", "closed_through", "insert_new", "keep_version"]

_WINDOW_TOKENS = ("prompt_computed", "prompt_cached", "engine_output", "encoder")
_WINDOW_SUMS = len([column for column in t.window_hours.columns if not column.primary_key])
_USAGE_SUMS = len([column for column in t.usage_hours.columns if not column.primary_key])
_BOOT = (
    *("boot", "engine", "kind", "model", "gpu", "gpu_count", "price_version"),
    *("wall_ns", "mono_ns", "started_ns", "ranks", "billed_from_ns", "costing"),
)
_BOOT_CHANGES = (
    *("closed_ns", "bill_nano", "lost", "energy_first_mj", "energy_last_mj", "refused"),
    *("covered_ns", "price_version", "read_id", "gpu_uuids", "ended_ns", "given_up_ns"),
)
_BOOT_SETS = (
    *(f"{name} = new.column{place}" for place, name in enumerate(_BOOT_CHANGES, start=1)),
    f"costing = CASE WHEN costing = '' THEN new.column{len(_BOOT_CHANGES) + 1} ELSE costing END",
)
_BOOT_CONDITION = f"boot = new.column{len(_BOOT_CHANGES) + 2} AND read_id <= new.column{len(_BOOT_CHANGES) + 3}"
_UPDATE_BOOT = (
    f"UPDATE boots SET {', '.join(f'{name} = %s' for name in _BOOT_CHANGES)}, "  # noqa: S608 - names of ours  # nosec B608
    "costing = CASE WHEN costing = '' THEN %s ELSE costing END WHERE boot = %s AND read_id <= %s"
)
"""PostgreSQL's, which is sent for all boots at once."""
_REQUEST_VALUES = tuple(name for name in RequestRow.__struct_fields__ if name != "key")
_REQUEST = ("boot", "process", "sequence", *_REQUEST_VALUES)
_request_values = attrgetter(*_REQUEST_VALUES)
_WINDOW = (
    *("boot", "engine_index", "start_ns", "end_ns", "wall_start_ns", "wall_end_ns", "bill_nano", "busy_ns"),
    *("energy_mj", *(f"{phase}_ns" for phase in PHASES), *_WINDOW_TOKENS, "fit_version", "features"),
)
_FIT = ("version", "boot", "engine_index", "method", "evidence")
_JOURNAL = (
    *("boot", "engine_index", "start_ns", "wall_start_ns", "wall_end_ns", "engine", "debit", "credit"),
    *("phase", "tenant", "project", "model", "tier", "reason", "method", "nano", "millijoules"),
    *("state", "period", "fit_version", "price_version", "policy_version"),
)
_WALL_START = _JOURNAL.index("wall_start_ns")
_NEW = " ON CONFLICT DO NOTHING"


@dataclass(slots=True)
class Known:
    """What is in the ledger for good and need not be written again."""

    prices: set[str] = field(default_factory=set)
    """Versions whose content is kept."""
    boots: set[str] = field(default_factory=set)
    fits: dict[tuple[str, int, str], str] = field(default_factory=dict)
    """(boot, engine index, kind of fit) -> the version that was kept last."""

    def update(self, other: Known) -> None:
        """Know what the other knows."""
        self.prices |= other.prices
        self.boots |= other.boots
        self.fits |= other.fits


def insert_new(connection: Connection, table: sa.Table) -> Any:
    """An INSERT that passes over rows whose key is there already."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


def closed_through(connection: Connection) -> str | None:
    """The last closed period; None while none is."""
    return connection.execute(sa.select(sa.func.max(t.closings.c.period))).scalar()


def keep_version(connection: Connection, kind: str, version: str, content: str) -> None:
    """Remember what a version of a price or a policy stands for."""
    connection.execute(insert_new(connection, t.versions), [{"kind": kind, "version": version, "content": content}])


class Poster:
    """Writes the news of boots; make one for each transaction, ``post`` what there is, and ``finish`` it.

    ``known`` remembers what earlier transactions wrote; what this one adds is in ``written``, to be remembered once it
    is committed.
    """

    def __init__(self, connection: Connection, known: Known, boots: Iterable[str]) -> None:
        self._connection = connection
        self._known = known
        self.written = Known()
        self._closed_through = closed_through(connection)
        self._sealed = _sealed(connection, sorted(set(boots)))
        self._costs: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._lines: Counter[tuple[str, str, str]] = Counter()
        self._usage: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * _USAGE_SUMS)
        self._savings: Counter[tuple[Any, ...]] = Counter()
        self._windows: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0] * _WINDOW_SUMS)
        self._journal: list[tuple[Any, ...]] = []
        self._fits: list[tuple[Any, ...]] = []
        self._boots: dict[str, tuple[Any, ...]] = {}
        """What changes of them, as they stand."""
        self._shares = RequestCosts()
        self._periods: dict[int, tuple[str, str]] = {}

    def post(self, entries: Sequence[Entry]) -> list[Posted]:
        """Write the boots' news; returns of each what of them was not in the books already."""
        for entry in entries:
            self._boot(entry.boot)
        requests = self._new_requests(entries)
        windows = self._new_windows(entries)
        return [
            Posted(
                self._all_windows(entry, windows),
                self._requests(entry, requests),
                self._adjustments(entry.boot, entry.adjustments),
            )
            for entry in entries
        ]

    def finish(self) -> None:
        """Write the journal's lines and add to the sums."""
        connection = self._connection
        self._change_boots()
        insert_rows(connection, t.fits, _FIT, self._fits, _NEW)
        if self._journal:
            make_room(connection, "journal", (line[_WALL_START] for line in self._journal))
            insert_rows(connection, t.journal, _JOURNAL, self._journal)
        self._shares.write(connection)
        add_to(connection, t.cost_hours, {key: (*amounts,) for key, amounts in self._costs.items()})
        add_to(connection, t.boot_lines, {key: (nano,) for key, nano in self._lines.items()})
        add_to(connection, t.usage_hours, {key: (*counts,) for key, counts in self._usage.items()})
        add_to(connection, t.saving_hours, {key: (nano,) for key, nano in self._savings.items()})
        add_to(connection, t.window_hours, {key: (*counts,) for key, counts in self._windows.items()})

    # ---- inside --------------------------------------------------------------------------------

    def _boot(self, boot: Boot) -> None:
        """Write a boot that is new, with its price; how it stands is written at the end."""
        if boot.boot not in self._known.boots and boot.boot not in self.written.boots:
            row = (
                *(boot.boot, boot.engine, boot.kind, boot.model, boot.gpu, boot.gpu_count, boot.price_version),
                *(boot.anchor.wall_ns, boot.anchor.mono_ns, boot.started_ns, boot.ranks, boot.billed_from_ns),
                boot.costing,
            )
            insert_rows(self._connection, t.boots, _BOOT, [row], _NEW)
            self.written.boots.add(boot.boot)
        if boot.price_content and boot.price_version not in self._known.prices | self.written.prices:
            keep_version(self._connection, "price", boot.price_version, boot.price_content)
            self.written.prices.add(boot.price_version)
        changing = (
            *(boot.closed_ns, boot.bill_nano, boot.lost, boot.energy_first_mj, boot.energy_last_mj, boot.refused),
            *(boot.covered_ns, boot.price_version, boot.read_id, _json(boot.gpu_uuids), boot.ended_ns),
            *(boot.given_up_ns, boot.costing, boot.boot, boot.read_id),
        )
        known = self._boots.get(boot.boot)
        if known is None or known[-1] <= boot.read_id:
            self._boots[boot.boot] = changing

    def _change_boots(self) -> None:
        """Write how boots stand; who they are was said the first time.

        One that is read once more has said less than the books hold until it is where it was: it changes nothing.
        """
        connection, rows = self._connection, list(self._boots.values())
        if not is_postgresql(connection):
            update_rows(connection, t.boots, _BOOT_SETS, _BOOT_CONDITION, rows)
        elif rows:
            connection.exec_driver_sql(_UPDATE_BOOT, rows)

    def _new_requests(self, entries: Sequence[Entry]) -> set[tuple[Any, ...]]:
        """Write those that are not there yet; returns their keys."""
        rows = [
            row for entry in entries if (t.requests.name, entry.boot.boot) not in self._sealed for row in entry.requests
        ]
        make_room(self._connection, "requests", (row.ended_wall_ns for row in rows))
        return insert_new_rows(self._connection, t.requests, _REQUEST, list(map(_request, rows)), _REQUEST[:3])

    def _new_windows(self, entries: Sequence[Entry]) -> set[tuple[Any, ...]]:
        """Write those that are not there yet; returns their keys."""
        rows = [
            _window(entry.boot, window)
            for entry in entries
            if (t.windows.name, entry.boot.boot) not in self._sealed
            for window in entry.windows
        ]
        return insert_new_rows(self._connection, t.windows, _WINDOW, rows, _WINDOW[:3])

    def _requests(self, entry: Entry, added: set[tuple[Any, ...]]) -> list[RequestRow]:
        """Count an entry's requests that were added, and return them."""
        new = [row for row in entry.requests if taken(added, (row.key.boot, row.key.process, row.key.sequence))]
        for row in new:
            self._count(row)
        return new

    def _all_windows(self, entry: Entry, added: set[tuple[Any, ...]]) -> list[SettledWindow]:
        """Post an entry's windows that were added, and return them."""
        boot = entry.boot
        new = [one for one in entry.windows if taken(added, (one.boot, one.engine_index, one.start_ns))]
        self._keep_fits(boot, new)
        for window in new:
            self._window(boot, window)
        return new

    def _adjustments(self, boot: Boot, adjustments: Sequence[Adjustment]) -> list[Adjustment]:
        """Post those that are not there yet, and return them."""
        if not adjustments or (t.windows.name, boot.boot) in self._sealed:
            return []
        new = [adjustment for adjustment in adjustments if self._note(adjustment)]
        for adjustment in new:
            self._post(boot, adjustment, ADJUSTED)
            start = boot.anchor.to_wall(adjustment.start_ns)
            self._shares.add(start, [(adjustment.key, adjustment.cost_nano, adjustment.energy_mj, 0)])
        return new

    def _period(self, service_ns: int) -> tuple[str, str]:
        """The period of service of a moment, and the one that it is posted in."""
        hour = service_ns // HOUR
        found = self._periods.get(hour)
        if found is None:
            # periods begin with an hour
            period = period_of(service_ns)
            found = self._periods[hour] = period, posting_period(period, self._closed_through)
        return found

    def _keep_fits(self, boot: Boot, windows: Sequence[SettledWindow]) -> None:
        """Keep the fits that split windows, each once: many windows have one fit."""
        for window in windows:
            for fit in (window.fit, window.energy_fit):
                if fit is None:
                    continue
                name = boot.boot, window.engine_index, fit.version.partition("-")[0]
                if self._known.fits.get(name) == fit.version or self.written.fits.get(name) == fit.version:
                    continue
                self.written.fits[name] = fit.version
                self._fits.append((fit.version, boot.boot, window.engine_index, fit.method, _fit_evidence(fit)))

    def _window(self, boot: Boot, window: SettledWindow) -> None:
        to_wall = boot.anchor.to_wall
        end = to_wall(window.end_ns) - 1
        hour, period = end // HOUR, self._period(end)[1]
        sums = self._windows[hour, boot.engine]
        for place, amount in enumerate(_window_sums(window)):
            sums[place] += amount
        for saver, nano in window.saved.items():
            self._savings[hour, period, boot.engine, *saver] += nano
        self._post(boot, window, SETTLED)
        shares = ((r.key, r.cost_nano, r.energy_mj, r.saved_nano) for r in window.requests)
        self._shares.add(to_wall(window.start_ns), shares)

    def _note(self, adjustment: Adjustment) -> bool:
        """Whether the adjustment was not in the books; it is noted then."""
        row = {
            "boot": adjustment.boot,
            "engine_index": adjustment.engine_index,
            "start_ns": adjustment.start_ns,
            "process": adjustment.key.process,
            "sequence": adjustment.key.sequence,
        }
        insert = insert_new(self._connection, t.adjustments).returning(t.adjustments.c.sequence)
        return bool(self._connection.execute(insert, [row]).all())

    def _post(self, boot: Boot, source: SettledWindow | Adjustment, state: str) -> None:
        start, end = boot.anchor.to_wall(source.start_ns), boot.anchor.to_wall(source.end_ns)
        hour, (service, period) = (end - 1) // HOUR, self._period(end - 1)
        state = state if period == service else ADJUSTED
        engine, index, costs, lines = boot.engine, source.engine_index, self._costs, self._lines
        head = (source.boot, index, source.start_ns, start, end, engine)
        tail = (state, period, source.fit_version, boot.price_version, POLICY_VERSION)
        for account, phase, tenant, project, model, tier, reason, method, nano, millijoules in source.postings:
            what = (phase, tenant, project, model, tier, reason, method)
            self._journal.append((*head, account, GPU_ALLOCATION, *what, nano, millijoules, *tail))
            sums = costs[hour, period, engine, account, *what]
            sums[0] += nano
            if nano < 0:
                sums[1] -= nano
            sums[2] += millijoules
            lines[source.boot, period, account] += nano

    def _count(self, row: RequestRow) -> None:
        ended = row.ended_wall_ns
        who = (row.tenant, row.project, row.model, row.tier)
        counts = self._usage[ended // HOUR, self._period(ended)[1], row.engine, *who, row.outcome]
        counts[0] += 1
        counts[1] += row.prompt_computed or 0
        counts[2] += row.prompt_cached or 0
        counts[3] += row.image_tokens or 0
        counts[4] += row.output_tokens or 0
        counts[5] += row.prompt_computed is None or row.output_tokens is None
        counts[6] += row.seen_by != "both" and row.outcome == FINISHED


def _sealed(connection: Connection, boots: Sequence[str]) -> set[tuple[str, str]]:
    """(table, boot) whose rows were pruned: then all of them were in the books already."""
    if not boots:
        return set()
    marks = ", ".join([mark(connection)] * len(boots))
    query = f"SELECT table_name, boot FROM {t.seals.name} WHERE boot IN ({marks})"  # noqa: S608 - names of ours  # nosec B608
    return {(row.table_name, row.boot) for row in connection.exec_driver_sql(query, tuple(boots))}


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _fit_evidence(fit: Fit) -> str:
    finite = {k: [low, None if high == float("inf") else high] for k, (low, high) in fit.intervals.items()}
    return _json(
        {
            "coefficients": fit.coefficients,
            "intervals": finite,
            "walk_forward_wape": fit.walk_forward_wape,
            "windows": fit.windows,
        }
    )


def _request(row: RequestRow) -> tuple[Any, ...]:
    return (row.key.boot, row.key.process, row.key.sequence, *_request_values(row))


def _window(boot: Boot, window: SettledWindow) -> tuple[Any, ...]:
    to_wall = boot.anchor.to_wall
    phase_ns, tokens = window.phase_ns, window.tokens
    return (
        *(window.boot, window.engine_index, window.start_ns, window.end_ns),
        *(to_wall(window.start_ns), to_wall(window.end_ns), window.bill_nano, window.busy_ns, window.energy_mj),
        *(phase_ns.get(phase, 0) for phase in PHASES),
        *(tokens.get(kind, 0) for kind in _WINDOW_TOKENS),
        window.fit_version,
        _json(window.features),
    )


def _window_sums(window: SettledWindow) -> Iterator[int]:
    """What a window adds to its hour, in the order of the table's columns."""
    yield from (window.bill_nano, window.busy_ns, 1)
    yield from (window.phase_ns.get(phase, 0) for phase in PHASES)
    yield from (window.tokens.get(kind, 0) for kind in _WINDOW_TOKENS)
