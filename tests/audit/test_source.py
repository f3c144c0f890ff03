"""What a trail reads of the ledger and of its own index grows with what is there, and holds any amount of money."""

import threading

import sqlalchemy as sa

from farthing.domain.conventions import PHASES
from farthing.ledger import tables as t
from farthing.ledger.partitions import DAY
from farthing.ledger.repository import Ledger
from farthing.service import audit_source
from farthing.service.audit_comparison import _booked
from farthing.service.audit_index import AuditIndex
from farthing.service.audit_source import EVER, AuditSource

NOON = 20_000 * DAY + DAY // 2


def _filled(ledger, count, nano=1):
    """Put requests of one boot into a ledger, the later the smaller their keys; returns their costs by key."""
    named = {column.name: "" for column in t.requests.columns if not column.nullable and column.server_default is None}
    rows = [
        {
            **named,
            "boot": "boot",
            "process": n % 2,
            "sequence": count - n,
            "ended_wall_ns": NOON + n,
            "status": 200,
            **{f"{phase}_nano": nano + n for phase in PHASES},
        }
        for n in range(count)
    ]
    with ledger.engine.begin() as connection:
        connection.execute(sa.insert(t.requests), rows)
    return {(row["process"], row["sequence"]): (nano + n,) * len(PHASES) for n, row in enumerate(rows)}


def _plans(ledger, read):
    """How SQLite answers what is asked while something is read."""
    asked = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        asked.append((statement, parameters))

    sa.event.listen(ledger.engine, "before_cursor_execute", note)
    read()
    sa.event.remove(ledger.engine, "before_cursor_execute", note)
    queries = [one for one in asked if one[0].startswith("SELECT")]
    with ledger.engine.connect() as connection:
        return [
            [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            for statement, parameters in queries
        ]


def test_each_part_of_a_boot_is_read_from_its_place_in_an_index(empty):
    """Else all of the boot would be read for each ten thousand of its requests."""
    _filled(empty, 100)
    source = AuditSource(empty, 1)
    for read in (lambda: list(source.costs("boot", NOON, NOON + DAY)), lambda: list(_booked(empty, "boot", NOON))):
        [[plan]] = _plans(empty, read)
        assert "INDEX" in plan
        assert "(boot=? AND (process,sequence)>(?,?))" in plan
    [plan] = _plans(empty, lambda: list(source.ended(NOON, NOON + DAY)))
    assert "ix_requests_ended_wall_ns (ended_wall_ns>? AND ended_wall_ns<?)" in plan[0]


def test_the_costs_of_a_boot_are_read_once_each_in_whatever_parts(ledger_url, monkeypatch):
    """After one time and until another, in either database."""
    with Ledger.open(ledger_url) as ledger:
        costs = _filled(ledger, 50)
        for at_once in (1, 7, 100):
            monkeypatch.setattr(audit_source, "KEYS_AT_ONCE", at_once)
            read = list(AuditSource(ledger, 1).costs("boot", NOON + 9, NOON + 39))
            assert sum(map(len, read)) == 30
            found = {key: one for some in read for key, one in some.items()}
            assert found == {key: one for key, one in costs.items() if 11 <= one[0] <= 40}


def test_any_amount_is_summed_alike_in_the_ledger_and_in_the_index(ledger_url, tmp_path):
    """A currency of small units has a million of them in what a dollar's trail writes as one; 64 bits are not more."""
    with Ledger.open(ledger_url) as ledger:
        costs = _filled(ledger, 500, nano=10**15)
        contents = [
            {
                "kind": "request",
                "boot": "boot",
                "process": key[0],
                "sequence": key[1],
                "ended": "2024-10-04T12:00:00.000000000Z",
                **{f"{phase}_nano": nano for phase, nano in zip(PHASES, cost, strict=True)},
            }
            for key, cost in costs.items()
        ]
        index = AuditIndex(tmp_path, threading.Event())
        index.take(1, contents)
        sums = AuditSource(ledger, 1).sums("boot", 0, EVER)
        assert sums == index.sums("boot", 0, EVER)
        assert sums[20_000][:2] == (500, sum(cost[0] for cost in costs.values()))
        # from one to another
        one, other = list(costs)[:3:2]
        q = t.requests.c
        with ledger.engine.begin() as connection:
            for key, more in ((one, 5), (other, -5)):
                named = (q.process == key[0], q.sequence == key[1])
                connection.execute(sa.update(t.requests).where(*named).values(decode_nano=q.decode_nano + more))
        moved = AuditSource(ledger, 1).sums("boot", 0, EVER)
        assert moved[20_000][:-1] == sums[20_000][:-1]
        assert moved != sums
        index.close()


def test_the_index_keeps_nothing_to_take_back(tmp_path):
    """Forgetting a boot would hold all of its requests in memory."""
    index = AuditIndex(tmp_path, threading.Event())
    assert index._db.execute("PRAGMA journal_mode").fetchone() == ("off",)
    index.close()
