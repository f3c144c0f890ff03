"""Prune: delete rows of closed periods that are older than they need to be, once seals hold what they came to.

Only what can never change again goes, and samples of devices that no open boot needs. Of records, requests and windows
that is what belongs to boots whose books a closing found final; of the journal, what was posted in closed periods. All
sums, closings, statements, boots, fits and versions stay for ever, and so do the starts of boots, and the record that
arrived last: SQLite would give its number to the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from farthing.books.periods import bounds
from farthing.domain.errors import LedgerError
from farthing.ledger import tables as t
from farthing.ledger.append_only import allow, protect
from farthing.ledger.database import snapshot, transaction
from farthing.ledger.partitions import DAY
from farthing.ledger.period_books import PeriodBooks
from farthing.ledger.prune_devices import delete_samples, old_samples
from farthing.ledger.prune_partitions import drop_partitions
from farthing.ledger.sealing import seal_of_boot, seal_of_period
from farthing.ledger.seals import Sealed, seal
from farthing.ledger.verify import verify

__all__ = ["Pruned", "Pruning", "Retention", "prune"]

CHUNK = 5_000
"""Rows that one transaction deletes: others write in between."""
_KEYS = {
    "records": ("process", "sequence"),
    "requests": ("process", "sequence"),
    "windows": ("engine_index", "start_ns"),
}
"""Table -> the columns that, after the boot, tell its rows apart."""

Progress = Callable[[str, int, int], None]
"""Told a table, how many of its rows are deleted, and how many will be."""


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days after a boot's end, or a period's, rows are kept."""

    records_days: int = 30
    requests_days: int = 90
    windows_days: int = 90
    journal_days: int = 400


@dataclass(frozen=True, slots=True)
class Pruned:
    """Rows of a table that belong to a period; samples of devices to none."""

    table: str
    period: str
    rows: int
    bytes: int
    """About how many, without indexes."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """What was pruned, or would be; ``note`` says why when it is nothing."""

    parts: tuple[Pruned, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Part:
    """What is sealed at once: a boot's rows of a table, or the journal of a period."""

    table: str
    period: str
    boot: str = ""


def _silent(_table: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def prune(
    engine: Engine, retention: Retention, *, now_ns: int, dry_run: bool = False, progress: Progress = _silent
) -> Pruning:
    """Delete what is older than ``retention`` at a moment (UTC nanoseconds), or only say what that is.

    Others go on writing. Killed at any moment it leaves books that verify, and the next run does the rest. Raises
    LedgerError when the ledger does not verify: what is wrong must not be sealed.
    """
    sampled_ns = now_ns - DAY * retention.records_days
    with snapshot(engine) as connection:
        parts = _parts(connection, retention, now_ns)
        found = [*_measured(connection, parts), *_samples(connection, sampled_ns)]
        left = _left(connection)
        closed = PeriodBooks(connection).closed()
    if not closed:
        return Pruning((), "no period was ever closed, so nothing is pruned; see farthing period close")
    if not found and not left:
        return Pruning((), "nothing of a closed period is older than retention: says")
    if not dry_run:
        wrong = next((check for check in verify(engine) if not check.ok), None)
        if wrong is not None:
            raise LedgerError(f"nothing is pruned, as the ledger does not verify: {wrong.name}: {wrong.detail}")
        for part in parts:
            _seal(engine, part, now_ns)
        _delete(engine, progress)
        delete_samples(engine, sampled_ns, CHUNK, progress)
    return Pruning(tuple(found))


# ---- what may go -------------------------------------------------------------------------------------


def _parts(connection: Connection, retention: Retention, now_ns: int) -> list[_Part]:
    """What is to be sealed: only what has rows, in the order of periods."""
    books, sealed = PeriodBooks(connection), Sealed(connection)
    periods = books.closed()
    final: dict[str, str] = {}
    for period in periods:
        document = books.closing(period)
        for boot in document.boots if document else ():
            if boot.final:
                final.update(dict.fromkeys(boot.members, period))
    b = t.boots.c
    ended = sa.select(b.boot, b.covered_ns).where(b.closed_ns.is_not(None)).order_by(b.covered_ns, b.boot)
    ends = {row.boot: int(row.covered_ns) for row in connection.execute(ended) if row.boot in final}
    parts = []
    for table in _KEYS:
        before = now_ns - DAY * int(getattr(retention, f"{table}_days"))
        done = sealed.boots.get(table, frozenset())
        old = [boot for boot, end in ends.items() if end <= before and boot not in done]
        parts += [_Part(table, final[boot], boot) for boot in old if _any(connection, table, boot)]
    before = now_ns - DAY * retention.journal_days
    posted = {row[0] for row in connection.execute(sa.select(t.boot_lines.c.period).distinct())}
    # all of what is posted up to a period is sealed together: what lies before the first closing goes with it
    for period in sorted(posted - sealed.journal_periods):
        if periods and period <= periods[-1] and bounds(period)[1] <= before:
            parts.append(_Part(t.journal.name, period))
    return parts


def _any(connection: Connection, table: str, boot: str) -> bool:
    source = t.metadata.tables[table]
    query = sa.select(sa.literal(1)).where(source.c.boot == boot, *_deletable(connection, source)).limit(1)
    return connection.execute(query).first() is not None


def _deletable(connection: Connection, table: sa.Table) -> list[sa.ColumnElement[bool]]:
    """What of a sealed boot's rows goes; which record is the last is told once, so that it stays one number."""
    if table is not t.records:
        return []
    last = connection.execute(sa.select(sa.func.max(t.records.c.id))).scalar() or 0
    return [t.records.c.kind != "started", t.records.c.id < last]


def _measured(connection: Connection, parts: Sequence[_Part]) -> list[Pruned]:
    """Rows and bytes of the parts, by table and period."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for part in parts:
        source = t.metadata.tables[part.table]
        where = [source.c.boot == part.boot, *_deletable(connection, source)]
        if part.table == t.journal.name:
            where = [source.c.period == part.period]
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(_size(connection, source)), 0))
        rows, size = connection.execute(query.select_from(source).where(*where)).one()
        known = sums.get((part.table, part.period), (0, 0))
        sums[part.table, part.period] = (known[0] + int(rows), known[1] + int(size))
    return [Pruned(*key, *amounts) for key, amounts in sums.items()]


def _samples(connection: Connection, before_ns: int) -> list[Pruned]:
    """What of samples of devices goes; they are of no period."""
    size = sa.func.coalesce(sa.func.sum(_size(connection, t.records)), 0)
    query = sa.select(sa.func.count(), size).select_from(t.records).where(*old_samples(connection, before_ns))
    rows, total = connection.execute(query).one()
    return [Pruned(t.records.name, "", int(rows), int(total))] if rows else []


def _size(connection: Connection, table: sa.Table) -> sa.ColumnElement[int]:
    if connection.dialect.name != "sqlite":
        return sa.literal_column(f"pg_column_size({table.name}.*)", sa.BigInteger)
    integers = sum(isinstance(column.type, sa.Integer) for column in table.columns)
    size: sa.ColumnElement[int] = sa.literal(8 * integers)
    for column in table.columns:
        if not isinstance(column.type, sa.Integer):
            size += sa.func.coalesce(sa.func.length(sa.cast(column, sa.LargeBinary)), 0)
    return size


# ---- sealing and deleting ----------------------------------------------------------------------------


def _seal(engine: Engine, part: _Part, now_ns: int) -> None:
    # what may go can never change: it is read without keeping others from writing
    with snapshot(engine) as connection:
        if part.boot:
            new = seal_of_boot(connection, part.table, part.period, part.boot, now_ns)
        else:
            new = seal_of_period(connection, part.period, now_ns)
    with transaction(engine, write=True) as connection:
        seal(connection, new)


def _left(connection: Connection) -> list[tuple[str, str]]:
    """(table, boot) whose rows are sealed and still there; the journal without a boot."""
    s = t.seals.c
    found = []
    for name in _KEYS:
        source = t.metadata.tables[name]
        rows = sa.select(source.c.boot).where(source.c.boot == s.boot, *_deletable(connection, source))
        boots = connection.execute(sa.select(s.boot).where(s.table_name == name, rows.exists()).order_by(s.number))
        found += [(name, boot) for (boot,) in boots]
    through = Sealed(connection).journal_through
    if through and connection.execute(sa.select(t.journal.c.id).where(t.journal.c.period <= through).limit(1)).first():
        found.append((t.journal.name, ""))
    return found


def _delete(engine: Engine, progress: Progress) -> None:
    """Delete everything that is sealed, chunk by chunk."""
    with snapshot(engine) as connection:
        left = _left(connection)
        through = Sealed(connection).journal_through
    total: dict[str, int] = {}
    with snapshot(engine) as connection:
        for name, boot in left:
            total[name] = total.get(name, 0) + _rows(connection, name, boot, through)
    done = dict.fromkeys(total, 0)
    for name, boot in left:
        for deleted in _journal_chunks(engine, through) if name == t.journal.name else _chunks(engine, name, boot):
            done[name] += deleted
            progress(name, done[name], total[name])


def _rows(connection: Connection, name: str, boot: str, through: str) -> int:
    source = t.metadata.tables[name]
    where = [t.journal.c.period <= through] if not boot else [source.c.boot == boot, *_deletable(connection, source)]
    return int(connection.execute(sa.select(sa.func.count()).select_from(source).where(*where)).scalar_one())


def _chunks(engine: Engine, name: str, boot: str) -> Iterator[int]:
    """Delete a boot's rows of a table, and say after each chunk how many."""
    source = t.metadata.tables[name]
    second, third = (source.c[column] for column in _KEYS[name])
    while True:
        with transaction(engine, write=True) as connection:
            wanted = [source.c.boot == boot, *_deletable(connection, source)]
            first = connection.execute(sa.select(sa.func.min(second)).where(*wanted)).scalar()
            if first is None:
                return
            wanted.append(second == first)
            ordered = sa.select(third).where(*wanted).order_by(third)
            last = connection.execute(ordered.limit(1).offset(CHUNK - 1)).scalar()
            if last is not None:
                wanted.append(third <= last)
            deleted = connection.execute(sa.delete(source).where(*wanted)).rowcount
        yield deleted


def _journal_chunks(engine: Engine, through: str) -> Iterator[int]:
    """Delete the sealed part of the journal, and say after each chunk how many rows.

    The refusal of deletions is lifted inside each transaction only, which nobody else sees.
    """
    yield from drop_partitions(engine, through)
    j = t.journal.c
    last = -1
    while True:
        with transaction(engine, write=True) as connection:
            query = sa.select(j.id).where(j.period <= through, j.id > last).order_by(j.id).limit(CHUNK)
            ids = [int(row[0]) for row in connection.execute(query)]
            if not ids:
                return
            allow(connection, t.journal.name)
            where = (j.period <= through, j.id >= ids[0], j.id <= ids[-1])
            deleted = connection.execute(sa.delete(t.journal).where(*where)).rowcount
            protect(connection, t.journal.name)
            last = ids[-1]
        yield deleted
